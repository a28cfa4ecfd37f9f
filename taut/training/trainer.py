"""The compiled training step with everything that it carries from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from taut.data import Dataset
from taut.ir import Array, FeedError, Graph, TrainingError
from taut.passes.gradient.dropout import dropout_ratios
from taut.passes.gradient.names import KEEP, MASK, NEXT, RATE, STATE, STEP
from taut.passes.gradient.statistics import split_statistics

from .feed import Batch, Feeder, rows_of
from .recipe import (
    Learned,
    Recipe,
    count_name,
    evaluation_graph,
    padding_masks,
    step_graph,
    with_arrays,
)

if TYPE_CHECKING:
    from taut.backends.base import Program


@dataclass
class Totals:
    """Sums over batches, out of which the means of an epoch are made."""

    rows: int = 0
    places: int = 0  # labels: more than one a row where a row has several
    loss: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, rows: int, places: int, loss: float, counts: Mapping[str, float]) -> None:
        self.rows += rows
        self.places += places
        self.loss += loss * rows
        self.counts = {k: self.counts.get(k, 0.0) + v for k, v in counts.items()}

    def means(self) -> dict[str, float]:
        """The mean loss over rows, and of each metric over labels."""
        if not self.rows:
            raise FeedError("there are no data: not one batch came")
        shares = {k: v / self.places for k, v in self.counts.items()}
        return {"loss": self.loss / self.rows, **shares}


class _State(NamedTuple):
    """What training carries from step to step, put in place as one: an exception that a signal
    handler raises in a step leaves that of before it or that of after it."""

    steps: int
    arrays: Mapping[str, Array]
    spare: Mapping[str, Array]  # what was carried a step ago: the next is written there


class Trainer:
    """A graph under training, for loops of one's own: `step` and `evaluate` run compiled programs.

        trainer = Trainer(graph, Recipe(optimizer="adam"))
        for images, labels in data.batches(64, seed=0):
            trainer.step((images, labels), learning_rate=1e-3)
        print(trainer.evaluate(test)["accuracy"], trainer.graph)

    One program makes a whole step: forward, loss, gradients, the optimizer's update. It is compiled
    when the first batch comes; a batch of another size only plans its memory anew. `parameters`,
    `statistics` and `state` are copies of the arrays of today; `masks` are bool arrays by
    parameter's name, which hold the weights where they are false (they may be changed between
    steps, for the same names). With one thread count and seed, the same batches give the same bits.
    """

    def __init__(
        self, graph: Graph, recipe: Recipe | None = None, *,
        masks: Mapping[str, Array] | None = None, seed: int = 0, threads: int | None = None,
        target: str = "cpu",
    ) -> None:  # fmt: skip
        """Raises FeedError (nothing to train), NotDifferentiableError or CompileError."""
        self.recipe = recipe if recipe is not None else Recipe()
        self.seed = seed
        self.model = graph.copy()
        split_statistics(self.model)
        learned = Learned.of(self.model, self.recipe.frozen)
        held = {**padding_masks(self.model, learned), **(masks or {})}
        self.masks = {k: _mask(learned, k, m) for k, m in held.items()}
        self.step_graph = step_graph(self.model, self.recipe, learned, tuple(self.masks))
        self.evaluation_graph = evaluation_graph(self.model, self.recipe, learned)
        moved = {**learned.parameters, **learned.statistics}
        carried: dict[str, Array] = {k: np.array(a) for k, a in moved.items()}
        self._names = (tuple(learned.parameters), tuple(learned.statistics))
        for n in self.step_graph.inputs:
            if n.name.startswith(STATE):
                carried[n.name] = np.zeros(n.type.static_shape, n.type.dtype.numpy)
        self._now = _State(0, carried, {})
        self._ratios = dropout_ratios(self.model)
        self._dropped = [n for n in self.step_graph.inputs if n.name.startswith(KEEP)]
        own = {RATE, STEP, *carried, *(f"{MASK}{k}" for k in self.masks),
               *(n.name for n in self._dropped)}  # fmt: skip
        self._feeder = Feeder(self.step_graph, own, self._classes())
        self._target, self._threads = target, threads
        self._programs: dict[int, Program] = {}

    def _classes(self) -> int | None:
        """How many classes the labels may name."""
        if self.recipe.loss != "cross-entropy":
            return None
        outputs = dict(zip(self.model.output_names, self.model.outputs))
        output = outputs[self.recipe.output or self.model.output_names[0]]
        size = output.shape[self.recipe.axis] if output.shape else None
        return size if isinstance(size, int) else None

    # ---- what is carried -------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many have been made."""
        return self._now.steps

    @property
    def parameters(self) -> dict[str, Array]:
        arrays = self._now.arrays
        return {k: arrays[k].copy() for k in self._names[0]}

    @property
    def statistics(self) -> dict[str, Array]:
        """Running means and variances of batch normalizations."""
        arrays = self._now.arrays
        return {k: arrays[k].copy() for k in self._names[1]}

    @property
    def state(self) -> dict[str, Array]:
        """Everything that a step carries to the next, by input name: parameters, statistics and
        the optimizer's state. `load_state` takes it back.
        """
        return {k: a.copy() for k, a in self._now.arrays.items()}

    def load_state(self, arrays: Mapping[str, Array], steps: int | None = None) -> None:
        """Take arrays over, some or all of those in `state`, and the number of steps made so far.

        Raises FeedError for an unknown name, or another type or shape.
        """
        now = self._now
        for name, array in arrays.items():
            old = now.arrays.get(name)
            if old is None:
                raise FeedError(f"nothing that training carries is named {name!a}")
            if array.dtype != old.dtype or array.shape != old.shape:
                raise FeedError(f"wants {old.dtype}{list(old.shape)}, not "
                                f"{array.dtype}{list(array.shape)}", node=name)  # fmt: skip
        moved = {**now.arrays, **{k: np.array(a) for k, a in arrays.items()}}
        self._now = _State(now.steps if steps is None else steps, moved, {})

    @property
    def graph(self) -> Graph:
        """The model with the parameters and statistics of today, ready for inference."""
        return with_arrays(self.model, {**self.parameters, **self.statistics})

    # ---- running ---------------------------------------------------------------------------------

    def step(
        self, batch: Batch, learning_rate: float, *, trusted: bool = False
    ) -> dict[str, float]:
        """Train on one batch: the loss and the metrics before the update.

        A batch is (inputs in order, target), or a dict by name; `trusted` leaves out the look for
        NaN. Raises FeedError for data that do not fit, TrainingError for a loss that is no number,
        or a step within this one; whatever is raised, all is as before the step or as after it.
        """
        totals = Totals()
        self.run(batch, learning_rate, totals, trusted=trusted)
        return totals.means()

    def run(
        self, batch: Batch, learning_rate: float, totals: Totals, *, trusted: bool = False
    ) -> None:
        """`step`, its loss and metrics added to `totals`."""
        feeds = self._feeder(batch, trusted=trusted)
        if not np.isfinite(learning_rate):
            raise FeedError(f"the learning rate is {learning_rate}")
        now = self._now
        # A step within this one (of a signal handler) is not to write where this one does.
        mine = self._now = _State(now.steps, now.arrays, {})
        steps = now.steps + 1
        made = self._call(self.step_graph, {
            **now.arrays, **feeds, **{f"{MASK}{k}": m for k, m in self.masks.items()},
            **self._kept(feeds, steps), RATE: np.array(learning_rate, np.float32),
            STEP: np.array(steps, np.int64),
        }, now.spare)  # fmt: skip
        self._add(made, feeds, totals)
        cut = len(NEXT)
        taken = {k[cut:]: a for k, a in made.items() if k.startswith(NEXT)}
        after = _State(steps, {**now.arrays, **taken}, {k: now.arrays[k] for k in taken})
        if self._now is not mine:
            raise TrainingError("another step was made, or another state loaded, during this one",
                                hint="train in one place at a time")  # fmt: skip
        self._now = after

    def evaluate(self, data: Iterable[Batch] | Dataset, batch_size: int = 256) -> dict[str, float]:
        """The mean loss and metrics of the model at inference. Raises FeedError."""
        totals = Totals()
        trusted = isinstance(data, Dataset)
        for batch in data.batches(batch_size) if isinstance(data, Dataset) else data:
            feeds = self._feeder(batch, trusted=trusted)
            arrays = {**self._now.arrays, **feeds}
            self._add(self._call(self.evaluation_graph, arrays, {}), feeds, totals)
        return totals.means()

    def _call(
        self, graph: Graph, feeds: Mapping[str, Array], spare: Mapping[str, Array]
    ) -> dict[str, Array]:
        program, arrays = self.program(graph), [feeds[n.name] for n in graph.inputs]
        out = [spare.get(k.removeprefix(NEXT)) if k.startswith(NEXT) else None
               for k in graph.output_names]  # fmt: skip
        return dict(zip(graph.output_names, program.run(arrays, out)))

    def program(self, graph: Graph | None = None) -> Program:
        """The compiled program of `step_graph` (by default) or `evaluation_graph`."""
        from taut.backends.base import compile

        graph = graph if graph is not None else self.step_graph
        key = id(graph)
        if key not in self._programs:
            self._programs[key] = compile(graph, self._target, threads=self._threads)
        return self._programs[key]

    def _add(self, made: Mapping[str, Array], feeds: Mapping[str, Array], totals: Totals) -> None:
        loss = float(made[self.recipe.loss_name].reshape(()))
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is {loss}",
                                hint="use a smaller learning rate or clip gradients")  # fmt: skip
        target = feeds.get("target")
        rows = rows_of(feeds)
        places = rows if target is None else max(target.size, 1)
        counts = {k: float(made[count_name(n)]) for k, n in self.recipe.counted().items()}
        outputs = {k: made[k] for k in self.model.output_names if k in made}
        for name, metric in self.recipe.called().items():
            counts[name] = float(metric(outputs, feeds.get("target", np.empty(0)))) * places
        totals.add(rows, places, loss, counts)

    def _kept(self, feeds: Mapping[str, Array], steps: int) -> dict[str, Array]:
        """What each dropout keeps in step `steps`: drawn by seed, step and place."""
        if not self._dropped:
            return {}
        types = {k: n.type for k, n in self._feeder.inputs.items()}
        sizes = {d: s for k, t in types.items() for d, s in zip(t.shape or (), feeds[k].shape)}
        made: dict[str, Array] = {}
        for i, node in enumerate(self._dropped):
            shape = tuple(d if isinstance(d, int) else sizes[d] for d in node.type.shape or ())
            random = np.random.default_rng([self.seed, steps, i])
            made[node.name] = random.random(shape, np.float32) >= self._ratios[node.name]
        return made


def _mask(learned: Learned, name: str, mask: Array) -> Array:
    array = learned.parameters.get(name)
    if array is None:
        raise FeedError(f"a mask is given for {name!a}, which is no parameter under training")
    if mask.dtype != np.bool_ or mask.shape != array.shape:
        raise FeedError(f"the mask is {mask.dtype}{list(mask.shape)}, not bool{list(array.shape)}",
                        node=name)  # fmt: skip
    return np.ascontiguousarray(mask)

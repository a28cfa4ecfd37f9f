"""What a training step computes, and its graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from taut.ir import Array, FeedError, Graph
from taut.ir.ops.quantization import DequantizeLinear
from taut.ir.ops.structure import Constant
from taut.ir.training import padding_rows
from taut.passes import Pass, PassManager, Pipeline
from taut.passes.fuse.auto import FuseAuto
from taut.passes.gradient import trainable
from taut.passes.gradient.clip import ClipGradients
from taut.passes.gradient.correct import CountCorrect
from taut.passes.gradient.dropout import DropoutMasks
from taut.passes.gradient.gradient import Gradient
from taut.passes.gradient.hold import HoldWeights
from taut.passes.gradient.loss import KINDS, Loss
from taut.passes.gradient.names import matches
from taut.passes.gradient.parameters import FROZEN, Parameters
from taut.passes.gradient.statistics import BatchStatistics, statistics
from taut.passes.gradient.update import Update
from taut.passes.simplify.clean import CommonSubexpressions, DeadCode
from taut.passes.simplify.decompose import Decompose
from taut.passes.simplify.fold import Fold

TARGET = "target"
LOSS = "loss"

Metric = str | Callable[[Mapping[str, Array], Array], float]
"""`accuracy`, `top-K`, or a function of (outputs by name, target) to the mean over a batch."""


@dataclass(frozen=True)
class Recipe:
    """What is learned and how.

    loss        cross-entropy, soft-cross-entropy, mean-squared-error (the pass `loss`), joined to
                `output` (the first by default), `axis` that of its classes; or the name of a scalar
                output that the graph has
    smoothing   label smoothing of cross-entropy
    optimizer   one of the passes sgd, adam, adamw, as text with options or as it is
    clip        largest L2 norm of all gradients together; clip_value that of each element; 0: none
    metrics     what else is measured; `accuracy` only where the loss is cross-entropy
    frozen      patterns of names (`*`, `?`): parameters that stay, and normalizations that go on
                with their running statistics
    """

    loss: str = "cross-entropy"
    optimizer: str | Pass = "sgd{momentum=0.9}"
    smoothing: float = 0.0
    clip: float = 0.0
    clip_value: float = 0.0
    metrics: tuple[Metric, ...] = ("accuracy",)
    frozen: tuple[str, ...] = ()
    output: str = ""
    axis: int = 1

    @property
    def update(self) -> Update:
        """The optimizer's pass. Raises ParseError, FeedError for one that is none."""
        found = Pipeline.of(self.optimizer).passes
        if len(found) != 1 or not isinstance(found[0], Update):
            raise FeedError(f"{str(self.optimizer)[:80]!a} is no optimizer",
                            hint="sgd, adam and adamw are")  # fmt: skip
        return found[0]

    @property
    def loss_name(self) -> str:
        """The output that is the loss."""
        return LOSS if self.loss in KINDS else self.loss

    def counted(self) -> dict[str, int]:
        """The metrics that the graph counts: k by name."""
        names = [m for m in self.metrics if isinstance(m, str)]
        found: dict[str, int] = {}
        for name in names:
            top = re.fullmatch(r"top-([1-9][0-9]{0,5})", name)
            if name != "accuracy" and top is None:
                raise FeedError(f"no metric is named {name!a}", hint="there are accuracy and top-K")
            found[name] = 1 if top is None else int(top[1])
        return found if self.loss == "cross-entropy" else {}

    def called(self) -> dict[str, Callable[[Mapping[str, Array], Array], float]]:
        """The metrics that are functions, by their names."""
        return {getattr(m, "__name__", f"metric {i}"): m
                for i, m in enumerate(self.metrics) if not isinstance(m, str)}  # fmt: skip


def count_name(k: int) -> str:
    """The output of count-correct for k."""
    return "correct" if k == 1 else f"correct.{k}"


@dataclass(frozen=True)
class Learned:
    """The arrays that training moves, by name."""

    parameters: dict[str, Array]
    statistics: dict[str, Array]

    @classmethod
    def of(cls, model: Graph, frozen: tuple[str, ...]) -> Learned:
        """Raises FeedError where nothing is left to train, where weights are integers already, or
        a pattern matches nothing."""
        names = [n.name for n in model.nodes()]
        for pattern in frozen:
            if not any(matches(n, (pattern,)) for n in names):
                raise FeedError(f"no node's name matches {pattern!a}, which was to be frozen")
        _refuse_integers(model, frozen)
        found = {k: a for k, a in trainable(model).items() if not matches(k, frozen)}
        if not found:
            raise FeedError("the graph has no parameter to train")
        running = statistics(model, frozen)
        return cls({k: a for k, a in found.items() if k not in running}, running)


def _refuse_integers(model: Graph, frozen: tuple[str, ...]) -> None:
    """A layer whose weights are integers has no gradient: what is left of the model (the scale of
    an output, say) would be trained in their stead."""
    for node in model.of(Constant):
        held = node.name.startswith(FROZEN) or matches(node.name, frozen)
        if held or not node.type.dtype.is_integer or node.type.size < 2:
            continue
        for use in model.uses(node):
            op = use.node.op
            opened = isinstance(op, DequantizeLinear) and use.position == 0
            if opened or (op.weighted is not None and op.weighted.integer):
                raise FeedError(
                    f"its weights {node.name!a} are integers already, which cannot be trained",
                    node=use.node.name, op=op.name,
                    hint="train the float model, quantization-aware if need be, then quantize it; "
                    "or freeze these weights",
                )  # fmt: skip


def step_graph(model: Graph, recipe: Recipe, learned: Learned, held: tuple[str, ...]) -> Graph:
    """One training step: its inputs are the model's, `target`, the parameters and what the
    optimizer and the running statistics carry on; its outputs the loss, counts and `next.NAME`.

    The model's outputs are there too where a metric is a function. Raises FeedError,
    NotDifferentiableError.
    """
    names = tuple(learned.parameters)
    passes: list[Pass] = [
        BatchStatistics(keep=recipe.frozen), DropoutMasks(keep=recipe.frozen),
        Parameters(names=names), *_measured(model, recipe),
        Gradient(loss=recipe.loss_name, wrt=names), HoldWeights(names=held),
        ClipGradients(recipe.clip, recipe.clip_value), recipe.update,
        Decompose(), CommonSubexpressions(),
    ]  # fmt: skip
    return _fused(_without(PassManager(passes).run(model).graph, model, recipe))


def evaluation_graph(model: Graph, recipe: Recipe, learned: Learned) -> Graph:
    """The model as it is at inference, with loss and counts; what training moves is an input."""
    names = (*learned.parameters, *learned.statistics)
    passes = [Parameters(names=names), *_measured(model, recipe), Decompose()]
    return _fused(_without(PassManager(passes).run(model).graph, model, recipe))


def _fused(graph: Graph) -> Graph:
    return PassManager([Fold(), DeadCode(), FuseAuto()]).run(graph).graph


def _measured(model: Graph, recipe: Recipe) -> list[Pass]:
    """The passes that join loss and metrics."""
    if recipe.loss not in KINDS:
        if recipe.loss not in model.output_names:
            raise FeedError(f"the loss is {recipe.loss!a}, which is neither one of "
                            f"{', '.join(KINDS)} nor an output of the graph")  # fmt: skip
        return []
    output = recipe.output or next(iter(model.output_names), "")
    made: list[Pass] = [Loss(kind=recipe.loss, output=output, target=TARGET, result=LOSS,
                             axis=recipe.axis, smoothing=recipe.smoothing)]  # fmt: skip
    return made + [CountCorrect(k=k, output=output, target=TARGET, axis=recipe.axis)
                   for k in dict.fromkeys(recipe.counted().values())]  # fmt: skip


def _without(graph: Graph, model: Graph, recipe: Recipe) -> Graph:
    """The graph without the model's outputs, where no metric reads them."""
    if recipe.called():
        return graph
    gone = set(model.output_names) - {recipe.loss}
    graph.set_outputs({k: v for k, v in zip(graph.output_names, graph.outputs) if k not in gone})
    return PassManager([DeadCode()]).run(graph).graph


def with_arrays(model: Graph, arrays: Mapping[str, Array]) -> Graph:
    """A copy of the model whose constants of these names hold these arrays."""
    twin = model.copy()
    for name, array in arrays.items():
        twin.set_op(twin[name], Constant(array.copy()))
    return twin


def padding_masks(model: Graph, learned: Learned) -> dict[str, Array]:
    """Masks that hold the row that stands for padding of each embedding's table, by name."""
    found: dict[str, Array] = {}
    for name, row in padding_rows(model).items():
        array = learned.parameters.get(name)
        if array is not None and array.ndim and row < len(array):
            found[name] = np.ones(array.shape, np.bool_)
            found[name][row] = False
    return found


def zero_masks(graph: Graph, frozen: tuple[str, ...] = ()) -> dict[str, Array]:
    """Masks that keep weights zero which are so, by name: what pruning left. Vectors (biases start
    as zeros) and frozen parameters have none.
    """
    arrays = Learned.of(graph, frozen).parameters
    return {k: a != 0 for k, a in arrays.items() if a.ndim > 1 and not a.all()}

"""A student trained next to its teacher."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from taut.data import Augment, Dataset
from taut.ir import Array, FeedError, Graph
from taut.passes import Pass
from taut.passes.distill.base import Distill as DistillPass
from taut.passes.distill.joint import TEACHER, pairs_of
from taut.passes.distill.pairs import pinned
from taut.passes.distill.response import DistillLabels, DistillResponse
from taut.training import Data, Recipe, Settings, Trained, train

from .cache import Cache, cache
from .feeds import RecordedBatches
from .joining import Joined, Kind, Teacher, joined, passes_of, resolve, take_out

Metric = Callable[[Mapping[str, Array], Array], float]


def distill(
    student: Graph, teacher: Teacher, data: Data, kind: Kind = "response", *,
    labels: float | None = None, validation: Any = None, recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None, augment: Augment | None = None, seed: int = 0,
    on_join: Callable[[Joined], Any] | None = None, **options: Any,
) -> Trained:  # fmt: skip
    """Train a student to do as its teacher does. Returns what `taut.train` does, its `graph` the
    student alone; student and teacher stay as they are.

    teacher     a Graph, a file's name, or a `Cache` of the same data
    data        as for `taut.train`: a Dataset, or batches (inputs, then labels)
    kind        what is learned: see `taut.distill.join`, with `labels`
    folder      keep there what the teacher gives, so that it runs once rather than in each epoch;
                for a Dataset without augmentation
    on_join     called with the joined graph and its passes' remarks before training
    options     those of `taut.train`, or its `recipe`; `accuracy` and `top-K` are the student's

    Raises what `taut.distill.join` and `taut.train` raise, and FeedError for a recording of other
    data.
    """
    passes = passes_of(kind, labels)
    if isinstance(data, Dataset) and not any(_takes_labels(p) for p in passes):
        passes = (DistillLabels(weight=0.0), *passes)  # measures accuracy, and teaches nothing
    parts: list[Any] = [data, validation]
    recordings: tuple[Cache | None, ...] = ()
    if folder is not None or isinstance(teacher, Cache):
        if augment is not None:
            raise FeedError("a recorded teacher does not know augmented images",
                            hint="leave out augmentation or the recording")  # fmt: skip
        passes, recordings = _recordings(student, teacher, passes, parts, folder, seed, options)
        teacher = recordings[0] or teacher
    made = joined(student, teacher, passes, seed)
    if on_join is not None:
        on_join(made)
    if recordings:
        size = options.get("batch_size", Settings.batch_size)
        parts = [None if r is None else RecordedBatches.of(made.graph, part, r, size, seed)
                 for part, r in zip(parts, recordings)]  # fmt: skip
    recipe = _recipe(made, recipe, options)
    trained = train(made.graph, parts[0], validation=parts[1], recipe=recipe, augment=augment,
                    seed=seed, **options)  # fmt: skip
    return replace(trained, graph=take_out(trained.graph))


def _recipe(made: Joined, recipe: Recipe | None, options: dict[str, Any]) -> Recipe:
    """The recipe (or options, which are taken out) with the joined loss, a frozen teacher and
    metrics of the student.
    """
    if recipe is None:
        fields = [k for k in Recipe.__dataclass_fields__ if k in options]
        recipe = Recipe(**{k: options.pop(k) for k in fields})
    if recipe.loss != Recipe.loss or recipe.smoothing:
        raise FeedError("distillation takes no loss and no smoothing",
                        hint="kind and labels make the loss")  # fmt: skip
    names = [n.name for n in made.graph.nodes()]
    teacher = (f"{TEACHER}*",) if any(n.startswith(TEACHER) for n in names) else ()
    return replace(
        recipe, loss=made.passes[-1].result, frozen=(*recipe.frozen, *teacher),
        metrics=tuple(_metric(made, m) for m in recipe.metrics)
                if "target" in made.graph.signature.inputs else (),
    )  # fmt: skip


def _takes_labels(p: Pass) -> bool:
    return isinstance(p, DistillLabels) or (isinstance(p, DistillResponse) and p.alpha > 0)


def _metric(made: Joined, metric: str | Metric) -> Metric:
    """Accuracy or top-K of the output that learns from labels; a function stays."""
    if not isinstance(metric, str):
        return metric
    found = re.fullmatch(r"accuracy|top-([1-9][0-9]{0,5})", metric)
    if found is None:
        raise FeedError(f"no metric is named {metric!a}", hint="there are accuracy and top-K")
    p = next(p for p in made.passes if isinstance(p, DistillLabels | DistillResponse))
    output, axis, k = p.output or made.graph.output_names[0], p.axis, int(found[1] or 1)

    def measure(outputs: Mapping[str, Array], target: Array) -> float:
        scores = outputs[output]
        right = np.take_along_axis(scores, np.expand_dims(target, axis), axis)
        return float((np.sum(scores > right, axis) < k).mean())

    measure.__name__ = metric
    return measure


def _recordings(
    student: Graph, teacher: Teacher, passes: tuple[DistillPass, ...], parts: Sequence[Any],
    folder: str | os.PathLike[str] | None, seed: int, options: Mapping[str, Any],
) -> tuple[tuple[DistillPass, ...], tuple[Cache | None, ...]]:  # fmt: skip
    """Passes that name the layers they compare, and the teacher's recording of data and validation
    data, made where it is not in the folder.
    """
    if not all(p is None or isinstance(p, Dataset) for p in parts):
        raise FeedError("a recorded teacher needs the data as a Dataset")
    if isinstance(teacher, Cache):
        if parts[1] is not None:
            raise FeedError("validation needs the teacher's recording of these data too",
                            hint="give the teacher itself and folder=")  # fmt: skip
        return passes, (teacher, None)
    assert folder is not None
    graph = resolve(teacher)
    trial = joined(student, graph, passes, seed)
    layers = [name for _, _, name in pairs_of(trial.graph)]
    threads = options.get("threads")
    made = (p and cache(graph, p, folder, layers, threads=threads) for p in parts)
    return tuple(pinned(trial.graph, passes)), tuple(made)

"""Batches as inputs of a step: named, and checked before they can do harm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from taut.ir import Array, FeedError, Graph
from taut.ir.interpret import check_feed, check_sizes

from .recipe import TARGET

Batch = Any
"""Arrays in the order of the inputs, the target last; or a mapping by name; or the one array."""


class Feeder:
    """Turns batches into arrays by name for the inputs of a graph that `own` does not name.

    Labels are held against `classes` (None: not). Arrays are passed on as they are where they fit.
    """

    def __init__(self, graph: Graph, own: Iterable[str], classes: int | None) -> None:
        skipped = set(own)
        self.inputs = {n.name: n for n in graph.inputs if n.name not in skipped}
        self.graph, self.classes = graph, classes

    def __call__(self, batch: Batch, *, trusted: bool = False) -> dict[str, Array]:
        """The feeds of one batch; `trusted` data are known to be finite.

        Raises FeedError that names the input: a missing or an extra one, a wrong type or shape, NaN
        or an infinity, a label that is no class, no rows.
        """
        given = self._named(batch)
        symbols: dict[str, int] = {}
        feeds = {k: check_feed(n, given[k], symbols) for k, n in self.inputs.items()}
        check_sizes(self.graph, symbols)
        for name, array in feeds.items():
            if array.ndim and not array.size:
                raise FeedError("a batch is empty", node=name)
            if not trusted and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FeedError("holds NaN or an infinity", node=name)
        if self.classes is not None and TARGET in feeds:
            check_labels(feeds[TARGET], self.classes)
        return feeds

    def _named(self, batch: Batch) -> Mapping[str, Any]:
        names = list(self.inputs)
        if isinstance(batch, Mapping):
            given = dict(batch)
        else:
            items = batch if isinstance(batch, tuple | list) else (batch,)
            if len(items) != len(names):
                raise FeedError(f"a batch has {len(items)} arrays, where {names} are wanted",
                                hint="give (*inputs, target) or a dict by name")  # fmt: skip
            given = dict(zip(names, items))
        if given.keys() != self.inputs.keys():
            raise FeedError(f"a batch has the arrays {sorted(map(str, given))[:20]}, where "
                            f"{sorted(names)} are wanted")  # fmt: skip
        return given


def check_labels(labels: Array, classes: int) -> None:
    """Raise FeedError that names the first label that is no class."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        flat = labels.reshape(-1)
        at = int(((flat < 0) | (flat >= classes)).argmax())
        raise FeedError(f"label {at} of the batch is {flat[at]}, not from 0 to below {classes}",
                        node=TARGET)  # fmt: skip


def rows_of(feeds: Mapping[str, Array]) -> int:
    """How many rows a batch has: the first axis of its first array that has one."""
    return next((len(a) for a in feeds.values() if a.ndim), 1)

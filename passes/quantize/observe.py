"""Calibration: run the graph on sample inputs and keep bounded statistics of chosen values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...ir import FeedError, Graph, Node, Value, interpret
from ...ir.op import Array
from ..context import Context
from .estimate import Seen

Watch = Callable[[Value, Array], Array | None]
Runner = Callable[[Graph, Mapping[str, Array], Watch], Any]


class Moments:
    """Mean, variance and extremes along one axis, streaming (Chan, Golub & LeVeque 1979)."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self.mean: Array = np.zeros(0)
        self.square: Array = np.zeros(0)  # sum of squared distances from the mean
        self.low: Array = np.full(1, np.inf)
        self.high: Array = np.full(1, -np.inf)

    def add(self, x: Array) -> None:
        axis = self.axis % x.ndim
        over = tuple(i for i in range(x.ndim) if i != axis)
        count = x.size // max(x.shape[axis], 1)
        if not count:
            return
        self.low = np.minimum(self.low, x.min(over))
        self.high = np.maximum(self.high, x.max(over))
        mean = x.mean(over, dtype=np.float64)
        square = np.square(x, dtype=np.float64).sum(over) - count * mean * mean
        if not self.count:
            self.count, self.mean, self.square = count, mean, np.maximum(square, 0)
            return
        total = self.count + count
        gap = mean - self.mean
        self.square = self.square + np.maximum(square, 0) + gap * gap * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total

    @property
    def variance(self) -> Array:
        return self.square / max(self.count, 1)


class Observer:
    """Collects `Seen` for values and `Moments` for inputs of products."""

    def __init__(self, ranges: Iterable[Value], moments: Mapping[Value, int]) -> None:
        self.seen = {v: Seen() for v in ranges}
        self.moments = {v: Moments(axis) for v, axis in moments.items()}
        self.batches = 0

    def watch(self, value: Value, array: Array) -> None:
        """Take in one result. Raises FeedError where it is not finite."""
        seen = self.seen.get(value)
        if seen is None:
            return
        if array.size and not np.isfinite(array.sum(dtype=np.float64)):
            kind = "NaN" if np.isnan(array).any() else "an infinity"
            raise FeedError(
                f"value {value.node.name!r} holds {kind} on calibration input {self.batches}",
                node=value.node.name, op=value.node.op.name,
                hint="look for bad sample inputs, or leave the node out with skip=",
            )  # fmt: skip
        seen.add(array)
        moments = self.moments.get(value)
        if moments is not None:
            moments.add(array)

    def run(self, graph: Graph, context: Context, limit: int) -> int:
        """Go through up to `limit` batches of the context's samples. Returns how many there were.

        Raises FeedError for bad or missing samples.
        """
        runner = getattr(context, "runner", None)
        for feeds in context.feeds(graph, limit):
            if runner is not None:
                runner(graph, feeds, self.watch)
            else:
                interpret(graph, feeds, limits=context.limits, watch=self.watch)
            self.batches += 1
            context.report(self.batches, None, "calibrate")
        return self.batches


def moment_axis(node: Node) -> int:
    """The axis of a product's input over which weights differ."""
    return 1 if node.op.name in ("conv", "fused_conv") else -1

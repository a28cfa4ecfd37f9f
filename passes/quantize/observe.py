"""Calibration: run the graph on sample inputs and keep bounded statistics of chosen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ...ir import FeedError, Graph, Node, Value, interpret
from ...ir.op import Array
from ...ir.ops.structure import Input
from ..base import Outcome
from ..context import Context
from .estimate import Seen


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
        self.unfit: dict[Value, str] = {}
        self.batches = 0

    def watch(self, value: Value, array: Array) -> None:
        """Take in one result. An input that is not finite raises FeedError; another value that
        is not is noted in `unfit`, with what it holds.
        """
        seen = self.seen.get(value)
        if seen is None or value in self.unfit:
            return
        if not array.size and isinstance(value.node.op, Input):
            raise FeedError(f"calibration input {self.batches} has no elements",
                            node=value.node.name, hint="leave out batches of nothing")  # fmt: skip
        with np.errstate(invalid="ignore"):
            finite = not array.size or bool(np.isfinite(array.sum(dtype=np.float64)))
        if not finite:
            kind = "NaN" if np.isnan(array).any() else "an infinity"
            if isinstance(value.node.op, Input):
                raise FeedError(f"calibration input {self.batches} holds {kind}",
                                node=value.node.name, hint="mend the sample inputs")  # fmt: skip
            self.unfit[value] = kind
            return
        seen.add(array)
        moments = self.moments.get(value)
        if moments is not None:
            moments.add(array)

    def run(self, graph: Graph, context: Context, limit: int, outcome: Outcome) -> int:
        """Go through up to `limit` batches of the context's samples. Returns how many there were.

        An input that is the same number throughout is remarked on. Raises FeedError for bad or
        missing samples.
        """
        for feeds in context.feeds(graph, limit):
            if context.runner is not None:
                context.runner(graph, feeds, self.watch)
            else:
                interpret(graph, feeds, limits=context.limits, watch=self.watch)
            self.batches += 1
            context.report(self.batches, None, "calibrate")
        for node in graph.inputs:
            seen = self.seen.get(Value(node))
            if seen is not None and seen.batches and seen.extremes[0] == seen.extremes[1]:
                number = f"{seen.extremes[0]:g}"
                outcome.missed(node, f"its samples hold {number} everywhere, which says "
                                     "nothing of the ranges behind it: give real ones")  # fmt: skip
        return self.batches


def moment_axis(node: Node) -> int:
    """The axis of a product's input over which weights differ."""
    assert node.op.weighted is not None
    return node.op.weighted.channels

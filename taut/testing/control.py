"""Strategies for graphs with branches and loops, nested too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from taut.ir import Builder, DType, Graph, TensorType, Value

from .values import arrays

COLUMNS = 3
"""Every drawn value is f32[?, COLUMNS]; its number of rows may depend on data."""


class Flow:
    """Draws one graph, its own or a body, as a chain of values."""

    def __init__(self, draw: st.DrawFn, awkward: Iterable[str], depth: int) -> None:
        self.draw, self.awkward, self.depth = draw, tuple(awkward), depth
        self.b: Any = Builder()

    def number(self) -> Any:
        return self.draw(arrays(TensorType(DType.f32, (COLUMNS,)), self.awkward))

    def plain(self, x: Value) -> Value:
        """One op that keeps the columns."""
        b = self.b
        kind = self.draw(st.sampled_from(["relu", "add", "mul", "tanh", "grow", "mean", "gemm"]))
        if kind in ("relu", "tanh"):
            return getattr(b, kind)(x)
        if kind in ("add", "mul"):
            return getattr(b, kind)(x, self.number())
        if kind == "grow":
            return b.concat(x, b.constant(self.number().reshape(1, COLUMNS)), axis=0)
        if kind == "mean":
            return b.reduce_mean(x, np.array([0]), keepdims=True)
        weight = np.eye(COLUMNS, dtype=np.float32)[::-1] * np.float32(0.5)
        return b.mat_mul(x, np.ascontiguousarray(weight))

    def truth(self, x: Value) -> Value:
        """A condition that depends on data."""
        total = self.b.reduce_sum(self.b.clip(x, np.float32(-1), np.float32(1)), keepdims=False)
        bound = np.float32(self.draw(st.sampled_from([0.0, 1.5, -1.5])))
        return self.b.less(total, bound)

    def inside(self) -> Flow:
        return Flow(self.draw, self.awkward, self.depth - 1)

    def chain(self, x: Value, seen: Value | None = None) -> Value:
        """Up to three steps; `seen` is another value they may use."""
        kinds = ["plain", "plain", *(["branch", "loop", "scan"] if self.depth else [])]
        for kind in self.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)):
            x = getattr(self, kind)(x)
            if seen is not None and self.draw(st.booleans()):
                x = self.b.add(x, self.b.reduce_mean(seen, np.array([0]), keepdims=True))
        return x

    def branch(self, x: Value) -> Value:
        known = self.draw(st.sampled_from([None, None, True, False]))
        cond = self.truth(x) if known is None else self.b.constant(np.array(known))
        bodies: list[Graph] = []
        for _ in range(2):
            inner = self.inside()
            y = inner.b.input("y", "f32", (None, COLUMNS))
            w = inner.b.input("w", "f32", (COLUMNS,))
            made = inner.chain(inner.b.mul(y, w) if self.draw(st.booleans()) else y)
            bodies.append(inner.b.outputs(out=made))
        node = getattr(self.b, "if")
        return node(cond, x, self.number(), then_branch=bodies[0], else_branch=bodies[1])

    def loop(self, x: Value) -> Value:
        inner = self.inside()
        i, cond = inner.b.input("i", "i64"), inner.b.input("cond", "bool")
        v = inner.b.input("v", "f32", (None, COLUMNS))
        first = inner.b.input("first", "f32", (None, COLUMNS))
        made = inner.chain(v, first)
        stops = self.draw(st.booleans())
        goes_on = inner.truth(made) if stops else inner.b.identity(cond)
        step = inner.b.add(inner.b.reduce_max(made, np.array([0]), keepdims=False),
                           inner.b.cast(i, to=DType.f32))  # fmt: skip
        body = inner.b.outputs(cond=goes_on, v=made, step=step)
        trip = np.array(self.draw(st.integers(0, 3)))
        given = self.b.constant(np.array(True)) if stops or self.draw(st.booleans()) else None
        last, steps = self.b.loop(trip, given, x, x, carried=1, body=body)
        return last if self.draw(st.booleans()) else self.b.concat(last, steps, axis=0)

    def scan(self, x: Value) -> Value:
        inner = self.inside()
        h, row = (inner.b.input(k, "f32", (COLUMNS,)) for k in ("h", "row"))
        made = inner.b.tanh(inner.b.add(inner.b.mul(h, self.number()), row))
        body = inner.b.outputs(h=made, y=made)
        way = self.draw(st.integers(0, 1))
        _, rows = self.b.scan(self.number(), x, states=1, num_scan_inputs=1, body=body,
                              scan_input_directions=(way,))  # fmt: skip
        return rows


@st.composite
def controls(draw: st.DrawFn, awkward: Iterable[str] = (), depth: int = 2) -> Graph:
    """Branches, loops and scans nested up to `depth`: with captures, values that grow, conditions
    that depend on data and sizes that follow from these.
    """
    flow = Flow(draw, awkward, depth)
    x = flow.b.input("x", "f32", (draw(st.sampled_from([2, "n"])), COLUMNS))
    return flow.b.outputs(y=flow.chain(x))

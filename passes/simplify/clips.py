"""Clip, Relu, Min and Max with constant bounds are one function: clamp(x; low, high)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import Node, Value
from ...ir.ops.activation import Clip, Relu
from ...ir.ops.elementwise import Max
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Match, RewriteBuilder
from .algebra import Algebra, result_is

Bounds = tuple[float, float]


def bounds(m: Match, node: Node) -> Bounds | None:
    """(low, high) of a clamp with constant, ordered bounds; None where one is not known."""
    operands = m.graph.operands(node)
    if isinstance(node.op, Relu):
        return 0.0, math.inf
    if isinstance(node.op, Clip):
        low = _bound(operands, 1, -math.inf)
        high = _bound(operands, 2, math.inf)
        if low is None or high is None:
            return None
        return min(low, high), high  # where low > high the result is high
    if len(operands) != 2:
        return None
    numbers = [m.number(c) for c in operands if c is not None and c.array is not None]
    number = numbers[0] if len(numbers) == 1 else None
    if number is None or math.isnan(number):
        return None
    return (number, math.inf) if isinstance(node.op, Max) else (-math.inf, number)


def _bound(operands: list[Value | None], i: int, default: float) -> float | None:
    v = operands[i] if i < len(operands) else None
    if v is None:
        return default
    if v.array is None or v.array.size != 1:
        return None
    number = float(v.array.reshape(-1)[0])
    return None if math.isnan(number) else number


def clamp(b: RewriteBuilder, x: Value, limits: Bounds) -> Value:
    """The shortest op for it: x itself, relu or clip."""
    low, high = limits
    dtype = x.type.dtype
    if dtype.is_integer:
        if low <= dtype.bounds[0]:
            low = -math.inf
        if high >= dtype.bounds[1]:
            high = math.inf
    if low == -math.inf and high == math.inf:
        return x
    if low == 0 and high == math.inf:
        return b.relu(x)

    def make(v: float, absent: float) -> Any:
        return None if v == absent else np.array(v, dtype.numpy)

    return b.clip(x, make(low, -math.inf), make(high, math.inf))


class ClampChain(Algebra):
    """clamp(clamp(x; a, b); c, d) -> clamp(x; clamp(a; c, d), clamp(b; c, d)), also where the
    intervals do not meet
    """

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        inner = p.any_of(p.op("relu")(x, into="inner"), p.op("clip", "max", "min")(
            x, p.const(), into="inner"), p.clip(x, p.optional(p.const()), p.optional(p.const()),
                                                into="inner"))  # fmt: skip
        return p.any_of(
            p.relu(inner),
            p.op("max", "min")(inner, p.scalar()),
            p.clip(inner, p.optional(p.const()), p.optional(p.const())),
        )

    def applies(self, m: Match) -> bool:
        outer, inner = bounds(m, m.root), bounds(m, m.inner)
        return outer is not None and inner is not None and _representable(m, outer, inner) \
            and m.x.type == m.root.type and result_is(m, m.inner[0])  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        outer, inner = bounds(m, m.root), bounds(m, m.inner)
        assert outer is not None and inner is not None
        low, high = outer
        joined = min(max(inner[0], low), high), min(max(inner[1], low), high)
        if joined == inner:
            return m.inner[0]
        return clamp(b, m.x, joined)


def _representable(m: Match, *limits: Bounds) -> bool:
    """Whether doubles hold the bounds: of 64-bit integers only small ones."""
    return all(math.isinf(v) or abs(v) < 1 << 53 for pair in limits for v in pair)


class ToClamp(Algebra):
    """max(x, c), min(x, c) -> clip;  clip(x, 0) -> relu(x);  a bound that is infinite, or the
    integer type's own, is dropped
    """

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.any_of(
            p.op("max", "min")(x, p.scalar(c)),
            p.clip(x, p.optional(p.const()), p.optional(p.const())),
        )

    def applies(self, m: Match) -> bool:
        limits = bounds(m, m.root)
        if limits is None or not _representable(m, limits):
            return False
        if not isinstance(m.root.op, Clip):
            return m.x.array is None and result_is(m, m.x)
        return self.shorter(m, limits)

    def shorter(self, m: Match, limits: Bounds) -> bool:
        low, high = limits
        given = [v is not None for v in [*m.graph.operands(m.root), None, None][1:3]]
        dtype = m.root.type.dtype
        drop_low = low == -math.inf or (dtype.is_integer and low <= dtype.bounds[0])
        drop_high = high == math.inf or (dtype.is_integer and high >= dtype.bounds[1])
        return given != [not drop_low, not drop_high] or (low == 0 and drop_high)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        limits = bounds(m, m.root)
        assert limits is not None
        return clamp(b, m.x, limits)


RULES: tuple[type[Algebra], ...] = (ClampChain, ToClamp)

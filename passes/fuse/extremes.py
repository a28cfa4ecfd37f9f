"""Maxima before the functions of what they are the maxima of.

    max(f(x)) -> f(max(x))                    f rising: relu, x + c, ...
    max(f(x)) -> max(f(max(x)), f(min(x)))    f falling, then rising: gelu, swish, abs, ...

Over a set, a function that falls and then rises is largest at one of the set's ends. So it is
computed for one element (or two) of a reduction instead of for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Graph, Op, Value, ops_where
from ...ir.ops.pooling import GlobalMaxPool
from ...ir.traits import Direction
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Match, Rewrite, RewriteBuilder, apply_rewrites


def functions(direction: Direction) -> list[type[Op]]:
    """The functions of one element that may go in this direction."""
    found = ops_where(_is_monotone)
    return [c for c in found if c.monotone is not None and c.monotone.direction is direction]


def _is_monotone(cls: type[Op]) -> bool:
    return len(cls.operands) == 1 and cls.monotone is not None


def goes(op: Op, direction: Direction) -> bool:
    """Whether it does, with its attributes, over all numbers."""
    return op.monotone is not None and op.monotone.holds(op, direction)


def extreme(p: PatternBuilder, x: Any, axes: Any) -> Pattern:
    """A maximum or minimum of x."""
    return p.any_of(p.op("reduce_max", "reduce_min")(x, p.optional(axes)), p.global_max_pool(x))


def again(b: RewriteBuilder, m: Match, x: Value) -> Value:
    """The root's reduction, of another value of the same shape."""
    return b.node(m.op, x, *m.graph.operands(m.root)[1:])


def reduced_axes(m: Match) -> list[int] | None:
    """What is reduced, all axes where they are computed; None where the rank is not known."""
    if m.x.shape is None:
        return None
    rank = m.f.type.rank
    if isinstance(m.op, GlobalMaxPool):
        return list(range(2, rank))
    axes = None if m.axes is None else m.axes.array
    if axes is not None and axes.size:
        return [int(a) % rank for a in axes]
    return [] if m.op.noop_with_empty_axes and m.axes is None else list(range(rank))


def has_some(m: Match) -> bool:
    """Whether there certainly is something to reduce: the maximum of nothing is infinite, not a
    function of it."""
    axes, shape = reduced_axes(m), m.f.type.shape
    if axes is None or shape is None:
        return False
    return all(isinstance(shape[a], int) and shape[a] > 0 for a in axes)


class ExtremeOfRising(Rewrite):
    """max(f(x)) -> f(max(x)); min(f(x)) -> f(min(x))"""

    def pattern(self, p: PatternBuilder, x: Any, axes: Any) -> Pattern:
        return extreme(p, p.op(*functions(Direction.INCREASING))(x, into="f"), axes)

    def applies(self, m: Match) -> bool:
        return goes(m.f.op, Direction.INCREASING) and has_some(m)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.f.op, again(b, m, m.x))


class ExtremeOfSum(Rewrite):
    """max(x + c) -> max(x) + c where the constant c is the same for all that is reduced; floats
    only, as the sum of integers may wrap
    """

    def pattern(self, p: PatternBuilder, x: Any, c: Any, axes: Any) -> Pattern:
        return extreme(p, p.op("add", "sub")(x, p.const(c), into="f"), axes)

    def applies(self, m: Match) -> bool:
        shape, c = m.x.shape, m.c.array.shape
        if not shape or shape != m.f.type.shape or not has_some(m):
            return False
        over = _kept_axes(m)
        if over is None or not m.x.type.dtype.is_float:
            return False
        lead = len(shape) - len(c)
        return all(axis < lead or c[axis - lead] == 1 for axis in over)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.f.op, again(b, m, m.x), m.c)


def _kept_axes(m: Match) -> list[int] | None:
    """What is reduced, if it is known and the axes stay."""
    if not isinstance(m.op, GlobalMaxPool) and (
        not m.op.keepdims or m.axes is None or m.axes.array is None or not m.axes.array.size
    ):
        return None
    return reduced_axes(m)


class MaxOfTurning(Rewrite):
    """max(f(x)) -> max(f(max(x)), f(min(x)))"""

    def pattern(self, p: PatternBuilder, x: Any, axes: Any) -> Pattern:
        f = p.op(*functions(Direction.TURNING))(x, uses=1, into="f")
        return p.any_of(p.reduce_max(f, p.optional(axes)), p.global_max_pool(f))

    def applies(self, m: Match) -> bool:
        return goes(m.f.op, Direction.TURNING) and m.x.type.dtype.is_float and has_some(m)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        high = b.node(m.f.op, again(b, m, m.x))
        return b.max(high, b.node(m.f.op, self._least(b, m)))

    def _least(self, b: RewriteBuilder, m: Match) -> Value:
        if isinstance(m.op, GlobalMaxPool):
            return b.reduce_min(m.x, np.arange(2, len(m.x.shape)))
        rest = m.graph.operands(m.root)[1:]
        keep = {k: getattr(m.op, k) for k in ("keepdims", "noop_with_empty_axes")}
        return b.reduce_min(m.x, *rest, **keep)


@register_pass
@dataclass(frozen=True)
class ExtremesFirst(Pass):
    """Reduce to maxima and minima before element-wise functions that rise; to maxima before those
    that fall and then rise, where nothing else reads them. Legal where the sizes of what is reduced
    are known and not 0: the maximum of nothing is infinite. Equal in real numbers; computed
    functions rise to within their rounding.
    """

    name = "extremes-first"
    absent = "no maximum or minimum follows a function that rises"
    bound = Within(rtol=1e-6, atol=1e-7)

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules = [ExtremeOfRising(), ExtremeOfSum(), MaxOfTurning()]
        return apply_rewrites(graph, rules, context, who=self.name)

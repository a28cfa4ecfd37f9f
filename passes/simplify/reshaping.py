"""Transposes and reshapes that cancel, merge or do nothing; the family of reshapes as one op."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import Op, Value
from ...ir.ops.shape import Reshape, Tile, Transpose
from ...ir.types import Shape
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Match, Rewrite, RewriteBuilder
from .unary import unary


def shape_operand(x: Shape | None, out: Shape | None) -> tuple[int, ...] | None:
    """A constant shape operand (0 copies x's dimension, one -1 is the rest) that turns x's shape
    into `out`; None where `out` cannot be said so.
    """
    if out is None or 0 in out:
        return None
    wanted: list[int] = []
    for i, d in enumerate(out):
        if isinstance(d, int):
            wanted.append(d)
        elif d is not None and x is not None and i < len(x) and x[i] == d:
            wanted.append(0)
        else:
            wanted.append(-1)
    return tuple(wanted) if wanted.count(-1) <= 1 else None


def same_shape(a: Shape | None, b: Shape | None) -> bool:
    """Whether two shapes with equally many elements certainly are the same: they may differ in
    what is not known of one dimension only.
    """
    if a is None or b is None or len(a) != len(b):
        return False
    vague = [(d, e) for d, e in zip(a, b) if d is None or d != e]
    if any(isinstance(d, int) and isinstance(e, int) for d, e in vague):
        return False
    return not vague or (len(vague) == 1 and 0 not in a)


def tells_more(x: Shape | None, out: Shape | None) -> bool:
    """Whether a size that x does not know is known of `out`."""
    return any(d is None and e is not None for d, e in zip(x or (), out or ()))


def reshape(b: RewriteBuilder, x: Value, want: tuple[int, ...], like: Value) -> Value | None:
    """x in the shape `want`, unless less were known of the result than of `like`."""
    made = b.node(Reshape(), x, b.constant(np.array(want, np.int64)))
    return made if made.type == like.type else None


class ToReshape(Rewrite):
    """squeeze(x), unsqueeze(x), flatten(x), reshape(x, computed shape) -> reshape(x, constant)"""

    def pattern(self, p: PatternBuilder, x: Any, a: Any) -> Pattern:
        return p.any_of(
            p.op("squeeze", "unsqueeze", "reshape")(x, p.optional(a)), p.flatten(x)
        )  # fmt: skip

    def applies(self, m: Match) -> bool:
        op = m.root.op
        constant = isinstance(op, Reshape) and m.a.array is not None
        return not constant and shape_operand(m.x.shape, m.root.type.shape) is not None

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        want = shape_operand(m.x.shape, m.root.type.shape)
        assert want is not None
        return reshape(b, m.x, want, m.root[0])


class ReshapeTwice(Rewrite):
    """reshape(reshape(x)) -> reshape(x)"""

    def pattern(self, p: PatternBuilder, x: Any, inner: Any, outer: Any) -> Pattern:
        return p.reshape(p.reshape(x, inner), p.const(outer))

    def wanted(self, m: Match) -> tuple[int, ...] | None:
        want = shape_operand(m.x.shape, m.root.type.shape)
        given = tuple(int(d) for d in m.outer.array.reshape(-1))
        return want if want is not None else given if 0 not in given else None

    def applies(self, m: Match) -> bool:
        return self.wanted(m) is not None

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        want = self.wanted(m)
        assert want is not None
        return reshape(b, m.x, want, m.root[0])


class NoReshape(Rewrite):
    """reshape(x) -> x;  expand(x) -> x, where the shape stays (and no more is known of it)"""

    def pattern(self, p: PatternBuilder, x: Any, s: Any) -> Pattern:
        return p.any_of(p.reshape(x, s), p.expand(x, s))

    def applies(self, m: Match) -> bool:
        out = m.root.type.shape
        if not isinstance(m.root.op, Reshape):
            return m.x.type == m.root.type and out is not None and None not in out
        return same_shape(m.x.shape, out) and not tells_more(m.x.shape, out)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class ReshapeUnary(Rewrite):
    """reshape(f(reshape(x))) -> f(x), f of one element, where the shape comes back"""

    def pattern(self, p: PatternBuilder, x: Any, s: Any, t: Any) -> Pattern:
        return p.reshape(p.op(*unary())(p.reshape(x, s), uses=1, into="f"), t)

    def applies(self, m: Match) -> bool:
        x, out = m.x.shape, m.root.type.shape
        return same_shape(x, out) and not tells_more(x, out)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        made = b.node(m.f.op, m.x)
        return made if m.root.type.accepts(made.type) else None


# ---- transposes --------------------------------------------------------------------------------


def perm_of(op: Op, shape: Shape | None) -> tuple[int, ...] | None:
    assert isinstance(op, Transpose)
    if op.perm:
        return op.perm
    return None if shape is None else op.order(len(shape))


def compose(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
    """The one transpose that is transpose(transpose(x, p), q)."""
    return tuple(p[i] for i in q)


def inverse(p: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(p.index(i) for i in range(len(p)))


class NoTranspose(Rewrite):
    """transpose(x, identity) -> x"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.transpose(x)

    def applies(self, m: Match) -> bool:
        perm = perm_of(m.root.op, m.x.shape)
        return perm is not None and list(perm) == sorted(perm)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class TransposeTwice(Rewrite):
    """transpose(transpose(x, p), q) -> transpose(x, p after q), or x where they cancel"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.transpose(p.transpose(x, into="inner"))

    def applies(self, m: Match) -> bool:
        return perm_of(m.inner.op, m.x.shape) is not None \
            and perm_of(m.root.op, m.inner.type.shape) is not None  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        first = perm_of(m.inner.op, m.x.shape)
        second = perm_of(m.root.op, m.inner.type.shape)
        assert first is not None and second is not None
        joined = compose(first, second)
        return m.x if list(joined) == sorted(joined) else b.transpose(m.x, perm=joined)


class TransposeToReshape(Rewrite):
    """transpose(x) -> reshape(x), where it only moves axes of size 1"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.transpose(x)

    def applies(self, m: Match) -> bool:
        perm = perm_of(m.root.op, m.x.shape)
        if perm is None or m.x.shape is None or list(perm) == sorted(perm):
            return False
        real = [a for a in perm if m.x.shape[a] != 1]
        return real == sorted(real) and shape_operand(m.x.shape, m.root.type.shape) is not None

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        want = shape_operand(m.x.shape, m.root.type.shape)
        assert want is not None
        return reshape(b, m.x, want, m.root[0])


# ---- other data movement -----------------------------------------------------------------------


class NoTile(Rewrite):
    """tile(x, ones) -> x;  pad(x, zeros) -> x"""

    def pattern(self, p: PatternBuilder, x: Any, n: Any, v: Any, a: Any) -> Pattern:
        pad = p.pad(x, p.scalar(n), p.optional(v), p.optional(a))
        return p.any_of(p.tile(x, p.scalar(n)), pad)

    def applies(self, m: Match) -> bool:
        return m.number(m.n) == (1 if isinstance(m.root.op, Tile) else 0)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class NoSlice(Rewrite):
    """x[0:n] -> x along every axis that is sliced"""

    def pattern(
        self, p: PatternBuilder, x: Any, starts: Any, ends: Any, axes: Any, steps: Any
    ) -> Pattern:
        return p.slice(x, p.const(starts), p.const(ends), p.optional(p.const(axes)),
                       p.optional(p.const(steps)))  # fmt: skip

    def applies(self, m: Match) -> bool:
        if m.x.shape is None or (m.steps is not None and m.number(m.steps) != 1):
            return False
        starts, ends = m.starts.array.reshape(-1), m.ends.array.reshape(-1)
        axes = range(len(starts)) if m.axes is None else m.axes.array.reshape(-1)
        for axis, a, b in zip(axes, starts, ends):
            d = m.x.shape[int(axis)]
            if a != 0 or not (int(b) >= (1 << 31) - 1 or (isinstance(d, int) and int(b) >= d)):
                return False
        return True

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


RULES: tuple[type[Rewrite], ...] = (
    NoTranspose, TransposeTwice, TransposeToReshape, ToReshape, NoReshape, ReshapeTwice,
    ReshapeUnary, NoTile, NoSlice,
)  # fmt: skip

"""Algebraic identities. Each class is one, its docstring the algebra.

Exact ones hold for every value: NaN and infinities, both zeros, wrapping integers. Those that do
not are marked `fast` and wait for the option.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from ...ir import DType, Op, Trait, Value, ops_where, ops_with
from ...ir.ops.bits import BitwiseAnd
from ...ir.ops.elementwise import Add, Div, Mul, Pow, Sub
from ...ir.ops.shape import Cast
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder


def result_is(m: Match, x: Value) -> bool:
    """Whether the root has x's type and certainly no larger shape: what else it reads is constant
    and only broadcasts into x.
    """
    if x.type.dtype is not m.root.type.dtype or x.shape is None:
        return False
    for other in m.graph.operands(m.root):
        if other is None or other == x:
            continue
        shape = other.shape
        if shape is None or len(shape) > len(x.shape):
            return False
        tail = x.shape[len(x.shape) - len(shape) :]
        if not all(d == 1 or (d is not None and d == t) for d, t in zip(shape, tail)):
            return False
    return True


class Algebra(Rewrite):
    """Base: `fast` rules need the option."""

    fast: ClassVar[bool] = False


class Neutral(Algebra):
    """x + 0 -> x (integers, or the float -0.0);  x * 1 -> x;  x / 1 -> x;  x - 0.0 -> x;
    x ^ 1 -> x;  and for bits x & -1 -> x, x | 0 -> x, x ^ 0 -> x

    x + 0.0 is not x for x = -0.0, so it stays (see AddZero).
    """

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.op("add", "sub", "mul", "div", "pow", "bitwise_and", "bitwise_or",
                    "bitwise_xor")(x, p.scalar(c))  # fmt: skip

    def applies(self, m: Match) -> bool:
        return self.neutral(m) and result_is(m, m.x)

    def neutral(self, m: Match) -> bool:
        c, op = m.number(m.c), m.root.op
        if isinstance(op, Mul | Div | Pow):
            return c == 1
        if isinstance(op, BitwiseAnd):
            return m.c.type.dtype.is_signed and c == -1
        if c != 0 or c is None:
            return False
        negative = math.copysign(1.0, c) < 0
        whole = m.c.type.dtype.is_integer
        return whole or (isinstance(op, Add) and negative) or (isinstance(op, Sub) and not negative)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class NeutralLeft(Neutral):
    """0 + x -> x;  1 * x -> x  (as Neutral, the constant first)"""

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.op("add", "mul", "bitwise_and", "bitwise_or", "bitwise_xor")(p.scalar(c), x)


class AddZero(Neutral):
    """x + 0.0 -> x;  x - -0.0 -> x, where -0.0 may become 0.0"""

    fast = True

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.any_of(p.add(x, p.scalar(c)), p.sub(x, p.scalar(c)))

    def neutral(self, m: Match) -> bool:
        return m.number(m.c) == 0


class MulZero(Algebra):
    """x * 0 -> 0: integers always; floats unless x is NaN or infinite (so fast)"""

    fast = True

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.mul(x, 0.0)

    def applies(self, m: Match) -> bool:
        return m.root.type.is_static

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        # A small constant, broadcast when it is needed: no tensor of zeros is stored.
        kind = m.root.type
        shape = b.constant(np.array(kind.static_shape, np.int64))
        return b.expand(b.constant(np.zeros((), kind.dtype.numpy)), shape)


class MulZeroInteger(MulZero):
    """x * 0 -> 0 for integers"""

    fast = False

    def applies(self, m: Match) -> bool:
        return m.root.type.is_static and m.root.type.dtype.is_integer


class SubSelf(Algebra):
    """x - x -> 0 for integers"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.sub(x, x)

    def applies(self, m: Match) -> bool:
        return m.root.type.is_static and m.root.type.dtype.is_integer

    rewrite = MulZero.rewrite


class SubToAdd(Algebra):
    """x - c -> x + -c  (the same number in floating point and in wrapping integers)"""

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.sub(x, p.const(c))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.add(m.x, np.negative(m.c.array))


class DivToMul(Algebra):
    """x / c -> x * (1 / c) where c is a power of two, so that 1 / c is exact"""

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.div(x, p.const(c))

    def applies(self, m: Match) -> bool:
        c = m.c.array
        if not m.root.type.dtype.is_float or c.size > 1 << 20:
            return False
        wide = c.astype(np.float64)
        limits = np.finfo(np.float16 if c.dtype.itemsize == 2 else np.float32)
        sizes = np.abs(wide)
        in_range = (sizes > float(limits.tiny)) & (sizes < 1 / float(limits.tiny))
        return bool(np.all(in_range) and self.exact(wide))

    def exact(self, c: np.ndarray[Any, Any]) -> bool:
        return bool(np.all(np.abs(np.frexp(c)[0]) == 0.5))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        c = m.c.array
        return b.mul(m.x, (1 / c.astype(np.float64)).astype(c.dtype))


class DivToMulFast(DivToMul):
    """x / c -> x * (1 / c), rounded twice"""

    fast = True

    def exact(self, c: np.ndarray[Any, Any]) -> bool:
        return True


class Twice(Algebra):
    """(x . c) . d -> x . (c . d) for . in +, *: exact for integers, which wrap; min and max always;
    floats round differently (so fast)
    """

    def pattern(self, p: PatternBuilder, x: Any, c: Any, d: Any) -> Pattern:
        ops = ops_with(Trait.ASSOCIATIVE | Trait.COMMUTATIVE)
        return p.any_of(*(
            p.op(o)(p.op(o)(x, p.const(c), uses=1, into="inner"), p.const(d)) for o in ops
        ))  # fmt: skip

    def applies(self, m: Match) -> bool:
        if not self.legal(m) or m.x.array is not None:
            return False
        try:
            c, d = m.c.array.shape, m.d.array.shape
            return np.broadcast_shapes(c, d) in (c, d)  # no larger a constant than before
        except ValueError:
            return False

    def legal(self, m: Match) -> bool:
        return not isinstance(m.root.op, Add | Mul) or not m.root.type.dtype.is_float

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        with np.errstate(all="ignore"):
            joined = m.root.op.reference(m.c.array, m.d.array)
        return b.node(m.root.op, m.x, b.constant(joined))


class TwiceFast(Twice):
    """(x + c) + d -> x + (c + d);  (x * c) * d -> x * (c * d), rounding once less"""

    fast = True

    def legal(self, m: Match) -> bool:
        return True


class Involution(Algebra):
    """--x -> x;  not not x -> x;  ~~x -> x"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.any_of(*(p.op(o)(p.op(o)(x)) for o in ops_with(Trait.INVOLUTION)))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class Idempotent(Algebra):
    """f(f(x)) -> f(x) for relu, abs, floor, ... with the same attributes"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        idempotent = ops_with(Trait.IDEMPOTENT)
        return p.any_of(*(p.op(o)(p.op(o)(x, into="inner")) for o in idempotent))

    def applies(self, m: Match) -> bool:
        return m.inner.op.key() == m.op.key()

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.inner[0]


class AbsNeg(Algebra):
    """|-x| -> |x|, not for unsigned integers, of which -x wraps and || changes nothing"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.abs(p.neg(x))

    def applies(self, m: Match) -> bool:
        dtype = m.root.type.dtype
        return dtype.is_float or dtype.is_signed

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.abs(m.x)


def _is_positive(cls: type[Op]) -> bool:
    """Whether results are never below 0, nor -0, of which the absolute value is 0."""
    return cls.within[0] >= 0 and math.copysign(1.0, cls.within[0]) > 0


class KnownPositive(Algebra):
    """relu(f(x)) -> f(x);  |f(x)| -> f(x)  where f is never negative; floats (|-128| is -128)"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.op("relu", "abs")(p.op(*ops_where(_is_positive))(x, into="inner"))

    def applies(self, m: Match) -> bool:
        return m.root.type.dtype.is_float

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.inner[0]


class SameOperands(Algebra):
    """x . x -> x for max, min, and, or, &, |;  where(c, x, x) -> x"""

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        pair = p.op("max", "min", "and", "or", "bitwise_and", "bitwise_or")(x, x)
        return p.any_of(pair, p.where(c, x, x))

    def applies(self, m: Match) -> bool:
        return m.c is None or result_is(m, m.x)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class OneOperand(Algebra):
    """max(x) -> x, and so min, sum, mean, concat"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.op("max", "min", "sum", "mean", "concat")(x)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class SumToAdd(Algebra):
    """sum(x, y) -> x + y"""

    def pattern(self, p: PatternBuilder, x: Any, y: Any) -> Pattern:
        return p.sum(x, y)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.add(m.x, m.y)


class WhereConstant(Algebra):
    """where(true, x, y) -> x;  where(false, x, y) -> y"""

    def pattern(self, p: PatternBuilder, c: Any, x: Any, y: Any) -> Pattern:
        return p.where(p.scalar(c), x, y)

    def chosen(self, m: Match) -> Value:
        return m.x if m.number(m.c) else m.y

    def applies(self, m: Match) -> bool:
        return result_is(m, self.chosen(m))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return self.chosen(m)


class PowConstant(Algebra):
    """x ^ 2 -> x * x;  x ^ 0.5 -> sqrt(x);  x ^ -1 -> 1 / x  (to the last bits of pow; sqrt differs
    at -0.0 and minus infinity)
    """

    fast = True

    def pattern(self, p: PatternBuilder, x: Any, c: Any) -> Pattern:
        return p.pow(x, p.scalar(c))

    def applies(self, m: Match) -> bool:
        return m.number(m.c) in (2.0, 0.5, -1.0) and m.root.type.dtype.is_float \
            and result_is(m, m.x)  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        c = m.number(m.c)
        return b.mul(m.x, m.x) if c == 2 else b.sqrt(m.x) if c == 0.5 else b.reciprocal(m.x)


# ---- identities and casts ----------------------------------------------------------------------


class RemoveIdentity(Algebra):
    """identity(x) -> x;  dropout(x) -> x (inference)"""

    def pattern(self, p: PatternBuilder, x: Any, r: Any, t: Any) -> Pattern:
        return p.any_of(p.identity(x), p.dropout(x, p.optional(r), p.optional(p.const(t))))

    def check(self, m: Match) -> Failure | None:
        if m.t is not None and bool(np.any(m.t.array)):
            return m.fail("dropout in training mode")
        if len(m.root.results) > 1 and m.graph.use_count(m.root[1]):
            return m.fail("the mask of dropout is read")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class CastNothing(Algebra):
    """cast(x) -> x where x has the type already (f8e5m2 saturates: its infinities change)"""

    def pattern(self, p: PatternBuilder, x: Any, like: Any) -> Pattern:
        return p.any_of(p.cast(x), p.cast_like(x, like))

    def applies(self, m: Match) -> bool:
        dtype = m.x.type.dtype
        return dtype is m.root.type.dtype and not (dtype is DType.f8e5m2 and m.op.saturate)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return m.x


class CastLikeToCast(Algebra):
    """cast_like(x, y) -> cast(x) to y's type"""

    def pattern(self, p: PatternBuilder, x: Any, like: Any) -> Pattern:
        return p.cast_like(x, like)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        op = m.op
        return b.node(Cast(m.root.type.dtype, op.saturate, op.round_mode), m.x)


class CastTwice(Algebra):
    """cast(cast(x)) -> cast(x) where the inner one keeps every value"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.cast(p.cast(x, into="inner"))

    def applies(self, m: Match) -> bool:
        return lossless(m.x.type.dtype, m.inner.type.dtype)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.root.op, m.x)


_MANTISSA = {DType.f64: 53, DType.f32: 24, DType.f16: 11, DType.bf16: 8}


def lossless(a: DType, b: DType) -> bool:
    """Whether every value of type `a` is one of type `b`."""
    if a is b or (a is DType.bool and b is not DType.f8e8m0fnu):  # which has no 0
        return True
    if a.is_minifloat:
        return b.is_float and (a, b) != (DType.f8e8m0fnu, DType.f16)
    if b.is_minifloat:
        return False
    if b is DType.bool or (a.is_float and not b.is_float):
        return False
    if a.is_float:
        return (a, b) in ((DType.f16, DType.f32), (DType.bf16, DType.f32)) or b is DType.f64
    low, high = a.bounds
    if b.is_float:
        return max(-low, high + 1) <= 1 << _MANTISSA[b]
    return b.bounds[0] <= low and high <= b.bounds[1]


RULES: tuple[type[Algebra], ...] = (
    RemoveIdentity, CastNothing, CastLikeToCast, CastTwice, SubToAdd, Neutral, NeutralLeft,
    AddZero, MulZeroInteger, MulZero, SubSelf, DivToMul, DivToMulFast, Twice, TwiceFast,
    Involution, Idempotent, AbsNeg, KnownPositive, SameOperands, OneOperand, SumToAdd,
    WhereConstant, PowConstant,
)  # fmt: skip

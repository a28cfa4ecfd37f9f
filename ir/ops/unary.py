"""Functions of one element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..numerics import ARITHMETIC, COMPARISON, FUNCTION, ROUNDING
from ..op import Abstract, Array, Inferred, Op, register
from ..traits import (
    DECREASING,
    INCREASING,
    NON_NEGATIVE,
    REALS,
    SIGNED_UNIT,
    TURNING,
    Interval,
    Trait,
)
from ..types import DType, Shape
from .adjoint import scaled
from .common import check_float, check_number, in_wide, wide
from .elementwise import Ufunc

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


@dataclass(frozen=True)
class Unary(Op):
    """One float operand (any number where `numbers`)."""

    numerics = FUNCTION
    axes = "x[...] -> y[...]"
    ufunc: ClassVar[Ufunc]
    numbers: ClassVar[bool] = False

    def infer(self, x: Abstract) -> Inferred:
        (check_number if self.numbers else check_float)(x)
        return x.type

    def reference(self, x: Array) -> Array:
        return in_wide(type(self).ufunc, x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        """g * dy/dx; None where that is 0 (almost everywhere)."""
        raise NotImplementedError

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (self.derivative(b, gradients[0], operands[0], results[0]),)


@dataclass(frozen=True)
class Steps(Unary):
    """Constant between jumps: the derivative is 0."""

    numerics = ROUNDING

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return None


def one_minus_square(b: Builder, v: Value) -> Value:
    return b.sub(b.number(1, v), b.mul(v, v))


@register
@dataclass(frozen=True)
class Neg(Unary):
    """-x"""

    traits = Trait.INVOLUTION
    monotone = DECREASING
    numerics = ROUNDING.but(overflow="the least integer stays itself")
    ufunc, numbers = np.negative, True

    def dims(self, x: Abstract) -> Shape | None:
        dims = x.as_dims()
        return None if dims is None else tuple(-d if isinstance(d, int) else None for d in dims)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.neg(g)


@register
@dataclass(frozen=True)
class Abs(Unary):
    """|x|"""

    traits = Trait.IDEMPOTENT | Trait.HOMOGENEOUS
    monotone = TURNING
    within = NON_NEGATIVE
    numerics = ROUNDING.but(overflow="the least integer stays itself")
    ufunc, numbers = np.abs, True

    def results_within(self, dtype: DType) -> Interval:
        return REALS if dtype.is_signed else self.within  # |-128| is -128

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.sign(x))


@register
@dataclass(frozen=True)
class Sign(Steps):
    """-1, 0 or 1"""

    traits = Trait.IDEMPOTENT
    monotone = INCREASING
    within = SIGNED_UNIT
    numerics = ROUNDING.but(infinity="1 or -1")
    ufunc, numbers = np.sign, True


@register
@dataclass(frozen=True)
class Reciprocal(Unary):
    """1 / x"""

    monotone = DECREASING.on(0.0)
    numerics = ARITHMETIC.but(infinity="0 of its sign; 1 / 0 is inf of its sign")
    ufunc = np.reciprocal

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.neg(b.mul(g, b.mul(y, y)))


@register
@dataclass(frozen=True)
class Exp(Unary):
    """e^x"""

    monotone = INCREASING
    within = NON_NEGATIVE
    ufunc = np.exp

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, y)


@register
@dataclass(frozen=True)
class Log(Unary):
    """ln x"""

    monotone = INCREASING.on(0.0)
    ufunc = np.log

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(g, x)


@register
@dataclass(frozen=True)
class Sqrt(Unary):
    """x^(1/2)"""

    monotone = INCREASING.on(0.0)
    within = (-0.0, math.inf)  # -0 stays
    numerics = ARITHMETIC.but(infinity="kept; below 0 NaN, and -0 stays")
    ufunc = np.sqrt

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(scaled(b, g, 0.5), y)


@register
@dataclass(frozen=True)
class Floor(Steps):
    """The largest integer <= x"""

    traits = Trait.IDEMPOTENT
    monotone = INCREASING
    ufunc = np.floor


@register
@dataclass(frozen=True)
class Ceil(Steps):
    """The smallest integer >= x"""

    traits = Trait.IDEMPOTENT
    monotone = INCREASING
    ufunc = np.ceil


@register
@dataclass(frozen=True)
class Round(Steps):
    """The nearest integer, ties to even"""

    traits = Trait.IDEMPOTENT
    monotone = INCREASING
    numerics = ROUNDING.but(ties="to even")
    ufunc = np.rint


_E0 = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
       3.77485237685302021e2, 3.20937758913846947e3)  # fmt: skip
_E1 = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
       2.84423683343917062e3)  # fmt: skip
_E2 = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0,
       6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
       1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3)  # fmt: skip
_E3 = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
       1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
       3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_E4 = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
       1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_E5 = (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
       6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip


def erf(x: Array) -> Array:
    """The error function in double precision.

    W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969).
    """
    v = np.asarray(x, np.float64)
    y = np.abs(v)
    square = np.where(y < 0.5, v * v, 0.0)
    small = v * np.polyval(_E0, square) / np.polyval(_E1, square)
    # Beyond 6 the result is 1 in double precision.
    c = np.clip(y, 0.46875, 6.0)
    middle = np.exp(-c * c) * np.polyval(_E2, c) / np.polyval(_E3, c)
    z = 1 / (np.maximum(c, 4.0) ** 2)
    tail = z * np.polyval(_E4, z) / np.polyval(_E5, z)
    large = np.exp(-c * c) / c * (0.5641895835477562869 - tail)
    far = np.copysign(1 - np.where(c <= 4.0, middle, large), v)
    return np.where(y <= 0.46875, small, np.where(np.isnan(v), v, far)).astype(x.dtype)


@register
@dataclass(frozen=True)
class Erf(Unary):
    """2 / sqrt(pi) * integral of exp(-t^2) from 0 to x"""

    monotone = INCREASING
    within = SIGNED_UNIT
    ufunc, numbers = erf, True

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(scaled(b, g, 2 / math.sqrt(math.pi)), b.exp(b.neg(b.mul(x, x))))


@register
@dataclass(frozen=True)
class Sin(Unary):
    """sin x"""

    within = SIGNED_UNIT
    numerics = FUNCTION.but(infinity="NaN")
    ufunc = np.sin

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.cos(x))


@register
@dataclass(frozen=True)
class Cos(Unary):
    """cos x"""

    within = SIGNED_UNIT
    numerics = FUNCTION.but(infinity="NaN")
    ufunc = np.cos

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.neg(b.mul(g, b.sin(x)))


@register
@dataclass(frozen=True)
class Tan(Unary):
    """tan x"""

    numerics = FUNCTION.but(infinity="NaN")
    ufunc = np.tan

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.add(b.number(1, y), b.mul(y, y)))


@register
@dataclass(frozen=True)
class Asin(Unary):
    """arcsin x"""

    monotone = INCREASING.on(-1.0, 1.0)
    ufunc = np.arcsin

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(g, b.sqrt(one_minus_square(b, x)))


@register
@dataclass(frozen=True)
class Acos(Unary):
    """arccos x"""

    monotone = DECREASING.on(-1.0, 1.0)
    within = NON_NEGATIVE
    ufunc = np.arccos

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.neg(b.div(g, b.sqrt(one_minus_square(b, x))))


@register
@dataclass(frozen=True)
class Atan(Unary):
    """arctan x"""

    monotone = INCREASING
    ufunc = np.arctan

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(g, b.add(b.number(1, x), b.mul(x, x)))


@register
@dataclass(frozen=True)
class Sinh(Unary):
    """sinh x"""

    monotone = INCREASING
    ufunc = np.sinh

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.cosh(x))


@register
@dataclass(frozen=True)
class Cosh(Unary):
    """cosh x"""

    monotone = TURNING
    within = (1.0, math.inf)
    ufunc = np.cosh

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.sinh(x))


@register
@dataclass(frozen=True)
class Asinh(Unary):
    """arsinh x"""

    monotone = INCREASING
    ufunc = np.arcsinh

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(g, b.sqrt(b.add(b.mul(x, x), b.number(1, x))))


@register
@dataclass(frozen=True)
class Acosh(Unary):
    """arcosh x"""

    monotone = INCREASING.on(1.0)
    within = NON_NEGATIVE
    ufunc = np.arccosh

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(g, b.sqrt(b.sub(b.mul(x, x), b.number(1, x))))


@register
@dataclass(frozen=True)
class Atanh(Unary):
    """artanh x"""

    monotone = INCREASING.on(-1.0, 1.0)
    ufunc = np.arctanh

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.div(g, one_minus_square(b, x))


@dataclass(frozen=True)
class Test(Op):
    """bool of one float."""

    numerics = COMPARISON.but(nan="as asked", infinity="as asked")
    axes = "x[...] -> y[...]"
    minifloats = True

    def infer(self, x: Abstract) -> Inferred:
        if not x.dtype.is_minifloat:
            check_float(x)
        return x.type.with_dtype(DType.bool)


@register
@dataclass(frozen=True)
class IsNaN(Test):
    """Whether x is NaN"""

    name = "is_nan"

    def reference(self, x: Array) -> Array:
        return np.isnan(wide(x))


@register
@dataclass(frozen=True)
class IsInf(Test):
    """Whether x is infinite, of the signs that are asked for"""

    detect_positive: bool = True
    detect_negative: bool = True

    def reference(self, x: Array) -> Array:
        v = wide(x)
        found = (v == np.inf) if self.detect_positive else np.zeros(v.shape, bool)
        return found | (v == -np.inf) if self.detect_negative else found

"""Activations. Each is a function of one element, but softmax and its kin, along an axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import Dependences
from ..errors import VerifyError
from ..numerics import ARITHMETIC, CANCELS, CHOICE, EXTREMES, FUNCTION, NORMALIZATION, ROUNDING
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import along
from ..traits import INCREASING, NON_NEGATIVE, REALS, SIGNED_UNIT, TURNING, UNIT, Interval, Trait
from ..types import DType, TensorType, broadcast
from .adjoint import ints, scaled, sum_to, where
from .common import (
    check_axis,
    check_choice,
    check_float,
    check_number,
    check_same,
    check_scalar,
    in_wide,
)
from .unary import Unary, erf, one_minus_square

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def softplus(x: Array) -> Array:
    """ln(1 + e^x) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@register
@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)"""

    traits = Trait.ACTIVATION | Trait.IDEMPOTENT | Trait.HOMOGENEOUS
    monotone = INCREASING
    within = NON_NEGATIVE
    numerics = EXTREMES
    numbers = True

    def reference(self, x: Array) -> Array:
        return np.maximum(x, np.zeros((), x.dtype)).astype(x.dtype, copy=False)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return where(b, b.greater(x, b.number(0, x)), g)


@register
@dataclass(frozen=True)
class Clip(Op):
    """min(max(x, low), high); NaN stays; where low > high the result is high"""

    traits = Trait.IDEMPOTENT
    monotone = INCREASING
    numerics = EXTREMES
    axes = "x[...] low[] high[] -> y[...]"
    settings = ("low", "high")

    def infer(
        self, x: Abstract, low: Abstract | None = None, high: Abstract | None = None
    ) -> Inferred:
        check_number(x)
        check_same(x, low, high)
        for bound in (low, high):
            check_scalar(bound, "a bound")
        return x.type

    def reference(self, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
        made = x if low is None else np.maximum(x, low.reshape(()))
        made = made if high is None else np.minimum(made, high.reshape(()))
        return made.astype(x.dtype, copy=False)  # NumPy compares i4 and the like as i8

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, low, high), (g,) = operands, gradients
        raised = x if low is None else b.max(x, b.reshape(low, ints(b)))
        at_high = None if high is None else b.greater(raised, high)
        rest = g if at_high is None else b.where(at_high, b.number(0, g), g)
        below = None if low is None else b.less(x, low)
        return (
            rest if below is None else b.where(below, b.number(0, g), rest),
            low and below and sum_to(b, where(b, below, rest), low),
            high and at_high and sum_to(b, where(b, at_high, g), high),
        )


@register
@dataclass(frozen=True)
class LeakyRelu(Unary):
    """x where x >= 0, else alpha * x"""

    traits = Trait.ACTIVATION | Trait.HOMOGENEOUS
    monotone = INCREASING.where(lambda op: op.alpha >= 0)
    numerics = ARITHMETIC
    alpha: float = 0.01

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: np.where(v >= 0, v, v * v.dtype.type(self.alpha)), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.where(b.less(x, b.number(0, x)), scaled(b, g, self.alpha), g)


@register
@dataclass(frozen=True)
class PRelu(Op):
    """x where x >= 0, else slope * x; the slope broadcasts to x"""

    traits = Trait.HOMOGENEOUS
    numerics = ARITHMETIC
    axes = "x[...] slope[...] -> y[...]"

    def infer(self, x: Abstract, slope: Abstract) -> Inferred:
        check_number(x)
        check_same(x, slope)
        joint = broadcast(x.shape, slope.shape)
        if joint is not None and not x.type.accepts(TensorType(x.dtype, joint)):
            raise VerifyError(f"the slope {slope.type} does not broadcast to {x.type}")
        return x.type

    def reference(self, x: Array, slope: Array) -> Array:
        return in_wide(lambda v, s: np.where(v >= 0, v, v * s), x, slope)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, slope), (g,) = operands, gradients
        below = b.less(x, b.number(0, x))
        return (
            b.where(below, b.mul(g, slope), g),
            sum_to(b, where(b, below, b.mul(g, x)), slope),
        )


@register
@dataclass(frozen=True)
class Elu(Unary):
    """x where x >= 0, else alpha * (e^x - 1)"""

    traits = Trait.ACTIVATION
    monotone = INCREASING.where(lambda op: op.alpha >= 0)
    numerics = FUNCTION
    alpha: float = 1.0

    def reference(self, x: Array) -> Array:
        f = lambda v: np.where(v >= 0, v, self.alpha * np.expm1(np.minimum(v, 0)))  # noqa: E731
        return in_wide(f, x)

    def results_within(self, dtype: DType) -> Interval:
        return min(-self.alpha, 0.0), math.inf

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        slope = b.add(y, b.number(self.alpha, y))  # alpha * e^x
        return b.where(b.less(x, b.number(0, x)), b.mul(g, slope), g)


@register
@dataclass(frozen=True)
class Celu(Unary):
    """max(x, 0) + min(alpha * (e^(x / alpha) - 1), 0)"""

    traits = Trait.ACTIVATION
    monotone = INCREASING
    numerics = FUNCTION
    alpha: float = 1.0

    def infer(self, x: Abstract) -> Inferred:
        if self.alpha == 0:
            raise VerifyError("alpha is 0")
        return super().infer(x)

    def reference(self, x: Array) -> Array:
        a = self.alpha
        return in_wide(lambda v: np.maximum(v, 0) + np.minimum(a * np.expm1(v / a), 0), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        slope = b.exp(scaled(b, b.min(x, b.number(0, x)), 1 / self.alpha))
        return b.mul(g, slope)


@register
@dataclass(frozen=True)
class Selu(Unary):
    """gamma * (x where x > 0, else alpha * (e^x - 1))"""

    traits = Trait.ACTIVATION
    monotone = INCREASING.where(lambda op: op.alpha >= 0 and op.gamma >= 0)
    numerics = FUNCTION
    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    def reference(self, x: Array) -> Array:
        a, g = self.alpha, self.gamma
        return in_wide(lambda v: g * np.where(v > 0, v, a * np.expm1(np.minimum(v, 0))), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        slope = b.add(y, b.number(self.alpha * self.gamma, y))  # alpha * gamma * e^x
        above = b.greater(x, b.number(0, x))
        return b.where(above, scaled(b, g, self.gamma), b.mul(g, slope))


@register
@dataclass(frozen=True)
class ThresholdedRelu(Unary):
    """x where x > alpha, else 0"""

    traits = Trait.ACTIVATION | Trait.IDEMPOTENT
    numerics = ROUNDING.but(nan="0")
    alpha: float = 1.0

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: np.where(v > self.alpha, v, 0), x)

    def results_within(self, dtype: DType) -> Interval:
        return min(self.alpha, 0.0), math.inf

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return where(b, b.greater(x, b.number(self.alpha, x)), g)


@register
@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + e^-x)"""

    traits = Trait.ACTIVATION
    monotone = INCREASING
    within = UNIT
    numerics = FUNCTION
    ufunc = sigmoid

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.mul(y, b.sub(b.number(1, y), y)))


@register
@dataclass(frozen=True)
class HardSigmoid(Unary):
    """max(0, min(1, alpha * x + beta))"""

    traits = Trait.ACTIVATION
    monotone = INCREASING.where(lambda op: op.alpha >= 0)
    within = UNIT
    numerics = CANCELS
    alpha: float = 0.2
    beta: float = 0.5

    def reference(self, x: Array) -> Array:
        a, b = self.alpha, self.beta
        return in_wide(lambda v: np.clip(v * v.dtype.type(a) + v.dtype.type(b), 0, 1), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        inside = b.and_(b.greater(y, b.number(0, y)), b.less(y, b.number(1, y)))
        return where(b, inside, scaled(b, g, self.alpha))


@register
@dataclass(frozen=True)
class HardSwish(Unary):
    """x * max(0, min(1, x / 6 + 1/2))"""

    traits = Trait.ACTIVATION
    monotone = TURNING
    within = (-0.375, math.inf)
    numerics = CANCELS.but(infinity="inf stays, -inf gives NaN (-inf * 0)")

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: v * np.clip(v / v.dtype.type(6) + v.dtype.type(0.5), 0, 1), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        slope = b.add(scaled(b, x, 1 / 3), b.number(0.5, x))
        middle = where(b, b.greater(x, b.number(-3, x)), b.mul(g, slope))
        return b.where(b.less(x, b.number(3, x)), middle, g)


@register
@dataclass(frozen=True)
class Swish(Unary):
    """x * sigmoid(alpha * x); SiLU where alpha is 1"""

    traits = Trait.ACTIVATION
    monotone = TURNING.where(lambda op: op.alpha > 0)
    numerics = FUNCTION.but(infinity="inf stays, -inf gives NaN (-inf * 0)")
    alpha: float = 1.0

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: v * sigmoid(v * v.dtype.type(self.alpha)), x)

    def results_within(self, dtype: DType) -> Interval:
        return (-0.27847 / self.alpha, math.inf) if self.alpha > 0 else REALS

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        s = b.sigmoid(scaled(b, x, self.alpha))  # s + alpha * x s (1 - s) = s + alpha * (y - y s)
        return b.mul(g, b.add(s, scaled(b, b.sub(y, b.mul(y, s)), self.alpha)))


@register
@dataclass(frozen=True)
class Tanh(Unary):
    """tanh x"""

    traits = Trait.ACTIVATION
    monotone = INCREASING
    within = SIGNED_UNIT
    numerics = FUNCTION
    ufunc = np.tanh

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, one_minus_square(b, y))


@register
@dataclass(frozen=True)
class Softplus(Unary):
    """ln(1 + e^x)"""

    traits = Trait.ACTIVATION
    monotone = INCREASING
    within = NON_NEGATIVE
    numerics = FUNCTION
    ufunc = softplus

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, b.sigmoid(x))


@register
@dataclass(frozen=True)
class Softsign(Unary):
    """x / (1 + |x|)"""

    traits = Trait.ACTIVATION
    monotone = INCREASING
    within = SIGNED_UNIT
    numerics = FUNCTION.but(infinity="NaN (inf / inf)")

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: v / (1 + np.abs(v)), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        root = b.add(b.number(1, x), b.abs(x))
        return b.div(g, b.mul(root, root))


@register
@dataclass(frozen=True)
class Mish(Unary):
    """x * tanh(ln(1 + e^x))"""

    traits = Trait.ACTIVATION
    monotone = TURNING
    within = (-0.3089, math.inf)
    numerics = FUNCTION.but(infinity="inf stays, -inf gives NaN (-inf * 0)")

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: v * np.tanh(softplus(v)), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        t = b.tanh(b.softplus(x))
        return b.mul(g, b.add(t, b.mul(b.mul(x, b.sigmoid(x)), one_minus_square(b, t))))


@register
@dataclass(frozen=True)
class Gelu(Unary):
    """x / 2 * (1 + erf(x / sqrt 2)), or its tanh form where approximate = "tanh":
    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
    """

    traits = Trait.ACTIVATION
    monotone = TURNING
    within = (-0.1701, math.inf)
    numerics = CANCELS.but(infinity="inf stays, -inf gives NaN (-inf * 0)")
    approximate: str = "none"

    def infer(self, x: Abstract) -> Inferred:
        check_choice(self.approximate, ("none", "tanh"), "approximate")
        return super().infer(x)

    def reference(self, x: Array) -> Array:
        if self.approximate == "tanh":
            c = math.sqrt(2 / math.pi)
            return in_wide(lambda v: v / 2 * (1 + np.tanh(c * (v + 0.044715 * v**3))), x)
        return in_wide(lambda v: v / 2 * (1 + erf(v * math.sqrt(0.5))), x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        return b.mul(g, self._slope(b, x))

    def _slope(self, b: Builder, x: Value) -> Value:
        square = b.mul(x, x)
        if self.approximate == "tanh":
            c = math.sqrt(2 / math.pi)
            cubed = b.mul(x, b.add(scaled(b, square, c * 0.044715), b.number(c, x)))
            t = b.tanh(cubed)
            inner = b.mul(x, b.add(scaled(b, square, 3 * c * 0.044715), b.number(c, x)))
            whole = b.add(b.add(t, b.number(1, x)), b.mul(inner, one_minus_square(b, t)))
            return scaled(b, whole, 0.5)
        share = b.add(scaled(b, b.erf(scaled(b, x, math.sqrt(0.5))), 0.5), b.number(0.5, x))
        bell = scaled(b, b.exp(scaled(b, square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return b.add(share, b.mul(x, bell))


@register
@dataclass(frozen=True)
class Shrink(Unary):
    """x + bias where x < -lambd, x - bias where x > lambd, else 0"""

    numerics = ARITHMETIC.but(nan="0")
    numbers = True
    bias: float = 0.0
    lambd: float = 0.5

    def reference(self, x: Array) -> Array:
        b, t = self.bias, self.lambd
        if DType.of(x).is_integer and float(b).is_integer() and abs(b) < 2.0**63:
            step = np.array(int(b), np.int64).astype(x.dtype)  # f64 has not every i64
            return np.where(x < -t, x + step, np.where(x > t, x - step, x.dtype.type(0)))
        f = lambda v: np.where(v < -t, v + b, np.where(v > t, v - b, 0))  # noqa: E731
        return in_wide(f, x)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value) -> Value | None:
        moved = b.greater(b.abs(x), b.number(self.lambd, x))
        return where(b, moved, g)


# ---- along an axis -----------------------------------------------------------------------------


@dataclass(frozen=True)
class AlongAxis(Op):
    """One float tensor, normalized along one axis."""

    axis: int = -1

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if x.shape is not None:
            check_axis(self.axis, len(x.shape))
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return along(operands, results, [self.axis % results[0].rank])


def log_softmax(x: Array, axis: int) -> Array:
    shifted = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return e / np.sum(e, axis=axis, keepdims=True)


@register
@dataclass(frozen=True)
class Softmax(AlongAxis):
    """e^x / sum(e^x) along an axis"""

    within = UNIT
    numerics = NORMALIZATION.but(
        infinity="-inf has share 0; inf, or a row of -inf alone, makes the row NaN",
        overflow="none: the largest is subtracted",
    )

    def reference(self, x: Array) -> Array:
        return in_wide(softmax, x, axis=self.axis)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (y,), (g,) = results, gradients
        part = b.mul(g, y)
        total = b.reduce_sum(part, ints(b, self.axis))
        return (b.sub(part, b.mul(y, total)),)


@register
@dataclass(frozen=True)
class LogSoftmax(AlongAxis):
    """ln softmax(x) along an axis"""

    within = (-math.inf, 0.0)
    numerics = NORMALIZATION.but(
        infinity="-inf stays; inf, or a row of -inf alone, makes the row NaN",
        overflow="none: the largest is subtracted",
    )

    def reference(self, x: Array) -> Array:
        return in_wide(log_softmax, x, axis=self.axis)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (y,), (g,) = results, gradients
        total = b.reduce_sum(g, ints(b, self.axis))
        return (b.sub(g, b.mul(b.exp(y), total)),)


@register
@dataclass(frozen=True)
class Hardmax(AlongAxis):
    """1 at the first maximum along an axis, else 0"""

    traits = Trait.IDEMPOTENT
    within = UNIT
    numerics = CHOICE

    def reference(self, x: Array) -> Array:
        made = np.zeros(x.shape, x.dtype)
        if x.size:
            at = np.expand_dims(np.argmax(x, axis=self.axis), self.axis)
            np.put_along_axis(made, at, np.ones((), x.dtype), axis=self.axis)
        return made

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (None,)  # constant between jumps

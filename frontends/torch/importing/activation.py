"""Activations, and softmax and its kin."""

from __future__ import annotations

from typing import Any

from ....ir import DType, Value
from ..call import Call, aten, rank, shape_of


def unary(op: str, *names: str, **attributes: Any) -> None:
    """Ops of one float operand that the IR has under the name `op`; integers become floats."""

    def add(c: Call, x: Value) -> Value:
        return getattr(c.b, op)(c.tensor(x), **attributes)

    aten(*names)(add)


for _op, _name in {
    "sigmoid": "sigmoid", "tanh": "tanh", "mish": "mish", "selu": "selu", "relu": "relu",
    "hard_swish": "hardswish", "swish": "silu", "exp": "exp", "log": "log", "sqrt": "sqrt",
    "reciprocal": "reciprocal", "erf": "erf", "sin": "sin", "cos": "cos", "tan": "tan",
    "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
}.items():  # fmt: skip
    unary(_op, _name)
unary("hard_sigmoid", "hardsigmoid", alpha=1 / 6, beta=0.5)


@aten("relu6")
def relu6(c: Call, x: Value) -> Value:
    return clip(c, x, 0, 6)


@aten("hardtanh", "clamp")
def clip(c: Call, x: Value, low: Any, high: Any) -> Value:
    bounds = (None if v is None else c.tensor(v) for v in (low, high))
    return c.b.clip(c.tensor(x), *bounds)


@aten("clamp_min")
def clamp_min(c: Call, x: Value, low: Any) -> Value:
    return clip(c, x, low, None)


@aten("clamp_max")
def clamp_max(c: Call, x: Value, high: Any) -> Value:
    return clip(c, x, None, high)


@aten("clamp.Tensor")
def clamp_tensor(c: Call, x: Value, low: Value | None, high: Value | None) -> Value:
    made = c.tensor(x)
    made = made if low is None else c.b.max(made, c.tensor(low))
    return made if high is None else c.b.min(made, c.tensor(high))


@aten("gelu")
def gelu(c: Call, x: Value, approximate: str) -> Value:
    return c.b.gelu(x, approximate=approximate)


@aten("leaky_relu")
def leaky_relu(c: Call, x: Value, slope: float) -> Value:
    return c.b.leaky_relu(x, alpha=float(slope))


@aten("elu")
def elu(c: Call, x: Value, alpha: float, scale: float, inner: float) -> Value:
    """scale * x above 0, else scale * alpha * (e^(inner x) - 1): elu, selu and celu."""
    if inner == 1:
        return c.b.elu(x, alpha=float(alpha)) if scale == 1 else \
            c.b.selu(x, alpha=float(alpha), gamma=float(scale))  # fmt: skip
    c.no(scale != 1 or abs(inner * alpha - 1) > 1e-12, "an elu scaled inside")
    return c.b.celu(x, alpha=float(alpha))


@aten("celu")
def celu(c: Call, x: Value, alpha: float) -> Value:
    return c.b.celu(x, alpha=float(alpha))


@aten("prelu")
def prelu(c: Call, x: Value, weight: Value) -> Value:
    """One slope, or one for each channel (axis 1)."""
    if rank(weight) == 1 and rank(x) > 2 and shape_of(weight) != (1,):
        weight = c.b.reshape(weight, c.ints([-1] + [1] * (rank(x) - 2)))
    return c.b.prelu(x, weight)


@aten("softplus")
def softplus(c: Call, x: Value, beta: float, threshold: float) -> Value:
    """ln(1 + e^(beta x)) / beta, and x where beta x is over the threshold. What is over 20 is x
    already, but in double precision and where beta x is infinite.
    """
    if beta == 1 and threshold >= 20 and c.dtype is not DType.f64:
        return c.b.softplus(x)
    scale = c.tensor(beta)
    scaled = c.b.mul(x, scale)
    near = c.b.div(c.b.softplus(scaled), scale)
    return c.b.where(c.b.greater(scaled, c.tensor(threshold)), x, near)


@aten("log_sigmoid")
def log_sigmoid(c: Call, x: Value) -> Value:
    return c.b.neg(c.b.softplus(c.b.neg(x)))


@aten("softshrink")
def softshrink(c: Call, x: Value, bound: float) -> Value:
    """x less what of it is within the bounds, which for NaN is NaN (the IR's shrink has 0)."""
    return c.b.sub(x, clip(c, x, -bound, bound))


@aten("hardshrink")
def hardshrink(c: Call, x: Value, bound: float) -> Value:
    """0 where |x| is within the bound; NaN is not (the IR's shrink has 0 for it)."""
    return c.b.where(c.b.less_or_equal(c.b.abs(x), c.tensor(bound)), c.tensor(0), x)


@aten("glu")
def glu(c: Call, x: Value, dim: int) -> Value:
    """The first half times the sigmoid of the second."""
    first, second = c.b.split(x, axis=dim, num_outputs=2)
    return c.b.mul(first, c.b.sigmoid(second))


@aten("softmax.int", "_softmax")
def softmax(c: Call, x: Value, dim: int, _: Any) -> Value:
    return c.b.softmax(c.tensor(x), axis=dim)


@aten("log_softmax.int", "_log_softmax")
def log_softmax(c: Call, x: Value, dim: int, _: Any) -> Value:
    return c.b.log_softmax(c.tensor(x), axis=dim)


@aten("rsqrt")
def rsqrt(c: Call, x: Value) -> Value:
    return c.b.reciprocal(c.b.sqrt(c.tensor(x)))


@aten("log2")
def log2(c: Call, x: Value) -> Value:
    return c.b.mul(c.b.log(c.tensor(x)), c.tensor(1.4426950408889634))


@aten("log1p")
def log1p(c: Call, x: Value) -> Value:
    """ln(1 + x); near 0, where 1 + x is rounded, 2 artanh(x / (2 + x))."""
    x = c.tensor(x)
    near = c.b.atanh(c.b.div(x, c.b.add(x, c.tensor(2))))
    far = c.b.log(c.b.add(x, c.tensor(1)))
    small = c.b.less(c.b.abs(x), c.tensor(0.5))
    return c.b.where(small, c.b.mul(near, c.tensor(2)), far)


@aten("expm1")
def expm1(c: Call, x: Value) -> Value:
    """e^x - 1 = tanh(x / 2) (e^x + 1), which subtracts nothing."""
    x = c.tensor(x)
    half = c.b.tanh(c.b.mul(x, c.tensor(0.5)))
    return c.b.mul(half, c.b.add(c.b.exp(x), c.tensor(1)))


@aten("isnan")
def isnan(c: Call, x: Value) -> Value:
    return c.b.is_nan(x if x.type.dtype.is_float else c.cast(x, DType.f32))


@aten("isinf")
def isinf(c: Call, x: Value) -> Value:
    return c.b.is_inf(x if x.type.dtype.is_float else c.cast(x, DType.f32))

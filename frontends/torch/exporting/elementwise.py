"""Element-wise ops: arithmetic, logic, activations, casts."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ....ir.ops.epilogue import activation_op
from ..tensors import torch_dtype
from .table import FORWARD, Step, computes, plain, real, refuses

_SAME_NAMES = """abs add ceil floor mul neg relu round sign sub where"""
for _op in _SAME_NAMES.split():
    plain(getattr(torch, _op), _op)


def _real(f: Callable[[Tensor], Tensor], name: str) -> None:
    """Of integers a double, cut to an integer again."""
    plain(lambda x: f(real(x)).to(x.dtype), name)


_REAL_NAMES = """acos acosh asin asinh atan atanh cos cosh erf exp log reciprocal sigmoid sin sinh
sqrt tan tanh"""
for _op in _REAL_NAMES.split():
    _real(getattr(torch, _op), _op)
plain(F.softplus, "softplus")
plain(torch.eq, "equal")
plain(torch.gt, "greater")
plain(torch.ge, "greater_or_equal")
plain(torch.lt, "less")
plain(torch.le, "less_or_equal")
plain(torch.logical_and, "and")
plain(torch.logical_or, "or")
plain(torch.logical_xor, "xor")
plain(torch.logical_not, "not")
plain(torch.bitwise_and, "bitwise_and")
plain(torch.bitwise_or, "bitwise_or")
plain(torch.bitwise_xor, "bitwise_xor")
plain(torch.bitwise_not, "bitwise_not")
plain(torch.isnan, "is_nan")
plain(F.hardswish, "hard_swish")
plain(F.mish, "mish")
plain(F.softsign, "softsign")
plain(lambda x: x, "identity")
plain(lambda *xs: functools.reduce(torch.maximum, xs), "max")
plain(lambda *xs: functools.reduce(torch.minimum, xs), "min")
plain(lambda *xs: functools.reduce(operator.add, xs), "sum")
plain(lambda *xs: functools.reduce(operator.add, xs) / len(xs), "mean")


@computes("div")
def div(step: Step, a: Tensor, b: Tensor) -> Tensor:
    """Integers toward zero."""
    if a.is_floating_point():
        return a / b
    return torch.where(b == 0, 0, torch.div(a, torch.where(b == 0, 1, b), rounding_mode="trunc"))


@computes("mod")
def mod(step: Step, a: Tensor, b: Tensor) -> Tensor:
    f = torch.fmod if step.op.fmod else torch.remainder
    if a.is_floating_point():
        return f(a, b)
    return torch.where(b == 0, 0, f(a, torch.where(b == 0, 1, b)))


@computes("pow")
def pow(step: Step, a: Tensor, b: Tensor) -> Tensor:
    known = step.operands[1]
    if known is not None and known.value is not None and known.value.size == 1:
        # By a number: its gradient is right at 0, where that by a tensor asks for log 0.
        return (
            torch.pow(a, known.value.reshape(()).item())
            .to(a.dtype)
            .expand(torch.broadcast_shapes(a.shape, b.shape))
        )
    return torch.pow(a, b.to(a.dtype) if a.is_floating_point() else b).to(a.dtype)


@computes("is_inf")
def is_inf(step: Step, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if step.op.detect_positive:
        found = found | torch.isposinf(x)
    return found | torch.isneginf(x) if step.op.detect_negative else found


@refuses("cast", "cast_like")
def _narrow(step: Step) -> str | None:
    kind = step.dtypes[0]
    return f"an element type of {kind.bits} bits" if kind.bits < 8 else None


@computes("cast")
def cast(step: Step, x: Tensor) -> Tensor:
    return x.to(torch_dtype(step.op.to))


@computes("cast_like")
def cast_like(step: Step, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@computes("dropout")
def dropout(step: Step, x: Tensor, ratio: Tensor | None = None, _: Any = None) -> Any:
    """Drops in training mode. A ratio left out is 1/2, as in the ONNX standard."""
    y = x
    if step.training:
        p = 0.5 if ratio is None else step.number(ratio, 1)
        shared = {a % x.ndim for a in step.op.shared}
        kept = x.new_ones([1 if i in shared else n for i, n in enumerate(x.shape)])
        if step.op.alpha and shared:
            y = F.feature_alpha_dropout(x, p, True)
        elif step.op.alpha:
            y = F.alpha_dropout(x, p, True)
        else:
            y = x * F.dropout(kept, p) if shared else F.dropout(x, p)
    return (y, torch.ones_like(x, dtype=torch.bool)) if step.op.outputs == 2 else y


# ---- activations -------------------------------------------------------------------------------


@computes("clip")
def clip(step: Step, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low.reshape(()))
    return x if high is None else torch.minimum(x, high.reshape(()))


@computes("leaky_relu")
def leaky_relu(step: Step, x: Tensor) -> Tensor:
    return F.leaky_relu(x, step.op.alpha)


@computes("prelu")
def prelu(step: Step, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


@computes("elu")
def elu(step: Step, x: Tensor) -> Tensor:
    return F.elu(x, step.op.alpha)


@computes("celu")
def celu(step: Step, x: Tensor) -> Tensor:
    return F.celu(x, step.op.alpha)


@computes("selu")
def selu(step: Step, x: Tensor) -> Tensor:
    a, g = step.op.alpha, step.op.gamma
    return g * torch.where(x > 0, x, a * torch.expm1(torch.clamp(x, max=0)))


@computes("thresholded_relu")
def thresholded_relu(step: Step, x: Tensor) -> Tensor:
    return torch.where(x > step.op.alpha, x, 0)


@computes("hard_sigmoid")
def hard_sigmoid(step: Step, x: Tensor) -> Tensor:
    return torch.clamp(x * step.op.alpha + step.op.beta, 0, 1)


@computes("swish")
def swish(step: Step, x: Tensor) -> Tensor:
    return F.silu(x) if step.op.alpha == 1 else x * torch.sigmoid(x * step.op.alpha)


@computes("gelu")
def gelu(step: Step, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=step.op.approximate)


@computes("shrink")
def shrink(step: Step, x: Tensor) -> Tensor:
    b, t, v = step.op.bias, step.op.lambd, real(x)
    return torch.where(v < -t, v + b, torch.where(v > t, v - b, torch.zeros_like(v))).to(x.dtype)


@computes("softmax")
def softmax(step: Step, x: Tensor) -> Tensor:
    return F.softmax(x, step.op.axis)


@computes("log_softmax")
def log_softmax(step: Step, x: Tensor) -> Tensor:
    return F.log_softmax(x, step.op.axis)


def activate(step: Step, y: Tensor, slope: Tensor | None = None) -> Tensor:
    """The activation that a fused op names."""
    name, params = step.op.activation, step.op.params
    if slope is not None:
        return torch.where(y >= 0, y, y * slope.reshape(-1, *[1] * (y.ndim - 2)))
    if name == "clip":
        low, high = params
        return torch.clamp(y, low, high)
    op = activation_op(name, params)
    return y if op is None else FORWARD[op.name](Step(step.name, op, (), step.dtypes), y)

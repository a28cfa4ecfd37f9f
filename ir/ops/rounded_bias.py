"""A bias as the integer program will have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VerifyError
from ..numerics import ROUNDING
from ..op import Abstract, Array, Inferred, Op, register
from .common import check_float, check_rank, check_same, check_vector

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

SMALLEST = 2.0**-100
"""Of a step: below it a bias is left as it is."""


@register
@dataclass(frozen=True)
class RoundBias(Op):
    """A bias in whole steps of an int32 accumulator: rhe(bias / scale) * scale.

    The bias of a batch normalization is rounded so that the sum is in whole steps once the
    normalization is folded into the product before it:

        a = gamma / sqrt(var + epsilon)    f = bias - (mean - inner) * a    t = scale * |a|
        bias + (rhe(f / t) * t - f)

    with `inner` the product's own bias. At few bits the steps are coarse beside those of the
    result, so that training has to know of them. The gradient goes straight through to the bias.
    `scale` is a scalar or has an element for each channel, all others are vectors of channels.
    """

    numerics = ROUNDING.but(ties="to even")
    onnx = None
    axes = "bias[c] scale[] gamma[c] mean[c] var[c] inner[c] -> y[c]"
    settings = ("scale", "gamma", "mean", "var", "inner")
    straight_through = True
    epsilon: float = 1e-5

    def infer(
        self, bias: Abstract, scale: Abstract, gamma: Abstract | None = None,
        mean: Abstract | None = None, var: Abstract | None = None, inner: Abstract | None = None,
    ) -> Inferred:  # fmt: skip
        check_float(bias, "the bias")
        check_rank(bias, 1, "the bias")
        check_same(bias, scale, gamma, mean, var, inner)
        if bias.shape is not None and len(bias.shape) != 1:
            raise VerifyError(f"the bias is {bias.type}, which is no vector")
        count = bias.shape[0] if bias.shape else None
        if scale.shape not in ((), (1,)):
            check_vector(scale, count, "the scale")
        for name, v in (("gamma", gamma), ("mean", mean), ("var", var)):
            if (v is None) != (gamma is None):
                raise VerifyError(f"{name} is there without the others, or not there with them")
            if v is not None:
                check_vector(v, count, name)
        if inner is not None:
            check_vector(inner, count, "the inner bias")
        return bias.type

    def reference(
        self, bias: Array, scale: Array, gamma: Array | None = None, mean: Array | None = None,
        var: Array | None = None, inner: Array | None = None,
    ) -> Array:  # fmt: skip
        kind = bias.dtype.type
        with np.errstate(all="ignore"):
            if gamma is None or mean is None or var is None:
                return np.rint(bias / scale) * scale
            a = gamma / np.sqrt(var + kind(self.epsilon))
            f = bias - (mean if inner is None else mean - inner) * a
            t = np.maximum(scale * np.abs(a), kind(SMALLEST))
            return bias + (np.rint(f / t) * t - f)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        bias, scale, gamma, mean, var, inner = [*operands, *[None] * 6][:6]
        assert bias is not None and scale is not None
        if gamma is None or mean is None or var is None:
            return b.mul(b.round(b.div(bias, scale)), scale)
        a = b.div(gamma, b.sqrt(b.add(var, b.number(self.epsilon, var))))
        f = b.sub(bias, b.mul(mean if inner is None else b.sub(mean, inner), a))
        t = b.max(b.mul(scale, b.abs(a)), b.number(SMALLEST, bias))
        return b.add(bias, b.sub(b.mul(b.round(b.div(f, t)), t), f))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (gradients[0], *[None] * (len(operands) - 1))

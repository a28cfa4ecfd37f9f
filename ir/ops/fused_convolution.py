"""Convolutions with what follows them: an activation and a residual sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..dependence import Dependences
from ..errors import VerifyError
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..types import TensorType
from .adjoint import ints, rank_of
from .common import check_residual, check_same, check_vector, in_wide
from .convolution import Conv, ConvTranspose, along_channels
from .epilogue import activate, activated, activation_op, ended

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

SLOPED = "prelu"


@dataclass(frozen=True)
class Ending:
    """What fused convolutions share: f(y + residual), or f(y) + residual if `residual_last`.

    `activation` and `params` as in epilogue.py, or `prelu`, with the operand slope: one number for
    each channel or one for all.
    """

    activation: str = ""
    params: tuple[float, ...] = ()
    residual_last: bool = False

    plain: ClassVar[Any]
    """The op without an ending."""

    def infer(
        self, x: Abstract, weight: Abstract, bias: Abstract | None = None,
        residual: Abstract | None = None, slope: Abstract | None = None,
    ) -> Inferred:  # fmt: skip
        made = self.plain.infer(self, x, weight, bias)
        self.check_ending(made, x, residual, slope)
        return made

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return ended(self.activation, self.plain.dependence(self, operands, results))

    def reference(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None,
        slope: Array | None = None,
    ) -> Array:  # fmt: skip
        def run(x: Array, w: Array, c: Array | None, r: Array | None, s: Array | None) -> Any:
            return self.finished(self.plain._run(self, x, w, c), r, s)

        return in_wide(run, x, weight, bias, residual, slope)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        x, weight, bias, residual, slope = operands
        plain = self.plain(**{a.name: getattr(self, a.name) for a in self.plain.attributes})
        return self.ended(b, b.add_op(plain, x, weight, bias), residual, slope)

    gradient = Op.gradient  # of the whole, by its definition

    def check_ending(
        self, made: Inferred, x: Abstract, residual: Abstract | None, slope: Abstract | None
    ) -> None:
        """Raises VerifyError where operands or attributes do not fit the result `made`."""
        assert isinstance(made, TensorType)
        self.activation_op()
        if (slope is not None) != (self.activation == SLOPED):
            raise VerifyError("a slope goes with the activation prelu, and with no other")
        if slope is not None:
            check_same(x, slope)
            channels = None if made.shape is None else made.shape[1]
            check_vector(slope, 1 if slope.shape == (1,) else channels, "the slope")
        if residual is None:
            return
        check_same(x, residual)
        check_residual(residual, made)

    def activation_op(self) -> Op | None:
        """The activation as an op; None for none, and for clip and prelu, which have operands."""
        if self.activation != SLOPED:
            return activation_op(self.activation, self.params)
        if self.params:
            raise VerifyError("the activation prelu takes no params")
        return None

    def finished(self, y: Array, residual: Array | None, slope: Array | None) -> Array:
        if residual is not None and not self.residual_last:
            y = y + residual
        y = self.activated(y, slope)
        return y + residual if residual is not None and self.residual_last else y

    def activated(self, y: Array, slope: Array | None) -> Array:
        if slope is not None:
            return np.where(y >= 0, y, y * along_channels(slope, y.ndim))
        return activate(y, self.activation, self.params)

    def ended(self, b: Builder, y: Value, residual: Value | None, slope: Value | None) -> Value:
        """What `finished` computes, as nodes."""
        if residual is not None and not self.residual_last:
            y = b.add(y, residual)
        if slope is not None:
            shape = ints(b, -1, *[1] * (rank_of(y) - 2))
            y = b.prelu(y, b.reshape(slope, shape))
        else:
            y = activated(b, y, self.activation, self.params)
        return b.add(y, residual) if residual is not None and self.residual_last else y


@register
@dataclass(frozen=True)
class FusedConv(Ending, Conv):
    """activation(conv(x, weight, bias) + residual), or activation(conv(...)) + residual

    The latter with `residual_last`. The activation prelu takes a slope for each channel.
    """

    onnx = None
    axes = (
        "x[n,group*i,...@k] weight[group*o,i,k...] bias[group*o] residual[n?,group*o?,...]"
        " slope[group*o] -> y[n,group*o,...]"
    )
    plain = Conv


@register
@dataclass(frozen=True)
class FusedConvTranspose(Ending, ConvTranspose):
    """As FusedConv, for conv_transpose"""

    onnx = None
    axes = (
        "x[n,group*i,p...] weight[group*i,o,k...] bias[group*o] residual[n?,group*o?,...]"
        " slope[group*o] -> y[n,group*o,p...@k]"
    )
    plain = ConvTranspose

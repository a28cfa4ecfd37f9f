"""Products whose left operand is quantized while the program runs, a scale for each row.

docs/quantization.md defines the arithmetic. A row with NaN or an infinity gets a scale that is not
finite either, and every product made of it is NaN: bad values are not hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import Dependences
from ..errors import VerifyError
from ..numerics import QUANTIZATION, SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, register
from ..traits import MATRIX
from ..types import DType, TensorType, broadcast
from .common import check_residual, check_vector, differs
from .epilogue import activate, activation_op, ended
from .integer import check_matrix_zero_point, check_narrow, matrix_shifted, wrap32
from .linear import matmul_cost, matmul_shape, product_dependence
from .quantization import check_scale, saturated

if TYPE_CHECKING:
    from ..build import Builder

SMALLEST_SPAN = np.float32(2.0**-100)
"""A row's range counts as at least this, so that neither 1 / span nor scale * 255 overflows."""


@register
@dataclass(frozen=True)
class QuantizeRows(Op):
    """Each row (last axis) as u8 over its own range, all in single precision:

        symmetric   span = max(max |x|, 2^-100)                     scale = span / 127
                    y = rhe(x * (127 / span)) + 128                 zero_point = 128
        otherwise   low = min(x, 0), span = max(max(x, 0) - low, 2^-100), scale = span / 255
                    y = min(rhe(x * (255 / span)) + zero_point, 255)
                    zero_point = rhe(-low * (255 / span))

    rhe(NaN) counts as 0. Scales and zero points keep the axis, with one element.
    """

    numerics = QUANTIZATION.but(
        nan="its row is all zero points",
        infinity="its row is all zero points",
    )
    straight_through = True
    onnx = None
    axes = "x[...,k!] -> y[...,k] y_scale[...,1] y_zero_point[...,1]"
    results = ("y", "y_scale", "y_zero_point")
    symmetric: bool = True

    def infer(self, x: Abstract) -> Inferred:
        if x.dtype is not DType.f32:
            raise VerifyError(f"the operand is {x.type}, which is not f32")
        if x.shape == ():
            raise VerifyError("a scalar has no rows")
        shape = None if x.shape is None else (*x.shape[:-1], 1)
        scales = TensorType(DType.f32, shape)
        return x.type.with_dtype(DType.u8), scales, scales.with_dtype(DType.u8)

    def reference(self, x: Array) -> Any:
        def extreme(fold: Any, values: Array) -> Array:
            return fold(values, axis=-1, keepdims=True, initial=np.float32(0))

        with np.errstate(all="ignore"):
            if self.symmetric:
                steps, low, span = np.float32(127), None, extreme(np.max, np.abs(x))
            else:
                steps, low = np.float32(255), extreme(np.min, x)
                span = extreme(np.max, x) - low
            span = np.maximum(span, SMALLEST_SPAN)
            factor = steps / span
            zero = np.full(span.shape, 128, np.float32) if low is None else np.rint(-low * factor)
            zero = np.where(np.isnan(zero), 0, zero)
            y = saturated(np.rint(x * factor), zero, DType.u8)
            return y, span / steps, zero.astype(np.uint8)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        g = gradients[0]  # straight through, with the scale as it is
        return (None if g is None else b.div(g, results[1]),)


@register
@dataclass(frozen=True)
class ScaledMatMul(Op):
    """activation((f32(acc) * b_scale) * a_scale + bias + residual) in single precision, rounded
    after each operation; acc is `mat_mul_integer`'s sum over k of (a[..., m, k] - a_zero_point) *
    (b[..., k, n] - b_zero_point), modulo 2^32

    a's scale and zero point are scalars or one per row, b's one per column (vectors, or the
    operand's shape with 1 on the other axis). bias is a vector of the columns, residual broadcasts
    to the result. `activation` and `params` are fused_conv's.
    """

    weighted = replace(MATRIX, bias="bias", integer=True)
    numerics = SUMS
    not_differentiable = "its operands are integers: differentiate before lowering"
    onnx = None
    axes = (
        "a[...,m,k] b[...,k,n] a_scale[m?] b_scale[n?] a_zero_point[m?] b_zero_point[n?] bias[n]"
        " residual[...,m?,n?] -> y[...,m,n]"
    )
    activation: str = ""
    params: tuple[float, ...] = ()

    def infer(
        self,
        a: Abstract,
        b: Abstract,
        a_scale: Abstract,
        b_scale: Abstract,
        a_zero_point: Abstract | None = None,
        b_zero_point: Abstract | None = None,
        bias: Abstract | None = None,
        residual: Abstract | None = None,
    ) -> Inferred:
        for x, name in ((a, "a"), (b, "b")):
            check_narrow(x, name)
            if x.shape is not None and len(x.shape) < 2:
                raise VerifyError(f"{name} is {x.type}, which is no matrix")
        check_matrix_scale(a_scale, a, -2)
        check_matrix_scale(b_scale, b, -1)
        check_matrix_zero_point(a_zero_point, a, -2)
        check_matrix_zero_point(b_zero_point, b, -1)
        activation_op(self.activation, self.params)
        made = TensorType(DType.f32, matmul_shape(a.shape, b.shape))
        for x, name in ((bias, "bias"), (residual, "residual")):
            if x is not None and x.dtype is not DType.f32:
                raise VerifyError(f"the {name} {x.type} does not fit {made}")
        check_vector(bias, None if b.shape is None else b.shape[-1], "the bias")
        check_residual(residual, made)
        return made

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        found = product_dependence(self, operands, results, (0, 1), (2, 4), (3, 5))
        return ended(self.activation, found)

    def reference(
        self,
        a: Array,
        b: Array,
        a_scale: Array,
        b_scale: Array,
        a_zero_point: Array | None = None,
        b_zero_point: Array | None = None,
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        acc = matrix_shifted(a, a_zero_point, -2) @ matrix_shifted(b, b_zero_point, -1)
        with np.errstate(all="ignore"):
            y = wrap32(acc).astype(np.float32) * _spread(b_scale, -1) * _spread(a_scale, -2)
            for x in (bias, residual):
                y = y if x is None else y + x
            return activate(y, self.activation, self.params)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        return matmul_cost(operands[0], operands, results[0])


def check_matrix_scale(scale: Abstract, x: Abstract, axis: int) -> None:
    """As `check_matrix_zero_point`: a scalar, a vector along `axis`, or x's shape with a 1.

    Scales of rows (axis -2) may be anything, since computed ones show what is not finite.
    """
    if axis == -1:
        check_scale(scale)
    if scale.dtype is not DType.f32:
        raise VerifyError(f"a scale is {scale.type}, which is not f32")
    if scale.shape is None or x.shape is None or scale.shape in ((), (1,)):
        return
    if len(scale.shape) == 1:
        check_vector(scale, x.shape[axis], "a scale")
    elif differs(scale.shape[-1 if axis == -2 else -2], 1) or not x.type.accepts(
        TensorType(x.dtype, broadcast(x.shape, scale.shape))
    ):
        raise VerifyError(f"the scale {scale.type} does not fit {x.type}")


def _spread(v: Array, axis: int) -> Array:
    """A scale as it broadcasts to the product."""
    if v.size == 1 and v.ndim < 2:
        return v.reshape(())
    return v.reshape(-1, 1) if v.ndim == 1 and axis == -2 else v

"""The real level of quantization: ONNX's quantize, dequantize and QLinear ops.

docs/quantization.md defines the arithmetic. Scales must be finite and positive: a constant one is
refused by inference (VerifyError), another when it is run (FeedError).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from typing import cast as typed

import numpy as np

from ..affine import ZERO, Affine
from ..dependence import Dependences
from ..errors import FeedError, VerifyError
from ..numerics import QUANTIZATION, STRUCTURE
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, register
from ..relate import Space, everything, is_given, shape_at
from ..traits import CONVOLUTION, MATRIX
from ..types import DType, Shape, TensorType
from .adjoint import in_type_of, ints, known_shape, places, put, rank_of, shaped, where
from .common import cast, check_axis, check_float, check_scalar, check_vector, differs, wide
from .convolution import Convolution, along_channels, convolve
from .integer import (
    check_matrix_zero_point,
    check_narrow,
    integer_conv_dims,
    matrix_shifted,
    shifted,
    wrap32,
)
from .linear import matmul_cost, matmul_shape, product_dependence
from .minifloat import bounds_of

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

STORED = (DType.i8, DType.u8, DType.i16, DType.u16, DType.i4, DType.u4, DType.i2, DType.u2)
STORED_FLOATS = (DType.f8e4m3fn, DType.f8e5m2, DType.f8e4m3fnuz, DType.f8e5m2fnuz, DType.f4e2m1fn)

NOT_FINITE = "a value to be quantized is not finite"
UNFIT_SCALE = "a quantization scale is not a finite positive number"


def check_quantization(
    scale: Array, zero_point: Array | None, error: type[FeedError | VerifyError] = VerifyError
) -> None:
    """Scales are finite and positive and have the zero points' shape. Raises `error`."""
    values = np.asarray(scale, np.float64)
    if not np.all(np.isfinite(values)) or not np.all(values > 0):
        raise error(UNFIT_SCALE)
    if zero_point is not None and zero_point.size > 1 and zero_point.shape != scale.shape:
        raise error("zero points and scales differ in shape")


def check_scale(scale: Abstract, zero_point: Abstract | None = None) -> None:
    check_float(scale, "the scale")
    _check_values(scale, zero_point)


def _check_values(scale: Abstract, zero_point: Abstract | None) -> None:
    if scale.value is not None:
        zero = None if zero_point is None else zero_point.value
        check_quantization(scale.value, zero)


@dataclass(frozen=True)
class Quantization(Op):
    """Axis and block size of a scale: one for the tensor (a scalar), one per index of `axis` (a
    vector), or one per `block_size` elements along it (x's rank).
    """

    settings = ("scale", "zero_point")
    axis: int = 1
    block_size: int = 0

    def check_layout(self, x: Abstract, scale: Abstract, zero_point: Abstract | None) -> None:
        """Raises VerifyError where the scale does not fit x."""
        if scale.dtype is DType.f8e8m0fnu:  # the scales of microscaling formats
            _check_values(scale, zero_point)
        else:
            check_scale(scale, zero_point)
        if self.block_size < 0:
            raise VerifyError(f"block_size is {self.block_size}, which is negative")
        if zero_point is not None and not scale.type.with_dtype(zero_point.dtype).accepts(
            zero_point.type
        ):
            single = zero_point.shape in ((), (1,)) and scale.shape in ((), (1,))
            if not single:
                raise VerifyError(f"zero point {zero_point.type} and scale {scale.type} differ in "
                                  "shape")  # fmt: skip
        if scale.shape in (None, (), (1,)) or x.shape is None:
            return
        axis = check_axis(self.axis, len(x.shape))
        if not self.block_size:
            check_vector(scale, x.shape[axis], "the scale")
            return
        assert scale.shape is not None
        if len(scale.shape) != len(x.shape):
            raise VerifyError(f"the scale {scale.type} of blocks has not the rank of {x.type}")
        for i, (n, m) in enumerate(zip(x.shape, scale.shape)):
            want = -(-n // self.block_size) if i == axis and isinstance(n, int) else n
            if differs(want if i != axis or isinstance(n, int) else None, m):
                raise VerifyError(f"the scale {scale.type} does not fit blocks of "
                                  f"{self.block_size} along axis {axis} of {x.type}")  # fmt: skip

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, shape = Space(operands, results), shape_at(operands, 0)
        own, scale, block = s.loops(shape), shape_at(operands, 1), ZERO
        if self.block_size and scale not in ((), (1,)):
            at = self.axis % len(shape)
            block = s.loop("block", scale[at])
            own[at] = block.scaled(self.block_size) + s.digit("inside", self.block_size)
        for o in (1, 2):
            if is_given(operands, o):
                s.relate(o, 0, self._spread_from(shape_at(operands, o), own, block), own)
        s.relate(0, 0, own, own)
        return s.made()

    def _spread_from(self, given: Shape, own: Sequence[Affine], block: Affine) -> Sequence[Affine]:
        """Which scale (or zero point) is read for the element of x at `own`."""
        if given in ((), (1,)):
            return (ZERO,) * len(given)
        at = self.axis % len(own)
        return (*own[:at], block, *own[at + 1 :]) if self.block_size else (own[at],)

    def spread(self, v: Array, shape: tuple[int, ...]) -> Array:
        """Scales or zero points as they broadcast to x's shape."""
        if v.size == 1 and v.ndim <= 1:
            return v.reshape(())
        axis = check_axis(self.axis, len(shape))
        if not self.block_size:
            return v.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.take(v, np.arange(shape[axis]) // self.block_size, axis=axis)

    def spread_value(self, b: Builder, v: Value, x: Value) -> Value:
        """What `spread` computes, as nodes."""
        if known_shape(v) in ((), (1,)):
            return b.reshape(v, ints(b))
        axis = check_axis(self.axis, rank_of(x))
        if not self.block_size:
            return b.reshape(v, ints(b, *(-1 if i == axis else 1 for i in range(rank_of(x)))))
        return b.gather(v, self._blocks(b, x, axis), axis=axis)

    def _blocks(self, b: Builder, x: Value, axis: int) -> Value:
        return b.div(places(b, x, axis), b.constant(np.int64(self.block_size)))

    def gathered(self, b: Builder, g: Value, scale: Value, x: Value) -> Value:
        """g, of x's shape, summed into the scale's: the adjoint of `spread_value`."""
        if known_shape(scale) in ((), (1,)):
            return shaped(b, b.reduce_sum(g, keepdims=False), scale)
        axis = check_axis(self.axis, rank_of(x))
        if self.block_size:
            return shaped(b, put(b, g, self._blocks(b, x, axis), scale, axis), scale)
        over = ints(b, *(i for i in range(rank_of(x)) if i != axis))
        return shaped(b, b.reduce_sum(g, over, keepdims=False), scale)


@register
@dataclass(frozen=True)
class QuantizeLinear(Quantization):
    """clamp(rhe(x / scale) + zero_point, lo, hi); NaN gives the zero point

    The result has the zero point's element type, else `output_dtype`, else u8. The division is in
    single precision (double for f64). To a float of 8 or 4 bits x / scale + zero_point is cast as
    `cast` does, by `saturate`; NaN stays NaN there.
    """

    numerics = QUANTIZATION.but(
        nan="the zero point; to a float of 8 bits: NaN",
        overflow="saturates; a scale that is not finite and positive is refused",
    )
    straight_through = True
    minifloats = True
    output_dtype: DType | None = None
    saturate: bool = True

    @staticmethod
    def divides_in(dtype: DType) -> DType:
        """The type in which numbers of this one are divided by their scale."""
        return DType.f64 if dtype is DType.f64 else DType.f32

    def result_dtype(self, zero_point: DType | None) -> DType:
        dtype = zero_point or self.output_dtype or DType.u8
        if self.output_dtype not in (None, dtype) or dtype not in STORED + STORED_FLOATS:
            other = f", output_dtype {self.output_dtype.value}" if self.output_dtype else ""
            raise VerifyError(f"cannot quantize to {dtype.value}{other}")
        return dtype

    def infer(self, x: Abstract, scale: Abstract, zero_point: Abstract | None = None) -> Inferred:
        if not x.dtype.is_float and x.dtype is not DType.i32:
            raise VerifyError(f"the operand is {x.type}, which is neither a float type nor i32")
        dtype = self.result_dtype(None if zero_point is None else zero_point.dtype)
        self.check_layout(x, scale, zero_point)
        return x.type.with_dtype(dtype)

    def reference(self, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
        check_quantization(scale, zero_point, FeedError)
        dtype = self.result_dtype(None if zero_point is None else DType.of(zero_point))
        kind = self.divides_in(DType.of(x)).numpy
        steps = x.astype(kind) / self.spread(wide(scale), x.shape).astype(kind)
        zero = None if zero_point is None else self.spread(zero_point, x.shape)
        if not dtype.is_minifloat:
            return saturated(np.rint(steps), zero, dtype)
        if zero is not None:
            shift = zero.astype(kind)
            steps = np.where(shift == 0, steps, steps + shift)  # -0 keeps its sign
        return cast(steps, dtype, self.saturate)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        """Straight through the rounding (Y. Bengio and others, 2013): 1 / scale within the range,
        0 where it clips. With DequantizeLinear's, the scale's gradient is that of LSQ: x's error
        in steps within the range, the bound itself outside (S. Esser and others, 2020).
        """
        (x, scale, zero), (y,), (g,) = operands, results, gradients
        real = in_type_of(b, x, g)
        factor = self.spread_value(b, in_type_of(b, scale, g), x)
        steps = b.div(real, factor)
        shift = b.number(0, g) if zero is None else \
            self.spread_value(b, b.cast(zero, to=g.type.dtype), x)  # fmt: skip
        low, high = (b.number(v, g) for v in bounds_of(y.type.dtype))
        place = b.add(steps, shift)
        place = place if y.type.dtype.is_minifloat else b.round(place)
        inside = b.and_(b.greater_or_equal(place, low), b.less_or_equal(place, high))
        each = where(b, inside, b.div(g, factor))
        dx = in_type_of(b, each, x) if x.type.dtype.is_float else None
        if not b.wants(scale):
            return (dx,)
        dscale = self.gathered(b, b.neg(b.mul(each, steps)), scale, x)
        return dx, in_type_of(b, dscale, scale)


def saturated(steps: Array, zero: Array | None, dtype: DType) -> Array:
    """clamp(steps + zero) for rounded steps, exact in double precision; NaN counts as 0."""
    low, high = dtype.bounds
    values = np.where(np.isnan(steps), 0, steps).astype(np.float64)
    if zero is not None:
        values = values + zero.astype(np.float64)
    return np.clip(values, low, high).astype(np.int32).astype(dtype.numpy)


@register
@dataclass(frozen=True)
class DequantizeLinear(Quantization):
    """(x - zero_point) * scale, in the scale's element type or `output_dtype`, which a scale of
    type f8e8m0fnu needs
    """

    numerics = STRUCTURE.but(
        nan="of a float of 8 bits: stays NaN",
        overflow="to infinity; a scale that is not finite and positive is refused",
    )
    minifloats = True
    output_dtype: DType | None = None

    def infer(self, x: Abstract, scale: Abstract, zero_point: Abstract | None = None) -> Inferred:
        if x.dtype not in (*STORED, *STORED_FLOATS, DType.i32):
            raise VerifyError(f"the operand is {x.type}, which is not a quantized type")
        if zero_point is not None and zero_point.dtype is not x.dtype:
            raise VerifyError(f"{x.type} and its zero point {zero_point.type} differ in type")
        if self.output_dtype is not None and not self.output_dtype.is_float:
            raise VerifyError(f"cannot dequantize to {self.output_dtype.value}")
        self.check_layout(x, scale, zero_point)
        if self.output_dtype is None and not scale.dtype.is_float:
            raise VerifyError(f"the scale is {scale.type}, in which there is no result",
                              hint="give output_dtype")  # fmt: skip
        return x.type.with_dtype(self.output_dtype or scale.dtype)

    def reference(self, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
        check_quantization(scale, zero_point, FeedError)
        exact = np.float32 if DType.of(x).is_minifloat else np.int64
        steps = x.astype(exact)
        if zero_point is not None:
            steps = steps - self.spread(zero_point, x.shape).astype(exact)
        factor = self.spread(wide(scale), x.shape)
        made = self.output_dtype.numpy if self.output_dtype else scale.dtype
        return (steps.astype(factor.dtype) * factor).astype(made)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, scale, zero), (g,) = operands, gradients
        if scale.type.dtype.is_float:
            g = in_type_of(b, g, scale)
        else:
            scale = in_type_of(b, scale, g)
        dx = b.mul(g, self.spread_value(b, scale, x))
        if not b.wants(scale):
            return (dx,)
        steps = b.cast(x, to=g.type.dtype)
        if zero is not None:
            steps = b.sub(steps, self.spread_value(b, b.cast(zero, to=g.type.dtype), x))
        return dx, self.gathered(b, b.mul(g, steps), scale, x)


@register
@dataclass(frozen=True)
class DynamicQuantizeLinear(Op):
    """x as u8 over its own range, with that scale and zero point:

    scale = (max(x, 0) - min(x, 0)) / 255           (1 where that is 0)
    zero_point = clamp(rhe(-min(x, 0) / scale), 0, 255)
    """

    numerics = QUANTIZATION.but(nan="refused (FeedError)", infinity="refused (FeedError)")
    straight_through = True
    results = ("y", "y_scale", "y_zero_point")

    def infer(self, x: Abstract) -> Inferred:
        if x.dtype is not DType.f32:
            raise VerifyError(f"the operand is {x.type}, which is not f32")
        return (
            x.type.with_dtype(DType.u8),
            TensorType(DType.f32, ()),
            TensorType(DType.u8, ()),
        )

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return everything(operands, results, "the scale is the whole tensor's")

    def reference(self, x: Array) -> Any:
        if not np.all(np.isfinite(x)):
            raise FeedError(NOT_FINITE)
        low = np.min(x, initial=np.float32(0))
        high = np.max(x, initial=np.float32(0))
        scale = (high - low) / np.float32(255) or np.float32(1)
        zero = np.clip(np.rint(-low / scale), 0, 255)
        y = saturated(np.rint(x / scale), zero, DType.u8)
        return y, np.asarray(scale, np.float32), zero.astype(np.uint8)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        g = gradients[0]  # straight through, with the scale as it is
        return (None if g is None else b.div(g, results[1]),)


# ---- QLinear: dequantize, compute, quantize in one op ------------------------------------------


def _requantized(acc: Array, factor: Array, zero: Array) -> Array:
    """An int32 accumulator times a single-precision factor, rounded and saturated."""
    steps = np.rint(acc.astype(np.float32) * factor)
    return saturated(steps, zero.reshape(()), DType.of(zero))


def _check_result(scale: Abstract, zero: Abstract) -> None:
    check_scale(scale)
    check_narrow(zero, "y's zero point")
    for v in (scale, zero):
        check_scalar(v, "y's scale or zero point")


@register
@dataclass(frozen=True)
class QLinearConv(Convolution):
    """quantize(conv(dequantize(x), dequantize(w)) + bias): the int32 sum of
    (x - x_zero_point) * (w - w_zero_point) + bias is multiplied by x_scale * w_scale / y_scale in
    single precision, rounded half to even and saturated. bias is int32 of scale x_scale * w_scale.
    """

    weighted = replace(CONVOLUTION, weight="w", integer=True)
    numerics = QUANTIZATION.but(nan="", infinity="")
    axes = (
        "x[n,group*i!,...@k!] x_scale[] x_zero_point[] w[group*o,i!,k...!] w_scale[group*o]"
        " w_zero_point[group*o] y_scale[] y_zero_point[] bias[group*o] -> y[n,group*o,...]"
    )

    def infer(
        self,
        x: Abstract,
        x_scale: Abstract,
        x_zero_point: Abstract,
        w: Abstract,
        w_scale: Abstract,
        w_zero_point: Abstract,
        y_scale: Abstract,
        y_zero_point: Abstract,
        bias: Abstract | None = None,
    ) -> Inferred:
        shape = integer_conv_dims(self, x, w, x_zero_point, w_zero_point, bias)
        channels = None if shape is None else shape[1]
        for scale, count in ((x_scale, 1), (w_scale, channels)):
            check_scale(scale)
            if scale.shape not in ((), (1,)):
                check_vector(scale, count, "a scale")
        _check_result(y_scale, y_zero_point)
        return TensorType(y_zero_point.dtype, shape)

    def reference(
        self,
        x: Array,
        x_scale: Array,
        x_zero_point: Array,
        w: Array,
        w_scale: Array,
        w_zero_point: Array,
        y_scale: Array,
        y_zero_point: Array,
        bias: Array | None = None,
    ) -> Array:
        for s in (x_scale, w_scale, y_scale):
            check_quantization(s, None, FeedError)
        window = self.conv_window(x.shape, w.shape)
        out = typed(tuple[int, ...], self.window_dims(x.shape[2:], window.kernel))
        weight = shifted(w, w_zero_point, (-1,) + (1,) * (w.ndim - 1))
        y = convolve(shifted(x, x_zero_point), weight, window, out, self.group)
        acc = wrap32(y if bias is None else y + along_channels(bias, x.ndim))
        factor = wide(x_scale).reshape(()) * wide(w_scale) / wide(y_scale).reshape(())
        factor = factor.reshape(()) if factor.size == 1 else along_channels(factor, x.ndim)
        return _requantized(acc, factor, y_zero_point)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[3] is not None
        return self.conv_cost(operands, results[0], operands[3])


@register
@dataclass(frozen=True)
class QLinearMatMul(Op):
    """quantize(dequantize(a) @ dequantize(b)): the int32 sum of (a - a_zero_point) *
    (b - b_zero_point) is multiplied by a_scale * b_scale / y_scale in single precision, rounded
    half to even and saturated. a's scale and zero point are scalars or one per row, b's one per
    column.
    """

    weighted = replace(MATRIX, integer=True)
    numerics = QUANTIZATION.but(nan="", infinity="")
    axes = (
        "a[...,m,k!] a_scale[m?] a_zero_point[m?] b[...,k!,n] b_scale[n?] b_zero_point[n?]"
        " y_scale[] y_zero_point[] -> y[...,m,n]"
    )

    def infer(
        self,
        a: Abstract,
        a_scale: Abstract,
        a_zero_point: Abstract,
        b: Abstract,
        b_scale: Abstract,
        b_zero_point: Abstract,
        y_scale: Abstract,
        y_zero_point: Abstract,
    ) -> Inferred:
        check_narrow(a, "a")
        check_narrow(b, "b")
        check_scale(a_scale)
        check_scale(b_scale)
        check_matrix_zero_point(a_zero_point, a, -2)
        check_matrix_zero_point(b_zero_point, b, -1)
        _check_result(y_scale, y_zero_point)
        return TensorType(y_zero_point.dtype, matmul_shape(a.shape, b.shape))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return product_dependence(self, operands, results, (0, 3), (1, 2), (4, 5))

    def reference(
        self,
        a: Array,
        a_scale: Array,
        a_zero_point: Array,
        b: Array,
        b_scale: Array,
        b_zero_point: Array,
        y_scale: Array,
        y_zero_point: Array,
    ) -> Array:
        for s in (a_scale, b_scale, y_scale):
            check_quantization(s, None, FeedError)
        acc = wrap32(matrix_shifted(a, a_zero_point, -2) @ matrix_shifted(b, b_zero_point, -1))
        rows = a_scale.reshape(-1, 1) if a_scale.ndim == 1 and a_scale.size > 1 else a_scale
        rows, columns = (wide(s) if s.size > 1 else wide(s).reshape(()) for s in (rows, b_scale))
        return _requantized(acc, rows * columns / wide(y_scale).reshape(()), y_zero_point)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        return matmul_cost(operands[0], operands, results[0])

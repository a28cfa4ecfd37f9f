"""The integer level: exact arithmetic that every backend repeats to the bit.

docs/quantization.md is the definition in words; this file is the same as code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ..affine import ZERO
from ..dependence import Dependences
from ..errors import FeedError, VerifyError
from ..numerics import INTEGER, STRUCTURE
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..relate import Space, shape_at
from ..traits import CONVOLUTION, MATRIX, Trait
from ..types import Dim, DType, Shape, TensorType, broadcast
from .common import check_axis, check_choice, check_vector
from .convolution import Convolution, along_channels, convolve
from .linear import matmul_cost, matmul_shape, product_dependence
from .pooling import pool
from .windows import Windowed, spatial

NARROW = (DType.i8, DType.u8, DType.i4, DType.u4, DType.i2, DType.u2)
WORDS = (DType.i8, DType.u8, DType.i16, DType.u16)
MAX_SHIFT = 44


def check_narrow(x: Abstract, what: str) -> None:
    if x.dtype not in NARROW:
        raise VerifyError(f"{what} is {x.type}, which is not an integer of 8 bits or fewer")


def check_zero_point(zero: Abstract | None, x: Abstract, count: Dim, what: str) -> None:
    """A zero point has its tensor's type and is a scalar or a vector of `count`."""
    if zero is None:
        return
    if zero.dtype is not x.dtype:
        raise VerifyError(f"{what} is {zero.type}, which differs in element type from {x.type}")
    if zero.shape not in ((), (1,)):
        check_vector(zero, count, what)


def check_accumulator(bias: Abstract | None, what: str = "the bias") -> None:
    if bias is not None and bias.dtype is not DType.i32:
        raise VerifyError(f"{what} is {bias.type}, which is not i32")


def wrap32(x: Array) -> Array:
    """Integers (also as exact doubles) modulo 2^32, as int32."""
    return x.astype(np.int64).astype(np.int32)


def shifted(x: Array, zero: Array | None, shape: Sequence[int] = ()) -> Array:
    """x - zero as doubles. Products of such 8-bit numbers and sums of up to 2^36 of them are exact
    in double precision, whose matrix products are fast.
    """
    values = x.astype(np.float64)
    if zero is None:
        return values
    offset = zero.astype(np.float64)
    return values - (offset.reshape(()) if zero.size == 1 else offset.reshape(shape))


def integer_conv_dims(
    op: Convolution, x: Abstract, w: Abstract, x_zero_point: Abstract | None,
    w_zero_point: Abstract | None, bias: Abstract | None,
) -> Shape | None:  # fmt: skip
    """The result's shape of a convolution of integers, its operands checked. Raises VerifyError."""
    check_narrow(x, "x")
    check_narrow(w, "the weight")
    shape = op.conv_dims(x, w)
    channels = None if shape is None else shape[1]
    check_zero_point(x_zero_point, x, 1, "x's zero point")
    check_zero_point(w_zero_point, w, channels, "the weight's zero point")
    check_accumulator(bias)
    check_vector(bias, channels, "the bias")
    return shape


@register
@dataclass(frozen=True)
class ConvInteger(Convolution):
    """int32: sum((x - x_zero_point) * (w - w_zero_point)) + bias, modulo 2^32

    Padding adds nothing (it stands for x_zero_point). x_zero_point is a scalar, w_zero_point a
    scalar or one per output channel, bias int32. The bias is Taut's addition to ONNX.
    """

    traits = Trait.INTEGER_PRODUCT
    weighted = replace(CONVOLUTION, weight="w", integer=True)
    numerics = INTEGER
    axes = (
        "x[n,group*i,...@k] w[group*o,i,k...] x_zero_point[] w_zero_point[group*o] bias[group*o]"
        " -> y[n,group*o,...]"
    )

    def infer(
        self,
        x: Abstract,
        w: Abstract,
        x_zero_point: Abstract | None = None,
        w_zero_point: Abstract | None = None,
        bias: Abstract | None = None,
    ) -> Inferred:
        shape = integer_conv_dims(self, x, w, x_zero_point, w_zero_point, bias)
        return TensorType(DType.i32, shape)

    def reference(
        self,
        x: Array,
        w: Array,
        x_zero_point: Array | None = None,
        w_zero_point: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        window = self.conv_window(x.shape, w.shape)
        out = cast(tuple[int, ...], self.window_dims(x.shape[2:], window.kernel))
        weight = shifted(w, w_zero_point, (-1,) + (1,) * (w.ndim - 1))
        y = convolve(shifted(x, x_zero_point), weight, window, out, self.group)
        return wrap32(y if bias is None else y + along_channels(bias, x.ndim))

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[1] is not None
        return self.conv_cost(operands, results[0], operands[1])


@register
@dataclass(frozen=True)
class MatMulInteger(Op):
    """int32: sum over k of (a[..., m, k] - a_zero_point) * (b[..., k, n] - b_zero_point) + bias,
    modulo 2^32

    a_zero_point is a scalar or one per row, b_zero_point a scalar or one per column; bias is int32
    and broadcasts to the result (Taut's addition to ONNX).
    """

    traits = Trait.INTEGER_PRODUCT
    weighted = replace(MATRIX, bias="bias", integer=True)
    numerics = INTEGER
    axes = "a[...,m,k] b[...,k,n] a_zero_point[m?] b_zero_point[n?] bias[...,m?,n?] -> y[...,m,n]"

    def infer(
        self,
        a: Abstract,
        b: Abstract,
        a_zero_point: Abstract | None = None,
        b_zero_point: Abstract | None = None,
        bias: Abstract | None = None,
    ) -> Inferred:
        check_narrow(a, "a")
        check_narrow(b, "b")
        shape = matmul_shape(a.shape, b.shape)
        check_matrix_zero_point(a_zero_point, a, -2)
        check_matrix_zero_point(b_zero_point, b, -1)
        check_accumulator(bias)
        made = TensorType(DType.i32, shape)
        if bias is not None:
            joint = broadcast(shape, bias.shape)
            if joint is not None and not made.accepts(TensorType(DType.i32, joint)):
                raise VerifyError(f"the bias {bias.type} does not broadcast to {made}")
        return made

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return product_dependence(self, operands, results, (0, 1), (2,), (3,))

    def reference(
        self,
        a: Array,
        b: Array,
        a_zero_point: Array | None = None,
        b_zero_point: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        y = np.matmul(matrix_shifted(a, a_zero_point, -2), matrix_shifted(b, b_zero_point, -1))
        return wrap32(y if bias is None else y + bias)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        return matmul_cost(operands[0], operands, results[0])


def check_matrix_zero_point(zero: Abstract | None, x: Abstract, axis: int) -> None:
    """A scalar, a vector along one axis of the matrices, or x's shape with 1 on the other axis."""
    if zero is None:
        return
    if zero.dtype is not x.dtype:
        raise VerifyError(f"a zero point is {zero.type}, which differs in type from {x.type}")
    if zero.shape is None or x.shape is None or zero.shape in ((), (1,)):
        return
    if len(zero.shape) == 1:
        size = x.shape[axis] if len(x.shape) > 1 else 1
        check_vector(zero, size, "a zero point")
    elif not x.type.accepts(TensorType(x.dtype, broadcast(x.shape, zero.shape))):
        raise VerifyError(f"the zero point {zero.type} does not fit {x.type}")


def matrix_shifted(x: Array, zero: Array | None, axis: int) -> Array:
    """x - zero as doubles, a vector of zero points lying along `axis` of the matrices."""
    if zero is not None and zero.ndim > 1:
        return x.astype(np.float64) - zero.astype(np.float64)
    return shifted(x, zero, (-1, 1) if axis == -2 else (-1,))


@register
@dataclass(frozen=True)
class Requantize(Op):
    """Operands x0, m0, x1, m1, ...; the rescaled sum of the x_k:

        t = sum_k (x_k - zero_points[k]) * m_k          exact, in int64
        y = clamp(round(t / 2^shift) + zero_point, lo, hi)

    x_k: i32 (an accumulator), i16, u16, i8 or u8, of one shape after broadcasting. m_k: i32, a
    scalar or one per channel along `axis` of the result; for accumulators 0 <= m_k. `zero_points`
    has one integer for each x_k (all 0 if empty; always 0 for accumulators). `lo` and `hi` default
    to the bounds of `dtype`. rounding: half_even, half_up (toward plus infinity) or floor.

    `steps` says what the result stands for, (y - zero_point) * steps, one number or one per channel
    along `axis`, where that is known. No result depends on it.
    """

    numerics = STRUCTURE.but(ties="as `rounding` says, to even by default", overflow="saturates")
    onnx = None
    dtype: DType = DType.u8
    zero_points: tuple[int, ...] = ()
    zero_point: int = 0
    shift: int = 0
    axis: int = 1
    lo: int | None = None
    hi: int | None = None
    rounding: str = "half_even"
    steps: tuple[float, ...] = ()

    @property
    def bounds(self) -> tuple[int, int]:
        """(lo, hi) in full."""
        low, high = self.dtype.bounds
        return low if self.lo is None else self.lo, high if self.hi is None else self.hi

    def infer(self, *operands: Abstract) -> Inferred:
        self._check_attributes(len(operands))
        xs, ms = operands[::2], operands[1::2]
        shape = broadcast(*(x.shape for x in xs))
        axis = check_axis(self.axis, None if shape is None else len(shape)) \
            if any(m.shape not in ((), (1,), None) for m in ms) else 0  # fmt: skip
        total = 0
        for x, m, zero in zip(xs, ms, self.zeros(len(xs))):
            total += self._check_pair(x, m, zero, None if shape is None else shape, axis)
        if total >= 1 << 63:
            raise VerifyError("the sum of the operands may overflow 64 bits: at most two are i32")
        return TensorType(self.dtype, shape)

    def _check_attributes(self, count: int) -> None:
        if count < 2 or count % 2:
            raise VerifyError("takes pairs of a tensor and its multiplier")
        if not 0 <= self.shift <= MAX_SHIFT:
            raise VerifyError(f"shift {self.shift} is not within 0..{MAX_SHIFT}")
        if self.dtype not in WORDS:
            raise VerifyError(f"the result is {self.dtype.value}, which is not of 8 or 16 bits")
        low, high = self.dtype.bounds
        lo, hi = self.bounds
        if not low <= lo <= hi <= high:
            raise VerifyError(f"lo {lo} and hi {hi} are not a range within {self.dtype.value}")
        if not low <= self.zero_point <= high:
            raise VerifyError(f"zero point {self.zero_point} is not within {self.dtype.value}")
        if self.zero_points and len(self.zero_points) != count // 2:
            raise VerifyError(f"{len(self.zero_points)} zero points for {count // 2} tensors")
        check_choice(self.rounding, ("half_even", "half_up", "floor"), "rounding")

    def zeros(self, count: int) -> tuple[int, ...]:
        """The zero point of each x_k."""
        return self.zero_points or (0,) * count

    def _check_pair(
        self, x: Abstract, m: Abstract, zero: int, shape: Shape | None, axis: int
    ) -> int:
        """Bound of |(x - zero) * m|. Raises VerifyError."""
        wide = x.dtype is DType.i32
        if not wide and x.dtype not in WORDS:
            raise VerifyError(f"an operand is {x.type}, which is not of 8, 16 or 32 bits")
        if m.dtype is not DType.i32:
            raise VerifyError(f"a multiplier is {m.type}, which is not i32")
        low, high = x.dtype.bounds
        if (wide and zero) or not low <= zero <= high:
            raise VerifyError(f"zero point {zero} does not fit {x.type}")
        if m.shape not in ((), (1,)):
            check_vector(m, None if shape is None else shape[axis], "a multiplier")
        largest = (1 << 31) - 1
        if m.value is not None and m.value.size:
            check_multipliers(m.value, wide, VerifyError)
            largest = int(np.abs(m.value.astype(np.int64)).max())
        return max(zero - low, high - zero) * largest

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        own = s.loops(s.results[0])
        for o, x in enumerate(operands):
            if o % 2 == 0:
                s.broadcast(o, own)
            elif x is not None and x.shape in ((), (1,)):
                s.relate(o, 0, (ZERO,) * len(shape_at(operands, o)), own)
            else:
                s.relate(o, 0, (own[self.axis % len(own)],), own)
        return s.made()

    def reference(self, *operands: Array) -> Array:
        xs, ms = operands[::2], operands[1::2]
        rank = max(x.ndim for x in xs)
        total = np.zeros((), np.int64)
        for x, m, zero in zip(xs, ms, self.zeros(len(xs))):
            check_multipliers(m, x.dtype == np.int32, FeedError)
            factor = m.astype(np.int64)
            if m.size > 1:
                axis = check_axis(self.axis, rank)
                factor = factor.reshape([-1 if i == axis else 1 for i in range(rank)])
            else:
                factor = factor.reshape(())
            total = total + (x.astype(np.int64) - zero) * factor
        rounded = round_shift(total, self.shift, self.rounding) + self.zero_point
        return np.clip(rounded, *self.bounds).astype(self.dtype.numpy)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        return Cost(results[0].size * (len(operands) // 2), memory_bytes(operands, results))


def check_multipliers(m: Array, accumulator: bool, error: type[FeedError | VerifyError]) -> None:
    low = 0 if accumulator else -(1 << 31) + 1
    if m.size and int(m.min()) < low:
        raise error(f"a multiplier of {int(m.min())} is below {low}")


def round_shift(t: Array, shift: int, rounding: str) -> Array:
    """t / 2^shift rounded to an integer, in int64 without overflow."""
    below = t >> shift
    if rounding == "floor" or shift == 0:
        return below
    rest, half = t - (below << shift), 1 << (shift - 1)
    up = rest > half if rounding == "half_even" else rest >= half
    if rounding == "half_even":
        up = up | ((rest == half) & ((below & 1) == 1))
    return below + up


@register
@dataclass(frozen=True)
class Lookup(Op):
    """table[x - low]: any function of one 8- or 16-bit number

    `table` is a vector of 8- or 16-bit integers; `low` defaults to the smallest value of x's type.
    Below low and beyond the table its first and last entry serve, so that no x reads outside.
    `step` and `zero_point` say what the result stands for, (y - zero_point) * step, where that is
    known (0: it is not). No result depends on them.
    """

    numerics = STRUCTURE.but(overflow="the first or last entry")
    onnx = None
    axes = "x[...] table[t!] -> y[...]"
    low: int | None = None
    step: float = 0.0
    zero_point: int = 0

    def first(self, dtype: DType) -> int:
        """The x that reads the table's first entry."""
        return dtype.bounds[0] if self.low is None else self.low

    def infer(self, x: Abstract, table: Abstract) -> Inferred:
        if x.dtype not in WORDS or table.dtype not in WORDS:
            raise VerifyError(f"{x.type} and the table {table.type} are not of 8 or 16 bits")
        first, (lowest, high) = self.first(x.dtype), x.dtype.bounds
        if not lowest <= first <= high:
            raise VerifyError(f"low {first} does not lie within {x.dtype.value}")
        if table.shape is not None:
            check_vector(table, table.shape[0] if table.shape else 1, "the table")
            size = table.shape[0]
            if isinstance(size, int) and not 1 <= size <= high - first + 1:
                raise VerifyError(f"a table of {size} entries from {first} on does not fit "
                                  f"{x.dtype.value}")  # fmt: skip
        return x.type.with_dtype(table.dtype)

    def reference(self, x: Array, table: Array) -> Array:
        return table[np.clip(x.astype(np.int64) - self.first(DType.of(x)), 0, len(table) - 1)]


@register
@dataclass(frozen=True)
class MulInteger(Op):
    """int32: (a - a_zero_point) * (b - b_zero_point), modulo 2^32, broadcast"""

    traits = Trait.INTEGER_PRODUCT
    numerics = INTEGER
    onnx = None
    axes = "a[...] b[...] -> y[...]"
    a_zero_point: int = 0
    b_zero_point: int = 0

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        for x, zero in ((a, self.a_zero_point), (b, self.b_zero_point)):
            if x.dtype not in WORDS:
                raise VerifyError(f"an operand is {x.type}, which is not of 8 or 16 bits")
            check_zero(zero, x.dtype)
        return TensorType(DType.i32, broadcast(a.shape, b.shape))

    def reference(self, a: Array, b: Array) -> Array:
        return wrap32((a.astype(np.int64) - self.a_zero_point)
                      * (b.astype(np.int64) - self.b_zero_point))  # fmt: skip

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        return Cost(results[0].size, memory_bytes(operands, results))


def check_zero(zero: int, dtype: DType) -> None:
    low, high = dtype.bounds
    if not low <= zero <= high:
        raise VerifyError(f"zero point {zero} does not lie within {dtype.value}")


@register
@dataclass(frozen=True)
class SumPoolInteger(Windowed):
    """int32: the sum over each window of x - x_zero_point, modulo 2^32; padding adds nothing

    Without kernel_shape the window is the whole image, and all spatial axes become 1.
    """

    traits = Trait.INTEGER_PRODUCT
    numerics = INTEGER
    onnx = None
    axes = "x[n,c,...@k] -> y[n,c,...]"
    kernel_shape: tuple[int, ...] = ()
    x_zero_point: int = 0

    def infer(self, x: Abstract) -> Inferred:
        if x.dtype not in WORDS:
            raise VerifyError(f"the operand is {x.type}, which is not of 8 or 16 bits")
        check_zero(self.x_zero_point, x.dtype)
        sizes = spatial(x)
        if x.shape is None or sizes is None:
            return TensorType(DType.i32, None)
        if not self.kernel_shape:
            if any((self.strides, self.pads, self.dilations)) or self.auto_pad != "NOTSET":
                raise VerifyError("a window over the whole image takes no strides, pads, dilations")
            return TensorType(DType.i32, (*x.shape[:2], *(1 for _ in sizes)))
        return TensorType(DType.i32, (*x.shape[:2], *self.window_dims(sizes, self.kernel_shape)))

    def reference(self, x: Array) -> Array:
        v = x.astype(np.int64) - self.x_zero_point
        if not self.kernel_shape:
            return wrap32(v.sum(axis=tuple(range(2, x.ndim)), keepdims=True))
        out = cast(tuple[int, ...], self.window_dims(x.shape[2:], self.kernel_shape))
        return wrap32(pool(v, self.window(x.shape[2:], self.kernel_shape), out, 0, np.add))

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        taps = math.prod(self.kernel_shape or operands[0].type.static_shape[2:])
        return Cost(results[0].size * taps, memory_bytes(operands, results))

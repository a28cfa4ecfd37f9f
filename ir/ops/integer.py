"""The integer level: plain integers, int32 accumulators, exactly defined rescaling.

docs/quantization.md is the same definition in words. Nothing here rounds but `requantize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..errors import VerifyError
from ..op import Abstract, Array, Cost, Inferred, Op, register
from ..types import Dim, DType, TensorType, broadcast
from .common import check_axis, check_choice, check_vector, differs
from .convolution import Convolution, along_channels, convolve
from .linear import matmul_cost, matmul_shape
from .pooling import Pool, pool

ROUNDINGS = ("half_even", "half_up", "floor")
MAX_SHIFT = 44


def check_small(x: Abstract, what: str) -> None:
    """An integer of 8 bits or fewer."""
    if not x.dtype.is_integer or x.dtype.bits > 8:
        raise VerifyError(f"{what} is {x.type}, which is not an integer type of 8 bits or fewer")


def check_zero_point(
    zero: Abstract | None, of: Abstract, size: Dim, what: str, vector: bool = False
) -> None:
    """A scalar (or a vector of `size`) of the element type of the operand it belongs to."""
    if zero is None:
        return
    if zero.dtype is not of.dtype:
        raise VerifyError(f"{what} is {zero.type} where its operand is {of.type}")
    if zero.shape is None or zero.shape in ((), (1,)):
        return
    if not vector or len(zero.shape) != 1 or differs(zero.shape[0], size):
        raise VerifyError(f"{what} is {zero.type}, which should be a scalar"
                          + (f" or a vector of {size}" if vector else ""))  # fmt: skip


def check_bias(bias: Abstract | None, size: Dim) -> None:
    if bias is None:
        return
    if bias.dtype is not DType.i32:
        raise VerifyError(f"the bias is {bias.type}, which is not i32")
    check_vector(bias, size, "the bias")


def centred(x: Array, zero: Array | None, axis: int | None = None) -> Array:
    """x - zero as float64, in which sums of 8-bit products are exact up to 2^37 terms."""
    made = x.astype(np.float64)
    if zero is None:
        return made
    offset = zero.astype(np.float64)
    if offset.size == 1:
        return made - offset.reshape(())
    assert axis is not None
    return made - offset.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def wrapped(total: Array, bias: Array | None = None) -> Array:
    """An exact sum plus bias, modulo 2^32, as int32."""
    made = total.astype(np.int64)
    if bias is not None:
        made = made + bias.astype(np.int64)
    return made.astype(np.uint64).astype(np.uint32).view(np.int32)


@register
@dataclass(frozen=True)
class ConvInteger(Convolution):
    """int32 sum of (x - x_zero_point) * (w - w_zero_point) over each window, plus bias; wraps

    Padding stands for x_zero_point: it adds nothing. `w_zero_point` is a scalar or one number for
    each output channel.
    """

    axes = "x[n,i,...] w[o,i/group,...] bias[o] -> y[n,o,...]"

    def infer(
        self,
        x: Abstract,
        w: Abstract,
        x_zero_point: Abstract | None = None,
        w_zero_point: Abstract | None = None,
        bias: Abstract | None = None,
    ) -> Inferred:
        check_small(x, "x")
        check_small(w, "w")
        shape = self.conv_dims(x, w)
        out = None if shape is None else shape[1]
        check_zero_point(x_zero_point, x, None, "x_zero_point")
        check_zero_point(w_zero_point, w, out, "w_zero_point", vector=True)
        check_bias(bias, out)
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
        a, b = centred(x, x_zero_point), centred(w, w_zero_point, 0)
        total = convolve(a, b, window, out, self.group)
        return wrapped(total, None if bias is None else along_channels(bias, x.ndim))

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[1] is not None
        return self.conv_cost(operands, results[0], operands[1])


@register
@dataclass(frozen=True)
class MatMulInteger(Op):
    """int32 a @ b after their zero points are taken off, plus a bias for each column; wraps

    Zero points are scalars, or one number for each row of `a` or column of `b`.
    """

    axes = "a[...,m,k] b[...,k,n] bias[n] -> y[...,m,n]"

    def infer(
        self,
        a: Abstract,
        b: Abstract,
        a_zero_point: Abstract | None = None,
        b_zero_point: Abstract | None = None,
        bias: Abstract | None = None,
    ) -> Inferred:
        check_small(a, "a")
        check_small(b, "b")
        shape = matmul_shape(a.shape, b.shape)
        rows = a.shape[-2] if a.shape is not None and len(a.shape) > 1 else None
        columns = b.shape[-1] if b.shape is not None and len(b.shape) > 1 else None
        check_zero_point(a_zero_point, a, rows, "a_zero_point", vector=rows is not None)
        check_zero_point(b_zero_point, b, columns, "b_zero_point", vector=columns is not None)
        check_bias(bias, columns)
        return TensorType(DType.i32, shape)

    def reference(
        self,
        a: Array,
        b: Array,
        a_zero_point: Array | None = None,
        b_zero_point: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        x, y = centred(a, a_zero_point, a.ndim - 2), centred(b, b_zero_point, b.ndim - 1)
        return wrapped(np.asarray(np.matmul(x, y)), bias)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        return matmul_cost(operands[0], operands, results[0])


def shift_right(t: Array, shift: int, rounding: str) -> Array:
    """int64 t / 2^shift, rounded: half_even, half_up (toward plus infinity) or floor."""
    floor = t >> shift
    if shift == 0 or rounding == "floor":
        return floor
    rest, half = t & ((1 << shift) - 1), 1 << (shift - 1)
    if rounding == "half_up":
        return floor + (rest >= half)
    return floor + ((rest > half) | ((rest == half) & ((floor & 1) == 1)))


@register
@dataclass(frozen=True)
class Requantize(Op):
    """clamp(round(sum over k of (x_k - zero_points[k]) * m_k / 2^shift) + zero_point, lo, hi)

    Operands come in pairs x_k, m_k: an integer tensor of up to 32 bits (they broadcast), and its
    int32 multipliers, a scalar or a vector along `axis`. The sum is exact in int64; at most two
    x_k are int32, and those have zero point 0. `lo` and `hi` default to the bounds of `dtype`.
    """

    onnx = None
    axes = "x[...] m[] -> y[...]"
    dtype: DType = DType.u8
    zero_points: tuple[int, ...] = ()
    zero_point: int = 0
    shift: int = 0
    axis: int = 1
    lo: int | None = None
    hi: int | None = None
    rounding: str = "half_even"

    @property
    def bounds(self) -> tuple[int, int]:
        """(lo, hi) in full."""
        low, high = self.dtype.bounds
        return low if self.lo is None else self.lo, high if self.hi is None else self.hi

    def infer(self, *xs: Abstract) -> Inferred:
        terms, factors = xs[::2], xs[1::2]
        if not terms or len(terms) != len(factors):
            raise VerifyError("takes pairs of a tensor and its multipliers")
        self._check_attributes(len(terms))
        made = broadcast(*(x.shape for x in terms))
        for i, (x, m) in enumerate(zip(terms, factors)):
            if not x.dtype.is_integer or x.dtype.bits > 32 or x.dtype is DType.u32:
                raise VerifyError(f"operand {i} is {x.type}, not an integer of up to 32 bits")
            if x.dtype is DType.i32 and self.zero_points and self.zero_points[i]:
                raise VerifyError(f"operand {i} is {x.type} and has a zero point")
            if m.dtype is not DType.i32:
                raise VerifyError(f"the multipliers of operand {i} are {m.type}, not i32")
            if m.shape in (None, ()):
                continue
            size = None
            if made is not None:
                size = made[check_axis(self.axis, len(made))]
            check_vector(m, size, f"the multipliers of operand {i}")
        if sum(x.dtype is DType.i32 for x in terms) > 2:
            raise VerifyError("more than two operands are i32: their sum may leave int64")
        return TensorType(self.dtype, made)

    def _check_attributes(self, terms: int) -> None:
        if not self.dtype.is_integer or self.dtype.bits > 16 or self.dtype is DType.u16:
            raise VerifyError(f"dtype is {self.dtype}, not an integer of 8 bits or i16")
        check_choice(self.rounding, ROUNDINGS, "rounding")
        if not 0 <= self.shift <= MAX_SHIFT:
            raise VerifyError(f"shift is {self.shift}, which should lie within 0..{MAX_SHIFT}")
        if self.zero_points and len(self.zero_points) != terms:
            raise VerifyError(f"{len(self.zero_points)} zero points for {terms} operands")
        if any(not -(1 << 15) <= z < 1 << 16 for z in self.zero_points):
            raise VerifyError(f"zero points {list(self.zero_points)} exceed 16 bits")
        low, high = self.dtype.bounds
        lo, hi = self.bounds
        if not low <= lo <= hi <= high:
            raise VerifyError(f"lo {lo} and hi {hi} should lie within {low}..{high}")
        if not low <= self.zero_point <= high:
            raise VerifyError(f"zero_point is {self.zero_point}, outside {low}..{high}")

    def reference(self, *xs: Array) -> Array:
        rank = max(x.ndim for x in xs[::2])
        zeros = self.zero_points or (0,) * (len(xs) // 2)
        total: Array | int = 0
        for x, m, zero in zip(xs[::2], xs[1::2], zeros):
            factor = m.astype(np.int64)
            if factor.ndim:
                at = self.axis % rank
                factor = factor.reshape([-1 if i == at else 1 for i in range(rank)])
            total = total + (x.astype(np.int64) - zero) * factor
        rounded = shift_right(np.asarray(total), self.shift, self.rounding)
        lo, hi = self.bounds
        return np.clip(rounded + self.zero_point, lo, hi).astype(self.dtype.numpy)


@register
@dataclass(frozen=True)
class Lookup(Op):
    """table[x - low]: any function of one 8- or 16-bit number

    `low` is the smallest index, by default the smallest value of x's type. An index before the
    table's start takes its first entry, one behind its end the last.
    """

    onnx = None
    axes = "x[...] table[] -> y[...]"
    low: int | None = None

    def infer(self, x: Abstract, table: Abstract) -> Inferred:
        if not x.dtype.is_integer or x.dtype.bits > 16:
            raise VerifyError(f"the index is {x.type}, not an integer of 8 or 16 bits")
        if table.shape is not None:
            if len(table.shape) != 1:
                raise VerifyError(f"the table is {table.type}, which should be a vector")
            if table.shape[0] == 0:
                raise VerifyError("the table is empty")
        return TensorType(table.dtype, x.shape)

    def reference(self, x: Array, table: Array) -> Array:
        low = DType.of(x).bounds[0] if self.low is None else self.low
        return table[np.clip(x.astype(np.int32) - low, 0, len(table) - 1)]


@register
@dataclass(frozen=True)
class MulInteger(Op):
    """int32 (a - a_zero_point) * (b - b_zero_point) of 8-bit numbers; operands broadcast"""

    onnx = None
    axes = "a[...] b[...] -> y[...]"
    a_zero_point: int = 0
    b_zero_point: int = 0

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        for x, zero, what in ((a, self.a_zero_point, "a"), (b, self.b_zero_point, "b")):
            check_small(x, what)
            low, high = x.dtype.bounds
            if not low <= zero <= high:
                raise VerifyError(f"{what}_zero_point is {zero}, outside {low}..{high}")
        return TensorType(DType.i32, broadcast(a.shape, b.shape))

    def reference(self, a: Array, b: Array) -> Array:
        return (a.astype(np.int32) - self.a_zero_point) * (b.astype(np.int32) - self.b_zero_point)


@register
@dataclass(frozen=True, kw_only=True)
class SumPoolInteger(Pool):
    """int32 sum of x - zero_point over each window; padding adds nothing"""

    onnx = None
    zero_point: int = 0

    def infer(self, x: Abstract) -> Inferred:
        check_small(x, "x")
        low, high = x.dtype.bounds
        if not low <= self.zero_point <= high:
            raise VerifyError(f"zero_point is {self.zero_point}, outside {low}..{high}")
        if math.prod(self.kernel_shape) > 1 << 23:
            raise VerifyError(f"a window of {list(self.kernel_shape)} may overflow int32")
        return self.pool_type(x).with_dtype(DType.i32)

    def reference(self, x: Array) -> Array:
        w, out = self.geometry(x)
        add: Callable[..., Array] = np.add
        return pool(x.astype(np.int32) - self.zero_point, w, out, 0, add)

"""What generated expressions are made of: typed loads and stores, casts, and float functions.

Importing this imports Numba. Functions are inlined; the float32 ones are polynomials that LLVM
vectorises, accurate to about 2 units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.extending import intrinsic as numba_intrinsic

from ...ir import DType
from . import vector

_NUMBA = {
    "f32": types.float32, "f64": types.float64, "i64": types.int64, "i32": types.int32,
    "i16": types.int16, "i8": types.int8, "u64": types.uint64, "u32": types.uint32,
    "u16": types.uint16, "u8": types.uint8, "bool": types.boolean,
}  # fmt: skip

KINDS = tuple(_NUMBA)

inline: Any = njit(inline="always")
intrinsic: Any = numba_intrinsic


def size(kind: str) -> int:
    """Bytes of an element."""
    return DType(kind).numpy.itemsize


def _pointer(b: ir.IRBuilder, base: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
    # A GEP from a loop-invariant base, which LLVM's vectoriser can analyse (an inttoptr cannot be).
    start = b.inttoptr(base, ir.IntType(8).as_pointer())
    at = b.gep(start, [offset], source_etype=ir.IntType(8))
    made: Any = b.bitcast(at, kind.as_pointer())
    return made


def _memory_type(kind: str) -> ir.Type:
    if kind in ("f32", "f64"):
        return ir.FloatType() if kind == "f32" else ir.DoubleType()
    return ir.IntType(8 * size(kind))


Tag = Callable[[ir.Module, ir.Instruction], None]


def typed_load(kind: str, tag: Tag | None = None):
    """load(base, offset) of a type; `tag` may add metadata."""
    held = _memory_type(kind)

    def generate(context, b, signature, args):
        base, offset = args
        value = b.load(_pointer(b, base, offset, held))
        value.align = 1
        if tag is not None:
            tag(b.module, value)
        if kind == "bool":
            return b.icmp_unsigned("!=", value, ir.Constant(held, 0))
        return value

    @intrinsic
    def load(typing, base, offset):
        return _NUMBA[kind](types.int64, types.int64), generate

    return load


def typed_store(kind: str, tag: Tag | None = None):
    """store(base, offset, value) of a type; `tag` may add metadata."""
    held = _memory_type(kind)

    def generate(context, b, signature, args):
        base, offset, value = args
        if kind == "bool":
            value = b.zext(value, held)
        made = b.store(value, _pointer(b, base, offset, held))
        made.align = 1
        if tag is not None:
            tag(b.module, made)
        return context.get_dummy_value()

    @intrinsic
    def store(typing, base, offset, value):
        return types.void(types.int64, types.int64, _NUMBA[kind]), generate

    return store


@intrinsic
def bits_f32(typing, value):
    """float32 with these 32 bits."""

    def generate(context, b, signature, args):
        return b.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def f32_bits(typing, value):
    def generate(context, b, signature, args):
        return b.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _rounder(kind: str, llvm_name: str):
    held = _memory_type(kind)

    @intrinsic
    def apply(typing, value):
        def generate(context, b, signature, args):
            function = b.module.declare_intrinsic(llvm_name, [held])
            return b.call(function, args)

        return _NUMBA[kind](_NUMBA[kind]), generate

    return apply


rint32, rint64 = _rounder("f32", "llvm.rint"), _rounder("f64", "llvm.rint")
floor32, floor64 = _rounder("f32", "llvm.floor"), _rounder("f64", "llvm.floor")
ceil32, ceil64 = _rounder("f32", "llvm.ceil"), _rounder("f64", "llvm.ceil")
sqrt32, sqrt64 = _rounder("f32", "llvm.sqrt"), _rounder("f64", "llvm.sqrt")
abs32, abs64 = _rounder("f32", "llvm.fabs"), _rounder("f64", "llvm.fabs")

F = np.float32


@inline
def exp32(x):
    """e^x: x = k ln 2 + r, a polynomial for e^r, k into the exponent (Cephes' expf)."""
    c = F(88.72283) if x > F(88.72283) else x
    c = F(-103.97) if c < F(-103.97) else c
    k = rint32(c * F(1.44269504))
    r = c - k * F(0.693359375)
    r = r + k * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * r * r + r + F(1.0)
    # Two factors, so that results down to the smallest subnormal come out right.
    n = np.int32(k) if k == k else np.int32(0)
    half = n >> np.int32(1)
    a = bits_f32(np.int32((half + np.int32(127)) << np.int32(23)))
    b = bits_f32(np.int32((n - half + np.int32(127)) << np.int32(23)))
    y = p * a * b
    y = F(np.inf) if x > F(88.72283) else y
    return y if x == x else x


@inline
def sigmoid32(x):
    return F(1.0) / (F(1.0) + exp32(-x))


@inline
def tanh32(x):
    """An odd polynomial near zero (Cephes' tanhf), else by exp(-2|x|)."""
    z = abs32(x)
    w = z * z
    p = F(-5.70498872745e-3)
    p = p * w + F(2.06390887954e-2)
    p = p * w + F(-5.37397155531e-2)
    p = p * w + F(1.33314422036e-1)
    p = p * w + F(-3.33332819422e-1)
    small = p * w * x + x
    e = exp32(F(-2.0) * z)
    large = (F(1.0) - e) / (F(1.0) + e)
    large = -large if x < F(0.0) else large
    return small if z < F(0.625) else large


@inline
def log32(x):
    return F(math.log(np.float64(x)))


@inline
def erf32(x):
    return F(math.erf(np.float64(x)))


@inline
def softplus32(x):
    """log(1 + e^x) without overflow."""
    z = np.float64(x)
    top = z if z > 0.0 else 0.0
    return F(top + math.log1p(math.exp(-abs64(z))))


@inline
def softplus64(x):
    top = x if x > 0.0 else 0.0
    return top + math.log1p(math.exp(-abs64(x)))


@inline
def expm1_32(x):
    return F(math.expm1(np.float64(x)))


@inline
def expm1_64(x):
    return math.expm1(x)


@inline
def least(x, low):
    """max(x, low) that keeps NaN in either."""
    return x if x > low or x != x else low


@inline
def most(x, high):
    """min(x, high) that keeps NaN in either."""
    return x if x < high or x != x else high


@inline
def unit(x):
    """x clamped to 0..1; NaN stays."""
    x = x * 0 if x < 0 else x
    return x * 0 + 1 if x > 1 else x


@inline
def requantize(total, shift, mode):
    """round(total / 2^shift) of an int64: mode 0 half to even, 1 half up, 2 floor."""
    if shift == 0 or mode == 2:
        return total >> shift
    half = np.int64(1) << (shift - 1)
    if mode == 1:
        return (total + half) >> shift
    return (total + half - 1 + ((total >> shift) & 1)) >> shift


@inline
def clamp(x, lo, hi):
    x = lo if x < lo else x
    return hi if x > hi else x


@inline
def trunc_div(a, b):
    """C's integer division; by zero gives zero."""
    if b == 0:
        return a * 0
    q = a // b
    if q < 0 and q * b != a:
        q += 1
    return q


@inline
def quantize32(x, scale, zero, lo, hi):
    """clamp(rint(x / scale) + zero, lo, hi) of docs/quantization.md; NaN gives zero."""
    r = rint32(x / scale)
    low, high = F(lo - zero), F(hi - zero)
    r = low if r < low else r
    r = high if r > high else r
    r = r if r == r else F(0.0)
    return np.int32(r) + zero


@cache
def scope() -> dict[str, object]:
    """Names that generated source may use."""
    names: dict[str, object] = {
        "word": vector.load_i64, "smaller": vector.smaller, "np": np, "math": math,
    }  # fmt: skip
    for kind, type_ in _NUMBA.items():
        names[f"load_{kind}"] = typed_load(kind)
        names[f"store_{kind}"] = typed_store(kind)
        names[kind] = type_
    for function in (
        exp32, sigmoid32, tanh32, log32, erf32, softplus32, softplus64, expm1_32,
        expm1_64, least, most, unit, requantize, clamp, trunc_div, rint32,
        rint64, floor32, floor64, ceil32, ceil64, sqrt32, sqrt64, abs32, abs64, quantize32,
        bits_f32, f32_bits,
    ):  # fmt: skip
        names[getattr(function, "__name__", "")] = function
    names.update(
        rint32=rint32, rint64=rint64, floor32=floor32, floor64=floor64, ceil32=ceil32,
        ceil64=ceil64, sqrt32=sqrt32, sqrt64=sqrt64, abs32=abs32, abs64=abs64,
    )  # fmt: skip
    return names


def chunked(text: str, names: dict[str, object]):
    """The kernel that runs generated `body(d, chunk)` for every chunk of its record."""
    space: dict[str, Any] = dict(names)
    exec(compile(text, "<taut kernel>", "exec"), space)
    return vector.driver(inline(space["body"]))

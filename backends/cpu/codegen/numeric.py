"""What generated expressions are made of: typed loads and stores, casts, and float functions.

Importing this imports Numba. Functions are inlined; the float32 ones are polynomials that LLVM
vectorises, accurate to a few units in the last place (see `emit_math`).
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

from ....ir import DType
from . import emit_math, vector
from .chunked import Chunked
from .emit import Emit
from .isa import TABLES

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


def _float32(function: Any):
    """A function of `emit_math` on one float32: straight-line code, so that loops vectorise."""

    @intrinsic
    def apply(typing, value):
        def generate(context, b, signature, args):
            return function(Emit(b, TABLES["portable"]), args[0])

        return types.float32(types.float32), generate

    return apply


exp32, log32, expm1_32 = map(_float32, (emit_math.exp, emit_math.log, emit_math.expm1))
tanh32, erf32 = map(_float32, (emit_math.tanh, emit_math.erf))
sigmoid32, softplus32 = map(_float32, (emit_math.sigmoid, emit_math.softplus))


@inline
def softplus64(x):
    top = x if x > 0.0 else 0.0
    return top + math.log1p(math.exp(-abs64(x)))


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
def within(x, low, high):
    """x clamped to low..high; NaN stays."""
    x = low if x < low else x
    return high if x > high else x


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
def whole(x):
    """A float toward zero as int64; -2^63 where that does not fit."""
    return np.int64(x if abs64(x) < 9223372036854775808.0 else -9223372036854775808.0)


@inline
def trunc_div(a, b):
    """C's division of signed integers; by zero gives zero, the least by -1 itself."""
    if b == 0:
        return a * 0
    if b == -1:  # Numba makes the quotient that does not fit 0
        return -a
    q = a // b
    return q + 1 if q < 0 and q * b != a else q


@inline
def unsigned_div(a, b):
    """Division of unsigned integers; by zero gives zero."""
    return a // b if b != 0 else b


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
        "word": vector.load_i64, "smaller": vector.smaller, "part": vector.part,
        "rest": vector.rest, "np": np, "math": math,
    }  # fmt: skip
    for kind, type_ in _NUMBA.items():
        names[f"load_{kind}"] = typed_load(kind)
        names[f"store_{kind}"] = typed_store(kind)
        names[kind] = type_
    for function in (
        softplus64, expm1_64, least, most, within, whole, requantize, clamp, trunc_div,
        unsigned_div, quantize32,
    ):  # fmt: skip
        names[getattr(function, "__name__", "")] = function
    names.update(
        exp32=exp32, log32=log32, expm1_32=expm1_32, tanh32=tanh32, erf32=erf32,
        sigmoid32=sigmoid32, softplus32=softplus32, rint32=rint32, rint64=rint64,
        floor32=floor32, floor64=floor64, ceil32=ceil32, ceil64=ceil64, sqrt32=sqrt32,
        sqrt64=sqrt64, abs32=abs32, abs64=abs64,
    )  # fmt: skip
    return names


def chunked(text: str, names: dict[str, object]) -> Chunked:
    """The kernel that runs generated `body(d, chunk)` for every chunk of its record."""
    space: dict[str, Any] = dict(names)
    exec(compile(text, "<taut kernel>", "exec"), space)
    return Chunked(space["body"])

"""Arithmetic, comparison and logic. Operands are first brought to PyTorch's common type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ....ir import DType, UnsupportedError, Value
from ..call import Call, Real, Size, aten
from ..tensors import dtype_of

_HALVES = {DType.f16: 2.0**-11, DType.bf16: 2.0**-8}
"""The error of rounding to each."""
_PAIR = (".Tensor", ".Scalar")


def both(*names: str) -> list[str]:
    """The overloads for a tensor and for a number."""
    return [n + kind for n in names for kind in _PAIR]


def common(c: Call, a: int = 0, b: int = 1) -> DType:
    """The type in which two arguments are compared."""
    x, y = (m if isinstance(m, torch.Tensor) else _number(m) for m in (c.metas[a], c.metas[b]))
    return dtype_of(torch.result_type(x, y))


def _number(x: Any) -> Any:
    return 0 if isinstance(x, torch.SymInt) else 0.0 if isinstance(x, torch.SymFloat) else x


def product(c: Call, op: str, a: Any, b: Any) -> Value:
    """mul or div in the result's type; in single precision where that is a half in which a number
    has no place (PyTorch rounds numbers, and tensors without axes, to it in sums only)."""
    within = c.dtype not in _HALVES or not (_beyond(c, a) or _beyond(c, b))
    kind = c.dtype if within else DType.f32
    return c.cast(getattr(c.b, op)(c.tensor(a, kind), c.tensor(b, kind)), c.dtype)


def _beyond(c: Call, x: Any) -> bool:
    """Whether a number would overflow, or lose more than its last bit, as the result's type."""
    known = x
    if isinstance(x, Value):
        if x.shape != () or x.type.dtype is c.dtype:
            return False
        known = x.array
    if known is None or isinstance(known, Size | Real):
        return True
    number = float(known)
    with np.errstate(over="ignore"):
        rounded = float(np.asarray(number).astype(c.dtype.numpy))
    return math.isfinite(number) and abs(rounded - number) > _HALVES[c.dtype] * abs(number)


def scaled(c: Call, x: Any, alpha: float) -> Value:
    value = c.tensor(x)
    return value if alpha == 1 else c.b.mul(value, c.tensor(alpha))


@aten(*both("add"))
def add(c: Call, a: Any, b: Any, alpha: float) -> Value:
    if c.dtype is DType.bool:
        return logical(c, "or", a, b)
    return c.b.add(c.tensor(a), scaled(c, b, alpha))


@aten(*both("sub"))
def sub(c: Call, a: Any, b: Any, alpha: float) -> Value:
    return c.b.sub(c.tensor(a), scaled(c, b, alpha))


@aten(*both("rsub"))
def rsub(c: Call, a: Any, b: Any, alpha: float) -> Value:
    return c.b.sub(c.tensor(b), scaled(c, a, alpha))


@aten(*both("mul"))
def mul(c: Call, a: Any, b: Any) -> Value:
    if c.dtype is DType.bool:
        return logical(c, "and", a, b)
    return product(c, "mul", a, b)


@aten(*both("div"))
def div(c: Call, a: Any, b: Any) -> Value:
    return product(c, "div", a, b)


@aten("div.Tensor_mode", "div.Scalar_mode")
def div_mode(c: Call, a: Any, b: Any, mode: str | None) -> Value:
    if mode is None:
        return div(c, a, b)
    if mode == "floor":
        return floor_divide(c, a, b)
    if c.dtype.is_integer:
        return div(c, a, b)  # the IR's integer division goes toward zero
    raise UnsupportedError("a division of floats that is cut off is not supported")


@aten("floor_divide", "floor_divide.Scalar")
def floor_divide(c: Call, a: Any, b: Any) -> Value:
    x, y = c.tensor(a), c.tensor(b)
    if c.dtype.is_float:
        return _floor_of_floats(c, x, y)
    return c.b.div(c.b.sub(x, c.b.mod(x, y)), y)


def _floor_of_floats(c: Call, x: Value, y: Value) -> Value:
    """The whole number below x / y, by the rest of the division: the quotient itself may be rounded
    up to a whole number.
    """
    b, zero, one = c.b, c.tensor(0), c.tensor(1)
    rest = b.mod(x, y, fmod=True)
    times = b.div(b.sub(x, rest), y)
    apart = b.xor(b.less(y, zero), b.less(rest, zero))  # the rest is on the other side of 0
    over = getattr(b, "and")(apart, getattr(b, "not")(b.equal(rest, zero)))
    times = b.where(over, b.sub(times, one), times)
    whole = b.floor(times)
    whole = b.where(b.greater(b.sub(times, whole), c.tensor(0.5)), b.add(whole, one), whole)
    return b.where(b.equal(y, zero), b.div(x, y), whole)


@aten(*both("remainder"))
def remainder(c: Call, a: Any, b: Any) -> Value:
    return c.b.mod(c.tensor(a), c.tensor(b))


@aten(*both("fmod"))
def fmod(c: Call, a: Any, b: Any) -> Value:
    return c.b.mod(c.tensor(a), c.tensor(b), fmod=True)


@aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def pow(c: Call, a: Any, b: Any) -> Value:
    base = c.tensor(a)
    if not isinstance(b, Value):
        if b == 2:
            return c.b.mul(base, base)
        if b == 0.5 and c.dtype.is_float:
            return c.b.sqrt(base)
        if b == -0.5 and c.dtype.is_float:
            return c.b.reciprocal(c.b.sqrt(base))
    return c.b.pow(base, c.tensor(b))


@aten("square")
def square(c: Call, x: Value) -> Value:
    return c.b.mul(x, x)


@aten("maximum", "max.other")
def maximum(c: Call, a: Value, b: Value) -> Value:
    return c.b.max(c.tensor(a), c.tensor(b))


@aten("minimum", "min.other")
def minimum(c: Call, a: Value, b: Value) -> Value:
    return c.b.min(c.tensor(a), c.tensor(b))


def _plain(op: str) -> None:
    def f(c: Call, x: Value) -> Value:
        return getattr(c.b, op)(x)

    aten(op)(f)


for _op in ("neg", "abs"):
    _plain(_op)


@aten("sign")
def sign(c: Call, x: Value) -> Value:
    """0 for NaN, where the IR has NaN."""
    made = c.b.sign(x)
    return c.b.where(c.b.is_nan(x), c.tensor(0), made) if c.dtype.is_float else made


@aten("floor", "ceil", "round")
def to_whole(c: Call, x: Value) -> Value:
    """Integers are whole already."""
    if not c.dtype.is_float:
        return x
    return getattr(c.b, str(c.node.target).split(".")[1])(x)


def _comparison(name: str, op: str) -> None:
    def f(c: Call, a: Any, b: Any) -> Value:
        kind = common(c)
        x, y = c.tensor(a, kind), c.tensor(b, kind)
        if op == "not_equal":
            return getattr(c.b, "not")(c.b.equal(x, y))
        return getattr(c.b, op)(x, y)

    aten(*both(name))(f)


for _name, _op in {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_or_equal", "gt": "greater",
    "ge": "greater_or_equal",
}.items():  # fmt: skip
    _comparison(_name, _op)


def logical(c: Call, op: str, *operands: Any) -> Value:
    """`and`, `or`, `xor`, `not` of what is not 0."""
    return getattr(c.b, op)(*(c.tensor(x, DType.bool) for x in operands))


@aten("logical_and")
def logical_and(c: Call, a: Value, b: Value) -> Value:
    return logical(c, "and", a, b)


@aten("logical_or")
def logical_or(c: Call, a: Value, b: Value) -> Value:
    return logical(c, "or", a, b)


@aten("logical_xor")
def logical_xor(c: Call, a: Value, b: Value) -> Value:
    return logical(c, "xor", a, b)


@aten("logical_not")
def logical_not(c: Call, x: Value) -> Value:
    return logical(c, "not", x)


@aten("bitwise_not")
def bitwise_not(c: Call, x: Value) -> Value:
    return logical(c, "not", x) if c.dtype is DType.bool else c.b.bitwise_not(x)


def _bitwise(op: str, *names: str) -> None:
    def f(c: Call, a: Any, b: Any) -> Value:
        if c.dtype is DType.bool:
            return logical(c, op, a, b)
        return getattr(c.b, f"bitwise_{op}")(c.tensor(a), c.tensor(b))

    aten(*names)(f)


for _op in ("and", "or", "xor"):
    _bitwise(_op, *both(f"bitwise_{_op}", f"__{_op}__"))


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(c: Call, condition: Value, a: Any, b: Any) -> Value:
    return c.b.where(c.cast(condition, DType.bool), c.tensor(a), c.tensor(b))


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(c: Call, x: Value, mask: Value, value: Any) -> Value:
    return where(c, mask, value, x)

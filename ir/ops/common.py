"""What several declarations share: checks of axes and types, and arithmetic in a wider type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import VerifyError
from ..op import Abstract, Array
from ..types import Dim, DType, Shape, TensorType, broadcast
from .minifloat import to_minifloat

SMALL_FLOATS = (DType.f16, DType.bf16)


def check_axis(axis: int, rank: int | None, what: str = "axis") -> int:
    """`axis` counted from the front; where the rank is unknown, as it is given."""
    if rank is None:
        return axis
    if not -rank <= axis < rank:
        raise VerifyError(f"{what} {axis} is out of range for rank {rank}")
    return axis % rank


def check_axes(axes: Sequence[int], rank: int, what: str = "axes") -> tuple[int, ...]:
    """Axes counted from the front, each once."""
    found = tuple(check_axis(a, rank, what) for a in axes)
    if len(set(found)) < len(found):
        raise VerifyError(f"{what} {list(axes)} name an axis twice")
    return found


def check_float(x: Abstract, what: str = "the operand") -> None:
    if not x.dtype.is_float:
        raise VerifyError(f"{what} is {x.type}, which is not a float type")


def check_number(x: Abstract, what: str = "the operand") -> None:
    if x.dtype is DType.bool:
        raise VerifyError(f"{what} is {x.type}, which is not a number type")


def check_integer(x: Abstract, what: str = "the operand") -> None:
    if not x.dtype.is_integer:
        raise VerifyError(f"{what} is {x.type}, which is not an integer type")


def check_same(*operands: Abstract | None) -> DType:
    """All operands given have one element type, which is returned."""
    given = [x for x in operands if x is not None]
    for x in given[1:]:
        if x.dtype is not given[0].dtype:
            types = ", ".join(str(x.type) for x in given)
            raise VerifyError(f"operands are {types}, which differ in element type")
    return given[0].dtype


def check_rank(x: Abstract, rank: int, what: str) -> None:
    """Refuse a known rank that is another."""
    if x.shape is not None and len(x.shape) != rank:
        raise VerifyError(f"{what} is {x.type}, which should have rank {rank}")


def check_vector(x: Abstract | None, size: Dim, what: str) -> None:
    """`x` is a vector of `size` elements (as far as both are known)."""
    if x is None or x.shape is None:
        return
    if len(x.shape) != 1 or differs(x.shape[0], size):
        raise VerifyError(f"{what} is {x.type}, which should be a vector of {size}")


def check_residual(x: Abstract | None, made: TensorType) -> None:
    """A residual `x` broadcasts to the result `made` and no wider (as far as both are known)."""
    joint = None if x is None else broadcast(made.shape, x.shape)
    if x is not None and joint is not None and not made.accepts(made.with_shape(joint)):
        raise VerifyError(f"the residual {x.type} does not fit the result {made}")


def check_scalar(x: Abstract | None, what: str) -> None:
    """`x` has one element and at most one axis (as far as is known)."""
    if x is None or x.shape is None:
        return
    if len(x.shape) > 1 or any(differs(d, 1) for d in x.shape):
        raise VerifyError(f"{what} is {x.type}, which is no scalar")


def check_choice(value: str, choices: Sequence[str], what: str) -> None:
    if value not in choices:
        raise VerifyError(f"{what} {value!a} is none of {', '.join(choices)}")


def differs(a: Dim, b: Dim) -> bool:
    """Whether two dimensions cannot be equal."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def length(x: Abstract) -> int | None:
    """Number of elements of a vector, where it is known."""
    if x.shape is None:
        return None
    if len(x.shape) != 1:
        raise VerifyError(f"an operand is {x.type}, which should be a vector")
    size = x.shape[0]
    return size if isinstance(size, int) else None


def unknown(rank: int) -> Shape:
    return (None,) * rank


def wide(x: Array) -> Array:
    """Floats of 16 bits and fewer as f32, in which their arithmetic is done; others as they are."""
    dtype = DType.of(x)
    return x.astype(np.float32) if dtype in SMALL_FLOATS or dtype.is_minifloat else x


def cast(x: Array, to: DType, saturate: bool = True, round_mode: str = "up") -> Array:
    """`x` as `to`. Floats go to integers through i64, which makes overflow wrap. `saturate` and
    `round_mode` concern floats of 8 and 4 bits (`to_minifloat`)."""
    if DType.of(x).is_minifloat:
        x = wide(x)  # exact
    if to.is_minifloat:
        return to_minifloat(_double(x), to, saturate, round_mode)
    if to is DType.bool:
        return x.astype(np.float32) != 0 if x.dtype.kind == "V" else x != 0
    if to.is_integer and DType.of(x).is_float:
        x = _whole(x.astype(np.float64), to is DType.u64)
    if to.bits < 8:
        low, high = to.bounds
        x = (x.astype(np.int64) - low) % (high - low + 1) + low
    return x.astype(to.numpy)


def _double(x: Array) -> Array:
    """x as f64 for another rounding: of wide integers all low bits that are lost count as one."""
    if not DType.of(x).is_integer or DType.of(x).bits < 64:
        return x.astype(np.float64)
    low = x & 0xFFFF
    sticky = (x - low) | np.where(low != 0, 0x8000, 0).astype(x.dtype)
    return np.where((x > -(1 << 48)) & (x < 1 << 48), x, sticky).astype(np.float64)


def _whole(x: Array, unsigned: bool) -> Array:
    """x toward zero as i64; -2^63 where that does not fit (the same on every machine). As u64,
    what is between 2^63 and 2^64 fits too."""
    limit = 2.0**63
    made = np.where(np.abs(x) < limit, x, -limit).astype(np.int64)
    if not unsigned:
        return made
    above = (x >= limit) & (x < 2 * limit)
    return np.where(above, np.where(above, x - limit, 0).astype(np.uint64) + np.uint64(1 << 63),
                    made.astype(np.uint64))  # fmt: skip


def in_wide(f: Callable[..., Array], *xs: Array | None, **kwargs: Any) -> Array:
    """`f` over the operands in a type of at least f32, its result in the first operand's type."""
    first = xs[0]
    assert first is not None
    made = f(*(None if x is None else wide(x) for x in xs), **kwargs)
    made = np.asarray(made)
    if made.dtype.kind == "f" and first.dtype.kind in "iu":
        return cast(made, DType.of(first))
    return made.astype(first.dtype, copy=False)


def known(x: Array) -> Abstract:
    """What inference would know of an array."""
    return Abstract(TensorType.of(x), x)

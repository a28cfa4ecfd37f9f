"""Element types, dimensions and tensor types. All frozen."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .errors import LimitError, RankUnknown, VerifyError

type_names = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8,
    "i4": ml_dtypes.int4, "i2": ml_dtypes.int2,
    "u64": np.uint64, "u32": np.uint32, "u16": np.uint16, "u8": np.uint8,
    "u4": ml_dtypes.uint4, "u2": ml_dtypes.uint2, "bool": np.bool_,
    "f8e4m3fn": ml_dtypes.float8_e4m3fn, "f8e5m2": ml_dtypes.float8_e5m2,
    "f8e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "f8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "f8e8m0fnu": ml_dtypes.float8_e8m0fnu, "f4e2m1fn": ml_dtypes.float4_e2m1fn,
}  # fmt: skip


class DType(enum.Enum):
    """An element type; `DType.f32.numpy` is its NumPy dtype (ml_dtypes where NumPy has none).

    The floats of 8 and 4 bits have MLIR's names: exponent and mantissa bits, then `fn` for no
    infinities, `uz` for no negative zero and `u` for no sign. Tensors are stored in them and
    converted to and from them; ops calculate in the others (`is_float`).
    """

    f64 = "f64"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    i64 = "i64"
    i32 = "i32"
    i16 = "i16"
    i8 = "i8"
    i4 = "i4"
    i2 = "i2"
    u64 = "u64"
    u32 = "u32"
    u16 = "u16"
    u8 = "u8"
    u4 = "u4"
    u2 = "u2"
    bool = "bool"
    f8e4m3fn = "f8e4m3fn"
    f8e5m2 = "f8e5m2"
    f8e4m3fnuz = "f8e4m3fnuz"
    f8e5m2fnuz = "f8e5m2fnuz"
    f8e8m0fnu = "f8e8m0fnu"
    f4e2m1fn = "f4e2m1fn"

    @property
    def numpy(self) -> np.dtype[Any]:
        return _NUMPY[self]

    @property
    def bits(self) -> int:
        """Bits an element takes when stored densely; bool counts as 8."""
        digits = re.match(r"[bfiu]+(\d+)", self.value)
        return int(digits[1]) if digits else 8

    @property
    def is_float(self) -> bool:
        """A float type that ops calculate in: f64, f32, f16 or bf16."""
        return self in _FLOATS

    @property
    def is_minifloat(self) -> bool:
        """A float type of 8 or 4 bits, which is only stored and converted."""
        return self in _MINIFLOATS

    @property
    def is_signed(self) -> bool:
        return self.value[0] == "i"

    @property
    def is_integer(self) -> bool:
        return self.value[0] in "iu"

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value of an integer type."""
        if not self.is_integer:
            raise VerifyError(f"{self.value} has no integer bounds")
        n = self.bits
        return (-(1 << (n - 1)), (1 << (n - 1)) - 1) if self.is_signed else (0, (1 << n) - 1)

    @classmethod
    def of(cls, dtype: Any) -> DType:
        """The DType of a NumPy dtype, array or scalar type. Raises VerifyError if there is none."""
        kind = dtype if isinstance(dtype, type) else getattr(dtype, "dtype", dtype)
        found = _FROM_NUMPY.get(np.dtype(kind))
        if found is None:
            raise VerifyError(f"no element type for NumPy's {dtype}")
        return found

    def __repr__(self) -> str:
        return self.value


_FLOATS = (DType.f64, DType.f32, DType.f16, DType.bf16)
_MINIFLOATS = tuple(d for d in DType if d.value[0] == "f" and d not in _FLOATS)
_NUMPY = {d: np.dtype(type_names[d.value]) for d in DType}
_FROM_NUMPY = {n: d for d, n in _NUMPY.items()}

Dim = int | str | None
"""A dimension: a number, a named symbol (`batch`), or None where nothing is known."""

Shape = tuple[Dim, ...]

MAX_RANK = 64  # NumPy's own limit

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def symbol(name: str) -> str:
    """`name` as a legal dimension symbol: what is not a letter, digit or `_` becomes `_`."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", name) or "_"
    return clean if _SYMBOL.match(clean) else f"d_{clean}"


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a shape; `shape` is None when even the rank is unknown."""

    dtype: DType
    shape: Shape | None = ()

    def __post_init__(self) -> None:
        if self.shape is not None and len(self.shape) > MAX_RANK:
            raise VerifyError(f"a tensor of rank {len(self.shape)} has more than {MAX_RANK} axes")
        for dim in self.shape or ():
            if isinstance(dim, str):
                if not _SYMBOL.match(dim):
                    raise VerifyError(f"dimension symbol {dim!r} is not an identifier")
            elif dim is not None and not 0 <= dim < 1 << 62:
                raise VerifyError(f"dimension {dim} is negative or too large")

    @property
    def rank(self) -> int:
        """Number of dimensions. Raises RankUnknown, a VerifyError, where it is not known."""
        if self.shape is None:
            raise RankUnknown("the rank of this tensor is unknown")
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers. Raises VerifyError where one is not known."""
        if self.shape is None or not all(isinstance(d, int) for d in self.shape):
            raise VerifyError(f"{self} has no static shape")
        return self.shape  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Number of elements (Python integer: never overflows)."""
        return math.prod(self.static_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as NumPy holds it (sub-byte elements take a byte each)."""
        return self.size * self.dtype.numpy.itemsize

    def with_shape(self, shape: Iterable[Dim] | None) -> TensorType:
        return TensorType(self.dtype, None if shape is None else tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype.value}[*]"
        return f"{self.dtype.value}[{','.join('?' if d is None else str(d) for d in self.shape)}]"

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> TensorType:
        return cls(DType.of(array), array.shape)

    def accepts(self, other: TensorType) -> bool:
        """Whether a tensor of type `other` may stand where this type is declared."""
        if self.dtype is not other.dtype:
            return False
        if self.shape is None or other.shape is None:
            return True
        return len(self.shape) == len(other.shape) and all(
            a == b or not isinstance(a, int) or not isinstance(b, int)
            for a, b in zip(self.shape, other.shape)
        )


def unify(a: Dim, b: Dim) -> Dim:
    """The dimension that is both: a number beats a symbol, a symbol beats unknown."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise VerifyError(f"dimensions {a} and {b} do not agree")
    if isinstance(a, int) or b is None:
        return a
    return b if isinstance(b, int) or a is None else a


def broadcast(*shapes: Sequence[Dim] | None) -> Shape | None:
    """NumPy's broadcasting over symbolic shapes; unknown where two different symbols meet.

    Raises VerifyError where two numbers do not agree.
    """
    if any(s is None for s in shapes):
        return None
    rank = max((len(s) for s in shapes if s is not None), default=0)
    out: list[Dim] = [1] * rank
    for shape in shapes:
        assert shape is not None
        for i, dim in enumerate(shape, rank - len(shape)):
            out[i] = _broadcast_dim(out[i], dim)
    return tuple(out)


def _broadcast_dim(a: Dim, b: Dim) -> Dim:
    if a == 1 or a == b:
        return b
    if b == 1:
        return a
    if isinstance(a, int) and isinstance(b, int):
        raise VerifyError(f"dimensions {a} and {b} do not broadcast")
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else None


@dataclass(frozen=True)
class Limits:
    """What a model may ask for, checked before anything is allocated."""

    tensor_bytes: int = 2 << 30
    model_bytes: int = 8 << 30
    nodes: int = 2_000_000
    depth: int = 64  # of nested bodies and functions
    iterations: int = 1 << 20  # of one loop, those of loops inside it counted too

    def check(self, type: TensorType, what: str = "a tensor") -> None:
        """Raise LimitError if a static tensor of this type is larger than `tensor_bytes`."""
        if type.is_static and type.nbytes > self.tensor_bytes:
            raise LimitError(
                f"{what} of type {type} takes {type.nbytes} bytes, over the limit of "
                f"{self.tensor_bytes}",
                hint="raise Limits.tensor_bytes if the model is right",
            )


DEFAULT_LIMITS = Limits()

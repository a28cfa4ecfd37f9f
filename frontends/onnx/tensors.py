"""TensorProto to NumPy, every length checked as a Python integer before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import SparseTensorProto, TensorProto

from ...ir import (
    DEFAULT_LIMITS,
    Array,
    DType,
    LimitError,
    Limits,
    ModelError,
    TensorType,
    UnsupportedError,
)
from ...ir.errors import show_name
from ...ir.packing import packed_bytes, unpack
from ...ir.standard import dtype_of
from .external import read_external

P = TensorProto
MAX_RANK = 64  # NumPy's own

_TYPED: dict[int, str] = {
    P.FLOAT: "float_data", P.DOUBLE: "double_data", P.INT64: "int64_data",
    P.UINT64: "uint64_data", P.UINT32: "uint64_data",
}  # fmt: skip  # the others use int32_data
_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")


def text(value: str | bytes, what: str = "a name") -> str:
    """A protobuf string. Protobuf hands back bytes where a string is not UTF-8: ModelError."""
    if isinstance(value, str):
        return value
    raise ModelError(f"{what} is not UTF-8 ({show_name(bytes(value[:40]))})")


@dataclass
class TensorReader:
    """Reads tensors of one model and holds them to the model's limit together."""

    folder: Path | None = None
    limits: Limits = DEFAULT_LIMITS
    total: int = field(default=0, init=False)

    def read(self, tensor: TensorProto) -> Array:
        """The tensor as a read-only array. Raises ModelError, UnsupportedError, LimitError."""
        type = tensor_type(tensor)
        self.limits.check(type)
        self.total += type.nbytes
        if self.total > self.limits.model_bytes:
            raise LimitError(
                f"the constants take over {self.limits.model_bytes} bytes",
                hint="raise Limits.model_bytes if the model is right",
            )
        given = [f for f in _FIELDS if _is_given(tensor, f)]
        if len(given) > 1:
            raise ModelError(f"a tensor has both {given[0]} and {given[1]}")
        if tensor.data_location == P.EXTERNAL:
            if given:
                raise ModelError(f"a tensor has external data and {given[0]}")
            entries = {text(e.key, "a key"): text(e.value, "a value") for e in tensor.external_data}
            array = unpack(read_external(entries, self.folder, packed_bytes(type)), type)
        elif "raw_data" in given:
            array = unpack(tensor.raw_data, type)
        else:
            array = _from_numbers(tensor, type)
        array.flags.writeable = False
        return array


def tensor_type(tensor: TensorProto) -> TensorType:
    """What a TensorProto says it is, before its data are touched."""
    if tensor.HasField("segment"):
        raise UnsupportedError("tensors in segments are not supported")
    if len(tensor.dims) > MAX_RANK:
        raise ModelError(f"a tensor has {len(tensor.dims)} dimensions")
    dims = tuple(int(d) for d in tensor.dims)
    if any(d < 0 for d in dims):
        raise ModelError(f"a tensor has a negative dimension ({list(dims)})")
    if any(d >= 1 << 62 for d in dims):
        raise LimitError(f"a tensor has impossible dimensions ({list(dims)})")
    return TensorType(dtype_of(tensor.data_type), dims)


def refuse_sparse(tensors: Any) -> None:
    """Raise UnsupportedError if there are sparse initializers."""
    for tensor in tensors:
        assert isinstance(tensor, SparseTensorProto)
        raise UnsupportedError(
            f"sparse initializer {show_name(tensor.values.name)} is not supported",
            hint="store it dense",
        )


def _is_given(tensor: TensorProto, field: str) -> bool:
    return tensor.HasField("raw_data") if field == "raw_data" else bool(getattr(tensor, field))


def _from_numbers(tensor: TensorProto, type: TensorType) -> Array:
    name = _TYPED.get(tensor.data_type, "int32_data")
    wrong = [f for f in _FIELDS[1:] if f != name and getattr(tensor, f)]
    if wrong:
        raise ModelError(f"a tensor of type {type} keeps its data in {wrong[0]}, not in {name}")
    numbers, dtype = getattr(tensor, name), type.dtype
    packed = dtype.bits < 8
    wanted = packed_bytes(type) if packed else type.size
    if len(numbers) != wanted:
        raise ModelError(f"a tensor of type {type} has {len(numbers)} elements, not {wanted}")
    if dtype in (DType.f32, DType.f64):
        return np.array(numbers, dtype.numpy).reshape(type.static_shape)
    low, high = (0, (1 << dtype.bits) - 1) if not dtype.is_integer else dtype.bounds
    if packed:
        # Two or four elements in each number, as in raw data; negative ones are sign extended.
        low, high = -128, 255
    elif dtype is DType.bool:
        low, high = 0, 1
    values = np.array(numbers, np.uint64 if name == "uint64_data" else np.int64)
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise ModelError(f"a tensor of type {type} holds a number outside {low} to {high}")
    if packed:
        return unpack(values.astype(np.uint8).tobytes(), type)
    if dtype in (DType.f16, DType.bf16) or dtype.is_minifloat:
        codes = values.astype(f"u{dtype.bits // 8}")
        return codes.view(dtype.numpy).reshape(type.static_shape)
    return values.astype(dtype.numpy).reshape(type.static_shape)

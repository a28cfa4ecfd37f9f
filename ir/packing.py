"""Tensors as bytes in files: little endian, row major, elements of 4 and 2 bits side by side."""

from __future__ import annotations

import sys

import numpy as np

from .errors import ModelError
from .op import Array
from .types import DType, TensorType


def packed_bytes(type: TensorType) -> int:
    """Bytes of a tensor of this type: 4-bit elements lie two in one, 2-bit ones four."""
    return -(-type.size * type.dtype.bits // 8)


def pack(array: Array) -> bytes:
    """The elements' bytes; of 4-bit and 2-bit elements the first is in the lowest bits."""
    bits = DType.of(array).bits
    if bits >= 8:
        flat = np.ascontiguousarray(array)
        big = flat.dtype.byteorder == ">" or sys.byteorder == "big"
        return (flat.byteswap() if big else flat).tobytes()
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & (1 << bits) - 1
    per = 8 // bits
    padded = np.zeros(-(-codes.size // per) * per, np.uint8)
    padded[: codes.size] = codes
    parts = padded.reshape(-1, per) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(parts, axis=1).astype(np.uint8).tobytes()


def unpack(data: bytes, type: TensorType) -> Array:
    """The inverse of `pack`, a view of `data` where that can be. Raises ModelError."""
    if len(data) != packed_bytes(type):
        raise ModelError(f"a tensor of type {type} has {len(data)} bytes, not {packed_bytes(type)}")
    dtype, shape = type.dtype, type.static_shape
    if dtype.bits < 8:
        return _apart(np.frombuffer(data, np.uint8), type)
    if dtype is DType.bool:
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    array = np.frombuffer(data, dtype.numpy).reshape(shape)
    return array.byteswap() if sys.byteorder == "big" else array


def narrow(codes: Array, dtype: DType) -> Array:
    """Bytes that hold an element of 4 or 2 bits each, as these; what is above is dropped."""
    return (codes & ((1 << dtype.bits) - 1)).astype(np.uint8).view(dtype.numpy)


def _apart(data: Array, type: TensorType) -> Array:
    parts = np.stack([data >> k for k in range(0, 8, type.dtype.bits)], axis=-1)
    return narrow(parts.reshape(-1)[: type.size], type.dtype).reshape(type.static_shape)

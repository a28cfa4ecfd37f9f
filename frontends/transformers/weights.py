"""Safetensors files, read with every length checked before anything is believed.

The format: 8 bytes that say how long the header is, the header (JSON: name -> dtype, shape and
data_offsets), then the tensors' bytes, each where its offsets say, row major, little endian.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir import DEFAULT_LIMITS, Array, DType, Limits, ModelError, UnsupportedError
from ...ir.errors import show_name
from ...ir.files import read_bounded

_DTYPES = {
    "F64": DType.f64, "F32": DType.f32, "F16": DType.f16, "BF16": DType.bf16,
    "I64": DType.i64, "I32": DType.i32, "I16": DType.i16, "I8": DType.i8,
    "U64": DType.u64, "U32": DType.u32, "U16": DType.u16, "U8": DType.u8, "BOOL": DType.bool,
}  # fmt: skip
_HEADER_BYTES = 100 << 20


def read_safetensors(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS
) -> dict[str, Array]:
    """Every tensor by name, read-only views of the file's bytes.

    Raises StorageError, LimitError; ModelError for a damaged file, UnsupportedError for an element
    type that Taut lacks. Each names the file and tensor.
    """
    data = read_bounded(path, limits.model_bytes)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(len(data) - 8, _HEADER_BYTES):
        raise ModelError("is no safetensors file: its header does not fit into it", file=path)
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"has a header that is no JSON ({error})", file=path) from error
    if not isinstance(header, dict):
        raise ModelError("has a header that is no JSON object", file=path)
    body = memoryview(data)[8 + length :]
    found: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            found[name] = _tensor(entry, body, limits)
        except (ModelError, UnsupportedError) as error:
            error.message = f"tensor {show_name(name)} {error.message}"
            raise error.with_context(file=path)
    return found


def _tensor(entry: Any, body: memoryview, limits: Limits) -> Array:
    if not isinstance(entry, dict):
        raise ModelError("is described by no JSON object")
    shape, span = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or span is None or len(span) != 2 or len(shape) > 32:
        raise ModelError("has no sound shape and offsets")
    kind = str(entry.get("dtype"))
    if kind not in _DTYPES:
        raise UnsupportedError(f"has the element type {kind[:20]!a}, which Taut lacks")
    dtype = _DTYPES[kind].numpy
    start, stop = span
    size = math.prod(shape) * dtype.itemsize
    if not start <= stop <= len(body) or stop - start != size:
        raise ModelError(f"of {size} bytes lies at {start}..{stop} of {len(body)}")
    array = np.frombuffer(body[start:stop], dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _naturals(value: Any) -> list[int] | None:
    """A list of numbers that are not negative, if it is one."""
    sound = isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in value)
    return value if sound else None


class Weights:
    """Tensors asked for by name and shape, as float32."""

    def __init__(self, tensors: Mapping[str, Array], prefix: str = "") -> None:
        self.tensors, self.prefix = tensors, prefix
        self.read: set[str] = set()

    def __call__(self, name: str, *shape: int) -> Array:
        """The tensor of this name. Raises ModelError where it is missing, misshapen or no float."""
        full = self.prefix + name
        array = self.tensors.get(full)
        if array is None:
            raise ModelError(f"tensor {show_name(full)} is missing",
                             hint="the configuration may be another model's")  # fmt: skip
        if array.shape != shape:
            raise ModelError(f"tensor {show_name(full)} is {list(array.shape)}, where the "
                             f"configuration wants {list(shape)}")  # fmt: skip
        if not DType.of(array).is_float:
            raise ModelError(f"tensor {show_name(full)} is {array.dtype}, no float")
        self.read.add(full)
        return np.asarray(array, np.float32)

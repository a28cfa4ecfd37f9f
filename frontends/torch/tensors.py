"""Tensors and element types between PyTorch and the IR."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from ...ir import Array, DType, UnsupportedError

_PAIRS = [
    (torch.float64, DType.f64), (torch.float32, DType.f32), (torch.float16, DType.f16),
    (torch.bfloat16, DType.bf16), (torch.int64, DType.i64), (torch.int32, DType.i32),
    (torch.int16, DType.i16), (torch.int8, DType.i8), (torch.uint64, DType.u64),
    (torch.uint32, DType.u32), (torch.uint16, DType.u16), (torch.uint8, DType.u8),
    (torch.bool, DType.bool),
]  # fmt: skip
_TO_TAUT = dict(_PAIRS)
_TO_TORCH = {d: t for t, d in _PAIRS}


def dtype_of(kind: torch.dtype) -> DType:
    """The IR's name of an element type. Raises UnsupportedError for complex, 8-bit floats, ..."""
    found = _TO_TAUT.get(kind)
    if found is None:
        raise UnsupportedError(f"the element type {str(kind).removeprefix('torch.')} is not known")
    return found


def torch_dtype(kind: DType) -> torch.dtype:
    """PyTorch's name of an element type. Raises UnsupportedError for those it lacks (i4, u2)."""
    found = _TO_TORCH.get(kind)
    if found is None:
        raise UnsupportedError(f"PyTorch has no element type {kind.value}")
    return found


def to_array(tensor: torch.Tensor) -> Array:
    """A NumPy array of its own with the tensor's elements."""
    plain = tensor.detach().to("cpu").contiguous()
    kind = dtype_of(plain.dtype)
    if kind is DType.bf16:  # NumPy has none: the same bits under another name
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return plain.numpy().copy()


def to_tensor(array: Array) -> torch.Tensor:
    """A tensor of its own with the array's elements."""
    kind = torch_dtype(DType.of(array))
    array = np.array(array, order="C")  # PyTorch wants it writable
    if kind is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)

"""Quantize and dequantize: per tensor, per axis, in blocks."""

from __future__ import annotations

import numpy as np

from taut.ir import DType

from ..sketch import Ref, Sketch
from .base import FLAG, axis_of, recipe

_SCALES = (0.1, 1.0, 0.03, 0.5, 2.0, 7.3)


def _scale(d: Sketch, kind: DType, shape: tuple[int, ...]) -> Ref:
    count = int(np.prod(shape, dtype=np.int64))
    made = np.array([d.choices.one(_SCALES) for _ in range(min(count, 4))] or [0.1])
    return d.put(np.resize(made, shape).astype(kind.numpy), 85)


def _layout(d: Sketch, x: Ref) -> tuple[dict[str, int], tuple[int, ...]]:
    """Attributes and the shape of the scale: for all, for each index, or for each block."""
    how = d.choices.one(("tensor", "axis", "axis", "block"))
    if how == "tensor" or not x.rank or not d.has("axis"):
        return (d.attributes(axis=(axis_of(d, max(x.rank, 1)),)) if d.maybe(20) else {}), ()
    axis = axis_of(d, x.rank)
    given = {"axis": axis} if axis != 1 or d.maybe(50) else {}
    if how == "axis" or not d.has("block_size"):
        return given, (x.shape[axis],)
    size = d.choices.one((2, 1, 3))
    shape = list(x.shape)
    shape[axis] = -(-shape[axis] // size)
    return {**given, "block_size": size}, tuple(shape)


@recipe("QuantizeLinear")
def quantize(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4, 0), "wild" if d.maybe(50) else "tame")
    given, shape = _layout(d, x)
    if d.schema.inputs[1].type_str == "tensor(float)":
        scale = _scale(d, DType.f32, shape)
    elif d.schema.inputs[1].type_str == d.schema.inputs[0].type_str:
        scale = _scale(d, x.dtype, shape)
    else:
        scale = _scale(d, d.dtype(1, (x.dtype,) if x.dtype.is_float else None), shape)
    kinds = (DType.u8, DType.i8, DType.i16, DType.u16, DType.i4, DType.u4)
    zero = None
    if d.maybe(70):
        options = [k for k in kinds if k in d.allowed(2)]
        zero = d.given(d.choices.one(options), shape, constant=85)
    elif d.has("output_dtype") and d.maybe(40):
        given["output_dtype"] = d.choices.one(kinds)  # type: ignore[assignment]
    d.emit([x, scale, zero], {**given, **d.attributes(saturate=FLAG)})


@recipe("DequantizeLinear")
def dequantize(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4, 0))
    given, shape = _layout(d, x)
    if d.schema.inputs[1].type_str == "tensor(float)":
        scale = _scale(d, DType.f32, shape)
    else:
        scale = _scale(d, d.dtype(1), shape)
    zero = d.given(x.dtype, shape, constant=85) if d.maybe(60) else None
    if zero is not None and x.dtype is DType.i32:
        zero.array = np.zeros(shape, np.int32)
    d.emit([x, scale, zero], given)

"""The ways in and out of the integer level: quantize and dequantize."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import Array, DType, Node, Value
from ....ir.analysis.index import NotNest
from ...schedule.layout import KERNEL_TYPES, Tensor, round_up
from ...schedule.steps import Step, Word, record_words
from ..kernels import frame, maps
from ..kernels.frame import PlanarRecord
from ..kernels.grid import share
from ..kernels.maps import FloatRecord
from . import generic
from .conv import strides
from .fusion import emit_body, emit_scale_check
from .generic import Leaf
from .grids import emit_map, grid_words, target_of
from .images import lift
from .lowering import Lowering
from .registry import lowers


@lowers("quantize_linear")
def quantize(low: Lowering, node: Node) -> bool:
    """f32 to 8 bits: from planes to pixels, or as a map."""
    x, scale_value, zero_value = [*low.graph.operands(node), None][:3]
    assert x is not None
    op: Any = node.op
    scale, zero = low.array(scale_value), low.array(zero_value)
    kind = node.type.dtype
    if _computed(low, node):
        return True
    if scale is None or x.type.dtype is not DType.f32 or scale.dtype != np.float32:
        return False
    if op.block_size or (zero_value is not None and zero is None):
        return False
    if kind not in (DType.u8, DType.i8, DType.i16, DType.u16) or node.type.size == 0:
        return False
    source = low.tensor(x)
    if scale.size == 1 and kind is DType.u8 and low.is_spatial(node[0]) \
            and len(source.shape) in (3, 4) and source.strides[-1] == 4:  # fmt: skip
        _to_pixels(low, node, source, float(scale.reshape(-1)[0]), zero)
        return True
    spread = [1] * node.type.rank
    if scale.size > 1:
        spread[op.axis] = scale.size
    shape = tuple(spread) if scale.size > 1 else ()
    zeros = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    low_, high = kind.bounds
    leaves = [
        Leaf(source), Leaf(low.place(scale.reshape(shape))),
        Leaf(low.place(np.broadcast_to(zeros, scale.shape).reshape(shape))),
        low.scalar(low_, DType.i32), low.scalar(high, DType.i32),
    ]  # fmt: skip
    out = low.result(node[0], exact=True)
    text = f"{kind.value}(quantize32(a0, a1, a2, a3, a4))"
    low.emit(generic.map_step(text, "quantize", out, leaves, low.threads, (node.name,)))
    return True


def _computed(low: Lowering, node: Node) -> bool:
    """A scale or zero point that is computed, as in quantization-aware training: as a loop nest."""
    operands = [v for v in low.graph.operands(node) if v is not None]
    if all(low.array(v) is not None for v in operands[1:]) or node.type.size == 0:
        return False
    if any(v.type.dtype not in KERNEL_TYPES for v in (*operands, node[0])):
        return False
    sources = [low.tensor(v) for v in operands]
    out = low.result(node[0], exact=True)
    try:
        emit_body(low, lambda b, *xs: b.add_op(node.op, *xs), sources, out, node.op.name,
                  (node.name,))  # fmt: skip
    except NotNest:
        return False
    if low.array(operands[1]) is None:
        emit_scale_check(low, sources[1], node.name)
    return True


def _to_pixels(low: Lowering, node: Node, source: Tensor, scale: float, zero: Array | None) -> None:
    planes = lift(source)
    target = low.result(node[0], exact=False)
    pixels = lift(target)
    offset = 0 if zero is None else int(zero.reshape(-1)[0])
    values = planar(pixels, planes, pixels.room, scale, offset, low.threads)
    words = record_words(PlanarRecord, values)
    kernel = frame.from_planes_kernel("quantize")
    low.emit(Step(kernel, words, [source.buffer], [target.buffer], (node.name,)))


def planar(
    pixels: Tensor, planes: Tensor, channels: int, scale: Word, zero: int, threads: int
) -> dict[str, Word]:
    """The record of a step between planes (NCHW) and pixels (NHWC), both lifted."""
    return {
        **share(pixels.shape[2], pixels.shape[0], threads),
        "rows": pixels.shape[2],
        "width": pixels.shape[3],
        "channels": channels,
        **strides("target", pixels),
        "plane": planes.ref,
        "plane_image": planes.strides[0],
        "plane_channel": planes.strides[1],
        "plane_row": planes.strides[2],
        "planes": planes.shape[1],
        "scale": scale,
        "zero": zero,
    }


@lowers("dequantize_linear")
def dequantize(low: Lowering, node: Node) -> bool:
    """8, 16 or 32 bits to f32."""
    x, scale_value, zero_value = [*low.graph.operands(node), None][:3]
    assert x is not None
    op: Any = node.op
    scale, zero = low.array(scale_value), low.array(zero_value)
    if _computed(low, node):
        return True
    if scale is None or scale.dtype != np.float32 or node.type.dtype is not DType.f32:
        return False
    if op.block_size or (zero_value is not None and zero is None) or node.type.size == 0:
        return False
    if x.type.dtype not in KERNEL_TYPES:
        return False
    source = low.tensor(x)
    if scale.size == 1 and _dequantized_pixels(low, node, x, source, scale, zero):
        return True
    spread = [1] * node.type.rank
    if scale.size > 1:
        spread[op.axis] = scale.size
    shape = tuple(spread) if scale.size > 1 else ()
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    leaves = [
        Leaf(source), Leaf(low.place(scale.reshape(shape))),
        Leaf(low.place(np.broadcast_to(zeros, scale.shape).reshape(shape))),
    ]  # fmt: skip
    out = low.result(node[0], exact=True)
    text = "f32(i64(a0) - a2) * a1"
    if x.type.dtype is not DType.i32:
        text = "f32(i32(i64(a0) - a2)) * a1"
    low.emit(generic.map_step(text, "dequantize", out, leaves, low.threads, (node.name,)))
    return True


def _dequantized_pixels(
    low: Lowering, node: Node, x: Value, source: Tensor, scale: Array, zero: Array | None
) -> bool:
    """u8 pixels to f32 planes or pixels by the vector kernels."""
    offset = 0 if zero is None else int(zero.reshape(-1)[0])
    if x.type.dtype is not DType.u8 or source.buffer.space != "arena":
        return False
    if not low.is_spatial(x) or len(source.shape) not in (3, 4) or not source.channels_last:
        return False
    factor: Word = float(scale.reshape(-1)[0])
    pixels = lift(source)
    if low.is_spatial(node[0]) and not low.graph.is_output(node[0]):
        target = target_of(low, node[0])
        values = grid_words(low, target, {"a": pixels})
        values |= {"scale": factor, "zero": offset}
        emit_map(low, maps.DEQUANTIZE, FloatRecord, values, target, [pixels], (node,))
        return True
    out = low.result(node[0], exact=True)
    planes = lift(out)
    if planes.strides[3] != 4:
        return False
    channels = round_up(pixels.shape[1], 4)
    values = planar(pixels, planes, channels, factor, offset, low.threads)
    words = record_words(PlanarRecord, values)
    kernel = frame.to_planes_kernel("dequantize")
    low.emit(Step(kernel, words, [source.buffer], [out.buffer], (node.name,)))
    return True

"""Gradients of convolutions' weights, in f32 (see `kernels.weight_gradient`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ....ir import Array, Builder, DType, Node, Value
from ...schedule.groups import LARGEST
from ...schedule.layout import Tensor
from ...schedule.steps import Step, record_words
from ...schedule.windows import Geometry, geometry
from ..kernels import weight_gradient
from ..kernels.conv import runs_of
from ..kernels.weight_gradient import WeightGradientRecord
from .computed import arranged
from .conv import first_tap
from .fusion import emit_body
from .images import image, lift
from .lowering import Lowering
from .registry import lowers

NEAR = 256 << 10  # bytes of both images in a block
SHARED = 1 << 20  # bytes of sums up to which each thread has its own
FEW = 8  # input channels below which patches are gathered beforehand


class Plan(NamedTuple):
    """Tiles: a row of `WeightGradientRecord.tiles` each, `height` vectors; and where each element
    of the weights [O, KH, KW, C] is among the sums."""

    tiles: Array
    height: int
    where: Array


@lowers("conv_weight_gradient")
def conv_weight_gradient(low: Lowering, node: Node) -> bool:
    """Of convolutions over one or two spatial axes: dense, depthwise, or group by group."""
    x, dy = low.graph.operands(node)
    op: Any = node.op
    assert x is not None and dy is not None
    if node.type.dtype is not DType.f32 or x.type.rank not in (3, 4):
        return False
    if 0 in (x.type.size, dy.type.size) or not 0 < node.type.size < LARGEST:
        return False
    nodes = (node.name,)
    g = geometry(op, low.shape(x)[2:], op.kernel_shape, low.shape(dy)[2:])
    zero = (0,) * len(g.kernel)
    flat = Geometry(g.kernel, g.strides, g.dilations, zero, zero, g.out)
    source, other = lift(image(low, x, g, 0.0)), lift(image(low, dy, flat, 0.0))
    out, per, *_ = node.type.static_shape
    shape = (out, *g.lifted().kernel, per)
    g = g.lifted()
    depthwise = op.group > 1 and per == 1 and out == op.group
    if depthwise:
        plan = _by_channel(low, g, source, out)
        sums, where = _sums(low, source, other, g, plan, nodes, g.kernel[1])
    elif op.group == 1:
        sums, where = _dense(low, source, other, g, nodes)
    else:
        parts = [_dense(low, source.slice(1, k * per, per),
                        other.slice(1, k * out // op.group, out // op.group), g, nodes)
                 for k in range(op.group)]  # fmt: skip
        made = low.new(DType.f32, (sum(s.size for s, _ in parts),))
        starts = np.cumsum([0, *(s.size for s, _ in parts)])
        for (s, _), start in zip(parts, starts):
            low.copy(s, made.slice(0, int(start), s.size), nodes)
        sums, where = made, np.concatenate([w + s for (_, w), s in zip(parts, starts)])
    order = where.reshape(shape).transpose(0, 3, 1, 2).reshape(-1)
    result = low.result(node[0], exact=True)
    made = result if result.is_row_major else low.new(DType.f32, result.shape)
    arranged(low, (order + 1).astype(np.int32), sums, made, nodes)
    if made is not result:
        low.copy(made, result, nodes)
    return True


def _dense(
    low: Lowering, source: Tensor, other: Tensor, g: Geometry, nodes: tuple[str, ...]
) -> tuple[Tensor, Array]:
    """Sums of one group, and where they are."""
    channels, out = source.shape[1], other.shape[1]
    if channels < FEW and g.kernel != (1, 1):
        source = _patches(low, source, g, nodes)
        one, zero, channels = (1, 1), (0, 0), source.shape[1]
        g = Geometry(one, one, one, zero, zero, g.out)
    return _sums(low, source, other, g, _by_element(low, g, source, channels, out), nodes)


def _patches(low: Lowering, source: Tensor, g: Geometry, nodes: tuple[str, ...]) -> Tensor:
    """Each pixel's window as its channels: (n, KH * KW * C, h, w), channels last."""
    n, c = source.shape[:2]
    (kh, kw), (h, w) = g.kernel, g.out
    image_, channel, row, pixel = source.strides
    back = g.before[0] * row + g.before[1] * pixel
    seen = source.view(
        (n, h, w, kh, kw, c),
        (image_, row * g.strides[0], pixel * g.strides[1], row * g.dilations[0],
         pixel * g.dilations[1], channel), -back,
    )  # fmt: skip
    made = low.new(DType.f32, seen.shape)
    low.copy(seen, made, nodes)
    flat = made.reshape((n, h, w, kh * kw * c))
    assert flat is not None
    return flat.permute((0, 3, 1, 2))


def _by_element(low: Lowering, g: Geometry, source: Tensor, channels: int, out: int) -> Plan:
    """Tiles of elements of a run times a vector of output channels."""
    lanes, pixel, row = low.isa.lanes, source.strides[3], source.strides[2]
    taps, length = runs_of(g.kernel, g.dilations, row, pixel, 4 * channels)
    length //= 4
    height = _height(length, _heights(low))
    starts = np.minimum(np.arange(0, length, height), length - height)
    panels = -(-out // lanes)
    count = len(taps) * len(starts) * panels
    size = 4 * lanes * height
    at = (taps[:, None] + 4 * starts).reshape(-1)
    tiles = np.stack([
        np.tile(at, panels),
        np.repeat(np.arange(panels) * 4 * lanes, len(at)),
        np.arange(count) * size,
    ], axis=-1).astype(np.int64)  # fmt: skip
    element = np.arange(len(taps) * length)
    run, within = np.divmod(element, length)
    tile = np.minimum(within // height, len(starts) - 1)
    inside = (run * len(starts) + tile) * height + within - starts[tile]
    o = np.arange(out)[:, None]
    where = ((o // lanes) * len(at) * height + inside) * lanes + o % lanes
    return Plan(tiles, height, where)


def _by_channel(low: Lowering, g: Geometry, source: Tensor, channels: int) -> Plan:
    """Tiles of a window's taps (or of a kernel row's, where they are many) times a vector."""
    lanes, (kh, kw) = low.isa.lanes, g.kernel
    height = kh * kw if kh * kw <= _heights(low)[0] else kw
    each = kh * kw // height  # tiles of a window
    panels, row = -(-channels // lanes), source.strides[2] * g.dilations[0]
    panel, part = (a.reshape(-1) for a in np.indices((panels, each)))
    tiles = np.stack([
        part * row + panel * 4 * lanes, panel * 4 * lanes,
        np.arange(panels * each) * 4 * lanes * height,
    ], axis=-1).astype(np.int64)  # fmt: skip
    c, tap = np.indices((channels, kh * kw))
    where = ((c // lanes) * kh * kw + tap) * lanes + c % lanes
    return Plan(tiles, height, where)


def _heights(low: Lowering) -> tuple[int, ...]:
    """Tiles that leave registers for a vector of gradients and what is loaded."""
    return (24, 20, 16, 12, 8, 4, 2, 1) if low.isa.lanes != 8 else (12, 10, 8, 4, 2, 1)


def _height(length: int, heights: tuple[int, ...]) -> int:
    """The tile with the least work for a run; 3 vectors stand for what a tile does beside."""
    return min((h for h in heights if h <= length), key=lambda h: -(-length // h) * (h + 3))


def _sums(
    low: Lowering, source: Tensor, other: Tensor, g: Geometry, plan: Plan, nodes: tuple[str, ...],
    taps: int = 0,
) -> tuple[Tensor, Array]:  # fmt: skip
    """The step that makes all sums, in one tensor."""
    n, _, h, w = other.shape
    row_bytes = source.strides[2] * g.strides[0] + other.strides[2]
    block_rows = max(1, min(h, NEAR // row_bytes))
    row_blocks = -(-h // block_rows)
    blocks, count = n * row_blocks, len(plan.tiles)
    words = count * plan.height * low.isa.lanes
    wanted = 4 * low.threads if low.threads > 1 else 1
    splits = min(blocks, low.threads) if 4 * words <= SHARED else 1
    chunk_blocks = -(-blocks // splits)
    splits = -(-blocks // chunk_blocks)
    chunk_tiles = -(-count // max(1, min(count, wanted // splits)))
    made = low.new(DType.f32, (splits, words))
    tap = first_tap(source, g)
    fields = record_words(WeightGradientRecord, {
        "chunks": splits * -(-count // chunk_tiles), **tap, "other": other.ref,
        "other_row": other.strides[2], "other_pixel": other.strides[3],
        "other_image": other.strides[0], "tiles": low.constant(plan.tiles),
        "chunk_tiles": chunk_tiles, "tile_count": count, "tile_chunks": -(-count // chunk_tiles),
        "blocks": blocks, "row_blocks": row_blocks, "block_rows": block_rows,
        "chunk_blocks": chunk_blocks, "rows": h, "width": w,
        "tap_row": source.strides[2] * g.dilations[0],
        "tap_pixel": source.strides[3] * g.dilations[1], "target": made.ref,
        "target_split": made.strides[0],
    })  # fmt: skip
    kernel = weight_gradient.kernel(plan.height, taps)
    macs = words * n * h * w
    low.emit(Step(kernel, fields, [source.buffer, other.buffer], [made.buffer], nodes, macs))
    if splits == 1:
        return made.slice(0, 0, 1).view((words,), (4,)), plan.where
    total = low.new(DType.f32, (words,))

    def add(b: Builder, x: Value) -> Value:
        return b.reduce_sum(x, np.array([0]), keepdims=False)

    emit_body(low, add, [made], total, "sum", nodes)
    return total, plan.where

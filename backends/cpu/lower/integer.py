"""The integer level: groups around an accumulator, rescaling, tables, and the way in and out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ....ir import Array, Builder, DType, Node, Value
from ....ir.ops.convolution import Conv
from ....ir.ops.integer import ConvInteger, MatMulInteger, MulInteger
from ...schedule.groups import Group, Rescale, shifted_weights
from ...schedule.layout import Tensor, round_up
from ...schedule.windows import Geometry, node_geometry
from ..kernels import maps, pool
from ..kernels.maps import MapRecord
from ..kernels.pool import PoolRecord
from ..kernels.stairs import staircase
from . import generic
from .conv import Layer, emit_dealt, emit_layer, float_conv, merge_groups, reordered
from .fusion import emit_body
from .generic import Leaf
from .grids import emit_map, grid_words, names_of, pixels_of, target_of
from .images import image, lift
from .lowering import GRANULE, Lowering
from .matmul_integer import matrix_layer
from .reduce import pool_words, scale_words
from .registry import GROUP, lowers

KINDS = {DType.u8: "u8", DType.i16: "s16", DType.i32: "s32"}


@lowers(GROUP)
def grouped(low: Lowering, node: Node) -> bool:
    """The last node of a group."""
    group = low.groups.by_last[node]
    if isinstance(group.first.op, Conv):
        return float_conv(low, node) or _apart(low, group)
    if isinstance(group.first.op, ConvInteger | MatMulInteger):
        _gemm(low, group)
        return True
    if isinstance(group.first.op, MulInteger):
        return _product(low, group)
    return _sum_pool(low, group)


# ---- accumulators ------------------------------------------------------------------------------


def _gemm(low: Lowering, group: Group) -> None:
    node = group.first
    x, _, x_zero, _, bias = [*low.graph.operands(node), None, None, None][:5]
    assert x is not None
    weights = shifted_weights(low.facts, node)
    assert weights is not None
    zero, start = low.array(x_zero), low.array(bias)
    fill = 0 if zero is None else int(zero.reshape(-1)[0])
    if x.type.dtype is DType.i8:
        fill += 128
    conv = isinstance(node.op, ConvInteger)
    if conv:
        weights = np.ascontiguousarray(weights.transpose(0, *range(2, weights.ndim), 1))
        weights = weights if weights.ndim == 4 else weights[:, None]
    else:
        weights = np.ascontiguousarray(weights.T)[:, None, None]
    n = len(weights)
    total = -fill * weights.reshape(n, -1).sum(1, dtype=np.int64)
    if start is not None:
        total = total + start.reshape(-1)
    layer = Layer(
        weights, total.astype(np.int32), getattr(node.op, "group", 1), "s32",
        nodes=names_of(group.nodes),
    )  # fmt: skip
    _finish(low, group, layer)
    if not conv:
        matrix_layer(low, group.last[0], x, layer, group.rescale and group.rescale.other)
        return
    if group.rescale is not None and group.rescale.other is not None:
        layer.residual = pixels_of(low, group.rescale.other, group.last[0])
    g = node_geometry(low.facts, node)
    assert g is not None
    source = image(low, x, g, fill, unsigned=True)
    target = low.result(group.last[0], exact=False, granule=GRANULE)
    if group.blocks is not None:
        _by_places(low, merge_groups(layer, low.isa.lanes), source, target, g, group.blocks)
        return
    if group.deal:
        emit_dealt(low, layer, group.deal, lift(source), lift(target), g.lifted())
        return
    emit_layer(low, layer, lift(source), lift(target), g.lifted())


def _by_places(
    low: Lowering,
    layer: Layer,
    source: Tensor,
    target: Tensor,
    g: Geometry,
    blocks: tuple[Array, ...],
) -> None:
    """A convolution and its depth_to_space: one layer for each place in the block."""
    b = math.isqrt(len(blocks))
    n, c, h, w = target.strides
    shape = (*target.shape[:2], *g.out)
    for place, channels in enumerate(blocks):
        offset = place // b * h + place % b * w
        part = replace(target.view(shape, (n, c, h * b, w * b), offset), room=target.room)
        emit_layer(low, reordered(layer, channels), source, part, g)


def _finish(low: Lowering, group: Group, layer: Layer) -> None:
    """The layer's epilogue."""
    n, rescale = len(layer.weights), group.rescale
    if group.dequantize is not None:
        layer.out = "f32"
        layer.scale = np.broadcast_to(group.dequantize, (n,))
    if rescale is None:
        return
    layer.out = "u8"
    layer.scale = np.broadcast_to(rescale.scale, (n,)).astype(np.float64)
    layer.extra = {"zero": rescale.zero, "lo": rescale.lo, "hi": rescale.hi}
    if rescale.other is not None:
        layer.extra |= {"other_zero": rescale.other_zero, "other_scale": rescale.other_scale}
    if group.table is not None:
        _look_up(low, layer, rescale, group.table)


def _look_up(low: Lowering, layer: Layer, rescale: Rescale, table: Array) -> None:
    """End a layer in a table, by byte permutations where it is a staircase."""
    within = max(abs(rescale.lo - rescale.zero), abs(rescale.hi - rescale.zero)) < 32000
    fits = low.isa.vbmi and within and layer.is_bounded
    found = staircase(table) if fits else None
    if found is None:
        layer.out = "lut"
        layer.extra["table"] = low.constant(table)
        return
    steps, shift = found
    layer.out = "stairs"
    start = shift - rescale.lo
    layer.extra |= {
        "table": low.constant(steps), "zero": rescale.zero + start, "lo": shift,
        "hi": rescale.hi + start,
    }  # fmt: skip


# ---- element-wise ------------------------------------------------------------------------------


@lowers("requantize")
def requantize(low: Lowering, node: Node) -> bool:
    """On the vector kernels where operands are images or rows of one shape, else as a map."""
    op: Any = node.op
    operands = low.graph.operands(node)
    xs, ms = operands[::2], [low.array(m) for m in operands[1::2]]
    if any(m is None for m in ms) or node.type.size == 0:
        return False
    if _on_grid(low, node, xs, ms):
        return True
    leaves, terms = [], []
    scalar = low.scalar
    for x, m, zero in zip(xs, ms, op.zeros(len(xs))):
        assert x is not None and m is not None
        shape = [1] * node.type.rank
        if m.size > 1:
            shape[op.axis] = m.size
        i = len(leaves)
        factors = low.place(m.reshape(shape) if m.size > 1 else m.reshape(()))
        leaves += [Leaf(low.tensor(x)), Leaf(factors), scalar(zero, DType.i64)]
        terms.append(f"(i64(a{i}) - a{i + 2}) * i64(a{i + 1})")
    k = len(leaves)
    leaves += [scalar(v, DType.i64) for v in (op.shift, op.zero_point, *op.bounds)]
    mode = ("half_even", "half_up", "floor").index(op.rounding)
    text = f"clamp(requantize({' + '.join(terms)}, a{k}, {mode}) + a{k + 1}, a{k + 2}, a{k + 3})"
    kind = node.type.dtype.value
    out = low.result(node[0], exact=True)
    if not generic.fits(out, leaves):
        del low.tensors[node[0]]
        return False
    text = f"{kind}({text})"
    low.emit(generic.map_step(text, "requantize", out, leaves, low.threads, (node.name,)))
    return True


def _on_grid(low: Lowering, node: Node, xs: list[Value | None], ms: list[Array | None]) -> bool:
    op: Any = node.op
    shape = node.type.static_shape
    spatial = low.is_spatial(node[0]) and len(shape) in (3, 4)
    axis = 1 if spatial else len(shape) - 1
    kinds, wide = [], 0
    for x, m in zip(xs, ms):
        assert x is not None and m is not None
        if x.type.dtype not in KINDS or low.shape(x) != shape or x in low.facts.known or not shape:
            return False
        if m.size > 1 and op.axis % len(shape) != axis:
            return False
        wide += x.type.dtype is DType.i32
        kinds.append(KINDS[x.type.dtype])
    if len(kinds) > 3 or node.type.dtype not in (DType.u8, DType.i16):
        return False
    narrow = node.type.dtype is DType.u8 or op.shift <= 35
    fast = op.rounding == "half_even" and wide <= 1 and narrow
    per_channel = any(m is not None and m.size > 1 for m in ms)
    rounding = "fast" if fast else {"half_even": "even", "half_up": "up"}.get(op.rounding, "floor")
    sources = {name: pixels_of(low, x, node[0]) for name, x in zip("abc", xs) if x is not None}
    target = target_of(low, node[0])
    values = grid_words(low, target, sources, per_channel)
    for name, m, zero in zip("abc", ms, op.zeros(len(xs))):
        assert m is not None
        values[f"{name}_zero"] = zero
        factor = m.reshape(-1).astype(np.int64)
        scale = np.ldexp(factor.astype(np.float64), -op.shift) if fast else factor
        table = padded(scale, shape[axis]) if per_channel else scale
        values[f"{name}_scale"] = low.constant(table)
    lo, hi = op.bounds
    values |= {"zero": op.zero_point, "lo": lo, "hi": hi, "shift": op.shift}
    out = "u8" if node.type.dtype is DType.u8 else "s16"
    kernel = maps.requantize_kernel(
        "_".join(kinds), per_channel=per_channel, out=out, rounding=rounding
    )
    emit_map(low, kernel, MapRecord, values, target, list(sources.values()), (node,))
    return True


@lowers("lookup")
def lookup(low: Lowering, node: Node) -> bool:
    """A table of at most 65536 entries; bytes by the vector kernel."""
    x, table_value = low.graph.operands(node)
    table = low.array(table_value)
    assert x is not None
    if table is None or node.type.size == 0:
        return False
    start = node.op.first(x.type.dtype)  # type: ignore[attr-defined]
    if x.type.dtype is DType.u8 and table.dtype == np.uint8 and low.shape(x):
        source = pixels_of(low, x, node[0])
        target = target_of(low, node[0])
        values = grid_words(low, target, {"a": source})
        whole = table[np.clip(np.arange(256) - start, 0, len(table) - 1)]
        values["table"] = low.constant(whole)
        emit_map(low, maps.LOOKUP, MapRecord, values, target, [source], (node,))
        return True
    kind, size = node.type.dtype.value, table.itemsize
    scalar = low.scalar
    leaves = [
        Leaf(low.tensor(x)), Leaf(low.place(table), pointer=True), scalar(start, DType.i64),
        scalar(len(table) - 1, DType.i64),
    ]  # fmt: skip
    text = f"load_{kind}(a1, clamp(i64(a0) - a2, i64(0), a3) * {size})"
    out = low.result(node[0], exact=True)
    low.emit(generic.map_step(text, "lookup", out, leaves, low.threads, (node.name,)))
    return True


@lowers("mul_integer")
def mul_integer(low: Lowering, node: Node) -> bool:
    """The bare product."""
    op: Any = node.op
    leaves = [Leaf(low.tensor(v)) for v in low.graph.operands(node) if v is not None]
    leaves += [low.scalar(z, DType.i32) for z in (op.a_zero_point, op.b_zero_point)]
    out = low.result(node[0], exact=True)
    if not generic.fits(out, leaves):
        del low.tensors[node[0]]
        return False
    text = "i32((i64(a0) - a2) * (i64(a1) - a3))"
    if out.size:
        low.emit(generic.map_step(text, "mul", out, leaves, low.threads, (node.name,)))
    return True


def _product(low: Lowering, group: Group) -> bool:
    """mul_integer and its requantize: on the kernel where b has a's shape or is per channel."""
    node, rescale = group.first, group.rescale
    op: Any = node.op
    assert rescale is not None
    a, b = low.graph.operands(node)
    assert a is not None and b is not None
    zeros, shape = (op.a_zero_point, op.b_zero_point), node.type.static_shape
    if low.shape(a) != shape:
        a, b, zeros = b, a, zeros[::-1]
    spatial = low.is_spatial(group.last[0]) and len(shape) in (3, 4)
    same = low.shape(b) == shape
    by_channel = spatial and low.shape(b) == (*shape[:2], *(1,) * (len(shape) - 2))
    byte = a.type.dtype is DType.u8 and b.type.dtype is DType.u8
    if low.shape(a) != shape or not byte or not (same or by_channel) or b in low.facts.known \
            or a in low.facts.known:  # fmt: skip
        return _apart(low, group)
    first, second = (pixels_of(low, v, group.last[0]) for v in (a, b))
    target = target_of(low, group.last[0])
    if not same:
        n, c = second.shape[:2]
        fixed = (second.strides[0], second.strides[1], 0, 0)
        second = Tensor(second.buffer, second.dtype, (n, c, *target.shape[2:]), fixed,
                        second.offset)  # fmt: skip
    values = grid_words(low, target, {"a": first, "b": second})
    values |= {
        "a_zero": zeros[0], "b_zero": zeros[1], "a_scale": low.constant(rescale.scale),
        "zero": rescale.zero, "lo": rescale.lo, "hi": rescale.hi,
    }  # fmt: skip
    out = "u8"
    if group.table is not None:
        values["table"], out = low.constant(group.table), "lut"
    kernel = maps.multiply_kernel(out)
    emit_map(low, kernel, MapRecord, values, target, [first, second], group.nodes)
    return True


def _apart(low: Lowering, group: Group) -> bool:
    """Lower a group's nodes one by one after all."""
    low.groups = low.groups.without(group)
    for node in group.nodes[:-1]:
        low.lower(node)
    low.lower(group.last)
    return True


# ---- pooling -----------------------------------------------------------------------------------


def _pool_geometry(low: Lowering, node: Node) -> Geometry | None:
    g = node_geometry(low.facts, node)
    value = low.graph.operand(node, 0)
    assert value is not None
    if g is None and value.type.rank in (3, 4):
        size = low.shape(value)[2:]
        ones, zeros = (1,) * len(size), (0,) * len(size)
        return Geometry(size, ones, ones, zeros, zeros, ones)
    return g


def _sum_pool(low: Lowering, group: Group) -> bool:
    """sum_pool_integer and its requantize."""
    node, rescale = group.first, group.rescale
    value = low.graph.operand(node, 0)
    g = _pool_geometry(low, node)
    assert value is not None and rescale is not None
    if g is None or len(g.kernel) > 2 or value.type.dtype is not DType.u8:
        return _apart(low, group)
    zero = node.op.x_zero_point  # type: ignore[attr-defined]
    source = lift(image(low, value, g, zero))
    target = lift(low.result(group.last[0], exact=False, granule=GRANULE))
    values = pool_words(low, source, target, g.lifted())
    values |= {
        "a_zero": zero, "zero": rescale.zero, "lo": rescale.lo, "hi": rescale.hi,
    }  # fmt: skip
    scale = rescale.scale
    if group.factors is not None:
        pixels = np.broadcast_to(group.factors, (1, 1, *g.out)).reshape(target.shape[2:])
        scale = scale * pixels
    values |= scale_words(low, scale)
    emit_map(low, pool.SUM, PoolRecord, values, target, [source], group.nodes)
    return True


@lowers("sum_pool_integer")
def sum_pool(low: Lowering, node: Node) -> bool:
    """The bare sums: a fold over a view that has an axis for each window axis."""
    value = low.graph.operand(node, 0)
    g = _pool_geometry(low, node)
    assert value is not None
    if g is None or len(g.kernel) > 2 or node.type.size == 0 or value.type.size == 0:
        return False
    zero = node.op.x_zero_point  # type: ignore[attr-defined]
    source = image(low, value, g, zero)
    rank = len(g.kernel)
    inner = source.strides[2:]
    start = sum(a * s for a, s in zip(g.before, inner))
    seen = source.view(
        (*source.shape[:2], *g.out, *g.kernel),
        (*source.strides[:2], *(a * s for a, s in zip(inner, g.strides)),
         *(a * d for a, d in zip(inner, g.dilations))),
        -start,
    )  # fmt: skip
    axes = np.arange(2 + rank, 2 + 2 * rank)

    def sums(b: Builder, x: Value) -> Value:
        total = b.reduce_sum(b.cast(x, to=DType.i32), axes, keepdims=False)
        return b.sub(total, np.int32(zero * math.prod(g.kernel))) if zero else total

    emit_body(low, sums, [seen], low.result(node[0], exact=True), node.op.name, (node.name,))
    return True


def padded(values: Array, channels: int) -> Array:
    """One value for each of at least `channels` channels, padded to whole vectors."""
    made = np.zeros(round_up(channels, 16), values.dtype)
    made[:channels] = values if values.size > 1 else values.reshape(-1)[0]
    return made

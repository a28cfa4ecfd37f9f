"""Windowed pooling of floats and bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir import DType, Node, Value
from ....ir.ops.pooling import AveragePool
from ...schedule.layout import Halo, Tensor, round_up
from ...schedule.steps import Step, Word, record_words
from ...schedule.windows import Geometry, geometry, node_geometry
from ..kernels import pool
from ..kernels.grid import LANES, share
from ..kernels.pool import PoolGradientRecord, PoolRecord
from .conv import first_tap, strides
from .images import image, lift
from .lowering import Lowering
from .registry import lowers


@lowers("global_average_pool", priority=1)  # `fusion` has one for any shape
def global_pool(low: Lowering, node: Node) -> bool:
    """One window over both spatial axes. (Others: `fusion`.)"""
    value = low.graph.operand(node, 0)
    assert value is not None
    if node.type.dtype is not DType.f32 or value.type.rank != 4 or 0 in low.shape(value):
        return False
    size = low.shape(value)[2:]
    one, zero = (1, 1), (0, 0)
    g = Geometry(size, one, one, zero, zero, one)
    return _float_pool(low, node, g, np.full((1, 1), math.prod(size)))


@lowers("max_pool", "average_pool")
def windows(low: Lowering, node: Node) -> bool:
    """Pooling of f32, and the maximum of u8, over one or two spatial axes."""
    value = low.graph.operand(node, 0)
    assert value is not None
    g = node_geometry(low.facts, node)
    average = isinstance(node.op, AveragePool)
    kinds = (DType.f32,) if average else (DType.f32, DType.u8)
    if g is None or len(g.kernel) > 2 or node.type.dtype not in kinds or len(node.results) > 1:
        return False
    if node.type.size == 0 or 0 in low.shape(value):
        return False
    if not average:
        return _float_pool(low, node, g, None)
    op: Any = node.op
    counts = op.counts(low.shape(value)[2:], op.window(low.shape(value)[2:], g.kernel), g.out)
    return _float_pool(low, node, g, counts)


def _float_pool(low: Lowering, node: Node, g: Geometry, counts: np.ndarray | None) -> bool:
    """The windowed kernels: the maximum, or sums divided by `counts` [out rows, out columns]."""
    value = low.graph.operand(node, 0)
    assert value is not None
    kind = node.type.dtype.value
    fill = 0.0 if counts is not None or kind == "u8" else -math.inf
    source = lift(image(low, value, g, fill))
    target = lift(low.result(node[0], exact=False, granule=LANES))
    values = pool_words(low, source, target, g.lifted())
    if counts is None:
        kernel = pool.max_kernel(kind, g.lifted().kernel)
    else:
        kernel = pool.AVERAGE
        values |= scale_words(low, counts.reshape(target.shape[2:]) if counts.size > 1 else counts)
    words = record_words(PoolRecord, values)
    low.emit(Step(kernel, words, [source.buffer], [target.buffer], (node.name,)))
    return True


def pool_words(low: Lowering, source: Tensor, target: Tensor, g: Geometry) -> dict[str, Word]:
    """The fields of a windowed record but the epilogue's."""
    return {
        **share(target.shape[2], target.shape[0], low.threads),
        "rows": target.shape[2],
        "width": target.shape[3],
        "channels": round_up(target.shape[1], LANES),
        **strides("target", target),
        **first_tap(source, g),
        "height": g.kernel[0],
        "window": g.kernel[1],
        "tap_row": source.strides[2] * g.dilations[0],
        "tap_pixel": source.strides[3] * g.dilations[1],
    }


def scale_words(low: Lowering, scale: np.ndarray) -> dict[str, Word]:
    """Factors or divisors by output pixel, or one for all."""
    if np.all(scale == scale.flat[0]):
        return {"scale": low.constant(np.full(1, scale.flat[0], np.float64))}
    table = np.ascontiguousarray(scale, np.float64)
    return {"scale": low.constant(table), "scale_row": 8 * table.shape[1], "scale_pixel": 8}


@lowers("max_pool_gradient")
def max_pool_gradient(low: Lowering, node: Node) -> bool:
    """Of f32, over one or two spatial axes."""
    x, dy = low.graph.operands(node)
    assert x is not None and dy is not None
    g = _gradient_geometry(low, node, dy)
    if g is None:
        return False
    source = lift(image(low, x, g, -math.inf))
    _pool_gradient(low, node, g, dy, source, None)
    return True


@lowers("average_pool_gradient")
def average_pool_gradient(low: Lowering, node: Node) -> bool:
    """Of f32, over one or two spatial axes."""
    dy = low.graph.operand(node, 0)
    assert dy is not None
    g = _gradient_geometry(low, node, dy)
    if g is None:
        return False
    op: Any = node.op
    sizes, scale = node.type.static_shape[2:], np.ones(g.out)
    if not op.total:
        with np.errstate(divide="ignore"):
            scale /= op.forward().counts(sizes, op.window(sizes, g.kernel), g.out)
    _pool_gradient(low, node, g, dy, None, scale)
    return True


def _gradient_geometry(low: Lowering, node: Node, dy: Value) -> Geometry | None:
    if node.type.dtype is not DType.f32 or node.type.rank not in (3, 4) or node.type.size == 0:
        return None
    op: Any = node.op
    return geometry(op, node.type.static_shape[2:], op.kernel_shape, low.shape(dy)[2:])


def _pool_gradient(
    low: Lowering, node: Node, g: Geometry, dy: Value, source: Tensor | None,
    scale: np.ndarray | None,
) -> None:  # fmt: skip
    zero = (0,) * len(g.kernel)
    flat = Geometry(g.kernel, g.strides, g.dilations, zero, zero, g.out)
    other = lift(image(low, dy, flat, 0.0))
    extra = {} if scale is None else scale_words(low, scale.reshape(other.shape[2:]))
    add_windows(low, node, g, other, "mean" if source is None else "max", source, extra)


def add_windows(
    low: Lowering, node: Node, g: Geometry, other: Tensor, kind: str, source: Tensor | None,
    extra: dict[str, Word],
) -> None:  # fmt: skip
    """Add `other`, window by window, to zeros: to the node's result, or to a tensor with a border
    of its own (see `kernels.pool.pool_gradient`)."""
    nodes = (node.name,)
    result = low.result(node[0], exact=False, granule=LANES)
    inside = result
    halo = Halo(g.before, g.after) if any(g.before + g.after) else None
    if halo is not None or not result.channels_last or result.buffer.space != "arena":
        inside = low.new(DType.f32, result.shape, spatial=True, halo=halo)
    low.fill(inside, 0.0, nodes)
    target, lifted = lift(inside), g.lifted()
    values = {
        **pool_words(low, source or target, other, lifted),
        **share(other.shape[2], other.shape[0], 1),
        **strides("other", other),
        **{f"target{k.removeprefix('source')}": v for k, v in first_tap(target, lifted).items()},
        "target_tap_row": target.strides[2] * lifted.dilations[0],
        "target_tap_pixel": target.strides[3] * lifted.dilations[1],
        "top": lifted.before[0] * target.strides[2],
        "below": (lifted.before[0] + target.shape[2]) * target.strides[2],
        "left": lifted.before[1] * target.strides[3],
        "beside": (lifted.before[1] + target.shape[3]) * target.strides[3],
        **extra,
    }
    words = record_words(PoolGradientRecord, values)
    reads = [other.buffer, target.buffer, *([source.buffer] if source else [])]
    kernel = pool.gradient_kernel(kind, lifted.kernel)
    low.emit(Step(kernel, words, reads, [target.buffer], nodes))
    if inside is not result:
        low.copy(inside, result, nodes)

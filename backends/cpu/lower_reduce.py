"""Windowed pooling of floats and bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import DType, Node
from .images import Geometry, image, lift, node_geometry
from .kernels import pool
from .kernels.grid import LANES, share
from .kernels.pool import PoolRecord
from .layout import Tensor, round_up
from .lower import Lowering, lowers
from .lower_conv import first_tap, strides
from .steps import Step, Word, record_words


@lowers("global_average_pool")
def global_pool(low: Lowering, node: Node) -> bool:
    """One window over both spatial axes. (Others: `lower_fusion`.)"""
    value = low.graph.operand(node, 0)
    assert value is not None
    if node.type.dtype is not DType.f32 or value.type.rank != 4 or 0 in low.shape(value):
        return False
    size = low.shape(value)[2:]
    one, zero = (1, 1), (0, 0)
    g = Geometry(size, one, one, zero, zero, one)
    return _float_pool(low, node, g, np.full((1, 1), 1.0 / math.prod(size)))


@lowers("max_pool", "average_pool")
def windows(low: Lowering, node: Node) -> bool:
    """Pooling of f32, and the maximum of u8, over one or two spatial axes."""
    value = low.graph.operand(node, 0)
    assert value is not None
    g = node_geometry(low, node)
    average = node.op.name == "average_pool"
    kinds = (DType.f32,) if average else (DType.f32, DType.u8)
    if g is None or len(g.kernel) > 2 or node.type.dtype not in kinds or len(node.results) > 1:
        return False
    if node.type.size == 0 or 0 in low.shape(value):
        return False
    if not average:
        return _float_pool(low, node, g, None)
    op: Any = node.op
    counts = op.counts(low.shape(value)[2:], op.window(low.shape(value)[2:], g.kernel), g.out)
    return _float_pool(low, node, g, 1.0 / counts)


def _float_pool(low: Lowering, node: Node, g: Geometry, scale: np.ndarray | None) -> bool:
    """The windowed kernels: the maximum, or sums times `scale` [out rows, out columns]."""
    value = low.graph.operand(node, 0)
    assert value is not None
    kind = node.type.dtype.value
    fill = 0.0 if scale is not None or kind == "u8" else -math.inf
    source = lift(image(low, value, g, fill))
    target = lift(low.result(node[0], exact=False, granule=LANES))
    values = pool_words(low, source, target, g.lifted())
    if scale is None:
        kernel = pool.max_kernel(kind)
    else:
        kernel = pool.AVERAGE
        values |= scale_words(low, scale.reshape(target.shape[2:]) if scale.size > 1 else scale)
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
    """Factors by output pixel, or one for all."""
    if np.all(scale == scale.flat[0]):
        return {"scale": low.constant(np.full(1, scale.flat[0]))}
    table = np.ascontiguousarray(scale, np.float64)
    return {"scale": low.constant(table), "scale_row": 8 * table.shape[1], "scale_pixel": 8}


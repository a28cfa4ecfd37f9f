"""Reductions, poolings, and normalizations along axes, as generated loop nests over strides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import DType, Node
from . import generic
from .images import Geometry, image, lift, node_geometry
from .kernels import pool
from .kernels.grid import LANES, flatten, share
from .kernels.pool import PoolRecord
from .layout import Tensor, round_up
from .loops import FORMULAS, GONE, KEPT, columns_kernel, reduce_kernel
from .lower import Lowering, lowers
from .lower_conv import first_tap, strides
from .steps import Step, Word, record_words


def reduce_step(
    low: Lowering, how: str, x: Tensor, gone: tuple[int, ...], out: Tensor, nodes: tuple[str, ...]
) -> Step | None:
    """Fold x over the axes `gone`; `out` has the others (with or without the gone as 1)."""
    kept = [k for k in range(len(x.shape)) if k not in gone and x.shape[k] != 1]
    shape = [x.shape[k] for k in kept]
    target = out.reshape(shape)
    if target is None:
        return None
    order = sorted(range(len(kept)), key=lambda i: -target.strides[i])
    inner = sorted((k for k in gone if x.shape[k] != 1), key=lambda k: -x.strides[k])
    if len(kept) > KEPT or len(inner) > GONE:
        return None
    columns = (
        bool(order) and bool(inner) and shape[order[-1]] >= 8
        and x.strides[kept[order[-1]]] == x.item and target.strides[order[-1]] == out.item
        and how in ("sum", "mean", "max", "min")
    )  # fmt: skip
    rows = math.prod(shape) // (shape[order[-1]] if columns else 1)
    per = rows if low.threads == 1 else max(1, -(-rows // (4 * low.threads)))
    words: list[Word] = [0, 0, -(-rows // per), rows, per, x.ref, out.ref]
    words += [1, 0, 0] * (KEPT - len(kept))
    for i in order:
        words += [shape[i], x.strides[kept[i]], target.strides[i]]
    words += [1, 0] * (GONE - len(inner))
    for k in inner:
        words += [x.shape[k], x.strides[k]]
    build, name = (columns_kernel, "columns") if columns else (reduce_kernel, "reduce")
    kernel = generic.kernel_of(
        build, f"{name}_{how}", how=how, kind=x.dtype.value, out=out.dtype.value
    )
    return Step(kernel, words, [x.buffer], [out.buffer], nodes)


@lowers(*(f"reduce_{how}" for how in FORMULAS))
def reduction(low: Lowering, node: Node) -> bool:
    """Reductions over known axes."""
    x, axes = [*low.graph.operands(node), None][:2]
    assert x is not None
    known, dtype = low.array(axes), node.type.dtype
    how = node.op.name.removeprefix("reduce_")
    if (axes is not None and known is None) or dtype not in generic.SUPPORTED:
        return False
    if dtype.is_integer and how not in ("sum", "prod", "max", "min", "sum_square"):
        return False
    if dtype is DType.bool or dtype is DType.u64 or node.type.size == 0 or x.type.size == 0:
        return False
    given = () if known is None else tuple(int(a) for a in known.reshape(-1))
    gone = node.op.over(given, x.type.rank)  # type: ignore[attr-defined]
    if not gone:
        return False
    return _reduced(low, node, how, gone)


def _reduced(low: Lowering, node: Node, how: str, gone: tuple[int, ...]) -> bool:
    value = low.graph.operand(node, 0)
    assert value is not None
    source = low.tensor(value)
    out = low.result(node[0], exact=True)
    step = reduce_step(low, how, source, gone, out, (node.name,))
    if step is None:
        del low.tensors[node[0]]
        return False
    low.emit(step)
    return True


@lowers("global_max_pool", "global_average_pool")
def global_pool(low: Lowering, node: Node) -> bool:
    """One window over all spatial axes."""
    value = low.graph.operand(node, 0)
    assert value is not None
    if node.type.dtype not in (DType.f32, DType.f64) or 0 in low.shape(value):
        return False
    if node.op.name == "global_average_pool" and value.type.rank == 4 \
            and node.type.dtype is DType.f32:  # fmt: skip
        size = low.shape(value)[2:]
        one, zero = (1, 1), (0, 0)
        g = Geometry(size, one, one, zero, zero, one)
        return _float_pool(low, node, g, np.full((1, 1), 1.0 / math.prod(size)))
    gone = tuple(range(2, value.type.rank))
    how = "max" if node.op.name == "global_max_pool" else "mean"
    return _reduced(low, node, how, gone)


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


__all__ = ["flatten", "reduce_step"]

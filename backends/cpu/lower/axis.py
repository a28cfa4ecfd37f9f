"""Arg max, resizing and products of any type on generated loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir import Array, DType, Node
from ....ir.ops.reduction import ArgMax
from ....ir.ops.resize import Upsample
from ...schedule.layout import KERNEL_TYPES, Tensor
from ...schedule.steps import Step, Word
from ..nests.axis import arg_kernel, interpolate_kernel, product_kernel
from ..nests.loops import KEPT
from . import generic
from .lowering import Lowering
from .registry import lowers
from .shape import take

FLOATS = (DType.f32, DType.f64)


def walk(
    low: Lowering, shape: list[int], tensors: list[Tensor], strides: list[list[int]]
) -> list[Word] | None:
    """The record's start: header, rows, per, addresses and the kept axes, outermost first."""
    sizes, merged = generic.collapse(shape, strides)
    if len(sizes) > KEPT:
        return None
    rows = math.prod(sizes)
    per = rows if low.threads == 1 else max(1, -(-rows // (4 * low.threads)))
    words: list[Word] = [0, 0, -(-rows // per), rows, per, *(t.ref for t in tensors)]
    pad = KEPT - len(sizes)
    words += ([1] + [0] * len(tensors)) * pad
    for k, n in enumerate(sizes):
        words += [n, *(s[k] for s in merged)]
    return words


def emit(
    low: Lowering, build: Any, name: str, parameters: dict[str, object], words: list[Word],
    reads: list[Tensor], out: Tensor, nodes: tuple[str, ...], macs: int = 0,
) -> None:  # fmt: skip
    kernel = generic.kernel_of(build, name, **parameters)
    low.emit(Step(kernel, words, [t.buffer for t in reads], [out.buffer], nodes, macs))


def without(values: tuple[int, ...], axis: int) -> list[int]:
    return [v for k, v in enumerate(values) if k != axis]


@lowers("arg_max", "arg_min")
def arg_extreme(low: Lowering, node: Node) -> bool:
    """The index of the extreme along an axis."""
    op: Any = node.op
    value = low.graph.operand(node, 0)
    assert value is not None
    if value.type.dtype not in KERNEL_TYPES or value.type.size == 0:
        return False
    x = low.tensor(value)
    axis = op.axis % len(x.shape)
    out = low.result(node[0], exact=True)
    rest = without(x.shape, axis)
    target = out.reshape(rest)
    words = None
    if target is not None:
        strides = [without(x.strides, axis), list(target.strides)]
        words = walk(low, rest, [x, out], strides)
    if words is None:
        del low.tensors[node[0]]
        return False
    words += [x.shape[axis], x.strides[axis]]
    parameters = {
        "kind": x.dtype.value, "largest": isinstance(op, ArgMax), "last": op.select_last_index,
    }  # fmt: skip
    emit(low, arg_kernel, op.name, parameters, words, [x], out, (node.name,))
    return True


# ---- resizing ----------------------------------------------------------------------------------


@lowers("resize", "upsample")
def resize(low: Lowering, node: Node) -> bool:
    """Each axis by itself: nearest by tables, the others as weighted sums of a few elements."""
    values = [*low.graph.operands(node), None, None, None][:4]
    x_value = values[0]
    assert x_value is not None
    kind = node.type.dtype
    op: Any = node.op
    if isinstance(op, Upsample):
        op, values = op.resize(), [x_value, None, values[1], None]
    fixed = [low.array(v) for v in values[1:]]
    if any(v is not None and a is None for v, a in zip(values[1:], fixed)):
        return False
    if kind not in KERNEL_TYPES or op.coordinate_transformation_mode == "tf_crop_and_resize":
        return False
    if (op.mode != "nearest" and kind not in FLOATS) or x_value.type.size == 0:
        return False
    scales, sizes = (a if a is not None and a.size else None for a in fixed[1:])
    x, shape = low.tensor(x_value), node.type.static_shape
    like = np.broadcast_to(np.zeros((), np.bool_), x.shape)
    found = op.factors(like, scales, None if scales is not None else sizes)
    factors = dict(zip(op.which(len(shape)), found))
    moved = [k for k in range(len(shape)) if k in factors
             and not (factors[k] == 1.0 and x.shape[k] == shape[k])]  # fmt: skip
    if op.mode == "nearest":
        index = [np.arange(n) for n in x.shape]
        for k in moved:
            index[k] = np.clip(_nearest(op, x.shape[k], shape[k], factors[k]), 0, x.shape[k] - 1)
        take(low, x, low.result(node[0], exact=True), index, 0, (node.name,))
        return True
    if len(shape) > KEPT or not moved:
        return False
    # The axis that grows least goes first, while the tensor is small.
    moved.sort(key=lambda k: shape[k] / x.shape[k])
    for k in moved[:-1]:
        middle = tuple(shape[i] if i == k else n for i, n in enumerate(x.shape))
        made = low.new(kind, middle, spatial=low.is_spatial(node[0]))
        _interpolate(low, op, x, made, k, factors[k], node)
        x = made
    _interpolate(low, op, x, low.result(node[0], exact=True), moved[-1], factors[moved[-1]], node)
    return True


def _nearest(op: Any, n: int, m: int, scale: float) -> Array:
    return op.nearest(op.coordinates(n, m, scale, None))


def _interpolate(
    low: Lowering, op: Any, x: Tensor, out: Tensor, axis: int, scale: float, node: Node
) -> None:
    n, m = x.shape[axis], out.shape[axis]
    weights, at = op.taps(n, op.coordinates(n, m, scale, None), scale)
    weights = weights.astype(x.dtype.numpy).astype(np.float64).T
    taps = max(1, int((weights != 0).sum(1).max()))
    order = np.argsort(weights == 0, axis=1, kind="stable")[:, :taps]
    table = np.zeros((m, taps, 2), np.int64)
    table[..., 0] = np.take_along_axis(at.T, order, 1) * x.strides[axis]
    table[..., 1] = np.take_along_axis(weights, order, 1).view(np.int64)
    ref = low.place(table)
    shape = list(out.shape)
    inner = min(range(len(shape)), key=lambda k: (out.strides[k], -k) if k != axis
                else (1 << 62, 0))  # fmt: skip
    keep = [k for k in range(len(shape)) if k != inner]
    strides = [
        [0 if k == axis else x.strides[k] for k in keep],
        [out.strides[k] for k in keep],
        [16 * taps if k == axis else 0 for k in keep],
    ]
    words = walk(low, [shape[k] for k in keep], [x, out, ref], strides)
    assert words is not None
    words += [taps, shape[inner], x.strides[inner], out.strides[inner]]
    dense = x.strides[inner] == out.strides[inner] == x.item
    parameters = {"kind": x.dtype.value, "dense": dense}
    emit(low, interpolate_kernel, "interpolate", parameters, words, [x], out, (node.name,))


# ---- matrix products ---------------------------------------------------------------------------


def generic_product(
    low: Lowering, a: Tensor, b: Tensor, out: Tensor, nodes: tuple[str, ...]
) -> bool:
    """out = a @ b for matrices on the last two axes, batches broadcast."""
    if b.strides[-1] != b.item or b.buffer is out.buffer:
        made = low.new(b.dtype, b.shape)
        low.copy(b, made, nodes)
        b = made
    if out.strides[-1] != out.item and out.shape[-1] > 1:
        return False
    batch = out.shape[:-2]
    (m, k), n = a.shape[-2:], b.shape[-1]
    left = a.broadcast((*batch, m, k))
    right = b.broadcast((*batch, k, n))
    strides = [
        [*left.strides[:-2], left.strides[-2]],
        [*right.strides[:-2], 0],
        [*out.strides[:-2], out.strides[-2]],
    ]
    words = walk(low, [*batch, m], [left, right, out], strides)
    if words is None:
        return False
    words += [k, n, left.strides[-1], right.strides[-2]]
    macs = out.size * k
    emit(low, product_kernel, "product", {"kind": out.dtype.value}, words, [a, b], out, nodes, macs)
    return True

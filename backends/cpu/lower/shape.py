"""Ops that move no numbers about, or only move them: views where strides allow, else copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import Array, Node, Value
from ....ir.op import Abstract
from ....ir.ops.shape import DepthToSpace
from ....ir.types import TensorType
from ...schedule.layout import Ref, Tensor, row_major
from ...schedule.steps import Step, Word
from ..nests.loops import take_kernel
from . import generic
from .generic import Leaf
from .lowering import Lowering
from .registry import lowers


def give(low: Lowering, value: Value, view: Tensor | None, nodes: tuple[str, ...]) -> bool:
    """Let `value` be this view, or a copy of it where it has a place of its own."""
    if view is None:
        return False
    leaves_program = low.graph.is_output(value) or view.buffer.space == "output"
    if value in low.schedule.layouts.homes or leaves_program:
        out = low.result(value, exact=True)
        if not generic.fits(out, [Leaf(view)]):
            return False
        low.copy(view, out, nodes)
    else:
        low.tensors[value] = view
    return True


@lowers("identity", priority=-1)  # of an element type for which there is no formula
@lowers(
    "dropout", "optimization_barrier", "scale_gradient", "transpose", "squeeze",
    "unsqueeze", "expand", "slice",
)  # fmt: skip
def views(low: Lowering, node: Node) -> bool:
    """One operand seen in another way; the other operands are known."""
    operands = low.graph.operands(node)
    if len(node.results) > 1:
        return False
    assert operands[0] is not None
    rest = [low.array(v) for v in operands[1:]]
    if any(v is not None and a is None for v, a in zip(operands[1:], rest)):
        return False
    x = low.tensor(operands[0])
    return give(low, node[0], _view(node, x, rest), (node.name,))


def _view(node: Node, x: Tensor, rest: list[Array | None]) -> Tensor | None:
    op: Any = node.op
    shape = node.type.static_shape
    match op.name:
        case "identity" | "dropout" | "optimization_barrier" | "scale_gradient":
            return x
        case "transpose":
            return x.permute(op.order(len(x.shape)))
        case "expand":
            return x.broadcast(shape)
        case "slice":
            return _slice(node, x, rest)
        case "squeeze" | "unsqueeze":
            return x.reshape(shape)
    return None


def _slice(node: Node, x: Tensor, rest: list[Array | None]) -> Tensor | None:
    """Start, step and count of each axis, by slicing the indices of each."""
    if x.size == 0 or node.type.size == 0:
        return Tensor(x.buffer, x.dtype, node.type.static_shape, (0,) * len(x.shape))
    strides, offset = list(x.strides), 0
    starts, ends, axes, steps = [*rest, None, None][:4]
    assert starts is not None and ends is not None
    which = range(len(starts)) if axes is None else [int(a) % len(x.shape) for a in axes]
    for i, axis in enumerate(which):
        n = x.shape[axis]
        step = 1 if steps is None else int(steps[i])
        a = int(starts[i])
        a = a + n if a < 0 else a
        first = min(max(a, 0), n if step > 0 else n - 1)
        offset += first * x.strides[axis]
        strides[axis] *= step
    if len(which) == 1 and which[0] == 1 and steps is None:
        return x.slice(1, offset // x.strides[1] if x.strides[1] else 0, node.type.static_shape[1])
    return x.view(node.type.static_shape, strides, offset)


@lowers("reshape", "flatten")
def reshape(low: Lowering, node: Node) -> bool:
    """A view, or a copy into a result that is seen in the operand's shape."""
    value = low.graph.operand(node, 0)
    assert value is not None
    x = low.tensor(value)
    shape = node.type.static_shape
    view = x.reshape(shape)
    if view is not None:
        return give(low, node[0], view, (node.name,))
    out = low.result(node[0], exact=True)
    seen = out.reshape(x.shape)
    if seen is None or not generic.fits(seen, [Leaf(x)]):
        flat = low.new(x.dtype, x.shape)
        if not generic.fits(flat, [Leaf(x)]):
            del low.tensors[node[0]]
            return False
        low.copy(x, flat, (node.name,))
        x, seen = flat.view(shape, row_major(shape, x.item)), out
    low.copy(x, seen, (node.name,))
    return True


@lowers("split")
def split(low: Lowering, node: Node) -> bool:
    """Each result is a slice."""
    operands = low.graph.operands(node)
    if len(operands) > 1 and low.array(operands[1]) is None:
        return False
    assert operands[0] is not None
    x, op, at = low.tensor(operands[0]), node.op, 0
    axis = op.axis % len(x.shape)  # type: ignore[attr-defined]
    for i in range(len(node.results)):
        count = node.results[i].type.static_shape[axis]
        if not give(low, node[i], x.slice(axis, at, count), (node.name,)):
            return False
        at += count
    return True


@lowers("concat")
def concat(low: Lowering, node: Node) -> bool:
    """Operands made in their place are there already; the others are copied to it."""
    value = node[0]
    out = low.tensors.get(value)
    if out is None:
        out = low.result(value, exact=True)
    axis, at = node.op.axis % len(out.shape), 0  # type: ignore[attr-defined]
    for v in low.graph.operands(node):
        assert v is not None
        count = low.shape(v)[axis]
        part = out.slice(axis, at, count)
        here = low.tensor(v)
        at += count
        if here.buffer is not part.buffer or here.offset != part.offset:
            low.copy(here, part, (node.name,))
    return True


# ---- by tables of offsets ----------------------------------------------------------------------


def take(
    low: Lowering, x: Tensor, out: Tensor, index: list[Array], fill: object, nodes: tuple[str, ...]
) -> None:
    """out[i, j, ...] = x[index[0][i], index[1][j], ...]; an index of -1 gives `fill`."""
    if not out.size:
        return
    order = sorted(range(len(out.shape)), key=lambda k: -out.strides[k])
    order = order or []
    if not order:
        low.copy(x, out, nodes)
        return
    filled = any((i < 0).any() for i in index)
    k = order[-1]
    whole = np.array_equal(index[k], np.arange(x.shape[k]))
    dense = whole and x.strides[k] == out.strides[k] == x.item
    rows = out.size // out.shape[order[-1]]
    per = rows if low.threads == 1 else max(1, -(-rows // (4 * low.threads)))
    fill_at = low.place(np.asarray(fill, out.dtype.numpy))
    words: list[Word] = [0, 0, -(-rows // per), rows, per, x.ref, out.ref, fill_at.ref]
    for k in order:
        table = np.where(index[k] < 0, np.int64(-(1 << 40)), index[k].astype(np.int64)
                         * x.strides[k])  # fmt: skip
        words += [out.shape[k], low.constant(table), out.strides[k]]
    kernel = generic.kernel_of(
        take_kernel,
        "take",
        kind=out.words().dtype.value,
        rank=len(order),
        filled=filled and not dense,
        dense=dense,
    )
    low.emit(Step(kernel, words, [x.buffer], [out.buffer], nodes))


@lowers("pad")
def pad(low: Lowering, node: Node) -> bool:
    """Fill and copy, or by tables for the modes that repeat x."""
    operands = [*low.graph.operands(node), None, None, None][:4]
    if any(v is not None and low.array(v) is None for v in operands[1:]):
        return False
    assert operands[0] is not None
    x, op = low.tensor(operands[0]), node.op
    pads, value, axes = (low.array(v) for v in operands[1:])
    assert pads is not None
    rank, amounts = len(x.shape), [int(p) for p in pads.reshape(-1)]
    which = range(rank) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    begins = [0] * rank
    for axis, a in zip(which, amounts):
        begins[axis] = a
    out = low.result(node[0], exact=True)
    fill = 0 if value is None else value.reshape(())
    index = []
    for n, m, a in zip(x.shape, out.shape, begins):
        at = np.arange(m) - a
        if op.mode == "constant":  # type: ignore[attr-defined]
            index.append(np.where((at < 0) | (at >= n), -1, at))
        else:
            index.append(_repeated(op.mode, at, n, a, m - n - a))  # type: ignore[attr-defined]
    take(low, x, out, index, fill, (node.name,))
    return True


def _repeated(mode: str, at: Array, n: int, begin: int, end: int) -> Array:
    """Where elements of a padded axis come from; what negative pads remove does not take part."""
    first, size = max(-begin, 0), n - max(-begin, 0) - max(-end, 0)
    at = at - first
    if mode == "edge":
        made = np.clip(at, 0, size - 1)
    elif mode == "wrap":
        made = at % size
    else:
        period = max(2 * (size - 1), 1)
        made = (size - 1) - np.abs((size - 1) - at % period)
    return made + first


@lowers("depth_to_space", "space_to_depth")
def blocks(low: Lowering, node: Node) -> bool:
    """Both sides seen with an axis for each factor; one copy."""
    value = low.graph.operand(node, 0)
    op: Any = node.op
    if node.type.size == 0:
        return False
    assert value is not None
    b, x = op.blocksize, low.tensor(value)
    n, c, h, w = x.shape
    if isinstance(op, DepthToSpace):
        split, order = (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2)
        if op.mode == "CRD":
            split, order = (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)
    else:
        split, order = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
    seen = x.reshape(split)
    out = low.result(node[0], exact=True)
    parts = None if seen is None else out.reshape([split[i] for i in order])
    if seen is None or parts is None or not generic.fits(parts, [Leaf(seen.permute(order))]):
        del low.tensors[node[0]]
        return False
    low.copy(seen.permute(order), parts, (node.name,))
    return True


@lowers("tile")
def tile(low: Lowering, node: Node) -> bool:
    """x repeated along each axis."""
    x, repeats = low.graph.operands(node)[:2]
    if low.array(repeats) is None:
        return False
    assert x is not None
    source, out = low.tensor(x), low.result(node[0], exact=True)
    index = [np.arange(m) % max(n, 1) for n, m in zip(source.shape, out.shape)]
    take(low, source, out, index, 0, (node.name,))
    return True


@lowers("gather")
def gather(low: Lowering, node: Node) -> bool:
    """Slices at known indices (others: see `index`)."""
    x, at = low.graph.operands(node)[:2]
    known = low.array(at)
    if known is None or known.ndim > 1:
        return False
    assert x is not None
    source, op = low.tensor(x), node.op
    axis = op.axis % len(source.shape)  # type: ignore[attr-defined]
    n = source.shape[axis]
    where = known.astype(np.int64)
    if where.size and not (-n <= where.min() and where.max() < n):
        return False
    where = np.where(where < 0, where + n, where)
    if known.ndim == 0:
        part = source.slice(axis, int(where), 1)
        return give(low, node[0], part.reshape(node.type.static_shape), (node.name,))
    out = low.result(node[0], exact=True)
    index = [where if k == axis else np.arange(m) for k, m in enumerate(source.shape)]
    take(low, source, out, index, 0, (node.name,))
    return True


def known_abstract(array: Array) -> Abstract:
    return Abstract(TensorType.of(array), array)


def ref_of(t: Tensor) -> Ref:
    return t.ref

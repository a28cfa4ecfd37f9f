"""Gathers and scatters by computed indices."""

from __future__ import annotations

import math
from typing import Any

from ....ir import DType, Node
from ...schedule.layout import Tensor
from ...schedule.steps import Step, Word
from ..nests.loops import gather_kernel
from ..nests.scatter import ADDED, scatter_elements_kernel, scatter_nd_kernel
from . import generic
from .lowering import Lowering
from .registry import lowers

COLUMNS = 64  # of a scatter's rows, the fewest that are worth a chunk
SMALL = 1 << 14  # elements that one thread scatters


@lowers("gather", priority=1)  # `shape` has one for known indices
def gather(low: Lowering, node: Node) -> bool:
    """Rows of x, wherever the indices come from."""
    x, at = low.graph.operands(node)[:2]
    assert x is not None and at is not None
    if at.type.dtype not in (DType.i32, DType.i64):
        return False
    if not node.type.size or not x.type.size:
        return False
    shape = low.shape(x)
    axis = node.op.axis % len(shape)  # type: ignore[attr-defined]
    source, index = low.dense(low.tensor(x)), low.dense(low.tensor(at))
    out = low.result(node[0], exact=True)
    target = out if out.is_row_major else low.new(out.dtype, out.shape)
    rows = math.prod(shape[:axis]) * index.size
    inner = math.prod(shape[axis + 1 :])
    per = rows if low.threads == 1 else max(1, -(-rows // (4 * low.threads)), 4096 // inner)
    fault = low.fault(f"node {node.name!r}: an index is out of range for {shape[axis]} elements")
    words: list[Word] = [0, 0, -(-rows // per), rows, per, source.ref, index.ref, target.ref, fault,
                         shape[axis], index.size, inner]  # fmt: skip
    kernel = generic.kernel_of(
        gather_kernel, "gather", kind=out.words().dtype.value, index=index.dtype.value
    )
    reads = [source.buffer, index.buffer]
    low.emit(Step(kernel, words, reads, [target.buffer], (node.name,)))
    if target is not out:
        low.copy(target, out, (node.name,))
    return True


@lowers("scatter_nd")
def scatter_nd(low: Lowering, node: Node) -> bool:
    """Whole rows, at places of one or more indices."""
    if not _scatters(low, node):
        return False
    x, at = (v for v in low.graph.operands(node)[:2] if v is not None)
    shape, depth = low.shape(x), low.shape(at)[-1]
    if not 1 <= depth <= len(shape):
        return False
    target = _copied(low, node)
    inner, rows = math.prod(shape[depth:]), math.prod(low.shape(at)[:-1])
    per = max(COLUMNS, -(-inner // low.threads)) if rows * inner > SMALL else inner
    places: list[Word] = []
    for j in range(depth):
        places += [shape[j], math.prod(shape[j + 1 :])]
    _scatter(low, node, scatter_nd_kernel, target, -(-inner // per), [rows, inner, per], places,
             depth=depth)  # fmt: skip
    return True


@lowers("scatter_elements")
def scatter_elements(low: Lowering, node: Node) -> bool:
    """Elements along an axis, where the indices have the other axes of x."""
    if not _scatters(low, node):
        return False
    x, at = (v for v in low.graph.operands(node)[:2] if v is not None)
    shape, axis = low.shape(x), node.op.axis % x.type.rank  # type: ignore[attr-defined]
    count = low.shape(at)[axis]
    if low.shape(at) != (*shape[:axis], count, *shape[axis + 1 :]):
        return False
    target = _copied(low, node)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    per = -(-outer // low.threads) if outer * inner * count > SMALL else outer
    _scatter(low, node, scatter_elements_kernel, target, -(-outer // per),
             [outer, count, inner, per], [shape[axis]])  # fmt: skip
    return True


def _scatters(low: Lowering, node: Node) -> bool:
    x, at, updates = low.graph.operands(node)
    op: Any = node.op
    assert x is not None and at is not None and updates is not None
    added = op.reduction == "none" or (op.reduction == "add" and x.type.dtype.value in ADDED)
    sizes = x.type.size and at.type.size and updates.type.size
    return bool(added and sizes and at.type.dtype in (DType.i32, DType.i64))


def _copied(low: Lowering, node: Node) -> Tensor:
    """A row-major tensor of x's elements, to be written to."""
    x = low.graph.operand(node, 0)
    assert x is not None
    out = low.result(node[0], exact=True)
    target = out if out.is_row_major else low.new(out.dtype, out.shape)
    low.copy(low.tensor(x), target, (node.name,))
    return target


def _scatter(
    low: Lowering, node: Node, make: Any, target: Tensor, chunks: int, sizes: list[Word],
    places: list[Word], **options: Any,
) -> None:  # fmt: skip
    op: Any = node.op
    index, updates = (low.dense(low.tensor(v)) for v in low.graph.operands(node)[1:] if v)
    kind = target.words().dtype.value
    kernel = generic.kernel_of(make, op.name, kind=kind, index=index.dtype.value,
                               add=op.reduction == "add", **options)  # fmt: skip
    fault = low.fault(f"node {node.name!r}: an index is out of range")
    words: list[Word] = [0, 0, chunks, *sizes, index.ref, updates.ref, target.ref, fault, *places]
    reads = [index.buffer, updates.buffer, target.buffer]  # the copy comes first
    low.emit(Step(kernel, words, reads, [target.buffer], (node.name,)))
    out = low.tensors[node[0]]
    if target is not out:
        low.copy(target, out, (node.name,), over=True)

"""Gathers by computed indices."""

from __future__ import annotations

import math

from ...ir import DType, Node
from . import generic
from .layout import Tensor
from .loops import gather_kernel
from .lower import Lowering, lowers
from .lower_shape import movable
from .steps import Step, Word


@lowers("gather")
def gather(low: Lowering, node: Node) -> bool:
    """Rows of x, wherever the indices come from."""
    x, at = low.graph.operands(node)[:2]
    assert x is not None and at is not None
    if not movable(node) or at.type.dtype not in (DType.i32, DType.i64):
        return False
    if not node.type.size or not x.type.size:
        return False
    shape = low.shape(x)
    axis = node.op.axis % len(shape)  # type: ignore[attr-defined]
    source, index = _dense(low, low.tensor(x)), _dense(low, low.tensor(at))
    out = low.result(node[0], exact=True)
    target = out if out.is_row_major else low.new(out.dtype, out.shape)
    rows = math.prod(shape[:axis]) * index.size
    inner = math.prod(shape[axis + 1 :])
    per = rows if low.threads == 1 else max(1, -(-rows // (4 * low.threads)), 4096 // inner)
    fault = low.fault(f"node {node.name!r}: an index is out of range for {shape[axis]} elements")
    words: list[Word] = [0, 0, -(-rows // per), rows, per, source.ref, index.ref, target.ref, fault,
                         shape[axis], index.size, inner]  # fmt: skip
    kernel = generic.kernel_of(
        gather_kernel, "gather", kind=out.dtype.value, index=index.dtype.value
    )
    reads = [source.buffer, index.buffer]
    low.emit(Step(kernel, words, reads, [target.buffer], (node.name,)))
    if target is not out:
        low.copy(target, out, (node.name,))
    return True


def _dense(low: Lowering, t: Tensor) -> Tensor:
    """The tensor in row-major order."""
    if t.is_row_major:
        return t
    made = low.new(t.dtype, t.shape)
    low.copy(t, made)
    return made

"""Matrix products: float32 and 8-bit on the tile kernels, other types on a generated loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....ir import DType, Node, Value
from ...schedule.layout import Tensor
from ..kernels.product_record import Form
from ..nests.loops import KEPT
from . import generic
from .axis import FLOATS, generic_product
from .endings import Ending, ending_of
from .generic import Leaf
from .lowering import Lowering
from .products import Product, dense_rows, emit_product, known_columns, packed_columns
from .registry import lowers


@dataclass
class Target:
    """Where a product goes: the result, or a row-major place from which it is then copied."""

    low: Lowering
    result: Tensor
    made: Tensor
    nodes: tuple[str, ...]

    @staticmethod
    def of(low: Lowering, value: Value, nodes: tuple[str, ...]) -> Target:
        result = low.result(value, exact=True, rows=True)
        lies = result.strides[-1:] == (result.item,) or result.shape[-1:] == (1,)
        return Target(low, result, result if lies else low.new(result.dtype, result.shape), nodes)

    def finish(self) -> None:
        if self.made is not self.result:
            self.low.copy(self.made, self.result, self.nodes)


def as_matrices(x: Tensor, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """NumPy's matmul of vectors as one of matrices: views with the missing axes."""
    if len(x.shape) == 1:
        x = x.view((1, *x.shape), (0, *x.strides))
        out = _inserted(out, len(out.shape) - (len(y.shape) > 1))
    if len(y.shape) == 1:
        y = y.view((*y.shape, 1), (*y.strides, y.item))
        out = _inserted(out, len(out.shape))
    return x, y, out


def _inserted(t: Tensor, axis: int) -> Tensor:
    shape = (*t.shape[:axis], 1, *t.shape[axis:])
    return t.view(shape, (*t.strides[:axis], t.item, *t.strides[axis:]))


def turned(t: Tensor) -> Tensor:
    """The last two axes exchanged."""
    order = list(range(len(t.shape)))
    order[-2:] = order[-2:][::-1]
    return t.permute(order)


# ---- float32 -----------------------------------------------------------------------------------


@lowers("mat_mul")
def matmul(low: Lowering, node: Node) -> bool:
    """Products of matrices, stacks of them, and vectors."""
    a, b = low.graph.operands(node)
    assert a is not None and b is not None
    kind = node.type.dtype
    if kind not in (*FLOATS, DType.i32, DType.i64) or node.type.size == 0 or 0 in low.shape(a):
        return False
    if kind is DType.f32:
        float_product(low, node, a, b)
        return True
    if node.type.rank > KEPT:
        return False
    out = low.result(node[0], exact=True)
    if not generic_product(low, *as_matrices(low.tensor(a), low.tensor(b), out), (node.name,)):
        del low.tensors[node[0]]
        return False
    return True


@lowers("fused_mat_mul")
def fused(low: Lowering, node: Node) -> bool:
    """activation(alpha * a' @ b' + bias + residual)."""
    op: Any = node.op
    a, b, bias, residual = [*low.graph.operands(node), None, None][:4]
    assert a is not None and b is not None
    ending = ending_of(op)
    if node.type.dtype is not DType.f32 or node.type.size == 0 or ending is None:
        return False
    if 0 in low.shape(a):
        return False
    float_product(
        low, node, a, b, bias, residual, alpha=op.alpha, turn=(op.transA, op.transB), ending=ending
    )
    return True


@lowers("gemm")
def general(low: Lowering, node: Node) -> bool:
    """alpha * a' @ b' + beta * c."""
    op: Any = node.op
    a, b, c = [*low.graph.operands(node), None][:3]
    assert a is not None and b is not None
    kind = node.type.dtype
    if kind not in FLOATS or node.type.size == 0 or 0 in low.shape(a):
        return False
    if kind is DType.f32:
        float_product(
            low, node, a, b, c if op.beta else None, alpha=op.alpha, beta=op.beta,
            turn=(op.transA, op.transB),
        )  # fmt: skip
        return True
    x, y = low.tensor(a), low.tensor(b)
    x, y = (turned(t) if turn else t for t, turn in ((x, op.transA), (y, op.transB)))
    out = low.result(node[0], exact=True)
    if not generic_product(low, x, y, out, (node.name,)):
        del low.tensors[node[0]]
        return False
    leaves, text = [Leaf(out), low.scalar(op.alpha, kind)], "a0 * a1"
    if c is not None and op.beta:
        leaves += [Leaf(low.tensor(c)), low.scalar(op.beta, kind)]
        text += " + a2 * a3"
    low.emit(generic.map_step(text, "affine", out, leaves, low.threads, (node.name,)))
    return True


def float_product(
    low: Lowering, node: Node, a: Value, b: Value, bias: Value | None = None,
    residual: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    turn: tuple[bool, bool] = (False, False), ending: Ending | None = None,
) -> None:  # fmt: skip
    """activation(alpha * a' @ b' + beta * bias + residual) in float32; turn: transposes of the last
    two axes. bias and residual broadcast to the result."""
    nodes, ending = (node.name,), ending or Ending()
    target = Target.of(low, node[0], nodes)
    matrix = low.array(b)
    x = low.tensor(a)
    if matrix is not None and matrix.ndim == 2:
        y, out = None, target.made
        if len(x.shape) == 1:
            x, out = x.view((1, *x.shape), (0, *x.strides)), _inserted(out, 0)
        matrix = (matrix.T if turn[1] else matrix) * np.float32(alpha)
        n, alpha = matrix.shape[1], 1.0
    else:
        x, y, out = as_matrices(x, low.tensor(b), target.made)
        y = turned(y) if turn[1] else y
        n = y.shape[-1]
    x = dense_rows(low, turned(x) if turn[0] else x, nodes)
    p = Product(Form("float", activation=ending.activation), nodes=nodes)
    p.fields = {"alpha": alpha, "low": ending.low, "high": ending.high}
    _add_operands(low, p, out, n, [(bias, beta), (residual, 1.0)])
    if y is None:
        assert matrix is not None
        m = math.prod(out.shape[:-1])
        columns = known_columns(low, np.ascontiguousarray(matrix, np.float32), m)
    else:
        m = out.shape[-2] if any(s != 1 for s in y.shape[:-2]) else math.prod(out.shape[:-1])
        columns = packed_columns(low, y, m, nodes)
    emit_product(low, x, columns, out, p)
    ending.by_map(low, target.made, nodes)
    target.finish()


def _add_operands(
    low: Lowering, p: Product, out: Tensor, n: int, terms: list[tuple[Value | None, float]]
) -> None:
    """Put factor * value for each term into the product's ending: a known vector as its bias, the
    rest as one residual operand."""
    added: list[tuple[Tensor, float]] = []
    for value, factor in terms:
        if value is None:
            continue
        known = low.array(value)
        if known is not None and p.bias is None and known.size in (1, n) and \
                known.size == math.prod(known.shape[-1:]):  # fmt: skip
            p.bias = known.reshape(-1) * np.float32(factor)
            p.form = replace(p.form, bias=True)
        else:
            added.append((low.tensor(value), factor))
    if added:
        p.residual = residual_rows(low, out, n, added, p.nodes)
        p.form = replace(p.form, residual=True)


def residual_rows(
    low: Lowering, out: Tensor, n: int, added: list[tuple[Tensor, float]], nodes: tuple[str, ...]
) -> Tensor:
    """The sum of factor * tensor, as the tile reads it: a single one where it lies if it can."""
    (first, factor), *rest = added
    if not rest and factor == 1.0 and first.shape[-1:] == (n,) and \
            len(first.shape) <= len(out.shape):  # fmt: skip
        return dense_rows(low, first, nodes, slack=1)
    made = low.new(DType.f32, out.shape)
    leaves, parts = [], []
    for tensor, factor in added:
        parts.append(f"a{len(leaves)} * a{len(leaves) + 1}")
        leaves += [Leaf(tensor), low.scalar(factor, DType.f32)]
    low.emit(generic.map_step(" + ".join(parts), "sum", made, leaves, low.threads, nodes))
    return made

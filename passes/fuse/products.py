"""Matrix products in their three spellings (mat_mul, gemm, fused_mat_mul), opened as one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ir import Array, Graph, Node, Op, Value
from ...ir.ops.linear import FusedMatMul, Gemm, MatMul
from ..rewrite import RewriteBuilder
from .affine import channel_vector

PRODUCTS = (MatMul, Gemm, FusedMatMul)


class Product(NamedTuple):
    """activation(alpha * a' @ b' + bias + residual) as a fused_mat_mul would say it; a bias that is
    no value of the graph yet is an array.
    """

    node: Node
    op: FusedMatMul
    a: Value
    b: Value
    bias: Value | Array | None = None
    residual: Value | None = None

    @property
    def ends(self) -> bool:
        """Whether an activation ends it: nothing more can be added."""
        return bool(self.op.activation)

    def with_op(self, **changes: Any) -> Product:
        return self._replace(op=self.op.replace(**changes))

    def build(self, b: RewriteBuilder) -> Value:
        bias = self.bias
        if isinstance(bias, np.ndarray):
            bias = b.constant(bias, f"{self.node.name}.bias")
        return b.node(self.op, self.a, self.b, bias, self.residual)


def settings(op: Op) -> FusedMatMul:
    """A product's settings as those of a fused one, of which a plain one has the defaults. The beta
    of a gemm is none of them."""
    if isinstance(op, Gemm):
        return FusedMatMul(alpha=op.alpha, transA=op.transA, transB=op.transB)
    return op if isinstance(op, FusedMatMul) else FusedMatMul()


def opened(graph: Graph, node: Node) -> Product | str:
    """The product at a node, or why it has no such form."""
    op = node.op
    a, b, c, residual = [*graph.operands(node), None, None][:4]
    assert a is not None and b is not None
    if not node.type.dtype.is_float:
        return f"the product is of {node.type.dtype.value}, no floats"
    if isinstance(op, FusedMatMul):
        return Product(node, op, a, b, c, residual)
    if a.shape is None or b.shape is None or min(len(a.shape), len(b.shape)) < 2:
        return "an operand has less than two axes, or a rank that is not known"
    base = Product(node, settings(op), a, b)
    if not isinstance(op, Gemm) or c is None or op.beta == 0:
        return base
    return _with_c(base, c, op.beta)


def _with_c(base: Product, c: Value, beta: float) -> Product | str:
    """A gemm's c as bias or residual."""
    shape = base.node.type.shape
    assert shape is not None
    if c.array is not None and isinstance(shape[1], int):
        vector = channel_vector(c.array, 2, 1, shape[1])
        if vector is not None:
            if beta == 1 and c.shape == shape[1:]:
                return base._replace(bias=c)
            return base._replace(bias=(vector * beta).astype(c.array.dtype))
    if beta != 1:
        return f"c is scaled by beta = {beta:g}"
    if c.shape == shape[1:] and None not in shape[1:]:
        return base._replace(bias=c)
    if c.shape == shape and None not in shape:
        return base._replace(residual=c)
    return f"c is {c.type}, neither one number a column nor certainly of the product's shape"

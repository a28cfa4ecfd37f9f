"""Linear layers in sequence as one, where that is smaller:

    (x @ A + a) @ B + b  =  x @ (A @ B) + (a @ B + b)

The product of the weights has k x n numbers where the two have k x m + m x n. It is made in double
precision and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...ir import Array, Graph, Node, Trait, Value
from ...ir.ops.activation import Clip
from ...ir.ops.elementwise import Add
from ...ir.ops.linear import FusedMatMul, Gemm, MatMul
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from . import seeds
from .affine import channel_vector, finite
from .products import PRODUCTS, Product, opened


class Linear(NamedTuple):
    """x @ weight + bias: float64 numbers, the weight as [in, out], and the nodes it is made of."""

    x: Value
    weight: Array
    bias: Array | None
    nodes: tuple[Node, ...]
    constant: Value


def linear_at(graph: Graph, value: Value) -> Linear | str | None:
    """The linear layer that ends in this value (a product, or a sum of one and a constant). None
    where there is none, else why it is none that can be multiplied.
    """
    node, extra = value.node, None
    if isinstance(node.op, Add):
        a, b = graph.operands(node)
        assert a is not None and b is not None
        first, other = (a, b) if a.array is None else (b, a)
        if other.array is None or not isinstance(first.node.op, PRODUCTS):
            return None
        node, extra = first.node, other.array
    if not isinstance(node.op, PRODUCTS):
        return None
    found = opened(graph, node)
    if isinstance(found, str):
        return found
    bias = found.bias if found.bias is None or isinstance(found.bias, np.ndarray) else \
        found.bias.array  # fmt: skip
    if found.b.array is None or found.b.array.ndim != 2 or found.op.transA:
        return "a weight is not a constant matrix"
    if found.ends:
        return "an activation stands between"
    if found.residual is not None or (found.bias is not None and bias is None):
        return "something that is not constant is added"
    weight = found.b.array.astype(np.float64) * found.op.alpha
    weight = weight.T if found.op.transB else weight
    total = None if bias is None else bias.astype(np.float64)
    if extra is not None:
        vector = channel_vector(extra, node.type.rank, node.type.rank - 1, weight.shape[1])
        if vector is None or value.node.type != node.type:
            return "what is added is not one number a column"
        if graph.use_count(node[0]) > 1:
            return f"{node.name} has several uses"
        total = vector if total is None else total + vector
    nodes = (node,) if extra is None else (value.node, node)
    return Linear(found.a, weight, total, nodes, found.b)


class MultiplyWeights(Rewrite):
    """(x @ A + a) @ B + b -> x @ (A @ B) + (a @ B + b), where A @ B is smaller than A and B"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any) -> Pattern:
        return p.op(*PRODUCTS)(x, w, p.optional(c), p.optional(r))

    def found(self, m: Match) -> tuple[Linear, Linear] | str | None:
        outer = opened(m.graph, m.root)
        if isinstance(outer, str) or outer.b.array is None or outer.b.array.ndim != 2:
            return None
        between = m.x.node.op
        if Trait.ACTIVATION in between.traits or isinstance(between, Clip):
            before = m.graph.operand(m.x.node, 0)
            inner = None if before is None else linear_at(m.graph, before)
            return f"the activation {between.name} stands between" \
                if isinstance(inner, Linear) else None  # fmt: skip
        inner = linear_at(m.graph, m.x)
        if inner is None or isinstance(inner, str):
            return inner
        # What ends the second layer stays: only its weight and bias change.
        bias = outer.bias if outer.bias is None or isinstance(outer.bias, np.ndarray) else \
            outer.bias.array  # fmt: skip
        if outer.op.transA or (outer.bias is not None and bias is None):
            return "something that is not constant is added"
        weight = outer.b.array.astype(np.float64) * outer.op.alpha
        total = None if bias is None else bias.astype(np.float64)
        weight = weight.T if outer.op.transB else weight
        return inner, Linear(m.x, weight, total, (m.root,), outer.b)

    def check(self, m: Match) -> Failure | None:
        found = self.found(m)
        if not isinstance(found, tuple):
            return m.fail(found or "there is no layer before it")
        inner, outer = found
        uses = m.graph.use_count(m.x)
        if uses > 1:
            return m.fail(f"what is between has {uses} uses", m.x)
        for layer in (inner, outer):
            if m.graph.use_count(layer.constant) > 1:
                return m.fail("a weight is shared", layer.constant)
        (k, middle), n = inner.weight.shape, outer.weight.shape[1]
        if k * n >= k * middle + middle * n:
            return m.fail(f"the product of the weights, {k} x {n}, is no smaller than "
                          f"{k} x {middle} and {middle} x {n}")  # fmt: skip
        return m.ok

    def applies(self, m: Match) -> bool:
        return self.found(m) is not None

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        found = self.found(m)
        assert isinstance(found, tuple)
        inner, outer = found
        kind = m.root.type.dtype.numpy
        with np.errstate(all="ignore"):
            weight = (inner.weight @ outer.weight).astype(kind)
            bias = outer.bias
            if inner.bias is not None:
                passed = inner.bias @ outer.weight
                bias = passed if bias is None else passed + bias
            small = None if bias is None else bias.astype(kind)
        if not finite([weight, small]):
            return None
        w = b.constant(weight, outer.constant.node.name)
        c = None if small is None else b.constant(small, f"{m.root.name}.bias")
        op = m.root.op
        if isinstance(op, FusedMatMul):
            last = op.replace(alpha=1.0, transB=False)
            return b.node(last, inner.x, w, c, m.r)
        if isinstance(op, Gemm):
            ended = opened(m.graph, m.root)
            assert isinstance(ended, Product)
            if c is None or ended.residual is None:
                return b.gemm(inner.x, w, ended.residual if c is None else c)
            return b.add(b.gemm(inner.x, w, c), ended.residual)
        assert isinstance(op, MatMul)
        product = b.mat_mul(inner.x, w)
        return product if c is None else b.add(product, c)


@register_pass
@dataclass(frozen=True)
class FuseLinear(Pass):
    """Multiply the weights of linear layers that follow each other with nothing but a constant bias
    between, where the product has fewer numbers than the two: then it is smaller and takes fewer
    multiply-accumulates. Refused where an activation stands between, something else reads what is
    between, or a weight is shared. Equal in real numbers; the sums are of other terms, so that
    rounding differs by what the weights' sizes allow.
    """

    name = "fuse-linear"
    absent = "no linear layers follow each other"
    bound = Within(rtol=1e-4, atol=1e-4)
    seeds = (seeds.LINEAR, seeds.LINEAR_TWICE)
    families = ("mlp",)

    def run(self, graph: Graph, context: Context) -> Outcome:
        return apply_rewrites(graph, [MultiplyWeights()], context, who=self.name)

"""Matrix product, scale, bias, residual sum and activation as one op, operands turned in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Graph, Value
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from . import near_misses
from .conv import activation_of, activations
from .extents import Extents
from .products import PRODUCTS, Product, opened


class IntoProduct(Rewrite):
    """Base: a subclass says at its root what the product at `m.product` becomes, or why not."""

    def grown(self, m: Match, product: Product) -> Product | str:
        raise NotImplementedError

    def change(self, m: Match) -> Product | str:
        product = opened(m.graph, m.product)
        return product if isinstance(product, str) else self.grown(m, product)

    def check(self, m: Match) -> Failure | None:
        found = self.change(m)
        return m.fail(found, m.product) if isinstance(found, str) else m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        found = self.change(m)
        assert not isinstance(found, str)
        return found.build(b)


class FuseTranspose(IntoProduct):
    """a^T @ b -> fused_mat_mul(a, b){transA}, and so for b: where a transpose swaps just the last
    two axes
    """

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any) -> Pattern:
        turned = p.transpose(x, into="turned")
        rest = (p.optional(c), p.optional(r))
        return p.any_of(
            p.op(*PRODUCTS)(turned, w, *rest, into="product"),
            p.op(*PRODUCTS)(w, turned, *rest, into="product"),
        )

    def applies(self, m: Match) -> bool:
        shape = m.x.shape
        if shape is None or len(shape) < 2:
            return False
        order = [*range(len(shape))]
        order[-2:] = order[:-3:-1]
        return list(m.turned.op.order(len(shape))) == order

    def grown(self, m: Match, product: Product) -> Product | str:
        if product.a.node is m.turned:
            return product._replace(a=m.x).with_op(transA=not product.op.transA)
        return product._replace(b=m.x).with_op(transB=not product.op.transB)


class FuseScaleBefore(IntoProduct):
    """(a * s) @ b -> fused_mat_mul(a, b){alpha=s}, and so for b and for division, s one number"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, s: Any) -> Pattern:
        scaled = p.any_of(p.mul(x, p.scalar(s), uses=1, into="scaled"),
                          p.div(x, p.scalar(s), uses=1, into="scaled"))  # fmt: skip
        rest = (p.optional(c), p.optional(r))
        return p.any_of(
            p.op(*PRODUCTS)(scaled, w, *rest, into="product"),
            p.op(*PRODUCTS)(w, scaled, *rest, into="product"),
        )

    def applies(self, m: Match) -> bool:
        return m.x.array is None and m.same_type(m.x, m.scaled)

    def grown(self, m: Match, product: Product) -> Product | str:
        alpha = factor(m, m.scaled.op.name)
        if alpha is None:
            return "the scale is 0 or not finite"
        where = "a" if product.a.node is m.scaled else "b"
        return product._replace(**{where: m.x}).with_op(alpha=product.op.alpha * alpha)


class FuseScaleAfter(IntoProduct):
    """(a @ b) * s -> fused_mat_mul(a, b){alpha=s}, and division, s one number; a constant bias is
    scaled with it
    """

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, s: Any) -> Pattern:
        made = p.op(*PRODUCTS)(x, w, p.optional(c), p.optional(r), uses=1, into="product")
        return p.any_of(p.mul(made, p.scalar(s)), p.div(made, p.scalar(s)))

    def applies(self, m: Match) -> bool:
        return m.same_type(m.product[0]) and m.w.array is None and m.x.array is None

    def grown(self, m: Match, product: Product) -> Product | str:
        alpha = factor(m, m.op.name)
        if alpha is None:
            return "the scale is 0 or not finite"
        if product.ends or product.residual is not None:
            return "an activation or a sum stands before the scale"
        bias = product.bias
        if bias is not None:
            array = bias if isinstance(bias, np.ndarray) else bias.array
            if array is None:
                return "a bias that is not constant stands before the scale"
            bias = (array.astype(np.float64) * alpha).astype(array.dtype)
        return product._replace(bias=bias).with_op(alpha=product.op.alpha * alpha)


def factor(m: Match, op: str) -> float | None:
    """What a product or quotient by `m.s` multiplies by."""
    s = m.number(m.s)
    if s is None or s == 0 or not np.isfinite(s):
        return None
    return 1 / s if op == "div" else s


class FuseBias(IntoProduct):
    """a @ b + bias -> fused_mat_mul(a, b, bias), bias a vector of the columns"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, t: Any) -> Pattern:
        made = p.op(*PRODUCTS)(x, w, p.optional(c), p.optional(r), uses=1, into="product")
        return p.add(made, t)

    def applies(self, m: Match) -> bool:
        shape, wide = m.t.shape, m.product.type.shape
        return bool(shape) and bool(wide) and shape == wide[-1:] and None not in shape

    def grown(self, m: Match, product: Product) -> Product | str:
        if product.ends:
            return "an activation stands before the bias"
        if product.bias is None:
            return product._replace(bias=m.t)
        first = product.bias if isinstance(product.bias, np.ndarray) else product.bias.array
        if first is None or m.t.array is None:
            return "the product has a bias already, and they are not both constant"
        return product._replace(bias=first + m.t.array)


class FuseResidual(IntoProduct):
    """a @ b + r -> fused_mat_mul(a, b, residual=r), r certainly of the product's shape"""

    name = "fuse-sum"

    def __init__(self, extents: Extents) -> None:
        self.extents = extents

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, other: Any) -> Pattern:
        made = p.op(*PRODUCTS)(x, w, p.optional(c), p.optional(r), into="product")
        return p.add(made, other)

    def applies(self, m: Match) -> bool:
        return m.other.array is None and m.other.node is not m.product

    def grown(self, m: Match, product: Product) -> Product | str:
        if product.residual is not None:
            return "the product has a residual already"
        if product.ends:
            return "the activation comes before the sum"
        uses = m.uses(m.product)
        if uses != 1:
            return f"the product has {uses} uses"
        if not self.extents.same(m.product[0], m.other):
            return f"the shapes {m.product.type} and {m.other.type} broadcast or may differ"
        return product._replace(residual=m.other)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        made = super().rewrite(b, m)
        self.extents.adopt(made.node, m.product)
        return made


class FuseActivation(IntoProduct):
    """f(a @ b) -> fused_mat_mul(a, b){activation=f}"""

    name = "fuse-end"

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, low: Any, high: Any
    ) -> Pattern:
        made = p.op(*PRODUCTS)(x, w, p.optional(c), p.optional(r), uses=1, into="product")
        return p.any_of(
            p.op(*activations())(made), p.clip(made, p.optional(low), p.optional(high))
        )  # fmt: skip

    def grown(self, m: Match, product: Product) -> Product | str:
        if product.ends:
            return "the product has an activation already"
        named = activation_of(m.graph, m.root)
        if isinstance(named, str):
            return named
        name, params = named
        return product.with_op(activation=name, params=params)


@register_pass
@dataclass(frozen=True)
class FuseMatMul(Pass):
    """Make matrix products (mat_mul, gemm) take up what stands around them.

    A transpose of the last two axes of an operand becomes transA or transB, a scale of one number
    before or after becomes alpha, a vector added to the columns the bias, a sum with a tensor of
    the same shape the residual, an element-wise function the activation. What reads a product's
    result besides stops all that comes after it. Exact in real numbers, in floats to rounding.
    """

    name = "fuse-matmul"
    absent = "no matrix product has anything around it that it could take up"
    bound = Within(rtol=1e-4, atol=1e-5)
    seeds = (near_misses.UNKNOWN_COLUMNS, near_misses.ENDED_PRODUCTS, near_misses.BIASED_TWICE)
    transposes: bool = True
    residual: bool = True
    activation: bool = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        first: list[Rewrite] = [FuseScaleBefore(), FuseScaleAfter(), FuseBias()]
        if self.transposes:
            first.append(FuseTranspose())
        outcome = apply_rewrites(graph, first, context, who=self.name)
        last: list[Rewrite] = []
        if self.residual:
            last.append(FuseResidual(Extents(graph)))
        if self.activation:
            last.append(FuseActivation())
        if last:
            outcome.merge(apply_rewrites(graph, last, context, who=self.name))
        return outcome

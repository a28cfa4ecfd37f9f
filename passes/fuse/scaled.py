"""Integer products and their scales, as dynamically quantized ONNX models have them, in one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir import DType, Graph, Value
from ...ir.ops.dynamic import ScaledMatMul
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from . import near_misses, seeds
from .conv import activations, all_float, given_floats


class ScaleOfProduct(Rewrite):
    """f32(mat_mul_integer(a, b, za, zb)) * (s * t) -> scaled_mat_mul(a, b, s, t, za, zb)

    for known t, a number or one for each column, and one number s; also where s and t are
    multiplied one after the other.
    """

    def pattern(
        self, p: PatternBuilder, a: Any, b: Any, za: Any, zb: Any, s: Any, t: Any
    ) -> Pattern:
        inner = p.mat_mul_integer(a, b, p.optional(za), p.optional(zb), uses=1, into="product")
        real = p.cast(inner, uses=1, into="cast")
        return p.any_of(
            p.mul(real, p.mul(s, p.const(t))),
            p.mul(p.mul(real, p.const(t), uses=1), s),
            p.mul(p.mul(real, s, uses=1), p.const(t)),
        )

    def check(self, m: Match) -> Failure | None:
        if m.root.type.dtype is not DType.f32:
            return m.fail("the accumulator becomes no f32", m.cast)
        shape = m.product.type.shape
        if shape is None or len(shape) < 2 or m.b.shape is None or len(m.b.shape) < 2:
            return m.fail("its operands are no matrices", m.product)
        if m.s.shape not in ((), (1,)) or not (m.s.array is None or m.s.array.size == 1):
            return m.fail(f"the left scale is {m.s.type}, not one number", m.s)
        t = m.t.array
        if t.size != 1 and (t.size != t.shape[-1] or t.size != shape[-1]):
            return m.fail("the right scale is not one number for each column", m.t)
        if m.root.type.rank != len(shape):
            return m.fail("the right scale has more axes than the product", m.t)
        if not (t > 0).all() or not (t < float("inf")).all():
            return m.fail("the right scale is not finite and positive", m.t)
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        t = m.t.array
        scale = b.constant(t.reshape(() if t.size == 1 else -1))
        return b.node(ScaledMatMul(), m.a, m.b, m.s, scale, m.za, m.zb)


class BiasOfScaled(Rewrite):
    """scaled_mat_mul(...) + c -> scaled_mat_mul(..., c) for a known vector of columns"""

    def pattern(
        self, p: PatternBuilder, a: Any, b: Any, s: Any, t: Any, za: Any, zb: Any, c: Any
    ) -> Pattern:
        optional = (p.optional(za), p.optional(zb))
        return p.add(p.scaled_mat_mul(a, b, s, t, *optional, uses=1, into="product"), p.const(c))

    def check(self, m: Match) -> Failure | None:
        if m.product.op.activation:
            return m.fail("an activation stands between", m.product)
        c, shape = m.c.array, m.product.type.shape
        if not shape or c.shape != shape[-1:] or m.root.type != m.product.type:
            return m.fail("it is no vector of columns", m.c)
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.product.op, m.a, m.b, m.s, m.t, m.za, m.zb, m.c)


class ActivationOfScaled(Rewrite):
    """relu(scaled_mat_mul(...)) -> scaled_mat_mul(...){activation=relu}, and others"""

    def pattern(self, p: PatternBuilder, xs: Any) -> Pattern:
        return p.op(*activations())(p.scaled_mat_mul(p.rest(xs), uses=1, into="product"))

    def applies(self, m: Match) -> bool:
        return not m.product.op.activation and all_float(m.op)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        op = ScaledMatMul(activation=m.op.name, params=tuple(v for _, v in given_floats(m.op)))
        return b.node(op, *m.xs)


@register_pass
@dataclass(frozen=True)
class FuseScaled(Pass):
    """An integer product, its cast to float and its scales as one `scaled_mat_mul`, with bias and
    activation: what ONNX writes in seven nodes (DynamicQuantizeLinear, MatMulInteger, Cast, Mul,
    Mul, Add). Only the order of multiplications changes.
    """

    name = "fuse-scaled"
    absent = "no integer product is converted to float and scaled"
    bound = Within(rtol=1e-5, atol=1e-6)
    seeds = (seeds.DYNAMIC_PRODUCT, near_misses.BIASED_TWICE)

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules = [ScaleOfProduct(), BiasOfScaled(), ActivationOfScaled()]
        return apply_rewrites(graph, rules, context, who=self.name)

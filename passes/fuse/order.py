"""Ops behind a layer that may change places, so that the layer can take one or it gets smaller.

    (layer(x) + r) + t      ->  (layer(x) + t) + r
    f(layer(x)) * s         ->  f(layer(x) * s)         s > 0, f positively homogeneous
    f(max_pool(conv(x)))    ->  max_pool(f(conv(x)))    f monotone: the convolution takes f
    max_pool(f(x))          ->  f(max_pool(x))          f monotone: fewer of them
    average_pool(conv(x))   ->  conv(average_pool(x))   a 1x1 convolution: fewer pixels of it

Padding of a maximum is never the largest of a window, and an average that counts only what is
there is linear with weights that sum to 1, so that the convolution's bias passes too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import Graph, Op, Trait, Value, ops_with
from ...ir.ops.convolution import Conv, ConvTranspose
from ...ir.ops.elementwise import Add
from ...ir.ops.joining import Concat
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.pooling import AveragePool, GlobalAveragePool
from ...ir.traits import Direction
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder
from .affine import LAYERS, channel_vector, layer_of
from .extremes import functions, goes

CONVS = (Conv, ConvTranspose)


def rising() -> list[type[Op]]:
    """The functions of one element that may never decrease. No square root: it makes NaN of what is
    below zero, which a maximum would have passed over."""
    return functions(Direction.INCREASING)


def rising_activations() -> list[type[Op]]:
    """Those of them that a convolution can take."""
    return [c for c in rising() if Trait.ACTIVATION in c.traits]


class ShiftPastSum(Rewrite):
    """(layer(x) + r) + t -> (layer(x) + t) + r: the layer's bias takes t"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, t: Any) -> Pattern:
        layer = p.op(*CONVS)(x, w, p.optional(c), uses=1, into="layer")
        total = p.add(layer, r, uses=1, into="total")
        return p.any_of(p.add(total, p.const(t)), p.sub(total, p.const(t)))

    def applies(self, m: Match) -> bool:
        if m.r.array is not None or m.total.type != m.layer.type or m.root.type != m.layer.type:
            return False
        layer = layer_of(m, m.layer)
        rank = m.layer.type.rank
        return not isinstance(layer, str) and \
            channel_vector(m.t.array, rank, 1, layer.channels) is not None  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.add(b.node(m.root.op, m.layer[0], m.t), m.r)


class ScaleBeforeActivation(Rewrite):
    """f(layer(x)) * s -> f(layer(x) * s) for s > 0 and f of ReLU's kind: the weights take s"""

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, a: Any, s: Any, bias: Any, mean: Any,
        var: Any,
    ) -> Pattern:  # fmt: skip
        layer = p.op(*LAYERS)(x, w, p.optional(c), uses=1, into="layer")
        scaling = ops_with(Trait.HOMOGENEOUS | Trait.ACTIVATION)
        f = p.any_of(p.op(*scaling)(layer, uses=1, into="f"),
                     p.prelu(layer, a, uses=1, into="f"))  # fmt: skip
        return p.any_of(p.mul(f, p.const(s)), p.div(f, p.const(s)),
                        p.batch_normalization(f, s, bias, mean, var))  # fmt: skip

    def check(self, m: Match) -> Failure | None:
        name = m.f.op.name
        if m.bias is not None:
            return m.fail(f"{name} stands between the layer and batch normalization, which shifts")
        layer = layer_of(m, m.layer)
        if isinstance(layer, str):
            return m.fail(layer, m.layer)
        s = channel_vector(m.s.array, layer.node.type.rank, layer.axis, layer.channels)
        if s is None:
            return m.fail(f"the factor {m.s.type} is not one number for each channel")
        if not np.all(s > 0) or not np.all(np.isfinite(s)):
            return m.fail(f"{name} lets only positive factors pass")
        if m.uses(layer.weight) > 1:
            return m.fail("the weight is shared", m.layer)
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        rest = () if m.a is None else (m.a,)
        return b.node(m.f.op, b.node(m.root.op, m.layer[0], m.s), *rest)


def takes_activation(graph: Graph, value: Value, uses: int) -> bool:
    """Whether a value is a convolution's that nothing else reads."""
    return type(value.node.op) in CONVS and uses == 1


class ActivationBeforePool(Rewrite):
    """f(max_pool(conv(x))) -> max_pool(f(conv(x))): the convolution takes f"""

    def pattern(self, p: PatternBuilder, x: Any, low: Any, high: Any) -> Pattern:
        pool = p.max_pool(x, uses=1, into="pool")
        return p.any_of(p.op(*rising_activations())(pool),
                        p.clip(pool, p.optional(low), p.optional(high)))  # fmt: skip

    def applies(self, m: Match) -> bool:
        constant = all(v is None or v.array is not None for v in (m.low, m.high))
        takes = takes_activation(m.graph, m.x, m.uses(m.x))
        return constant and takes and len(m.pool.results) == 1 and goes(m.op, Direction.INCREASING)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        rest = m.graph.operands(m.root)[1:]
        return b.node(m.pool.op, b.node(m.root.op, m.x, *rest))


class PoolBeforeActivation(Rewrite):
    """max_pool(f(x)) -> f(max_pool(x)) where the pool leaves fewer elements and no layer takes f"""

    def pattern(self, p: PatternBuilder, x: Any, low: Any, high: Any) -> Pattern:
        f = p.any_of(p.op(*rising())(x, uses=1, into="f"),
                     p.clip(x, p.optional(low), p.optional(high), uses=1, into="f"))  # fmt: skip
        return p.max_pool(f)

    def applies(self, m: Match) -> bool:
        if type(m.x.node.op) in (*CONVS, Add, BatchNormalization, Concat):
            return False  # a convolution may take f
        shrinks = math.prod(m.op.strides or (1,)) > 1
        return shrinks and len(m.root.results) == 1 and goes(m.f.op, Direction.INCREASING)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        rest = m.graph.operands(m.f)[1:]
        return b.node(m.f.op, b.node(m.root.op, m.x), *rest)


class AverageBeforeConv(Rewrite):
    """average_pool(conv(x)) -> conv(average_pool(x)), a 1x1 convolution and a pool that shrinks"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any) -> Pattern:
        conv = p.conv(x, w, p.optional(c), uses=1, into="conv")
        return p.op("average_pool", "global_average_pool")(conv)

    def applies(self, m: Match) -> bool:
        kernel = m.w.shape and m.w.shape[2:]
        if not kernel or set(kernel) != {1} or m.x.shape is None:
            return False
        return isinstance(m.op, GlobalAveragePool) or math.prod(m.op.strides or (1,)) > 1

    def check(self, m: Match) -> Failure | None:
        conv: Conv = m.conv.op
        if any(conv.pads) or any(s != 1 for s in conv.strides):
            return m.fail("the convolution pads or has strides", m.conv)
        if isinstance(m.op, AveragePool) and m.op.count_include_pad and any(m.op.pads):
            return m.fail("the average counts its padding, which the bias does not reach")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.conv.op, b.node(m.root.op, m.x), m.w, m.c)


RULES: tuple[type[Rewrite], ...] = (
    ShiftPastSum, ScaleBeforeActivation, ActivationBeforePool, PoolBeforeActivation,
    AverageBeforeConv,
)  # fmt: skip

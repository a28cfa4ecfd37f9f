"""Convolution, batch normalization, activation and residual sum as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Array, Graph, Node, Op, Trait, Value, VerifyError, ops_with
from ...ir.ops.activation import Clip, Gelu, PRelu
from ...ir.ops.convolution import Conv, ConvTranspose
from ...ir.ops.epilogue import activation_op
from ...ir.ops.fused_convolution import SLOPED, Ending, FusedConv, FusedConvTranspose
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from ..simplify.windows import nonnegative
from . import affine, near_misses, order, seeds
from .affine import channel_vector
from .extents import Extents

CONVS = (Conv, FusedConv, ConvTranspose, FusedConvTranspose)


def activations() -> tuple[type[Op], ...]:
    """The ops of one operand that fused layers can end in."""
    return ops_with(Trait.ACTIVATION)


def ending(op: Op) -> str:
    """The activation that a convolution ends in, "" for none."""
    return op.activation if isinstance(op, Ending) else ""


def fused(op: Any, **changes: Any) -> FusedConv | FusedConvTranspose:
    """A convolution, transposed or not, fused or not, as a fused one with changes."""
    given = {a.name: getattr(op, a.name) for a in op.attributes}
    cls = FusedConvTranspose if isinstance(op, ConvTranspose) else FusedConv
    return cls(**{**given, **changes})


def parts(graph: Graph, node: Node) -> list[Value | None]:
    """x, weight, bias, residual and slope of a convolution."""
    return [*graph.operands(node), None, None, None][:5]


class FuseActivation(Rewrite):
    """f(conv(x)) -> fused_conv(x){activation=f}"""

    def __init__(self, extents: Extents) -> None:
        self.extents = extents

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, s: Any, low: Any, high: Any
    ) -> Pattern:
        conv = p.op(*CONVS)(x, w, p.optional(c), p.optional(r), uses=1, into="conv")
        return p.any_of(
            p.op(*activations())(conv), p.clip(conv, p.optional(low), p.optional(high)),
            p.prelu(conv, s),
        )  # fmt: skip

    def change(self, m: Match) -> tuple[dict[str, Any], Array | None] | str:
        """The fused op's attributes and slope, or why it cannot be one."""
        if isinstance(m.op, PRelu):
            return self.sloped(m)
        named = activation_of(m.graph, m.root)
        if isinstance(named, str):
            return named
        return {"activation": named[0], "params": named[1]}, None

    def sloped(self, m: Match) -> tuple[dict[str, Any], Array | None] | str:
        """PReLU: one slope is leaky ReLU's."""
        slope, shape = m.s.array, m.conv.type.shape
        if slope is None:
            return "the slope of PReLU is not constant"
        if slope.size == 1:
            alpha = float(slope.reshape(-1)[0])
            return {"activation": "leaky_relu", "params": (alpha,)}, None
        channels = None if shape is None else shape[1]
        if not isinstance(channels, int):
            return "the number of channels is unknown"
        if channel_vector(slope, m.conv.type.rank, 1, channels) is None:
            return f"the slope {m.s.type} is not one number for each channel"
        return {"activation": SLOPED}, slope.reshape(-1)

    def check(self, m: Match) -> Failure | None:
        if ending(m.conv.op):
            return m.fail("the convolution has an activation already", m.conv)
        found = self.change(m)
        if isinstance(found, str):
            return m.fail(found)
        try:
            fused(m.conv.op, **found[0]).activation_op()
        except VerifyError as error:
            return m.fail(error.message)
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        found = self.change(m)
        assert not isinstance(found, str)
        changes, slope = found
        s = None if slope is None else b.constant(slope, m.s.node.name)
        # Without an activation the residual comes first wherever the op says that it is.
        op = fused(m.conv.op, **changes, residual_last=False)
        made = b.node(op, m.x, m.w, m.c, m.r, s)
        self.extents.adopt(made.node, m.conv)
        return made


def activation_of(graph: Graph, node: Node) -> tuple[str, tuple[float, ...]] | str:
    """Name and params of an activation as fused ops hold them, or why it cannot be held."""
    op = node.op
    if isinstance(op, Gelu) and op.approximate == "tanh":
        return "gelu_tanh", ()
    if not isinstance(op, Clip):
        if not all_float(op):
            return f"{op.name} has settings that are no numbers"
        params = tuple(v for _, v in given_floats(op))
        try:
            activation_op(op.name, params)
        except VerifyError as error:
            return error.message
        return op.name, params
    bounds: list[float] = []
    given = [*graph.operands(node), None, None]
    for bound, default in zip(given[1:3], (-np.inf, np.inf)):
        if bound is None:
            bounds.append(default)
        elif bound.array is None or bound.array.size != 1:
            return "the bounds of clip are not constant"
        else:
            bounds.append(float(bound.array.reshape(-1)[0]))
    return "clip", tuple(bounds)


def given_floats(op: Op) -> list[tuple[str, float]]:
    return [(a.name, getattr(op, a.name)) for a in op.attributes if a.kind == "float"]


def all_float(op: Op) -> bool:
    """Whether floats say all about it: other attributes have their defaults."""
    return all(a.kind == "float" or getattr(op, a.name) == a.default for a in op.attributes)


class FuseResidual(Rewrite):
    """conv(x) + r -> fused_conv(x, residual=r), and f(conv(x)) + r with the residual last"""

    def __init__(self, extents: Extents) -> None:
        self.extents = extents

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, s: Any, other: Any
    ) -> Pattern:
        conv = p.op(*CONVS)(x, w, p.optional(c), p.optional(r), p.optional(s), into="conv")
        return p.add(conv, other)

    def applies(self, m: Match) -> bool:
        return m.other.array is None and not self.better(m)

    def room(self, m: Match, node: Node) -> int:
        """How well a node takes a residual: 2 before an activation, 1 after the one it has, 0 not
        at all."""
        op = node.op
        if not isinstance(op, CONVS) or m.uses(node) != 1 or parts(m.graph, node)[3] is not None:
            return 0
        return 1 if ending(op) else 2

    def better(self, m: Match) -> bool:
        """Whether the other operand is a convolution too and comes later: the shortcut's one is
        best kept apart, as its result is ready first.
        """
        other = m.other.node
        here, there = self.room(m, m.conv), self.room(m, other)
        later = (there, other.order) > (here, m.conv.order)
        return there > 0 and later and self.extents.same(m.other, m.conv[0])

    def check(self, m: Match) -> Failure | None:
        if m.r is not None:
            return m.fail("the convolution has a residual already", m.conv)
        uses = m.uses(m.conv)
        if uses != 1:
            return m.fail(f"the convolution has {uses} uses", m.conv)
        if not self.extents.same(m.conv[0], m.other):
            return m.fail(f"the shapes {m.conv.type} and {m.other.type} broadcast or may differ")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        last = bool(ending(m.conv.op))
        op = fused(m.conv.op, residual_last=last)
        made = b.node(op, m.x, m.w, m.c, m.other, m.s)
        self.extents.adopt(made.node, m.conv)
        return made


class ReluBeforeConcat(Rewrite):
    """relu(concat(conv(x), y)) -> concat(relu(conv(x)), y) for y >= 0: the convolution takes it"""

    def pattern(self, p: PatternBuilder, xs: Any) -> Pattern:
        return p.relu(p.concat(p.rest(xs), uses=1, into="joined"))

    def takes(self, m: Match, x: Value) -> bool:
        op = x.node.op
        return isinstance(op, Conv) and not ending(op) and m.uses(x) == 1

    def applies(self, m: Match) -> bool:
        free = [self.takes(m, x) for x in m.xs]
        return any(free) and len(free) <= 16 and all(
            f or nonnegative(m.graph, x) for f, x in zip(free, m.xs)
        )  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        parts = [b.relu(x) if self.takes(m, x) else x for x in m.xs]
        return b.node(m.joined.op, *parts)


@register_pass
@dataclass(frozen=True)
class FuseConv(Pass):
    """Fold what follows a layer into it.

    First scales and shifts (batch normalization, constant Mul, Div, Add, Sub) after, and where
    nothing is padded before, a convolution, transposed convolution or matrix product with constant
    weights go into weight and bias; sums, positive factors, activations and poolings that may
    change places do so where that brings one to its layer or makes it smaller (see `order`). Then a
    residual sum and the activation make the convolution a `fused_conv`, in either order. What reads
    a layer's result besides stops it, as does a weight that is shared (unless `shared`: its copy is
    folded). Exact in real numbers, in floats to rounding.
    """

    name = "fuse-conv"
    absent = "no convolution has anything behind it that it could take up"
    bound = Within(rtol=1e-4, atol=1e-5)
    seeds = (seeds.CONV_POOL, seeds.SCALED_CONV, near_misses.UNKNOWN_WIDTHS,
             near_misses.UNKNOWN_IMAGES, near_misses.AVERAGED,
             near_misses.NEARLY_FOLDED, near_misses.FALLING)  # fmt: skip
    families = ("cnn",)
    nested = True
    activation: bool = True
    residual: bool = True
    shared: bool = False

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules: list[Rewrite] = [r(self.shared) for r in affine.RULES]  # type: ignore[call-arg]
        rules += [r() for r in order.RULES]
        outcome = apply_rewrites(graph, rules, context, who=self.name)
        extents = Extents(graph)
        rules = []
        if self.residual:
            rules.append(FuseResidual(extents))
        if self.activation:
            rules += [ReluBeforeConcat(), FuseActivation(extents)]
        if rules:
            outcome.merge(apply_rewrites(graph, rules, context, who=self.name))
        return outcome

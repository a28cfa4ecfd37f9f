"""Convolution, batch normalization, activation and residual sum as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Graph, Node, Op, Value, VerifyError
from ...ir.ops.convolution import Conv, FusedConv
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from . import affine
from .extents import Extents

ACTIVATIONS = (
    "relu", "leaky_relu", "sigmoid", "hard_sigmoid", "hard_swish", "swish", "tanh", "elu", "selu",
    "celu", "softplus", "softsign", "mish", "gelu", "thresholded_relu",
)  # fmt: skip
CONVS = ("conv", "fused_conv")


def fused(op: Any, **changes: Any) -> FusedConv:
    """A Conv or FusedConv as FusedConv with changes."""
    given = {a.name: getattr(op, a.name) for a in op.attributes}
    return FusedConv(**{**given, **changes})


def parts(graph: Graph, node: Node) -> list[Value | None]:
    """x, weight, bias and residual of a Conv or FusedConv."""
    return [*graph.operands(node), None, None, None][:4]


class FuseActivation(Rewrite):
    """f(conv(x)) -> fused_conv(x){activation=f}"""

    def __init__(self, extents: Extents) -> None:
        self.extents = extents

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, low: Any, high: Any
    ) -> Pattern:
        conv = p.op(*CONVS)(x, w, p.optional(c), p.optional(r), uses=1, into="conv")
        return p.any_of(
            p.op(*ACTIVATIONS)(conv), p.clip(conv, p.optional(low), p.optional(high))
        )  # fmt: skip

    def params(self, m: Match) -> tuple[float, ...] | str:
        """The activation's parameters, or why it cannot be one."""
        if m.op.name != "clip":
            return tuple(v for _, v in given_floats(m.op)) if all_float(m.op) else \
                f"{m.op.name} has settings that are no numbers"  # fmt: skip
        bounds: list[float] = []
        for bound, default in ((m.low, -np.inf), (m.high, np.inf)):
            if bound is None:
                bounds.append(default)
            elif bound.array is None or bound.array.size != 1:
                return "the bounds of clip are not constant"
            else:
                bounds.append(float(bound.array.reshape(-1)[0]))
        return tuple(bounds)

    def check(self, m: Match) -> Failure | None:
        if getattr(m.conv.op, "activation", ""):
            return m.fail("the convolution has an activation already", m.conv)
        params = self.params(m)
        if isinstance(params, str):
            return m.fail(params)
        try:
            fused(m.conv.op, activation=m.op.name, params=params).activation_op()
        except VerifyError as error:
            return m.fail(error.message)
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        op = fused(m.conv.op, activation=m.op.name, params=self.params(m))
        made = b.node(op, m.x, m.w, m.c, m.r)
        self.extents.adopt(made.node, m.conv)
        return made


def given_floats(op: Op) -> list[tuple[str, float]]:
    return [(a.name, getattr(op, a.name)) for a in op.attributes if a.kind == "float"]


def all_float(op: Op) -> bool:
    """Whether floats say all about it: other attributes have their defaults."""
    return all(a.kind == "float" or getattr(op, a.name) == a.default for a in op.attributes)


class FuseResidual(Rewrite):
    """conv(x) + r -> fused_conv(x, residual=r)"""

    def __init__(self, extents: Extents) -> None:
        self.extents = extents

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, r: Any, other: Any) -> Pattern:
        conv = p.op(*CONVS)(x, w, p.optional(c), p.optional(r), into="conv")
        return p.add(conv, other)

    def applies(self, m: Match) -> bool:
        return m.other.array is None and not self.better(m)

    def free(self, m: Match, node: Node) -> bool:
        """Whether a node is a convolution that could still take a residual."""
        plain = type(node.op) is Conv or (
            type(node.op) is FusedConv and not node.op.activation
            and parts(m.graph, node)[3] is None
        )  # fmt: skip
        return plain and m.uses(node) == 1

    def better(self, m: Match) -> bool:
        """Whether the other operand is a convolution too and comes later: the shortcut's one is
        best kept apart, as its result is ready first.
        """
        other = m.other.node
        return self.free(m, other) and (
            other.order > m.conv.order or not self.free(m, m.conv)
        ) and self.extents.same(m.other, m.conv[0])  # fmt: skip

    def check(self, m: Match) -> Failure | None:
        if m.r is not None:
            return m.fail("the convolution has a residual already", m.conv)
        if getattr(m.conv.op, "activation", ""):
            return m.fail("the activation comes before the sum", m.conv)
        uses = m.uses(m.conv)
        if uses != 1:
            return m.fail(f"the convolution has {uses} uses", m.conv)
        if not self.extents.same(m.conv[0], m.other):
            return m.fail(f"the shapes {m.conv.type} and {m.other.type} broadcast or may differ")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        made = b.node(fused(m.conv.op), m.x, m.w, m.c, m.other)
        self.extents.adopt(made.node, m.conv)
        return made


NONNEGATIVE = ("relu", "sigmoid", "hard_sigmoid", "softplus", "exp", "abs", "softmax")
KEEPS_SIGN = ("max_pool", "average_pool", "global_average_pool", "global_max_pool", "reshape",
              "transpose", "concat")  # fmt: skip


def nonnegative(graph: Graph, value: Value, depth: int = 8) -> bool:
    """Whether no element can be below zero, as far as a few ops back tell."""
    op: Any = value.node.op
    if op.name in NONNEGATIVE or getattr(op, "activation", "") in NONNEGATIVE:
        return True
    if op.name not in KEEPS_SIGN or not depth or value.index:
        return False
    sources = graph.operands(value.node)
    sources = sources[:1] if op.name == "reshape" else sources
    return all(v is not None and nonnegative(graph, v, depth - 1) for v in sources)


class ReluBeforeConcat(Rewrite):
    """relu(concat(conv(x), y)) -> concat(relu(conv(x)), y) for y >= 0: the convolution takes it"""

    def pattern(self, p: PatternBuilder, xs: Any) -> Pattern:
        return p.relu(p.concat(p.rest(xs), uses=1, into="joined"))

    def takes(self, m: Match, x: Value) -> bool:
        op = x.node.op
        return isinstance(op, Conv) and not getattr(op, "activation", "") and m.uses(x) == 1

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
    weights go into weight and bias. Then a residual sum and the activation make the convolution a
    `fused_conv`. What reads a layer's result besides stops it, as does a weight that is shared
    (unless `shared`: its copy is folded). Exact in real numbers, in floats to rounding.
    """

    name = "fuse-conv"
    bound = Within(rtol=1e-4, atol=1e-5)
    nested = True
    activation: bool = True
    residual: bool = True
    shared: bool = False

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules: list[Rewrite] = [r(self.shared) for r in affine.RULES]  # type: ignore[call-arg]
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

"""Padding that belongs to a convolution or pooling."""

from __future__ import annotations

import math
from typing import Any

from ...ir import UnsupportedError, Value, VerifyError
from ...ir.ops.pooling import AveragePool, MaxPool
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, RewriteBuilder
from .algebra import Algebra


class PadIntoWindow(Algebra):
    """conv(pad(x)) -> conv(x) with larger pads, and so for pooling

    A convolution pads with zeros; max pooling with minus infinity, which zeros equal where x is
    never negative; average pooling with zeros if it counts them.
    """

    def pattern(self, p: PatternBuilder, x: Any, n: Any, v: Any, a: Any, w: Any, c: Any) -> Pattern:
        pad = p.pad(x, p.const(n), p.optional(p.scalar(v)), p.optional(p.const(a)),
                    mode="constant", into="pad")  # fmt: skip
        return p.any_of(
            p.conv(pad, w, p.optional(c)), p.max_pool(pad), p.average_pool(pad)
        )  # fmt: skip

    def amounts(self, m: Match) -> tuple[list[int], list[int]]:
        """Elements added before and after each axis."""
        rank = m.pad.type.rank
        axes = range(rank) if m.a is None else [int(i) % rank for i in m.a.array.reshape(-1)]
        given = [int(i) for i in m.n.array.reshape(-1)]
        begin, end = [0] * rank, [0] * rank
        for axis, b, e in zip(axes, given, given[len(given) // 2 :]):
            begin[axis], end[axis] = b, e
        return begin, end

    def check(self, m: Match) -> Failure | None:
        if m.pad.type.shape is None or len(m.root.results) > 1:
            return m.fail("the rank of the padded tensor is unknown, or indices are asked for")
        begin, end = self.amounts(m)
        op = m.op
        if any(begin[:2]) or any(end[:2]) or min(*begin, *end) < 0:
            return m.fail("padding of batch or channels, or cropping", m.pad)
        if op.auto_pad != "NOTSET":
            return m.fail(f"the window pads itself ({op.auto_pad})")
        fill = 0.0 if m.v is None else m.number(m.v)
        if isinstance(op, MaxPool):
            positive = m.x.node.op.name in ("relu", "sigmoid", "softmax", "exp")
            if fill != -math.inf and not (fill == 0 and positive and not any(op.pads)):
                return m.fail(f"max pooling does not pad with {fill}", m.pad)
        elif fill != 0:
            return m.fail(f"padding with {fill}", m.pad)
        if isinstance(op, AveragePool) and any(op.pads) and not op.count_include_pad:
            return m.fail("the average leaves out its own padding")
        if isinstance(op, AveragePool) and op.ceil_mode:
            return m.fail("the average in ceil mode counts padding differently")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        begin, end = self.amounts(m)
        rank = len(begin) - 2
        own = m.op.pads or (0,) * (2 * rank)
        pads = tuple(o + n for o, n in zip(own, (*begin[2:], *end[2:])))
        changes: dict[str, Any] = {"pads": pads}
        if isinstance(m.root.op, AveragePool):
            changes["count_include_pad"] = True
        rest = m.graph.operands(m.root)[1:]
        try:
            made = b.node(m.root.op.replace(**changes), m.x, *rest)
        except (VerifyError, UnsupportedError):  # pads wider than a pooling window
            return None
        return made if made.type == m.root.type else None


class UpsampleToResize(Algebra):
    """upsample(x, scales) -> resize(x, scales), asymmetric coordinates rounded down"""

    def pattern(self, p: PatternBuilder, x: Any, s: Any) -> Pattern:
        return p.upsample(x, s)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.op.resize(), m.x, None, m.s)


class MatMulToGemm(Algebra):
    """a @ b + c -> gemm(a, b, c), and gemm(a, b) + c, for matrices"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any) -> Pattern:
        return p.any_of(
            p.add(p.mat_mul(x, w, uses=1, into="product"), c),
            p.add(p.gemm(x, w, uses=1, into="product"), c),
        )

    def applies(self, m: Match) -> bool:
        shape, c = m.product.type.shape, m.c.shape
        if shape is None or len(shape) != 2 or c is None or len(c) > 2:
            return False
        tail = shape[2 - len(c) :]
        return all(d == 1 or (d is not None and d == t) for d, t in zip(c, tail)) \
            and m.x.shape is not None and len(m.x.shape) == 2  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        if m.product.op.name == "gemm":
            return b.node(m.product.op.replace(beta=1.0), m.x, m.w, m.c)
        return b.gemm(m.x, m.w, m.c)


class GemmVector(Algebra):
    """gemm(a, b, c[1,n]) -> gemm(a, b, c[n]) for constant c: the bias that others have"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any) -> Pattern:
        return p.gemm(x, w, p.const(c))

    def applies(self, m: Match) -> bool:
        return m.c.type.rank == 2 and m.c.array.shape[0] == 1

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.op, m.x, m.w, b.constant(m.c.array.reshape(-1), m.c.node.name))


RULES: tuple[type[Algebra], ...] = (PadIntoWindow, UpsampleToResize, MatMulToGemm, GemmVector)

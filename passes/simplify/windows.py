"""Padding that belongs to a convolution or pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import DType, Graph, Op, Trait, UnsupportedError, Value, VerifyError
from ...ir.ops.convolution import Conv
from ...ir.ops.dynamic import ScaledMatMul
from ...ir.ops.epilogue import activation_op
from ...ir.ops.fused_convolution import Ending, FusedConv
from ...ir.ops.integer import ConvInteger, SumPoolInteger
from ...ir.ops.linear import FusedMatMul, Gemm
from ...ir.ops.pooling import AveragePool, MaxPool
from ...ir.ops.quantization import QuantizeLinear
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, RewriteBuilder
from .algebra import Algebra

WINDOWS = (Conv, FusedConv, ConvInteger, MaxPool, AveragePool, SumPoolInteger)


def nonnegative(graph: Graph, value: Value, depth: int = 8) -> bool:
    """Whether no element can be below zero, as far as a few ops back tell."""
    op, dtype = value.node.op, value.type.dtype
    last = _last_function(op)
    if value.index == 0 and last is not None and last.results_within(dtype)[0] >= 0:
        return True
    sources = _made_of(graph, value) if depth else []
    return bool(sources) and all(nonnegative(graph, v, depth - 1) for v in sources)


def _last_function(op: Op) -> Op | None:
    """The function whose results are the op's: its activation, or itself."""
    if isinstance(op, Ending):
        return None if op.residual_last else op.activation_op()
    if isinstance(op, FusedMatMul | ScaledMatMul):
        return activation_op(op.activation, op.params)
    return op


def _made_of(graph: Graph, value: Value) -> list[Value]:
    """The operands whose elements, or means of them, a result consists of; none if of others."""
    operands, op = graph.operands_of(value.node), value.node.op
    if op.moves is not None and op.moves.holds(op):
        return [v for name in op.moves.operands for v in operands.each(name)]
    averages = Trait.AVERAGES in op.traits and value.index == 0
    return operands.each(op.operands[0].name) if averages else []


class PadIntoWindow(Algebra):
    """conv(pad(x)) -> conv(x) with larger pads, and so for pooling

    A convolution pads with zeros, on integers with its zero point; max pooling with the least
    number there is, which zeros equal where x is never negative; average pooling with zeros if it
    counts them.
    """

    def pattern(self, p: PatternBuilder, x: Any, n: Any, v: Any, a: Any, rest: Any) -> Pattern:
        pad = p.pad(x, p.const(n), p.optional(p.scalar(v)), p.optional(p.const(a)),
                    mode="constant", into="pad")  # fmt: skip
        return p.op(*WINDOWS)(pad, p.rest(rest))

    def amounts(self, m: Match) -> tuple[list[int], list[int]]:
        """Elements added before and after each axis."""
        rank = m.pad.type.rank
        axes = range(rank) if m.a is None else [int(i) % rank for i in m.a.array.reshape(-1)]
        given = [int(i) for i in m.n.array.reshape(-1)]
        begin, end = [0] * rank, [0] * rank
        for axis, b, e in zip(axes, given, given[len(given) // 2 :]):
            begin[axis], end[axis] = b, e
        return begin, end

    def own_fill(self, m: Match) -> float | None:
        """What the window itself pads with; None where that is not known."""
        op: Any = m.op
        if isinstance(op, MaxPool):
            dtype = m.x.type.dtype
            return -math.inf if dtype.is_float else float(dtype.bounds[0])
        if isinstance(op, SumPoolInteger):
            return float(op.x_zero_point)
        if not isinstance(op, ConvInteger):
            return 0.0
        zero = m.graph.operand(m.root, 2) if len(m.rest) > 1 else None
        if zero is None:
            return 0.0
        return float(zero.array.reshape(-1)[0]) if zero.array is not None and zero.array.size == 1 \
            else None  # fmt: skip

    def check(self, m: Match) -> Failure | None:
        if m.pad.type.shape is None or len(m.root.results) > 1:
            return m.fail("the rank of the padded tensor is unknown, or indices are asked for")
        begin, end = self.amounts(m)
        op = m.op
        if any(begin[:2]) or any(end[:2]) or min(*begin, *end) < 0:
            return m.fail("padding of batch or channels, or cropping", m.pad)
        if op.auto_pad != "NOTSET":
            return m.fail(f"the window pads itself ({op.auto_pad})")
        fill = 0.0 if m.v is None else float(m.v.array.reshape(-1)[0])
        if fill != self.own_fill(m):
            zeros = isinstance(op, MaxPool) and fill == 0 and not any(op.pads)
            if not zeros or 0 in (m.x.shape or ()) or not nonnegative(m.graph, m.x):
                return m.fail(f"{op.name} does not pad with {fill:g}", m.pad)
        if isinstance(op, AveragePool) and any(op.pads) and not op.count_include_pad:
            return m.fail("the average leaves out its own padding")
        if isinstance(op, AveragePool) and op.ceil_mode:
            return m.fail("the average in ceil mode counts padding differently")
        assert m.root.type.shape is not None  # as the rank of what is padded is known
        spatial = m.root.type.shape[2:]
        if getattr(op, "ceil_mode", False) and not all(isinstance(d, int) for d in spatial):
            return m.fail("in ceil mode padding may decide whether there is a last window")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        begin, end = self.amounts(m)
        rank = len(begin) - 2
        own = m.op.pads or (0,) * (2 * rank)
        pads = tuple(o + n for o, n in zip(own, (*begin[2:], *end[2:])))
        changes: dict[str, Any] = {"pads": pads}
        if isinstance(m.root.op, AveragePool):
            changes["count_include_pad"] = True
        try:
            made = b.node(m.root.op.replace(**changes), m.x, *m.rest)
        except (VerifyError, UnsupportedError):  # wider than the window, or it takes no pads
            return None
        return made if made.type == m.root.type else None


class PadAfterQuantize(Algebra):
    """quantize(pad(x, 0)) -> pad(quantize(x), zero point), and dequantize(pad(q, zero point)) ->
    pad(dequantize(q), 0), so that padding comes to the window that takes it
    """

    def pattern(self, p: PatternBuilder, x: Any, n: Any, v: Any, a: Any, s: Any, z: Any) -> Pattern:
        pad = p.pad(x, p.const(n), p.optional(p.scalar(v)), p.optional(a), mode="constant",
                    uses=1, into="pad")  # fmt: skip
        return p.op("quantize_linear", "dequantize_linear")(pad, p.scalar(s), p.optional(z))

    def applies(self, m: Match) -> bool:
        if m.op.block_size or (m.z is not None and (m.z.array is None or m.z.array.size != 1)):
            return False
        fill = 0.0 if m.v is None else float(m.v.array.reshape(-1)[0])
        zero = 0.0 if m.z is None else float(m.z.array.reshape(-1)[0])
        return m.s.array.size == 1 and bool(m.s.array > 0) and \
            fill == (0.0 if isinstance(m.op, QuantizeLinear) else zero)  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        made = b.node(m.root.op, m.x, m.s, m.z)
        kind = made.type.dtype.numpy
        value = np.zeros((), kind)
        if m.z is not None and isinstance(m.op, QuantizeLinear):
            value = m.z.array.reshape(()).astype(kind)
        return b.node(m.pad.op, made, m.n, b.constant(value, f"{m.pad.name}.value"), m.a)


class UpsampleToResize(Algebra):
    """upsample(x, scales) -> resize(x, scales), asymmetric coordinates rounded down"""

    def pattern(self, p: PatternBuilder, x: Any, s: Any) -> Pattern:
        return p.upsample(x, s)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.op.resize(), m.x, None, m.s)


class MatMulToGemm(Algebra):
    """a @ b + c -> gemm(a, b, c), and gemm(a, b) + c, for matrices; in half precision not, where
    the product is rounded before the sum
    """

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
        fits = all(d == 1 or (d is not None and d == t) for d, t in zip(c, tail))
        half = m.root.type.dtype in (DType.f16, DType.bf16)
        return fits and not half and m.x.shape is not None and len(m.x.shape) == 2

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        if isinstance(m.product.op, Gemm):
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


RULES: tuple[type[Algebra], ...] = (
    PadIntoWindow, PadAfterQuantize, UpsampleToResize, MatMulToGemm, GemmVector,
)  # fmt: skip

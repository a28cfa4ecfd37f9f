"""The pass `lower-integer`: from quantize/dequantize pairs to plain integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import networkx as nx
import numpy as np

from ...ir import DType, Graph, Node, TautError, Value, op_class
from ...ir.op import Array
from ...ir.ops.integer import Lookup, Requantize
from ...ir.ops.pooling import MaxPool
from ...ir.ops.quantization import QuantizeLinear
from ...ir.ops.shape import Cast
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..quantize.functions import Step, composed, interval, step_of
from ..quantize.grid import Grid
from ..quantize.place import COMBINES, POOLS, SAME
from ..rewrite import erase_dead
from .match import grid_of_node, integers_of
from .scales import (
    INDEX_SHIFT,
    INDEX_TOLERANCE,
    MAX_SHIFT,
    TOLERANCE,
    Refusal,
    byte_table,
    clamp_of,
    index_table,
    multipliers,
)
from .terms import Accumulators, Sum, Term, image_size

PRODUCTS = frozenset(("conv", "fused_conv", "gemm", "mat_mul"))
KNOWN = PRODUCTS | COMBINES | POOLS | SAME
MOST_VISITED = 200


@register_pass
@dataclass(frozen=True)
class LowerInteger(Pass):
    """Replace what stands between dequantize and quantize by ops on integers, as
    docs/quantization.md defines them:

        quantize(relu(conv(dequantize(x), dequantize(w), b)))  ->  requantize(conv_integer(x, w, b))

    Each op differs from its float original by at most one step of its result's grid: accumulation
    is exact where float's was not, and multipliers are rounded to 31 bits. What data movement,
    maximum and 8-bit functions give is equal.

    Legal where accumulators cannot overflow, which is proven from the weights, and where scales
    are constant; what is refused stays as it is, with a remark that says why.

    multipliers   any, or power-of-two: every scale ratio must be one (fixed point)
    """

    name = "lower-integer"
    bound = Changes()
    families = ("quantized",)
    multipliers: Literal["any", "power-of-two"] = "any"

    def run(self, graph: Graph, context: Context) -> Outcome:
        lowering = Lowering(graph, self.multipliers == "power-of-two")
        for node in list(graph.of(QuantizeLinear)):
            if context.gate(self.name, node.name):
                lowering.lower_quantize(node)
        live = nx.ancestors(graph.nx, graph.result)
        for node in graph.nodes():
            if node in live and node.op.name in PRODUCTS | POOLS:
                lowering.lower_to_float(node)
        erase_dead(graph, graph.nodes()[::-1])
        return lowering.outcome


class Lowering:
    """One run: makes integer nodes beside the float ones, which then die."""

    def __init__(self, graph: Graph, powers: bool) -> None:
        self.graph, self.powers = graph, powers
        self.outcome = Outcome()
        self.accumulators = Accumulators(graph)

    # ---- results of 8 bits ---------------------------------------------------------------------

    def lower_quantize(self, node: Node) -> None:
        """Replace a quantize_linear by the integer form of what it quantizes."""
        grid = grid_of_node(self.graph, node)
        source = self.graph.operand(node, 0)
        assert source is not None
        if grid is None:
            self.outcome.missed(node, "its scale is not one constant number for 8-bit integers")
            return
        if self._starts_here(source):
            return
        try:
            made = self._integers(source, (), grid, node)
        except Refusal as reason:
            self.outcome.missed(source.node, f"stays quantize/dequantize: {reason}")
            return
        self.graph.replace_all_uses(node[0], made)

    def _starts_here(self, value: Value) -> bool:
        """Whether floats become integers at this value: nothing it is made of is quantized."""
        stack, seen = [value], {value}
        while stack and len(seen) < MOST_VISITED:
            node = stack.pop().node
            operands = [v for v in self.graph.operands(node) if v is not None and v.array is None]
            if node.op.name == "dequantize_linear":
                if operands:
                    return False
            elif node.op.name in KNOWN or step_of(self.graph, node) is not None:
                stack += [v for v in operands if v not in seen]
                seen.update(operands)
        return True

    def _integers(
        self, value: Value, steps: tuple[Step, ...], grid: Grid, place: Node
    ) -> Value:
        """Integers on `grid` of `steps` applied to a float value. Raises Refusal."""
        source = integers_of(self.graph, value)
        if source is not None:
            if not steps and source.grid == grid:
                return source.value
            if steps or self.powers:
                table = byte_table(source.grid, composed(steps), grid)
                self.outcome.count("lookup")
                return self._lookup(source.value, table, None, value.node.name, place)
            return self._round(Sum(self.accumulators.of(value).terms), grid, value.node, place)
        node = value.node
        step = step_of(self.graph, node)
        if step is not None and not self.accumulators.adds_bias(node):
            return self._integers(step[1], (step[0], *steps), grid, place)
        if node.op.name in SAME:
            return self._moved(node, value.index, steps, grid, place)
        made = self.accumulators.of(value)
        return self._round(Sum(made.terms, (*made.steps, *steps)), grid, node, place)

    def _moved(
        self, node: Node, index: int, steps: tuple[Step, ...], grid: Grid, place: Node
    ) -> Value:
        """Data movement, on integers; functions of one element go before it."""
        if node.op.name in ("max_pool", "global_max_pool") and interval(steps) is None:
            raise Refusal("a curved function follows a maximum")
        if grid.scales:
            raise Refusal("data with scales by channel is moved")
        operands = list(self.graph.operands(node))
        count = len(operands) if node.op.name == "concat" else 1
        for i in range(count):
            value = operands[i]
            assert value is not None
            operands[i] = self._integers(value, steps, grid, place)
        if node.op.name == "pad" and getattr(node.op, "mode", "") == "constant":
            fill = operands[2] if len(operands) > 2 else None
            real = np.zeros((), np.float32) if fill is None else fill.array
            if real is None:
                raise Refusal("it pads with a value that is computed")
            padded = grid.quantize(composed(steps)(real.reshape(())))
            operands = [*operands[:2], *[None] * (2 - len(operands)), None, *operands[3:]]
            operands[2] = self.graph.constant(padded, f"{node.name}.value", before=place)
        op = node.op
        if node.op.name == "global_max_pool":
            assert operands[0] is not None
            op = MaxPool(kernel_shape=image_size(operands[0]))
        try:
            made = self.graph.add(op, *operands,
                                  name=f"{node.name}.integers", before=place)  # fmt: skip
        except TautError as error:
            raise Refusal(f"{node.op.name} does not take integers ({error.message})") from error
        self.outcome.count(node.op.name)
        return made[index]

    def _round(self, total: Sum, grid: Grid, node: Node, place: Node) -> Value:
        """End a sum with requantize, or with requantize to an index and a lookup."""
        bounds = interval(total.steps)
        if bounds is not None:
            lo, hi = clamp_of(grid, bounds)
            made = self._requantize(total.terms, grid, lo, hi, node, place)
            self.outcome.count("requantize")
            return made
        index = index_table(composed(total.steps), grid, total.reach, self.powers)
        to = Grid(index.scale, index.zero, DType.i16)
        at = self._requantize(total.terms, to, index.low, index.high, node, place)
        self.outcome.count("requantize and lookup")
        return self._lookup(at, index.table, index.low, node.name, place)

    def _requantize(
        self, terms: tuple[Term, ...], grid: Grid, lo: int, hi: int, node: Node, place: Node
    ) -> Value:  # fmt: skip
        indexes = grid.dtype is DType.i16
        # Accumulators first: they are what a backend folds the rest into.
        terms = tuple(sorted(terms, key=lambda t: t.x.type.dtype is not DType.i32))
        found = multipliers(
            [np.asarray(t.scale / grid.step) for t in terms],
            [t.largest for t in terms],
            span=float(max(hi - grid.zero, grid.zero - lo, 1)) + 1.0,
            powers=self.powers,
            most=INDEX_SHIFT if indexes else MAX_SHIFT,
            tolerance=INDEX_TOLERANCE if indexes else TOLERANCE,
        )
        axes = {t.axis for t in terms if t.scale.ndim} | ({1} if grid.scales else set())
        if len(axes) > 1:
            raise Refusal("its operands have scales along different axes")
        operands: list[Value] = []
        for t, m in zip(terms, found.factors):
            name = f"{node.name}.multiplier"
            operands += [t.x, self.graph.constant(m, name, before=place)]
        op = Requantize(
            dtype=grid.dtype,
            zero_points=tuple(t.zero for t in terms) if any(t.zero for t in terms) else (),
            zero_point=grid.zero,
            shift=found.shift,
            axis=axes.pop() if axes else 1,
            lo=None if lo == grid.dtype.bounds[0] else lo,
            hi=None if hi == grid.dtype.bounds[1] else hi,
        )
        return self.graph.add(op, *operands, name=f"{node.name}.requantized", before=place)[0]

    def _lookup(
        self, x: Value, table: Array, low: int | None, name: str, place: Node
    ) -> Value:
        constant = self.graph.constant(table, f"{name}.table", before=place)
        return self.graph.add(Lookup(low=low), x, constant, name=f"{name}.looked_up",
                              before=place)[0]  # fmt: skip

    # ---- results that leave in float -----------------------------------------------------------

    def lower_to_float(self, node: Node) -> None:
        """A product or mean whose result stays float: its accumulator times the scale, not
        rounded to 8 bits; residual and activation follow in float.
        """
        if integers_of(self.graph, self.graph.operand(node, 0)) is None:
            return
        try:
            total = self.accumulators.of(node[0])
        except Refusal as reason:
            self.outcome.missed(node, f"stays quantize/dequantize: {reason}")
            return
        made = self._real(total.terms[0], node)
        residual = self.graph.operand(node, 3)
        if residual is not None and node.op.name in PRODUCTS:
            made = self._add("add", node, made, residual)
        for step in total.steps:
            operands: list[Value | None] = [
                None if c is None else self.graph.constant(c, f"{node.name}.bound", before=node)
                for c in step.constants
            ]
            operands.insert(step.position, made)
            made = self.graph.add(step.op, *operands, name=f"{node.name}.{step.op.name}",
                                  before=node)[0]  # fmt: skip
        self.graph.replace_all_uses(node[0], made)
        self.outcome.count("to float")

    def _real(self, term: Term, node: Node) -> Value:
        """An accumulator as float32: cast, times its scale."""
        made = self.graph.add(Cast(to=DType.f32), term.x, name=f"{node.name}.real", before=node)
        scale = term.scale.astype(np.float32)
        if scale.ndim:
            rank = made.type.rank
            scale = scale.reshape([-1 if i == term.axis else 1 for i in range(rank)])
        factor = self.graph.constant(scale, f"{node.name}.scale", before=node)
        return self._add("mul", node, made[0], factor)

    def _add(self, op: str, node: Node, a: Value, b: Value) -> Value:
        return self.graph.add(op_class(op)(), a, b, name=f"{node.name}.{op}", before=node)[0]

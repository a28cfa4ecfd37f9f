"""The pass `lower-integer`: from quantize/dequantize pairs to plain integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import networkx as nx
import numpy as np

from ...ir import DType, Graph, Node, TautError, Value, op_class
from ...ir.op import Array
from ...ir.ops.convolution import Conv
from ...ir.ops.integer import Lookup, Requantize
from ...ir.ops.joining import Concat, Pad
from ...ir.ops.linear import Gemm, MatMul
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.pooling import GlobalMaxPool, MaxPool
from ...ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ...ir.ops.resize import Resize, Upsample
from ...ir.ops.shape import Cast
from ..base import Bound, Changes, Exact, Outcome, Pass, WithinSteps, register_pass
from ..context import Context
from ..quantize.functions import Step, composed, interval, step_of
from ..quantize.grids.affine import AffineGrid
from ..quantize.place import COMBINES, POOLS, SAME
from ..rewrite import erase_dead
from .accumulators import Accumulators, image_size
from .match import ACTIVATIONS, REALS, grid_of_node, integers_of
from .prepare import prepare
from .products import fused, residual_of
from .remarks import explain_rest, nothing_to_do
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
from .terms import Sum, Term

SUMMED = (Conv, Gemm, MatMul)  # into accumulators
KNOWN = SUMMED + COMBINES + POOLS + SAME + (BatchNormalization, Cast)
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
    bound = WithinSteps()
    families = ("quantized",)
    multipliers: Literal["any", "power-of-two"] = "any"

    def promise_on(self, graph: Graph) -> Bound:
        if not any(graph.of(DequantizeLinear)):
            return Exact()
        # Half precision may round off more than a step where the integers are exact.
        half = any(v.type.dtype is DType.f16 for n in graph.of(DequantizeLinear) for v in n.results)
        return Changes() if half else self.bound

    def run(self, graph: Graph, context: Context) -> Outcome:
        if not any(graph.of(DequantizeLinear)):
            return nothing_to_do(graph)
        lowering = Lowering(graph, self.multipliers == "power-of-two")
        prepare(graph, lowering.outcome)
        for node in list(graph.of(QuantizeLinear)):
            if context.gate(self.name, node.name):
                lowering.lower_quantize(node)
        live = nx.ancestors(graph.nx, graph.result)
        for node in graph.nodes():
            if node in live and isinstance(node.op, SUMMED + POOLS):
                lowering.lower_to_float(node)
        erase_dead(graph, graph.nodes()[::-1])
        for name, node in lowering.renamed.items():
            if graph.find(name) is None:
                graph.rename(node, name)
        explain_rest(graph, lowering.outcome)
        return lowering.outcome


class Lowering:
    """One run: makes integer nodes beside the float ones, which then die."""

    def __init__(self, graph: Graph, powers: bool) -> None:
        self.graph, self.powers = graph, powers
        self.outcome = Outcome()
        self.accumulators = Accumulators(graph)
        self.renamed: dict[str, Node] = {}  # what takes over the name of a float node
        self.coarse: set[Value] = set()  # accumulators whose rounded bias a quantizer would show

    # ---- results of 8 bits ---------------------------------------------------------------------

    def lower_quantize(self, node: Node) -> None:
        """Replace a quantize_linear by the integer form of what it quantizes."""
        grid = grid_of_node(self.graph, node)
        source = self.graph.operand(node, 0)
        assert source is not None
        if grid is None:
            if node.type.dtype in ACTIVATIONS:  # others are told of where they are read
                why = "its scale is not a constant, one or one for each channel of axis 1, in f32"
                self.outcome.missed(node, why)
            return
        if self._starts_here(source):
            return
        try:
            made = self._integers(source, (), grid, node, source.node.name)
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
            if isinstance(node.op, DequantizeLinear):
                if operands:
                    return False
            elif isinstance(node.op, KNOWN) or step_of(self.graph, node) is not None:
                stack += [v for v in operands if v not in seen]
                seen.update(operands)
        return True

    def _integers(
        self, value: Value, steps: tuple[Step, ...], grid: AffineGrid, place: Node, name: str
    ) -> Value:
        """Integers on `grid` of `steps` applied to a float value; `name` is that of the float value
        that they stand for. Raises Refusal.
        """
        source = integers_of(self.graph, value)
        if source is not None:
            if not steps and source.grid == grid:
                return source.value
            if steps or self.powers:
                table = byte_table(source.grid, composed(steps), grid)
                self.outcome.count("lookup")
                return self._lookup(source.value, table, None, grid, name, place)
            return self._round(Sum(self.accumulators.of(value).terms), grid, name, place)
        node = value.node
        under = self.graph.operand(node, 0) if isinstance(node.op, Cast) else None
        if under is not None and node.type.dtype in REALS and under.type.dtype in REALS:
            return self._integers(under, steps, grid, place, name)
        step = step_of(self.graph, node)
        if step is not None and not self.accumulators.adds_bias(node):
            return self._integers(step[1], (step[0], *steps), grid, place, name)
        if isinstance(node.op, SAME):
            return self._moved(node, value.index, steps, grid, place, name)
        made = self.accumulators.of(value)
        return self._round(Sum(made.terms, (*made.steps, *steps)), grid, name, place)

    def _moved(
        self,
        node: Node,
        index: int,
        steps: tuple[Step, ...],
        grid: AffineGrid,
        place: Node,
        name: str,
    ) -> Value:
        """Data movement, on integers; functions of one element go before it."""
        if isinstance(node.op, MaxPool | GlobalMaxPool) and interval(steps) is None:
            raise Refusal("a curved function follows a maximum")
        if grid.scales:
            raise Refusal("data with scales by channel is moved")
        self._check_resize(node, steps, grid)
        operands = list(self.graph.operands(node))
        count = len(operands) if isinstance(node.op, Concat) else 1
        for i in range(count):
            value = operands[i]
            assert value is not None
            part = f"{name}.{i}" if steps else value.node.name
            operands[i] = self._integers(value, steps, grid, place, part)
        if isinstance(node.op, Pad) and node.op.mode == "constant":
            fill = self.graph.operands_of(node).get("value")
            real = np.zeros((), np.float32) if fill is None else fill.array
            if real is None:
                raise Refusal("it pads with a value that is computed")
            padded = grid.encode(composed(steps)(real.reshape(())))
            operands = [*operands[:2], *[None] * (2 - len(operands)), None, *operands[3:]]
            operands[2] = self.graph.constant(padded, f"{node.name}.value", before=place)
        op = node.op
        if isinstance(node.op, GlobalMaxPool):
            assert operands[0] is not None
            op = MaxPool(kernel_shape=image_size(operands[0]))
        try:
            made = self.graph.add(op, *operands, name=f"{name}.integers", before=place)
        except TautError as error:
            raise Refusal(f"{node.op.name} does not take integers ({error.message})") from error
        self.outcome.count(node.op.name)
        return made[index]

    def _check_resize(self, node: Node, steps: tuple[Step, ...], grid: AffineGrid) -> None:
        """Interpolation may be made on integers where nothing but rounding comes before it: a
        function, or the end of a grid, does not commute with a mean of two numbers. Raises Refusal.
        """
        op = node.op
        if isinstance(op, Resize) and op.coordinate_transformation_mode == "tf_crop_and_resize":
            raise Refusal("it extrapolates")
        if not isinstance(op, Resize | Upsample) or op.mode == "nearest":
            return
        source = integers_of(self.graph, self.graph.operand(node, 0))
        if steps or source is None or source.grid.scales:
            raise Refusal(f"{op.mode} interpolation of what is not on a grid, or before a function")
        within = grid.low <= source.grid.low and source.grid.high <= grid.high
        if source.grid != grid and not (op.mode == "linear" and within):
            raise Refusal(f"{op.mode} interpolation on a grid that ends before its operand's")

    def _round(self, total: Sum, grid: AffineGrid, name: str, place: Node) -> Value:
        """End a sum with requantize, or with requantize to an index and a lookup."""
        bounds = interval(total.steps)
        if bounds is not None:
            lo, hi = clamp_of(grid, bounds)
            made = self._requantize(total.terms, grid, lo, hi, f"{name}.requantized", place)
            self.outcome.count("requantize")
            return made
        index = index_table(composed(total.steps), grid, total.reach, self.powers)
        to = AffineGrid(index.scale, index.zero, DType.i16)
        at = self._requantize(total.terms, to, index.low, index.high, f"{name}.index", place)
        self.outcome.count("requantize and lookup")
        return self._lookup(at, index.table, index.low, grid, name, place)

    def _requantize(
        self, terms: tuple[Term, ...], grid: AffineGrid, lo: int, hi: int, name: str, place: Node
    ) -> Value:  # fmt: skip
        indexes = grid.dtype is DType.i16
        tolerance = INDEX_TOLERANCE if indexes else TOLERANCE
        error = sum(t.error * float(np.max(t.scale / grid.step)) for t in terms)
        if error > tolerance:
            self.coarse |= {t.x for t in terms if t.error}
            raise Refusal("its bias would be rounded to steps of its accumulator, which are as "
                          f"large as {2 * error:.2g} of its result's")  # fmt: skip
        # Accumulators first: they are what a backend folds the rest into.
        terms = tuple(sorted(terms, key=lambda t: t.x.type.dtype is not DType.i32))
        found = multipliers(
            [np.asarray(t.scale / grid.step) for t in terms],
            [t.largest for t in terms],
            span=float(max(hi - grid.zero, grid.zero - lo, 1)) + 1.0,
            powers=self.powers,
            most=INDEX_SHIFT if indexes else MAX_SHIFT,
            tolerance=tolerance,
        )
        axes = {t.axis for t in terms if t.scale.ndim} | ({1} if grid.scales else set())
        if len(axes) > 1:
            raise Refusal("its operands have scales along different axes")
        operands: list[Value] = []
        for t, m in zip(terms, found.factors):
            operands += [t.x, self.graph.constant(m, f"{name}.multiplier", before=place)]
        op = Requantize(
            dtype=grid.dtype,
            zero_points=tuple(t.zero for t in terms) if any(t.zero for t in terms) else (),
            zero_point=grid.zero,
            shift=found.shift,
            axis=axes.pop() if axes else 1,
            lo=None if lo == grid.dtype.bounds[0] else lo,
            hi=None if hi == grid.dtype.bounds[1] else hi,
            steps=grid.scales or (grid.scale,),
        )
        return self.graph.add(op, *operands, name=name, before=place)[0]

    def _lookup(
        self, x: Value, table: Array, low: int | None, grid: AffineGrid, name: str, place: Node
    ) -> Value:
        constant = self.graph.constant(table, f"{name}.table", before=place)
        op = Lookup(low=low, step=grid.scale, zero_point=grid.zero)
        return self.graph.add(op, x, constant, name=f"{name}.looked_up", before=place)[0]

    # ---- results that leave in float -----------------------------------------------------------

    def lower_to_float(self, node: Node) -> None:
        """A product or mean whose result stays float: its accumulator times the scale, not
        rounded to 8 bits; residual and activation follow in float.
        """
        if integers_of(self.graph, self.graph.operand(node, 0)) is None:
            return
        try:
            term, step = self._accumulator(node)
        except Refusal as reason:
            self.outcome.missed(node, f"stays in float: {reason}")
            return
        if term.x in self.coarse:  # no less so by way of float
            return
        made = self._real(term, node)
        if node.type.dtype is not DType.f32:
            to = Cast(to=node.type.dtype)
            made = self.graph.add(to, made, name=f"{node.name}.narrowed", before=node)[0]
        residual = residual_of(self.graph, node)
        if residual is not None:
            made = self._add("add", node, made, residual)
        if step is not None:
            kind = node.type.dtype.numpy
            operands: list[Value | None] = [
                None if c is None else
                self.graph.constant(c.astype(kind), f"{node.name}.bound", before=node)
                for c in step.constants
            ]  # fmt: skip
            operands.insert(step.position, made)
            made = self.graph.add(step.op, *operands, name=f"{node.name}.{step.op.name}",
                                  before=node)[0]  # fmt: skip
        self.graph.replace_all_uses(node[0], made)
        self.renamed[node.name] = made.node
        self.outcome.count("to float")

    def _accumulator(self, node: Node) -> tuple[Term, Step | None]:
        """The accumulator of a product or mean, and the activation behind the residual, which both
        stay in float. Raises Refusal.
        """
        if not isinstance(node.op, Conv):
            return self.accumulators.of(node[0]).terms[0], None
        if fused(node.op).residual_last and residual_of(self.graph, node) is not None:
            raise Refusal("its residual comes after the activation")
        step = self.accumulators.activation(node)
        return self.accumulators.convolved(node), step

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

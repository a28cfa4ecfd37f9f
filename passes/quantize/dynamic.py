"""The pass `quantize-dynamic`: matrix products on bytes whose scales are found while they run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...ir import DType, Graph, Node, PassError, Value
from ...ir.op import Array
from ...ir.ops.dynamic import QuantizeRows, ScaledMatMul
from ...ir.ops.elementwise import Add
from ...ir.ops.linear import FusedMatMul, Gemm
from ...ir.ops.quantization import DequantizeLinear
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..fuse.products import PRODUCTS, settings
from ..rewrite import erase_dead
from .weights import Estimate, quantize_weight

LARGEST = 2**31 - 1


class Linear(NamedTuple):
    """activation(x @ weight + bias + residual), which ends at `last`; weight and bias are known."""

    last: Node
    x: Value
    weight: Array  # float32 [k, n]
    bias: Array | None
    residual: Value | None
    activation: str = ""
    params: tuple[float, ...] = ()


@register_pass
@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Run matrix products with known weights on 8-bit integers, with a scale for each row of the
    input that is found while the program runs: no sample inputs are needed.

        x @ w + b  ->  scaled_mat_mul(quantize_rows(x), int8(w), ...) + b

    An input that several products share is quantized once. Bias, residual and activation stay in
    float32, as the product's own ending. docs/quantization.md has the arithmetic.

    bits            of weights, 2 to 8: one scale for each output column
    weight_scales   max: by the largest weight; mse: the least squared error of the weights
    symmetric       rows' zero point is 128, rather than using their whole range from min to max
    smallest        products whose weights have fewer elements stay in float
    skip            names of nodes to leave in float

    Legal for any graph: what is left in float is remarked on with the reason.
    """

    name = "quantize-dynamic"
    absent = "no matrix product has a float input and a constant float weight"
    bound = Changes()
    families = ("mlp", "transformer")
    bits: int = 8
    weight_scales: Estimate = "mse"
    symmetric: bool = False
    smallest: int = 1024
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise PassError(f"bits is {self.bits}, which should lie within 2..8")

    def run(self, graph: Graph, context: Context) -> Outcome:
        run = _Run(graph, self)
        for node in graph.nodes():
            if node not in graph or not isinstance(node.op, PRODUCTS) or quantized(graph, node):
                continue
            found = linear(graph, node)
            why = found if isinstance(found, str) else run.refusal(node, found)
            if why:
                run.outcome.missed(node, f"not quantized: {why}")
            elif isinstance(found, Linear) and context.gate(self.name, node.name):
                run.replace(node, found)
        erase_dead(graph, graph.nodes()[::-1])
        return run.outcome


@dataclass
class _Run:
    graph: Graph
    options: QuantizeDynamic
    outcome: Outcome = field(default_factory=Outcome)
    rows: dict[Value, Node] = field(default_factory=dict)  # value -> its quantize_rows

    def refusal(self, node: Node, found: Linear) -> str:
        """Why a product stays in float; "" if it need not."""
        if node.name in self.options.skip:
            return "it is named in `skip`"
        if found.weight.size < self.options.smallest:
            return f"its weight has {found.weight.size} elements, too few to be worth it"
        return ""

    def replace(self, node: Node, found: Linear) -> None:
        weights = quantize_weight(
            found.weight, 1, bits=self.options.bits, estimate=self.options.weight_scales
        )
        if np.abs(weights.integers.astype(np.int64)).sum(0).max() * 255 > LARGEST:
            self.outcome.missed(node, "not quantized: its accumulator could overflow int32")
            return
        graph, last = self.graph, found.last
        rows = self.rows.get(found.x)
        if rows is None:
            op = QuantizeRows(self.options.symmetric)
            name = found.x.node.name if found.x.index == 0 else \
                f"{found.x.node.name}.{found.x.index}"  # fmt: skip
            rows = graph.add(op, found.x, name=f"{name}.rows", before=node)
            self.rows[found.x] = rows
            self.outcome.count("quantized inputs")

        def constant(array: Array, what: str) -> Value:
            return graph.constant(array, f"{node.name}.{what}", before=last)

        zero = constant(np.array(128, np.uint8), "zero_point") if self.options.symmetric \
            else rows[2]  # fmt: skip
        bias = None if found.bias is None else constant(found.bias, "bias")
        made = graph.add(
            ScaledMatMul(found.activation, found.params), rows[0],
            constant(weights.integers, "int8"), rows[1], constant(weights.scale, "scale"),
            zero, None, bias, found.residual, name=last.name, before=last,
        )  # fmt: skip
        graph.replace_all_uses(last[0], made)
        take_name(graph, made, last)
        self.outcome.count("quantized")


def quantized(graph: Graph, node: Node) -> bool:
    """Whether a product's weight already is dequantized integers."""
    w = graph.operand(node, 1)
    source = None if w is None or not isinstance(w.node.op, DequantizeLinear) else \
        graph.operand(w.node, 0)  # fmt: skip
    return source is not None and source.array is not None


def take_name(graph: Graph, made: Node, old: Node) -> None:
    """Give `made` the name of what it replaces, which nothing reads any more."""
    name = old.name
    erase_dead(graph, [old])
    graph.rename(made, name)


def linear(graph: Graph, node: Node) -> Linear | str:
    """A product with what follows it, or why it cannot be quantized."""
    x, w, *rest = [*graph.operands(node), None, None][:4]
    op = settings(node.op)
    assert x is not None and w is not None
    if node.type.dtype is not DType.f32:
        return f"its element type is {node.type.dtype.value}"
    if w.array is None:
        return "its weight is computed when it runs"
    if x.array is not None:
        return "its input is a constant"
    if w.array.ndim != 2 or x.type.shape is None or len(x.type.shape) < 2:
        return "its weight is no matrix"
    if op.transA:
        return "its first operand is transposed"
    weight = w.array.T if op.transB else w.array
    weight = np.ascontiguousarray(weight * np.float32(op.alpha))
    if not np.isfinite(weight).all():
        return f"weight has {'NaN' if np.isnan(weight).any() else 'Inf'}"
    if not weight.size:
        return "its weight is empty"
    made = Linear(node, x, weight, None, None)
    beta = node.op.beta if isinstance(node.op, Gemm) else 1.0
    for value in rest:
        joined = _joined(made, value, beta)
        if isinstance(joined, str):
            return joined
        made = joined
    if isinstance(node.op, FusedMatMul):
        return made._replace(activation=op.activation, params=op.params)
    return _with_bias(graph, made)


def _joined(made: Linear, value: Value | None, beta: float) -> Linear | str:
    """With one more summand: a vector becomes the bias, anything else the residual."""
    if value is None or beta == 0:
        return made
    columns = made.weight.shape[1]
    if value.array is not None and made.bias is None and _is_vector(value.array, columns):
        vector = np.broadcast_to(value.array.reshape(-1) * np.float32(beta), (columns,))
        return made._replace(bias=np.ascontiguousarray(vector))
    if beta != 1.0 or made.residual is not None:
        return "what it adds is scaled, and no vector of columns"
    return made._replace(residual=value)


def _is_vector(array: Array, columns: int) -> bool:
    return array.dtype == np.float32 and (
        array.size == 1 or (array.size == columns and array.shape[-1] == columns)
    )


def _with_bias(graph: Graph, made: Linear) -> Linear:
    """With the constant vector that alone is added to it."""
    uses = graph.uses(made.last[0])
    if made.bias is not None or made.residual is not None or len(uses) != 1:
        return made
    user = uses[0].node
    if not isinstance(user.op, Add) or user.type != made.last.type:
        return made
    other = graph.operand(user, 1 - uses[0].position)
    if other is None or other.array is None or not _is_vector(other.array, made.weight.shape[1]):
        return made
    joined = _joined(made, other, 1.0)
    return made if isinstance(joined, str) else joined._replace(last=user)

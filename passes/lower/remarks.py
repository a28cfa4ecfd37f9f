"""What `lower-integer` says of the layers that it leaves in float."""

from __future__ import annotations

from ...ir import DType, Graph, Node, Trait, Value
from ...ir.op import Op, has_body
from ...ir.ops.fusion import Fusion
from ...ir.ops.quantization import DequantizeLinear, Quantization, QuantizeLinear
from ...ir.ops.structure import Constant, Input, Return
from ..base import Outcome


def nothing_to_do(graph: Graph) -> Outcome:
    """Why a graph without a dequantize_linear of its own is left as it is."""
    outcome = Outcome()
    explain_bodies(graph, outcome)
    if outcome.remarks:
        return outcome
    if any(graph.of(QuantizeLinear)):
        outcome.note("nothing to lower: what is quantized is never dequantized")
    elif any(v.type.dtype is DType.i32 and Trait.INTEGER_PRODUCT in n.op.traits
             for n in graph.nodes() for v in n.results):  # fmt: skip
        outcome.note("nothing to lower: the layers are on integers already")
    else:
        outcome.note("nothing to lower: the graph has no quantize_linear and dequantize_linear")
    return outcome


def explain_bodies(graph: Graph, outcome: Outcome) -> None:
    """Remark on pairs in the bodies of ops, where lowering does not look."""
    for node in graph.nodes():
        if any(True for body in bodies(node.op) for _ in body.of(Quantization)):
            what = f"quantize/dequantize pairs lie inside this {node.op.name}"
            mend = ": run inline-fusions before" if isinstance(node.op, Fusion) else ""
            outcome.missed(node, what + mend)


def bodies(op: Op) -> list[Graph]:
    """The graphs that an op carries."""
    if not has_body(op):
        return []
    return [getattr(op, a.name) for a in op.attributes if a.kind == "graph"]


def explain_rest(graph: Graph, outcome: Outcome) -> None:
    """Remark on what still computes in float from dequantized values, where nothing else did."""
    explain_bodies(graph, outcome)
    told = {r.node for r in outcome.remarks if r.kind == "missed"}
    for node in graph.nodes():
        if node.name in told or isinstance(node.op, Quantization | Constant | Input | Return):
            continue
        sources = [v for v in graph.operands(node) if v is not None]
        real = [v for v in sources if isinstance(v.node.op, DequantizeLinear)]
        if real:
            outcome.missed(node, f"stays in float: {reason(graph, node, sources, real)}")
    if not outcome.counts and not outcome.remarks:
        outcome.note("nothing is left to lower: what is dequantized only leaves the graph")


def reason(graph: Graph, node: Node, sources: list[Value], real: list[Value]) -> str:
    """What keeps a node that reads dequantized values in float."""
    stored = [graph.operand(v.node, 0) for v in real]
    wide = sorted({v.type.dtype.value for v in stored if v is not None and v.array is None
                   and v.type.dtype not in (DType.i8, DType.u8)})  # fmt: skip
    if wide:
        return f"it reads {', '.join(wide)}, and only 8 bits have an integer form"
    if all(v is not None and v.array is not None for v in stored):
        return "only its weights are quantized, its input is float"
    return f"{node.op.name} of these operands has no integer form"

"""A group of ops that runs as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dependence import Dependences
from ..numerics import STRUCTURE
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..types import DEFAULT_LIMITS, Limits, TensorType

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Graph, Value


@register
@dataclass(frozen=True, kw_only=True)
class Fusion(Op):
    """The results of `body`, whose inputs are the operands by position

    The same numbers as its ops one by one. Intermediates need never be in memory: a backend may
    compute the body as one loop nest.
    """

    numerics = STRUCTURE.but(nan="as its body")
    minifloats = True
    onnx = None
    body: Graph

    def infer(self, *operands: Abstract) -> Inferred:
        from ..bodies import infer_body

        return infer_body(self.body, operands)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        from ..analysis.dependence import body_dependence

        return body_dependence(self.body, operands, results)

    def evaluate(self, operands: Sequence[Array | None], limits: Limits) -> Any:
        from ..bodies import run_body

        return run_body(self.body, [x for x in operands if x is not None], limits)

    def reference(self, *operands: Array) -> Any:
        return self.evaluate(operands, DEFAULT_LIMITS)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        from ..analysis.cost import graph_cost
        from ..bodies import specialize

        inside = graph_cost(specialize(self.body, [x for x in operands if x is not None]))
        return Cost(inside.macs, memory_bytes(operands, results))

    def definition(self, b: Builder, *operands: Value | None) -> tuple[Value, ...]:
        feeds = {n.name: v for n, v in zip(self.body.inputs, operands) if v is not None}
        return tuple(b.graph.splice(self.body, feeds).values())

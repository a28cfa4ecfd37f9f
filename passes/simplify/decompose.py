"""Ops as the compositions of simpler ones that define them."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph, Node, Op, Value
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..rewrite import RewriteBuilder, erase_dead


@register_pass
@dataclass(frozen=True)
class Decompose(Pass):
    """Replace ops by their definitions, nodes of simpler ops, so that parts that others compute too
    are computed once: the statistics of a batch norm in training and of its gradient.

    ops   which, by name

    Legal for ops that declare a definition; others stay, with a remark. Within float's rounding.
    """

    name = "decompose"
    bound = Within(1e-4, 1e-5)
    families = ("cnn",)
    ops: tuple[str, ...] = ("batch_normalization", "round_bias")

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for node in graph.nodes():
            if node.op.name not in self.ops:
                continue
            if type(node.op).definition is Op.definition:
                outcome.missed(node, f"{node.op.name} declares no definition")
            elif context.gate(self.name, node.name):
                decompose(graph, node)
                outcome.count("decomposed")
        erase_dead(graph, graph.nodes()[::-1])
        return outcome


def decompose(graph: Graph, node: Node) -> None:
    """Put the nodes of an op's definition in its place."""
    b = RewriteBuilder(graph, node)
    made = node.op.definition(b, *graph.operands(node))
    for i, value in enumerate((made,) if isinstance(made, Value) else made):
        graph.replace_all_uses(node[i], value)

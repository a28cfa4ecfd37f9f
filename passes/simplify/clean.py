"""Dead code and common subexpressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...ir import Graph, Node
from ...ir.ops.control import ControlFlow
from ...ir.ops.structure import Constant
from ..base import Exact, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import erase_dead
from . import seeds
from .bodies import trim


@register_pass
@dataclass(frozen=True)
class DeadCode(Pass):
    """Erase every node from which no output can be reached (inputs stay), and of branches and
    loops the results, carried values and captures that nothing needs. Always legal: a run has no
    effect but its outputs.
    """

    name = "dce"
    bound = Exact()
    seeds = (seeds.DEAD_PARTS,)
    families = ("control",)
    nested = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outcome.count("erased", len(erase_dead(graph, graph.nodes()[::-1])))
        for node in graph.nodes()[::-1]:
            if isinstance(node.op, ControlFlow) and node in graph.nx:
                outcome.count("trimmed", trim(graph, node))
        outcome.count("erased", len(erase_dead(graph, graph.nodes()[::-1])))
        return outcome


@register_pass
@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Let equal pure ops on equal operands be one node: f(x), f(x) -> f(x) read twice.

    One walk in topological order over a hash of (op.key(), operands), after J. Cocke, "Global
    common subexpression elimination" (1970). Equal constants become one too.
    """

    name = "cse"
    bound = Exact()
    seeds = (seeds.EQUAL,)
    nested = True
    constants: bool = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()

        def may(node: Node) -> bool:
            kept = isinstance(node.op, Constant) and not self.constants
            return not kept and context.gate("cse", node.name)

        names = merge_equal(graph, may)
        outcome.count("merged", len(names))
        return outcome


def merge_equal(graph: Graph, may: Callable[[Node], bool]) -> list[str]:
    """Let a node that equals an earlier one be that one, where it may; names of those gone."""
    seen: dict[Any, Node] = {}
    gone = []
    for node in graph.nodes():
        if not node.op.pure:
            continue
        key = (node.op.key(), tuple(graph.operands(node)))
        first = seen.setdefault(key, node)
        if first is node or not may(node):
            continue
        for i in range(len(node.results)):
            graph.replace_all_uses(node[i], first[i])
        graph.erase(node)
        gone.append(node.name)
    return gone

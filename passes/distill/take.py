"""The pass that takes a trained student out of its training graph."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import FeedError, Graph
from ...ir.ops.attention import Attention
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from .joint import STUDENT, find_value, reached, read_state


@register_pass
@dataclass(frozen=True)
class TakeStudent(Pass):
    """Leave the student that `distill-*` passes joined to a teacher as it was, with the weights
    that it has now: teacher, losses, regressors, gradients and added inputs go.

    Weights that the pass `parameters` made inputs stay inputs: `freeze` puts them back before. The
    graph's metadata say what the student was, which text does not hold.
    """

    name = "take-student"
    bound = Changes()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outcome.count("nodes removed", take_out(graph))
        return outcome


def take_out(graph: Graph) -> int:
    """Leave the student as it was before it was joined, with the weights that it has now. Returns
    how many nodes went. Raises FeedError for a graph that no teacher was joined to.
    """
    if STUDENT not in graph.metadata:
        raise FeedError("no teacher is joined to this graph",
                        hint="text loses it: keep joined graphs in .taut files")  # fmt: skip
    state, before = read_state(graph), len(graph)
    graph.set_outputs({k: find_value(graph, at) for k, at in state["outputs"].items()})
    live, kept = reached(graph), set(state["kept"])
    for node in reversed(graph.nodes()):
        if node not in live and node.name not in kept and not graph.nx.succ[node]:
            graph.erase(node)
    for name, (outputs, mode) in state["attention"].items():
        node = graph.find(name)
        if node is not None and isinstance(node.op, Attention):
            graph.set_op(node, node.op.replace(outputs=outputs, qk_matmul_output_mode=mode))
    del graph.metadata[STUDENT]
    return before - len(graph)

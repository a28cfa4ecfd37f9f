"""A graph with the sizes of one call, and whether all of them are known beforehand."""

from __future__ import annotations

from ...ir import Graph, Node, TensorType
from ...ir.analysis.liveness import above


def bind(graph: Graph, types: list[TensorType]) -> Graph:
    """The graph with these input types. Some sizes may still not be known: those that depend on
    data."""
    if all(t.is_static for n in graph.nodes() if n is not graph.result for t in n.types):
        return graph
    twin = graph.copy()
    for node, made in zip(twin.inputs, types):
        if node.type != made:
            twin.set_input_type(node, made)
    twin.reinfer()
    return twin


def live_nodes(graph: Graph) -> set[Node]:
    """The nodes that some output needs."""
    return above(graph, (v.node for v in graph.outputs))


def has_all_sizes(graph: Graph) -> bool:
    """Whether every size that a run needs is known beforehand."""
    return all(t.is_static for node in live_nodes(graph) for t in node.types)

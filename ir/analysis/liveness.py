"""Which nodes others depend on."""

from __future__ import annotations

from collections.abc import Iterable

from ..graph import Graph, Node


def above(graph: Graph, nodes: Iterable[Node]) -> set[Node]:
    """These nodes, and all that they depend on."""
    found: set[Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(graph.nx.pred[node])
    return found

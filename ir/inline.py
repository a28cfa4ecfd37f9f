"""Fusions taken apart: the ops of a body in the place of the node that carries it."""

from __future__ import annotations

from collections.abc import Callable

from .graph import Graph, Node
from .ops.fusion import Fusion
from .ops.structure import Input


def inline(graph: Graph, node: Node) -> None:
    """Put the ops of a fusion's body in its place; they keep their names where these are free, and
    what makes the fusion's result takes its name if there is one result."""
    body: Graph = getattr(node.op, "body")  # noqa: B009  (ops do not share a base with a body)
    feeds = {x.name: v for x, v in zip(body.inputs, graph.operands(node)) if v is not None}
    made = list(graph.splice(body, feeds, before=node).values())
    for i, value in enumerate(made):
        graph.replace_all_uses(node[i], value)
    name = node.name
    graph.erase(node)
    if len(made) == 1 and not isinstance(made[0].node.op, Input) and graph.find(name) is None:
        graph.rename(made[0].node, name)


def inlined(graph: Graph, keep: Callable[[Node], bool] = lambda node: False) -> Graph:
    """The graph, or a copy of it with its fusions, but those to keep, taken apart."""
    names = [n.name for n in graph.nodes() if isinstance(n.op, Fusion) and not keep(n)]
    if not names:
        return graph
    twin = graph.copy()
    for name in names:
        inline(twin, twin[name])
    return twin

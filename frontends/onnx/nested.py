"""Graphs inside nodes: the bodies of branches and loops, walked without recursion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto

from ...ir import LimitError, Limits


def subgraphs(node: NodeProto) -> list[tuple[str, GraphProto]]:
    """The graphs that a node carries, by attribute."""
    return [(a.name, a.g) for a in node.attribute if a.type == AttributeProto.GRAPH]


def all_graphs(nodes: Iterable[NodeProto], limits: Limits | None = None) -> Iterator[GraphProto]:
    """Every graph inside these nodes, at any depth. Raises LimitError beyond `limits.depth`."""
    pending = [(g, 1) for n in nodes for _, g in subgraphs(n)]
    while pending:
        graph, depth = pending.pop()
        if limits is not None and depth > limits.depth:
            raise LimitError(
                f"bodies are nested deeper than {limits.depth}",
                hint="raise Limits.depth if the model is right",
            )
        yield graph
        pending += [(g, depth + 1) for n in graph.node for _, g in subgraphs(n)]


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes, then all inside their bodies."""
    top = list(nodes)
    yield from top
    for graph in all_graphs(top):
        yield from graph.node


def reads(node: NodeProto) -> Iterator[str]:
    """Names that a node reads: its inputs, and what its bodies take from around them."""
    yield from (name for name in node.input if name)
    pending = [(g, frozenset[str]()) for _, g in subgraphs(node)]
    while pending:
        graph, hidden = pending.pop()
        hidden |= {x.name for x in (*graph.input, *graph.initializer)}
        hidden |= {name for n in graph.node for name in n.output}
        inner = [name for n in graph.node for name in n.input]
        yield from (name for name in (*inner, *(o.name for o in graph.output))
                    if name and name not in hidden)  # fmt: skip
        pending += [(g, hidden) for n in graph.node for _, g in subgraphs(n)]

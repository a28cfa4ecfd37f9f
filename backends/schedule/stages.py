"""Graphs with sizes that only a run can tell, cut where those sizes become known.

head      every node whose sizes are known beforehand
breakers  nodes whose operands the head has and whose results' sizes depend on the data
tail      all that needs these
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Graph, Node, Value
from ...ir.ops.structure import Constant, Input
from .sizes import live_nodes


@dataclass(frozen=True)
class Stages:
    """
    head      makes `needed` of the graph's inputs (None: there is nothing to make)
    breakers  run one after the other, between the two
    tail      makes `leaves` of `enters` (None: nothing comes after)
    """

    head: Graph | None
    needed: tuple[Value, ...]
    breakers: tuple[Node, ...]
    tail: Graph | None
    enters: tuple[Value, ...]
    leaves: tuple[Value, ...]


def stages_of(graph: Graph) -> Stages:
    """Cut a graph in which some sizes are not known."""
    live = live_nodes(graph)
    order = [n for n in graph.nodes() if n in live and n is not graph.result]
    early: set[Node] = set()
    breakers: list[Node] = []
    late: list[Node] = []
    for node in order:
        ready = all(p in early for p in graph.nx.predecessors(node))
        if ready and all(t.is_static for t in node.types):
            early.add(node)
        else:
            (breakers if ready else late).append(node)
    outside = {*breakers, *late, graph.result}
    needed = [
        Value(n, i)
        for n in order
        if n in early and not isinstance(n.op, Input | Constant)
        for i in range(len(n.results))
        if any(u.node in outside for u in graph.uses(Value(n, i)))
    ]
    inside = [n for n in order if n in early and not isinstance(n.op, Input)]
    head = _part(graph, graph.inputs, inside, needed) if needed else None
    given = [Value(n) for n in graph.inputs] + needed
    given += [Value(n, i) for n in breakers for i in range(len(n.results))]
    readers = {*late, graph.result} if late else set()
    enters = [v for v in given if any(u.node in readers for u in graph.uses(v))]
    leaves = [v for v in dict.fromkeys(graph.outputs) if v.node in set(late)]
    tail = _part(graph, enters, late, leaves) if late else None
    return Stages(head, tuple(needed), tuple(breakers), tail, tuple(enters), tuple(leaves))


def _part(
    graph: Graph, inputs: Sequence[Node | Value], nodes: Sequence[Node], outputs: Sequence[Value]
) -> Graph:
    """These nodes as a graph of their own; the constants they read come with them."""
    part = Graph(graph.name)
    there: dict[Value, Value] = {}
    for x in inputs:
        value = x if isinstance(x, Value) else Value(x)
        name = value.node.name if value.index == 0 else f"{value.node.name}.{value.index}"
        made = part.add_input(part.fresh(name), value.type)
        there[value] = Value(made)
    for node in nodes:
        operands: list[Value | None] = []
        for v in graph.operands(node):
            if v is not None and v not in there:
                assert isinstance(v.node.op, Constant)
                there[v] = part.constant(v.node.op.value, v.node.name)
            operands.append(None if v is None else there[v])
        if isinstance(node.op, Constant):
            there.setdefault(Value(node), part.constant(node.op.value, node.name))
            continue
        copy = part.add(node.op, *operands, name=node.name)
        there |= {Value(node, i): Value(copy, i) for i in range(len(node.results))}
    part.set_outputs({f"y{k}": there[v] for k, v in enumerate(outputs)})
    return part

"""What is known of a graph before it runs: which nodes count, and which values follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ...ir import Array, Graph, Node, Value
from ...ir.interpret import run_node
from ...ir.op import has_body
from ...ir.ops.structure import Input
from .sizes import live_nodes

FOLD_LIMIT = 64 << 20  # bytes of a result computed while planning


@dataclass(frozen=True)
class Facts:
    """A graph whose sizes are all known; the nodes that some output needs (`live`); and the values
    that are known without running (`known`)."""

    graph: Graph
    live: frozenset[Node]
    known: Mapping[Value, Array]

    def array(self, value: Value | None) -> Array | None:
        """The contents of a value that is known without running."""
        return None if value is None else self.known.get(value)

    def shape(self, value: Value) -> tuple[int, ...]:
        return value.type.static_shape

    def is_known(self, node: Node) -> bool:
        """Whether all of its results are known."""
        return all(node[i] in self.known for i in range(len(node.results)))

    def live_results(self) -> list[Node]:
        """The nodes that count, in order, without the graph's end."""
        return [n for n in self.graph.nodes() if n in self.live and n is not self.graph.result]

    def to_run(self) -> list[Node]:
        """The nodes that a call has to compute, in order."""
        return [
            n for n in self.live_results() if not isinstance(n.op, Input) and not self.is_known(n)
        ]

    def only_reader(self, value: Value) -> Node | None:
        """The one node that reads a value, once."""
        uses = [u for u in self.graph.uses(value) if u.node in self.live]
        if len(uses) != 1 or self.graph.is_output(value):
            return None
        return uses[0].node


def facts_of(graph: Graph) -> Facts:
    """Constants, shape data with known numbers, and what can be computed from them."""
    live = frozenset(live_nodes(graph))
    known: dict[Value, Array] = {}
    for node in graph.nodes():
        if node not in live or isinstance(node.op, Input):
            continue
        for i in range(len(node.results)):
            value = node[i]
            ints = value.abstract.as_ints()
            if value.array is not None:
                known[value] = value.array
            elif ints is not None and value.type.is_static:
                made = np.array(ints, value.type.dtype.numpy)
                known[value] = made.reshape(value.type.static_shape)
        if all(node[i] in known for i in range(len(node.results))):
            continue
        operands = graph.operands(node)
        if (
            node.op.pure
            and not has_body(node.op)
            and operands
            and all(v is None or v in known for v in operands)
            and sum(t.nbytes for t in node.types if t.is_static) <= FOLD_LIMIT
        ):
            arrays = run_node(node, [None if v is None else known[v] for v in operands])
            known.update({node[i]: a for i, a in enumerate(arrays)})
    return Facts(graph, live, MappingProxyType(known))

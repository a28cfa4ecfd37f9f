"""How many bits each weight and each value with a grid has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...ir import Graph, Node, PassError, Value
from .place import Placement


@dataclass(frozen=True)
class Widths:
    """Bits of weights, of values with a grid, and of both at the edges: the first products, the
    last ones, and what these read (0: as elsewhere).

    The first layer reads few channels of raw data and the last one's errors are averaged by
    nothing, while both are small beside the rest, so that most works on 4 bits and fewer leave them
    at 8 (S. Esser and others, 2020).
    """

    weights: int = 8
    values: int = 8
    edges: int = 8

    def check(self) -> None:
        """Raises PassError for a number of bits that no grid has."""
        for what, bits in (("weights", self.weights), ("activations", self.values),
                           ("the edges", self.edges or 8)):  # fmt: skip
            if not 2 <= bits <= 8:
                raise PassError(f"bits of {what} are {bits}, which should lie within 2..8")

    def of(self, graph: Graph, placement: Placement) -> tuple[dict[Node, int], dict[Value, int]]:
        """Bits of the weight of each product, and of each value; those that share a grid have the
        most that one of them needs.
        """
        products = [n for n, r in placement.roles.items() if r.kind == "product"]
        edge = edges(graph, products) if self.edges else set[Node]()
        weights = {n: self.edges if n in edge else self.weights for n in products}
        values: dict[Value, int] = {}
        for members in placement.groups().values():
            readers = {u.node for v in members for u in graph.uses(v) if u not in placement.direct}
            wanted = [self.edges if n in edge else self.values for n in readers
                      if n in placement.roles and placement.roles[n].kind != "same"]  # fmt: skip
            values.update(dict.fromkeys(members, max(wanted, default=self.values)))
        return weights, values


def edges(graph: Graph, products: Collection[Node]) -> set[Node]:
    """Products that depend on no other product, and those on which none depends."""
    order, chosen = graph.nodes(), set(products)
    found: set[Node] = set()
    for nodes, near in ((order, graph.nx.pred), (order[::-1], graph.nx.succ)):
        beyond: set[Node] = set()
        for node in nodes:
            if any(n in chosen or n in beyond for n in near[node]):
                beyond.add(node)
        found |= chosen - beyond
    return found

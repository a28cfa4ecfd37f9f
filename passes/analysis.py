"""Analyses: facts computed from a graph, cached until it changes.

    @analysis("depth")
    def depth(graph: Graph) -> dict[str, int]: ...

    context.analyses.get("depth", graph)

A cached result holds for one `graph.version`. After a pass the manager keeps those that the pass
declares in `preserves`; in checking mode it computes them again and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..ir import Cost, Graph, PassError
from ..ir.analysis.cost import node_cost
from ..ir.errors import near

Compute = Callable[[Graph], Any]
C = TypeVar("C", bound=Compute)

_REGISTRY: dict[str, Compute] = {}


def analysis(name: str) -> Callable[[C], C]:
    """Decorator: make a function from a graph to something comparable known by a name."""

    def add(f: C) -> C:
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != f.__qualname__:
            raise ValueError(f"analysis {name} is declared twice")
        _REGISTRY[name] = f
        return f

    return add


def all_analyses() -> list[str]:
    return sorted(_REGISTRY)


class Analyses:
    """A cache of analyses of one graph at a time, by version."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._version = -1
        self._results: dict[str, Any] = {}
        self.hits = self.misses = 0

    def get(self, name: str, graph: Graph) -> Any:
        """The result for the graph as it is now. Raises PassError for an unknown analysis."""
        if self._graph is not graph or self._version != graph.version:
            self._results, self._graph, self._version = {}, graph, graph.version
        if name not in self._results:
            self.misses += 1
            self._results[name] = self.compute(name, graph)
        else:
            self.hits += 1
        return self._results[name]

    def compute(self, name: str, graph: Graph) -> Any:
        found = _REGISTRY.get(name)
        if found is None:
            raise PassError(f"no analysis is named {name!a}{near(name, list(_REGISTRY))}")
        return found(graph)

    def keep(self, graph: Graph, before: Results, preserved: tuple[str, ...]) -> list[str]:
        """Carry results from before a pass over to the graph as it is now; returns which."""
        if self._graph is graph and self._version == graph.version:
            results = self._results  # the pass asked for some after its last change
        else:
            results = {}
        kept = [k for k in preserved if k in before and k not in results]
        self._results = results | {k: before[k] for k in kept}
        self._graph, self._version = graph, graph.version
        return kept

    def snapshot(self, graph: Graph) -> Results:
        """The results that hold for the graph now."""
        if self._graph is graph and self._version == graph.version:
            return dict(self._results)
        return {}

    def check(self, graph: Graph, kept: list[str], who: str) -> None:
        """Compute the kept ones again. Raises PassError where one differs."""
        for name in kept:
            if self.compute(name, graph) != self._results[name]:
                raise PassError(
                    f"pass {who} declares that it preserves {name}, but the analysis now differs",
                    hint="take it out of `preserves`",
                )


Results = dict[str, Any]


@analysis("cost")
def cost(graph: Graph) -> dict[str, Cost]:
    """Cost of each node with static types, by name."""
    out: dict[str, Cost] = {}
    for node in graph.nodes():
        found = node_cost(graph, node) if node.types else None
        if found is not None:
            out[node.name] = found
    return out


@analysis("levels")
def levels(graph: Graph) -> dict[str, int]:
    """Length of the longest path from an input or constant to each node, by name."""
    out: dict[str, int] = {}
    for node in graph.nodes():
        out[node.name] = max((out[p.name] + 1 for p in graph.nx.pred[node]), default=0)
    return out

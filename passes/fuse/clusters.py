"""A graph cut into clusters that stay acyclic while they grow."""

from __future__ import annotations

from collections.abc import Iterable

from ...ir import Graph, Node

SEARCH = 4096  # clusters looked at to prove that a union closes no cycle


class Clusters:
    """Every node is in one cluster, at first its own.

    Each has a level greater than those of all it depends on, so that a search for a path from one
    to another need not go where levels are lower.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.of: dict[Node, int] = {}
        self.members: dict[int, set[Node]] = {}
        self.level: dict[int, int] = {}
        for i, node in enumerate(graph.nodes()):
            self.of[node] = i
            self.members[i] = {node}
            before = (self.level[self.of[p]] for p in graph.nx.predecessors(node))
            self.level[i] = 1 + max(before, default=0)

    def before(self, cluster: int) -> set[int]:
        """Clusters that this one reads from."""
        found = {self.of[p] for n in self.members[cluster] for p in self.graph.nx.predecessors(n)}
        return found - {cluster}

    def after(self, cluster: int) -> set[int]:
        found = {self.of[s] for n in self.members[cluster] for s in self.graph.nx.successors(n)}
        return found - {cluster}

    def closes_cycle(self, parts: Iterable[int]) -> bool:
        """Whether a path leads out of these clusters and back in, or a search takes too long."""
        parts = set(parts)
        lowest = min(self.level[c] for c in parts)
        todo = [c for part in parts for c in self.before(part)
                if c not in parts and self.level[c] > lowest]  # fmt: skip
        seen = set(todo)
        while todo:
            if len(seen) > SEARCH:
                return True
            for c in self.before(todo.pop()):
                if c in parts:
                    return True
                if c not in seen and self.level[c] > lowest:
                    seen.add(c)
                    todo.append(c)
        return False

    def join(self, parts: Iterable[int]) -> int:
        """Make one cluster of these, which must close no cycle."""
        parts = sorted(set(parts))
        kept, *rest = parts
        for part in rest:
            for node in self.members.pop(part):
                self.of[node] = kept
                self.members[kept].add(node)
            del self.level[part]
        # What follows a joined part may be too low even where `kept` stays at its level.
        self._raise([*self.after(kept), kept])
        return kept

    def _raise(self, todo: list[int]) -> None:
        """Give clusters, and what comes after them, levels above all that they read."""
        while todo:
            c = todo.pop()
            level = 1 + max((self.level[b] for b in self.before(c)), default=0)
            if level > self.level[c]:
                self.level[c] = level
                todo += self.after(c)

"""A Program that runs each node by its declaration's NumPy reference."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ...ir import DEFAULT_LIMITS, Array, FeedError, Graph, Limits, interpret, print_graph
from ...ir.analysis.cost import node_cost
from ...ir.graph import Node, Value
from ...ir.interpret import bind_feeds
from ...ir.ops.structure import Constant
from ..base import KernelTime, pick_form


class ReferenceProgram:
    """`ir.interpret` behind the backends' interface."""

    target = "reference (NumPy)"

    def __init__(self, graph: Graph, limits: Limits = DEFAULT_LIMITS) -> None:
        self.graph, self.limits = graph, limits

    @property
    def memory(self) -> int:
        """Bytes of the constants; everything else is made and dropped during a call."""
        return sum(n.op.value.nbytes for n in self.graph.nx if isinstance(n.op, Constant))

    @property
    def fallbacks(self) -> list[str]:
        """None: the reference is what is meant to run."""
        return []

    @property
    def facts(self) -> Mapping[str, int]:
        return {}

    def __call__(self, *arrays: Any, **named: Any) -> dict[str, Array]:
        feeds = bind_feeds(self.graph, arrays, named)
        return interpret(self.graph, feeds, limits=self.limits)

    def run(
        self, arrays: Sequence[Array], out: Sequence[Array | None] | None = None
    ) -> list[Array]:
        """The outputs in order; `out` is not used."""
        return list(self(*arrays).values())

    def profile(self, *arrays: Any, repeat: int = 1, **named: Any) -> list[KernelTime]:
        """One kernel a node: its op's name. Raises FeedError."""
        if repeat < 1:
            raise FeedError(f"a profile needs at least one call, not {repeat}")
        feeds = bind_feeds(self.graph, arrays, named)
        taken: defaultdict[Node, list[float]] = defaultdict(list)
        for _ in range(repeat):
            before = time.perf_counter()

            def watch(value: Value, _: Array) -> None:
                nonlocal before
                now = time.perf_counter()
                if value.index == 0:  # a node's results are seen together, the first one first
                    taken[value.node].append(now - before)
                before = now

            interpret(self.graph, feeds, limits=self.limits, watch=watch)
        return [
            KernelTime(n.op.name, (n.name,), statistics.median(taken[n]), _macs(self.graph, n))
            for n in self.graph.nodes()
            if n in taken and n.op.pure and not isinstance(n.op, Constant)
        ]

    def source(self, form: str = "source") -> str:
        """The graph's text."""
        forms = {"source": lambda: print_graph(self.graph, resources="none")}
        return pick_form(forms, form, self.target)


def compile(
    graph: Graph, *, threads: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> ReferenceProgram:
    """Run `graph` as it stands when called: nothing is copied or compiled. One thread runs it,
    beside those of NumPy's own libraries, whatever `threads` allows."""
    return ReferenceProgram(graph, limits)


def _macs(graph: Graph, node: Node) -> int:
    cost = node_cost(graph, node)
    return 0 if cost is None else cost.macs

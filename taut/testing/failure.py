"""What a check raises: the smallest graph found that fails."""

from __future__ import annotations

from collections.abc import Mapping

from taut.ir import Graph, print_graph
from taut.ir.op import Array

Feeds = Mapping[str, Array]


class CheckFailure(AssertionError):
    """The smallest graph found that fails, as text in `.text`; `.feeds` were its inputs."""

    def __init__(self, reason: str, graph: Graph, inputs: Feeds) -> None:
        self.reason, self.graph, self.feeds = reason, graph, dict(inputs)
        self.text = print_graph(graph)
        lines = [f"  {k} = {v.dtype}{list(v.shape)} {v.reshape(-1)[:8].tolist()}"
                 for k, v in self.feeds.items()]  # fmt: skip
        parts = [reason, self.text.rstrip(), "inputs (first elements):", *lines]
        super().__init__("\n".join(parts))

"""What a graph's metadata tells of its training: which constants stay, and which of their rows."""

from __future__ import annotations

import json

from .graph import Graph

BUFFERS = "torch.buffers"
"""Key of a JSON list: the float constants that are no parameters, whatever reads them."""
PADDING = "torch.padding"
"""Key of a JSON object: the row that is not trained of an embedding's table, by its name."""


def buffer_names(graph: Graph) -> frozenset[str]:
    """Constants that are no parameters, as far as the metadata says."""
    found = _read(graph, BUFFERS)
    return frozenset(n for n in found if isinstance(n, str)) if isinstance(found, list) else \
        frozenset()  # fmt: skip


def padding_rows(graph: Graph) -> dict[str, int]:
    """The row that is not trained of each table that has one."""
    found = _read(graph, PADDING)
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if type(v) is int and 0 <= v < 1 << 62}


def _read(graph: Graph, key: str) -> object:
    try:
        return json.loads(graph.metadata.get(key, "null"))
    except (ValueError, RecursionError):
        return None

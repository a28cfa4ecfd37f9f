"""How the backends hang together: no circles of imports, rooms in order, handlers in order."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest
from taut.backends.cpu.lower.registry import HANDLERS, lowers

ROOT = Path(__file__).parents[2]
ROOMS = ("codegen", "kernels", "nests", "lower", "runtime")
"""Of backends/cpu: each imports only from itself and those before it."""


def imports() -> nx.DiGraph:
    """Which module of backends/ imports which, wherever in it: lazily or for checkers too."""
    paths = {p.relative_to(ROOT).with_suffix("").parts: p for p in ROOT.glob("backends/**/*.py")}
    modules = {parts[:-1] if parts[-1] == "__init__" else parts: p for parts, p in paths.items()}
    made: nx.DiGraph = nx.DiGraph()
    for parts, path in modules.items():
        package = parts if path.name == "__init__.py" else parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                base += tuple((node.module or "").split(".")) if node.module else ()
                for name in node.names:
                    target = (*base, name.name) if (*base, name.name) in modules else base
                    if target in modules and target != parts:
                        made.add_edge(".".join(parts), ".".join(target))
    return made


def test_there_are_no_circles() -> None:
    found = [c for c in nx.strongly_connected_components(imports()) if len(c) > 1]
    assert not found


def test_schedules_know_no_backend() -> None:
    for start, end in imports().edges:
        if start.startswith("backends.schedule"):
            assert end.startswith("backends.schedule"), f"{start} imports {end}"


def test_rooms_import_in_order() -> None:
    def room(module: str) -> int | None:
        parts = module.split(".")
        inside = parts[:2] == ["backends", "cpu"] and len(parts) > 3
        return ROOMS.index(parts[2]) if inside else None

    for start, end in imports().edges:
        here, there = room(start), room(end)
        if here is not None and there is not None:
            assert there <= here, f"{start} imports {end}"


def test_two_handlers_of_one_priority_are_refused() -> None:
    with pytest.raises(ValueError, match="relu has two handlers of priority 0"):
        lowers("relu")(lambda low, node: False)
    assert all(list(found) == sorted(found, reverse=True) for found in HANDLERS.values())


def test_the_order_of_imports_decides_nothing() -> None:
    """A process that imports the files the other way round asks the same handlers."""
    script = """
import json, pkgutil
plain = pkgutil.iter_modules
pkgutil.iter_modules = lambda *where: reversed(list(plain(*where)))
import taut.backends.cpu
from taut.backends.cpu.lower.registry import HANDLERS
print(json.dumps({op: [f"{h.__module__}.{h.__name__}" for h in by.values()]
                  for op, by in HANDLERS.items()}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    here = {op: [f"{h.__module__}.{h.__name__}" for h in by.values()]
            for op, by in HANDLERS.items()}  # fmt: skip
    assert json.loads(done.stdout) == here and len(here) > 100
    assert [h.rsplit(".", 2)[1] for h in here["gather"]] == ["index", "shape"]

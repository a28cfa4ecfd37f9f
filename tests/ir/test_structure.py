"""How the files of ir/ hang together: one knot of types, and no other circle of imports."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[2]
KNOT = {"ir.build", "ir.graph", "ir.node", "ir.op", "ir.ops.structure"}
"""Graphs hold ops, whose methods are given builders of graphs: they know each other by type."""


def imports() -> nx.DiGraph:
    """Which module imports which, wherever in it: lazily or for checkers too."""
    paths = {p.relative_to(ROOT).with_suffix("").parts: p for p in ROOT.glob("ir/**/*.py")}
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
                    made.add_edge(".".join(parts), ".".join(target))
    return made


def test_only_graphs_ops_and_builders_know_each_other():
    found = [c for c in nx.strongly_connected_components(imports()) if len(c) > 1]
    assert found == [KNOT]


def test_an_op_knows_graphs_by_type_only():
    tree = ast.parse((ROOT / "ir/op.py").read_text())
    run = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
    lazy = [n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)
            if isinstance(n, ast.ImportFrom)]  # fmt: skip
    assert not {"build", "graph", "node"} & {str(n.module) for n in [*run, *lazy]}

"""Ops are told apart by their classes and traits, not by their names.

Outside an op's own file, a name of the registry may be compared with, or stand in a list of
others, only where `names.txt` says why. A line there that is no longer needed fails as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from taut.ir import all_ops
from taut.ir.ops.structure import Constant

ROOT = Path(__file__).parents[1]
FOLDERS = ("ir", "passes", "backends", "frontends", "taut")
LIST = Path(__file__).with_name("names.txt")
OWN = Constant.__module__.rpartition(".")[0]
NAMES = {c.name for c in all_ops() if c.__module__.startswith(OWN)}
MODES = {"none", "sum", "mean", "max", "min", "add", "mul", "constant", "and", "or", "not"}
"""Words that are settings of ops as well: a list of these alone is none of ops."""


def words(node: ast.expr) -> list[str]:
    """The strings of a literal or of a literal collection; none where it holds anything else that
    is no string."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        parts = [words(e) for e in node.elts if not isinstance(e, ast.Starred)]
        return [w for part in parts for w in part] if all(parts) else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        return words(node.args[0]) if node.func.id in ("frozenset", "set", "tuple") else []
    return []


def names(node: ast.expr) -> list[str]:
    """The ops that an expression names, if it names nothing else."""
    found = words(node)
    return found if all(w in NAMES for w in found) else []


class Finder(ast.NodeVisitor):
    """Comparisons of an op's name with literals, and collections of ops' names."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.variables: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outside = set(self.variables)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Assign):
                self.assigned(inner)
        self.generic_visit(node)
        self.variables = outside

    def assigned(self, node: ast.Assign) -> None:
        """Note variables that hold names: `name = node.op.name`, `op, name = op, op.name`."""
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts))
            for left, right in pairs:
                held = any(self.is_name(n) for n in ast.walk(right) if isinstance(n, ast.Attribute))
                if isinstance(left, ast.Name) and held and not isinstance(right, ast.Call):
                    self.variables.add(left.id)

    def is_name(self, node: ast.expr) -> bool:
        """Whether an expression is an op's text name."""
        if isinstance(node, ast.Subscript):
            return self.is_name(node.value)
        if isinstance(node, ast.Name):
            return node.id in self.variables
        return isinstance(node, ast.Attribute) and node.attr == "name" and is_op(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for a, b in pairwise(sides):
            found = (self.is_name(a) and names(b)) or (self.is_name(b) and names(a))
            if found:
                self.note(node.lineno, found)
                return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        f = node.func
        ends = isinstance(f, ast.Attribute) and f.attr in ("startswith", "endswith")
        if isinstance(f, ast.Attribute) and ends and self.is_name(f.value):
            self.note(node.lineno, [f"{f.attr} {w}" for arg in node.args for w in words(arg)])
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        self.collection(node, [w for k in node.keys if k is not None for w in names(k) or [""]])

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self.collection(node, names(node))

    def visit_List(self, node: ast.List) -> None:
        self.collection(node, names(node))

    def visit_Set(self, node: ast.Set) -> None:
        self.collection(node, names(node))

    def collection(self, node: ast.expr, found: list[str]) -> None:
        if len(found) > 1 and "" not in found and not set(found) <= MODES:
            self.note(node.lineno, found)
        else:
            self.generic_visit(node)

    def note(self, line: int, found: list[str]) -> None:
        text = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        self.found.setdefault(text, line)


def is_op(node: ast.expr) -> bool:
    """Whether an expression is an op or its class, by how such variables are called."""
    if isinstance(node, ast.Name):
        return node.id in ("op", "cls", "c")
    return isinstance(node, ast.Attribute) and node.attr in ("op", "cls")


def findings(source: str) -> dict[str, int]:
    """What names ops in a source, and the first line where it does."""
    finder = Finder()
    finder.visit(ast.parse(source))
    return finder.found


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def explained() -> dict[tuple[str, str], str]:
    """The list: (file or folder, what stands there; `*` for anything) -> why."""
    lines = [x for x in LIST.read_text().splitlines() if x and not x.startswith("#")]
    rows = [[part.strip() for part in line.split("|")] for line in lines]
    return {(place, text): why for place, text, why in rows}


def test_ops_are_not_told_apart_by_name() -> None:
    known, needed, missing = explained(), set[tuple[str, str]](), list[str]()
    assert all(known.values())
    folders = {place for place, text in known if text == "*"}
    for path in files():
        where = path.relative_to(ROOT).as_posix()
        for text, line in findings(path.read_text()).items():
            folder = next((f for f in folders if where.startswith(f)), None)
            key = (where, text) if folder is None else (folder, "*")
            needed.add(key)
            if key not in known:
                missing.append(f"{where}:{line}: {text}")
    assert not missing, "ask for a class or a trait, or give a reason in tests/names.txt: " + \
        "\n".join(missing)  # fmt: skip
    assert not known.keys() - needed, "lines of tests/names.txt that are no longer needed"


@pytest.mark.parametrize("source, text", [
    ('node.op.name == "conv"', "conv"),
    ('if op.name not in ("relu", "abs"): pass', "relu, abs"),
    ('def f(node):\n name = node.op.name\n return "pad" == name', "pad"),
    ('def f(m):\n names = [m.op.name]\n return names[0] in {"cast", "where"}', "cast, where"),
    ('MOVES = frozenset(("reshape", "flatten"))', "reshape, flatten"),
    ('KNOWN = {"sigmoid": 1, "tanh": 2, "erf": 3, "exp": 4}', "sigmoid, tanh, erf and 1 more"),
    ('op.name.endswith("_integer")', "endswith _integer"),
    ('cls.name in (*OTHERS, "identity")', "identity"),
])  # fmt: skip
def test_names_are_found(source: str, text: str) -> None:
    assert list(findings(source)) == [text]


@pytest.mark.parametrize("source", [
    'node.name == "conv"', 'self.reduction in ("sum", "mean")', 'mode == "constant"',
    'b.op("max", "min")', '["x", "relu"]', 'isinstance(node.op, Conv)',
    'def f(x):\n name = str(x)\n return name == "clip"',
])  # fmt: skip
def test_what_is_no_name_of_an_op_is_left(source: str) -> None:
    assert findings(source) == {}

"""Small faults planted in the source of rewrites and passes: one change of one node each.

Planted is what can make a pass compute something else. What can only let it refuse more (a
condition added, a bound drawn tighter) or only costs time (how often a value is read, whether a
weight is shared) leaves every result right, so that no comparison of results can tell it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TELLING = {"missed", "note", "remark", "applied", "count", "warn", "report"}
"""Calls that only say what was done."""
DECLARED = {"name", "bound", "seeds", "families", "nested", "narrows", "preserves", "__all__"}
SWAPS = {"min": "max", "max": "min", "any": "all", "all": "any", "zeros": "ones", "sorted": "list",
         "zeros_like": "ones_like", "inverse": "tuple", "reduce_min": "reduce_max",
         "reduce_max": "reduce_min", "floor": "ceil", "begin": "end"}  # fmt: skip
COMMUTING = {"add", "mul", "max", "min", "sum", "logical_and", "minimum", "maximum", "any_of",
             "differs", "same_shape", "array_equal", "op"}  # fmt: skip
PROFIT = {"uses", "use_count", "shared", "room", "better", "gate", "size", "shorter"}
"""Names in conditions that ask what a change gains, not whether it is right."""
WEIGHING = {"best_order", "better", "room", "_cost", "shorter", "adopt"}
"""Functions that only say whether a change pays, or what is remembered."""
QUIET_KEYWORDS = {"uses", "who", "all", "name", "before", "into", "reason", "rtol", "atol", "over",
                  "divide", "invalid", "dtype"}  # fmt: skip

Make = Callable[[], ast.AST]


@dataclass(frozen=True)
class Fault:
    """One change: the `variant`-th at the `index`-th node of a file, as its tree is walked."""

    file: str
    where: str  # Class.method
    kind: str
    before: str
    after: str
    line: int
    index: int
    variant: int
    nth: int = 0  # among equal changes in one function

    @property
    def key(self) -> str:
        """What it is called whatever else stands in the file."""
        again = f" #{self.nth + 1}" if self.nth else ""
        return f"{self.file} {self.where}: {self.before}  =>  {self.after}{again}"


def faults(path: Path, root: Path) -> list[Fault]:
    """Every fault that can be planted in a file."""
    tree = ast.parse(path.read_text())
    found: list[Fault] = []
    seen: dict[tuple[str, str, str], int] = {}
    for index, node, where, quiet, way in walk(tree):
        if quiet:
            continue
        for variant, (kind, make) in enumerate(variants(node, way)):
            before, after = text(node), text(make())
            if before == after:
                continue
            triple = where, before, after
            nth = seen[triple] = seen.get(triple, -1) + 1
            found.append(Fault(str(path.relative_to(root)), where, kind, before, after,
                               getattr(node, "lineno", 0), index, variant, nth))  # fmt: skip
    return found


def planted(path: Path, fault: Fault) -> ast.Module:
    """The file's tree with a fault in it."""
    tree = ast.parse(path.read_text())
    for index, node, _, _, way in walk(tree):
        if index == fault.index:
            _, make = list(variants(node, way))[fault.variant]
            made = ast.copy_location(make(), node)
            changed = _Replace(node, made).visit(tree)
            assert isinstance(changed, ast.Module)
            return ast.fix_missing_locations(changed)
    raise ValueError(f"no such fault: {fault.key}")


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def text(node: ast.AST) -> str:
    """A node as code on one line, of an `if` only its condition."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(node).split())[:160]


def walk(tree: ast.Module) -> Iterator[tuple[int, ast.AST, str, bool, int]]:
    """Nodes in order, each with its number, the function that it stands in, whether a change there
    could not matter (types, messages, declarations), and what it says where it is a condition: 1
    lets the pass go on, -1 makes it refuse, 0 is neither."""
    count = 0
    stack: list[tuple[ast.AST, str, bool, int, bool]] = [(tree, "", False, 0, False)]
    while stack:
        node, where, quiet, way, boolean = stack.pop()
        if way and isinstance(node, ast.expr) and _about_profit(node):
            quiet = True
        yield count, node, where, quiet or not where, way
        count += 1
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            where = f"{where}.{node.name}".lstrip(".")
            quiet = quiet or node.name in WEIGHING
        if isinstance(node, ast.FunctionDef):
            boolean = isinstance(node.returns, ast.Name) and node.returns.id == "bool"
        quiet = quiet or silent(node)
        for field, child in reversed(list(_children(node))):
            loud = field not in ("annotation", "returns", "decorator_list", "bases", "msg")
            stack.append((child, where, quiet or not loud, _way(node, field, way, boolean),
                          boolean))  # fmt: skip


def _way(node: ast.AST, field: str, way: int, boolean: bool) -> int:
    match node:
        case ast.If(body=body) if field == "test":
            return -1 if _refuses(body) else 0
        case ast.Return() if boolean:
            return 1
        case ast.BoolOp():
            return way
        case ast.UnaryOp(op=ast.Not()):
            return -way
        case ast.Call(func=ast.Name(id="bool" | "all" | "any")):
            return way
        case ast.GeneratorExp() if field == "elt":
            return way
    return 0


def _about_profit(node: ast.expr) -> bool:
    names = {n.attr if isinstance(n, ast.Attribute) else n.id for n in ast.walk(node)
             if isinstance(n, ast.Attribute | ast.Name)}  # fmt: skip
    compares = isinstance(node, ast.Compare | ast.Name | ast.Attribute | ast.Call | ast.UnaryOp)
    return compares and bool(names & PROFIT)


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield field, item


def silent(node: ast.AST) -> bool:
    """Whether all inside a node is of no account for what a pass makes."""
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Raise() | ast.Assert():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=attr))) if attr in TELLING:
            return True
        case ast.Call(func=ast.Attribute(attr="fail")):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]) if name in DECLARED:
            return True
        case ast.Call(func=ast.Attribute(attr="gate")) | ast.keyword(arg="uses"):
            return True
        case ast.IfExp(body=a, orelse=b) if _is_text(a) or _is_text(b):
            return True  # one reason or another
    return False


def variants(node: ast.AST, way: int) -> Iterator[tuple[str, Make]]:
    """The changes that a node may suffer, each with its kind; `way` as `walk` tells it."""
    match node:
        case ast.If(test=test, orelse=[], body=body) if _refuses(body) and not _all_profit(test):
            yield "guard dropped", lambda: _with(node, test=ast.Constant(False))
        case ast.IfExp(body=a, orelse=b) if not silent(node):
            yield "branches swapped", lambda: _with(node, body=b, orelse=a)
        case ast.BoolOp(op=op, values=values):
            loosens = (isinstance(op, ast.And) and way > 0) or (isinstance(op, ast.Or) and way < 0)
            for i in range(len(values) if loosens or not way else 0):
                if _about_profit(values[i]):
                    continue
                rest = values[:i] + values[i + 1 :]
                yield "condition dropped", lambda rest=rest: rest[0] if len(rest) == 1 else \
                    _with(node, values=rest)  # fmt: skip
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            wider, other = _COMPARED[type(op)]
            loose = (ast.Lt, ast.Gt) if way > 0 else (ast.LtE, ast.GtE)
            bound = isinstance(op, loose)
            if wider is not None and (bound or not way):
                yield "off by one", lambda: _with(node, ops=[wider()])
            if not (way and isinstance(op, ast.Is | ast.IsNot)):
                yield "comparison", lambda: _with(node, ops=[other()])
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            yield "negation dropped", lambda: copy.deepcopy(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            yield "sign dropped", lambda: copy.deepcopy(inner)
        case ast.BinOp(op=op, left=a, right=b):
            if type(op) in _ARITHMETIC and not _joins(node):
                instead = _ARITHMETIC[type(op)]
                yield "arithmetic", lambda: _with(node, op=instead())
            if isinstance(op, ast.Sub | ast.Div | ast.MatMult):
                yield "operands swapped", lambda: _with(node, left=b, right=a)
        case ast.Constant(value=bool(v)):
            yield "constant", lambda: ast.Constant(not v)
        case ast.Constant(value=int(n)):
            yield "off by one", lambda: ast.Constant(n + 1)
            if n > 0:
                yield "off by one", lambda: ast.Constant(n - 1)
        case ast.Constant(value=float(f)):
            yield "constant", lambda: ast.Constant(f * 2 if f else 1.0)
        case ast.Call():
            yield from _of_call(node)


def _all_profit(test: ast.expr) -> bool:
    return _asks_gate(test) or _about_profit(test) or (
        isinstance(test, ast.BoolOp) and any(map(_about_profit, test.values)))  # fmt: skip


def _of_call(node: ast.Call) -> Iterator[tuple[str, Make]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    args, keywords = node.args, node.keywords
    plain = not any(isinstance(a, ast.Starred) for a in args)
    still = COMMUTING | {"isinstance", "getattr", "zip", "setattr"}
    if plain and len(args) >= 2 and name not in still:
        for i in range(len(args) - 1):
            order = [*args[:i], args[i + 1], args[i], *args[i + 2 :]]
            yield "operands swapped", lambda order=order: _with(node, args=order)
    for k in keywords:
        if k.arg is not None and k.arg not in QUIET_KEYWORDS:
            rest = [other for other in keywords if other is not k]
            yield "keyword dropped", lambda rest=rest: _with(node, keywords=rest)
    if name in SWAPS and args:
        yield "another function", lambda: _with(node, func=_renamed(node.func, SWAPS[name]))


def _renamed(func: ast.expr, name: str) -> ast.AST:
    if isinstance(func, ast.Attribute):
        return _with(func, attr=name)
    return ast.Name(name, ast.Load())


_COMPARED: dict[type, tuple[type | None, type]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (None, ast.NotEq), ast.NotEq: (None, ast.Eq),
    ast.Is: (None, ast.IsNot), ast.IsNot: (None, ast.Is), ast.In: (None, ast.NotIn),
    ast.NotIn: (None, ast.In),
}  # fmt: skip
_ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip


def _with(node: ast.AST, **changes: object) -> ast.AST:
    twin = copy.copy(node)
    for field, value in changes.items():
        setattr(twin, field, value)
    return twin


def _refuses(body: list[ast.stmt]) -> bool:
    """Whether a body does nothing but say no."""
    if len(body) != 1:
        return False
    match body[0]:
        case ast.Continue() | ast.Return(value=None) | ast.Return(value=ast.JoinedStr()):
            return True
        case ast.Return(value=ast.Constant(value=v)):
            return v is None or v is False or isinstance(v, str)
        case ast.Return(value=ast.Call(func=ast.Attribute(attr="fail"))):
            return True
        case ast.Raise(exc=ast.Call(func=ast.Name(id="Unfit" | "Refusal"))):
            return True
    return False


def _asks_gate(node: ast.AST) -> bool:
    """Whether a condition asks the bisection counter, which lets everything through."""
    return any(isinstance(n, ast.Attribute) and n.attr == "gate" for n in ast.walk(node))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def _joins(node: ast.BinOp) -> bool:
    """Whether `+` joins texts or tuples, which no arithmetic replaces."""
    return any(isinstance(n, ast.Tuple) or isinstance(getattr(n, "value", None), str)
               for n in (node.left, node.right))  # fmt: skip

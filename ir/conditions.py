"""Conditions on sizes: what must hold of a graph's dimension symbols before it may run.

    graph @main(%x: f32[n,3,h,w]) -> (%y: f32[n,3,h,w]) where "h <= 512", "w % 4 != 0" { ...

An importer adds one where it, or the exporter before it, has taken a branch that other sizes would
not have taken. The language is a small part of Python's expressions:

    condition = condition and condition | condition or condition | not condition
              | size == size             (and != < <= > >=)
    size      = symbol | number | size + size     (and - * / // % and ** with a small number)
              | -size | min(size, ...)            (and max abs float floor ceil trunc round sqrt)

Whole numbers are exact, numbers with a point are doubles, and `//` and `%` round down, as Python
has them. A condition that cannot be computed (a division by 0) does not hold.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import ParseError, VerifyError

LONGEST = 2000
"""Characters of one condition."""
PROPERTY = "taut.conditions"
"""Key under which a file of another format carries a graph's conditions, as a JSON list."""
_OLD = "largest_sizes"  # "sequence=512,batch=16", as files of before have it
_LARGEST = 4096  # bits of a whole number on the way
_POWER = 8
_WHOLE = 1 << 63

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_CALLS: dict[str, Callable[..., Any]] = {
    "min": min, "max": max, "abs": abs, "float": float, "floor": math.floor, "ceil": math.ceil,
    "trunc": math.trunc, "round": round, "sqrt": math.sqrt,
}  # fmt: skip
_SEVERAL = ("min", "max")


@dataclass(frozen=True)
class Condition:
    """One condition, `text` in the form in which Python prints it. Make it with `condition`."""

    text: str
    symbols: frozenset[str] = field(compare=False)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it holds for these sizes, which name each of its symbols."""
        try:
            return bool(_value(_parsed(self.text), sizes))
        except (ArithmeticError, ValueError, TypeError):  # the last of complex numbers
            return False

    def bound(self, sizes: Mapping[str, int | str]) -> Condition | None:
        """The condition with numbers, or other symbols, in the place of some of its symbols; None
        where that holds. Raises VerifyError where it does not.
        """
        if self.symbols and not self.symbols & sizes.keys():
            return self
        made = condition(ast.unparse(_Rename(sizes).visit(ast.parse(self.text, mode="eval"))))
        if made.symbols:
            return made
        if not made.holds({}):
            known = {s: n for s, n in sizes.items() if s in self.symbols and isinstance(n, int)}
            raise VerifyError(self.broken(known))
        return None

    def broken(self, sizes: Mapping[str, int]) -> str:
        """That these sizes break it, in words."""
        given = [f"{s} is {sizes[s]}" for s in sorted(self.symbols) if s in sizes]
        match _parsed(self.text):
            case ast.Compare(ast.Name(), [ast.LtE()], [ast.Constant(most)]):
                need = f"takes {most} at most"
            case ast.Compare(ast.Name(), [ast.GtE()], [ast.Constant(least)]):
                need = f"takes {least} at least"
            case _:
                need = f"needs {self.text}"
        return f"{' and '.join(given) or 'a size is wrong'}, where the model {need}"


def condition(text: str) -> Condition:
    """A condition from its text. Raises ParseError."""
    tree = _tree(text)
    symbols = _check(tree, text)
    return Condition(ast.unparse(tree), symbols)


def stored(metadata: dict[str, str]) -> list[str]:
    """Takes the conditions out of a file's metadata. Raises ParseError where they are damaged."""
    old = [part.split("=") for part in metadata.pop(_OLD, "").split(",")]
    made = [f"{p[0].strip()} <= {p[1].strip()}" for p in old if len(p) == 2]
    text = metadata.pop(PROPERTY, "[]")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"the property {PROPERTY} is damaged") from error
    if not isinstance(found, list) or not all(isinstance(c, str) for c in found):
        raise ParseError(f"the property {PROPERTY} is no list of conditions")
    return made + found


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    return _tree(text)


def _tree(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ParseError(f"a condition has {len(text)} characters, over the limit of {LONGEST}")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ParseError(f"the condition {text[:80]!a} cannot be read") from error


def _check(tree: ast.expr, text: str) -> frozenset[str]:
    """The symbols of a condition. Raises ParseError for what is not of the language."""
    if not isinstance(tree, ast.Compare | ast.BoolOp) and not _is_not(tree):
        raise ParseError(f"{text[:80]!a} is no condition: it compares nothing")
    symbols: set[str] = set()
    pending = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        inner = _parts(node)
        if inner is None or depth > 100:
            raise ParseError(f"the condition {text[:80]!a} has a part that is not allowed")
        if isinstance(node, ast.Name):
            symbols.add(node.id)
        pending += [(n, depth + 1) for n in inner]
    return frozenset(symbols)


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _parts(node: ast.expr) -> list[ast.expr] | None:
    """What an expression consists of, None for one that the language does not have."""
    match node:
        case ast.Name():
            return []
        case ast.Constant(bool()):
            return None
        case ast.Constant(int() | float() as value):
            return [] if abs(value) <= _WHOLE else None
        case ast.BinOp(left, ast.Pow(), ast.Constant(int() | float() as power)):
            return [left] if 0 <= power <= _POWER else None
        case ast.BinOp(left, op, right):
            return [left, right] if type(op) in _BINARY and type(op) is not ast.Pow else None
        case ast.UnaryOp(op, operand):
            return [operand] if isinstance(op, ast.USub | ast.Not) else None
        case ast.Compare(left, ops, others):
            return [left, *others] if all(type(o) in _COMPARE for o in ops) else None
        case ast.BoolOp(_, values):
            return values
        case ast.Call(ast.Name(name), arguments, []) if name in _CALLS:
            fits = len(arguments) > 1 if name in _SEVERAL else len(arguments) == 1
            return arguments if fits else None
    return None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> Any:
    match node:
        case ast.Name(name):
            return sizes[name]
        case ast.Constant(value):
            return value
        case ast.BinOp(left, op, right):
            a, b = _value(left, sizes), _value(right, sizes)
            if isinstance(op, ast.Pow | ast.Mult) and _bits(a) * max(_bits(b), 1) > _LARGEST**2:
                raise OverflowError("a number is too large")
            return _small(_BINARY[type(op)](a, b))
        case ast.UnaryOp(op, operand):
            found = _value(operand, sizes)
            return not found if isinstance(op, ast.Not) else -found
        case ast.Compare(left, ops, others):
            values = [_value(n, sizes) for n in (left, *others)]
            return all(_COMPARE[type(o)](a, b) for o, a, b in zip(ops, values, values[1:]))
        case ast.BoolOp(op, parts):
            pick = all if isinstance(op, ast.And) else any
            return pick(_value(n, sizes) for n in parts)
        case ast.Call(ast.Name(name), arguments):
            return _CALLS[name](*(_value(n, sizes) for n in arguments))
    raise AssertionError("checked when it was made")


def _bits(x: Number) -> int:
    return x.bit_length() if isinstance(x, int) else 64


def _small(x: Number) -> Number:
    if isinstance(x, int) and x.bit_length() > _LARGEST:
        raise OverflowError("a number is too large")
    return x


class _Rename(ast.NodeTransformer):
    def __init__(self, sizes: Mapping[str, int | str]) -> None:
        self.sizes = sizes

    def visit_Call(self, node: ast.Call) -> ast.Call:
        node.args = [self.visit(n) for n in node.args]  # the function's name is no symbol
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        new = self.sizes.get(node.id)
        if new is None:
            return node
        return ast.Name(new) if isinstance(new, str) else ast.Constant(new)

"""Patterns over graphs, written as code that looks like what they match.

    p.relu(p.conv(x, p.const(w), p.optional(b), uses=1, into="conv"))

Inside a rewrite's `pattern(self, p, x, w, b)` each parameter is a variable that stands for any
value, the same one wherever it occurs. `p.<op>(...)` matches a node of that op by its operands;
commutative ops match in either order; a number matches a constant all of whose elements are it.
Operands that are not written must be left out in the graph as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import Graph, Node, Op, Trait, Value, op_class


class Pattern:
    """Base of all patterns."""


@dataclass(frozen=True)
class Var(Pattern):
    name: str


@dataclass(frozen=True)
class ConstPattern(Pattern):
    """A constant; with `value`, one whose elements all are that number."""

    name: str | None = None
    value: float | None = None
    scalar: bool = False


@dataclass(frozen=True)
class OptionalPattern(Pattern):
    of: Pattern


@dataclass(frozen=True)
class Rest(Pattern):
    name: str


@dataclass(frozen=True)
class AnyOf(Pattern):
    choices: tuple[Pattern, ...]


@dataclass(frozen=True)
class OpPattern(Pattern):
    ops: frozenset[type[Op]]
    operands: tuple[Pattern, ...]
    uses: int | None = None
    into: str | None = None
    attributes: tuple[tuple[str, Any], ...] = ()
    commutes: bool = False


Make = Callable[..., OpPattern]


class PatternBuilder:
    """The `p` of a pattern. Attributes of the op are given by keyword, besides

    `uses=1`: the node is read that often in all (else the miss is remarked on);
    `into="conv"`: the node is kept in the match under this name.
    """

    def __getattr__(self, name: str) -> Make:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.op(name)

    def op(self, *ops: str | type[Op]) -> Make:
        """Any of these ops: `p.op(Max, Min)(x, c)`, or by their text names."""
        classes = frozenset(op_class(o) if isinstance(o, str) else o for o in ops)

        def make(
            *operands: Any, uses: int | None = None, into: str | None = None, **attributes: Any
        ) -> OpPattern:
            made = tuple(_pattern(o) for o in operands)
            commutes = len(made) == 2 and all(Trait.COMMUTATIVE in c.traits for c in classes)
            given = tuple(sorted(attributes.items()))
            return OpPattern(classes, made, uses, into, given, commutes)

        return make

    def const(self, variable: Pattern | None = None) -> ConstPattern:
        """A constant of any shape."""
        return ConstPattern(variable.name if isinstance(variable, Var) else None)

    def scalar(self, variable: Pattern | None = None) -> ConstPattern:
        """A constant of one element, or of many equal ones."""
        name = variable.name if isinstance(variable, Var) else None
        return ConstPattern(name, scalar=True)

    def optional(self, pattern: Any) -> OptionalPattern:
        """An operand that may be left out; its variables are None then."""
        return OptionalPattern(_pattern(pattern))

    def rest(self, variable: Pattern) -> Rest:
        """All further operands, as a tuple."""
        assert isinstance(variable, Var)
        return Rest(variable.name)

    def any_of(self, *patterns: Any) -> AnyOf:
        """The first of these that fits (and passes the check)."""
        return AnyOf(tuple(_pattern(q) for q in patterns))


def _pattern(x: Any) -> Pattern:
    if isinstance(x, Pattern):
        return x
    if isinstance(x, int | float):
        return ConstPattern(value=float(x), scalar=True)
    raise TypeError(f"{type(x).__name__} is no pattern")


def variables(pattern: Pattern) -> list[str]:
    """Names that a pattern binds."""
    match pattern:
        case Var(name) | Rest(name):
            return [name]
        case ConstPattern(name):
            return [name] if name else []
        case OptionalPattern(of):
            return variables(of)
        case AnyOf(choices):
            return [v for c in choices for v in variables(c)]
        case OpPattern():
            inner = [v for o in pattern.operands for v in variables(o)]
            return inner + ([pattern.into] if pattern.into else [])
    return []


def depth(pattern: Pattern) -> int:
    """Levels of nodes in a pattern."""
    match pattern:
        case OpPattern():
            return 1 + max((depth(o) for o in pattern.operands), default=0)
        case AnyOf(choices):
            return max(depth(c) for c in choices)
        case OptionalPattern(of):
            return depth(of)
    return 0


def roots(pattern: Pattern) -> frozenset[type[Op]]:
    """Ops at which a pattern can match."""
    match pattern:
        case OpPattern():
            return pattern.ops
        case AnyOf(choices):
            return frozenset().union(*(roots(c) for c in choices))
    raise TypeError("a pattern's root must be an op")


def at_root(pattern: Pattern, cls: type[Op]) -> Pattern:
    """The pattern less the choices that cannot match at a node of this op."""
    if not isinstance(pattern, AnyOf):
        return pattern
    choices = tuple(at_root(c, cls) for c in pattern.choices if cls in roots(c))
    return choices[0] if len(choices) == 1 else AnyOf(choices)


def build(method: Callable[..., Pattern]) -> Pattern:
    """Call a `pattern` method with a builder and a variable for each further parameter."""
    names = list(inspect.signature(method).parameters)[1:]
    return method(PatternBuilder(), *(Var(n) for n in names))


# ---- matching ----------------------------------------------------------------------------------


class Operands:
    """Operands of nodes, remembered until the graph changes: patterns ask for them often."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.version = graph, -1
        self.known: dict[Node, list[Value | None]] = {}

    def of(self, node: Node) -> list[Value | None]:
        if self.version != self.graph.version:
            self.known.clear()
            self.version = self.graph.version
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = self.graph.operands(node)
        return found


Bindings = dict[str, Any]
Goals = tuple[Pattern, "Value | None", "Goals"] | None
_NODES = "#nodes"


def solutions(
    read: Operands, pattern: Pattern, root: Node
) -> Iterator[tuple[Bindings, list[tuple[Node, int | None]]]]:
    """Every way a pattern matches at a node: bindings, and (node, wanted uses) of each op.

    Variables of an optional operand that is left out, or of a choice not taken, are not bound.
    """
    for bound in _solve(read, (pattern, Value(root, 0), None), {}):
        yield bound, list(bound.pop(_NODES))


def _solve(read: Operands, goals: Goals, bound: Bindings) -> Iterator[Bindings]:
    if goals is None:
        yield dict(bound)
        return
    pattern, value, rest = goals
    if isinstance(pattern, OpPattern):  # the common case first
        if value is not None and type(value.node.op) in pattern.ops:
            yield from _solve_op(read, pattern, value, rest, bound)
        return
    match pattern:
        case OptionalPattern(of):
            yield from _solve(read, rest if value is None else (of, value, rest), bound)
        case AnyOf(choices):
            for choice in choices:
                if isinstance(choice, OpPattern) and (
                    value is None or type(value.node.op) not in choice.ops
                ):
                    continue
                yield from _solve(read, (choice, value, rest), bound)
        case _ if value is None:
            return
        case Var(name):
            if name not in bound:
                yield from _solve(read, rest, bound | {name: value})
            elif bound[name] == value:
                yield from _solve(read, rest, bound)
        case ConstPattern():
            if _const_fits(pattern, value) and bound.get(pattern.name or "", value) == value:
                more = {pattern.name: value} if pattern.name else {}
                yield from _solve(read, rest, bound | more)


def _solve_op(
    read: Operands, pattern: OpPattern, value: Value, rest: Goals, bound: Bindings
) -> Iterator[Bindings]:
    node = value.node
    if value.index:
        return
    if any(getattr(node.op, k) != v for k, v in pattern.attributes):
        return
    operands = read.of(node)
    more: Bindings = {_NODES: (*bound.get(_NODES, ()), (node, pattern.uses))}
    if pattern.into:
        if bound.get(pattern.into, node) is not node:
            return  # a name is one node's, as a variable is one value's
        more[pattern.into] = node
    wanted = pattern.operands
    if wanted and isinstance(wanted[-1], Rest):
        last = wanted[-1]
        wanted = wanted[:-1]
        more[last.name] = tuple(operands[len(wanted) :])
        operands = operands[: len(wanted)]
    if len(operands) > len(wanted):
        return
    operands = operands + [None] * (len(wanted) - len(operands))
    orders = [operands]
    if pattern.commutes and operands[0] != operands[1]:
        orders.append(operands[::-1])
    for order in orders:
        goals = rest
        for sub, v in zip(reversed(wanted), reversed(order)):
            goals = (sub, v, goals)
        yield from _solve(read, goals, bound | more)


def _const_fits(pattern: ConstPattern, value: Value) -> bool:
    array = value.array
    if array is None:
        return False
    if not pattern.scalar:
        return True
    number = uniform(array)
    if number is None or pattern.value is None:
        return number is not None
    # A literal stands for the number as rounded to the tensor's type.
    return number == pattern.value or abs(number - pattern.value) <= 1e-6 * abs(pattern.value)


def uniform(array: np.ndarray[Any, Any]) -> float | None:
    """The number that every element is, if there is one (bit for bit, so NaN and -0.0 differ)."""
    if array.size == 0:
        return None
    first = array.reshape(-1)[:1]
    if array.size > 1:
        if array.size > 1 << 16 and array.reshape(-1)[1] != first[0]:
            return None
        flat = np.ascontiguousarray(array).reshape(-1)
        kind = np.dtype(f"u{flat.itemsize}") if flat.itemsize in (1, 2, 4, 8) else flat.dtype
        if not np.all(flat.view(kind) == flat[:1].view(kind)):
            return None
    return float(first[0])

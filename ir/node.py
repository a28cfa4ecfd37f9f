"""What a graph is made of: nodes, their results, and where those are read."""

from __future__ import annotations

from typing import NamedTuple

from .op import Abstract, Array, Op, positions
from .types import Shape, TensorType

Order = tuple[float, ...]


class Node:
    """One op in a graph: `op` carries the attributes, `results` what is known of each result."""

    __slots__ = ("__weakref__", "name", "op", "order", "results")

    def __init__(self, op: Op, name: str, results: tuple[Abstract, ...], order: Order) -> None:
        self.op, self.name, self.results, self.order = op, name, results, order

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(r.type for r in self.results)

    @property
    def type(self) -> TensorType:
        """Type of the first result."""
        return self.results[0].type

    def __getitem__(self, index: int) -> Value:
        """The value that is this node's result `index`."""
        return Value(self, range(len(self.results))[index])

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.name!r}>"


class Value(NamedTuple):
    """One result of a node."""

    node: Node
    index: int = 0

    @property
    def abstract(self) -> Abstract:
        return self.node.results[self.index]

    @property
    def type(self) -> TensorType:
        return self.node.results[self.index].type

    @property
    def shape(self) -> Shape | None:
        return self.type.shape

    @property
    def array(self) -> Array | None:
        """The array, if this is a constant."""
        return self.node.results[self.index].value


class Use(NamedTuple):
    """One place where a value is read: operand `position` of `node`."""

    node: Node
    position: int


Like = Value | Node


def as_value(x: Like) -> Value:
    return x if isinstance(x, Value) else Value(x, 0)


class NamedOperands:
    """A node's operands by their declared names: `c.weight` is a Value.

        c = graph.operands_of(node)
        c.weight.array, c.get("bias"), c.each("xs")

    A name that the op does not declare, or an operand that is left out, raises AttributeError, so
    ask for optional ones by `get`. What a node reads may change: do not keep this over a change.
    """

    __slots__ = ("_op", "_positions", "_values")

    def __init__(self, op: Op, values: list[Value | None]) -> None:
        self._op, self._positions, self._values = op, positions(type(op)), values

    def __getattr__(self, name: str) -> Value:
        found = self.get(name)
        if found is None:
            raise AttributeError(f"operand {name} of {self._op.name} is left out")
        return found

    def get(self, name: str) -> Value | None:
        """The operand, None where it is left out (the first of a variadic one)."""
        at = self._at(name)
        return self._values[at] if at < len(self._values) else None

    def array(self, name: str) -> Array | None:
        """The array of an operand that is a constant."""
        found = self.get(name)
        return None if found is None else found.array

    def each(self, name: str) -> list[Value]:
        """All of a variadic operand."""
        at = self._at(name)
        values = self._values[at:] if self._op.operands[at].variadic else self._values[at : at + 1]
        return [v for v in values if v is not None]

    def _at(self, name: str) -> int:
        at = self._positions.get(name)
        if at is None:
            known = ", ".join(self._positions)
            raise AttributeError(f"{self._op.name} has no operand {name}, it has {known}")
        return at

"""A short hand for building: `b.conv(x, w, strides=(2, 2))` adds a `conv` node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from .errors import UnsupportedError
from .graph import Graph, Like, Node, Value
from .op import Op, op_class
from .types import DType, TensorType

Through = Callable[
    [Callable[..., Any], Sequence[Value | None], Sequence[Value | None]], list[Value | None]
]


def _outside(*_: Any) -> list[Value | None]:
    raise ValueError("gradients are asked for within `differentiate` only")


class Builder:
    """Adds nodes to a graph, each op by its text name: operands positional, attributes by keyword.

    Returns a Value for one result and a tuple of them for several. With `before`, nodes take their
    place just before that node (see Graph.add). `name=` names the node, which otherwise is called
    `prefix` and the op's name. Operands that are not values (numbers, arrays) become constants.
    Where a name is a keyword of Python's, an underscore follows: `b.not_(x)`.
    """

    def __init__(
        self, graph: Graph | None = None, *, before: Node | None = None, prefix: str = ""
    ) -> None:
        self.graph = graph if graph is not None else Graph()
        self.before, self.prefix = before, prefix
        self.sought: Collection[Value] | None = None
        """Values through which gradients go; all where it is None."""
        self.through: Through = _outside
        """Within a differentiation: the gradients of operands through what a function of them adds,
        given those of its results."""

    def input(self, name: str, dtype: DType | str = DType.f32, shape: Any = ()) -> Value:
        kind = dtype if isinstance(dtype, DType) else DType(dtype)
        return self.graph.add_input(name, TensorType(kind, tuple(shape)))[0]

    def constant(self, value: Any, name: str | None = None) -> Value:
        """A constant. An array that may be written to is copied: its owner may go on using it."""
        if isinstance(value, np.ndarray) and value.flags.writeable:
            value = value.copy()
        return self.graph.constant(value, name or f"{self.prefix}const", before=self.before)

    def number(self, value: float, like: Value) -> Value:
        """A scalar constant of `like`'s element type."""
        return self.constant(np.asarray(value, like.type.dtype.numpy))

    def wants(self, value: Value | None) -> bool:
        """Whether a gradient of this operand is needed; what is not need not be made."""
        return value is not None and (self.sought is None or value in self.sought)

    def add_op(self, op: Op, *operands: Like | None, name: str | None = None) -> Any:
        """Add a node with an op as it is."""
        name = name or f"{self.prefix}{op.name}"
        node = self.graph.add(op, *operands, name=name, before=self.before)
        made = tuple(node[i] for i in range(len(node.results)))
        return made[0] if len(made) == 1 else made

    def outputs(self, **values: Like) -> Graph:
        """Set the outputs and return the finished graph."""
        self.graph.set_outputs(values)
        return self.graph

    def __getattr__(self, op_name: str) -> Callable[..., Any]:
        if op_name.startswith("__"):
            raise AttributeError(op_name)
        try:
            cls = op_class(op_name.removesuffix("_"))
        except UnsupportedError as error:
            raise AttributeError(str(error)) from error

        def add(*operands: Any, name: str | None = None, **attributes: Any) -> Any:
            return self.add_op(cls(**attributes), *map(self._value, operands), name=name)

        return add

    def _value(self, x: Any) -> Like | None:
        if x is None or isinstance(x, Value | Node):
            return x
        return self.constant(np.asarray(x))

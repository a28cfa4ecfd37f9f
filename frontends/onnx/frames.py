"""Where an import stands: graphs under construction, and what names mean in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from ...ir import Array, Graph, ModelError, TautError, TensorType, Value
from ...ir.errors import show_name
from ...ir.ops.structure import Constant
from .calls import Call
from .tensors import TensorReader


def loosened(type: TensorType, how: int) -> TensorType:
    """A type with its dimensions (1) or also its rank (2) forgotten."""
    if how == 0 or type.shape is None:
        return type
    return type.with_shape(None if how > 1 else (None,) * len(type.shape))


@dataclass
class Scope:
    """One graph under construction: the model's own or a body."""

    graph: Graph
    loose: int = 0  # how much of the types around it a body forgets
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    stated: dict[str, TensorType] = field(default_factory=dict)
    captures: dict[Value, Value] = field(default_factory=dict)  # value around it -> input

    def capture(self, value: Value) -> Value:
        """The input that stands for a value of the graph around this one."""
        found = self.captures.get(value)
        if found is None:
            name = value.node.name if value.index == 0 else f"{value.node.name}.{value.index}"
            made = self.graph.add_input(self.graph.fresh(name), loosened(value.type, self.loose))
            found = self.captures[value] = Value(made)
        return found

    def array(self, name: str, reader: TensorReader) -> Array:
        """An initializer, read once."""
        if name not in self.arrays:
            try:
                self.arrays[name] = reader.read(self.initializers[name])
            except TautError as error:
                error.message = f"initializer {show_name(name)}: {error.message}"
                raise
        return self.arrays[name]


@dataclass
class Frame:
    """A graph, function or body being imported: what its names stand for and what is left."""

    scope: Scope
    nodes: Iterator[NodeProto]
    values: dict[str, Value | None]
    versions: Mapping[str, int]
    renamed: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    attributes: Mapping[str, AttributeProto] | None = None  # the function's that it is in
    returns: Sequence[tuple[str, str]] = ()  # (name in here, name in the caller)
    function: bool = False
    outer: Frame | None = None  # the frame that a body may read
    job: Job | None = None  # what a body is for

    def local_name(self, name: str) -> str:
        """An inner value's name in the graph."""
        return self.renamed.get(name) or self.prefix + name

    def around(self, name: str) -> bool:
        """Whether the graphs around a body define a name."""
        at = self.outer
        while at is not None:
            if name in at.values:
                return True
            at = at.outer
        return False

    def read(self, name: str, reader: TensorReader) -> Value | None:
        """The value of a name. An initializer becomes a constant at its first use; what a body
        takes from around it becomes an input of every body in between, or a constant of its own.
        """
        if not name:
            return None
        between: list[Frame] = []
        at: Frame | None = self
        while at is not None and name not in at.values:
            between.append(at)
            at = at.outer
        if at is None:
            raise ModelError(f"reads {show_name(name)}, which nothing defines")
        value, array = at.values[name], None
        if value is None and not at.function and name in at.scope.initializers:
            array = at.scope.array(name, reader)
        elif value is not None and isinstance(value.node.op, Constant) and between:
            array = value.node.op.value
        if array is not None:
            value = self.values[name] = self.scope.graph.constant(array, name)
            return value
        if value is not None:
            for inner in reversed(between):
                value = inner.values[name] = inner.scope.capture(value)
        return value


@dataclass
class Body:
    """One graph of a node that carries bodies."""

    attribute: str
    proto: GraphProto
    types: list[TensorType]  # of its inputs, as the node makes them


@dataclass
class Job:
    """A node that carries bodies, while these are imported one after the other."""

    call: Call
    frame: Frame
    node: NodeProto
    bodies: list[Body]
    done: list[Scope] = field(default_factory=list)
    loose: int = 0
    first_error: TautError | None = None

"""A node of an ONNX graph in plain Python, and the way to an op's declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto

from ...ir import Array, ModelError, Op, UnsupportedError, Value
from ...ir.op import Attribute
from ...ir.standard import attribute_proto, dtype_of, schema_defaults, shortest
from .tensors import TensorReader, refuse_sparse, text

A = AttributeProto


@dataclass
class Call:
    """One node about to be imported. Adapters change it in place to the newest opset's form."""

    op: str
    domain: str
    version: int
    inputs: list[Value | None]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What users know the node by: its first output."""
        return next((o for o in self.outputs if o), self.op)

    def operand(self, position: int) -> Value | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def required(self, position: int) -> Value:
        """An operand that must be there. Raises ModelError."""
        found = self.operand(position)
        if found is None:
            raise ModelError(f"operand {position} is missing")
        return found

    def set_operand(self, position: int, value: Value | None) -> None:
        self.inputs += [None] * (position + 1 - len(self.inputs))
        self.inputs[position] = value

    def constant(self, position: int, what: str) -> Array:
        """An operand that must be a constant. Raises UnsupportedError."""
        array = self.required(position).array
        if array is None:
            raise UnsupportedError(f"{what} must be constant", hint="fold constants first")
        return array

    def outputs_used(self) -> int:
        return max((i + 1 for i, o in enumerate(self.outputs) if o), default=0)


def read_attributes(protos: Mapping[str, AttributeProto], reader: TensorReader) -> dict[str, Any]:
    """Attributes as Python values. Raises ModelError, UnsupportedError."""
    return {name: _read_attribute(name, proto, reader) for name, proto in protos.items()}


def attribute_protos(
    node: NodeProto, outer: Mapping[str, AttributeProto] | None
) -> dict[str, AttributeProto]:
    """A node's attributes by name; references to a function's own are looked up in `outer`."""
    found: dict[str, AttributeProto] = {}
    for proto in node.attribute:
        name = text(proto.name, "an attribute's name")
        if name in found:
            raise ModelError(f"attribute {name!a} is given twice")
        if proto.ref_attr_name:
            if outer is None:
                raise ModelError(f"attribute {name!a} refers to a function's, outside of one")
            actual = outer.get(text(proto.ref_attr_name, "an attribute's name"))
            if actual is None:
                continue  # the caller left an optional attribute out
            proto = actual
        found[name] = proto
    return found


def _read_attribute(name: str, a: AttributeProto, reader: TensorReader) -> Any:
    match a.type:
        case A.INT:
            return int(a.i)
        case A.FLOAT:
            return shortest(a.f)
        case A.STRING:
            return _decode(a.s, name)
        case A.INTS:
            return tuple(int(v) for v in a.ints)
        case A.FLOATS:
            return tuple(shortest(v) for v in a.floats)
        case A.STRINGS:
            return tuple(_decode(v, name) for v in a.strings)
        case A.TENSOR:
            return reader.read(a.t)
        case A.SPARSE_TENSOR:
            refuse_sparse([a.sparse_tensor])
    if a.type in A.AttributeType.values() and a.type != A.UNDEFINED:
        kind = A.AttributeType.Name(a.type)
        raise UnsupportedError(f"attribute {name!a} of kind {kind} is not supported")
    raise ModelError(f"attribute {name!a} has no type")


def _decode(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"attribute {name!a} is not UTF-8") from error


def op_attributes(cls: type[Op], call: Call) -> dict[str, Any]:
    """Keyword arguments for the declaration, ONNX's defaults at that version filled in.

    Raises ModelError for attributes ONNX does not know, UnsupportedError for ones Taut does not.
    """
    back = {field: name for name, field in cls.renamed}
    declared = {back.get(a.name, a.name): a for a in cls.attributes}
    defaults = schema_defaults(call.op, call.version, call.domain)
    for name, value in call.attributes.items():
        if name in declared:
            continue
        if name not in defaults:
            known = sorted(defaults) or "none"
            raise ModelError(f"has an unknown attribute {name!a}", hint=f"it takes {known}")
        if not np.array_equal(value, defaults[name]):
            raise UnsupportedError(f"attribute {name} = {str(value)[:60]!a} is not supported")
    given = {k: v for k, v in defaults.items() if v is not None and k in declared}
    given |= {k: v for k, v in call.attributes.items() if k in declared}
    return {declared[k].name: _convert(declared[k], v) for k, v in given.items()}


def _convert(spec: Attribute, value: Any) -> Any:
    if spec.kind == "dtype" and isinstance(value, int):
        # ONNX writes 0 where an optional type attribute is left out.
        return None if value == 0 and spec.optional else dtype_of(value)
    if spec.kind in ("ints", "floats", "strs") and spec.optional and value == ():
        return None
    return value


def node_proto(call: Call, inputs: Iterable[str]) -> NodeProto:
    """The call as ONNX would write it, for ONNX's own function bodies."""
    node = onnx.helper.make_node(call.op, list(inputs), call.outputs, domain=call.domain)
    node.attribute.extend(attribute_proto(k, v) for k, v in call.attributes.items())
    return node

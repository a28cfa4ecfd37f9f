"""Functions: the model's own, and those by which ONNX defines some of its operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TypeProto

from ...ir import LimitError, Limits, ModelError, TensorType
from ...ir.errors import show_name
from ...ir.standard import ONNX_TYPES, schema
from .calls import Call, node_proto
from .nested import all_nodes
from .read import domain_name
from .tensors import text

Key = tuple[str, str, str]  # domain, op, overload


def key_of(node: NodeProto) -> Key:
    return domain_name(node.domain), text(node.op_type), text(node.overload)


def local_functions(model: ModelProto) -> dict[Key, FunctionProto]:
    """The model's functions by what calls them. Raises ModelError for two of one name."""
    found: dict[Key, FunctionProto] = {}
    for f in model.functions:
        key = (domain_name(f.domain), text(f.name), text(f.overload))
        if key in found:
            raise ModelError(f"function {show_name(key[1])} is defined twice")
        for names in (f.input, f.output, [*f.attribute, *(a.name for a in f.attribute_proto)]):
            if len(set(names)) < len(names):
                raise ModelError(f"function {show_name(key[1])} has two parameters of one name")
        found[key] = f
    return found


def check_expansion(
    nodes: Iterable[NodeProto], functions: Mapping[Key, FunctionProto], limits: Limits
) -> None:
    """Count what expanding every call would make, without expanding any.

    Raises LimitError where that exceeds the limits and ModelError for a function that calls
    itself. Linear in the size of the functions.
    """
    if not functions:
        return
    size: dict[Key, int] = {}
    depth: dict[Key, int] = {}
    open_calls: set[Key] = set()
    top = list(all_nodes(nodes))
    pending: list[tuple[Key, bool]] = [(k, False) for k in _calls(top, functions)]
    while pending:
        key, finished = pending.pop()
        body = list(all_nodes(functions[key].node))
        if finished:
            open_calls.discard(key)
            inner = [k for k in map(key_of, body) if k in functions]
            size[key] = len(body) - len(inner) + sum(size[k] for k in inner)
            depth[key] = 1 + max((depth[k] for k in inner), default=0)
            if depth[key] > limits.depth:
                raise LimitError(f"functions are nested deeper than {limits.depth}")
        elif key not in size:
            if key in open_calls:
                raise ModelError(f"function {show_name(key[1])} calls itself")
            open_calls.add(key)
            pending.append((key, True))
            for k in _calls(body, functions):
                if k in open_calls:
                    raise ModelError(f"function {show_name(k[1])} calls itself")
                if k not in size:
                    pending.append((k, False))
    total = sum(size.get(key_of(n), 1) for n in top)
    if total > limits.nodes:
        raise LimitError(
            f"the model has {total if total < 1 << 63 else 'over 2^63'} nodes with its functions "
            f"expanded, over the limit of {limits.nodes}",
            hint="raise Limits.nodes if the model is right",
        )


def _calls(nodes: Iterable[NodeProto], functions: Mapping[Key, FunctionProto]) -> list[Key]:
    return list(dict.fromkeys(k for k in map(key_of, nodes) if k in functions))


def has_builtin(op: str, version: int, domain: str) -> bool:
    """Whether ONNX defines this op by others."""
    found = schema(op, version, domain)
    return found is not None and (found.has_function or found.has_context_dependent_function)


def static_builtin(op: str, version: int, domain: str) -> FunctionProto | None:
    """ONNX's definition of an op by others, where it does not depend on attributes and types."""
    found = schema(op, version, domain)
    if found is None or not found.has_function:
        return None
    fits = _newest(found.function_opset_versions, version)
    if fits is None:
        return None
    return FunctionProto.FromString(found.get_function_with_opset_version(fits))


def builtin(call: Call, types: Iterable[TensorType | None]) -> FunctionProto | None:
    """ONNX's definition of this call by other ops, or None."""
    found = schema(call.op, call.version, call.domain)
    if found is None:
        return None
    if found.has_context_dependent_function:
        fits = _newest(found.context_dependent_function_opset_versions, call.version)
        if fits is not None:
            names = [f"i{k}" if v is not None else "" for k, v in enumerate(call.inputs)]
            protos = [_type_proto(t).SerializeToString() for t in types]
            make: Callable[..., bytes] = found.get_context_dependent_function_with_opset_version
            made = make(fits, node_proto(call, names).SerializeToString(), protos)
            if made:
                return FunctionProto.FromString(made)
    return static_builtin(call.op, call.version, call.domain)


def default_protos(op: str, version: int, domain: str) -> dict[str, AttributeProto]:
    """The attributes that a function body may refer to where a call leaves them out."""
    found = schema(op, version, domain)
    attributes = {} if found is None else found.attributes
    return {k: a.default_value for k, a in attributes.items() if a.default_value.name}


def _newest(versions: Iterable[int], version: int) -> int | None:
    return max((v for v in versions if v <= version), default=None)


def _type_proto(type: TensorType | None) -> TypeProto:
    proto: Any = TypeProto()
    if type is not None:
        proto.tensor_type.elem_type = ONNX_TYPES[type.dtype]
        if type.shape is not None:
            proto.tensor_type.shape.SetInParent()
            for dim in type.shape:
                made = proto.tensor_type.shape.dim.add()
                if isinstance(dim, int):
                    made.dim_value = dim
                elif dim is not None:
                    made.dim_param = dim
    return proto


def opset_imports(function: FunctionProto, outer: Mapping[str, int]) -> Mapping[str, int]:
    """Versions a body is written for: its own, else those of its caller."""
    return {**outer, **{domain_name(o.domain): int(o.version) for o in function.opset_import}}

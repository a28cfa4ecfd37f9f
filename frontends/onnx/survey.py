"""What of a model Taut cannot import, found before anything is built."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import onnx
from onnx import FunctionProto, GraphProto, NodeProto, TypeProto, ValueInfoProto

from ...ir import TautError, UnsupportedError, op_for_onnx
from ...ir.standard import dtype_of, schema
from ..unsupported import Unsupported
from .adapters import NOW
from .functions import Key, has_builtin, key_of, opset_imports, static_builtin
from .nested import all_graphs, all_nodes
from .tensors import text


def survey(
    graph: GraphProto, versions: Mapping[str, int], functions: Mapping[Key, FunctionProto]
) -> list[Unsupported]:
    """Everything unsupported, in order. Raises ModelError for broken names."""
    found = [
        Unsupported(text(i.name), "input", reason)
        for i in _boundaries(graph)
        if (reason := _type_reason(i.type)) is not None
    ]
    found += _of_nodes(graph.node, versions, functions, None)
    if not functions:
        return found
    seen: set[Key] = set()
    pending = [k for k in map(key_of, all_nodes(graph.node)) if k in functions]
    while pending:
        key = pending.pop()
        if key in seen:
            continue
        seen.add(key)
        body = functions[key]
        found += _of_nodes(body.node, opset_imports(body, versions), functions, key[1])
        pending += [k for k in map(key_of, all_nodes(body.node)) if k in functions]
    return found


def _boundaries(graph: GraphProto) -> Iterable[ValueInfoProto]:
    for g in (graph, *all_graphs(graph.node)):
        yield from (*g.input, *g.output)


def _type_reason(type: TypeProto) -> str | None:
    kind = type.WhichOneof("value")
    if kind is None:
        return None  # an output's type may be left out
    if kind != "tensor_type":
        return f"its type is {kind.removesuffix('_type').replace('_', ' ')}, not a tensor"
    try:
        dtype_of(type.tensor_type.elem_type)
    except UnsupportedError as error:
        return error.message
    except TautError:
        return None  # the importer says what is wrong
    return None


def _of_nodes(
    nodes: Iterable[NodeProto],
    versions: Mapping[str, int],
    functions: Mapping[Key, FunctionProto],
    inside: str | None,
) -> Iterable[Unsupported]:
    for node in all_nodes(nodes):
        key = key_of(node)
        if key in functions:
            continue
        reason = op_reason(key[1], versions.get(key[0]), key[0])
        if reason is not None:
            name = node_name(node)
            name = name if inside is None else f"{inside}/{name}"
            op = f"{key[0]}.{key[1]}" if key[0] else key[1]
            yield Unsupported(name, op if op.isascii() and op.isprintable() else ascii(op), reason)


def node_name(node: NodeProto) -> str:
    """What users know a node by: its first output, else its own name."""
    names = [*node.output, node.name]
    return next((text(n) for n in names if n), text(node.op_type))


@functools.lru_cache(maxsize=4096)
def op_reason(op: str, version: int | None, domain: str) -> str | None:
    """Why ops of this kind cannot be imported, or None if they can."""
    if version is None:
        return "the model imports no opset of its domain"
    if domain:
        return "its domain is not supported"
    found = schema(op, version, domain)
    if found is None:
        newest = onnx.defs.onnx_opset_version()
        known = schema(op, newest, domain) is not None
        return f"opset {version} has no such op" if known else "unknown op"
    if op == "Constant" or op_for_onnx(NOW.get(op, op)) is not None:
        return None
    if not has_builtin(op, version, domain):
        return "not supported yet"
    body = static_builtin(op, version, domain)
    if body is None:
        return None  # its definition depends on types: known when it is reached
    inner_versions = opset_imports(body, {"": version})
    for node in all_nodes(body.node):
        _, inner, _ = key_of(node)
        reason = op_reason(inner, inner_versions.get(""), "")
        if reason is not None:
            return f"it needs {inner}: {reason}"
    return None

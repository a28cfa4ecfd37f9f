"""Graphs as text. `parse(print_graph(g))` prints the same bytes again.

graph @tiny(%x: f32[batch,3]) -> (%y: f32[batch,10]) {
  %w = constant @w : f32[3,10]
  %0 = mat_mul(%x, %w) : f32[batch,10]
  return %0
}
resources {
  @w = "base64..."
}
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from .errors import LimitError, VerifyError
from .graph import Graph, Node, Value
from .ops.structure import Constant, Input
from .packing import pack
from .types import DType, TensorType

INLINE_ELEMENTS = 16
_BARE = re.compile(r"[A-Za-z0-9_./]+\Z")

Resources = Literal["inline", "none"]


def print_graph(graph: Graph, *, resources: Resources = "inline") -> str:
    """The graph as text. Constants of over 16 elements are referenced by their node's name, and
    with `inline` follow in a resources section (base64, little endian).
    """
    lines: list[str] = []
    try:
        _print_body(graph, lines, "")
    except RecursionError as error:
        raise LimitError("bodies are nested too deep to print") from error
    if resources == "inline":
        stored = [f"  @{quote(k)} = {json.dumps(encode(v))}" for k, v in constants(graph)]
        if stored:
            lines += ["resources {", *stored, "}"]
    return "\n".join(lines) + "\n"


def constants(graph: Graph) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """(key, array) of each constant that the text only references, in order, bodies included."""
    for node in graph.nodes():
        if isinstance(node.op, Constant):
            if inline_elements(node.op.value) is None:
                yield node.name, node.op.value
        else:
            for a in node.op.attributes:
                body = getattr(node.op, a.name)
                if a.kind == "graph" and body is not None:
                    yield from ((f"{node.name}/{a.name}/{k}", v) for k, v in constants(body))


def encode(array: np.ndarray[Any, Any]) -> str:
    """An array's bytes as base64: little endian, row major, small elements packed."""
    return base64.b64encode(pack(array)).decode()


def quote(name: str) -> str:
    """A name as it stands in text: bare where it is plain, else a JSON string."""
    return name if _BARE.match(name) else json.dumps(name)


def print_value(value: Value | None) -> str:
    if value is None:
        return "none"
    suffix = f"#{value.index}" if len(value.node.results) > 1 else ""
    return f"%{quote(value.node.name)}{suffix}"


def print_node(graph: Graph, node: Node) -> str:
    """One node's line, without indentation; a body attribute makes it several lines."""
    name = f"%{quote(node.name)}"
    count = f":{len(node.results)}" if len(node.results) != 1 else ""
    types = ", ".join(str(t) for t in node.types)
    if isinstance(node.op, Constant):
        inline = inline_elements(node.op.value)
        body = f"constant @{quote(node.name)}" if inline is None else f"constant {inline}"
        return f"{name} = {body} : {types}"
    operands = ", ".join(print_value(v) for v in graph.operands(node))
    given = " ".join(f"{k}={print_attribute(v)}" for k, v in node.op.given())
    attributes = f" {{{given}}}" if given else ""
    return f"{name}{count} = {node.op.name}({operands}){attributes} : {types}"


def print_attribute(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return print_float(value)
        case str():
            return json.dumps(value)
        case DType():
            return value.value
        case tuple():
            return "[" + ",".join(print_attribute(v) for v in value) + "]"
        case Graph():
            lines: list[str] = []
            _print_body(value, lines, "")
            return "\n".join(lines)
        case np.ndarray():
            text = inline_elements(value, limit=1 << 16)
            if text is None:
                raise VerifyError("an array attribute is too large for text: make it an operand")
            return f"dense<{TensorType.of(value)} {text}>"
    raise VerifyError(f"no text for an attribute of type {type(value).__name__}")


def print_float(value: float) -> str:
    """The shortest text that reads back as the same double (NaN as `nan`)."""
    if math.isnan(value):
        return "nan"
    return repr(float(value))


def inline_elements(array: np.ndarray[Any, Any], limit: int = INLINE_ELEMENTS) -> str | None:
    """`[1, 2]` (flat, row major) or a bare scalar; None if it is long or has odd NaN bits."""
    if array.size > limit:
        return None
    dtype = DType.of(array)
    flat = array.reshape(-1)
    if dtype.is_float or dtype.is_minifloat:
        nan = np.isnan(flat.astype(np.float32 if dtype.is_minifloat else np.float64))
        canonical = np.full(1, np.nan, dtype.numpy).tobytes()
        if any(v.tobytes() != canonical for v in flat[nan]):
            return None
        texts = [_element(v, dtype) for v in flat]
    elif dtype is DType.bool:
        texts = ["true" if v else "false" for v in flat]
    else:
        texts = [str(int(v)) for v in flat]
    return texts[0] if array.ndim == 0 else "[" + ", ".join(texts) + "]"


def _element(v: Any, dtype: DType) -> str:
    """The shortest text for the element's own type, or of its double where that would not do."""
    wide = float(v)
    if math.isnan(wide):
        return "nan"
    if dtype in (DType.f32, DType.f16):
        short = np.format_float_scientific(v, unique=True) if abs(wide) >= 1e16 else str(v)
        short = short if any(c in short for c in ".ein") else short + ".0"
        if dtype.numpy.type(float(short)).tobytes() == v.tobytes():
            return short
    return repr(wide)


def _print_body(graph: Graph, lines: list[str], indent: str) -> None:
    inputs = ", ".join(f"%{quote(n.name)}: {n.type}" for n in graph.inputs)
    pairs = zip(graph.output_names, graph.outputs)
    outputs = ", ".join(f"%{quote(name)}: {v.type}" for name, v in pairs)
    needs = ", ".join(json.dumps(c.text) for c in graph.conditions)
    where = f" where {needs}" if needs else ""
    lines.append(f"{indent}graph @{quote(graph.name)}({inputs}) -> ({outputs}){where} {{")
    for node in graph.nodes():
        if node is not graph.result and not isinstance(node.op, Input):
            lines.append(f"{indent}  {print_node(graph, node)}")
    lines.append(f"{indent}  return {', '.join(print_value(v) for v in graph.outputs)}".rstrip())
    lines.append(f"{indent}}}")

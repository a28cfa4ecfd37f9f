"""Text back to graphs (the grammar is in printer.py). Iterative but for bodies, whose depth is
limited; every error has line and column."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import LimitError, ParseError, TautError
from .graph import Graph, Value
from .op import Attribute, Op, op_class
from .packing import narrow, packed_bytes, unpack
from .types import DEFAULT_LIMITS, DType, Limits, TensorType

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n]+|//[^\n]*)+)
      | (?P<name>[%@](?:"(?:[^"\\\n]|\\.)*"|[A-Za-z0-9_./]+))
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>[-+]?(?:inf|nan)\b|[-+]?\d[\d.]*(?:[eE][-+]?\d+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>->|[-(){}\[\]<>=,:\#?*])""",
    re.VERBOSE,
)
_INT = re.compile(r"[-+]?\d+\Z")


def parse(
    text: str,
    resources: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Graph:
    """Read one graph. Large constants come from the text's resources section or `resources`.

    Raises ParseError with line and column, VerifyError for ill-typed nodes, LimitError.
    """
    parser = _Parser(text, resources or {}, limits)
    try:
        return parser.module()
    except ParseError:
        raise
    except TautError as error:
        error.message = f"line {parser.line()}: {error.message}"
        raise


class _Parser:
    def __init__(
        self, text: str, resources: Mapping[str, np.ndarray[Any, Any]], limits: Limits
    ) -> None:
        self.text, self.limits = text, limits
        self.position = self.start = 0
        self.kind = self.token = ""
        self.given = dict(resources)
        self.inline: dict[str, tuple[int, int]] = {}
        self.total = 0
        self.depth = 0
        self._find_resources()
        self.advance()

    # ---- tokens --------------------------------------------------------------------------------

    def advance(self) -> None:
        while True:
            self.start = self.position
            if self.position >= len(self.text):
                self.kind, self.token = "end", ""
                return
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                raise self.error(f"unexpected {self.text[self.position]!a}")
            self.position = match.end()
            if match.lastgroup != "space":
                self.kind, self.token = match.lastgroup or "", match.group()
                return

    def line(self) -> int:
        return self.text.count("\n", 0, self.start) + 1

    def error(self, message: str) -> ParseError:
        column = self.start - self.text.rfind("\n", 0, self.start)
        return ParseError(f"line {self.line()}, column {column}: {message}")

    def take(self, token: str) -> None:
        if self.token != token or self.kind == "string":
            got = "the end" if self.kind == "end" else ascii(self.token[:40])
            raise self.error(f"expected {token!r}, found {got}")
        self.advance()

    def accept(self, token: str) -> bool:
        if self.token == token and self.kind != "string":
            self.advance()
            return True
        return False

    def word(self) -> str:
        if self.kind != "word":
            raise self.error(f"expected a word, found {self.token[:40]!a}")
        token = self.token
        self.advance()
        return token

    def integer(self) -> int:
        if self.kind != "number" or not _INT.match(self.token) or len(self.token) > 20:
            raise self.error(f"expected an integer, found {self.token[:40]!a}")
        value = int(self.token)
        self.advance()
        return value

    def name(self, sigil: str) -> str:
        if self.kind != "name" or self.token[0] != sigil:
            raise self.error(f"expected a name with {sigil}, found {self.token[:40]!a}")
        body = self.token[1:]
        value = self.unescape(body) if body[0] == '"' else body
        self.advance()
        return value

    def unescape(self, token: str) -> str:
        try:
            return json.loads(token)
        except ValueError as error:
            raise self.error(f"bad string {token[:40]!a}") from error

    # ---- grammar -------------------------------------------------------------------------------

    def module(self) -> Graph:
        graph = self.graph("")
        if self.accept("resources"):
            self.take("{")
            while not self.accept("}"):
                self.name("@")
                self.take("=")
                if self.kind != "string":
                    raise self.error("expected a base64 string")
                self.advance()
        if self.kind != "end":
            raise self.error(f"unexpected {self.token[:40]!a} after the graph")
        return graph

    def graph(self, prefix: str) -> Graph:
        self.depth += 1
        if self.depth > self.limits.depth:
            raise LimitError(f"bodies are nested deeper than {self.limits.depth}")
        self.take("graph")
        graph = Graph(self.name("@"))
        self.take("(")
        while not self.accept(")"):
            name = self.name("%")
            self.take(":")
            graph.add_input(name, self.type())
            if self.token != ")":
                self.take(",")
        self.take("->")
        declared = self.outputs()
        self.conditions(graph)
        self.take("{")
        while self.token != "return":
            self.node(graph, prefix)
            if len(graph) > self.limits.nodes:
                raise LimitError(f"more than {self.limits.nodes} nodes")
        self.advance()
        values = self.values(graph, "}")
        if len(values) != len(declared):
            raise self.error(f"{len(declared)} outputs are declared, {len(values)} returned")
        for (name, type), v in zip(declared, values):
            if v is None or not type.accepts(v.type):
                raise self.error(f"output {name!a} is declared {type}")
        if len({n for n, _ in declared}) < len(declared):
            raise self.error("output names are not unique")
        graph.set_outputs({n: v for (n, _), v in zip(declared, values) if v is not None})
        self.depth -= 1
        return graph

    def outputs(self) -> list[tuple[str, TensorType]]:
        self.take("(")
        found: list[tuple[str, TensorType]] = []
        while not self.accept(")"):
            name = self.name("%")
            self.take(":")
            found.append((name, self.type()))
            if self.token != ")":
                self.take(",")
        return found

    def conditions(self, graph: Graph) -> None:
        if not self.accept("where"):
            return
        while True:
            if self.kind != "string":
                raise self.error(f"expected a condition in quotes, found {self.token[:40]!a}")
            graph.require(self.unescape(self.token))
            self.advance()
            if not self.accept(","):
                return

    def node(self, graph: Graph, prefix: str) -> None:
        name = self.name("%")
        count = self.integer() if self.accept(":") else 1
        if graph.find(name) is not None:
            raise self.error(f"%{name!a} is defined twice")
        self.take("=")
        if self.token == "constant" and self.kind == "word":
            self.advance()
            self.constant(graph, name, prefix)
            return
        if self.kind != "word":
            raise self.error(f"expected an op, found {self.token[:40]!a}")
        try:
            cls = op_class(self.token)
        except TautError as error:
            raise self.error(str(error)) from error
        self.advance()
        self.take("(")
        operands = self.values(graph, ")")
        op = self.op(cls, f"{prefix}{name}/")
        self.take(":")
        node = graph.add(op, *operands, name=name)
        types = [self.type()] if count else []
        while self.accept(","):
            types.append(self.type())
        if len(types) != len(node.results):
            raise self.error(f"{cls.name} has {len(node.results)} results, not {len(types)}")
        for stated, inferred in zip(types, node.types):
            if not (stated.accepts(inferred) and inferred.accepts(stated)):
                raise self.error(f"{name!a} is typed {stated} but infers {inferred}")

    def values(self, graph: Graph, end: str) -> list[Value | None]:
        """Comma-separated values up to and with `end`."""
        found: list[Value | None] = []
        while not self.accept(end):
            if self.accept("none"):
                found.append(None)
            else:
                name = self.name("%")
                node = graph.find(name)
                if node is None:
                    raise self.error(f"%{name!a} is not defined before its use")
                index = self.integer() if self.accept("#") else 0
                if not 0 <= index < len(node.results):
                    raise self.error(f"%{name!a} has no result {index}")
                found.append(node[index])
            if self.token != end:
                self.take(",")
        return found

    def op(self, cls: type[Op], prefix: str) -> Op:
        known = {a.name: a for a in cls.attributes}
        given: dict[str, Any] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.word()
                if key not in known or key in given:
                    what = "twice" if key in given else f"but is not one of {sorted(known)}"
                    raise self.error(f"attribute {key} of {cls.name} is given {what}")
                self.take("=")
                given[key] = self.attribute(known[key], f"{prefix}{key}/")
        try:
            return cls(**given)
        except TypeError as error:
            missing = [a.name for a in cls.attributes if a.name not in given]
            raise self.error(f"{cls.name} needs attributes {missing}") from error

    def attribute(self, spec: Attribute, prefix: str) -> Any:
        if spec.optional and self.accept("none"):
            return None
        if spec.kind == "graph":
            return self.graph(prefix)
        if spec.kind == "array":
            return self.array_attribute()
        if spec.kind in ("ints", "floats", "strs"):
            self.take("[")
            found: list[Any] = []
            while not self.accept("]"):
                found.append(self.scalar(spec.kind[:-1]))
                if self.token != "]":
                    self.take(",")
            return tuple(found)
        return self.scalar(spec.kind)

    def scalar(self, kind: str) -> Any:
        if kind == "str":
            if self.kind != "string":
                raise self.error("expected a quoted string")
            value: Any = self.unescape(self.token)
        elif kind == "int":
            return self.integer()
        elif kind == "float":
            value = self.float_token()
        elif kind == "bool" and self.token in ("true", "false"):
            value = self.token == "true"
        elif kind == "dtype":
            return self.dtype()
        else:
            raise self.error(f"expected {kind}, found {self.token[:40]!a}")
        self.advance()
        return value

    def float_token(self) -> float:
        try:
            if self.kind == "number":
                return float(self.token)
        except ValueError:
            pass
        raise self.error(f"expected a number, found {self.token[:40]!a}")

    def dtype(self) -> DType:
        try:
            dtype = DType(self.token)
        except ValueError:
            raise self.error(f"unknown element type {self.token[:40]!a}") from None
        self.advance()
        return dtype

    def type(self) -> TensorType:
        dtype = self.dtype()
        self.take("[")
        if self.accept("*"):
            self.take("]")
            return TensorType(dtype, None)
        shape: list[int | str | None] = []
        while not self.accept("]"):
            if self.accept("?"):
                shape.append(None)
            elif self.kind == "number":
                shape.append(self.integer())
            else:
                shape.append(self.word())
            if self.token != "]":
                self.take(",")
        return TensorType(dtype, tuple(shape))

    # ---- constants -----------------------------------------------------------------------------

    def constant(self, graph: Graph, name: str, prefix: str) -> None:
        if self.kind == "name":
            key = prefix + self.name("@")
            self.take(":")
            graph.constant(self.resource(key, self.type()), name)
            return
        tokens = self.elements()
        self.take(":")
        graph.constant(self.dense(tokens, self.type()), name)

    def array_attribute(self) -> np.ndarray[Any, Any]:
        if self.word() != "dense":
            raise self.error("expected dense<type elements>")
        self.take("<")
        type = self.type()
        tokens = self.elements()
        self.take(">")
        return self.dense(tokens, type)

    def elements(self) -> list[str]:
        found: list[str] = []
        if not self.accept("["):
            found.append(self.token)
            self.advance()
            return found
        while not self.accept("]"):
            found.append(self.token)
            self.advance()
            if self.token != "]":
                self.take(",")
        return found

    def dense(self, tokens: list[str], type: TensorType) -> np.ndarray[Any, Any]:
        if not type.is_static or type.size != len(tokens):
            raise self.error(f"{len(tokens)} elements do not make {type}")
        dtype = type.dtype
        out = np.empty(len(tokens), dtype.numpy)
        for i, t in enumerate(tokens):
            out[i] = self.element(t, dtype)
        return out.reshape(type.static_shape)

    def element(self, token: str, dtype: DType) -> Any:
        try:
            if dtype is DType.bool:
                return {"true": True, "false": False}[token]
            if dtype.is_float:
                value = float(token)
                return np.float64("nan") if math.isnan(value) else value
            if dtype.is_minifloat:
                return self.minifloat(float(token), dtype)
            number, (low, high) = int(token), dtype.bounds
            if low <= number <= high:
                return number
        except (ValueError, KeyError):
            pass
        raise self.error(f"{token[:40]!a} is no {dtype.value}")

    def minifloat(self, value: float, dtype: DType) -> Any:
        """A number that the type holds: these are so few that none is rounded silently."""
        made = dtype.numpy.type(value)
        held = float(np.float32(made))
        if held == value or (math.isnan(held) and math.isnan(value)):
            return made
        raise self.error(f"{value} is no {dtype.value}, which has {held} near it")

    def _find_resources(self) -> None:
        """Index the base64 of the resources section, which the last lines hold."""
        at = self.text.rfind("\nresources {\n")
        if at < 0:
            return
        for m in _RESOURCE.finditer(self.text, at):
            key = json.loads(m["key"]) if m["key"][0] == '"' else m["key"]
            self.inline[key] = m.span("data")

    def resource(self, key: str, type: TensorType) -> np.ndarray[Any, Any]:
        if not type.is_static:
            raise self.error(f"constant @{key!a} needs a static type, not {type}")
        self.limits.check(type, f"constant {key!a}")
        self.total += type.nbytes
        if self.total > self.limits.model_bytes:
            raise LimitError(f"constants take over {self.limits.model_bytes} bytes")
        if key in self.inline:
            a, b = self.inline[key]
            try:
                data = base64.b64decode(self.text[a:b], validate=True)
            except binascii.Error as error:
                raise self.error(f"resource @{key!a} is not base64") from error
            if type.dtype.bits < 8 and len(data) == type.nbytes:  # a byte each: an older text
                return narrow(np.frombuffer(data, np.uint8), type.dtype).reshape(type.static_shape)
            if len(data) != packed_bytes(type):
                raise self.error(f"resource @{key!a} has {len(data)} bytes, {type} needs "
                                 f"{packed_bytes(type)}")  # fmt: skip
            return unpack(data, type)
        array = self.given.get(key)
        if array is None:
            raise self.error(f"resource @{key!a} is nowhere: not in the text nor beside it")
        if TensorType.of(array) != type:
            raise self.error(f"resource @{key!a} is {TensorType.of(array)}, not {type}")
        return array


_RESOURCE = re.compile(
    r'^  @(?P<key>"(?:[^"\\\n]|\\.)*"|[A-Za-z0-9_./]+) = "(?P<data>[A-Za-z0-9+/=]*)"$', re.M
)

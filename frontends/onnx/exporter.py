"""Graphs as ONNX models: float ones and those with quantize/dequantize pairs.

Every op that ONNX names is written as it stands; fused convolutions and groups are taken apart
again.
Integer-level ops have no exact counterpart in ONNX and are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from ...ir import (
    Array,
    DType,
    Graph,
    LimitError,
    Node,
    Op,
    UnsupportedError,
    Value,
)
from ...ir.bodies import walk
from ...ir.conditions import PROPERTY
from ...ir.files import companion, companion_path, replacing, write_atomic
from ...ir.inline import inlined
from ...ir.op import Attribute, op_class
from ...ir.ops.convolution import ConvTranspose
from ...ir.ops.integer import ConvInteger
from ...ir.ops.quantization import QuantizeLinear
from ...ir.ops.structure import Constant, Input
from ...ir.packing import pack
from ...ir.standard import ONNX_TYPES, attribute_proto, schema, schema_defaults, takes
from ...ir.types import TensorType
from .expand import body_of

OLDEST = 18  # the first in which all reductions take their axes as an operand
EXTERNAL_BYTES = 1_500_000_000  # protobuf cannot hold 2 GiB
_BESIDE = ".data"
_ALIGN = 4096
_NO_INTEGERS = "export the graph of quantize/dequantize pairs (int8-qdq), before lower-integer"


def export_onnx(
    graph: Graph,
    path: str | os.PathLike[str] | None = None,
    opset: int = 21,
    *,
    external_bytes: int = EXTERNAL_BYTES,
) -> ModelProto:
    """The graph as a checked ONNX model, written to `path` if one is given.

    Inputs, outputs and nodes keep their names, metadata become properties. Where constants take
    more than `external_bytes` they go into `<path>.DIGEST.data` beside the model (and out of the
    model returned). Raises UnsupportedError for ops that ONNX lacks, StorageError, LimitError.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise UnsupportedError(f"opset {opset} cannot be written: {OLDEST} to {newest} can")
    list(walk(graph))  # bodies are nested no deeper than the limit
    writer = _Writer(inlined(graph), opset)
    model = writer.model()
    if sum(a.nbytes for a in writer.arrays.values()) > external_bytes:
        if path is None:
            raise LimitError(
                f"constants take over {external_bytes} bytes, too many for one protobuf",
                hint="give a path: they then go into a file beside it",
            )
        _write_external(model, writer.arrays, Path(path))
    else:
        model.graph.initializer.extend(_tensor(name, a) for name, a in writer.arrays.items())
        _check(model)
        if path is not None:
            with companion(path, _BESIDE):
                write_atomic(path, model.SerializeToString(deterministic=True))
    return model


@dataclass
class _Writer:
    """Writes one graph; `names` has what each value is called in the file. Names are unique over
    the whole file, and constants of bodies stand with the model's own, which bodies may read."""

    graph: Graph
    opset: int
    names: dict[Value, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    nodes: list[NodeProto] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    returned: tuple[str, ...] = ()  # the outputs' names

    def model(self) -> ModelProto:
        for node, i in (*map(Value, self.graph.inputs), *self.graph.outputs):
            if node.types[i].shape is None:  # bodies need not say it
                raise UnsupportedError(
                    "ONNX wants the rank of inputs and outputs, and this one's is unknown",
                    node=node.name, op=node.op.name, hint="bind the model's sizes first",
                )  # fmt: skip
        for node in self.graph.inputs:
            self.names[Value(node)] = node.name
        self.taken.update(self.names.values())
        self.returned = self.graph.output_names
        proto = self.proto(self.graph.inputs)
        imports = [helper.make_opsetid("", self.opset)]
        # The oldest file version that this opset may stand in: older runtimes refuse newer ones.
        version = helper.find_min_ir_version_for(imports)
        model = helper.make_model(
            proto, opset_imports=imports, ir_version=version, producer_name="taut"
        )
        properties = dict(self.graph.metadata)
        if self.graph.conditions:  # which ONNX cannot check
            properties[PROPERTY] = json.dumps([c.text for c in self.graph.conditions])
        helper.set_model_props(model, properties)
        return model

    def body(self, body: Graph, captures: Sequence[str]) -> GraphProto:
        """A body, its last inputs named as what they capture (and so no inputs in the file)."""
        inner = _Writer(body, self.opset, taken=self.taken, arrays=self.arrays)
        own = body.inputs[: len(body.inputs) - len(captures)]
        for node, name in zip(body.inputs[len(own) :], captures):
            inner.names[Value(node)] = name
        for node in own:
            inner.names[Value(node)] = self.fresh(node.name)
        inner.returned = tuple(self.fresh(name) for name in body.output_names)
        return inner.proto(own)

    def proto(self, inputs: Sequence[Node]) -> GraphProto:
        aliases = self._name_values()
        for node in self.graph.nodes():
            if node is self.graph.result or isinstance(node.op, Input):
                continue
            if isinstance(node.op, Constant):
                self._constant(node.op.value, self.names[Value(node)], node)
            else:
                self._node(node)
        for name, value in aliases:
            self.nodes.append(helper.make_node("Identity", [self.names[value]], [name]))
        return helper.make_graph(
            self.nodes,
            self.graph.name,
            [self._info(self.names[Value(n)], n.type, n) for n in inputs],
            [self._info(name, v.type, v.node) for name, v in self._outputs()],
        )

    # ---- names ---------------------------------------------------------------------------------

    def _outputs(self) -> Iterator[tuple[str, Value]]:
        return zip(self.returned, self.graph.outputs)

    def _name_values(self) -> list[tuple[str, Value]]:
        """Name every value; returns outputs that must be copies of a value named otherwise."""
        aliases: list[tuple[str, Value]] = []
        inputs = {self.names[Value(n)] for n in self.graph.inputs}
        for name, value in self._outputs():
            if self.names.get(value) == name:
                continue
            if name in inputs:
                raise UnsupportedError(f"ONNX cannot name an output {name!a} like another value",
                                       node=value.node.name, hint="rename the output")  # fmt: skip
            self.taken.add(name)
            if value in self.names:
                aliases.append((name, value))
            else:
                self.names[value] = name
        for node in self.graph.nodes():
            for i in range(len(node.results)):
                value = Value(node, i)
                if value in self.names:
                    continue
                if i == 0 and node.name in self.taken and not self.graph.use_count(value):
                    self.names[value] = ""  # unread, and a later result has the node's name
                else:
                    self.names[value] = self.fresh(node.name if i == 0 else f"{node.name}.{i}")
        return aliases

    def fresh(self, name: str) -> str:
        made, k = name, 0
        while made in self.taken:
            k += 1
            made = f"{name}_{k}"
        self.taken.add(made)
        return made

    def _info(self, name: str, type: TensorType, node: Node) -> ValueInfoProto:
        code = _onnx_type(type, self.opset, node)
        return helper.make_tensor_value_info(name, code, type.shape)

    # ---- nodes ---------------------------------------------------------------------------------

    def _constant(self, array: Array, name: str, node: Node) -> None:
        """An initializer, or a Constant node where it is an output."""
        _onnx_type(node.type, self.opset, node)
        if name in self.returned:
            proto = helper.make_node("Constant", [], [name], name=node.name)
            proto.attribute.append(AttributeProto(
                name="value", type=AttributeProto.TENSOR, t=_tensor(name, array)
            ))  # fmt: skip
            self.nodes.append(proto)
        else:
            self.arrays[name] = array

    def _node(self, node: Node) -> None:
        operands = ["" if v is None else self.names[v] for v in self.graph.operands(node)]
        results = [self.names[Value(node, i)] for i in range(len(node.results))]
        expand = _EXPANSIONS.get(node.op.name)
        body = body_of(node, self.graph.operands(node), self.opset)
        if expand is not None:
            expand(self, node, operands, results)
        elif body is not None:
            self.inline(node, body, operands, results)
        else:
            self.emit(node, node.op, operands, results)

    def inline(self, node: Node, body: Graph, operands: list[str], results: list[str]) -> None:
        """A body's nodes in place of the one that it stands for."""
        names = dict(zip((Value(n) for n in body.inputs), filter(None, operands)))
        names |= dict(zip(body.outputs, results))
        for inner in body.nodes():
            value = Value(inner)
            if isinstance(inner.op, Constant):
                names[value] = self.helper_value(node, inner.name)
                self.arrays[names[value]] = inner.op.value
            elif not isinstance(inner.op, Input) and inner is not body.result:
                names.setdefault(value, self.helper_value(node, inner.name))
                given = ["" if v is None else names[v] for v in body.operands(inner)]
                self.emit(node, inner.op, given, [names[value]])

    def emit(self, node: Node, op: Op, operands: list[str], results: list[str]) -> None:
        """One op as one ONNX node. Raises UnsupportedError where ONNX has no such op."""
        kind = type(op).onnx
        found = None if kind is None else schema(kind, self.opset, "")
        if kind is None or found is None or found.deprecated:
            later = kind is not None and schema(kind, onnx.defs.onnx_opset_version(), "")
            if later:
                hint = f"export with opset {later.since_version}"
                raise UnsupportedError(f"ONNX opset {self.opset} has no {kind}", node=node.name,
                                       op=op.name, hint=hint)  # fmt: skip
            raise UnsupportedError("ONNX has no such op", node=node.name, op=op.name,
                                   hint=_NO_INTEGERS)  # fmt: skip
        if len(operands) > found.max_input:
            raise UnsupportedError(f"ONNX's {kind} takes {found.max_input} operands at most",
                                   node=node.name, op=op.name, hint=_NO_INTEGERS)  # fmt: skip
        if op is node.op:
            self._check_types(node, kind, found)
        proto = helper.make_node(kind, operands, results, name=self.graph_name(node, results))
        back = {ours: theirs for theirs, ours in op.renamed}
        defaults = schema_defaults(kind, self.opset, "")
        for a in op.attributes:
            name, value = back.get(a.name, a.name), getattr(op, a.name)
            if not _left_out(a, name, value, defaults):
                if name not in defaults:
                    if a.name == "outputs" or (a.kind != "array" and value == a.default):
                        continue  # said by the number of outputs, or new since this opset
                    raise UnsupportedError(f"opset {self.opset} has no attribute {name} of {kind}",
                                           node=node.name, op=op.name)  # fmt: skip
                proto.attribute.append(attribute_proto(name, value))
        self.nodes.append(proto)

    def _check_types(self, node: Node, kind: str, found: Any) -> None:
        """ONNX has its newer element types in a few ops only, which its checker does not look at.
        Raises UnsupportedError."""
        given = [None if v is None else v.type.dtype for v in self.graph.operands(node)]
        made = [t.dtype for t in node.types]
        for dtypes, places in ((given, found.inputs), (made, found.outputs)):
            for i, dtype in enumerate(dtypes):
                if dtype in _SINCE and not takes(places[min(i, len(places) - 1)], dtype, found):
                    raise UnsupportedError(
                        f"opset {self.opset} has no {kind} of {dtype.value}",
                        node=node.name, op=node.op.name, hint=_later(kind, dtype, self.opset),
                    )  # fmt: skip

    def graph_name(self, node: Node, results: list[str]) -> str:
        """The ONNX node's own name (not a value's): the node's, unless it is one of several."""
        return node.name if results[0] == self.names[Value(node)] else results[0]

    def helper_value(self, node: Node, suffix: str) -> str:
        return self.fresh(f"{node.name}/{suffix}")

    def helper_constant(self, node: Node, suffix: str, value: Any, dtype: DType) -> str:
        name = self.helper_value(node, suffix)
        self.arrays[name] = np.array(value, dtype.numpy)
        return name


def _left_out(a: Attribute, name: str, value: Any, defaults: Any) -> bool:
    if value is None or (a.kind in ("ints", "floats", "strs") and value == ()):
        return True
    default = defaults.get(name)
    if default is None:
        return False
    if isinstance(value, DType):
        return ONNX_TYPES[value] == default
    if isinstance(value, np.ndarray):
        return np.array_equal(value, default) and value.dtype == default.dtype
    return value == default


# ---- ops that become several ---------------------------------------------------------------------

Expansion = Callable[[_Writer, Node, list[str], list[str]], None]


def _expand_fused_conv(w: _Writer, node: Node, operands: list[str], results: list[str]) -> None:
    """activation(conv(x, weight, bias) + residual) as Conv, Add and the activation."""
    op: Any = node.op
    residual, slope = [*operands, "", "", ""][3:5]
    plain = op_class(node.op.name.removeprefix("fused_"))
    given = {a.name: getattr(op, a.name) for a in plain.attributes}
    steps: list[tuple[Op, list[str]]] = [(_sized(w, plain(**given), node), operands[:3])]
    if op.activation == "clip":
        low, high = (
            w.helper_constant(node, k, v, node.type.dtype)
            for k, v in zip(("low", "high"), op.params)
        )
        steps.append((op_class("clip")(), [low, high]))
    elif slope:
        shape = w.helper_constant(node, "shape", [-1] + [1] * (node.type.rank - 2), DType.i64)
        column = w.helper_value(node, "slope")
        w.nodes.append(helper.make_node("Reshape", [slope, shape], [column], name=column))
        steps.append((op_class("prelu")(), [column]))
    elif op.activation:
        steps.append((op.activation_op(), []))
    if residual:
        steps.insert(len(steps) if op.residual_last else 1, (op_class("add")(), [residual]))
    flowing: list[str] = []
    for k, (step, rest) in enumerate(steps):
        last = k == len(steps) - 1
        made = results[0] if last else w.helper_value(node, step.name)
        names = flowing + rest
        while names and not names[-1]:
            names.pop()
        w.emit(node, step, names, [made])
        flowing = [made]


def _sized(w: _Writer, op: Any, node: Node) -> Op:
    """A transposed convolution with auto_pad SAME names its sizes where windows lie apart:
    onnxruntime would else stop at the last one, and not at size * stride as ONNX says."""
    shape, weight = node.type.shape, w.graph.operands(node)[1]
    if type(op) is not ConvTranspose or op.output_shape or not op.auto_pad.startswith("SAME"):
        return op
    if shape is None or not all(isinstance(n, int) for n in shape[2:]):
        return op
    kernel = () if weight is None or weight.shape is None else weight.shape[2:]
    strides, dilations, _ = op.check_window(kernel)
    windows = zip(kernel, strides, dilations)
    if kernel and all(isinstance(k, int) and s <= (k - 1) * d + 1 for k, s, d in windows):
        return op
    return op.replace(output_shape=tuple(shape[2:]))


def _expand_transposed(w: _Writer, node: Node, operands: list[str], results: list[str]) -> None:
    w.emit(node, _sized(w, node.op, node), operands, results)


def _expand_biased(w: _Writer, node: Node, operands: list[str], results: list[str]) -> None:
    """ConvInteger and MatMulInteger: ONNX's have no bias."""
    bias = operands[4] if len(operands) > 4 else ""
    if not bias:
        w.emit(node, node.op, operands[:4], results)
        return
    inner = w.helper_value(node, "product")
    names = operands[:4]
    while not names[-1]:
        names.pop()
    w.emit(node, node.op, names, [inner])
    value = w.graph.operand(node, 4)
    if isinstance(node.op, ConvInteger) and value is not None and value.shape is not None:
        shape = w.helper_constant(node, "shape", [-1] + [1] * (node.type.rank - 2), DType.i64)
        column = w.helper_value(node, "bias")
        w.nodes.append(helper.make_node("Reshape", [bias, shape], [column], name=column))
        bias = column
    w.nodes.append(helper.make_node("Add", [inner, bias], results, name=node.name))


def _expand_bodies(w: _Writer, node: Node, operands: list[str], results: list[str]) -> None:
    """A node with bodies: what it captures is no operand in ONNX; bodies read it by name."""
    op: Any = node.op
    start = op.places.captures
    plain = [a for a in op.attributes if a.kind != "graph" and a.name not in ("carried", "states")]
    given: dict[str, Any] = {a.name: getattr(op, a.name) for a in plain}
    given = {k: v for k, v in given.items() if v != ()}
    given |= {name: w.body(body, operands[start:]) for name, body in op.bodies.items()}
    names = operands[:start]
    while names and not names[-1]:
        names.pop()
    w.nodes.append(
        helper.make_node(op.onnx, names, results, name=w.graph_name(node, results), **given)
    )


def _expand_quantize(w: _Writer, node: Node, operands: list[str], results: list[str]) -> None:
    """Ours divides in single precision (double for f64); since opset 23 the scale's type decides,
    unless it is said."""
    w.emit(node, node.op, operands, results)
    x, scale = w.graph.operands(node)[:2]
    assert x is not None and scale is not None
    ours = QuantizeLinear.divides_in(x.type.dtype)
    if w.opset >= 23 and scale.type.dtype is not ours:
        w.nodes[-1].attribute.append(attribute_proto("precision", ours))


_EXPANSIONS: dict[str, Expansion] = {
    "if": _expand_bodies,
    "loop": _expand_bodies,
    "scan": _expand_bodies,
    "fused_conv": _expand_fused_conv,
    "fused_conv_transpose": _expand_fused_conv,
    "conv_transpose": _expand_transposed,
    "conv_integer": _expand_biased,
    "mat_mul_integer": _expand_biased,
    "quantize_linear": _expand_quantize,
}


# ---- types, tensors, files -----------------------------------------------------------------------


_SINCE = {
    DType.f8e4m3fn: 19, DType.f8e5m2: 19, DType.f8e4m3fnuz: 19, DType.f8e5m2fnuz: 19,
    DType.i4: 21, DType.u4: 21, DType.f4e2m1fn: 23, DType.f8e8m0fnu: 24, DType.i2: 25, DType.u2: 25,
}  # fmt: skip
"""The opset in which ONNX's newer element types came."""


def _later(kind: str, dtype: DType, opset: int) -> str:
    """What to do where an op has not this element type in this opset."""
    for version in range(opset + 1, onnx.defs.onnx_opset_version() + 1):
        found = schema(kind, version, "")
        places = [] if found is None else [*found.inputs, *found.outputs]
        if any(takes(place, dtype, found) for place in places):
            return f"export with opset {version}"
    return "cast to another element type before it"


def _onnx_type(type: TensorType, opset: int, node: Node) -> int:
    code, needed = ONNX_TYPES.get(type.dtype), _SINCE.get(type.dtype, 1)
    if code is None or opset < needed:
        raise UnsupportedError(
            f"opset {opset} has no element type {type.dtype.value}",
            node=node.name, op=node.op.name, hint=f"export with opset {needed}",
        )  # fmt: skip
    return code


def _tensor(name: str, array: Array) -> TensorProto:
    return TensorProto(
        name=name, dims=array.shape, data_type=ONNX_TYPES[DType.of(array)], raw_data=pack(array)
    )


def _write_external(model: ModelProto, arrays: dict[str, Array], path: Path) -> None:
    """Constants into `<path>.DIGEST.data`, then the model: both, or what was there before."""
    with companion(path, _BESIDE) as beside:
        for name, array in arrays.items():
            beside.file.write(bytes(-beside.file.tell() % _ALIGN))
            raw = pack(array)
            tensor = model.graph.initializer.add(
                name=name, dims=array.shape, data_type=ONNX_TYPES[DType.of(array)],
                data_location=TensorProto.EXTERNAL,
            )  # fmt: skip
            where = {"offset": beside.file.tell(), "length": len(raw)}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
            beside.file.write(raw)
        place = companion_path(path, beside.seal(), _BESIDE)
        for tensor in model.graph.initializer:
            tensor.external_data.add(key="location", value=place.name)
        with replacing(path) as file:
            file.write(model.SerializeToString(deterministic=True))
            file.flush()
            _check(file.name)


def _check(model: ModelProto | str) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        text = " ".join(str(error).split())
        raise UnsupportedError(f"ONNX's checker refuses the exported model: {text}") from error

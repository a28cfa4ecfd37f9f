"""The importer: one pass over the nodes, functions and bodies on the way, nothing recursive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto

from ...ir import (
    Graph,
    LimitError,
    Limits,
    ModelError,
    Op,
    TautError,
    TensorType,
    UnsupportedError,
    Value,
    VerifyError,
    op_for_onnx,
)
from ...ir.errors import show_name
from ...ir.standard import dtype_of
from ...ir.types import Dim, symbol
from .adapters import ADAPTERS, Emit
from .calls import Call, attribute_protos, op_attributes, read_attributes
from .control import bodies_of, finish, input_type, takes_bodies
from .frames import Frame, Job, Scope
from .functions import (
    Key,
    builtin,
    check_expansion,
    default_protos,
    key_of,
    opset_imports,
)
from .nested import all_nodes
from .order import in_order, op_name
from .survey import node_name, op_reason
from .tensors import MAX_RANK, TensorReader, refuse_sparse, text

_LONGEST_PREFIX = 200
RETRIES = 64
"""Bodies that are imported again because they do not take the types around them."""


class Importer:
    """Builds one Graph from one GraphProto."""

    def __init__(
        self,
        proto: GraphProto,
        versions: Mapping[str, int],
        functions: Mapping[Key, FunctionProto],
        reader: TensorReader,
        limits: Limits,
    ) -> None:
        self.proto, self.functions, self.reader, self.limits = proto, functions, reader, limits
        self.versions = versions
        self.symbols: dict[str, str] = {}
        self.stack: list[Frame] = []
        self.serial = self.retries = self.made = 0

    def run(self) -> Graph:
        """Raises TautErrors that name the node."""
        check_expansion(self.proto.node, self.functions, self.limits)
        scope = Scope(Graph(text(self.proto.name, "the graph's name") or "main"))
        top = self._open(self.proto, scope, self.versions)
        self.stack = [top]
        while self.stack:
            frame = self.stack[-1]
            node = next(frame.nodes, None)
            try:
                if node is None:
                    self._leave(self.stack.pop())
                else:
                    self._node(node, frame)
            except TautError as error:
                if node is not None:
                    error.with_context(node=node_name(node), op=op_name(node))
                self._retry(frame, error)
            self.made += 1
            if self.made > self.limits.nodes:
                raise LimitError(f"the graph has over {self.limits.nodes} nodes")
        if not self.proto.output:
            raise ModelError("the graph has no outputs")
        self._set_outputs(self.proto, top)
        return scope.graph

    # ---- the boundary --------------------------------------------------------------------------

    def _open(
        self,
        proto: GraphProto,
        scope: Scope,
        versions: Mapping[str, int],
        outer: Frame | None = None,
        job: Job | None = None,
    ) -> Frame:
        """A frame for a graph: its inputs are added, initializers wait until something reads
        them."""
        refuse_sparse(proto.sparse_initializer)
        for tensor in proto.initializer:
            name = text(tensor.name, "an initializer's name")
            if not name or name in scope.initializers:
                raise ModelError(f"initializer {show_name(name)} has no name of its own")
            scope.initializers[name] = tensor
        attributes = None if outer is None else outer.attributes
        frame = Frame(
            scope, iter(()), {}, versions, attributes=attributes, outer=outer, job=job
        )  # fmt: skip
        for place, info in enumerate(proto.input):
            self._add_input(frame, place, info)
        for name in scope.initializers:
            frame.values.setdefault(name, None)  # read when used
        self._state_types(proto, scope)
        frame.nodes = iter(in_order(proto.node, frame.values, frame.around))
        return frame

    def _add_input(self, frame: Frame, place: int, info: ValueInfoProto) -> None:
        scope, job = frame.scope, frame.job
        name = text(info.name, "an input's name")
        if not name or name in frame.values:
            raise ModelError(f"input {show_name(name)} has no name of its own")
        if name in scope.initializers and job is None:
            frame.values[name] = None  # a default value: the input is taken as the constant
            return
        type = self._stated_type(info)
        if job is not None:
            type = input_type(job, job.bodies[len(job.done)], place, type)
        if type is None:
            raise ModelError("an input has no type", node=name)
        self.limits.check(type, f"input {show_name(name)}")
        frame.values[name] = Value(scope.graph.add_input(scope.graph.fresh(name), type))

    def _state_types(self, proto: GraphProto, scope: Scope) -> None:
        for info in [*proto.value_info, *proto.output]:
            name = text(info.name, "a value's name")
            type = self._stated_type(info)
            if type is None:
                continue
            before = scope.stated.setdefault(name, type)
            if not before.accepts(type):
                raise ModelError(f"is typed {before} and {type}", node=name)

    def _stated_type(self, info: ValueInfoProto) -> TensorType | None:
        name = text(info.name, "a value's name")
        if info.type.WhichOneof("value") != "tensor_type":
            return None
        proto = info.type.tensor_type
        try:
            dtype = dtype_of(proto.elem_type)
            if not proto.HasField("shape"):
                return TensorType(dtype, None)
            if len(proto.shape.dim) > MAX_RANK:
                raise ModelError(f"has {len(proto.shape.dim)} dimensions")
            return TensorType(dtype, tuple(self._dim(d) for d in proto.shape.dim))
        except TautError as error:
            raise error.with_context(node=name)

    def _dim(self, dim: Any) -> Dim:
        match dim.WhichOneof("value"):
            case "dim_value":
                if dim.dim_value == -1:
                    return None  # what Paddle's exporter writes for a dimension that varies
                if dim.dim_value < 0:
                    raise ModelError(f"has a negative dimension ({dim.dim_value})",
                                     hint="name it or leave it out if it varies")  # fmt: skip
                return int(dim.dim_value)
            case "dim_param":
                return self._symbol(text(dim.dim_param, "a dimension's name"))
        return None

    def _symbol(self, name: str) -> Dim:
        """A symbol of its own for each name, the same for the same name."""
        if name == "None" or not any(c.isalpha() for c in name):
            return None  # exporters write "?" for each of several dimensions that differ
        if name not in self.symbols:
            base = made = symbol(name[:_LONGEST_PREFIX])
            taken, k = set(self.symbols.values()), 0
            while made in taken:
                k += 1
                made = f"{base}_{k}"
            self.symbols[name] = made
        return self.symbols[name]

    def _set_outputs(self, proto: GraphProto, frame: Frame) -> None:
        """What the graph returns. A body may return a value twice, under any names."""
        outputs: dict[str, Value] = {}
        for info in proto.output:
            name = text(info.name, "an output's name")
            if name in outputs and frame.job is None:
                raise ModelError("an output is named twice", node=name)
            if name not in frame.values and not frame.around(name):
                raise ModelError("an output is computed by no node", node=name)
            value = self._read(name, frame)
            if value is None:
                raise ModelError("an output has no value", node=name)
            self._check_stated(name, value, frame.scope)
            outputs[name if name not in outputs else f"{name}.{len(outputs)}"] = value
        frame.scope.graph.set_outputs(outputs)

    def _check_stated(self, name: str, value: Value, scope: Scope) -> None:
        stated = scope.stated.get(name)
        if stated is not None and not stated.accepts(value.type):
            raise VerifyError(
                f"the file types {show_name(name)} {stated}, but it is {value.type}",
                node=value.node.name, op=value.node.op.name,
                hint="remove the file's value_info or export the model again",
            )  # fmt: skip

    # ---- nodes ---------------------------------------------------------------------------------

    def _read(self, name: str, frame: Frame) -> Value | None:
        known = frame.values.get(name)
        if known is not None:
            return known
        value = frame.read(name, self.reader)
        if value is not None and not frame.function:
            self._check_stated(name, value, frame.scope)
        return value

    def _node(self, node: NodeProto, frame: Frame) -> None:
        key = key_of(node)
        version = frame.versions.get(key[0])
        inputs = [self._read(text(i), frame) for i in node.input]
        outputs = [text(o) for o in node.output]
        function = self.functions.get(key)
        if function is not None:
            protos = attribute_protos(node, frame.attributes)
            self._enter(function, frame, inputs, outputs, protos)
            return
        if version is None:
            raise ModelError(f"the model imports no opset of domain {show_name(key[0])}")
        protos = attribute_protos(node, frame.attributes)
        call = Call(key[1], key[0], version, inputs, [o and frame.local_name(o) for o in outputs])
        if call.op == "Constant" and not call.domain:
            array = _constant(protos, self.reader)
            made: Sequence[Value] = [frame.scope.graph.constant(array, call.name)]
        elif takes_bodies(call):
            self._start(call, frame, node, protos)
            return
        else:
            call.attributes = read_attributes(protos, self.reader)
            results = self._import(call, frame.scope.graph)
            if results is None:
                body = builtin(call, [None if v is None else v.type for v in inputs])
                if body is None:
                    raise UnsupportedError("is not supported yet", hint="`taut ops` lists what is")
                self._survey_builtin(body, frame)
                defaults = default_protos(call.op, version, call.domain)
                self._enter(body, frame, inputs, outputs, {**defaults, **protos})
                return
            made = results
        self._define_all(call, made, outputs, frame)

    def _define_all(
        self, call: Call, made: Sequence[Value], outputs: Sequence[str], frame: Frame
    ) -> None:
        if call.outputs_used() > len(made):
            raise UnsupportedError(f"its output {len(made)} is not supported: Taut has {len(made)}")
        for name, value in zip(outputs, made):
            if name:
                self._define(name, value, frame)

    def _survey_builtin(self, body: FunctionProto, frame: Frame) -> None:
        """ONNX's own definitions may depend on types, so that the survey could not look inside."""
        versions = opset_imports(body, frame.versions)
        for domain, op, _ in map(key_of, all_nodes(body.node)):
            reason = op_reason(op, versions.get(domain), domain)
            if reason is not None:
                raise UnsupportedError(f"its definition by other ops needs {op}: {reason}")

    def _define(self, name: str, value: Value | None, frame: Frame) -> None:
        if name in frame.values and frame.values[name] is not None:
            raise ModelError(f"{show_name(name)} is defined twice")
        frame.values[name] = value
        if value is not None and not frame.function:
            self._check_stated(name, value, frame.scope)

    def _import(self, call: Call, graph: Graph) -> Sequence[Value] | None:
        """The call's results by an adapter or a declaration; None if neither knows it."""
        if call.domain:
            raise UnsupportedError(f"domain {show_name(call.domain)} is not supported")
        emit = Emit(graph, call.name)
        opset = call.version
        for before, adapter in ADAPTERS.get(call.op, ()):
            if opset < before:
                made = adapter(emit, call)
                if made is not None:
                    return made
        cls = op_for_onnx(call.op)
        if cls is None:
            return None
        op = make_op(cls, call)
        node = graph.add(op, *call.inputs, name=call.name)
        return [Value(node, i) for i in range(len(node.results))]

    # ---- functions -----------------------------------------------------------------------------

    def _enter(
        self,
        function: FunctionProto,
        frame: Frame,
        inputs: Sequence[Value | None],
        outputs: Sequence[str],
        given: Mapping[str, AttributeProto],
    ) -> None:
        """Go on with a function's body before what follows the call."""
        if len(self.stack) > self.limits.depth:
            raise LimitError(f"functions are nested deeper than {self.limits.depth}")
        formal = [text(i) for i in function.input]
        results = [text(o) for o in function.output]
        if len(inputs) > len(formal) or len(outputs) > len(results):
            raise ModelError(f"the function takes {len(formal)} operands and gives {len(results)}")
        attributes = {text(a.name): a for a in function.attribute_proto}
        attributes |= given
        values: dict[str, Value | None] = dict.fromkeys(formal)
        values.update(zip(formal, inputs))
        returns = [(r, o) for r, o in zip(results, outputs) if o]
        renamed = {r: frame.local_name(o) for r, o in returns}
        nodes = in_order(function.node, values)
        versions = opset_imports(function, frame.versions)
        prefix = self._prefix(frame, outputs)
        self.stack.append(
            Frame(frame.scope, iter(nodes), values, versions, renamed, prefix, attributes, returns,
                  function=True)
        )  # fmt: skip

    def _prefix(self, frame: Frame, outputs: Sequence[str]) -> str:
        """What names the values inside a call: the call's own name, while that stays short."""
        name = next((o for o in outputs if o), "")
        if name and len(frame.prefix) + len(name) < _LONGEST_PREFIX:
            return f"{frame.local_name(name)}/"
        self.serial += 1
        return f"function_{self.serial}/"

    def _leave(self, frame: Frame) -> None:
        if frame.job is not None:
            self._end_body(frame, frame.job)
        elif self.stack:
            caller = self.stack[-1]
            for inner, outer in frame.returns:
                if inner not in frame.values:
                    raise ModelError(f"a function does not compute its result {show_name(inner)}")
                self._define(outer, frame.values[inner], caller)

    # ---- bodies --------------------------------------------------------------------------------

    def _start(
        self, call: Call, frame: Frame, node: NodeProto, protos: Mapping[str, AttributeProto]
    ) -> None:
        """Go on with a node's first body before what follows the node."""
        graphs = {k: a.g for k, a in protos.items() if a.type == AttributeProto.GRAPH}
        plain = {k: a for k, a in protos.items() if k not in graphs}
        call.attributes = read_attributes(plain, self.reader)
        self._open_body(Job(call, frame, node, bodies_of(call, graphs)))

    def _open_body(self, job: Job) -> None:
        if len(self.stack) > 2 * self.limits.depth:
            raise LimitError(f"bodies and functions are nested deeper than {self.limits.depth}")
        body = job.bodies[len(job.done)]
        name = text(body.proto.name, "a graph's name") or body.attribute
        scope = Scope(Graph(name), job.loose)
        for value in job.done[-1].captures if job.done else ():
            scope.capture(value)
        self.stack.append(self._open(body.proto, scope, job.frame.versions, job.frame, job))

    def _end_body(self, frame: Frame, job: Job) -> None:
        self._set_outputs(job.bodies[len(job.done)].proto, frame)
        job.done.append(frame.scope)
        if len(job.done) < len(job.bodies):
            self._open_body(job)
            return
        try:
            made = finish(job)
        except TautError as error:
            raise error.with_context(node=node_name(job.node), op=op_name(job.node))
        outputs = [text(o) for o in job.node.output]
        self._define_all(job.call, made, outputs, job.frame)

    def _retry(self, frame: Frame, error: TautError) -> None:
        """Import the innermost body's node again with less known of its types, or raise."""
        job = frame.job
        if frame.function:
            job = next((f.job for f in reversed(self.stack) if not f.function), None)
        if job is None or isinstance(error, LimitError):
            raise error
        job.first_error = job.first_error or error
        self.retries += 1
        if not isinstance(error, VerifyError) or job.loose == 2 or self.retries > RETRIES:
            raise job.first_error
        while self.stack[-1] is not job.frame:
            self.stack.pop()
        job.loose += 1
        job.done.clear()
        self._open_body(job)


def make_op(cls: type[Op], call: Call) -> Op:
    """The declaration with the call's attributes. Raises ModelError for missing ones."""
    given = op_attributes(cls, call)
    names = {a.name for a in cls.attributes}
    if "outputs" in names and "outputs" not in given:
        given["outputs"] = max(call.outputs_used(), 1)
    try:
        return cls(**given)
    except TypeError as error:
        missing = [a.name for a in cls.attributes if a.name not in given]
        raise ModelError(f"needs attributes, of {missing}, that it is not given") from error


def _constant(protos: Mapping[str, AttributeProto], reader: TensorReader) -> np.ndarray[Any, Any]:
    """The array of a Constant node, in whichever form it is given."""
    values = read_attributes(protos, reader)
    if len(values) != 1:
        raise ModelError(f"a constant has {len(values)} values, not one")
    ((name, value),) = values.items()
    match name:
        case "value" if isinstance(value, np.ndarray):
            return value
        case "value_float" if isinstance(value, float):
            return np.array(protos[name].f, np.float32)
        case "value_floats" if isinstance(value, tuple):
            return np.array(list(protos[name].floats), np.float32)
        case "value_int" if isinstance(value, int):
            return np.array(value, np.int64)
        case "value_ints" if isinstance(value, tuple):
            return np.array(value, np.int64)
        case "value_string" | "value_strings":
            raise UnsupportedError("string constants are not supported")
    raise ModelError(f"a constant has an unknown value {name!a}")

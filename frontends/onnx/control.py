"""If, Loop and Scan: from calls with subgraphs to nodes with bodies.

A body is imported with the types that its node's operands have. Where it does not take them (a
value changes its shape from iteration to iteration, or a branch is not meant for this shape), it is
imported again with sizes and then ranks forgotten; afterwards its types are made as close as they
can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import GraphProto

from ...ir import DType, ModelError, TensorType, UnsupportedError, Value, op_for_onnx
from .calls import Call, op_attributes
from .frames import Body, Job, loosened

BODIES = {
    "If": ("then_branch", "else_branch"),
    "Loop": ("body",),
    "Scan": ("body",),
}
I64, BOOL = TensorType(DType.i64), TensorType(DType.bool)


def bodies_of(call: Call, given: Mapping[str, GraphProto]) -> list[Body]:
    """The call's bodies and what they take. Raises ModelError where one is missing."""
    found: list[Body] = []
    for name in BODIES[call.op]:
        if name not in given:
            raise ModelError(f"attribute {name} is missing or no graph")
        types = _input_types(call)
        count = len(given[name].input)
        if count != len(types):
            raise ModelError(f"the body {name} takes {count} inputs, not {len(types)}")
        found.append(Body(name, given[name], types))
    return found


def _input_types(call: Call) -> list[TensorType]:
    """What the bodies get from their node, captures left out."""
    if call.op == "If":
        call.required(0)
        return []
    if call.op == "Loop":
        carried = [call.required(k).type for k in range(2, len(call.inputs))]
        return [I64, BOOL, *carried]
    if call.version < 9:
        raise UnsupportedError("scan of opset 8 is not supported",
                               hint="convert it with onnx.version_converter")  # fmt: skip
    states = scan_states(call)
    axes = call.attributes.get("scan_input_axes", ())
    types = [call.required(k).type for k in range(len(call.inputs))]
    for k in range(states, len(types)):
        shape = types[k].shape
        axis = axes[k - states] if k - states < len(axes) else 0
        if shape is not None:
            if not -len(shape) <= axis < len(shape):
                raise ModelError(f"scan input axis {axis} is out of range for {types[k]}")
            axis %= len(shape)
            types[k] = types[k].with_shape(shape[:axis] + shape[axis + 1 :])
    return types


def scan_states(call: Call) -> int:
    """How many of a Scan's operands are states."""
    scanned = call.attributes.get("num_scan_inputs")
    if not isinstance(scanned, int) or not 1 <= scanned <= len(call.inputs):
        raise ModelError(f"num_scan_inputs is {scanned!r} of {len(call.inputs)} operands")
    return len(call.inputs) - scanned


def input_type(job: Job, body: Body, place: int, stated: TensorType | None) -> TensorType:
    """The type of a body's input: what its node hands in, or the file's word where that says more
    or says that it varies. Raises ModelError where they differ."""
    made = body.types[place]
    if stated is None:
        return loosened(made, job.loose)
    if job.call.op == "Loop" and place < 2 and stated.shape == (1,):
        made = made.with_shape((1,))  # runtimes make the count and the condition so
    if made.dtype is not stated.dtype:
        raise ModelError(f"input {place} of the body {body.attribute} is typed {stated}, but gets "
                         f"{made}")  # fmt: skip
    return loosened(made, job.loose)


def finish(job: Job) -> list[Value]:
    """Add the node whose bodies are done. Raises VerifyError where they do not fit it."""
    call, graph = job.call, job.frame.scope.graph
    captured = list(job.done[-1].captures)  # each body's begin with those of the one before
    for scope in job.done[:-1]:
        for value in captured:
            scope.capture(value)
    cls: Any = op_for_onnx(call.op)
    given = op_attributes(cls, call)
    given |= {b.attribute: scope.graph for b, scope in zip(job.bodies, job.done)}
    operands: list[Value | None] = list(call.inputs)
    if call.op == "Loop":
        operands += [None] * (2 - len(operands))
        given["carried"] = len(operands) - 2
    elif call.op == "Scan":
        given["states"] = scan_states(call)
    op = cls(**given)
    node = graph.add(op, *operands, *captured, name=call.name)
    graph.set_op(node, op.refined(*graph.abstracts(node)))
    return [Value(node, i) for i in range(len(node.results))]


def takes_bodies(call: Call) -> bool:
    return not call.domain and call.op in BODIES

"""If, Loop and Scan: bodies of a few element-wise nodes over what they carry and capture."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from taut.ir import DType
from taut.ir.standard import ONNX_TYPES

from ..sketch import Ref, Sketch
from .base import recipe

_UNARY = ("Neg", "Abs", "Identity", "Relu", "Tanh")
_BINARY = ("Add", "Mul", "Sub", "Max")
make = helper.make_node


def _info(name: str, dtype: DType, shape: Any) -> Any:
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)


def _chain(d: Sketch, start: str, others: list[str], prefix: str) -> list[NodeProto]:
    """One to three nodes that begin at `start`; the last gives `<prefix>_out`."""
    nodes, now = [], start
    count = d.choices.between(1, 3)
    for i in range(count):
        name = f"{prefix}_out" if i == count - 1 else f"{prefix}_{i}"
        if others and d.maybe(50):
            nodes.append(make(d.choices.one(_BINARY), [now, d.choices.one(others)], [name]))
        else:
            nodes.append(make(d.choices.one(_UNARY), [now], [name]))
        now = name
    return nodes


@recipe("If")
def branches(d: Sketch) -> None:
    x = d.given(DType.f32, d.shape((2, 1, 0)), "mild", constant=10)
    condition = d.put(np.array(d.maybe(50)), 30)
    bodies = {}
    for key in ("then_branch", "else_branch"):
        nodes = _chain(d, x.name, [x.name], key)
        out = [_info(f"{key}_out", x.dtype, list(x.shape))]
        bodies[key] = helper.make_graph(nodes, key, [], out)
    d.emit([condition], bodies)
    d.calls.append(_join(d, d.calls[-1].results[0], x))


def _join(d: Sketch, result: str, x: Ref) -> Any:
    """The result plus x, so that what the body captures is read outside as well."""
    from ..sketch import Call

    return Call("Add", [Ref(result, x.dtype, x.shape), x], {}, [f"{result}_j"])


@recipe("Loop")
def loop(d: Sketch) -> None:
    state = d.given(DType.f32, d.shape((1, 2, 0)), "tame", constant=20)
    other = d.given(DType.f32, state.shape, "tame")
    trips = d.put(np.array(d.choices.one((3, 1, 0, 5))), 50)
    begin = d.put(np.array(not d.maybe(10)), 50) if d.maybe(60) else None
    nodes = _chain(d, "state", [other.name, "state"], "b")
    stop = d.maybe(30)
    if stop:
        limit = helper.make_tensor("limit", ONNX_TYPES[DType.i64], (), [d.choices.one((1, 0, 2))])
        nodes += [make("Constant", [], ["at"], value=limit), make("Less", ["i", "at"], ["go"])]
    else:
        nodes.append(make("Identity", ["c"], ["go"]))
    scanned = d.maybe(60)
    outputs = [_info("go", DType.bool, []), _info("b_out", DType.f32, list(state.shape))]
    if scanned:
        nodes.append(make("Neg", ["b_out"], ["each"]))
        outputs.append(_info("each", DType.f32, list(state.shape)))
    inputs = [_info("i", DType.i64, []), _info("c", DType.bool, []),
              _info("state", DType.f32, list(state.shape))]  # fmt: skip
    body = helper.make_graph(nodes, "body", inputs, outputs)
    d.emit([trips, begin, state], {"body": body}, 1 + scanned)


@recipe("Scan")
def scan(d: Sketch) -> None:
    shape = d.shape((1, 2, 0))
    state = d.given(DType.f32, shape, "tame", constant=20)
    length, axis = d.choices.one((3, 1, 4)), d.choices.between(0, len(shape))
    whole = (*shape[:axis], length, *shape[axis:])
    over = d.given(DType.f32, whole, "tame", constant=10)
    nodes = [make("Add", ["s", "x"], ["sum"]), *_chain(d, "sum", ["x", "s"], "b"),
             make("Neg", ["b_out"], ["each"])]  # fmt: skip
    given: dict[str, Any] = {"num_scan_inputs": 1}
    if axis or d.maybe(40):
        given["scan_input_axes"] = (axis - len(whole) if d.maybe(30) else axis,)
    for name in ("scan_input_directions", "scan_output_directions"):
        if d.maybe(35):
            given[name] = (d.choices.one((1, 0)),)
    if d.maybe(35):
        given["scan_output_axes"] = (d.choices.between(0, len(shape)),)
    inputs = [_info("s", DType.f32, list(shape)), _info("x", DType.f32, list(shape))]
    outputs = [_info("b_out", DType.f32, list(shape)), _info("each", DType.f32, list(shape))]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    d.emit([state, over], {**given, "body": body}, 2)

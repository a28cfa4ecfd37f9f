"""Models with If, Loop and Scan: imported, and exported again, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from taut.frontends.onnx import UnsupportedOps, export_onnx, load_onnx, unsupported_ops
from taut.ir import LimitError, Limits, TautError, difference, interpret, parse, print_graph

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
make = helper.make_node
Values = Sequence[tuple[str, int, Any]]


def infos(values: Values) -> list[Any]:
    return [helper.make_tensor_value_info(*v) for v in values]


def body(nodes: Sequence[Any], inputs: Values, outputs: Values, **constants: Any) -> GraphProto:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    return helper.make_graph(list(nodes), "body", infos(inputs), infos(outputs), tensors)


def model(
    nodes: Sequence[Any], inputs: Values, outputs: Values, opset: int = 21, functions: Any = (),
    **constants: Any,
) -> ModelProto:  # fmt: skip
    graph = body(nodes, inputs, outputs, **constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def onnxruntime(proto: ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    data = proto.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def agrees(proto: ModelProto, *feeds: dict[str, Any]) -> None:
    """Taut's import, its text and its export give onnxruntime's numbers on the model."""
    graph = load_onnx(proto)
    again = export_onnx(graph)
    assert difference(graph, load_onnx(again), names=True) is None
    assert print_graph(parse(print_graph(graph))) == print_graph(graph)
    for f in feeds:
        want = onnxruntime(proto, f)
        for made in (list(interpret(graph, f).values()), onnxruntime(again, f)):
            assert len(made) == len(want)
            for x, y in zip(made, want):
                assert x.shape == y.shape and x.dtype == y.dtype
                np.testing.assert_allclose(x, y, rtol=1e-6)


X = ("x", F32, ["n", 2])
ONES = np.ones((3, 2), np.float32)


def test_if_captures_values_and_initializers() -> None:
    then = body([make("Mul", ["x", "w"], ["t"]), make("Add", ["t", "own"], ["u"])], [],
                [("u", F32, None)], own=np.float32([1, 2]))  # fmt: skip
    other = body([make("Add", ["r", "w"], ["e"])], [], [("e", F32, None)])
    proto = model([make("Relu", ["x"], ["r"]),
                   make("If", ["c"], ["y"], then_branch=then, else_branch=other)],
                  [("c", BOOL, []), X], [("y", F32, None)], w=np.float32([3, 4]))  # fmt: skip
    agrees(proto, {"c": np.array(True), "x": ONES}, {"c": np.array(False), "x": -ONES})
    node = next(n for n in load_onnx(proto).nodes() if n.op.name == "if")
    assert [n.name for n in node.op.then_branch.inputs] == ["x", "r"]  # type: ignore[attr-defined]


def test_a_branch_may_return_what_it_captures_and_nothing_else() -> None:
    then = body([make("Identity", ["x"], ["t"])], [], [("t", F32, None)])
    other = body([], [], [("w", F32, [1, 2])], w=np.float32([[3, 4]]))
    proto = model([make("If", ["c"], ["y"], then_branch=then, else_branch=other)],
                  [("c", BOOL, []), X], [("y", F32, None)])  # fmt: skip
    graph = load_onnx(proto)
    assert interpret(graph, {"c": np.array(False), "x": ONES})["y"].tolist() == [[3, 4]]
    assert str(graph.outputs[0].type) == "f32[?,2]"


def counter(extra: Sequence[Any] = (), carried: str = "v") -> GraphProto:
    return body(
        [make("Add", ["v", "step"], ["w"]), make("ReduceSum", ["w"], ["s"], keepdims=0),
         make("Less", ["s", "bound"], ["more"]), *extra],
        [("i", I64, []), ("k", BOOL, []), (carried, F32, None)],
        [("more", BOOL, []), ("w", F32, None), ("s", F32, None)], bound=np.float32(20),
    )  # fmt: skip


@pytest.mark.parametrize("given", [("m", "go"), ("m", ""), ("", "go")])
def test_loop(given: tuple[str, str]) -> None:
    # Without a condition onnxruntime heeds the body's all the same, so the bound is out of reach.
    trip = np.array(3 if "" in given else 9)
    proto = model([make("Loop", [*given, "x"], ["y", "s"], body=counter())],
                  [("m", I64, []), ("go", BOOL, []), X], [("y", F32, None), ("s", F32, None)],
                  step=np.float32([1, 0.5]))  # fmt: skip
    feeds = {"m": trip, "go": np.array(True), "x": ONES}
    agrees(proto, feeds, {**feeds, "m": np.array(0)} if given[0] else feeds)


def test_a_carried_value_that_grows() -> None:
    grow = body([make("Concat", ["v", "v"], ["w"], axis=0), make("Identity", ["k"], ["c"])],
                [("i", I64, []), ("k", BOOL, []), ("v", F32, [None, 2])],
                [("c", BOOL, []), ("w", F32, [None, 2])])  # fmt: skip
    proto = model([make("Loop", ["m", "", "x"], ["y"], body=grow)],
                  [("m", I64, []), ("x", F32, [3, 2])], [("y", F32, None)])  # fmt: skip
    agrees(proto, {"m": np.array(3), "x": ONES})
    assert str(load_onnx(proto).outputs[0].type) == "f32[?,2]"


def test_loops_in_branches_in_loops() -> None:
    then = body([make("Loop", ["m", "", "v"], ["a", "b"], body=counter([], "p"))], [],
                [("a", F32, None)])  # fmt: skip
    then.node[0].attribute[0].g.node[0].input[0] = "p"
    other = body([make("Neg", ["v"], ["z"])], [], [("z", F32, None)])
    odd = [make("Mod", ["i", "two"], ["half"]), make("Cast", ["half"], ["flag"], to=BOOL),
           make("If", ["flag"], ["q"], then_branch=then, else_branch=other),
           make("Identity", ["k"], ["c"])]  # fmt: skip
    outer = body(odd, [("i", I64, []), ("k", BOOL, []), ("v", F32, None)],
                 [("c", BOOL, []), ("q", F32, None)], two=np.array(2))  # fmt: skip
    proto = model([make("Loop", ["m", "", "x"], ["y"], body=outer)], [("m", I64, []), X],
                  [("y", F32, None)], step=np.float32([1, 0.5]))  # fmt: skip
    agrees(proto, {"m": np.array(3), "x": ONES})


def test_scan() -> None:
    inner = body(
        [make("Add", ["h", "e"], ["g"]), make("Mul", ["g", "w"], ["s"])],
        [("h", F32, [2]), ("e", F32, [2])], [("g", F32, [2]), ("s", F32, [2])],
    )  # fmt: skip
    for more in ({}, {"scan_input_directions": [1], "scan_output_directions": [1]},
                 {"scan_output_axes": [1]}):  # fmt: skip
        proto = model([make("Scan", ["h0", "x"], ["h1", "y"], body=inner, num_scan_inputs=1,
                            **more)], [("h0", F32, [2]), X], [("h1", F32, None), ("y", F32, None)],
                      w=np.float32([3, 4]))  # fmt: skip
        agrees(proto, {"h0": np.zeros(2, np.float32), "x": ONES})


def test_functions_in_bodies_and_bodies_in_functions() -> None:
    then = body([make("Mul", ["a", "a"], ["t"])], [], [("t", F32, None)])
    other = body([make("Twice", ["a"], ["e"], domain="local")], [], [("e", F32, None)])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    twice = helper.make_function("local", "Twice", ["p"], ["q"],
                                 [make("Add", ["p", "p"], ["q"])], imports)  # fmt: skip
    choose = helper.make_function(
        "local", "Choose", ["c", "a"], ["y"],
        [make("If", ["c"], ["y"], then_branch=then, else_branch=other)], imports)  # fmt: skip
    proto = model([make("Choose", ["c", "x"], ["y"], domain="local")], [("c", BOOL, []), X],
                  [("y", F32, None)], functions=[twice, choose])  # fmt: skip
    agrees(proto, {"c": np.array(True), "x": ONES * 3}, {"c": np.array(False), "x": ONES * 3})


def test_a_branch_for_other_shapes_is_imported() -> None:
    """What exporters write for `squeeze` where the size is not known to them."""
    then = body([make("Squeeze", ["x", "axes"], ["t"])], [], [("t", F32, None)], axes=np.array([0]))
    other = body([make("Identity", ["x"], ["e"])], [], [("e", F32, None)])
    proto = model([make("If", ["c"], ["y"], then_branch=then, else_branch=other)],
                  [("c", BOOL, []), ("x", F32, [3, 2])], [("y", F32, None)])  # fmt: skip
    graph = load_onnx(proto)
    assert interpret(graph, {"c": np.array(False), "x": ONES})["y"].shape == (3, 2)


def test_nodes_may_stand_in_any_order_around_bodies() -> None:
    then = body([make("Add", ["late", "late"], ["t"])], [], [("t", F32, None)])
    proto = model([make("If", ["c"], ["y"], then_branch=then, else_branch=then),
                   make("Relu", ["x"], ["late"])],
                  [("c", BOOL, []), X], [("y", F32, None)])  # fmt: skip
    made = interpret(load_onnx(proto), {"c": np.array(True), "x": ONES})
    assert made["y"].tolist() == (2 * ONES).tolist()


def test_the_survey_looks_into_bodies() -> None:
    then = body([make("Bernoulli", ["x"], ["t"])], [], [("t", F32, None)])
    proto = model([make("If", ["c"], ["y"], then_branch=then, else_branch=then)],
                  [("c", BOOL, []), X], [("y", F32, None)])  # fmt: skip
    then.node[0].op_type = "RandomNormalLike"
    proto.graph.node[0].attribute[0].g.CopyFrom(then)
    assert [u.op for u in unsupported_ops(proto)] == ["RandomNormalLike"]
    with pytest.raises(UnsupportedOps):
        load_onnx(proto)


def test_deep_nesting_is_refused_at_once() -> None:
    graph = body([make("Relu", ["x"], ["y"])], [], [("y", F32, None)])
    proto = ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", 21)])
    proto.graph.input.extend(infos([("c", BOOL, []), X]))
    proto.graph.output.extend(infos([("y", F32, None)]))
    at = proto.graph
    for _ in range(10_000):
        node = at.node.add(op_type="If", input=["c"], output=["y"])
        node.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)
        at = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        at.output.extend(infos([("y", F32, None)]))
    with pytest.raises(LimitError, match="nested deeper than 64"):
        load_onnx(proto)
    with pytest.raises(LimitError, match="nested deeper than 64"):
        unsupported_ops(proto)


def test_thirty_nested_branches_load() -> None:
    inner = body([make("Relu", ["x"], ["y30"])], [], [("y30", F32, None)])
    for k in range(29, 0, -1):
        inner = body([make("If", ["c"], [f"y{k}"], then_branch=inner, else_branch=inner)]
                     if k > 27 else [make("If", ["c"], [f"y{k}"], then_branch=inner,
                                          else_branch=body([make("Neg", ["x"], ["e"])], [],
                                                           [("e", F32, None)]))],
                     [], [(f"y{k}", F32, None)])  # fmt: skip
    proto = model([make("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
                  [("c", BOOL, []), X], [("y", F32, None)])  # fmt: skip
    made = interpret(load_onnx(proto), {"c": np.array(True), "x": ONES})
    assert made["y"].tolist() == ONES.tolist()
    with pytest.raises(LimitError, match="deeper than 9"):
        load_onnx(proto, limits=Limits(depth=9))


@pytest.mark.parametrize("change, match", [
    (lambda n: n.attribute.pop(), "else_branch is missing"),
    (lambda n: n.attribute[0].g.input.extend(infos([("z", F32, [])])), "takes 1 inputs, not 0"),
    (lambda n: n.attribute[0].g.output.extend(infos([("z", F32, [])])), "nothing defines"),
    (lambda n: n.attribute[0].g.output.pop(), "outputs"),
    (lambda n: n.ClearField("input"), "operand 0 is missing"),
    (lambda n: n.attribute[0].g.node[0].input.__setitem__(0, "nowhere"), "nothing defines"),
])  # fmt: skip
def test_broken_branches(change: Any, match: str) -> None:
    then = body([make("Neg", ["x"], ["t"])], [], [("t", F32, None)])
    other = body([make("Relu", ["x"], ["e"])], [], [("e", F32, None)])
    proto = model([make("If", ["c"], ["y"], then_branch=then, else_branch=other)],
                  [("c", BOOL, []), X], [("y", F32, None)])  # fmt: skip
    attributes = {a.name: k for k, a in enumerate(proto.graph.node[0].attribute)}
    if attributes["else_branch"] == 0:
        proto.graph.node[0].attribute.reverse()
    change(proto.graph.node[0])
    with pytest.raises(TautError, match=match):
        load_onnx(proto)

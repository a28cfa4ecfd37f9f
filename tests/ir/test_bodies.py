"""Bodies: typed by their node's operands, run by the reference, refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from taut.ir import Builder, DType, Graph, TensorType, VerifyError, verify
from taut.ir.bodies import infer_body, run_body, specialize
from taut.ir.op import Abstract


def double() -> Graph:
    b = Builder()
    x = b.input("x", "f32", ("n", None))
    return b.outputs(y=b.add(x, x), s=b.shape(x))


def test_a_body_takes_its_operands_types_and_stays_as_it_is() -> None:
    body = double()
    made = infer_body(body, [Abstract(TensorType(DType.f32, (3, "w")))])
    assert str(made[0].type) == "f32[3,w]"
    assert made[1].dims == (3, "w")
    assert str(body["add"].type) == "f32[n,?]"


def test_known_contents_reach_the_inside() -> None:
    b = Builder()
    x, to = b.input("x", "f32", (6,)), b.input("to", "i64", (2,))
    body = b.outputs(y=b.reshape(x, to))
    to = np.array([2, 3])
    known = Abstract(TensorType.of(to), to)
    twin = specialize(body, [Abstract(TensorType(DType.f32, (6,))), known])
    assert str(twin.outputs[0].type) == "f32[2,3]"


@pytest.mark.parametrize(
    "types", [[], [TensorType(DType.f64, (1, 2))], [TensorType(DType.f32, (1,))]]
)
def test_operands_that_do_not_fit_are_refused(types: list[TensorType]) -> None:
    with pytest.raises(VerifyError, match="its body"):
        infer_body(double(), [Abstract(t) for t in types])


def test_an_error_inside_names_the_node_and_the_body() -> None:
    b = Builder()
    body = b.outputs(y=b.reshape(b.input("x", "f32", ("n",)), np.array([2, -1])))
    with pytest.raises(VerifyError, match="in its body"):
        run_body(body, [np.ones(3, np.float32)])


def test_a_fusion_is_verified_with_its_graph() -> None:
    b = Builder()
    made = b.fusion(b.input("x", "f32", ("batch", 4)), body=double())
    graph = b.outputs(y=made[0])
    verify(graph)
    graph.set_input_type(graph["x"], TensorType(DType.f32, (2, 4)))
    assert str(graph["fusion"].type) == "f32[2,4]"

"""What excuses a difference from a peer, and what does not: never more than one output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from taut.frontends.onnx import load_onnx
from taut.ir.op import Array

import taut
from taut.testing.differential import Case
from taut.testing.differential.check import Verdict, check

F32, I32 = np.float32, np.int32


def case(nodes: list[Any], outputs: str, ops: str, opset: int = 21, **arrays: Array) -> Case:
    """A model of these nodes, (op, operands, results, attributes), with operands that are fed."""
    protos = [helper.make_node(op, read.split(), made.split(), **attributes)
              for op, read, made, attributes in nodes]  # fmt: skip
    inputs = [helper.make_tensor_value_info(
        k, numpy_helper.from_array(v).data_type, v.shape) for k, v in arrays.items()]  # fmt: skip
    given = [helper.make_tensor_value_info(k, TensorProto.UNDEFINED, None) for k in outputs.split()]
    for info in given:
        info.ClearField("type")
    graph = helper.make_graph(protos, "known", inputs, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    return Case(tuple(ops.split()), arrays, [], model)


def judged(case: Case, peer: str, **changed: Array) -> Verdict:
    """The verdict where a peer of this name gives the reference's outputs but for `changed`."""

    def oracle(model: Any, feeds: Any) -> list[Array]:
        return list({**taut.reference(load_onnx(model), **feeds), **changed}.values())

    oracle.__name__ = peer
    return check(case, [oracle], ("peer",))


X = np.linspace(-1, 1, 12).astype(F32).reshape(1, 2, 6)


def test_an_excuse_is_for_what_depends_on_the_op() -> None:
    both = case([("GlobalMaxPool", "x", "pool", {}), ("Relu", "x", "relu", {})], "pool relu",
                "global_max_pool relu", x=X)  # fmt: skip
    other = np.zeros((1, 2, 1, 1), F32)
    assert judged(both, "evaluator", pool=other).known
    assert judged(both, "onnxruntime", pool=other).finding
    assert judged(both, "evaluator", relu=X).finding
    assert judged(both, "evaluator", pool=other, relu=X).finding
    behind = case([("GlobalMaxPool", "x", "a", {}), ("Relu", "a", "y", {})], "y",
                  "global_max_pool relu", x=X)  # fmt: skip
    assert judged(behind, "evaluator", y=other).known


def test_a_place_between_ties_is_open_and_no_other() -> None:
    x = np.zeros((2, 5), F32)
    x[:, 3] = 1
    chain = case([("Softmax", "x", "a", {}), ("ArgMin", "a", "y", {"axis": 1, "keepdims": 0})],
                 "y", "softmax arg_min", x=x)  # fmt: skip
    assert not judged(chain, "onnxruntime", y=np.array([4, 1])).finding
    assert judged(chain, "onnxruntime", y=np.array([4, 5])).finding
    alone = case([("ArgMin", "x", "y", {"axis": 1, "keepdims": 0})], "y", "arg_min", x=x)
    assert judged(alone, "onnxruntime", y=np.array([4, 1])).finding


def test_bits_of_a_computed_float_are_as_good_as_the_float() -> None:
    chain = case([("Sin", "x", "a", {}), ("BitCast", "a", "y", {"to": TensorProto.INT32})], "y",
                 "sin bit_cast", 26, x=np.ones(3, F32))  # fmt: skip
    bits = np.sin(np.ones(3, F32)).view(I32)
    assert not judged(chain, "onnxruntime", y=bits + I32(1)).finding
    assert judged(chain, "onnxruntime", y=bits + I32(1000)).finding


@pytest.mark.parametrize(
    ("op", "attributes", "x", "hit"),
    [
        ("Shrink", {}, [-988758536, 3], True),
        ("Shrink", {}, [-988758, 3], False),
        ("ReduceProd", {}, [65536, 65536], True),
        ("ReduceProd", {}, [65536, 3], False),
        ("ReduceLogSum", {}, [-1, 1], True),
    ],
)
def test_rows_are_narrow(op: str, attributes: dict[str, Any], x: list[int], hit: bool) -> None:
    names = {"Shrink": "shrink", "ReduceProd": "reduce_prod", "ReduceLogSum": "reduce_log_sum"}
    made = case([(op, "x", "y", attributes)], "y", names[op], x=np.array(x, I32))
    y = np.full(2 if op == "Shrink" else 1, 77, I32)
    verdict = judged(made, "onnxruntime", y=y)
    assert bool(verdict.known) == hit and bool(verdict.finding) != hit

"""Lookups out of one-hot products, and maxima before functions: found where they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Builder, DType, Graph, interpret
from taut.passes import PassManager

PIPELINE = "fuse-lookup,fold,dce"


def one_hot_product(kind: str, w: np.ndarray[Any, Any], b: Builder) -> Any:
    x = b.input("x", kind, ("n", 5, 1))
    classes = np.arange(len(w)).astype(x.type.dtype.numpy).reshape(1, 1, -1)
    return b.mat_mul(b.cast(b.equal(x, classes), to=DType.f32), w)


def ops(graph: Graph) -> list[str]:
    structure = ("input", "constant", "return")
    return [n.op.name for n in graph.nodes() if n.op.name not in structure]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_functions_of_rows_are_tables(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    b = Builder()
    w = random.standard_normal((7, 4)).astype(np.float32)
    y = one_hot_product(data.draw(st.sampled_from(["i32", "i64"])), w, b)
    for kind in data.draw(st.lists(st.sampled_from(["add", "row", "self", "tanh", "clip"]))):
        if kind in ("add", "row"):
            shape = (1, 1, 4) if kind == "row" else (4,)
            y = b.add(y, random.standard_normal(shape).astype(np.float32))
        elif kind == "self":
            y = b.mul(y, b.sigmoid(y))
        elif kind == "tanh":
            y = b.tanh(y)
        else:
            y = b.clip(y, np.float32(-1), np.float32(2))
    graph = b.outputs(y=y)
    feeds = {"x": random.integers(-3, 10, (3, 5, 1)).astype(graph.inputs[0].type.dtype.numpy)}
    made = PassManager(PIPELINE).run(graph).graph
    assert sorted(set(ops(made))) == ["clip", "gather", "squeeze"]
    np.testing.assert_allclose(interpret(made, feeds)["y"], interpret(graph, feeds)["y"],
                               rtol=1e-6, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_table_that_is_not_finite_stays_a_product(bad: float) -> None:
    b = Builder()
    w = np.ones((7, 4), np.float32)
    w[3, 1] = bad
    graph = b.outputs(y=one_hot_product("i32", w, b))
    report = PassManager(PIPELINE).run(graph)
    assert "gather" not in ops(report.graph)
    assert any("NaN or infinities" in r.reason for p in report.passes for r in p.remarks)


def test_what_differs_by_row_stays() -> None:
    b = Builder()
    y = one_hot_product("i32", np.ones((7, 4), np.float32), b)
    graph = b.outputs(y=b.add(y, np.ones((1, 5, 1), np.float32)))
    made = PassManager(PIPELINE).run(graph).graph
    assert ops(made)[-2:] == ["gather", "add"]


FUNCTIONS = ["relu", "sigmoid", "tanh", "exp", "gelu", "swish", "mish", "hard_swish", "abs"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_maxima_come_before_functions(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    b = Builder()
    shape = (2, 3, 4, 5)
    x = b.input("x", "f32", shape)
    y = b.add(x, random.standard_normal((3, 1, 1)).astype(np.float32))
    function = data.draw(st.sampled_from(FUNCTIONS))
    y = getattr(b, function)(y)
    if data.draw(st.booleans()):
        y = b.global_max_pool(y)
    else:
        y = b.reduce_max(y, np.array([2, 3]), keepdims=data.draw(st.booleans()))
    graph = b.outputs(y=y)
    data_ = (random.standard_normal(shape) * 3 - random.integers(0, 6)).astype(np.float32)
    made = PassManager("extremes-first").run(graph).graph
    order = ops(made)
    assert min(order.index(n) for n in order if n in MAXIMA) < order.index(function)
    want = interpret(graph, {"x": data_})["y"]
    np.testing.assert_allclose(interpret(made, {"x": data_})["y"], want, rtol=1e-6, atol=1e-7)


MAXIMA = ("reduce_max", "reduce_min", "global_max_pool")


@pytest.mark.parametrize("f, rises", [
    (lambda b, x: b.elu(x), True), (lambda b, x: b.hard_sigmoid(x), True),
    (lambda b, x: b.selu(x), True), (lambda b, x: b.round(x), True), (lambda b, x: b.erf(x), True),
    (lambda b, x: b.celu(x, alpha=-0.5), True),  # rises whatever its alpha
    (lambda b, x: b.elu(x, alpha=-0.5), False), (lambda b, x: b.leaky_relu(x, alpha=-1.0), False),
    (lambda b, x: b.sqrt(x), False),  # NaN below 0, which a maximum keeps
    (lambda b, x: b.thresholded_relu(x), False),  # 0 of NaN
    (lambda b, x: b.neg(x), False), (lambda b, x: b.sin(x), False),
])  # fmt: skip
def test_both_passes_that_move_maxima_read_what_rises(f: Any, rises: bool) -> None:
    """`extremes-first` for reductions, `fuse-conv` for poolings: one declaration for both."""
    b = Builder()
    x = b.input("x", "f32", (1, 2, 4, 4))
    graph = b.outputs(y=b.reduce_max(f(b, x), np.array([2, 3])),
                      z=b.max_pool(f(b, x), kernel_shape=(2, 2), strides=(2, 2)))  # fmt: skip
    report = PassManager("extremes-first,fuse-conv").run(graph)
    assert report.passes[0].counts["extreme-of-rising"] == rises
    assert report.passes[1].counts["pool-before-activation"] == rises
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32) * 3}
    feeds["x"][0, 0, 1, 2] = np.nan
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_allclose(interpret(report.graph, feeds)[name], want, 1e-6, 1e-7)


def test_a_function_that_others_read_and_turns_stays() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 3, 4))
    y = b.gelu(x)
    graph = b.outputs(y=b.global_max_pool(y), z=y)
    assert not PassManager("extremes-first").run(graph).passes[0].counts


@pytest.mark.parametrize("axes", [[1], None])
def test_the_maximum_of_what_may_be_nothing_stays(axes: list[int] | None) -> None:
    b = Builder()
    x = b.input("x", "f32", (2, "n"))
    z = b.input("z", "f32", (2, None, 0))
    over = None if axes is None else np.array(axes)
    graph = b.outputs(
        rising=b.reduce_max(b.sigmoid(x), over), turning=b.reduce_max(b.gelu(x), over),
        infinite=b.reduce_max(b.add(x, np.float32(np.inf)), over),
        pooled=b.global_max_pool(b.softsign(z)),
    )  # fmt: skip
    made = PassManager("extremes-first").run(graph).graph
    feeds = {"x": np.zeros((2, 0), np.float32), "z": np.zeros((2, 3, 0), np.float32)}
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_array_equal(interpret(made, feeds)[name], want)


def test_what_is_not_reduced_may_be_of_any_size() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", None, 3))
    graph = b.outputs(y=b.global_max_pool(b.sigmoid(x)), z=b.reduce_max(b.relu(x), np.array([2])))
    assert PassManager("extremes-first").run(graph).passes[0].counts == {"extreme-of-rising": 2}

"""Verifying, comparing and interpreting graphs."""

from __future__ import annotations

import numpy as np
import pytest
from taut.ir import (
    Abstract,
    Builder,
    DType,
    FeedError,
    Graph,
    LimitError,
    Limits,
    TensorType,
    Value,
    VerifyError,
    assert_equal,
    difference,
    equal,
    interpret,
    op_class,
    verify,
)
from taut.ir.interpret import bind_feeds, feeds_of
from taut.ir.ops.activation import LeakyRelu


def model() -> Graph:
    b = Builder()
    x, z = b.input("x", "f32", ("n", 3)), b.input("z", "f32", ("n", 1))
    y = b.relu(b.add(x, z, name="a"), name="r")
    return b.outputs(y=y, a=b.graph["a"])


X, Z = np.array([[1, -2, 3]], np.float32), np.array([[-1]], np.float32)


# ---- verify ------------------------------------------------------------------------------------


def test_a_sound_graph_verifies() -> None:
    verify(model())


def test_edges_behind_the_graphs_back_are_found() -> None:
    graph = model()
    graph.nx.add_edge(graph["r"], graph["a"], key=0, result=0)
    with pytest.raises(VerifyError, match="comes after it"):
        verify(graph)
    graph = model()
    graph.nx.add_edge(graph["x"], graph["r"], key=0, result=0)
    with pytest.raises(VerifyError, match="operand position 0"):
        verify(graph)
    graph = model()
    graph.nx.add_edge(graph["x"], graph["r"], key=1, result=3)
    with pytest.raises(VerifyError, match="has not"):
        verify(graph)


def test_operands_that_were_taken_away_are_found() -> None:
    graph = model()
    graph.nx.remove_edge(graph["x"], graph["a"], key=0)
    with pytest.raises(VerifyError, match="operand a is missing"):
        verify(graph)


def test_stale_types_and_strange_nodes_are_found() -> None:
    graph = model()
    graph["r"].results = (Abstract(TensorType(DType.f16, (1,))),)
    with pytest.raises(VerifyError, match="but infers"):
        verify(graph)
    graph = model()
    graph["r"].name = "a"
    with pytest.raises(VerifyError, match="not unique"):
        verify(graph)
    graph = model()
    graph.nx.remove_node(graph["x"])
    with pytest.raises(VerifyError):
        verify(graph)


def test_limits_are_verified() -> None:
    with pytest.raises(LimitError, match="nodes"):
        verify(model(), Limits(nodes=2))
    b = Builder()
    graph = b.outputs(y=b.constant(np.zeros(100, np.float32)))
    with pytest.raises(LimitError, match="takes 400 bytes"):
        verify(graph, Limits(tensor_bytes=399))
    with pytest.raises(LimitError, match="constants take 400"):
        verify(graph, Limits(model_bytes=399))
    big = Builder()
    x = big.input("x", "f32", (1,))
    graph = big.outputs(y=big.expand(x, np.array([1 << 40])))
    with pytest.raises(LimitError, match="over the limit"):
        verify(graph)


# ---- equality ----------------------------------------------------------------------------------


def test_order_names_and_dead_code_do_not_matter() -> None:
    a, b = model(), model()
    b.rename(b["r"], "other")
    b.add(op_class("neg")(), b["x"])
    assert equal(a, b)
    assert "other names" in (difference(a, b, names=True) or "")


def test_each_difference_is_told() -> None:
    a = model()
    b = model()
    b.set_op(b["r"], op_class("abs")())
    assert "ops relu and abs" in (difference(a, b) or "")
    b = model()
    b.set_op(b["r"], LeakyRelu(alpha=0.5))
    c = b.copy()
    c.set_op(c["r"], LeakyRelu(alpha=0.25))
    assert "attributes" in (difference(b, c) or "")
    b = model()
    b.set_outputs({"y": b["r"], "other": b["a"]})
    assert "signatures" in (difference(a, b) or "")
    with pytest.raises(AssertionError, match="signatures"):
        assert_equal(a, b)


def test_sharing_is_part_of_the_structure() -> None:
    def pair(shared: bool) -> Graph:
        b = Builder()
        x = b.input("x", "f32", (2,))
        one = b.relu(x)
        return b.outputs(y=b.add(one, one if shared else b.relu(x)))

    assert equal(pair(True), pair(True))
    assert not equal(pair(True), pair(False))
    assert not equal(pair(False), pair(True))


def test_constants_compare_by_bits() -> None:
    def constant(value: float) -> Graph:
        b = Builder()
        return b.outputs(y=b.constant(np.array([value], np.float32)))

    assert equal(constant(np.nan), constant(np.nan))
    assert not equal(constant(0.0), constant(-0.0))


# ---- interpret ---------------------------------------------------------------------------------


def test_outputs_by_name() -> None:
    out = interpret(model(), {"x": X, "z": Z})
    assert out["a"].tolist() == [[0, -3, 2]] and out["y"].tolist() == [[0, 0, 2]]


def test_a_watcher_sees_and_may_replace_results() -> None:
    seen: list[str] = []

    def watch(value: Value, array: np.ndarray) -> np.ndarray | None:
        seen.append(value.node.name)
        return array + 10 if value.node.name == "a" else None

    out = interpret(model(), {"x": X, "z": Z}, watch=watch)
    assert out["y"].tolist() == [[10, 7, 12]] and seen == ["x", "z", "a", "r"]


@pytest.mark.parametrize(
    ("args", "named", "words"),
    [
        ((X,), {}, "not given"),
        ((X, Z, Z), {}, "3 inputs are given"),
        ((X, Z), {"x": X}, "given twice"),
        ((X, Z), {"q": X}, "no input is named 'q'"),
        ((X.astype(np.float64), Z), {}, "wants f32.*astype"),
        ((X[0], Z), {}, "not shape"),
        ((X[:, :2], Z), {}, "not shape"),
        ((np.zeros((2, 3), np.float32), Z), {}, "n is already 2"),
    ],
)
def test_feeds_that_do_not_fit(args: tuple, named: dict, words: str) -> None:
    with pytest.raises(FeedError, match=words):
        bind_feeds(model(), args, named)


def test_items_of_data_take_any_form() -> None:
    graph = model()
    for item in ((X, Z), [X, Z], {"z": Z, "x": X}):
        assert feeds_of(graph, item)["z"] is Z


def test_a_node_that_cannot_run_is_named() -> None:
    b = Builder()
    x, at = b.input("x", "f32", (3,)), b.input("i", "i64", ("n",))
    graph = b.outputs(y=b.gather(x, at, name="pick"))
    with pytest.raises(FeedError, match="out of range") as caught:
        interpret(graph, {"x": np.zeros(3, np.float32), "i": np.array([7])})
    assert (caught.value.node, caught.value.op) == ("pick", "gather")


def test_sizes_from_data_are_checked_before_they_are_made() -> None:
    b = Builder()
    shape = b.input("shape", "i64", (2,))
    graph = b.outputs(y=b.constant_of_shape(shape, name="made"))
    with pytest.raises(LimitError, match="over the limit"):
        interpret(graph, {"shape": np.array([1 << 30, 1 << 30])})
    with pytest.raises(VerifyError, match="negative"):
        interpret(graph, {"shape": np.array([-1, 4])})
    b = Builder()
    x, counts = b.input("x", "f32", (4,)), b.input("r", "i64", (1,))
    graph = b.outputs(y=b.tile(x, counts))
    with pytest.raises(LimitError):
        interpret(graph, {"x": np.zeros(4, np.float32), "r": np.array([1 << 40])})

"""Reverse mode by itself: sizes that are not known, sums, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.ir import (
    Builder,
    DType,
    Graph,
    NotDifferentiableError,
    TensorType,
    Value,
    differentiate,
    interpret,
    verify,
)

from taut.testing import check_gradient

rng = np.random.default_rng(2)


def at(*shape: int) -> Any:
    return rng.standard_normal(shape)


@pytest.mark.parametrize("declared, given", [
    (("n", "m"), (3, 4)), (("n", "m"), (1, 4)), (("n", "m"), (3, 1)), ((None, 4), (1, 4)),
    ((None, None), (3, 1)), (("m",), (4,)), (("k",), (1,)), ((), ()), ((1, "m"), (1, 4)),
])  # fmt: skip
@pytest.mark.parametrize("op", ["add", "mul", "div", "max", "where"])
def test_what_is_broadcast_when_the_graph_runs_is_summed(
    op: str, declared: Any, given: Any
) -> None:
    b = Builder()
    x, y = b.input("x", "f64", ("n", "m")), b.input("y", "f64", declared)
    z = b.where(b.less(x, y), b.sin(x), y) if op == "where" else getattr(b, op)(x, y)
    check_gradient(b.outputs(z=z), {"x": at(3, 4), "y": at(*given)})


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("auto", ["NOTSET", "SAME_UPPER"])
def test_convolutions_of_images_of_any_size(strides: tuple[int, int], auto: str) -> None:
    b = Builder()
    x, w = b.input("x", "f64", ("n", 2, "h", "w")), b.input("w", "f64", (4, 1, 3, 2))
    pads = (1, 0, 1, 1) if auto == "NOTSET" else ()
    y = b.conv(x, w, strides=strides, pads=pads, group=2, auto_pad=auto)
    graph = b.outputs(y=y)
    feeds = {"x": at(2, 2, 7, 8), "w": at(4, 1, 3, 2)}
    if auto != "NOTSET" and max(strides) > 1:
        with pytest.raises(NotDifferentiableError, match="bind its symbols first"):
            check_gradient(graph, feeds)
        return
    check_gradient(graph, feeds)
    check_gradient(graph, {**feeds, "x": at(1, 2, 5, 6)})


def _reshaped(b: Builder, x: Value) -> Value:
    return b.reshape(x, np.array([0, -1]))


CASES: dict[str, Any] = {
    "mean": lambda b, x: b.reduce_mean(x, np.array([0, 2]), keepdims=False),
    "norm": lambda b, x: b.layer_normalization(x, b.constant(at(4)), b.constant(at(4))),
    "instance": lambda b, x: b.instance_normalization(x, b.constant(at(3)), b.constant(at(3))),
    "pool": lambda b, x: b.average_pool(x, kernel_shape=(2,), strides=(2,), pads=(1, 0)),
    "max pool": lambda b, x: b.max_pool(x, kernel_shape=(2,), strides=(2,), ceil_mode=True),
    "reshape": _reshaped,
    "slice": lambda b, x: b.slice(x, *(np.array([v]) for v in (-1, -9, 0, -2))),
    "slice to an end": lambda b, x: b.slice(x, *(np.array([v]) for v in (1, 1 << 40, 2))),
    "gather": lambda b, x: b.gather(x, np.array([[0, 2], [2, 2]]), axis=1),
    "concat": lambda b, x: b.concat(x, b.exp(x), axis=0),
    "pad": lambda b, x: b.pad(x, np.array([1, 2]), None, np.array([2]), mode="reflect"),
    "tile": lambda b, x: b.tile(x, np.array([2, 1, 3])),
    "top k": lambda b, x: b.top_k(x, np.array([2]))[0],
    "prod": lambda b, x: b.reduce_prod(x, np.array([1, 2])),
    "batch": lambda b, x: b.batch_normalization(
        x, *(b.constant(np.abs(at(3))) for _ in range(4)), training_mode=True)[0],
    "resize": lambda b, x: b.resize(x, None, np.float32([1, 1, 2]), mode="linear"),
    "matmul": lambda b, x: b.mat_mul(x, b.transpose(x, perm=(0, 2, 1))),
    "dense": lambda b, x: b.mat_mul(x, b.constant(at(4, 2))),
    "einsum": lambda b, x: b.einsum(x, x, equation="bij,bkj->ik"),
    "softmax": lambda b, x: b.softmax(x, axis=1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dims", [("n", 3, 4), ("n", 3, "w"), (None, None, None)])
def test_sizes_may_be_known_late(name: str, dims: Any) -> None:
    if name == "instance" and dims[1] is None:
        dims = (None, 3, None)
    b = Builder()
    x = b.input("x", "f64", dims)
    graph = b.outputs(y=CASES[name](b, x))
    for n in (1, 2):
        check_gradient(graph, {"x": at(n, 3, 4)}, rtol=1e-4)


def test_a_value_inside_may_be_sought() -> None:
    b = Builder()
    x = b.input("x", "f64", (3,))
    h = b.sin(x)
    y = b.mul(h, h)
    found = differentiate(b.graph, {y: b.constant(np.ones(3))}, [h, x], b=b)
    graph = b.outputs(h=found[h], x=found[x])
    verify(graph)
    v = at(3)
    out = interpret(graph, {"x": v})
    np.testing.assert_allclose(out["h"], 2 * np.sin(v))
    np.testing.assert_allclose(out["x"], 2 * np.sin(v) * np.cos(v))


def test_nodes_of_the_gradient_say_where_they_come_from() -> None:
    b = Builder()
    x = b.input("x", "f32", (3,))
    y = b.tanh(x, name="act")
    differentiate(b.graph, {y: b.constant(np.ones(3, np.float32), "one")}, [x])
    names = {n.name for n in b.graph.nodes()} - {"x", "act", "one", "return"}
    assert names and all(n.startswith("grad.act.") for n in names)


def test_an_unknown_rank_is_refused_only_where_it_matters() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.f32, None))[0]
    b = Builder(graph)
    seed = b.constant(np.float32(1))
    y = b.reduce_sum(b.exp(x), keepdims=False)
    assert differentiate(graph, {y: seed}, [x])[x] is not None
    broadcast = b.reduce_sum(b.add(x, b.constant(np.zeros(3, np.float32))), keepdims=False)
    with pytest.raises(NotDifferentiableError, match=r"the rank of .* is unknown"):
        differentiate(graph, {broadcast: seed}, [x])


def test_held_operands_are_named() -> None:
    b = Builder()
    x, scales = b.input("x", "f32", (1, 1, 4)), b.input("s", "f32", (3,))
    y = b.resize(x, None, scales, name="up")
    seed = b.constant(np.float32(1))
    with pytest.raises(NotDifferentiableError, match='node "up", op resize: has no gradient for '
                       "scales: they are sizes; make that operand a constant"):  # fmt: skip
        differentiate(b.graph, {y: b.expand(seed, b.shape(y))}, [scales])


def test_a_chain_of_many_nodes_takes_linear_time() -> None:
    b = Builder()
    x = y = b.input("x", "f32", (2,))
    for _ in range(5000):
        y = b.add(b.relu(y), x)
    found = differentiate(b.graph, {y: b.constant(np.ones(2, np.float32))}, [x])
    assert found[x] is not None

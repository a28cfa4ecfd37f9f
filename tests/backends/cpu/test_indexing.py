"""Gathers and scatters by computed indices: every layout and axis, and indices out of range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.ir import Builder, FeedError, interpret
from taut.passes import optimize


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_gather(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    at = data.draw(st.lists(st.integers(0, 4), max_size=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind, index = (
        data.draw(st.sampled_from(["f32", "u8", "i64"])),
        data.draw(st.sampled_from(["i32", "i64"])),
    )
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    b = Builder()
    x, i = b.input("x", kind, shape), b.input("i", index, at)
    turned = data.draw(st.booleans())
    y = b.gather(b.transpose(x) if turned else x, i, axis=axis)
    graph = b.outputs(y=y)
    n = (shape[::-1] if turned else shape)[axis]
    feeds = {
        "x": (random.standard_normal(shape) * 50 + 60).astype(x.type.dtype.numpy),
        "i": random.integers(-n, n, at).astype(i.type.dtype.numpy),
    }
    program = compile(graph, threads=data.draw(st.integers(1, 2)))
    np.testing.assert_array_equal(program(**feeds)["y"], interpret(graph, feeds)["y"])
    assert program.fallbacks == [] or not y.type.size


def test_a_bad_index_is_refused_and_the_next_call_runs():
    b = Builder()
    x, i = b.input("x", "f32", (5, 3)), b.input("i", "i64", ("n",))
    program = compile(b.outputs(y=b.gather(x, i)), threads=1)
    data = np.arange(15, dtype=np.float32).reshape(5, 3)
    for bad in (5, -6, 2**62, -(2**63)):
        with pytest.raises(FeedError, match="an index is out of range for 5 elements"):
            program(x=data, i=np.array([0, bad]))
    np.testing.assert_array_equal(program(x=data, i=np.array([-1, 2]))["y"], data[[-1, 2]])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scatters(data):
    """Bit for bit, where places meet too: sums are taken in one order."""
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    kind = data.draw(st.sampled_from(["f32", "u8", "i64", "bool"]))
    sums = st.just("add") if kind in ("f32", "i64") else st.nothing()
    reduction = data.draw(st.just("none") | sums)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    b, index = Builder(), data.draw(st.sampled_from(["i32", "i64"]))
    x = b.input("x", kind, shape)
    if data.draw(st.booleans()):
        depth = data.draw(st.integers(1, len(shape)))
        at = (*data.draw(st.lists(st.integers(1, 4), max_size=2)), depth)
        rows = (*at[:-1], *shape[depth:])
        i, u = b.input("i", index, at), b.input("u", kind, rows)
        y = b.scatter_nd(x, i, u, reduction=reduction)
        places = np.stack([random.integers(-n, n, at[:-1]) for n in shape[:depth]], -1)
    else:
        axis = data.draw(st.integers(-len(shape), len(shape) - 1))
        at = list(shape)
        at[axis] = data.draw(st.integers(1, 7))
        i, u = b.input("i", index, at), b.input("u", kind, at)
        y = b.scatter_elements(x, i, u, axis=axis, reduction=reduction)
        places = random.integers(-shape[axis], shape[axis], at)
    graph = b.outputs(y=y)
    feeds = {
        "x": (random.standard_normal(shape) * 50 + 60).astype(x.type.dtype.numpy),
        "i": places.astype(i.type.dtype.numpy),
        "u": (random.standard_normal(u.type.static_shape) * 50 + 60).astype(x.type.dtype.numpy),
    }
    program = compile(graph, threads=data.draw(st.integers(1, 2)))
    np.testing.assert_array_equal(program(**feeds)["y"], interpret(graph, feeds)["y"])
    assert program.fallbacks == []


@pytest.mark.parametrize("op", ["scatter_nd", "scatter_elements"])
def test_large_scatters_are_shared_by_threads(op):
    random, b = np.random.default_rng(0), Builder()
    x = b.input("x", "f32", (300, 200))
    u = b.input("u", "f32", (1000, 200) if op == "scatter_nd" else (300, 500))
    i = b.input("i", "i64", (1000, 1) if op == "scatter_nd" else (300, 500))
    options = {"axis": 1} if op == "scatter_elements" else {}
    graph = b.outputs(y=getattr(b, op)(x, i, u, reduction="add", **options))
    feeds = {"x": random.standard_normal((300, 200), np.float32),
             "u": random.standard_normal(u.type.static_shape, np.float32),
             "i": random.integers(0, 200, i.type.static_shape)}  # fmt: skip
    want = interpret(graph, feeds)["y"]
    for threads in (1, 2):
        np.testing.assert_array_equal(compile(graph, threads=threads)(**feeds)["y"], want)
    feeds["i"][7, 0] = 300
    with pytest.raises(FeedError, match="an index is out of range"):
        compile(graph, threads=2)(**feeds)


def test_the_gradient_of_an_embedding_runs_without_python():
    b = Builder()
    ids = b.input("ids", "i64", ("n", 4))
    table = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    rows = b.gather(b.constant(table, name="table"), ids)
    graph = b.outputs(loss=b.reduce_mean(b.mul(rows, rows), keepdims=False))
    step = optimize(graph, "parameters,gradient{loss=loss},O2")
    program = compile(step, threads=2)
    feeds = {n.name: table if n.type.rank == 2 and n.type.dtype.is_float else
             np.arange(12).reshape(3, 4) % 7 for n in step.inputs}  # fmt: skip
    got = program(**feeds)
    for name, want in interpret(step, feeds).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-6, atol=1e-7)
    assert program.fallbacks == []

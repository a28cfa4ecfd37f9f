"""Gathers by computed indices: every layout and axis, and indices that are out of range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.ir import Builder, FeedError, interpret


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_gather(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    at = data.draw(st.lists(st.integers(0, 4), max_size=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind, index = data.draw(st.sampled_from(["f32", "u8", "i64"])), data.draw(
        st.sampled_from(["i32", "i64"])
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

"""Transposes, reshapes and folding: fewer of them, the same elements, and soon."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Builder, Graph, Value, interpret, verify
from taut.passes import Context, PassManager

AXES = list(range(4))


@st.composite
def movements(draw: st.DrawFn) -> Graph:
    """Data movement and element-wise ops over a tensor of rank 4, with symbols and ones in it."""
    b = Builder()
    sizes = [draw(st.sampled_from([1, 2, 3, 4])) for _ in range(3)]
    values: list[Value] = [b.input("x", "f32", ("n", *sizes))]
    for _ in range(draw(st.integers(1, 9))):
        x = values[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(values))
        assert x.shape is not None
        rank = len(x.shape)
        kind = draw(st.sampled_from(
            ["transpose", "transpose", "relu", "add", "other", "concat", "unsqueeze", "squeeze",
             "reshape", "flatten"]))  # fmt: skip
        if kind == "transpose":
            x = b.transpose(x, perm=tuple(draw(st.permutations(range(rank)))))
        elif kind == "relu":
            x = b.relu(x)
        elif kind == "add":
            last = x.shape[-1]
            c = np.arange(last if isinstance(last, int) else 1, dtype=np.float32)
            x = b.add(x, c)
        elif kind == "other":
            same = [v for v in values if v == x or (v.shape == x.shape and None not in x.shape)]
            x = b.mul(x, draw(st.sampled_from(same)))
        elif kind == "concat":
            same = [v for v in values if v == x or (v.shape == x.shape and None not in x.shape)]
            axes = [i for i, d in enumerate(x.shape) if isinstance(d, int)]
            if axes:
                axis = draw(st.sampled_from(axes))
                x = b.concat(x, draw(st.sampled_from(same)), axis=axis)
        elif kind == "unsqueeze" and rank < 6:
            x = b.unsqueeze(x, np.array([draw(st.integers(0, rank))]))
        elif kind == "squeeze" and 1 in x.shape:
            ones = [i for i, d in enumerate(x.shape) if d == 1]
            x = b.squeeze(x, np.array(draw(st.sampled_from([ones, ones[:1]]))))
        elif kind == "reshape":
            x = b.reshape(x, np.array(draw(st.sampled_from([[-1], [1, -1], [-1, 1, 1]]))))
        elif kind == "flatten":
            x = b.flatten(x, axis=draw(st.integers(0, rank)))
        values.append(x)
    return b.outputs(y=values[-1], z=draw(st.sampled_from(values)))


@settings(deadline=None, max_examples=200)
@given(movements(), st.sampled_from(["motion", "O1", "motion{regions=false}", "motion,motion"]))
def test_elements_only_change_places(graph: Graph, pipeline: str) -> None:
    shape = [d if isinstance(d, int) else 2 for d in graph.inputs[0].type.shape or ()]
    feeds = {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 17 - 8}
    want = interpret(graph, feeds)
    made = PassManager(pipeline).run(graph).graph
    verify(made)
    count = [sum(n.op.name == "transpose" for n in g.nodes()) for g in (graph, made)]
    assert count[1] <= count[0]
    for name, array in interpret(made, feeds).items():
        assert np.array_equal(want[name], array), name
    for before, after in zip(graph.outputs, made.outputs):  # nothing less is known of them
        assert after.shape is not None and before.shape is not None
        assert all(b is None or a is not None for a, b in zip(after.shape, before.shape))


@settings(deadline=None, max_examples=50)
@given(movements())
def test_motion_is_done_after_one_run(graph: Graph) -> None:
    once = PassManager("dce,motion,dce").run(graph).graph
    again = PassManager("motion").run(once)
    assert not again.passes[0].counts


def test_a_symbol_survives_reshaping() -> None:
    b = Builder()
    x = b.input("x", "f32", ("batch", 8, 1, 1))
    y = b.reshape(b.flatten(x), b.concat(b.shape(x, end=1), np.array([2, 4]), axis=0))
    made = PassManager("fold,motion,dce", check=True).run(b.outputs(y=y)).graph
    assert [n.op.name for n in made.nodes()] == ["input", "constant", "reshape", "return"]
    assert made.outputs[0].shape == ("batch", 2, 4)


def mixed(b: Builder, y: Value, i: int, one: Value) -> Value:
    return [
        lambda: b.relu(y),
        lambda: b.add(y, one),
        lambda: b.identity(y),
        lambda: b.transpose(y, perm=(0, 2, 3, 1)),
    ][i % 4]()


KINDS: dict[str, Any] = {
    "relu": lambda b, y, i, one: b.relu(y),
    "identity": lambda b, y, i, one: b.identity(y),
    "add": lambda b, y, i, one: b.add(y, one),
    "transpose": lambda b, y, i, one: b.transpose(y, perm=(0, 2, 3, 1)),
    "reshape": lambda b, y, i, one: b.reshape(y, np.array([0, -1] if i % 2 else [0, 4, -1])),
    "residual": lambda b, y, i, one: b.add(b.relu(y), y),
    "mixed": mixed,
}


@pytest.mark.parametrize("kind", KINDS)
def test_long_chains_are_soon_done(kind: str) -> None:
    """Linear: a chain of 8,000 takes about four times what one of 2,000 takes."""

    def seconds(n: int) -> tuple[float, int]:
        b = Builder()
        y = b.input("x", "f32", ("n", 4, 4, 4))
        one = b.constant(np.float32(1))
        for i in range(n):
            y = KINDS[kind](b, y, i, one)
        graph = b.outputs(y=y)
        start = time.process_time()
        report = PassManager("O1", verify_each=False).run(graph, Context())
        return time.process_time() - start, len(report.graph)

    small, _ = seconds(2000)
    large, left = seconds(8000)
    assert large < 9 * small + 0.5
    if kind in ("relu", "identity", "transpose", "reshape"):
        assert left <= 5


def test_a_reshape_that_tells_more_of_a_size_stays() -> None:
    b = Builder()
    flat = b.reshape(b.input("x", "f32", (2, None)), np.array([-1]))
    graph = b.outputs(y=b.reshape(b.relu(flat), np.array([2, 3])))
    made = PassManager("motion").run(graph).graph
    assert made.outputs[0].shape == (2, 3)

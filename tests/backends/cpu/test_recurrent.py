"""Recurrent layers against the reference: every cell, function and option, in any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Builder, FeedError, interpret
from taut.ir.ops.recurrent import FUNCTIONS

NAMES = [t.name for t in isa.available()]
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
EACH = {"rnn": 1, "gru": 2, "lstm": 3}


def agree(graph, feeds, *, fallbacks=(), **options):
    program = compile(graph, **options)
    made, expected = program(**feeds), interpret(graph, feeds)
    for name, array in expected.items():
        assert made[name].shape == array.shape
        # Drawn functions without bounds square a state, and double its relative error, each step.
        np.testing.assert_allclose(made[name], array, rtol=1e-4, atol=1e-5)
    assert sorted(program.fallbacks) == sorted(fallbacks)
    return program


@st.composite
def layers(draw):
    """(graph, feeds): one layer, whose operands are inputs or left out."""
    cell = draw(st.sampled_from(sorted(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    ways, layout = 1 + (direction == "bidirectional"), draw(st.integers(0, 1))
    time, size = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    batch = draw(st.sampled_from([1, 2, 3, 4, 9]))
    hidden = draw(st.sampled_from([1, 5, 16, 33, 70]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    b, feeds = Builder(), {}

    def f(*shape, scale=0.7):
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def given(name, array, kind="f32"):
        feeds[name] = array
        return b.input(name, kind, array.shape)

    def maybe(make):
        return make() if draw(st.booleans()) else None

    def state(name):
        return given(name, f(batch, ways, hidden) if layout else f(ways, batch, hidden))

    rows = GATES[cell] * hidden
    x = given("x", f(batch, time, size) if layout else f(time, batch, size))
    scale = 0.7 / np.sqrt(max(size, hidden))
    operands = [x, f(ways, rows, size, scale=scale), f(ways, rows, hidden, scale=scale)]
    operands.append(maybe(lambda: f(ways, 2 * rows)))
    lengths = random.integers(0, time + 1, batch).astype(np.int32)
    operands.append(maybe(lambda: given("lengths", lengths, "i32")))
    operands.append(maybe(lambda: state("h")))
    at = {"direction": direction, "layout": layout, "outputs": 2 + (cell == "lstm")}
    if cell == "lstm":
        operands += [maybe(lambda: state("c")), maybe(lambda: f(ways, 3 * hidden))]
        at["input_forget"] = draw(st.booleans())
    if cell == "gru":
        at["linear_before_reset"] = draw(st.booleans())
    at["clip"] = draw(st.sampled_from([None, None, 0.3]))
    if draw(st.booleans()):
        count = EACH[cell] * ways
        some = st.lists(st.sampled_from(sorted(FUNCTIONS)), min_size=count, max_size=count)
        numbers = st.lists(st.sampled_from([0.3, 0.8]), min_size=count, max_size=count)
        at |= {"activations": tuple(draw(some)), "activation_alpha": tuple(draw(numbers)),
               "activation_beta": tuple(draw(numbers))}  # fmt: skip
    node = getattr(b, cell)(*operands, **at)
    results = list(node) if isinstance(node, tuple) else [node]
    wanted = draw(st.sets(st.integers(0, len(results) - 1), min_size=1))
    graph = b.outputs(**{f"y{i}": results[i] for i in sorted(wanted)})
    return graph, feeds


@settings(max_examples=40, deadline=None)
@given(layers(), st.integers(1, 2), st.sampled_from(NAMES))
def test_layers(layer, threads, name):
    graph, feeds = layer
    agree(graph, feeds, threads=threads, isa=name)


def lstm(b, x, size, hidden, *rest, **at):
    random = np.random.default_rng(1)
    w, r = (random.standard_normal((1, 4 * hidden, n), np.float32) / 8 for n in (size, hidden))
    return b.lstm(x, w, r, *rest, **at)


def test_a_length_out_of_range_is_refused_and_the_next_call_runs():
    b = Builder()
    x, n = b.input("x", "f32", ("t", 2, 8)), b.input("n", "i32", (2,))
    program = compile(b.outputs(y=lstm(b, x, 8, 16, None, n)), threads=1)
    data = np.ones((3, 2, 8), np.float32)
    for bad in ([4, 1], [1, -1], [2**31 - 1, 0]):
        with pytest.raises(FeedError, match="a length is not within 0 to 3"):
            program(x=data, n=np.array(bad, np.int32))
    made = program(x=data, n=np.array([3, 0], np.int32))["y"]
    assert program.fallbacks == []
    assert made[:, 0, 0].any() and not made[:, 0, 1].any()


def test_layers_in_a_row_of_any_length():
    b = Builder()
    x = b.input("x", "f32", ("t", "n", 24))
    first = lstm(b, x, 24, 32)
    joined = b.squeeze(b.transpose(first, perm=(0, 2, 1, 3)), np.array([2]))
    graph = b.outputs(y=b.relu(lstm(b, joined, 32, 48)))
    program = compile(graph, threads=2)
    random = np.random.default_rng(0)
    for t, n in ((1, 1), (7, 2), (3, 5), (70, 1)):
        data = random.standard_normal((t, n, 24), np.float32)
        np.testing.assert_allclose(program(data)["y"], interpret(graph, {"x": data})["y"],
                                   rtol=1e-5, atol=1e-5)  # fmt: skip
    assert program.fallbacks == []


def test_computed_weights_run_by_the_reference():
    b = Builder()
    x, w = b.input("x", "f32", (3, 1, 4)), b.input("w", "f32", (1, 20, 4))
    y = b.lstm(x, w, np.ones((1, 20, 5), np.float32) / 9)
    feeds = {"x": np.ones((3, 1, 4), np.float32), "w": np.ones((1, 20, 4), np.float32) / 9}
    agree(b.outputs(y=y), feeds, fallbacks=[y.node.name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_functions_keep_their_precision(function, name):
    """Over the whole range of f32, NaN and infinities among it."""
    values = np.concatenate([
        np.linspace(-100, 100, 4001), np.linspace(-1, 1, 2001), np.geomspace(1e-30, 3e38, 300),
        -np.geomspace(1e-30, 3e38, 300), [0.0, np.inf, -np.inf, np.nan],
    ]).astype(np.float32)  # fmt: skip
    b = Builder()
    x = b.input("x", "f32", (1, len(values), 1))
    one, zero = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    numbers = {"activation_alpha": (0.5,), "activation_beta": (0.25,)}
    y = b.rnn(x, one, zero, activations=(function,), **numbers)
    graph = b.outputs(y=y)
    feeds = {"x": values.reshape(1, -1, 1)}
    with np.errstate(all="ignore"):
        want = interpret(graph, feeds)["y"].astype(np.float64)
    made = compile(graph, threads=1, isa=name)(**feeds)["y"]
    np.testing.assert_allclose(made, want, rtol=5e-7, atol=1e-37)

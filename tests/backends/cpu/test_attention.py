"""Attention on the streaming kernel against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Builder, interpret

NAMES = [t.name for t in isa.available()]
LENGTHS = st.sampled_from([1, 2, 7, 16, 33, 130, 150])


def agree(graph, feeds, **options):
    program = compile(graph, **options)
    for _ in range(2):
        made = program(**feeds)
    assert program.fallbacks == []
    for name, array in interpret(graph, feeds).items():
        assert made[name].shape == array.shape
        scale = float(np.abs(array).max(initial=0)) + 1
        np.testing.assert_allclose(made[name], array, rtol=2e-5, atol=3e-6 * scale)


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(), length=LENGTHS, size=LENGTHS, d=st.sampled_from([1, 8, 32, 37]),
    e=st.sampled_from([1, 16, 32, 41]), share=st.integers(1, 2), groups=st.integers(1, 2),
    batch=st.integers(1, 2), flat=st.booleans(), causal=st.booleans(), past=st.sampled_from([0, 5]),
    softcap=st.sampled_from([0.0, 3.0]), scale=st.sampled_from([None, 0.5]),
    name=st.sampled_from(NAMES), threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention(
    data, length, size, d, e, share, groups, batch, flat, causal, past, softcap, scale, name,
    threads, seed,
):  # fmt: skip
    rng, b, heads = np.random.default_rng(seed), Builder(), share * groups
    feeds = {}

    def operand(key, count, rows, width):
        shape = (batch, rows, count * width) if flat else (batch, count, rows, width)
        feeds[key] = rng.standard_normal(shape, np.float32)
        return b.input(key, "f32", shape)

    q, k, v = operand("q", heads, length, d), operand("k", groups, size, d), operand(
        "v", groups, size, e
    )  # fmt: skip
    before = [None, None]
    if past:
        for i, (key, width) in enumerate((("pk", d), ("pv", e))):
            shape = (batch, groups, past, width)
            feeds[key] = rng.standard_normal(shape, np.float32)
            before[i] = b.input(key, "f32", shape)
    total = past + size
    mask = None
    kind = data.draw(st.sampled_from(["none", "bool", "f32", "short"]))
    if kind != "none":
        front = data.draw(
            st.sampled_from([(), (length,), (1, 1), (batch, 1, 1), (batch, heads, length)])
        )
        shape = (*front, max(1, total - 3) if kind == "short" else total)
        if kind == "bool":
            array = rng.random(shape) < 0.7
        else:
            array = np.where(rng.random(shape) < 0.3, -np.inf, rng.standard_normal(shape))
            array = array.astype(np.float32)
        feeds["mask"], mask = array, b.input("mask", "bool" if kind == "bool" else "f32", shape)
    outputs = data.draw(st.sampled_from([1, 3]))
    made = b.attention(
        q, k, v, mask, *before, is_causal=causal, scale=scale, softcap=softcap,
        q_num_heads=heads if flat else None, kv_num_heads=groups if flat else None,
        outputs=outputs,
    )  # fmt: skip
    made = made if outputs == 3 else (made,)
    agree(b.outputs(**{f"y{i}": y for i, y in enumerate(made)}), feeds, isa=name, threads=threads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_rows_without_keys(name, lowest):
    """-inf everywhere gives zeros; the least float everywhere gives the mean, as the reference."""
    rng, b = np.random.default_rng(0), Builder()
    mask = np.zeros((1, 1, 20, 300), np.float32)
    mask[..., 3, :], mask[..., 5, :280] = lowest, lowest
    feeds = {key: rng.standard_normal((1, 2, n, 8), np.float32)
             for key, n in (("q", 20), ("k", 300), ("v", 300))}  # fmt: skip
    inputs = [b.input(key, "f32", value.shape) for key, value in feeds.items()]
    agree(b.outputs(y=b.attention(*inputs, mask)), feeds, isa=name, threads=1)


def test_scores_far_apart():
    """Maxima that grow from block to block, and sums that vanish."""
    rng, b = np.random.default_rng(0), Builder()
    feeds = {key: rng.standard_normal((1, 1, n, 16), np.float32) * np.float32(30)
             for key, n in (("q", 30), ("k", 400), ("v", 400))}  # fmt: skip
    feeds["k"] *= np.linspace(0.1, 3, 400, dtype=np.float32)[:, None]
    inputs = [b.input(key, "f32", value.shape) for key, value in feeds.items()]
    agree(b.outputs(y=b.attention(*inputs)), feeds, threads=2)


def bytes_graph(rng, b, batch, length, size, heads, groups, d, e, spread, masked, causal):
    """scaled_attention of random rows, with its feeds."""
    feeds = {}

    def operand(key, array):
        feeds[key] = array
        return b.input(key, "u8" if array.dtype == np.uint8 else "f32", array.shape)

    shapes = {"q": (length, heads, d), "k": (size, groups, d), "v": (size, groups, e)}
    rows = [operand(k, rng.integers(0, 256, (batch, *s), np.uint8)) for k, s in shapes.items()]
    scales = [
        operand(f"{k}_scale", (rng.random((batch, *s[:2], 1)) * spread + 1e-3).astype(np.float32))
        for k, s in shapes.items()
    ]
    mask = None
    if masked:
        array = rng.standard_normal((batch, 1, length, size)).astype(np.float32)
        array[rng.random(array.shape) < 0.3] = rng.choice([-np.inf, np.finfo(np.float32).min])
        mask = operand("mask", array)
    y = b.scaled_attention(*rows, *scales, mask, is_causal=causal)
    return b.outputs(y=y), feeds


@settings(max_examples=25, deadline=None)
@given(
    length=LENGTHS, size=LENGTHS, d=st.sampled_from([1, 8, 32, 37]),
    e=st.sampled_from([1, 32, 41]), share=st.integers(1, 2), groups=st.integers(1, 2),
    batch=st.integers(1, 2), masked=st.booleans(), causal=st.booleans(),
    spread=st.sampled_from([0.001, 0.03, 1.0]), name=st.sampled_from(NAMES),
    threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_of_bytes_the_bits_are_the_references(
    length, size, d, e, share, groups, batch, masked, causal, spread, name, threads, seed
):  # fmt: skip
    rng, b = np.random.default_rng(seed), Builder()
    graph, feeds = bytes_graph(
        rng, b, batch, length, size, share * groups, groups, d, e, spread, masked, causal
    )
    program = compile(graph, isa=name, threads=threads)
    made, want = program(**feeds)["y"], interpret(graph, feeds)["y"]
    assert program.fallbacks == [] or isa.find(name).signed
    np.testing.assert_array_equal(made, want)
    assert np.isfinite(want).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_of_bytes_bad_scales_are_not_hidden(value):
    for key, bad in (("q_scale", np.s_[0, 3, 1]), ("k_scale", np.s_[0, :, 1]),
                     ("v_scale", np.s_[0, :, 1])):  # fmt: skip
        rng = np.random.default_rng(0)
        graph, feeds = bytes_graph(rng, Builder(), 2, 20, 200, 2, 2, 8, 8, 0.03, False, False)
        feeds[key][0, 3, 1] = value
        want = np.zeros((2, 20, 2), bool)
        want[bad] = True
        for y in (compile(graph)(**feeds)["y"], interpret(graph, feeds)["y"]):
            np.testing.assert_array_equal(np.isnan(y).all(-1), want)
            assert np.isfinite(y[~want]).all()


def test_memory_is_linear_in_the_length():
    def memory(length: int) -> int:
        b = Builder()
        inputs = [b.input(key, "f32", (1, 4, length, 32)) for key in "qkv"]
        return compile(b.outputs(y=b.attention(*inputs)), threads=1).memory

    assert memory(8192) < 2.2 * memory(4096)

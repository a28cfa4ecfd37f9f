"""`quantize-attention`: what it quantizes, what it leaves and why, and how close it stays."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Builder, DType, Graph, Value, interpret, verify
from taut.ir.ops.scaled_attention import BLOCK, fma, power
from taut.passes import Context, PassManager

from taut import testing

PASS = "quantize-attention"


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes()]


def run(graph: Graph) -> Graph:
    made = PassManager(PASS).run(graph, Context()).graph
    verify(made)
    return made


def sqnr(want: Any, got: Any) -> float:
    noise = float(np.square(want.astype(np.float64) - got).sum())
    return 10 * np.log10(float(np.square(want.astype(np.float64)).sum()) / max(noise, 1e-30))


def operands(b: Builder, form: str, h: int, g: int, d: int) -> list[Value]:
    """q, k and v: parts of one product, flat inputs, or split by heads."""
    if form == "heads":
        return [b.input(k, "f32", ("b", n, "l", d)) for k, n in zip("qkv", (h, g, g))]
    if form == "flat":
        return [b.input(k, "f32", ("b", "l", n * d)) for k, n in zip("qkv", (h, g, g))]
    x, starts = b.input("x", "f32", ("b", "l", (h + 2 * g) * d)), (0, h, h + g, h + 2 * g)
    return [b.slice(x, np.array([s * d]), np.array([e * d]), np.array([2]))
            for s, e in pairwise(starts)]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(["merged", "flat", "heads"]), share=st.integers(1, 2),
    g=st.integers(1, 2), d=st.sampled_from([4, 16, 32]), length=st.sampled_from([1, 7, 40, 300]),
    mask=st.sampled_from(["none", "bool", "f32"]), causal=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_it_stays_close_to_float(
    form: str, share: int, g: int, d: int, length: int, mask: str, causal: bool, seed: int
) -> None:
    """Rows of different sizes, any number of keys: 28 dB at least."""
    r, b, h = np.random.default_rng(seed), Builder(), share * g
    q, k, v = operands(b, form, h, g, d)
    feeds = {
        n.name: r.standard_normal((2, *(length if s == "l" else s for s in n[0].shape[1:])))
        .astype(np.float32) * np.float32(r.choice([0.1, 1.0, 2.0]))
        for n in b.graph.nodes() if n.op.name == "input"
    }  # fmt: skip
    heads: dict[str, Any] = {} if form == "heads" else {"q_num_heads": h, "kv_num_heads": g}
    m = None
    if mask != "none":
        shown = r.random((2, 1, 1, length)) < 0.8
        shown[..., 0] = True
        array = shown if mask == "bool" else np.where(shown, 0, -1e9).astype(np.float32)
        m, feeds["m"] = b.input("m", mask, ("b", 1, 1, "l")), array
    graph = b.outputs(y=b.attention(q, k, v, m, is_causal=causal, **heads))
    made = run(graph)
    names = ops(made)
    assert "attention" not in names and names.count("scaled_attention") == 1
    assert names.count("quantize_rows") == (1 if form == "merged" else 3)
    want, got = (interpret(x, feeds)["y"] for x in (graph, made))
    assert want.shape == got.shape and sqnr(want, got) > 28


def test_what_is_left_in_float_says_why() -> None:
    b = Builder()
    q, k, v = (b.input(n, "f32", (1, 2, 5, 4)) for n in "qkv")
    past = [b.input(n, "f32", (1, 2, 3, 4)) for n in ("pk", "pv")]
    wide = [b.cast(x, to=DType.f64) for x in (q, k, v)]
    loose = b.input("loose", "f32", (1, 2, "n", 4))
    unknown = b.input("unknown", "f32", (1, "h", 5, 4))
    made = {
        "past": b.attention(q, k, v, None, *past, name="past"),
        "capped": b.attention(q, k, v, softcap=3.0, name="capped"),
        "windows": b.attention(q, k, v, left_window_size=2, name="windows"),
        "wide": b.attention(*wide, name="wide"),
        "kept": b.attention(q, k, v, name="kept"),
        "short": b.attention(q, loose, loose, b.input("m", "f32", (5, 4)), name="short"),
        "heads": b.attention(unknown, unknown, unknown, name="heads"),
    }
    graph = b.outputs(**{f"y_{n}": y for n, y in made.items()})
    report = PassManager(f"{PASS}{{skip=[kept]}}").run(graph, Context())
    missed = report.remarks("missed")
    reasons = {r.node: r.reason.removeprefix("not quantized: ") for _, r in missed}
    assert reasons == {
        "past": "it has a past, lengths, or more than one result",
        "capped": "it has a soft cap or windows",
        "windows": "it has a soft cap or windows",
        "wide": "it is not in float32",
        "kept": "it is named in `skip`",
        "short": "the mask f32[5,4] may be shorter than the keys",
        "heads": "the number or the size of its heads is not known",
    }


def test_the_name_stands_for_the_value() -> None:
    b = Builder()
    q, k, v = (b.input(n, "f32", (1, 2, 5, 4)) for n in "qkv")
    made = run(b.outputs(y=b.attention(q, k, v, name="layer")))
    assert made["layer"].op.name == "transpose"


@pytest.mark.parametrize("text", [PASS, f"fuse-attention,{PASS}"])
def test_fuzz(text: str) -> None:
    testing.check_pipeline(text, families=["transformer"], examples=40, seed=1)


def test_powers_and_fused_multiply_adds_are_right() -> None:
    r = np.random.default_rng(0)
    x = -np.abs(r.standard_normal(100_000) * 20).astype(np.float32)
    with np.errstate(all="ignore"):
        error = power(x) / np.exp(x.astype(np.float64)) - 1
        assert np.abs(error[x > -85]).max() < 1.1e-4
        ends = power(np.float32([0, -1e30, -np.inf]))
        assert ends[0] == 1 and ends[1] == ends[2] == pytest.approx(2.0**-125, rel=1e-4)
    a, b, c = (r.standard_normal(200_000).astype(np.float32) for _ in range(3))
    c[::2] = -a[::2] * b[::2]  # cancellation
    exact = [
        int(u * 2**80) * int(v * 2**80) + int(w * 2**80) * 2**80
        for u, v, w in zip(a[:2000].tolist(), b[:2000].tolist(), c[:2000].tolist())
    ]
    for got, want in zip(fma(a, b, c).tolist(), exact):
        ulp = float(np.spacing(np.float32(abs(got))))
        assert abs(int(got * 2**160) - want) <= int(ulp * 2**159)


def test_weights_below_half_a_step_are_lost_and_no_more() -> None:
    """One key with almost all the weight and a long tail: half a step a key at most."""
    size = 4 * BLOCK
    b = Builder()
    q = b.input("q", "f32", (1, 1, 1, 4))
    k, v = (b.input(n, "f32", (1, 1, size, 4)) for n in "kv")
    graph = b.outputs(y=b.attention(q, k, v, scale=1.0))
    keys = np.zeros((1, 1, size, 4), np.float32)
    keys[..., 0, 0] = 6.5
    feeds = {"q": np.ones((1, 1, 1, 4), np.float32), "k": keys,
             "v": np.ones((1, 1, size, 4), np.float32)}  # fmt: skip
    feeds["v"][:, :, 0] = -1
    want, got = (interpret(g, feeds)["y"] for g in (graph, run(graph)))
    tail = (size - 1) * np.exp(-6.5)
    assert np.abs(want - got).max() <= (size - 1) * (0.5 / 255) / (1 + tail) + 0.01

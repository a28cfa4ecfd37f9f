"""`quantize-dynamic`: what it quantizes, what it leaves and why, and how close it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Builder, Graph, PassError, interpret, parse, verify
from taut.passes import Context, PassManager
from taut.passes.quantize.dynamic import QuantizeDynamic

from taut import testing

Array = np.ndarray[Any, Any]


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes() if n.op.name not in ("input", "constant", "return")]


def sqnr(want: Array, got: Array) -> float:
    noise = float(np.square(want.astype(np.float64) - got).sum())
    return 10 * np.log10(float(np.square(want.astype(np.float64)).sum()) / noise)


def net(seed: int, form: str, wide: int, shared: bool) -> tuple[Graph, dict[str, Array]]:
    """Two layers of one form, the first read twice."""
    r, b = np.random.default_rng(seed), Builder()
    x = b.input("x", "f32", ("n", 5, 64) if form != "gemm" else ("n", 64))

    def weight(k: int, n: int) -> Array:
        return (r.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)

    def layer(v: Any, n: int) -> Any:
        w, bias = weight(v.shape[-1], n), r.standard_normal(n).astype(np.float32)
        match form:
            case "gemm":
                return b.gemm(v, w.T.copy(), bias, alpha=0.5, transB=True)
            case "add":
                return b.add(bias, b.mat_mul(v, w))
            case "fused":
                return b.fused_mat_mul(v, w, bias, v if v.shape[-1] == n else None,
                                       activation="relu")  # fmt: skip
        return b.mat_mul(v, w)

    y = b.gelu(layer(x, wide))
    z = layer(x, wide) if shared else y
    graph = b.outputs(y=layer(b.add(y, z), 64))
    scale = 10.0 ** r.integers(-3, 3, (3, 1))
    data = r.standard_normal((3, 5, 64)) * scale[..., None] if form != "gemm" \
        else r.standard_normal((3, 64)) * scale  # fmt: skip
    return graph, {"x": data.astype(np.float32)}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), form=st.sampled_from(["mat_mul", "add", "gemm", "fused"]),
    wide=st.integers(17, 80), symmetric=st.booleans(), shared=st.booleans(),
)  # fmt: skip
def test_it_stays_close_to_float(
    seed: int, form: str, wide: int, symmetric: bool, shared: bool
) -> None:
    """Rows of very different sizes: each keeps its own precision."""
    graph, feeds = net(seed, form, wide, shared)
    text = str(QuantizeDynamic(symmetric=symmetric))
    report = PassManager(text).run(graph, Context())
    verify(report.graph)
    assert ops(report.graph).count("scaled_mat_mul") == 2 + shared
    assert ops(report.graph).count("quantize_rows") == 2
    assert not {"mat_mul", "gemm", "fused_mat_mul"} & set(ops(report.graph))
    want, got = (interpret(g, feeds)["y"] for g in (graph, report.graph))
    for a, b in zip(want, got):
        assert sqnr(a, b) > 28


@pytest.mark.parametrize("text", ["quantize-dynamic{smallest=1}", "int8-dynamic"])
def test_fuzz(text: str) -> None:
    testing.check_pipeline(text, families=["mlp", "cnn", "transformer"], examples=40, seed=1)


def test_names_and_reasons() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", 64))
    w = np.ones((64, 64), np.float32)
    bad = w.copy()
    bad[3, 3] = np.nan
    y = b.add(b.mat_mul(x, w), np.ones(64, np.float32), name="layer")
    graph = b.outputs(
        y=y, kept=b.mat_mul(x, w, name="kept"), bad=b.mat_mul(x, bad, name="bad"),
        small=b.mat_mul(x, w[:, :2], name="small"), two=b.mat_mul(x, b.transpose(x), name="two"),
        turned=b.gemm(x, b.input("v", "f32", (64, 64)), name="turned"),
    )  # fmt: skip
    report = PassManager("quantize-dynamic{skip=[kept]}").run(graph, Context())
    assert report.graph["layer"].op.name == "scaled_mat_mul"  # a name stands for its value
    reasons = {r.node: r.reason for _, r in report.remarks("missed")}
    assert reasons == {
        "kept": "not quantized: it is named in `skip`",
        "bad": "not quantized: weight has NaN",
        "small": "not quantized: its weight has 128 elements, too few to be worth it",
        "two": "not quantized: its weight is computed when it runs",
        "turned": "not quantized: its weight is computed when it runs",
    }


def test_bad_rows_are_not_hidden() -> None:
    graph, feeds = net(1, "add", 32, False)
    feeds["x"][1, 2, 3], feeds["x"][2, 0, 0] = np.inf, np.nan
    lowered = PassManager("quantize-dynamic").run(graph, Context()).graph
    bad = np.zeros((3, 5), bool)
    bad[1, 2] = bad[2, 0] = True
    with np.errstate(all="ignore"):
        y = interpret(lowered, feeds)["y"]
    assert (np.isnan(y).all(-1) == bad).all() and np.isfinite(y[~bad]).all()


def test_an_accumulator_that_could_overflow_stays_in_float() -> None:
    graph = parse(
        """
graph @main(%x: f32[n,70000]) -> (%y: f32[n,1]) {
  %w = constant @w : f32[70000,1]
  %y = mat_mul(%x, %w) : f32[n,1]
  return %y
}
""",
        {"w": np.ones((70000, 1), np.float32)},
    )
    report = PassManager("quantize-dynamic").run(graph, Context())
    assert ops(report.graph) == ["mat_mul"]
    ((_, remark),) = report.remarks("missed")
    assert "could overflow int32" in remark.reason


def test_bits_are_checked() -> None:
    with pytest.raises(PassError, match=r"within 2\.\.8"):
        PassManager("quantize-dynamic{bits=9}")

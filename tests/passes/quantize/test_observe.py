"""Histograms, range estimators, grids and moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from taut.ir import Builder, FeedError, interpret, parse
from taut.passes import Context, PassManager
from taut.passes.quantize.estimate import Estimator, Seen
from taut.passes.quantize.grids.affine import LARGEST, SMALLEST, channel_grid, grid_of
from taut.passes.quantize.histogram import BINS, Histogram
from taut.passes.quantize.observe import Moments
from taut.passes.quantize.weights import quantize_weight

import taut

FLOATS = st.floats(-(2.0**20), 2.0**20, width=32) | st.floats(-(2.0**-100), 2.0**-100, width=32)
METHODS = ("min-max", "moving-average", "percentile", "entropy", "mse")


@given(st.lists(st.lists(FLOATS, max_size=20), min_size=1, max_size=6))
@example([[4095.0], [-(2.0**-149)]])
def test_histogram_does_not_depend_on_order(batches: list[list[float]]) -> None:
    forward, backward = Histogram(), Histogram()
    for part in batches:
        forward.add(np.array(part, np.float32))
    for part in reversed(batches):
        backward.add(np.array(part[::-1], np.float32))
    assert forward.exponent == backward.exponent and forward.zeros == backward.zeros
    assert (forward.counts == backward.counts).all()
    every = np.array([v for part in batches for v in part], np.float32)
    assert forward.counts.sum() + forward.zeros == every.size == forward.total


@given(st.lists(FLOATS, min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_right_to_within_a_bin(values: list[float], q: float) -> None:
    x, h = np.array(values, np.float32), Histogram()
    h.add(x)
    found = h.quantile(q)
    assert x.min() <= found <= x.max()
    width = 2.0**h.exponent
    below = np.mean(x < found - width) <= q + 1e-9
    above = np.mean(x <= found + width) >= q - 1e-9
    assert below and above


def test_histogram_keeps_its_resolution() -> None:
    h = Histogram()
    for scale in (1e-6, 1.0, 1e6):
        h.add(np.linspace(-scale, scale, 1001, dtype=np.float32))
    assert h.total == 3003 and 1e6 / 2.0**h.exponent > BINS / 2 - 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric", "power-of-two"])
def test_estimated_ranges(method: str, scheme: str) -> None:
    r = np.random.default_rng(0)
    seen = Seen()
    for _ in range(10):
        seen.add(r.normal(size=4000).astype(np.float32))
    low, high = Estimator(method, scheme)(seen)  # type: ignore[arg-type]
    assert seen.extremes[0] <= low < -1.5 and 1.5 < high <= seen.extremes[1]


def test_mse_cuts_a_lone_outlier_and_percentile_by_its_level() -> None:
    r, seen = np.random.default_rng(0), Seen()
    seen.add(np.append(r.normal(size=1_000_000), 30.0).astype(np.float32))
    assert Estimator("min-max")(seen)[1] == 30
    assert Estimator("mse")(seen)[1] < 20
    assert 2.8 < Estimator("percentile", percentile=99.8)(seen)[1] < 3.0


@given(
    low=st.floats(-1e38, 1e38), high=st.floats(-1e38, 1e38),
    scheme=st.sampled_from(["asymmetric", "symmetric", "power-of-two"]),
)  # fmt: skip
def test_grids_hold_zero_and_their_range(low: float, high: float, scheme: str) -> None:
    grid = grid_of(min(low, high), max(low, high), scheme)  # type: ignore[arg-type]
    assert SMALLEST <= grid.scale <= LARGEST and 0 <= grid.zero <= 255
    assert grid.encode(np.zeros(1, np.float32))[0] == grid.zero
    if grid.scale < LARGEST:
        slack = grid.scale * (1 + 1e-5)
        assert grid.low <= min(low, high, 0) + slack and grid.high >= max(low, high, 0) - slack
    if scheme == "power-of-two":
        assert np.frexp(grid.scale)[0] == 0.5


def test_channel_grids_share_their_zero_point() -> None:
    low, high = np.array([-1.0, -0.01, 0.0]), np.array([3.0, 0.03, 0.0])
    grid = channel_grid(low, high, np.ones(3), "asymmetric")
    assert grid is not None and len(grid.scales) == 3
    steps = np.array(grid.scales)
    assert (-grid.zero * steps <= low + 1e-5).all()
    assert ((255 - grid.zero) * steps >= high - 1e-5).all()
    assert grid.scales[1] < grid.scales[0] / 50
    assert channel_grid(np.zeros(3), np.zeros(3), np.ones(3), "asymmetric") is None


@given(st.integers(0, 1000), st.sampled_from(["max", "mse"]), st.booleans(), st.booleans())
def test_weights(seed: int, estimate: str, symmetric: bool, per_channel: bool) -> None:
    r = np.random.default_rng(seed)
    w = r.normal(size=(4, 3, 3, 3)).astype(np.float32) * 10.0 ** r.integers(-3, 3, (4, 1, 1, 1))
    w[seed % 4] *= seed % 3 > 0  # some channels without weights
    w = w.astype(np.float32)
    made = quantize_weight(
        w,
        0,
        symmetric=symmetric,
        per_channel=per_channel,
        estimate=estimate,  # type: ignore
    )
    step = made.scale.reshape(-1, 1, 1, 1)
    reach = 0.51 if estimate == "max" or not symmetric else 70
    assert np.all(np.abs(made.real() - w) <= reach * step)
    if symmetric:
        assert made.integers.min() >= -127


def test_mse_weights_have_no_larger_error() -> None:
    w = np.random.default_rng(0).standard_t(3, size=(8, 200)).astype(np.float32)
    errors = [
        np.square(quantize_weight(w, 0, bits=4, estimate=e).real() - w).sum()
        for e in ("max", "mse")
    ]
    assert errors[1] < 0.9 * errors[0]


def test_moments_stream() -> None:
    r = np.random.default_rng(0)
    parts = [r.normal(size=(n, 3, 4)).astype(np.float32) * (1, 5, 2)[n % 3] for n in (1, 2, 3)]
    moments = Moments(1)
    for p in parts:
        moments.add(p)
    every = np.concatenate(parts)
    assert np.allclose(moments.mean, every.mean((0, 2)), atol=1e-6)
    assert np.allclose(moments.variance, every.var((0, 2)), rtol=1e-5)
    assert np.allclose(moments.high, every.max((0, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_samples_are_refused_by_name(bad: float) -> None:
    b = Builder()
    x = b.input("picture", "f32", (1, 2))
    graph = b.outputs(y=b.gemm(x, np.ones((2, 1), np.float32)))
    with pytest.raises(FeedError, match=r"picture.*calibration input 1 holds"):
        good, wrong = np.ones((1, 2), np.float32), np.array([[1, bad]], np.float32)
        PassManager("quantize").run(graph, Context(data=[good, wrong]))
    with pytest.raises(FeedError, match="empty"):
        PassManager("quantize").run(graph, Context(data=[]))


def test_samples_of_nothing_are_refused() -> None:
    b = Builder()
    x = b.input("picture", "f32", ("n", 2))
    graph = b.outputs(y=b.gemm(x, np.ones((2, 1), np.float32)))
    with pytest.raises(FeedError, match=r"picture.*no elements"):
        PassManager("quantize").run(graph, Context(data=[np.ones((0, 2), np.float32)]))


@pytest.mark.parametrize("pipeline", ["quantize", "calibrate"])
def test_samples_that_say_nothing_are_remarked_on(pipeline: str) -> None:
    b = Builder()
    x = b.input("picture", "f32", (1, 2))
    graph = b.outputs(y=b.gemm(x, np.ones((2, 1), np.float32)))

    def remarks(*values: float) -> str:
        data = [np.full((1, 2), v, np.float32) for v in values]
        return str([*PassManager(pipeline).run(graph, Context(data=data)).remarks("missed")])

    assert "its samples hold 0 everywhere" in remarks(0, 0) and "picture" in remarks(0, 0)
    assert "everywhere" not in remarks(0, 1)


def test_what_the_model_itself_makes_infinite_stays_float() -> None:
    b = Builder()
    x = b.input("x", "f32", (1, 2))
    wrong = b.gemm(x, np.full((2, 2), np.nan, np.float32), name="wrong")
    after = b.gemm(wrong, np.ones((2, 1), np.float32), name="after")
    fine = b.gemm(x, np.ones((2, 1), np.float32), name="fine")
    graph = b.outputs(y=after, z=fine)
    report = PassManager("quantize").run(graph, Context(data=[np.ones((1, 2), np.float32)]))
    reasons = {r.node: r.reason for r in report.passes[0].remarks}
    assert "weight has NaN" in reasons["wrong"] and "holds NaN" in reasons["after"]
    assert report.passes[0].counts["quantized"] == 1


FUSED = """
graph @fused(%a: f32[4,3], %x: f64[2,2,3,3], %r: f64[2,2,3,3]) -> (%b: f32[4,2], %y: f64[2,2,3,3]) {{
  %v = constant [1.0, 0.5, -1.0, 2.0, 0.25, -0.5] : f32[3,2]
  %b = mat_mul(%a, %v) : f32[4,2]
  %w = constant [1.0, 0.5, -1.0, 2.0] : f64[2,2,1,1]
  %s = constant [0.5, -2.0] : f64[2]
  %y = fused_conv(%x, %w, none, {residual}, {slope}) {{{attributes}}} : f64[2,2,3,3]
  return %b, %y
}}
"""  # noqa: E501


@pytest.mark.parametrize("residual", ["none", "%r"])
@pytest.mark.parametrize("slope, attributes", [
    ("none", 'activation="relu"'), ("none", 'activation="relu" residual_last=true'),
    ("%s", 'activation="prelu"'), ("%s", 'activation="prelu" residual_last=true'),
])  # fmt: skip
def test_a_fused_convolution_is_calibrated_and_corrected_as_it_ends(
    residual: str, slope: str, attributes: str
):
    graph = parse(FUSED.format(residual=residual, slope=slope, attributes=attributes))
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {k: rng.standard_normal((2, 2, 3, 3)) for k in ("x", "r")}
    data["a"] = rng.standard_normal((4, 3)).astype(np.float32)
    made = PassManager("int8-qdq").run(graph, Context(data=[data])).graph
    want, got = taut.reference(graph, **data), taut.reference(made, **data)
    assert np.array_equal(got["y"], want["y"])  # doubles stay as they are
    assert np.abs(got["b"] - want["b"]).max() < 0.06 * np.abs(want["b"]).max()


def test_a_number_added_to_what_is_of_unknown_rank_is_a_step() -> None:
    graph = parse("""
graph @main(%x: f32[*]) -> (%y: f32[*]) {
  %c = constant -2.0 : f32[]
  %d = constant [1.0] : f32[1,1,1,1]
  %1 = add(%x, %c) : f32[*]
  %y = add(%1, %d) : f32[*]
  return %y
}
""")
    x = np.ones((3, 3), np.float32)
    made = PassManager("quantize").run(graph, Context(data=[x])).graph
    assert interpret(made, {"x": x})["y"].shape == (1, 1, 3, 3)

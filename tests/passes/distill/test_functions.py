"""Each loss against its formula written out in NumPy, over drawn shapes, and its gradient against
finite differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Builder, DType, Graph, Value, interpret, verify
from taut.passes.distill import functions as f
from taut.passes.gradient.loss import soft_cross_entropy

from taut.testing import check_gradient

Array = np.ndarray[Any, Any]
Build = Callable[[Builder, Value, Value], Value]


def graph_of(build: Build, x: Array, t: Array) -> Graph:
    b = Builder()
    made = build(b, *(b.input(k, "f64", ("n", *v.shape[1:])) for k, v in (("x", x), ("t", t))))
    graph = b.outputs(loss=made)
    verify(graph)
    return graph


def holds(build: Build, formula: Callable[[Array, Array], float], x: Array, t: Array) -> None:
    graph, feeds = graph_of(build, x, t), {"x": x, "t": t}
    got = interpret(graph, feeds)["loss"]
    assert got.shape == ()
    np.testing.assert_allclose(got, formula(x, t), rtol=1e-9, atol=1e-12)
    check_gradient(graph, feeds, wrt=["x"], rtol=1e-4)


@st.composite
def batches(draw: st.DrawFn, *ranks: int, least: int = 1) -> tuple[Array, Array]:
    """Normal features of a batch, the two of different size in axis 1."""
    rank = draw(st.sampled_from(ranks))
    n = draw(st.integers(least, 6))
    space = [draw(st.integers(1, 4)) for _ in range(rank - 2)]
    random = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    x, t = (random.standard_normal((n, draw(st.integers(2, 6)), *space)) for _ in range(2))
    return x, t


def alike(pair: tuple[Array, Array]) -> tuple[Array, Array]:
    """The pair, the second of the first's shape."""
    x, t = pair
    return x, np.random.default_rng(len(t)).standard_normal(x.shape)


many = settings(max_examples=25, deadline=None)

# ---- formulas ----------------------------------------------------------------------------------


def soft(x: Array, t: Array, temperature: float) -> float:
    def log_softmax(z: Array) -> Array:
        e = np.exp(z - z.max(1, keepdims=True))
        return np.log(e / e.sum(1, keepdims=True))

    each = np.exp(log_softmax(t / temperature)) * log_softmax(x / temperature)
    return float(-(temperature**2) * each.sum(1).mean())


def huber(x: Array, t: Array) -> float:
    d = np.abs(x - t)
    return float(np.where(d < 1, d * d / 2, d - 0.5).mean())


def relative_distances(x: Array) -> Array:
    d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    return d / d[d > 0].mean() if (d > 0).any() else d


def cosines(x: Array) -> Array:
    def unit(v: Array) -> Array:
        size = np.linalg.norm(v)
        return v / size if size > 0 else v

    return np.array([[[unit(a - v) @ unit(c - v) for c in x] for a in x] for v in x])


def similarity(x: Array) -> Array:
    g = np.array([[a @ b for b in x] for a in x])
    return np.array([row / np.linalg.norm(row) for row in g])


def maps(x: Array) -> Array:
    made = []
    for item in x:
        q = np.sum([channel**2 for channel in item], axis=0).reshape(-1)
        made.append(q / np.linalg.norm(q))
    return np.array(made)


def divergence(x: Array, t: Array) -> float:
    pairs = zip(t.reshape(-1, t.shape[-1]), x.reshape(-1, x.shape[-1]))
    rows = [sum(p * np.log(p / q) for p, q in zip(a, b) if p > 0) for a, b in pairs]
    return float(np.mean(rows))


# ---- tests -------------------------------------------------------------------------------------


@many
@given(batches(2, 3, 4), st.floats(0.5, 8))
def test_response(pair: tuple[Array, Array], temperature: float):
    x, t = alike(pair)
    holds(lambda b, x, t: soft_cross_entropy(b, x, t, 1, temperature),
          lambda x, t: soft(x, t, temperature), x, t)  # fmt: skip


@many
@given(batches(2, least=2))
def test_distances(pair: tuple[Array, Array]):
    holds(lambda b, x, t: f.huber(b, f.Geometry(b, x).relative_distances(),
                                  f.Geometry(b, t).relative_distances()),
          lambda x, t: huber(relative_distances(x), relative_distances(t)), *pair)  # fmt: skip


@many
@given(batches(2, least=2))
def test_angles(pair: tuple[Array, Array]):
    holds(lambda b, x, t: f.huber(b, f.Geometry(b, x).cosines(), f.Geometry(b, t).cosines()),
          lambda x, t: huber(cosines(x), cosines(t)), *pair)  # fmt: skip


@many
@given(batches(2, 4))
def test_similarity(pair: tuple[Array, Array]):
    holds(lambda b, x, t: f.mean_square(b, f.similarity(b, f.rows(b, x)),
                                        f.similarity(b, f.rows(b, t))),
          lambda x, t: float(np.mean(np.square(similarity(x.reshape(len(x), -1))
                                               - similarity(t.reshape(len(t), -1))))),
          *pair)  # fmt: skip


@many
@given(batches(4))
def test_attention_maps(pair: tuple[Array, Array]):
    holds(lambda b, x, t: f.row_distance(b, f.attention_map(b, x), f.attention_map(b, t)),
          lambda x, t: float(np.square(maps(x) - maps(t)).sum(1).mean()), *pair)  # fmt: skip


@many
@given(batches(4))
def test_attention_probabilities(pair: tuple[Array, Array]):
    x, t = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in alike(pair))
    holds(f.divergence, divergence, x, t)
    holds(f.mean_square, lambda x, t: float(np.square(x - t).mean()), x, t)


def test_masked_keys_cost_nothing():
    """A key that is masked in both has probability 0 in both; a row masked everywhere too."""
    x, t = np.array([[[0.5, 0.5, 0.0], [0, 0, 0]]]), np.array([[[0.25, 0.75, 0.0], [0, 0, 0]]])
    graph = graph_of(f.divergence, x, t)
    want = (0.25 * np.log(0.5) + 0.75 * np.log(1.5)) / 2
    np.testing.assert_allclose(interpret(graph, {"x": x, "t": t})["loss"], want)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_equal_rows_have_distance_0(dtype: str):
    """As the formulas say, though inner products leave rounding; far from the origin too."""
    random = np.random.default_rng(0)
    x = (random.standard_normal((6, 50)) + 100).astype(DType(dtype).numpy)
    x[3] = x[1]
    b = Builder()
    geometry = f.Geometry(b, b.input("x", dtype, ("n", 50)))
    graph = b.outputs(d=geometry.relative_distances(), c=geometry.cosines())
    made = interpret(graph, {"x": x})
    assert made["d"][1, 3] == 0 and not made["d"].diagonal().any()
    wide = x.astype(np.float64)
    np.testing.assert_allclose(made["d"], relative_distances(wide), atol=1e-4)
    np.testing.assert_allclose(made["c"], cosines(wide), atol=2e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_a_batch_of_equal_rows_has_a_finite_gradient(n: int):
    """Nothing to compare: no distance, no slope, no NaN."""
    from taut.passes import PassManager

    def build(b: Builder, x: Value, t: Value) -> Value:
        ours, theirs = f.Geometry(b, x), f.Geometry(b, t)
        distance = f.huber(b, ours.relative_distances(), theirs.relative_distances())
        return b.add(distance, f.huber(b, ours.cosines(), theirs.cosines()))

    x, t = np.ones((n, 4)), np.random.default_rng(0).standard_normal((n, 4))
    graph = PassManager("gradient{wrt=[x]}").run(graph_of(build, x, t)).graph
    assert np.isfinite(interpret(graph, {"x": x, "t": t})["grad.x"]).all()

"""Layers in training, counts of right answers, and label smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from taut.ir import Builder, FeedError, Graph, UnsupportedError, interpret, verify
from taut.passes import optimize
from taut.passes.gradient.statistics import split_statistics, statistics

Array = np.ndarray[Any, Any]

rng = np.random.default_rng(0)


def normalized(shared: bool = False) -> Graph:
    """Two batch normalizations; `shared`: of the same constants, as `cse` would leave them."""
    b = Builder()
    x = b.input("x", "f32", ("n", 3, 4, 4))
    ones, zeros = b.constant(np.ones(3, np.float32), "ones"), b.constant(
        np.zeros(3, np.float32), "zeros")  # fmt: skip
    for name in ("a", "b"):
        mean = zeros if shared else b.constant(np.full(3, 0.5, np.float32), f"{name}.mean")
        var = ones if shared else b.constant(np.full(3, 2, np.float32), f"{name}.var")
        x = b.batch_normalization(x, ones, zeros, mean, var, momentum=0.8, name=name)
    return b.outputs(y=x)


def test_batch_normalization_takes_the_batch_and_moves_its_statistics() -> None:
    graph = optimize(normalized(), "batch-statistics")
    verify(graph)
    x = rng.standard_normal((5, 3, 4, 4)).astype(np.float32)
    feeds = {"x": x, **{f"{n}.{k}": np.full(3, v, np.float32)
                        for n in "ab" for k, v in (("mean", 0.5), ("var", 2))}}  # fmt: skip
    made = interpret(graph, feeds)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    np.testing.assert_allclose(made["next.a.mean"], 0.8 * 0.5 + 0.2 * mean, rtol=1e-5)
    unbiased = x.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(made["next.a.var"], 0.8 * 2 + 0.2 * unbiased, rtol=1e-5)
    y = (x - mean.reshape(3, 1, 1)) / np.sqrt(var.reshape(3, 1, 1) + 1e-5)
    np.testing.assert_allclose(made["y"], y, rtol=1e-3, atol=1e-4)  # normalized again: no change


def test_kept_normalizations_stay() -> None:
    graph = optimize(normalized(), 'batch-statistics{keep=["a.*"]}')
    assert [n.name for n in graph.inputs] == ["x", "b.mean", "b.var"]
    assert not graph["a"].op.training_mode and graph["b"].op.training_mode  # type: ignore[attr-defined]


def test_shared_statistics_are_split_first() -> None:
    graph = normalized(shared=True)
    assert not statistics(graph)
    split_statistics(graph)
    verify(graph)
    assert set(statistics(graph)) == {"a.mean", "a.var", "b.mean", "b.var"}


def dropped(shape: tuple[Any, ...]) -> Graph:
    b = Builder()
    x = b.input("x", "f32", shape)
    y = b.dropout(x, b.constant(np.float32(0.25), "r"), b.constant(np.bool_(False), "t"), name="d")
    return b.outputs(y=y)


def test_dropout_keeps_what_its_mask_says_and_scales_it() -> None:
    graph = optimize(dropped(("n", 4)), "dropout-masks")
    x, keep = np.float32([[1, 2, 3, 4]]), np.array([[True, False, True, True]])
    made = interpret(graph, {"x": x, "keep.d": keep})["y"]
    np.testing.assert_allclose(made, [[4 / 3, 0, 4, 16 / 3]], rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_running_variance_of_few_elements(rows: int) -> None:
    """Of one alone there is no unbiased variance: the batch's is 0, and stays a number."""
    b = Builder()
    x = b.input("x", "f32", ("n", 2))
    parts = [b.constant(np.full(2, v, np.float32), k)
             for k, v in (("s", 1), ("b", 0), ("mean", 0.5), ("var", 2))]  # fmt: skip
    graph = b.outputs(y=b.batch_normalization(x, *parts, momentum=0.8, name="bn"))
    made = rng.standard_normal((rows, 2)).astype(np.float32)
    got = interpret(optimize(graph, "batch-statistics"),
                    {"x": made, "mean": np.full(2, 0.5, np.float32),
                     "var": np.full(2, 2, np.float32)})  # fmt: skip
    own = made.var(0, ddof=1) if rows > 1 else np.zeros(2)
    np.testing.assert_allclose(got["next.var"], 0.8 * 2 + 0.2 * own, rtol=1e-5)


def test_dropout_of_whole_channels() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", 3, "h", 4))
    y = b.dropout(x, b.constant(np.float32(0.25), "r"), shared=(2, -1), name="d")
    graph = optimize(b.outputs(y=y), "dropout-masks")
    assert graph["keep.d"].type.shape == ("n", 3, 1, 1)
    keep = rng.random((2, 3, 1, 1)) < 0.5
    ones = np.ones((2, 3, 5, 4), np.float32)
    made = interpret(graph, {"x": ones, "keep.d": keep})["y"]
    np.testing.assert_allclose(made, np.broadcast_to(keep / 0.75, ones.shape), rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_alpha_dropout_keeps_mean_and_variance(ratio: float) -> None:
    b = Builder()
    x = b.input("x", "f32", ("n",))
    y = b.dropout(x, b.constant(np.float32(ratio), "r"), alpha=True, name="d")
    graph = optimize(b.outputs(y=y), "dropout-masks")
    n = 400_000
    made = interpret(graph, {"x": rng.standard_normal(n).astype(np.float32),
                             "keep.d": rng.random(n) >= ratio})["y"]  # fmt: skip
    assert abs(made.mean()) < 0.02 and abs(made.var() - 1) < 0.05


def test_dropout_of_unknown_size_is_refused() -> None:
    with pytest.raises(UnsupportedError, match='node "d"'):
        optimize(dropped((None, 4)), "dropout-masks")


# ---- counts --------------------------------------------------------------------------------------

SCORES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.sampled_from([-np.inf, -1, 0, 0.5, 1, np.inf, np.nan]).map(np.float32),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(SCORES, st.integers(1, 4), st.integers(0, 2**32))
def test_counts_are_those_of_a_sort(scores: Array, k: int, seed: int) -> None:
    rows, classes = scores.shape
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    b = Builder()
    b.input("target", "i64", ("n",))
    x = b.input("x", "f32", ("n", classes))
    graph = optimize(b.outputs(y=b.identity(x)), f"count-correct{{k={k}}}")
    got = interpret(graph, {"x": scores, "target": labels})
    want = 0
    for row, label in zip(scores, labels):
        # NaN sorts before everything that is a number, and is itself no answer.
        order = sorted(range(classes), key=lambda c: (not np.isnan(row[c]), -row[c], c))
        want += not np.isnan(row[label]) and label in order[:k]
    assert got["correct" if k == 1 else f"correct.{k}"] == want


def test_counts_at_every_place_of_a_map() -> None:
    scores = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 5))
    b = Builder()
    b.input("target", "i64", ("n", 4, 5))
    x = b.input("x", "f32", ("n", 3, 4, 5))
    graph = optimize(b.outputs(y=b.identity(x)), "count-correct")
    got = interpret(graph, {"x": scores, "target": labels})["correct"]
    assert got == (scores.argmax(1) == labels).sum()


def test_counting_needs_labels() -> None:
    b = Builder()
    graph = b.outputs(y=b.relu(b.input("x", "f32", ("n", 3))))
    with pytest.raises(FeedError, match="labels"):
        optimize(graph, "count-correct")


# ---- smoothing -----------------------------------------------------------------------------------


def test_label_smoothing_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    y, labels = rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 5, 6)
    b = Builder()
    graph = b.outputs(y=b.identity(b.input("x", "f32", ("n", 5))))
    made = interpret(optimize(graph, "loss{smoothing=0.2}"), {"x": y, "target": labels})["loss"]
    want = torch.nn.functional.cross_entropy(
        torch.tensor(y), torch.tensor(labels), label_smoothing=0.2
    )
    np.testing.assert_allclose(made, want.numpy(), rtol=1e-5)
    with pytest.raises(FeedError, match="smoothing"):
        optimize(graph, "loss{kind=mean-squared-error smoothing=0.2}")

"""Kernels of training against the reference: computed weights, gradients, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Builder, FeedError, Graph, Value, interpret

NAMES = [t.name for t in isa.available()]
Feeds = dict[str, np.ndarray[Any, Any]]


def agree(graph: Graph, feeds: Feeds, **options: Any) -> None:
    program = compile(graph, **options)
    assert program.fallbacks == []
    made: Any = None
    for _ in range(2):
        made = program(**feeds)
    for name, want in interpret(graph, feeds).items():
        scale = float(np.abs(want).max(initial=0)) + 1
        np.testing.assert_allclose(made[name], want, rtol=2e-5, atol=4e-6 * scale)


class Draw:
    """Inputs of a graph with random contents."""

    def __init__(self, seed: int) -> None:
        self.rng, self.b, self.feeds = np.random.default_rng(seed), Builder(), Feeds()

    def image(self, name: str, shape: tuple[int, ...]) -> Value:
        return self.array(name, self.rng.standard_normal(shape).astype(np.float32))

    def array(self, name: str, array: np.ndarray[Any, Any]) -> Value:
        self.feeds[name] = array
        kinds = {"float32": "f32", "int64": "i64", "int32": "i32"}
        return self.b.input(name, kinds[array.dtype.name], array.shape)


# (kernel, stride, dilation, padding, channels, filters, group): few shapes of kernels, so that what
# is compiled serves many examples.
CONVS = st.sampled_from([
    (3, 1, 1, 1, 16, 24, 1), (3, 2, 1, 1, 3, 16, 1), (3, 1, 2, 0, 5, 7, 1), (1, 1, 1, 0, 20, 33, 1),
    (5, 1, 1, 2, 1, 20, 1), (3, 1, 1, 1, 24, 24, 24), (3, 2, 1, 1, 32, 32, 32),
    (3, 1, 1, 1, 8, 12, 4), (1, 2, 1, 0, 16, 48, 1), (2, 2, 1, 0, 9, 9, 3),
])  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    conv=CONVS, rank=st.integers(1, 2), size=st.sampled_from([5, 8, 11]), bias=st.booleans(),
    n=st.integers(1, 3), transposed=st.booleans(), name=st.sampled_from(NAMES),
    threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_computed_weights(conv, rank, size, bias, n, transposed, name, threads, seed):
    k, s, dil, pad, c, o, group = conv
    d = Draw(seed)
    window = {"strides": (s,) * rank, "pads": (pad,) * 2 * rank, "dilations": (dil,) * rank,
              "group": group}  # fmt: skip
    kernel = (k,) * rank
    if transposed:
        x = d.image("x", (n, o, *(size,) * rank))
        w, wide = d.image("w", (o, c // group, *kernel)), c
        made = d.b.conv_transpose(x, w, d.image("b", (wide,)) if bias else None, **window)
    else:
        x = d.image("x", (n, c, *(size,) * rank))
        w = d.image("w", (o, c // group, *kernel))
        made = d.b.conv(x, w, d.image("b", (o,)) if bias else None, **window)
    agree(d.b.outputs(y=made), d.feeds, isa=name, threads=threads)


@settings(max_examples=25, deadline=None)
@given(
    conv=CONVS, rank=st.integers(1, 2), size=st.sampled_from([5, 8, 11, 70]), n=st.integers(1, 5),
    name=st.sampled_from(NAMES), threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_weight_gradients(conv, rank, size, n, name, threads, seed):
    k, s, dil, pad, c, o, group = conv
    size = size if rank == 2 or size < 70 else 300
    d = Draw(seed)
    out = (size + 2 * pad - (k - 1) * dil - 1) // s + 1
    x = d.image("x", (n, c, *(size,) * rank))
    dy = d.image("dy", (n, o, *(out,) * rank))
    made = d.b.conv_weight_gradient(
        x, dy, strides=(s,) * rank, pads=(pad,) * 2 * rank, dilations=(dil,) * rank, group=group,
        kernel_shape=(k,) * rank,
    )  # fmt: skip
    agree(d.b.outputs(y=made), d.feeds, isa=name, threads=threads)


@settings(max_examples=30, deadline=None)
@given(
    pool=st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0), (3, 2, 0)]),
    rank=st.integers(1, 2), c=st.sampled_from([1, 3, 16, 20]), size=st.sampled_from([5, 8, 9]),
    n=st.integers(1, 3), kind=st.sampled_from(["max", "average", "include", "total"]),
    name=st.sampled_from(NAMES), threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_pool_gradients(pool, rank, c, size, n, kind, name, threads, seed):
    """Few different elements, so that many are equal: the first of the largest counts."""
    k, s, pad = pool
    d = Draw(seed)
    out = (size + 2 * pad - k) // s + 1
    window: dict[str, Any] = {"strides": (s,) * rank, "pads": (pad,) * 2 * rank,
                              "kernel_shape": (k,) * rank}  # fmt: skip
    shape = (n, c, *(size,) * rank)
    dy = d.image("dy", (n, c, *(out,) * rank))
    if kind == "max":
        x = d.array("x", d.rng.integers(-2, 2, shape).astype(np.float32))
        made = d.b.max_pool_gradient(x, dy, **window)
    else:
        made = d.b.average_pool_gradient(
            dy, np.array(shape), count_include_pad=kind == "include", total=kind == "total",
            **window,
        )  # fmt: skip
    agree(d.b.outputs(y=made), d.feeds, isa=name, threads=threads)


@settings(max_examples=30, deadline=None)
@given(
    softmax=st.booleans(), reduction=st.sampled_from(["none", "sum", "mean"]),
    ignore=st.sampled_from([None, 2, -5]), weighted=st.booleans(), places=st.booleans(),
    kind=st.sampled_from([np.int32, np.int64]), threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_class_losses(softmax, reduction, ignore, weighted, places, kind, threads, seed):
    d, shape = Draw(seed), (6, 3) if places else (6,)
    x = d.image("x", (6, 5, *shape[1:]))
    at = d.rng.integers(0, 5, shape).astype(kind)
    if ignore is not None:
        at.reshape(-1)[::3] = ignore
    labels = d.array("labels", at)
    weight = d.array("weight", d.rng.random(5, np.float32)) if weighted else None
    op = d.b.softmax_cross_entropy_loss if softmax else d.b.negative_log_likelihood_loss
    made = op(x, labels, weight, reduction=reduction, ignore_index=ignore)
    agree(d.b.outputs(y=made), d.feeds, threads=threads)


@pytest.mark.parametrize("label", [-1, 5, 2**40])
def test_labels_out_of_range_are_refused(label):
    d = Draw(0)
    x, labels = d.image("x", (3, 5)), d.array("labels", np.array([0, label, 4]))
    graph = d.b.outputs(y=d.b.softmax_cross_entropy_loss(x, labels, name="loss"))
    for run in (compile(graph), lambda **feeds: interpret(graph, feeds)):
        with pytest.raises(FeedError, match="a label is not below the 5 classes"):
            run(**d.feeds)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis):
    d = Draw(0)
    at = d.array("at", np.array([[0, 1, -1], [4, 7, -6]]))
    values = d.array("values", np.float32([-1, 2]))
    agree(d.b.outputs(y=d.b.one_hot(at, np.array(5), values, axis=axis)), d.feeds)


def test_a_log_probability_of_minus_infinity_counts_for_its_class_only():
    d = Draw(0)
    logs = d.array("logs", np.float32([[0, -np.inf], [-1, -2]]))
    labels = d.array("labels", np.array([0, 1]))
    agree(d.b.outputs(y=d.b.negative_log_likelihood_loss(logs, labels)), d.feeds)

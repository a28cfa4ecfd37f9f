"""Compiled gradient graphs give the reference's numbers, at any batch size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from taut.ir import Builder, Graph, interpret
from taut.passes import optimize, random_feeds

import taut
from taut import testing


def with_loss(graph: Graph) -> Graph:
    """The graph with the mean square of its first float output as its last output."""
    graph = graph.copy()
    outputs = dict(zip(graph.output_names, graph.outputs))
    y = next(v for v in outputs.values() if v.type.dtype.is_float)
    b = Builder(graph)
    graph.set_outputs({**outputs, "the loss": b.reduce_mean(b.mul(y, y), keepdims=False)})
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["", ",O2", "{recompute=true},O1"])
@pytest.mark.parametrize("family", ["mlp", "cnn", "transformer", "recurrent"])
def test_gradients_of_drawn_models(family: str, pipeline: str) -> None:
    check_family(family, pipeline, 5)


@pytest.mark.parametrize("family", ["mlp", "cnn", "transformer"])
def test_gradients_of_one_model_of_each_family(family: str) -> None:
    check_family(family, ",O1", 1)


def check_family(family: str, pipeline: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(testing.graphs(family), st.integers(1, 3))
    def run(graph: Graph, batch: int) -> None:
        made = optimize(with_loss(graph), f"parameters,gradient{pipeline}")
        rng = np.random.default_rng(0)
        sizes = dict.fromkeys((d for n in made.inputs for d in n.type.shape or ()), batch)
        feeds = random_feeds(made, rng, {k: v for k, v in sizes.items() if isinstance(k, str)})
        want = interpret(made, feeds)
        assume(all(np.isfinite(v).all() for v in want.values() if v.dtype.kind == "f"))
        got = taut.compile(made, threads=1)(**feeds)
        # Some gradients are zero but for rounding, such as that of a bias of attention's keys.
        largest = max(float(np.abs(v).max()) for v in want.values() if v.size)
        for name, array in want.items():
            reason = testing.difference(array, got[name], 2e-3, max(1e-4, 1e-6 * largest))
            assert reason is None, f"{name}: {reason}"

    run()

"""Functions written out in full, in the forms that exporters use, become one op."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, Value, interpret
from taut.passes import Context, PassManager

F = np.float32
LAST = np.array([-1])


def recognized(make: Any, *shape: Any, before: str = "") -> list[str]:
    b = Builder()
    graph = b.outputs(y=make(b, b.input("x", "f32", shape or ("n", 3, 8))))
    x = np.random.default_rng(0).standard_normal([d if isinstance(d, int) else 2 for d in (
        shape or ("n", 3, 8))]).astype(F) * 4  # fmt: skip
    report = PassManager(f"{before}recognize,dce", check=True).run(graph, Context(data=[x]))
    return [n.op.name for n in report.graph.nodes() if n.op.name not in
            ("input", "constant", "return")]  # fmt: skip


def gate(b: Builder, x: Value) -> Value:
    return b.clip(b.add(x, F(3)), F(0), F(6))


def erf_gate(b: Builder, x: Value) -> Value:
    return b.add(b.erf(b.div(x, F(math.sqrt(2)))), F(1))


def cube_gate(b: Builder, x: Value) -> Value:
    inner = b.add(x, b.mul(b.pow(x, F(3)), F(0.044715)))
    return b.add(b.tanh(b.mul(inner, F(math.sqrt(2 / math.pi)))), F(1))


def centred(b: Builder, x: Value) -> Value:
    return b.sub(x, b.reduce_mean(x, LAST))


def deviation(b: Builder, d: Value) -> Value:
    return b.sqrt(b.add(b.reduce_mean(b.pow(d, F(2)), LAST), F(1e-5)))


S, T = np.arange(8, dtype=F), np.ones(8, F)


@pytest.mark.parametrize("make, op", [
    (lambda b, x: b.div(b.mul(x, gate(b, x)), F(6)), "hard_swish"),
    (lambda b, x: b.mul(b.mul(gate(b, x), x), F(1 / 6)), "hard_swish"),
    (lambda b, x: b.mul(x, b.div(gate(b, x), F(6))), "hard_swish"),
    (lambda b, x: b.mul(b.div(x, F(6)), gate(b, x)), "hard_swish"),
    (lambda b, x: b.mul(x, b.hard_sigmoid(x, alpha=0.16667, beta=0.5)), "hard_swish"),
    (lambda b, x: b.clip(b.add(b.mul(x, F(0.2)), F(0.5)), F(0), F(1)), "hard_sigmoid"),
    (lambda b, x: b.div(gate(b, b.mul(x, F(1.2))), F(6)), "hard_sigmoid"),
    (lambda b, x: b.mul(b.sigmoid(x), x), "swish"),
    (lambda b, x: b.mul(x, b.sigmoid(b.mul(x, F(1.702)))), "swish"),
    (lambda b, x: b.mul(x, b.tanh(b.softplus(x))), "mish"),
    (lambda b, x: b.div(F(1), b.add(b.exp(b.neg(x)), F(1))), "sigmoid"),
    (lambda b, x: b.mul(b.mul(x, erf_gate(b, x)), F(0.5)), "gelu"),
    (lambda b, x: b.mul(b.mul(x, F(0.5)), erf_gate(b, x)), "gelu"),
    (lambda b, x: b.mul(x, b.mul(erf_gate(b, x), F(0.5))), "gelu"),
    (lambda b, x: b.mul(b.mul(x, F(0.5)), cube_gate(b, x)), "gelu"),
    (lambda b, x: b.max(x, b.mul(x, F(0.1))), "leaky_relu"),
    (lambda b, x: b.prelu(x, F(0.25)), "leaky_relu"),
    (lambda b, x: b.add(b.mul(b.div(centred(b, x), deviation(b, centred(b, x))), S), T),
     "layer_normalization"),
    (lambda b, x: b.mul(b.mul(centred(b, x), b.reciprocal(deviation(b, centred(b, x)))), S),
     "layer_normalization"),
    (lambda b, x: b.mul(b.div(x, deviation(b, x)), S), "rms_normalization"),
])  # fmt: skip
def test_becomes_one_op(make: Any, op: str) -> None:
    assert recognized(make) == [op]
    assert recognized(make, before="simplify,") == [op]  # other passes do not get in the way


@pytest.mark.parametrize("make", [
    lambda b, x: b.div(b.mul(x, gate(b, x)), F(5)),  # not a sixth
    lambda b, x: b.mul(x, b.hard_sigmoid(x)),  # slope 0.2
    lambda b, x: b.mul(x, b.sigmoid(b.mul(x, x))),
    lambda b, x: b.mul(b.mul(x, erf_gate(b, b.abs(x))), F(0.5)),
    lambda b, x: b.max(x, b.mul(x, F(1.5))),
    lambda b, x: b.mul(b.div(centred(b, x), deviation(b, x)), S),  # of x, not of the difference
    lambda b, x: b.clip(b.add(x, F(3)), F(-1), F(6)),
])  # fmt: skip
def test_what_only_looks_alike_stays(make: Any) -> None:
    found = recognized(make)
    plain = {"hard_swish", "swish", "gelu", "leaky_relu", "layer_normalization", "sigmoid",
             "hard_sigmoid"}  # fmt: skip
    assert len(found) > 1 or found == ["clip"] or not set(found) & plain


def test_means_of_images_are_global_pools_and_means_of_sequences_are_not() -> None:
    def spatial(b: Builder, x: Value) -> Value:
        return b.reduce_mean(x, np.array([-1, -2]))

    assert recognized(spatial, "n", 3, 5, 6) == ["global_average_pool"]
    assert recognized(lambda b, x: b.reduce_mean(x, LAST), "n", 3, 8) == ["reduce_mean"]
    assert recognized(lambda b, x: b.average_pool(x, kernel_shape=(5, 6)), "n", 3, 5, 6) == [
        "global_average_pool"
    ]
    assert recognized(lambda b, x: b.max_pool(x, kernel_shape=(5, 5)), "n", 3, 5, 6) == ["max_pool"]


def test_a_scale_that_may_widen_what_is_normalized_stays_outside() -> None:
    b = Builder()
    x, scale = b.input("x", "f32", (None, None)), b.input("scale", "f32", (None, None))
    axes, eps = np.array([0, 1]), np.float32(0.1)
    centre = b.sub(x, b.reduce_mean(x, axes))
    layer = b.div(centre, b.sqrt(b.add(b.reduce_mean(b.mul(centre, centre), axes), eps)))
    rms = b.div(x, b.sqrt(b.add(b.reduce_mean(b.mul(x, x), axes), eps)))
    biased = b.layer_normalization(x, np.ones(1, np.float32), axis=1)
    graph = b.outputs(y=b.mul(layer, scale), z=b.mul(rms, scale), v=b.add(biased, scale))
    made = PassManager("recognize").run(graph).graph
    feeds = {"x": np.full((1, 1), 2, np.float32), "scale": np.ones((1, 2), np.float32)}
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_allclose(interpret(made, feeds)[name], want, rtol=1e-6)

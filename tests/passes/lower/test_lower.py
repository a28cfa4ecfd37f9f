"""lower-integer on a small network with every kind of node: close to QDQ, all integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from taut.ir import Builder, DType, Graph, Value, interpret, verify
from taut.passes import Context, PassManager

Random = np.random.Generator
SHAPE = (1, 3, 16, 16)


def conv(
    b: Builder, r: Random, x: Value, inputs: int, outputs: int, kernel: int, stride: int = 1,
    group: int = 1, activation: str = "relu", params: Sequence[float] = (),
    residual: Value | None = None,
) -> Value:  # fmt: skip
    weight = r.normal(size=(outputs, inputs // group, kernel, kernel)) / kernel
    bias = r.normal(size=outputs).astype(np.float32)
    return b.fused_conv(
        x, weight.astype(np.float32) / np.float32(np.sqrt(inputs // group)), bias, residual,
        strides=(stride, stride), pads=(kernel // 2,) * 4, group=group, activation=activation,
        params=tuple(params),
    )  # fmt: skip


def network(seed: int = 0) -> Graph:
    r, b = np.random.default_rng(seed), Builder()
    x = b.input("x", "f32", SHAPE)
    stem = conv(b, r, x, 3, 16, 3, stride=2)
    depthwise = conv(b, r, stem, 16, 16, 3, group=16, activation="hard_swish")
    joined = conv(b, r, depthwise, 16, 16, 1, activation="", residual=stem)
    pooled = b.max_pool(joined, kernel_shape=(2, 2), strides=(2, 2))
    branch = conv(b, r, pooled, 16, 8, 3, activation="clip", params=(0.0, 6.0))
    both = b.concat(pooled, branch, axis=1)
    gate = conv(b, r, b.global_average_pool(both), 24, 8, 1)
    gate = conv(b, r, gate, 8, 24, 1, activation="hard_sigmoid")
    gated = b.mul(both, gate)
    summed = b.relu(b.add(gated, both))
    small = b.average_pool(summed, kernel_shape=(2, 2), strides=(2, 2))
    wide = b.resize(small, None, np.array([1, 1, 2, 2], np.float32), mode="nearest",
                    coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    last = conv(b, r, wide, 24, 8, 3, activation="swish")
    flat = b.flatten(b.global_average_pool(last))
    weight = r.normal(size=(8, 10)).astype(np.float32)
    return b.outputs(y=b.gemm(flat, weight, r.normal(size=10).astype(np.float32)))


def data(seed: int, count: int) -> list[np.ndarray]:
    r = np.random.default_rng(seed)
    return [r.normal(size=SHAPE).astype(np.float32) for _ in range(count)]


def run(graph: Graph, pipeline: str) -> Graph:
    return PassManager(pipeline).run(graph, Context(data=data(1, 8))).graph


def sqnr(a: Graph, b: Graph) -> float:
    signal = noise = 0.0
    for x in data(2, 8):
        (p,), (q,) = interpret(a, {"x": x}).values(), interpret(b, {"x": x}).values()
        signal, noise = signal + float((p**2).sum()), noise + float(((p - q) ** 2).sum())
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def test_everything_becomes_integers() -> None:
    graph = run(network(), "quantize,lower-integer")
    verify(graph)
    floats = [n.op.name for n in graph.nodes() if n.types and n.type.dtype is DType.f32]
    # What is left: the input, its scale, and the logits as accumulator times scale.
    assert [f for f in floats if f != "constant"] == ["input", "cast", "mul"]
    assert sqnr(network(), graph) > 30


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric", "power-of-two"])
@pytest.mark.parametrize("weights", ["symmetric", "asymmetric"])
def test_integers_agree_with_pairs(scheme: str, weights: str) -> None:
    pairs = run(network(), f"quantize{{scheme={scheme} weights={weights}}}")
    assert sqnr(network(), pairs) > 25
    # Ties and table indices may fall to the other side; all in all the two are near.
    assert sqnr(pairs, run(pairs, "lower-integer")) > 38


def test_fixed_point_has_shifts_only() -> None:
    graph = run(
        network(),
        "quantize{scheme=power-of-two},lower-integer{multipliers=power-of-two}",
    )
    found = [n for n in graph.nodes() if n.op.name == "requantize"]
    assert found
    for node in found:
        for m in graph.operands(node)[1::2]:
            assert m is not None and m.array is not None
            assert all(v > 0 and v & (v - 1) == 0 for v in np.abs(m.array.reshape(-1)).tolist())


def test_lowering_is_deterministic() -> None:
    from taut.ir import print_graph

    assert print_graph(run(network(), "quantize,lower-integer")) == print_graph(
        run(network(), "quantize,lower-integer")
    )

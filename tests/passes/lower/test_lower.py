"""lower-integer on a small network with every kind of node: close to QDQ, all integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from taut.ir import Builder, DType, Graph, TensorType, Value, interpret, verify
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


def lowered(graph: Graph, samples: list[np.ndarray], options: str = "") -> tuple[Graph, Graph]:
    """(pairs, integers) of a small graph."""
    context = Context(data=samples)
    pairs = PassManager(f"quantize{options}").run(graph, context).graph
    return pairs, PassManager("lower-integer").run(pairs, Context()).graph


def names(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes() if n.op.name not in ("constant", "input", "return")]


def weight(r: Random, *shape: int) -> np.ndarray:
    return r.normal(size=shape).astype(np.float32)


def two_convolutions(r: Random, between: object) -> Graph:
    """conv, something, conv: the usual place of every op."""
    b = Builder()
    x = b.input("x", "f32", (2, 4, 9, 7))
    first = b.fused_conv(x, weight(r, 6, 4, 1, 1), weight(r, 6), activation="relu")
    made = between(b, first)  # type: ignore[operator]
    channels = made.type.static_shape[1]
    return b.outputs(y=b.conv(made, weight(r, 5, channels, 1, 1), weight(r, 5)))


CASES = {
    "border_average": (
        lambda b, x: b.average_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        ["sum_pool_integer", "mul", "requantize"],
    ),
    "average": (
        lambda b, x: b.average_pool(x, kernel_shape=(2, 3), count_include_pad=True),
        ["sum_pool_integer", "requantize"],
    ),
    "difference": (lambda b, x: b.sub(x, b.max_pool(x, kernel_shape=(1, 1))), ["max_pool"]),
    "gate": (
        lambda b, x: b.add(x, b.mul(x, b.global_max_pool(x))),
        ["max_pool", "lookup", "mul_integer", "requantize"],
    ),
    "table": (lambda b, x: b.max_pool(b.tanh(b.max_pool(x, kernel_shape=(2, 2))),
                                      kernel_shape=(2, 2)), ["max_pool", "lookup"]),
    "norm": (
        lambda b, x: b.relu(b.batch_normalization(
            b.max_pool(x, kernel_shape=(2, 2)), *[np.ones(6, np.float32)] * 2,
            np.linspace(-1, 1, 6, dtype=np.float32), np.ones(6, np.float32))),
        ["conv_integer", "requantize"],
    ),
    "transposed": (
        lambda b, x: b.relu(b.conv_transpose(
            x, np.linspace(-1, 1, 6 * 3 * 4, dtype=np.float32).reshape(6, 3, 2, 2),
            np.ones(3, np.float32), strides=(2, 2))),
        ["conv_integer", "requantize", "depth_to_space"],
    ),
    "pad": (
        lambda b, x: b.pad(x, np.array([0, 0, 1, 0, 0, 0, 0, 2]), np.array(0.5, np.float32)),
        ["pad"],
    ),
    "halves": (lambda b, x: b.concat(*b.split(x, num_outputs=2, axis=1)[::-1], axis=1),
               ["split", "concat"]),
    "scalar": (lambda b, x: b.mul(b.add(x, np.float32(3)), np.float32(0.25)), ["lookup"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_op_has_an_integer_form(name: str) -> None:
    between, expected = CASES[name]
    r = np.random.default_rng(3)
    graph = two_convolutions(r, between)
    samples = [weight(r, 2, 4, 9, 7) for _ in range(4)]
    pairs, integers = lowered(graph, samples)
    verify(integers)
    found = names(integers)
    assert "dequantize_linear" not in found and found.count("quantize_linear") == 1
    assert set(expected) <= set(found), found
    want, got = (next(iter(interpret(g, {"x": samples[0]}).values())) for g in (pairs, integers))
    real = next(iter(interpret(graph, {"x": samples[0]}).values()))
    assert np.abs(got - want).max() <= 0.05 * np.abs(real).max()
    assert np.square(got - want).sum() < 0.01 * np.square(real).sum()
    assert np.square(got - real).sum() < 0.01 * np.square(real).sum()


def test_accumulators_that_could_overflow_stay_pairs() -> None:
    b = Builder()
    x = b.input("x", "f32", (1, 80_000))
    b.outputs(y=b.gemm(x, np.full((80_000, 1), 0.5, np.float32)))
    samples = [np.linspace(0, 1, 80_000, dtype=np.float32).reshape(1, -1)]
    context = Context(data=samples)
    report = PassManager("quantize,lower-integer").run(b.graph, context)
    assert "mat_mul_integer" not in names(report.graph)
    assert any("overflow" in r.reason for r in report.passes[1].remarks)


def test_depthwise_inputs_have_a_scale_for_each_channel() -> None:
    r, b = np.random.default_rng(5), Builder()
    x = b.input("x", "f32", (1, 4, 8, 8))
    spread = np.float32(10.0) ** np.arange(-2, 2, 0.5, dtype=np.float32)
    wide = b.fused_conv(x, weight(r, 8, 4, 1, 1) * spread.reshape(-1, 1, 1, 1), activation="relu")
    made = b.conv(wide, weight(r, 8, 1, 3, 3) / spread.reshape(-1, 1, 1, 1), group=8,
                  pads=(1, 1, 1, 1))  # fmt: skip
    graph = b.outputs(y=b.conv(made, weight(r, 3, 8, 1, 1)))
    samples = [weight(r, 1, 4, 8, 8) for _ in range(8)]
    pairs, integers = lowered(graph, samples)
    plain, _ = lowered(graph, samples, "{channel_grids=false}")
    assert names(integers).count("conv_integer") == 3

    def error(g: Graph) -> float:
        return sum(
            float(np.square(interpret(g, {"x": s})["y"] - interpret(graph, {"x": s})["y"]).sum())
            for s in samples
        )

    assert error(pairs) < error(plain) / 10
    assert error(integers) < error(plain) / 10


def test_products_of_unknown_rank_stay_in_float() -> None:
    b, r = Builder(), np.random.default_rng(0)
    x = b.graph.add_input("x", TensorType(DType.u8, None))[0]
    z = b.input("z", "u8", ("n", 4))
    step, zero = np.float32(0.5), np.uint8(3)
    steps = np.array([1.5, 0.5, 1.5], np.float32)
    w = b.dequantize_linear(r.integers(-9, 9, (4, 3)).astype(np.int8), steps, axis=1)
    real = b.dequantize_linear(x, step, zero)
    graph = b.outputs(
        y=b.mat_mul(real, w), biased=b.add(b.mat_mul(real, w), steps),
        known=b.mat_mul(b.dequantize_linear(z, step, zero), w),
    )  # fmt: skip
    report = PassManager("lower-integer").run(graph)
    assert names(report.graph).count("mat_mul_integer") == 1
    assert any("rank is not known" in m.reason for m in report.passes[0].remarks)
    feeds = {"x": np.arange(8, dtype=np.uint8).reshape(2, 4), "z": np.ones((1, 4), np.uint8)}
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_allclose(interpret(report.graph, feeds)[name], want, rtol=1e-6)

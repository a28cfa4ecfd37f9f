"""Quantizers that are trained: gradients, what `finalize-quantization` promises, bits by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.frontends.builder import Network
from taut.ir import (
    Builder,
    DType,
    Graph,
    Limits,
    PassError,
    Value,
    differentiate,
    interpret,
    verify,
)
from taut.ir.ops.structure import Constant
from taut.passes import Context, Outcome, PassManager
from taut.passes.gradient import trainable
from taut.passes.quantize.finalize import Finalizer
from taut.passes.quantize.grids.affine import AffineGrid, bounds_of
from taut.passes.quantize.learned import Learning, insert_learned_weight, rounding
from taut.passes.quantize.place import place
from taut.passes.quantize.widths import Widths, edges

from taut import testing

Array = np.ndarray[Any, Any]
drawn = settings(max_examples=25, deadline=None, derandomize=True)


def run(pipeline: str, graph: Graph, data: Any = None) -> Graph:
    made = PassManager(pipeline).run(graph, Context(data=data)).graph
    verify(made)
    return made


def constants(graph: Graph) -> dict[str, Array]:
    return {n.name: n.op.value for n in graph.of(Constant) if isinstance(n.op, Constant)}


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes()]


# ---- gradients, against the formulas in NumPy ----------------------------------------------------


def gradients(graph: Graph, y: Value, seed: Array, feeds: dict[str, Array]) -> dict[str, Array]:
    """Gradients of what is trainable, and of the inputs."""
    b, sought = Builder(graph), {n.name: n[0] for n in graph.inputs}
    sought |= {k: graph[k][0] for k in trainable(graph)}
    found = differentiate(graph, {y: b.constant(seed)}, list(sought.values()), b=b)
    graph.set_outputs({k: v for k, x in sought.items() if (v := found[x]) is not None})
    return interpret(graph, feeds)


def lsq(x: Array, scale: Any, zero: int, bounds: tuple[int, int], g: Array) -> tuple[Array, ...]:
    """Gradients of x, and element by element of scale and zero point: equation 3 of LSQ, LSQ+'s."""
    steps, low, high = x / scale, bounds[0] - zero, bounds[1] - zero
    below, above = steps < low, steps > high
    inside = ~below & ~above
    each = np.where(inside, np.rint(steps) - steps, np.where(below, low, high))
    return g * inside, g * each, np.where(inside, 0, -g * scale)


def away_from_ties(x: Array, scale: Any) -> Array:
    """x, but for elements where single precision may round to another step."""
    part = x / scale - np.floor(x / scale)
    near = (np.abs(part - 0.5) < 1e-3) | (part < 1e-3) | (part > 1 - 1e-3)
    return np.where(near, x + 0.1 * scale, x)


@drawn
@given(
    bits=st.integers(2, 8), exponent=st.floats(-6, 3), share=st.floats(0.05, 0.95),
    rate=st.sampled_from([1.0, 0.25, 10.0]), trained=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_gradients_of_a_values_grid(
    bits: int, exponent: float, share: float, rate: float, trained: bool, seed: int
) -> None:
    r = np.random.default_rng(seed)
    lo, hi = bounds_of(DType.u8, bits)
    zero, scale = round(share * hi), float(np.float32(2.0**exponent))
    grid = AffineGrid(scale, zero, bits=bits)
    b = Builder()
    x = b.input("x", "f32", (60,))
    made = rounding(b, "x", grid, 60, Learning(zero_points=trained, rate=rate))
    q = b.quantize_linear(b.clip(x, made.low, made.high), made.scale, made.zero_point)
    y = b.dequantize_linear(q, made.scale, made.zero_point)
    assert np.isclose(interpret(b.outputs(s=made.scale), {"x": np.zeros(60, np.float32)})["s"],
                      scale, rtol=1e-6)  # fmt: skip
    at = away_from_ties(r.uniform(-1.5, 2.5, 60) * scale * hi, scale).astype(np.float32)
    g = r.standard_normal(60).astype(np.float32)
    got = gradients(b.graph, y, g, {"x": at})
    dx, dscale, dzero = lsq(at.astype(np.float64), scale, zero, (lo, hi), g)
    np.testing.assert_allclose(got["x"], dx, rtol=1e-5)
    factor = 1 / np.sqrt(60 * max(hi - zero, zero))
    size = np.abs(dscale).sum() * factor / scale
    np.testing.assert_allclose(got["x.log_scale"], factor / scale * dscale.sum(), atol=1e-4 * size)
    moves = trained and lo < zero < hi
    assert ("x.zero_share" in got) == moves
    if moves:
        span = float(hi - lo)
        want = factor / (scale * scale * span) * dzero.sum()
        size = factor / (scale * scale * span) * np.abs(dzero).sum()
        np.testing.assert_allclose(got["x.zero_share"], want, atol=1e-4 * size + 1e-12)


@drawn
@given(bits=st.integers(2, 8), per_channel=st.booleans(), seed=st.integers(0, 2**31))
def test_gradients_of_a_weights_grid(bits: int, per_channel: bool, seed: int) -> None:
    r = np.random.default_rng(seed)
    top = bounds_of(DType.i8, bits)[1]
    scale = 2.0 ** r.uniform(-5, 0, 4 if per_channel else ()).astype(np.float32)
    spread = np.broadcast_to(scale, (4,)).reshape(4, 1, 1, 1)
    w = away_from_ties(r.uniform(-1.4, 1.4, (4, 2, 3, 3)) * top * spread, spread).astype(np.float32)
    b = Builder()
    x = b.input("x", "f32", (1, 2, 3, 3))
    y = b.conv(x, b.constant(w, "w"), name="conv")
    graph = b.outputs(y=y)
    insert_learned_weight(graph, y.node, np.asarray(scale), bits, Learning())
    at, g = r.standard_normal((1, 2, 3, 3)), r.standard_normal((1, 4, 1, 1))
    got = gradients(graph, y, g.astype(np.float32), {"x": at.astype(np.float32)})
    coming = g.reshape(4, 1, 1, 1) * at  # the gradient of the rounded weight
    dw, each, _ = lsq(w.astype(np.float64), spread, 0, (-top, top), coming)
    np.testing.assert_allclose(got["w"], dw, rtol=1e-4, atol=1e-5)
    over = (1, 2, 3) if per_channel else None
    factor = 1 / np.sqrt(w.size / scale.size * top) / scale
    size = factor * np.abs(each).sum(over) * 1e-4
    assert (np.abs(got["w.log_scale"] - factor * each.sum(over)) <= size + 1e-6).all()


def test_what_is_trained() -> None:
    graph = run("quantize-aware{zero_points=learned}", network(False, 0), data(0))
    wanted = {"conv1.weight", "conv1.weight.log_scale", "image.log_scale", "image.zero_share"}
    assert wanted <= set(trainable(graph))
    frozen = run("quantize-aware{scales=frozen}", network(False, 0), data(0))
    assert not any(k.endswith(("log_scale", "zero_share")) for k in trainable(frozen))


# ---- graphs --------------------------------------------------------------------------------------


def network(normalized: bool, seed: int, residual: bool = False) -> Graph:
    """Convolutions with the normalizations of a trained network: any statistics, gammas of both
    signs and one of zero.
    """
    r, net = np.random.default_rng(seed), Network(seed=seed)
    x = net.input("image", (2, 8, 8))

    def layer(x: Value, channels: int, name: str, groups: int = 1) -> Value:
        x = net.conv(x, channels, 3, padding=1, groups=groups, bias=not normalized, name=name)
        return net.batch_norm(x, name=f"{name}_bn") if normalized else x

    x = net.relu(layer(x, 8, "conv1"))
    x = net.max_pool(x, 2)

    def branch(x: Value) -> Value:
        return layer(net.relu(layer(x, 8, "conv2", groups=8)), 8, "conv3")

    y = net.residual(x, branch, activation=None) if residual else branch(x)
    y = net.average_pool(net.relu(y), 2)
    graph = net.outputs(scores=net.classifier(net.flatten(y), 5, name="fc"))
    for node in graph.of(Constant):
        assert isinstance(node.op, Constant)
        if node.op.value.ndim == 1 and node.op.value.dtype == np.float32:
            made = r.uniform(0.5, 2, node.op.value.shape) * r.choice([-1, 1], node.op.value.shape)
            made = np.abs(made) if node.name.endswith("var") else made
            made[0] = 0 if normalized and node.name.endswith("gamma") else made[0]
            graph.set_op(node, Constant(made.astype(np.float32)))
    return graph


def data(seed: int, count: int = 3) -> list[Array]:
    r = np.random.default_rng(seed)
    return [r.standard_normal((4, 2, 8, 8)).astype(np.float32) for _ in range(count)]


def sqnr(want: Array, got: Array) -> float:
    noise = float(np.square(want.astype(np.float64) - got).sum())
    return 10 * np.log10(float(np.square(want.astype(np.float64)).sum()) / max(noise, 1e-30))


@pytest.mark.parametrize("family", ["mlp", "cnn", "dag"])
@pytest.mark.parametrize(
    "options",
    [
        "",
        "weight_bits=4 activation_bits=4 edge_bits=0",
        "zero_points=learned activation_bits=3 scheme=symmetric",
    ],
)
@pytest.mark.parametrize("rest", ["", ",finalize-quantization,lower-integer"])
def test_drawn_graphs(rest: str, options: str, family: str) -> None:
    testing.check_pipeline(f"quantize-aware{{{options}}}{rest}", families=[family], examples=8)


@drawn
@given(
    bits=st.integers(2, 8), edge=st.sampled_from([0, 8]), per_channel=st.booleans(),
    scheme=st.sampled_from(["asymmetric", "symmetric"]), residual=st.booleans(),
    zeros=st.sampled_from(["learned", "frozen"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_final_graph_has_the_bits_that_training_saw(
    bits: int, edge: int, per_channel: bool, scheme: str, residual: bool, zeros: str, seed: int
) -> None:
    options = (f"weight_bits={bits} activation_bits={bits} edge_bits={edge} scheme={scheme} "
               f"per_channel={str(per_channel).lower()} zero_points={zeros}")  # fmt: skip
    trained = run(f"quantize-aware{{{options}}}", network(False, seed, residual), data(seed))
    final = run("finalize-quantization", trained)
    again = run("finalize-quantization", final)
    assert not {"exp", "scale_gradient", "min"} & set(ops(final)) and ops(again) == ops(final)
    for x in data(seed + 1, 2):
        want, got = (interpret(g, {"image": x})["scores"] for g in (trained, final))
        np.testing.assert_array_equal(want, got)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_normalizations_go_into_the_scales(seed: int, residual: bool) -> None:
    trained = run("quantize-aware{weight_bits=4}", network(True, seed, residual), data(seed))
    final = run("finalize-quantization", trained)
    assert "batch_normalization" not in ops(final)
    before = constants(run("finalize-quantization", trained))
    assert any(k.startswith("conv1.weight") and a.dtype == np.int8 for k, a in before.items())
    for name, array in before.items():
        if array.dtype == np.int8 and "conv2" in name:
            assert np.abs(array).max() <= 7 and not array[0].any()  # gamma is 0 there
    for x in data(seed + 1, 2):
        want, got = (interpret(g, {"image": x})["scores"] for g in (trained, final))
        assert sqnr(want, got) > 35  # a value beside a tie may round to the other side


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_integer_program(bits: int, normalized: bool) -> None:
    """All in integers, every 4-bit weight within its grid, close to the trained graph."""
    options = f"weight_bits={bits} activation_bits={bits}"
    trained = run(f"quantize-aware{{{options}}}", network(normalized, 3, True), data(3))
    made = run("int8-finish", trained)
    found = ops(made)
    assert found.count("quantize_linear") == 1 and "conv" not in found
    assert found.count("conv_integer") == 3 and "clip" not in found[found.index("conv_integer") :]
    inner = [a for k, a in constants(made).items()
             if a.dtype == np.int8 and ("conv2" in k or "conv3" in k)]  # fmt: skip
    top = (1 << (bits - 1)) - 1
    assert len(inner) == 2 and all(np.abs(a).max() == top for a in inner)
    for x in data(9, 2):
        want, got = (interpret(g, {"image": x})["scores"] for g in (trained, made))
        assert sqnr(want, got) > (40 if bits == 8 else 25)


@pytest.mark.parametrize("added", [False, True])
def test_one_layer_is_within_one_step(added: bool) -> None:
    """The bound that lower-integer states, with the bias in the product or added to it."""
    b, r = Builder(), np.random.default_rng(0)
    x = b.input("x", "f32", (16, 12))
    w1, w2 = (r.standard_normal((12, 12)).astype(np.float32) for _ in range(2))
    bias = r.standard_normal(12).astype(np.float32)
    hidden = b.relu(b.add(b.mat_mul(x, w1), bias) if added else b.gemm(x, w1, bias))
    graph = b.outputs(hidden=hidden, y=b.gemm(hidden, w2))
    inputs = [r.standard_normal((16, 12)).astype(np.float32) for _ in range(4)]
    trained = run("quantize-aware{weight_bits=4 activation_bits=4 edge_bits=0}", graph, inputs)
    final = run("finalize-quantization", trained)
    q = next(n for n in final.nodes() if n.op.name == "dequantize_linear"
             and n.name.startswith("relu"))  # fmt: skip
    final.set_outputs({"hidden": q[0]})
    made = run("lower-integer", final)
    assert "mat_mul_integer" in ops(made) and not {"round_bias", "mat_mul", "gemm"} & set(ops(made))
    (scale,) = (v.array for v in final.operands(q)[1:2] if v is not None)
    assert scale is not None
    for x_ in inputs:
        want, got = (interpret(g, {"x": x_})["hidden"] for g in (final, made))
        steps = np.rint((got - want) / scale)
        assert np.abs(steps).max() <= 1 and (steps != 0).mean() < 0.05
        assert len(np.unique(want)) <= 16


# ---- bits by layer, options, errors --------------------------------------------------------------


def test_edges() -> None:
    graph = network(False, 0, residual=True)
    placement = place(graph, Outcome())
    products = [n for n, r in placement.roles.items() if r.kind == "product"]
    assert {n.name for n in edges(graph, products)} == {"conv1", "fc"}
    weights, values = Widths(4, 3, 8).of(graph, placement)
    assert {n.name: v for n, v in weights.items()} == {"conv1": 8, "conv2": 4, "conv3": 4, "fc": 8}
    by_name = {v.node.name: bits for v, bits in values.items()}
    assert by_name["image"] == 8 and min(by_name.values()) == 3
    everywhere = Widths(4, 3, 0).of(graph, placement)
    assert set(everywhere[0].values()) == {4} and set(everywhere[1].values()) == {3}


def test_one_bit_is_refused() -> None:
    with pytest.raises(PassError, match="bits of weights are 1"):
        PassManager("quantize-aware{weight_bits=1}")


@pytest.mark.parametrize("value", [np.nan, 200.0, -200.0])
def test_a_lost_scale_is_refused(value: float) -> None:
    trained = run("quantize-aware", network(False, 0), data(0))
    node = trained["conv2.weight.log_scale"]
    trained.set_op(node, Constant(np.full(node.type.static_shape, value, np.float32)))
    with pytest.raises(PassError, match="is no finite positive scale"):
        PassManager("finalize-quantization").run(trained, Context())


def test_samples_that_are_not_finite_keep_a_layer_in_float() -> None:
    b = Builder()
    x = b.input("x", "f32", (4, 8))
    w = np.eye(8, dtype=np.float32)
    graph = b.outputs(y=b.gemm(b.reciprocal(b.gemm(x, w)), w))
    report = PassManager("quantize-aware").run(graph, Context(data=[np.zeros((4, 8), np.float32)]))
    assert any("holds an infinity" in r.reason for _, r in report.remarks("missed"))


@pytest.mark.parametrize("low", [-np.inf, np.nan])
def test_a_clip_to_what_is_no_number_is_none_of_a_quantizers_own(low: float) -> None:
    b = Builder()
    clipped = b.clip(b.input("x", "f32", ("n", 4)), np.float32(low), np.float32(127.5))
    graph = b.outputs(y=b.quantize_linear(clipped, np.float32(0.5), np.uint8(0)))
    Finalizer(graph, Limits(), Outcome()).run()
    assert "clip" in [n.op.name for n in graph.nodes()]

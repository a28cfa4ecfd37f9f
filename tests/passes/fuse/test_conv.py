"""Layers with scales, shifts, activations and residuals: fused, and within the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from taut.ir import Builder, DType, Graph, TautError, TensorType, Value, interpret, verify
from taut.passes import Context, PassManager, random_feeds
from taut.passes.fuse.conv import activations
from taut.passes.fuse.extents import Extents

F = np.float32


def random(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(F)


def norm(b: Builder, x: Value, channels: int, seed: int) -> Value:
    draw = np.random.default_rng(seed)
    scale, bias, mean = (draw.standard_normal(channels).astype(F) for _ in range(3))
    var = draw.uniform(0.5, 2, channels).astype(F)
    return b.batch_normalization(x, scale, bias, mean, var)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Layers of every kind with what exporters put around them."""
    b = Builder()
    space = draw(st.sampled_from([(5, 5), (6, 5), (None, None), ("h", "w"), (7,), (4, 4, 3)]))
    dim = len(space)
    channels = draw(st.sampled_from([2, 4]))
    y = b.input("x", "f32", ("n", channels, *space))
    kept = [y]
    for i in range(draw(st.integers(1, 4))):
        group = draw(st.sampled_from([1, 2, channels]))
        out = draw(st.sampled_from([channels, 2 * group]))
        kernel = (draw(st.sampled_from([1, 3])),) * dim
        small = any(isinstance(d, int) and d < 3 for d in (y.shape or ())[2:])
        pads = ((kernel[0] // 2,) if small or draw(st.booleans()) else (0,)) * (2 * dim)
        bias = random(i, out) if draw(st.booleans()) else None
        y = surround(draw, b, y, channels, 10 * i + 5)
        if draw(st.integers(0, 4)) == 0:
            weight = random(i, channels, out // group, *kernel)
            pads = (kernel[0] // 2,) * (2 * dim)
            y = b.conv_transpose(y, weight, bias, group=group, pads=pads)
        else:
            weight = random(i, out, channels // group, *kernel)
            if draw(st.booleans()):
                y = b.conv(y, weight, bias, group=group, pads=pads)
            else:
                y = b.conv(y, weight, bias, group=group, auto_pad="SAME_UPPER")
        channels = out
        # Everything that follows a layer, in any order.
        for what in draw(st.permutations(["surround", "residual", "activate", "pool", "surround"])):
            if what == "surround":
                y = surround(draw, b, y, channels, 10 * i)
            elif what == "activate":
                y = activate(draw, b, y, channels)
            elif what == "pool":
                y = pool(draw, b, y)
            else:
                other = draw(st.sampled_from(kept))
                if other.shape is not None and other.type == y.type and draw(st.booleans()):
                    y = b.add(y, other)
        kept.append(y)
    return b.outputs(y=y, z=draw(st.sampled_from(kept)))


def activate(draw: st.DrawFn, b: Builder, y: Value, channels: int) -> Value:
    names = ["relu", "clip", "swish", "hard_swish", "sigmoid", "prelu", "leaky_relu", "none"]
    match draw(st.sampled_from(names)):
        case "none":
            return y
        case "clip":
            return b.clip(y, F(0), F(6))
        case "swish":
            return b.mul(y, b.sigmoid(y))
        case "prelu":
            shape = draw(st.sampled_from([(1,), (channels, *(1,) * (len(y.shape or ()) - 2))]))
            return b.prelu(y, random(channels, *shape))
        case name:
            return getattr(b, name)(y)


def pool(draw: st.DrawFn, b: Builder, y: Value) -> Value:
    """A window of two, with a stride or without, or the whole image, or none."""
    sizes = (y.shape or ())[2:]
    if draw(st.booleans()) or any(not isinstance(d, int) or d < 2 for d in sizes):
        return y
    if draw(st.integers(0, 3)) == 0:
        return b.global_average_pool(y)
    name = draw(st.sampled_from(["max_pool", "average_pool"]))
    stride = (draw(st.sampled_from([1, 2])),) * len(sizes)
    pads = (draw(st.sampled_from([0, 0, 1])),) * (2 * len(sizes))
    counts = {"count_include_pad": draw(st.booleans())} if name == "average_pool" else {}
    return getattr(b, name)(y, kernel_shape=(2,) * len(sizes), strides=stride, pads=pads, **counts)


def surround(draw: st.DrawFn, b: Builder, y: Value, channels: int, seed: int) -> Value:
    """Up to three scales and shifts."""
    rank = len(y.shape or ())
    for j in range(draw(st.integers(0, 3))):
        shape = draw(st.sampled_from([(), (channels, *(1,) * (rank - 2)), (1,) * rank]))
        c = np.random.default_rng(seed + j).uniform(0.5, 2, shape).astype(F)
        kind = draw(st.sampled_from(["norm", "add", "mul", "div", "sub"]))
        y = norm(b, y, channels, seed + j) if kind == "norm" else getattr(b, kind)(y, c)
    return y


@settings(deadline=None, max_examples=150)
@given(networks(), st.sampled_from(["fuse-conv", "O2", "fuse-conv{shared=true}"]))
def test_within_the_bound(graph: Graph, pipeline: str) -> None:
    sizes = {"n": 2, "h": 6, "w": 5}
    feeds = random_feeds(graph, np.random.default_rng(0), sizes)
    if any(d is None for d in graph.inputs[0].type.shape or ()):
        feeds = {"x": random(0, 2, graph.inputs[0].type.shape[1], 6, 5)}  # type: ignore[index]
    try:
        interpret(graph, feeds)
    except TautError:  # two unknown sizes that are not equal
        assume(False)
    report = PassManager(pipeline, check=True).run(graph, Context(data=[feeds]))
    verify(report.graph)
    assert interpret(report.graph, feeds).keys() == interpret(graph, feeds).keys()


def build(make: Any, *shape: Any) -> Any:
    """Run fuse-conv, checked, on what `make(b, x)` builds; gives the report."""
    b = Builder()
    x = b.input("x", "f32", shape or (2, 4, 6, 6))
    return PassManager("fuse-conv", check=True).run(b.outputs(y=make(b, x)))


def ops(report: Any) -> list[str]:
    plain = ("input", "constant", "return")
    return [n.op.name for n in report.graph.nodes() if n.op.name not in plain]


W = random(1, 4, 4, 1, 1)


@pytest.mark.parametrize("name", [c.name for c in activations()])
def test_every_activation_fuses_or_says_why(name: str) -> None:
    report = build(lambda b, x: getattr(b, name)(b.conv(x, W)))
    missed = [r.reason for _, r in report.remarks("missed")]
    assert ops(report) == ["fused_conv"] if not missed else len(missed) == 1


@pytest.mark.parametrize("make, reason", [
    (lambda b, x: b.relu(b.add(b.relu(b.conv(x, W)), x)), "has an activation already"),
    (lambda b, x: b.prelu(b.conv(x, W), b.reduce_max(x)),
     "slope of PReLU is not constant"),
    (lambda b, x: b.prelu(b.conv(x, W), random(0, 6)), "is not one number for each channel"),
    (lambda b, x: norm(b, b.relu(b.conv(x, W)), 4, 1), "relu stands between the layer and batch"),
    (lambda b, x: b.mul(b.relu(b.conv(x, W)), F(-2)), "lets only positive factors pass"),
    (lambda b, x: b.average_pool(b.conv(x, W, pads=(1, 1, 1, 1)), kernel_shape=(2, 2),
                                 strides=(2, 2)), "pads or has strides"),
    (lambda b, x: b.average_pool(b.conv(x, W), kernel_shape=(2, 2), strides=(2, 2),
                                 pads=(1, 1, 1, 1), count_include_pad=True), "counts its padding"),
    (lambda b, x: b.add(b.conv(x, W), b.reduce_mean(x, np.array([2, 3]))), "broadcast"),
    (lambda b, x: b.add(b.add(b.conv(x, W), x), b.relu(x)), "has a residual already"),
    (lambda b, x: b.clip(b.conv(x, W), b.reduce_max(x, keepdims=False)), "not constant"),
    (lambda b, x: b.relu(b.sigmoid(b.conv(x, W))), "has an activation already"),
    (lambda b, x: b.mul(b.conv(x, b.mul(b.reduce_mean(x), W)), F(2)), "weight is not constant"),
    (lambda b, x: b.mul(b.conv(x, np.full((4, 4, 1, 1), 3e38, F)), F(100)), None),
    (lambda b, x: b.conv(norm(b, x, 4, 1), W, pads=(1, 1, 1, 1)), "pads what batch_norm"),
    (lambda b, x: b.div(b.conv(x, W), F(0)), "not finite"),
])  # fmt: skip
def test_misses_say_why(make: Any, reason: str | None) -> None:
    report = build(make)
    reasons = [r.reason for _, r in report.remarks("missed")]
    if reason is None:  # an overflow is found only once it is computed
        assert "mul" in ops(report)
    else:
        assert any(reason in r for r in reasons), reasons


def test_a_shared_weight_is_copied_only_if_asked() -> None:
    def make(b: Builder) -> Graph:
        x, w = b.input("x", "f32", (2, 4, 6, 6)), b.constant(W)
        return b.outputs(y=b.mul(b.conv(x, w), F(2)), z=b.mul(b.conv(x, w), F(3)))

    for text, left in (("fuse-conv", 1), ("fuse-conv{shared=true}", 0)):
        report = PassManager(text, check=True).run(make(Builder()))
        # One product stays: once the other weight is folded this one is shared no more.
        assert ops(report).count("mul") in (left, 2 * left)


def test_batch_norms_in_a_row_and_scaled_sums_all_go() -> None:
    def make(b: Builder, x: Value) -> Value:
        y = norm(b, norm(b, b.conv(x, W), 4, 1), 4, 2)
        return b.relu(b.add(b.mul(y, random(3, 4, 1, 1)), random(4, 1, 4, 1, 1)))

    assert ops(build(make)) == ["fused_conv"]


@pytest.mark.parametrize("kind", ["f16", "bf16", "f64"])
def test_every_float_type(kind: str) -> None:
    dtype = DType(kind)
    b = Builder()
    x = b.input("x", dtype, (2, 4, 6, 6))
    y = b.mul(b.conv(x, W.astype(dtype.numpy)), np.array(1.7).astype(dtype.numpy))
    report = PassManager("fuse-conv", check=True).run(b.outputs(y=b.relu(y)))
    assert ops(report) == ["fused_conv"] and report.graph.outputs[0].type.dtype is dtype


def test_the_later_convolution_takes_the_residual() -> None:
    def make(b: Builder, x: Value) -> Value:
        short = b.conv(x, random(2, 4, 4, 1, 1), name="short")
        deep = b.conv(b.relu(b.conv(x, W)), random(3, 4, 4, 1, 1), name="deep")
        return b.relu(b.add(short, deep, name="sum"))

    report = build(make)
    assert sorted(ops(report)) == ["conv", "fused_conv", "fused_conv"]
    assert report.graph["short"].op.name == "conv"


def test_unknown_sizes_are_known_to_be_equal() -> None:
    b = Builder()
    x = b.input("x", "f32", (None, 4, None, None))
    one = b.conv(x, random(1, 4, 4, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    two = b.conv(b.relu(x), random(1, 4, 4, 1, 1), strides=(2, 2))
    pooled = b.max_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    other = b.conv(x, random(1, 4, 4, 3, 3), strides=(2, 2))
    gate = b.sigmoid(b.conv(b.global_average_pool(one), W))
    scaled = b.mul(one, gate)
    graph = b.outputs(a=one, b=two, c=pooled, d=other, e=scaled)
    known = Extents(graph)
    assert known.same(one, two) and known.same(one, pooled) and known.same(one, scaled)
    assert not known.same(one, other) and not known.same(one, gate)


def test_relu_goes_before_a_concatenation_that_a_convolution_feeds() -> None:
    def make(b: Builder, x: Value) -> Value:
        pooled = b.average_pool(b.relu(x), kernel_shape=(1, 1))
        return b.relu(b.concat(pooled, b.conv(x, W), axis=1))

    assert ops(build(make)) == ["relu", "average_pool", "fused_conv", "concat"]
    assert "concat" in ops(build(lambda b, x: b.relu(b.concat(x, b.conv(x, W), axis=1))))


HALF, WIDE = {"kernel_shape": (2, 2), "strides": (2, 2)}, (4, 1, 1)


@pytest.mark.parametrize("make, expected", [
    (lambda b, x: b.prelu(b.conv(x, W), random(5, *WIDE)), ["fused_conv"]),
    (lambda b, x: b.add(b.swish(b.conv(x, W)), x), ["fused_conv"]),
    (lambda b, x: b.add(b.prelu(norm(b, b.conv(x, W), 4, 1), random(5, *WIDE)), x), ["fused_conv"]),
    (lambda b, x: b.relu(b.add(b.conv_transpose(x, W), x)), ["fused_conv_transpose"]),
    (lambda b, x: b.add(b.sigmoid(norm(b, b.conv_transpose(x, W), 4, 1)), x),
     ["fused_conv_transpose"]),
    (lambda b, x: b.relu(b.sub(b.add(b.conv(x, W), x), random(5, *WIDE))), ["fused_conv"]),
    (lambda b, x: b.div(b.relu(b.conv(x, W)), F(3)), ["fused_conv"]),
    (lambda b, x: b.relu(b.max_pool(b.conv(x, W), **HALF)), ["fused_conv", "max_pool"]),
    (lambda b, x: b.max_pool(b.sigmoid(b.exp(x)), **HALF), ["max_pool", "exp", "sigmoid"]),
    (lambda b, x: b.floor(b.max_pool(b.conv(x, W), **HALF)), ["conv", "max_pool", "floor"]),
    (lambda b, x: b.relu(b.average_pool(b.conv(x, W), **HALF)), ["average_pool", "fused_conv"]),
    (lambda b, x: b.global_average_pool(b.conv(x, W)), ["global_average_pool", "conv"]),
])  # fmt: skip
def test_orders_that_fuse(make: Any, expected: list[str]) -> None:
    assert ops(build(make)) == expected


def test_the_residual_goes_before_an_activation_where_it_can() -> None:
    def make(b: Builder, x: Value) -> Value:
        deep = b.relu(b.conv(x, W, name="deep"))
        return b.add(deep, b.conv(x, random(3, 4, 4, 1, 1), name="plain"), name="sum")

    report = build(make)
    assert ops(report) == ["fused_conv", "fused_conv"]
    assert report.graph["sum"].op.activation == "" and not report.graph["sum"].op.residual_last


@pytest.mark.parametrize(("make", "shape"), [
    (lambda b, x: b.conv(b.mul(x, random(1, 2, 1, 1)), random(2, 3, 2, 1, 1)), (4, 1, 2, 2)),
    (lambda b, x: b.conv(b.add(b.mul(x, random(1, 2, 1, 1)), F(3)), random(2, 3, 2, 1, 1)),
     (4, 1, 2, 2)),
    (lambda b, x: b.mul(b.fused_mat_mul(x, random(1, 2, 3)), np.full((1, 1, 1), 2, F)), (4, 2)),
    (lambda b, x: b.fused_mat_mul(b.mul(x, np.full((1, 1, 1), 2, F)), random(1, 2, 3)), (4, 2)),
])  # fmt: skip
def test_a_constant_may_broaden_what_has_no_known_rank(make: Any, shape: tuple[int, ...]) -> None:
    b = Builder()
    x = b.graph.add_input("x", TensorType(DType.f32, None))[0]
    graph = b.outputs(y=make(b, x))
    after = PassManager("fuse-conv,fuse-matmul").run(graph).graph
    feeds = {"x": random(5, *shape)}
    want, got = interpret(graph, feeds)["y"], interpret(after, feeds)["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)

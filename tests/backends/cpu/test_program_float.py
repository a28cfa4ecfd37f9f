"""Float programs against the reference, within a tolerance of a few units in the last place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Builder, interpret

NAMES = [t.name for t in isa.available()]
TOLERANCE = 2e-5  # of the largest magnitude: sums are made in another order


def agree(graph, feeds, *, fallbacks=(), **options):
    program = compile(graph, **options)
    made, expected = program(**feeds), interpret(graph, feeds)
    for name, array in expected.items():
        assert made[name].dtype == array.dtype and made[name].shape == array.shape
        if array.dtype.kind == "f":
            scale = max(1.0, float(np.abs(array).max(initial=0)))
            np.testing.assert_allclose(made[name], array, rtol=1e-5, atol=TOLERANCE * scale)
        else:
            np.testing.assert_array_equal(made[name], array)
    assert sorted(program.fallbacks) == sorted(fallbacks)
    return program


def weight(rng, *shape):
    made = rng.standard_normal(shape, np.float32)
    return made / np.float32(np.sqrt(max(1, np.prod(shape[1:]))))


@st.composite
def convolutions(draw):
    group = draw(st.sampled_from([1, 1, 2, 3]))
    depthwise = draw(st.booleans())
    channels = draw(st.sampled_from([1, 3, 8, 17])) * group
    return {
        "rank": draw(st.sampled_from([1, 2, 2])),
        "n": draw(st.integers(1, 2)),
        "channels": channels,
        "group": channels if depthwise else group,
        "out": channels if depthwise else group * draw(st.sampled_from([1, 5, 16, 21])),
        "size": draw(st.integers(5, 11)),
        "kernel": draw(st.sampled_from([1, 3, 5])),
        "stride": draw(st.integers(1, 2)),
        "dilation": draw(st.sampled_from([1, 1, 2])),
        "pad": draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        "auto": draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER"])),
        "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "activation": draw(
            st.sampled_from(["", "relu", "clip", "hard_swish", "sigmoid", "swish", "prelu"])
        ),
        "last": draw(st.booleans()),
        "threads": draw(st.integers(1, 2)),
        "isa": draw(st.sampled_from(NAMES)),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=25, deadline=None)
@given(p=convolutions())
def test_convolutions(p):
    rng = np.random.default_rng(p["seed"])
    b, rank = Builder(), p["rank"]
    spatial = (p["size"] + 4, p["size"] + 5)[:rank]
    shape = (p["n"], p["channels"], *spatial)
    x = b.input("x", "f32", shape)
    kernel = (p["kernel"], max(1, p["kernel"] - 1))[:rank]
    w = weight(rng, p["out"], p["channels"] // p["group"], *kernel)
    bias = rng.standard_normal(p["out"], np.float32) if p["bias"] else None
    attributes = {"strides": (p["stride"],) * rank, "dilations": (p["dilation"],) * rank}
    if p["auto"] == "NOTSET":
        attributes["pads"] = (p["pad"][0],) * rank + (p["pad"][1],) * rank
    else:
        attributes["auto_pad"] = p["auto"]
    first = b.conv(x, w, bias, group=p["group"], **attributes)
    residual = b.relu(first) if p["residual"] else None
    slope = rng.standard_normal(p["out"], np.float32) if p["activation"] == "prelu" else None
    second = b.fused_conv(
        x, w, bias, residual, slope, group=p["group"], activation=p["activation"],
        residual_last=p["last"],
        params=(-0.5, 0.75) if p["activation"] == "clip" else (), **attributes,
    )  # fmt: skip
    third = b.conv(second, weight(rng, 4, p["out"], *(1,) * rank))
    graph = b.outputs(first=first, third=third)
    feeds = {"x": rng.standard_normal(shape, np.float32)}
    agree(graph, feeds, threads=p["threads"], isa=p["isa"])


@pytest.mark.parametrize("name", NAMES)
def test_matrices(name):
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input("x", "f32", (2, 3, 37))
    y = b.mat_mul(x, weight(rng, 37, 50))
    z = b.relu(b.add(y, weight(rng, 50)))
    t = b.mat_mul(z, weight(rng, 50, 7))
    v = b.input("v", "f32", (5, 9))
    g = b.gemm(v, weight(rng, 20, 9), weight(rng, 20), transB=True, alpha=0.5, beta=2.0)
    graph = b.outputs(y=y, t=t, g=g)
    feeds = {"x": weight(rng, 2, 3, 37), "v": weight(rng, 5, 9)}
    for threads in (1, 2):
        agree(graph, feeds, threads=threads, isa=name)


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)), kernel=st.integers(1, 3),
    stride=st.integers(1, 2), pad=st.integers(0, 1), ceil=st.booleans(), count=st.booleans(),
    channels=st.sampled_from([1, 5, 16, 33]), threads=st.integers(1, 2),
)  # fmt: skip
def test_pools(size, kernel, stride, pad, ceil, count, channels, threads):
    rng = np.random.default_rng(0)
    b = Builder()
    shape = (2, channels, *size)
    x = b.input("x", "f32", shape)
    window = {
        "kernel_shape": (kernel + 1,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4,
        "ceil_mode": ceil,
    }  # fmt: skip
    graph = b.outputs(
        m=b.max_pool(x, **window), a=b.average_pool(x, count_include_pad=count, **window),
        g=b.global_average_pool(x), h=b.global_max_pool(b.relu(x)),
    )  # fmt: skip
    feeds = {"x": rng.standard_normal(shape, np.float32)}
    program = agree(graph, feeds, threads=threads)
    # The mean of a window is summed and divided as the reference does it: see the kernel.
    np.testing.assert_array_equal(program(**feeds)["a"], interpret(graph, feeds)["a"])


@settings(max_examples=20, deadline=None)
@given(
    rank=st.integers(1, 2), group=st.integers(1, 2), kernel=st.integers(1, 3),
    stride=st.integers(1, 3), pad=st.integers(0, 1), last=st.booleans(),
    activation=st.sampled_from(["", "relu", "swish", "prelu"]),
    residual=st.sampled_from(["none", "full", "row"]), threads=st.integers(1, 2),
)  # fmt: skip
def test_transposed(rank, group, kernel, stride, pad, last, activation, residual, threads):
    rng = np.random.default_rng(0)
    b = Builder()
    shape = (2, 6, 5, 4)[: rank + 2]
    x = b.input("x", "f32", shape)
    w, bias = weight(rng, 6, 10 // group, *(kernel,) * rank), weight(rng, 10)
    attributes = {"group": group, "strides": (stride,) * rank, "pads": (pad,) * (2 * rank)}
    sizes = [(n - 1) * stride + kernel - 2 * pad for n in shape[2:]]
    if min(sizes) < 1:
        return
    side = {"none": None, "full": (2, 10, *sizes), "row": (1,) * (rank + 1) + (sizes[-1],)}
    other = None if residual == "none" else b.input("r", "f32", side[residual])
    slope = weight(rng, 10) if activation == "prelu" else None
    y = b.fused_conv_transpose(
        x, w, bias, other, slope, activation=activation, residual_last=last, **attributes
    )  # fmt: skip
    graph = b.outputs(y=y)
    feeds = {"x": weight(rng, *shape)}
    if other is not None:
        feeds["r"] = weight(rng, *side[residual])
    named = residual == "row" and activation != "" and not last
    agree(graph, feeds, fallbacks=[y.node.name] if named else [], threads=threads)

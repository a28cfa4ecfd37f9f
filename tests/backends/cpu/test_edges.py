"""Numbers at the edges of their types, each case by itself; `test_special_values` searches them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.backends import cpu
from taut.ir import Builder, DType, FeedError, Graph

import taut

Array = np.ndarray[Any, Any]
INTEGERS = [DType(k) for k in ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")]


def both(graph: Graph, **feeds: Array) -> tuple[Array, Array]:
    """The one result, of the reference and compiled, where nothing falls back to the reference."""
    program = cpu.compile(graph, threads=1)
    assert not program.fallbacks
    with np.errstate(all="ignore"):
        (want,), (got,) = taut.reference(graph, **feeds).values(), program(**feeds).values()
    return want, got


def test_exp_reaches_zero_and_so_do_the_weights_of_a_softmax():
    x = np.array([[0.0, -np.inf, -1e30, -104, -103.9]] * 7, np.float32)
    b = Builder()
    v = b.input("x", "f32", x.shape)
    graph = b.outputs(e=b.exp(v), s=b.softmax(v), l=b.log_softmax(v), g=b.log(b.softmax(v)))
    program = cpu.compile(graph, threads=1)
    with np.errstate(all="ignore"):
        want, got = taut.reference(graph, x=x), program(x=x)
    for name in "es":
        np.testing.assert_array_equal(got[name][:, 1:4], 0)
        np.testing.assert_array_equal(got[name] == 0, want[name] == 0)
    for name in "lg":
        np.testing.assert_allclose(got[name][:, :4], want[name][:, :4], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_hard_functions_at_infinity(dtype: str):
    x = np.array([np.inf, -np.inf, np.nan, 1e38, -1e38, 0, -3, 3], DType(dtype).numpy)
    for name in ("hard_sigmoid", "hard_swish"):
        b = Builder()
        want, got = both(b.outputs(y=getattr(b, name)(b.input("x", dtype, x.shape))), x=x)
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_division_of_the_extremes(dtype: DType):
    low, high = dtype.bounds
    ends = [v for v in (low, low + 1, high, high - 1, 0, 1, 7, -1, -2) if low <= v <= high]
    x, y = (a.reshape(-1).astype(dtype.numpy) for a in np.meshgrid(*[np.array(ends, object)] * 2))
    b = Builder()
    want, got = both(b.outputs(q=b.div(b.input("x", dtype, x.shape), b.input("y", dtype, y.shape))),
                     x=x, y=y)  # fmt: skip
    np.testing.assert_array_equal(got, want)
    for p, q, r in zip(x.tolist(), y.tolist(), want.tolist()):
        exact = abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1) if q else 0
        assert r == (exact - low) % (high - low + 1) + low


@pytest.mark.parametrize("dtype", INTEGERS[:-1], ids=str)
def test_floats_become_integers_the_same_way_everywhere(dtype: DType):
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 3e38, 1.9, -1.9, 300.5, -300.5, 2.0**31, 2.0**63,
                  -(2.0**63), -(2.0**31) - 512], np.float32)  # fmt: skip
    b = Builder()
    want, got = both(b.outputs(y=b.cast(b.input("x", "f32", x.shape), to=dtype)), x=x)
    np.testing.assert_array_equal(got, want)
    low, high = dtype.bounds
    whole = [int(v) if abs(v) < 2.0**63 else -(2**63) for v in x.tolist()]
    assert want.tolist() == [(v - low) % (high - low + 1) + low for v in whole]


# ---- scales ------------------------------------------------------------------------------------

UNFIT = (0.0, -1.0, np.nan, np.inf, -np.inf)


def plain(op: str, channels: int) -> Graph:
    """A quantizer whose scales are an input."""
    b = Builder()
    x = b.input("x", "f32" if op == "quantize_linear" else "i8", (2, 3))
    s = b.input("s", "f32", (channels,) if channels > 1 else ())
    return b.outputs(y=getattr(b, op)(x, s))


def trained(channels: int) -> Graph:
    """Quantizers with a scale that is computed, in one group as in quantization-aware training."""
    b = Builder()
    x = b.input("x", "f32", (2, 3))
    scale = b.mul(b.input("s", "f32", (channels,) if channels > 1 else ()), np.float32(0.5))
    zero = np.zeros(scale.shape, np.int8)
    y = b.dequantize_linear(b.quantize_linear(b.tanh(x), scale, zero), scale, zero)
    return taut.optimize(b.outputs(y=b.mul(y, y)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", ["quantize_linear", "dequantize_linear", "trained"])
def test_a_scale_that_is_not_finite_and_positive_is_refused(make: str, channels: int):
    graph = trained(channels) if make == "trained" else plain(make, channels)
    program = cpu.compile(graph, threads=1)
    assert not program.fallbacks
    x = np.ones((2, 3), graph.inputs[0].type.dtype.numpy)
    shape = graph.inputs[1].type.static_shape
    good = np.full(shape, 0.5, np.float32)
    for value in UNFIT:
        s = good.copy()
        s.reshape(-1)[-1] = value
        for run in (program, lambda **f: taut.reference(graph, **f)):
            with pytest.raises(FeedError, match="scale is not a finite positive number"):
                run(x=x, s=s)
        want = taut.reference(graph, x=x, s=good)["y"]
        np.testing.assert_array_equal(program(x=x, s=good)["y"], want)  # the next call is well


def test_what_dynamic_quantization_refuses():
    b = Builder()
    y, scale, zero = b.dynamic_quantize_linear(b.input("x", "f32", (37,)))
    graph = b.outputs(y=y, scale=scale, zero=zero)
    program = cpu.compile(graph, threads=1)
    assert not program.fallbacks
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, 16, 36):
            x = np.ones(37, np.float32)
            x[at] = value
            for run in (program, lambda **f: taut.reference(graph, **f)):
                with pytest.raises(FeedError, match="not finite"):
                    run(x=x)
    wide = np.resize(np.array([3e38, -3e38, 1e-40, 0], np.float32), 37)  # a range beyond float32
    with np.errstate(all="ignore"):
        want = taut.reference(graph, x=wide)
    for name, made in program(x=wide).items():
        np.testing.assert_array_equal(made, want[name])


def test_sine_and_cosine_of_one_number_in_one_loop():
    """LLVM joins them into one call of the C library."""
    x = np.array([0.0, 1, -np.inf, np.nan, 3e38] * 4, np.float32)
    b = Builder()
    v = b.input("x", "f32", x.shape)
    want, got = both(taut.optimize(b.outputs(y=b.add(b.sin(v), b.mul(b.cos(v), v)))), x=x)
    np.testing.assert_allclose(got, want, rtol=1e-5)

"""Matrix products of any operands against the reference; integers bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Builder, interpret

NAMES = [t.name for t in isa.available()]
SIZES = st.sampled_from([1, 2, 3, 7, 16, 17, 31, 33, 50])
BATCHES = st.sampled_from([(), (3,), (1,), (2, 1), (1, 3), (2, 3)])


def agree(graph, feeds, magnitude=None, **options):
    """The program against the reference: floats within rounding of sums of such magnitudes."""
    program = compile(graph, **options)
    for _ in range(2):  # the second call runs on what the first left behind
        made = program(**feeds)
    expected = interpret(graph, feeds)
    assert program.fallbacks == []
    for name, array in expected.items():
        assert made[name].dtype == array.dtype and made[name].shape == array.shape
        if array.dtype.kind == "f" and magnitude is not None:
            assert (abs(made[name] - array) <= 2e-6 * magnitude + 1e-6).all(), name
        else:
            np.testing.assert_array_equal(made[name], array, err_msg=name)
    return program


def operand(draw, b, name, batch, rows, columns, kind):
    """(value of shape (*batch, rows, columns), feed): as it is, transposed, or with its heads split
    off behind the rows."""
    way = draw(st.sampled_from(["plain", "turned", "split"]))
    lead = len(batch)
    if way == "turned":
        x = b.input(name, kind, (*batch, columns, rows))
        value = b.transpose(x, perm=(*range(lead), lead + 1, lead))
        shape = (*batch, columns, rows)
    elif way == "split" and lead:
        shape = (*batch[:-1], rows, batch[-1], columns)
        x = b.input(name, kind, shape)
        value = b.transpose(x, perm=(*range(lead - 1), lead, lead - 1, lead + 1))
    else:
        shape = (*batch, rows, columns)
        value = b.input(name, kind, shape)
    return value, shape


@settings(max_examples=40, deadline=None)
@given(data=st.data(), m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 99))
def test_float_products(data, m, k, n, seed):
    draw, rng, b = data.draw, np.random.default_rng(seed), Builder()
    x, x_shape = operand(draw, b, "x", draw(BATCHES), m, k, "f32")
    feeds = {"x": rng.standard_normal(x_shape, np.float32)}
    if draw(st.booleans()):
        y, y_shape = operand(draw, b, "y", draw(BATCHES), k, n, "f32")
        feeds["y"] = rng.standard_normal(y_shape, np.float32)
    else:
        y = rng.standard_normal((k, n), np.float32)
    made = b.mat_mul(x, y)
    graph = b.outputs(y=made, z=b.relu(made)) if draw(st.booleans()) else b.outputs(y=made)
    sizes = {name: abs(value) for name, value in feeds.items()}
    agree(graph, feeds, _magnitude(graph, sizes), threads=draw(st.integers(1, 2)),
          isa=draw(st.sampled_from(NAMES)))  # fmt: skip


def _magnitude(graph, sizes):
    """A bound of the sums' terms: the largest sum of products of absolute values."""
    return float(np.max(interpret(graph, sizes)["y"], initial=0)) + 10.0


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(), m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 99),
    alpha=st.sampled_from([1.0, 0.5]), beta=st.sampled_from([1.0, 0.0, -2.0]),
    turn=st.tuples(st.booleans(), st.booleans()), name=st.sampled_from(NAMES),
)  # fmt: skip
def test_general_products(data, m, k, n, seed, alpha, beta, turn, name):
    draw, rng, b = data.draw, np.random.default_rng(seed), Builder()
    shapes = {"x": (k, m) if turn[0] else (m, k), "w": (n, k) if turn[1] else (k, n)}
    c_shape = draw(st.sampled_from([None, (), (1,), (n,), (1, n), (m, 1), (m, n)]))
    if c_shape is not None:
        shapes["c"] = c_shape
    known = draw(st.sets(st.sampled_from(["w", "c"])))
    values, feeds = {}, {}
    for key, shape in shapes.items():
        array = np.asarray(rng.standard_normal(shape, np.float32))
        if key in known:
            values[key] = array
        else:
            values[key], feeds[key] = b.input(key, "f32", shape), array
    made = b.gemm(values["x"], values["w"], values.get("c"), alpha=alpha, beta=beta,
                  transA=turn[0], transB=turn[1])  # fmt: skip
    agree(b.outputs(y=made), feeds, 4.0 * k + 10, threads=draw(st.integers(1, 2)), isa=name)


@st.composite
def zero_points(draw, rng, kind, count):
    """None, one number, one for each row or column."""
    shape = draw(st.sampled_from([None, (), (1,), (count,)]))
    if shape is None:
        return None
    low = draw(st.sampled_from([0, -128 if kind == "i8" else 128, 3]))
    if draw(st.booleans()):
        return np.full(shape, low, np.dtype(kind.replace("i8", "int8").replace("u8", "uint8")))
    return _bytes(rng, kind, shape)


def _bytes(rng, kind, shape):
    low, dtype = (-128, np.int8) if kind == "i8" else (0, np.uint8)
    return np.asarray(rng.integers(low, low + 256, shape)).astype(dtype)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 99))
def test_integer_products(data, m, k, n, seed):
    draw, rng, b = data.draw, np.random.default_rng(seed), Builder()
    kinds = st.sampled_from(["u8", "i8"])
    a_kind, b_kind = draw(kinds), draw(kinds)
    x, x_shape = operand(draw, b, "x", draw(BATCHES), m, k, a_kind)
    feeds = {"x": _bytes(rng, a_kind, x_shape)}
    if draw(st.integers(0, 3)):
        y, y_shape = operand(draw, b, "y", draw(BATCHES), k, n, b_kind)
        feeds["y"] = _bytes(rng, b_kind, y_shape)
    else:
        y = _bytes(rng, b_kind, (k, n))
    zeros = []
    for key, kind, count in (("xz", a_kind, m), ("yz", b_kind, n)):
        zero = draw(zero_points(rng, kind, count))
        if zero is not None and draw(st.booleans()):
            feeds[key] = zero
            zero = b.input(key, kind, zero.shape)
        zeros.append(zero)
    bias = draw(st.sampled_from([None, (n,), ()]))
    if bias is not None:
        bias = np.asarray(rng.integers(-(2**31), 2**31, bias)).astype(np.int32)
    made = b.mat_mul_integer(x, y, *zeros, bias)
    agree(b.outputs(y=made), feeds, threads=draw(st.integers(1, 2)),
          isa=draw(st.sampled_from(NAMES)))  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_long_integer_sums_wrap(name):
    rng, b, k = np.random.default_rng(1), Builder(), 70_001
    x, y = b.input("x", "u8", (3, k)), b.input("y", "u8", (k, 18))
    feeds = {"x": np.full((3, k), 255, np.uint8), "y": rng.choice([0, 255], (k, 18))}
    feeds["y"] = feeds["y"].astype(np.uint8)
    graph = b.outputs(y=b.mat_mul_integer(x, y, np.uint8(0), np.uint8(255)))
    agree(graph, feeds, threads=2, isa=name)


def test_large_products_share_their_work():
    """Sizes of several chunks on both axes."""
    rng, b = np.random.default_rng(2), Builder()
    x, y = b.input("x", "f32", (2, 150, 300)), b.input("y", "f32", (300, 270))
    u, v = b.input("u", "u8", (150, 301)), b.input("v", "i8", (301, 270))
    graph = b.outputs(y=b.mat_mul(x, y), z=b.mat_mul_integer(u, v))
    feeds = {
        "x": rng.standard_normal((2, 150, 300), np.float32),
        "y": rng.standard_normal((300, 270), np.float32),
        "u": _bytes(rng, "u8", (150, 301)),
        "v": _bytes(rng, "i8", (301, 270)),
    }
    agree(graph, feeds, 200.0, threads=2)


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(), m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 99),
    name=st.sampled_from(NAMES), alpha=st.sampled_from([1.0, 0.25]),
    ending=st.sampled_from(
        [("", ()), ("relu", ()), ("clip", (-0.5, 1.0)), ("gelu", ()), ("gelu_tanh", ()),
         ("swish", (1.0,)), ("leaky_relu", (0.2,)), ("softsign", ())]
    ),
)  # fmt: skip
def test_fused_products(data, m, k, n, seed, name, alpha, ending):
    draw, rng, b = data.draw, np.random.default_rng(seed), Builder()
    turn = draw(st.tuples(st.booleans(), st.booleans()))
    batch = draw(st.sampled_from([(), (2,), (2, 3)]))
    shapes = {
        "x": (*batch, *((k, m) if turn[0] else (m, k))),
        "w": (*draw(st.sampled_from([(), batch])), *((n, k) if turn[1] else (k, n))),
        "bias": draw(st.sampled_from([None, (n,)])),
        "other": draw(st.sampled_from([None, (*batch, m, n), (m, n), (n,), (1, 1), (m, 1)])),
    }
    known = draw(st.sets(st.sampled_from(["w", "bias", "other"])))
    values, feeds = {}, {}
    for key, shape in shapes.items():
        if shape is None:
            continue
        array = rng.standard_normal(shape, np.float32)
        if key in known:
            values[key] = array
        else:
            values[key], feeds[key] = b.input(key, "f32", shape), array
    made = b.fused_mat_mul(
        values["x"], values["w"], values.get("bias"), values.get("other"), alpha=alpha,
        transA=turn[0], transB=turn[1], activation=ending[0], params=ending[1],
    )  # fmt: skip
    agree(b.outputs(y=made), feeds, 4.0 * k + 10, threads=draw(st.integers(1, 2)), isa=name)


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(), m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 99),
    name=st.sampled_from(NAMES), symmetric=st.booleans(),
    ending=st.sampled_from([("", ()), ("relu", ()), ("gelu", ()), ("softsign", ())]),
)  # fmt: skip
def test_scaled_products(data, m, k, n, seed, name, symmetric, ending):
    """Rows quantized on the way; without an activation bit for bit."""
    draw, rng, b = data.draw, np.random.default_rng(seed), Builder()
    batch = draw(st.sampled_from([(), (2,), (2, 3)]))
    x = b.input("x", "f32", (*batch, m, k))
    feeds = {"x": rng.standard_normal((*batch, m, k), np.float32)}
    rows, scale, zero = b.quantize_rows(x, symmetric=symmetric)
    weights = rng.integers(-127, 128, (k, n)).astype(np.int8)
    factors = (rng.random(draw(st.sampled_from([(n,), ()])), np.float32) + 0.5).astype(np.float32)
    if draw(st.booleans()):
        feeds["w"], weights = weights, b.input("w", "i8", (k, n))
    bias = rng.standard_normal(n, np.float32) if draw(st.booleans()) else None
    other = None
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(*batch, m, n), (n,)]))
        other, feeds["other"] = b.input("other", "f32", shape), rng.standard_normal(
            shape, np.float32
        )  # fmt: skip
    made = b.scaled_mat_mul(rows, weights, scale, factors, zero, None, bias, other,
                            activation=ending[0], params=ending[1])  # fmt: skip
    graph = b.outputs(y=made)
    magnitude = None
    if ending[0] in ("gelu", "softsign"):
        magnitude = float(np.abs(interpret(graph, feeds)["y"]).max()) + 5.0
    agree(graph, feeds, magnitude, threads=draw(st.integers(1, 2)), isa=name)


def test_rows_a_page_apart():
    rng, b = np.random.default_rng(3), Builder()
    x, u = b.input("x", "f32", (64, 1024)), b.input("u", "u8", (64, 4096))
    y, v = rng.standard_normal((1024, 1024), np.float32), _bytes(rng, "i8", (4096, 1024))
    graph = b.outputs(y=b.mat_mul(x, y), z=b.mat_mul_integer(u, v, np.uint8(7)))
    feeds = {"x": rng.standard_normal((64, 1024), np.float32), "u": _bytes(rng, "u8", (64, 4096))}
    agree(graph, feeds, 900.0, threads=2)

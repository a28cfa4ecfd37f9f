"""Each lowered op is within one step of its quantize/dequantize original, whatever the scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from taut.ir import Builder, Graph, Value, interpret, verify
from taut.passes import Context, PassManager

SCALES = st.floats(-12, 12).map(lambda e: float(np.float32(10.0**e))) | st.sampled_from(
    [2.0**-30, 2.0**-3, 1.0, 2.0**20]
)
ZEROS = st.integers(0, 255) | st.sampled_from([0, 128, 255])
SEEDS = st.integers(0, 10_000)
ACTIVATIONS = st.sampled_from([
    ("", ()), ("relu", ()), ("clip", (0.0, 6.0)), ("clip", (-1.0, 0.5)), ("hard_swish", ()),
    ("sigmoid", ()), ("hard_sigmoid", (0.2, 0.5)), ("swish", ()), ("gelu", ()),
    ("leaky_relu", (0.1,)), ("tanh", ()), ("elu", (1.0,)),
])  # fmt: skip


class Maker:
    """Builds pairs around ops, and draws integers that reach the ends of their range."""

    def __init__(self, seed: int) -> None:
        self.b, self.r = Builder(), np.random.default_rng(seed)
        self.feeds: dict[str, np.ndarray] = {}

    def dequantized(self, shape: tuple[int, ...], scale: float, zero: int) -> Value:
        name = f"x{len(self.feeds)}"
        q = self.b.input(name, "u8", shape)
        kind = self.r.integers(0, 3)
        ends = self.r.choice([0, 255], shape)
        values = self.r.integers(0, 256, shape) if kind else ends
        self.feeds[name] = values.astype(np.uint8)
        return self.b.dequantize_linear(q, np.float32(scale), np.uint8(zero))

    def weight(self, shape: tuple[int, ...], scale: np.ndarray | float, axis: int = 0) -> Value:
        w = self.r.integers(-127, 128, shape).astype(np.int8)
        w.flat[0] = w.flat[0] or 1  # weights that are all zero make constants, not products
        return self.b.dequantize_linear(w, np.asarray(scale, np.float32), axis=axis)

    def finish(self, y: Value, scale: float, zero: int) -> Graph:
        q = self.b.quantize_linear(y, np.float32(scale), np.uint8(zero))
        return self.b.outputs(y=q)

    def check(self, graph: Graph, bound: int = 1, may_refuse: bool = False) -> None:
        verify(graph)
        report = PassManager("lower-integer").run(graph, Context())
        floats = [n for n in report.graph.nodes() if n.op.name.endswith("quantize_linear")]
        if may_refuse and report.passes[0].remarks:
            assert floats
        else:
            assert not floats, report.passes[0].remarks
        assert self.steps_apart(graph, report.graph) <= bound

    def steps_apart(self, graph: Graph, lowered: Graph) -> int:
        want, got = (interpret(g, self.feeds)["y"] for g in (graph, lowered))
        return np.abs(want.astype(int) - got.astype(int)).max(initial=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS, size=st.tuples(st.integers(1, 7), st.integers(1, 7)), zero=ZEROS, out=ZEROS,
    scale=SCALES, spread=st.floats(0.01, 30), activation=ACTIVATIONS, residual=st.booleans(),
    group=st.sampled_from([1, 3]), kernel=st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_convolutions(
    seed: int, size: tuple[int, int], zero: int, out: int, scale: float, spread: float,
    activation: tuple[str, Any], residual: bool, group: int, kernel: int,
) -> None:  # fmt: skip
    m = Maker(seed)
    x = m.dequantized((2, 3, *size), scale, zero)
    # The activation's argument lies where it is curved: a few units.
    unit = spread / (scale * 127 * 255)
    steps = np.float32(unit) * m.r.uniform(0.1, 1, 6).astype(np.float32)
    assume(1e-30 < unit < 1e30)
    bias = m.r.integers(-(2**20), 2**20, 6).astype(np.int32)
    pads = (kernel // 2,) * 4
    shape = tuple(n + 2 * (kernel // 2) - kernel + 1 for n in size)
    assume(min(shape) > 0)
    other = m.dequantized((2, 6, *shape), spread / 100, 100) if residual else None
    name, params = activation if activation[0] != "gelu" else ("", ())
    y = m.b.fused_conv(
        x, m.weight((6, 3 // group, kernel, kernel), steps),
        m.b.dequantize_linear(bias, steps * np.float32(scale), axis=0), other,
        pads=pads, group=group, activation=name, params=params,
    )  # fmt: skip
    if activation[0] == "gelu":
        y = m.b.gelu(y)
    m.check(m.finish(y, spread / 90, out))


@settings(max_examples=40, deadline=None)
@example(seed=5019, rows=2, inner=1, columns=3, zero=0, out=0, scale=1.0, ratio=-1.0, turned=False)
@example(seed=5018, rows=2, inner=1, columns=3, zero=0, out=0, scale=1.0, ratio=-1.0, turned=False)
@given(
    seed=SEEDS, rows=st.integers(1, 5), inner=st.integers(1, 70), columns=st.integers(1, 5),
    zero=ZEROS, out=ZEROS, scale=SCALES, ratio=st.floats(-1, 4), turned=st.booleans(),
)  # fmt: skip
def test_matrix_products(
    seed: int, rows: int, inner: int, columns: int, zero: int, out: int, scale: float,
    ratio: float, turned: bool,
) -> None:  # fmt: skip
    m = Maker(seed)
    x = m.dequantized((rows, inner), scale, zero)
    shape = (columns, inner) if turned else (inner, columns)
    w = m.weight(shape, m.r.uniform(0.5, 2, columns), axis=0 if turned else 1)
    bias = (m.r.normal(size=columns) * scale * 100).astype(np.float32)
    if seed % 2:
        y = m.b.gemm(x, w, bias, transB=turned)
    else:
        assume(not turned)
        y = m.b.add(m.b.mat_mul(x, w), bias)
    # A float bias is refused where the accumulator's steps are too coarse for it.
    m.check(m.finish(y, scale * 10**ratio * inner, out), may_refuse=ratio < 1.5)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS, op=st.sampled_from(["add", "sub", "mul"]), scale=SCALES, ratio=st.floats(-3, 3),
    zeros=st.tuples(ZEROS, ZEROS, ZEROS), size=st.integers(1, 5), step=ACTIVATIONS,
    wide=st.booleans(),
)  # fmt: skip
def test_sums_and_gates(
    seed: int, op: str, scale: float, ratio: float, zeros: tuple[int, int, int], size: int,
    step: tuple[str, Any], wide: bool,
) -> None:  # fmt: skip
    m = Maker(seed)
    other = float(np.float32(scale * 10**ratio)) if op != "mul" else 10**ratio
    a = m.dequantized((2, 3, size, size), scale, zeros[0])
    b = m.dequantized((2, 3, size, size) if wide else (2, 3, 1, 1), other, zeros[1])
    y = getattr(m.b, op)(a, b)
    reach = scale * other * 128 if op == "mul" else max(scale, other) * 2
    if step[0] == "relu":
        y = m.b.relu(y)
    m.check(m.finish(y, reach, zeros[2]), may_refuse=abs(ratio) > 2.5)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS, scale=st.floats(0.001, 0.1), out=st.floats(0.001, 0.1),
    zeros=st.tuples(ZEROS, ZEROS), chain=st.lists(ACTIVATIONS, min_size=1, max_size=3),
)  # fmt: skip
def test_functions_of_bytes_are_equal(
    seed: int, scale: float, out: float, zeros: tuple[int, int], chain: list[tuple[str, Any]]
) -> None:
    m = Maker(seed)
    y = m.dequantized((1, 2, 16, 16), scale, zeros[0])
    for name, params in chain:
        if name == "clip":
            y = m.b.clip(y, *(np.float32(p) for p in params))
        elif name:
            names = ("alpha", "beta")
            y = getattr(m.b, name)(y, **dict(zip(names, params)))
    plain = not any(name for name, _ in chain)
    m.check(m.finish(y, out, zeros[1]), bound=1 if plain else 0)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS, scale=SCALES, zeros=st.tuples(ZEROS, ZEROS), size=st.integers(3, 9),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), pad=st.booleans(), whole=st.booleans(),
    include=st.booleans(),
)  # fmt: skip
def test_means(
    seed: int, scale: float, zeros: tuple[int, int], size: int, kernel: int, stride: int,
    pad: bool, whole: bool, include: bool,
) -> None:  # fmt: skip
    m = Maker(seed)
    x = m.dequantized((1, 3, size, size), scale, zeros[0])
    edge = (kernel // 2,) * 4 if pad else (0,) * 4
    y = m.b.global_average_pool(x) if whole else m.b.average_pool(
        x, kernel_shape=(kernel, kernel), strides=(stride, stride), pads=edge,
        count_include_pad=include,
    )  # fmt: skip
    m.check(m.finish(y, scale * 0.7, zeros[1]))


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS, scales=st.lists(st.floats(0.01, 1), min_size=2, max_size=3), zeros=ZEROS,
    kind=st.sampled_from(["concat", "max_pool", "transpose", "pad", "resize", "slice"]),
    same=st.booleans(),
)  # fmt: skip
def test_moved_data(seed: int, scales: list[float], zeros: int, kind: str, same: bool) -> None:
    m = Maker(seed)
    scale = float(np.float32(scales[0]))
    x = m.dequantized((1, 3, 5, 4), scale, zeros)
    match kind:
        case "concat":
            parts = [m.dequantized((1, 2, 5, 4), s, 7) for s in scales[1:]]
            y = m.b.concat(x, *parts, axis=1)
        case "max_pool":
            y = m.b.max_pool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
        case "transpose":
            y = m.b.transpose(x, perm=(0, 3, 1, 2))
        case "pad":
            y = m.b.pad(x, np.array([0, 0, 1, 2, 0, 0, 1, 0]), np.float32(scale * 3))
        case "resize":
            y = m.b.resize(
                x,
                None,
                np.array([1, 1, 2, 3], np.float32),
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        case _:
            y = m.b.slice(x, np.array([1]), np.array([3]), np.array([2]))
    exact = same and kind != "concat"
    graph = m.finish(y, scale if same else scale * 1.7, zeros)
    m.check(graph, bound=0 if exact else 1)


def test_ties_and_ends() -> None:
    """Halves round to even, sums beyond the ends saturate; both as quantize_linear has it."""
    b = Builder()
    q = b.input("x", "u8", (256,))
    x = b.dequantize_linear(q, np.float32(1), np.uint8(128))
    y = b.quantize_linear(b.add(x, x), np.float32(4), np.uint8(128))
    z = b.quantize_linear(b.add(x, x), np.float32(0.5), np.uint8(3))
    graph = b.outputs(y=y, z=z)
    lowered = PassManager("lower-integer").run(graph, Context()).graph
    assert not [n for n in lowered.nodes() if n.op.name == "quantize_linear"]
    feeds = {"x": np.arange(256, dtype=np.uint8)}
    want, got = interpret(graph, feeds), interpret(lowered, feeds)
    assert (want["y"] == got["y"]).all() and (want["z"] == got["z"]).all()
    assert want["y"][[129, 131]].tolist() == [128, 130] and set(want["z"][[0, 255]]) == {0, 255}


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS, mode=st.sampled_from(["nearest", "linear", "cubic"]),
    where=st.sampled_from(["asymmetric", "half_pixel", "tf_crop_and_resize"]),
    scale=st.sampled_from([0.5, 1.0, 3.0]), zeros=st.tuples(ZEROS, ZEROS),
    function=st.sampled_from(["", "relu", "sigmoid"]),
)  # fmt: skip
def test_interpolation(
    seed: int, mode: str, where: str, scale: float, zeros: tuple[int, int], function: str
) -> None:
    """Neither the ends of a narrower grid nor a function commute with a mean of two numbers, and
    what lies outside is a number, not an integer of the grid."""
    m = Maker(seed)
    x = m.dequantized((1, 2, 3, 4), 1.0, zeros[0])
    roi = np.array([0, 0, -0.3, 0, 1, 1, 1, 1.2], np.float32) if where.startswith("tf") else None
    factors = np.array([1, 1, 2, 2], np.float32)
    y = m.b.resize(x, roi, factors, mode=mode, coordinate_transformation_mode=where,
                   extrapolation_value=7.0)  # fmt: skip
    y = getattr(m.b, function)(y) if function else y
    graph = m.finish(y, 0.01 if function == "sigmoid" else scale, zeros[1])
    lowered = PassManager("lower-integer").run(graph, Context()).graph
    assert m.steps_apart(graph, lowered) <= 1


def test_interpolation_on_one_grid_is_made_on_integers() -> None:
    factors = np.array([1, 1, 2, 2], np.float32)
    for mode in ("linear", "cubic"):
        m = Maker(0)
        x = m.dequantized((1, 2, 3, 4), 0.5, 100)
        m.check(m.finish(m.b.resize(x, None, factors, mode=mode), 0.5, 100))


def test_one_zero_point_of_a_transposed_convolution_may_be_a_vector() -> None:
    m = Maker(0)
    x = m.dequantized((1, 3, 2, 2), 0.1, 7)
    weight = m.r.integers(0, 256, (3, 1, 2, 2)).astype(np.uint8)
    scale, zero = np.array([0.01], np.float32), np.array([99], np.uint8)
    w = m.b.dequantize_linear(weight, scale, zero, axis=1)
    m.check(m.finish(m.b.conv_transpose(x, w, strides=(2, 2)), 0.5, 128))

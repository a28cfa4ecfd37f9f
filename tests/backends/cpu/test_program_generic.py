"""Every op with a generic kernel, on odd shapes, against the reference; and the fallback."""

from __future__ import annotations

import numpy as np
import pytest
from taut.backends.cpu import compile
from taut.ir import Builder, DType, interpret

RNG = np.random.default_rng(3)


def floats(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def run(build, threads: int = 2, tolerance: float = 1e-5, fallbacks: int = 0, **feeds):
    """`build(b, **values)` gives a value or a tuple of them."""
    b = Builder()
    inputs = {k: b.input(k, DType.of(v).value, v.shape) for k, v in feeds.items()}
    made = build(b, **inputs)
    made = made if isinstance(made, tuple) and not hasattr(made, "node") else (made,)
    graph = b.outputs(**{f"y{i}": v for i, v in enumerate(made)})
    program = compile(graph, threads=threads)
    got, expected = program(**feeds), interpret(graph, feeds)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[name], array, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(got[name], array)
    assert len(program.fallbacks) == fallbacks, program.fallbacks


UNARY = {
    "exp": (-100, 90), "log": (0.01, 9), "sqrt": (0, 9), "tanh": (-6, 6), "erf": (-4, 4),
    "sigmoid": (-30, 30), "floor": (-5, 5), "ceil": (-5, 5), "round": (-5, 5), "neg": (-5, 5),
    "abs": (-5, 5), "reciprocal": (0.2, 5), "relu": (-5, 5), "hard_swish": (-5, 5),
    "hard_sigmoid": (-5, 5), "leaky_relu": (-5, 5), "elu": (-5, 5), "selu": (-5, 5),
    "softplus": (-40, 40), "softsign": (-5, 5), "mish": (-9, 9), "gelu": (-5, 5),
    "swish": (-9, 9), "thresholded_relu": (-3, 3), "sin": (-3, 3), "cos": (-3, 3),
    "atan": (-3, 3), "acos": (-1, 1),
}  # fmt: skip


def test_unary_functions_in_f32():
    x = {name: floats(3, 7, low=a, high=b) for name, (a, b) in UNARY.items()}
    for v in x.values():
        v[0, 0] = np.nan
    run(lambda b, **v: tuple(getattr(b, n)(y) for n, y in v.items()), tolerance=4e-6, **x)


def test_unary_functions_in_f64():
    names = ("exp", "tanh", "sigmoid", "erf", "floor", "softplus", "sqrt")
    x = {n: RNG.uniform(0, 3, (4, 5)) for n in names}
    run(lambda b, **v: tuple(getattr(b, n)(y) for n, y in v.items()), tolerance=1e-12, **x)


def test_special_values():
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -104, 88.8], np.float32)
    names = ("exp", "sigmoid", "tanh", "relu", "sqrt", "round", "is_nan", "softplus")
    run(lambda b, x: tuple(getattr(b, n)(x) for n in names), x=x)


@pytest.mark.parametrize("kind", ["f32", "f64", "i32", "i64", "u8", "i8"])
def test_arithmetic_with_broadcasting(kind):
    dtype = DType(kind).numpy
    x = RNG.integers(1, 100, (2, 3, 1, 5)).astype(dtype)
    y = RNG.integers(1, 100, (3, 4, 1)).astype(dtype)

    def build(b, x, y):
        both = [getattr(b, n)(x, y) for n in ("add", "sub", "mul", "div", "less", "equal")]
        return (*both, b.max(x, y), b.min(x, y, y), b.sum(x, y, x), b.where(b.less(x, y), x, y))

    run(build, x=x, y=y)


def test_integer_division_truncates_and_zero_gives_zero():
    x = np.array([-7, 7, -7, 7, 5], np.int32)
    run(lambda b, x, y: b.div(x, y), x=x, y=np.array([2, -2, -2, 2, 0], np.int32))


def test_long_chains_are_split():
    def build(b, x, **more):
        for i in range(12):
            x = b.add(b.mul(x, b.constant(floats(1))), more[f"v{i}"])
        return x

    run(build, x=floats(3, 5), **{f"v{i}": floats(5) for i in range(12)}, tolerance=1e-4)


def test_casts():
    x = RNG.integers(-100, 100, (3, 5)).astype(np.int32)
    kinds = [DType.f32, DType.i64, DType.i8, DType.u8, DType.bool, DType.f64]
    run(lambda b, x: tuple(b.cast(x, to=k) for k in kinds), x=x)


def test_views_and_copies():
    def build(b, x):
        t = b.transpose(x, perm=(2, 0, 1))
        s = b.slice(x, np.array([1, -1]), np.array([3, -5]), np.array([0, 2]), np.array([1, -2]))
        parts = b.split(x, np.array([1, 3]), axis=1)
        r = b.reshape(t, np.array([6, 10]))
        e = b.expand(b.unsqueeze(x, np.array([0])), np.array([2, 3, 4, 5]))
        back = b.transpose(b.reshape(b.transpose(x), np.array([4, 5, 3])), perm=(1, 0, 2))
        return t, s, *parts, r, e, b.relu(back), b.concat(x, t_like(b, x), axis=-1), b.flatten(x)

    def t_like(b, x):
        return b.transpose(b.transpose(x, perm=(1, 0, 2)), perm=(1, 0, 2))

    run(build, x=floats(3, 4, 5))


def test_channel_shuffle_between_convolutions():
    w = floats(12, 6, 1, 1)

    def build(b, x):
        y = b.conv(x, w)
        y = b.reshape(y, np.array([2, 3, 4, 5, 7]))
        y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3, 4)), np.array([2, 12, 5, 7]))
        return b.conv(y, floats(12, 1, 3, 3), group=12, pads=(1, 1, 1, 1))

    run(build, x=floats(2, 6, 5, 7), tolerance=1e-4)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(mode):
    pads = np.array([1, 0, 2, 0, -1, 1])
    run(lambda b, x: b.pad(x, pads, np.float32(7) if mode == "constant" else None, mode=mode),
        x=floats(3, 4, 5))  # fmt: skip


def test_gather_and_tile():
    def build(b, x):
        at = np.array([3, -1, 0])
        return b.gather(x, at, axis=1), b.gather(x, np.array(2), axis=2), b.tile(x, (2, 1, 3))

    run(build, x=floats(3, 4, 5))


def test_blocks():
    def build(b, x):
        deep = b.space_to_depth(x, blocksize=2)
        return deep, *(b.depth_to_space(deep, blocksize=2, mode=m) for m in ("DCR", "CRD"))

    run(build, x=floats(2, 3, 4, 6))


def test_reductions():
    names = ("sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square")

    def build(b, x):
        over = (([1], True), ([0, 2], False), ([-1], False))
        made = [getattr(b, f"reduce_{n}")(x, np.array(a), keepdims=k)
                for n in names for a, k in over]  # fmt: skip
        return *made, b.reduce_sum(x, None, keepdims=False)

    run(build, x=floats(3, 4, 5, 2), tolerance=1e-4)
    for kind in (np.int32, np.int64):
        run(lambda b, x: (b.reduce_sum(x, np.array([1])), b.reduce_max(x, np.array([0]))),
            x=RNG.integers(-9, 9, (3, 5)).astype(kind))  # fmt: skip


def test_arg_extremes():
    x = RNG.integers(0, 4, (3, 9, 5)).astype(np.float32)
    x[0, 3, 2] = np.nan

    def build(b, x):
        return tuple(
            getattr(b, n)(x, axis=a, keepdims=k, select_last_index=s)
            for n in ("arg_max", "arg_min") for a, k in ((1, True), (-1, False))
            for s in (False, True)
        )  # fmt: skip

    run(build, x=x)


def test_softmaxes():
    def build(b, x):
        return b.softmax(x, axis=1), b.softmax(x), b.log_softmax(x, axis=0), b.softmax(b.relu(x))

    run(build, x=floats(3, 21, 17, low=-30, high=30))


def test_normalizations():
    def build(b, x, s, i):
        y = b.batch_normalization(i, floats(6), floats(6), floats(6), floats(6, low=0.1, high=1))
        return (
            b.layer_normalization(x, s, floats(17)),
            b.layer_normalization(x, floats(5, 17), axis=1),
            b.instance_normalization(i, floats(6), floats(6)), b.relu(y),
        )  # fmt: skip

    run(build, x=floats(3, 5, 17), s=floats(17), i=floats(2, 6, 5, 4), tolerance=2e-5)


def test_products_of_computed_matrices():
    def build(b, a, c, d, v):
        t = b.transpose(c, perm=(0, 2, 1))
        return (
            b.mat_mul(a, c), b.mat_mul(t, d), b.mat_mul(a, v), b.mat_mul(v, t),
            b.gemm(d, d, None, transA=True), b.gemm(d, d, v, transB=True, alpha=0.5, beta=-1.0),
        )  # fmt: skip

    run(build, a=floats(2, 1, 5, 9), c=floats(3, 9, 9), d=floats(9, 9), v=floats(9),
        tolerance=1e-4)  # fmt: skip


def test_integer_products_of_computed_matrices():
    a, c = (RNG.integers(0, 255, s).astype(np.uint8) for s in ((4, 7), (7, 5)))
    az = RNG.integers(0, 255, 4).astype(np.uint8)
    run(lambda b, a, c, z: b.mat_mul_integer(a, c, z, np.uint8(9)), a=a, c=c, z=az)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("place", ["half_pixel", "align_corners", "asymmetric"])
def test_resizes(mode, place):
    def build(b, x):
        options = {"mode": mode, "coordinate_transformation_mode": place}
        y = b.resize(x, None, np.array([1, 1, 2, 1.6], np.float32), **options)
        z = b.resize(b.conv(x, floats(3, 3, 1, 1)), None, None, np.array([2, 3, 4, 17]), **options)
        return y, z

    run(build, x=floats(2, 3, 7, 9), tolerance=2e-4)


@pytest.mark.parametrize("kernel,stride,pad,group", [(2, 2, 0, 1), (3, 2, 1, 2), (4, 3, 2, 1)])
def test_transposed_convolutions(kernel, stride, pad, group):
    def build(b, x, line):
        y = b.conv_transpose(
            x, floats(6, 5, kernel, kernel), floats(5 * group), group=group,
            strides=(stride, stride), pads=(pad,) * 4,
        )  # fmt: skip
        z = b.conv_transpose(line, floats(4, 3, kernel), strides=(stride,), pads=(pad, pad))
        return b.relu(y), z

    run(build, x=floats(2, 6, 5, 4), line=floats(1, 4, 6), tolerance=1e-4)


def test_what_has_no_kernel_runs_in_python():
    def build(b, x):
        y = b.cum_sum(b.relu(x), np.array(1))
        return b.add(b.conv(y, floats(4, 3, 2, 2, 2)), np.float32(1)), b.top_k(x, np.array([2]))[0]

    run(build, fallbacks=3, x=floats(2, 3, 5, 6, 4), tolerance=1e-4)


def test_what_makes_sizes_of_data_runs_by_the_reference_and_the_rest_compiled():
    run(lambda b, x: b.non_zero(b.relu(x)), fallbacks=1, x=floats(3, 4))


@pytest.mark.parametrize("kind", ["f64", "i32", "i64"])
def test_products_of_types_without_a_kernel_of_their_own(kind: str) -> None:
    """Six terms: four at a time, then the rest."""
    b = Builder()
    graph = b.outputs(y=b.mat_mul(b.input("x", kind, (3, 6)), b.input("w", kind, (6, 5))))
    program = compile(graph, threads=1)
    random = np.random.default_rng(0)
    feeds = {n.name: random.integers(-5, 5, n.type.static_shape).astype(n.type.dtype.numpy)
             for n in graph.inputs}  # fmt: skip
    assert (program(**feeds)["y"] == interpret(graph, feeds)["y"]).all()
    assert program.fallbacks == []

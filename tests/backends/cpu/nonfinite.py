"""NaN, infinities, signed zeros and denormals in compiled kernels, against the reference.

`FAMILIES` draw a graph of one kernel family with random geometry from a NumPy generator. `check`
puts special numbers into its inputs and weights, at borders and tails more often than elsewhere,
and compares where results are NaN or infinite exactly, and the rest within a tolerance; then it
calls the program on poisoned memory. `search` does that many times, the tests run a seeded slice:

    .venv/bin/python tests/backends/cpu/nonfinite.py 0 1000 max_pool attention
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import poison
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Array, Builder, Graph, Value, interpret
from taut.ir.ops.convolution import ConvWeightGradient
from taut.ir.ops.pooling import AveragePoolGradient, MaxPoolGradient
from taut.passes import optimize

Random = np.random.Generator
NAMES = [t.name for t in isa.available()]
SPECIAL = np.array([np.nan, np.inf, -np.inf, np.nan, np.inf, -0.0, 1e-40, -1e-45])
TOLERANCE = 3e-5  # of the largest finite magnitude: sums are made in another order


# ---- special numbers ---------------------------------------------------------------------------


def sprinkle(rng: Random, array: Array, most: int = 3) -> Array:
    """The array with up to `most` special numbers, half of them at the ends of axes."""
    made = array.copy()
    if array.dtype.kind != "f" or not array.size:
        return made
    for _ in range(rng.integers(0, most + 1)):
        place = [int(rng.integers(n)) for n in array.shape]
        if rng.random() < 0.5:
            place = [int(rng.choice([0, n - 1])) for n in array.shape]
        made[tuple(place)] = rng.choice(SPECIAL)
    return made


def differences(want: Array, got: Array) -> str | None:
    """What differs, in words: NaN and infinities by their places, the rest by the tolerance."""
    if want.dtype != got.dtype or want.shape != got.shape:
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        bad = want != got
    else:
        odd = ~np.isfinite(want) | ~np.isfinite(got)
        same = (np.isnan(want) & np.isnan(got)) | (want == got)
        largest = np.abs(want[np.isfinite(want)]).max(initial=1.0)
        with np.errstate(all="ignore"):
            near = np.abs(want.astype(np.float64) - got) <= TOLERANCE * largest
        bad = np.where(odd, ~same, ~near)
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {bad.size} at {first}: {got[first]}, not {want[first]}"


# ---- families ----------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A graph, feeds, ops that may run in Python, and feeds that have their special numbers."""

    graph: Graph
    feeds: dict[str, Array]
    may: tuple[str, ...] = ()
    calm: tuple[str, ...] = ()


Family = Callable[[Random], Drawn]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Register a family: it draws (graph, feeds, ops that may run in Python)."""
    FAMILIES[function.__name__] = function
    return function


def numbers(rng: Random, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def weights(rng: Random, *shape: int) -> Array:
    """Weights with some zeros, and now and then a special number."""
    made = numbers(rng, *shape) / np.float32(np.sqrt(max(1, np.prod(shape[1:]))))
    made[rng.random(shape) < 0.1] = 0
    return sprinkle(rng, made, 1) if rng.random() < 0.3 else made


ACTIVATIONS = (
    "", "relu", "clip", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "gelu", "swish",
    "hard_swish", "hard_sigmoid",
)  # fmt: skip


def ending(rng: Random, b: Builder, y: Value) -> Value:
    """Nothing, or an activation and a residual before or after it: endings that fuse."""
    kind = str(rng.choice(ACTIVATIONS))
    residual = rng.random() < 0.4
    last = rng.random() < 0.5
    if residual and not last:
        y = b.add(y, b.relu(b.input("r", "f32", y.type.shape)))
    match kind:
        case "clip":
            y = b.clip(y, np.float32(-0.5), np.float32(1.5))
        case "swish":
            y = b.mul(y, b.sigmoid(y))
        case "leaky_relu":
            y = b.leaky_relu(y, alpha=0.1)
        case "":
            pass
        case _:
            y = getattr(b, kind)(y)
    if residual and last:
        y = b.add(y, b.relu(b.input("r", "f32", y.type.shape)))
    return y


def feeds_of(rng: Random, graph: Graph) -> dict[str, Array]:
    return {n.name: numbers(rng, *n.type.static_shape) for n in graph.inputs}


def geometry(rng: Random, rank: int) -> dict[str, Any]:
    pads = tuple(int(rng.integers(0, 3)) for _ in range(2 * rank))
    return {
        "strides": tuple(int(rng.choice([1, 1, 2, 3])) for _ in range(rank)),
        "dilations": tuple(int(rng.choice([1, 1, 2])) for _ in range(rank)),
        "pads": pads,
    }


def convolution(rng: Random, group: int, per_in: int, per_out: int) -> Drawn:
    rank = int(rng.choice([1, 2, 2]))
    n = int(rng.integers(1, 3))
    size = [int(rng.integers(5, 12)) for _ in range(rank)]
    kernel = [int(rng.integers(1, 4)) for _ in range(rank)]
    b = Builder()
    x = b.input("x", "f32", (n, group * per_in, *size))
    w = weights(rng, group * per_out, per_in, *kernel)
    bias = numbers(rng, group * per_out) if rng.random() < 0.5 else None
    y = b.conv(x, w, bias, group=group, **geometry(rng, rank))
    y = ending(rng, b, y)
    if rng.random() < 0.3 and min(y.type.static_shape[2:]) >= 3:
        y = b.max_pool(y, kernel_shape=(2,) * rank, strides=(2,) * rank)
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


@family
def plain_conv(rng: Random) -> Drawn:
    return convolution(rng, 1, int(rng.choice([1, 3, 8, 17])), int(rng.choice([1, 5, 16, 21, 40])))


@family
def grouped_conv(rng: Random) -> Drawn:
    group = int(rng.choice([2, 3, 4, 6, 8]))
    return convolution(rng, group, int(rng.choice([1, 2, 4, 9])), int(rng.choice([1, 2, 4, 8, 20])))


@family
def depthwise_conv(rng: Random) -> Drawn:
    return convolution(rng, int(rng.choice([2, 5, 16, 19, 36])), 1, 1)


@family
def computed_conv(rng: Random) -> Drawn:
    """Weights that are computed while the program runs."""
    group = int(rng.choice([1, 1, 2, 4]))
    per_in, per_out = int(rng.choice([1, 3, 5])), int(rng.choice([1, 4, 17]))
    b = Builder()
    x = b.input("x", "f32", (1, group * per_in, 6, 7))
    w = b.input("w", "f32", (group * per_out, per_in, 3, 2))
    graph = b.outputs(y=b.conv(x, w, group=group, **geometry(rng, 2)))
    return Drawn(graph, feeds_of(rng, graph))


@family
def transposed_conv(rng: Random) -> Drawn:
    """In Python where weights are not finite, which the zeros between elements must not meet."""
    rank = int(rng.choice([1, 2, 2]))
    group = int(rng.choice([1, 1, 2, 4]))
    per_in, per_out = int(rng.choice([1, 3, 8])), int(rng.choice([1, 3, 17]))
    b = Builder()
    x = b.input("x", "f32", (1, group * per_in, *[int(rng.integers(3, 7)) for _ in range(rank)]))
    kernel = [int(rng.integers(1, 4)) for _ in range(rank)]
    w = weights(rng, group * per_in, per_out, *kernel)
    strides = tuple(int(rng.integers(1, 4)) for _ in range(rank))
    dilations = tuple(int(rng.choice([1, 1, 2])) for _ in range(rank))
    pads = tuple(int(rng.integers(0, min((k - 1) * d, 1) + 1)) for k, d in zip(kernel, dilations))
    y = b.conv_transpose(x, w, group=group, strides=strides, dilations=dilations, pads=pads * 2)
    y = ending(rng, b, y)
    graph = b.outputs(y=y)
    slow = () if np.isfinite(w).all() else ("conv_transpose", "fused_conv_transpose")
    return Drawn(graph, feeds_of(rng, graph), slow)


@family
def shuffled_conv(rng: Random) -> Drawn:
    """A grouped convolution and a channel shuffle."""
    group, per = int(rng.choice([2, 3, 4])), int(rng.choice([2, 4, 16]))
    c = group * per
    b = Builder()
    x = b.input("x", "f32", (1, c, 5, 5))
    y = b.conv(x, weights(rng, c, per, 1, 1), numbers(rng, c), group=group)
    y = b.relu(y) if rng.random() < 0.5 else y
    y = b.reshape(y, np.array([1, group, per, 5, 5]))
    y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3, 4)), np.array([1, c, 5, 5]))
    y = b.conv(y, weights(rng, c, 1, 3, 3), group=c, pads=(1, 1, 1, 1))
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


def pool_geometry(rng: Random, rank: int) -> dict:
    kernel = tuple(int(rng.choice([1, 2, 2, 3, 3, 4, 6])) for _ in range(rank))
    dilations = tuple(int(rng.choice([1, 1, 1, 2])) for _ in range(rank))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    pads = tuple(int(rng.integers(0, min(r, 2) + 1)) for r in reach * 2)
    return {
        "kernel_shape": kernel, "dilations": dilations, "pads": pads,
        "strides": tuple(int(rng.integers(1, 4)) for _ in range(rank)),
        "ceil_mode": bool(rng.random() < 0.3),
    }  # fmt: skip


def image_shape(rng: Random, rank: int) -> tuple[int, ...]:
    channels = int(rng.choice([1, 3, 16, 19]))
    return (int(rng.integers(1, 3)), channels, *[int(rng.integers(11, 14)) for _ in range(rank)])


@family
def max_pool(rng: Random) -> Drawn:
    rank = int(rng.choice([1, 2, 2]))
    b = Builder()
    x = b.input("x", "f32", image_shape(rng, rank))
    given = pool_geometry(rng, rank)
    if rng.random() < 0.2:
        y, at = b.max_pool(x, outputs=2, **given)
        graph = b.outputs(y=y, at=at)
        return Drawn(graph, feeds_of(rng, graph), ("max_pool",))
    y = b.max_pool(x, **given)
    if rng.random() < 0.3:
        y = b.quantize_linear(y, np.float32(0.05), np.uint8(100))
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


@family
def average_pool(rng: Random) -> Drawn:
    rank = int(rng.choice([1, 2, 2]))
    b = Builder()
    x = b.input("x", "f32", image_shape(rng, rank))
    if rng.random() < 0.25:
        y = b.lp_pool(x, p=int(rng.integers(1, 4)), **pool_geometry(rng, rank))
        graph = b.outputs(y=y)
        return Drawn(graph, feeds_of(rng, graph), ("lp_pool",))
    y = b.average_pool(x, count_include_pad=bool(rng.random() < 0.5), **pool_geometry(rng, rank))
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


@family
def global_pool(rng: Random) -> Drawn:
    rank = int(rng.choice([1, 2, 2]))
    b = Builder()
    x = b.input("x", "f32", image_shape(rng, rank))
    name = str(rng.choice(["global_average_pool", "global_max_pool", "global_lp_pool"]))
    graph = b.outputs(y=getattr(b, name)(b.relu(x) if rng.random() < 0.5 else x))
    return Drawn(graph, feeds_of(rng, graph), ("global_lp_pool",))


@family
def weight_gradient(rng: Random) -> Drawn:
    group = int(rng.choice([1, 1, 2, 4]))
    per_in, per_out = int(rng.choice([1, 3, 9])), int(rng.choice([1, 5, 17]))
    rank = int(rng.choice([1, 2, 2]))
    if rng.random() < 0.25:
        group, per_in, per_out = int(rng.choice([3, 17])), 1, 1
    sizes = [int(rng.integers(5, 11)) for _ in range(rank)]
    op = ConvWeightGradient(
        **geometry(rng, rank), group=group,
        kernel_shape=tuple(int(rng.integers(1, 4)) for _ in range(rank)),
    )  # fmt: skip
    out = op.window_dims(tuple(sizes), op.kernel_shape)
    b, n = Builder(), int(rng.integers(1, 3))
    x = b.input("x", "f32", (n, group * per_in, *sizes))
    dy = b.input("dy", "f32", (n, group * per_out, *out))
    graph = b.outputs(y=b.add_op(op, x, dy))
    return Drawn(graph, feeds_of(rng, graph))


@family
def pool_gradient(rng: Random) -> Drawn:
    rank = int(rng.choice([1, 2, 2]))
    shape, given = image_shape(rng, rank), pool_geometry(rng, rank)
    b = Builder()
    if rng.random() < 0.5:
        op = MaxPoolGradient(**given)
        dims = op.window_dims(shape[2:], op.kernel_shape, op.ceil_mode)
        x = b.input("x", "f32", shape)
        made = b.add_op(op, x, b.input("dy", "f32", (*shape[:2], *dims)))
    else:
        op = AveragePoolGradient(**given, count_include_pad=bool(rng.random() < 0.5))
        dims = op.window_dims(shape[2:], op.kernel_shape, op.ceil_mode)
        dy = b.input("dy", "f32", (*shape[:2], *dims))
        made = b.add_op(op, dy, b.constant(np.array(shape)))
    graph = b.outputs(y=made)
    return Drawn(graph, feeds_of(rng, graph))


@family
def product(rng: Random) -> Drawn:
    m, k, n = (int(rng.choice([1, 2, 7, 16, 33])) for _ in range(3))
    batch = (int(rng.integers(1, 4)),) if rng.random() < 0.5 else ()
    b = Builder()
    a = b.input("a", "f32", (*batch, m, k))
    c = weights(rng, k, n) if rng.random() < 0.5 else b.input("b", "f32", (*batch, k, n))
    y = b.mat_mul(a, c)
    if rng.random() < 0.5:
        y = b.add(y, numbers(rng, n))
    y = ending(rng, b, y)
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


@family
def gemm(rng: Random) -> Drawn:
    m, k, n = (int(rng.choice([1, 2, 7, 16, 33])) for _ in range(3))
    turn = [int(rng.integers(2)) for _ in range(2)]
    b = Builder()
    a = b.input("a", "f32", (k, m) if turn[0] else (m, k))
    shape = (n, k) if turn[1] else (k, n)
    c = weights(rng, *shape) if rng.random() < 0.5 else b.input("b", "f32", shape)
    bias = b.input("c", "f32", (n,)) if rng.random() < 0.5 else None
    alpha, beta = float(rng.choice([1.0, 0.5, 0.0])), float(rng.choice([1.0, 2.0, 0.0]))
    y = b.gemm(a, c, bias, alpha=alpha, beta=beta, transA=turn[0], transB=turn[1])
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


@family
def normalization(rng: Random) -> Drawn:
    shape = tuple(int(rng.integers(1, 20)) for _ in range(int(rng.integers(3, 5))))
    b = Builder()
    x = b.input("x", "f32", shape)
    c = shape[1]
    match str(rng.choice(["layer", "rms", "instance", "batch", "lrn", "group", "softmax",
                          "log_softmax", "lp"])):  # fmt: skip
        case "layer":
            y = b.layer_normalization(x, numbers(rng, shape[-1]), numbers(rng, shape[-1]))
        case "rms":
            y = b.rms_normalization(x, numbers(rng, shape[-1]))
        case "instance":
            y = b.instance_normalization(x, numbers(rng, c), numbers(rng, c))
        case "batch":
            scale, bias, mean, variance = (sprinkle(rng, numbers(rng, c), 1) for _ in range(4))
            variance[rng.random(c) < 0.1] = 0
            epsilon = float(rng.choice([0.0, 1e-5]))
            y = b.batch_normalization(x, scale, bias, mean, np.abs(variance), epsilon=epsilon)
        case "lrn":
            y = b.lrn(x, size=3)
        case "group":
            g = int(rng.choice([k for k in range(1, c + 1) if c % k == 0]))
            y = b.group_normalization(x, numbers(rng, c), numbers(rng, c), num_groups=g)
        case "softmax":
            y = b.softmax(x, axis=int(rng.integers(len(shape))))
        case "log_softmax":
            y = b.log_softmax(x, axis=int(rng.integers(len(shape))))
        case _:
            y = b.lp_normalization(x, axis=int(rng.integers(len(shape))), p=int(rng.integers(1, 3)))
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph), ("lrn", "group_normalization", "lp_normalization"))


@family
def attention(rng: Random) -> Drawn:
    heads, share = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    length, total = (int(rng.choice([1, 2, 7, 17, 33, 130, 150])) for _ in range(2))
    d, e = int(rng.choice([1, 8, 37])), int(rng.choice([1, 16, 41]))
    b = Builder()
    q = b.input("q", "f32", (1, heads * share, length, d))
    k = b.input("k", "f32", (1, heads, total, d))
    v = b.input("v", "f32", (1, heads, total, e))
    feeds, mask = {}, None
    kind = str(rng.choice(["none", "bool", "f32", "short"]))
    if kind != "none":
        front = [(), (length,), (1, 1), (heads * share, length)][int(rng.integers(4))]
        shape = (*front, max(1, total - 3) if kind == "short" else total)
        taken = rng.random(shape) < 0.7
        if len(shape) > 1 and rng.random() < 0.5:
            taken[..., int(rng.integers(shape[-2])), :] = False
        lowest = rng.choice([-np.inf, float(np.finfo(np.float32).min)])
        feeds["mask"] = taken if kind == "bool" else np.where(
            taken, numbers(rng, *shape), np.float32(lowest))  # fmt: skip
        mask = b.input("mask", "bool" if kind == "bool" else "f32", shape)
    causal = bool(rng.random() < 0.3)
    y = b.attention(
        q, k, v, mask, is_causal=causal,
        softcap=float(rng.choice([0.0, 0.0, 3.0])),
    )  # fmt: skip
    graph = b.outputs(y=y)
    feeds |= {n: numbers(rng, *t.type.static_shape) for n, t in (("q", q), ("k", k), ("v", v))}
    if not causal:
        return Drawn(graph, feeds)
    for name in "kv":  # what is_causal hides may be looked at or not: the first key is seen by all
        feeds[name][:, :, :1] = sprinkle(rng, feeds[name][:, :, :1])
    return Drawn(graph, feeds, calm=("k", "v", "mask"))


@family
def attention_of_bytes(rng: Random) -> Drawn:
    length, total = (int(rng.choice([1, 2, 17, 150])) for _ in range(2))
    groups, share = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    d, e = int(rng.choice([1, 8, 37])), int(rng.choice([1, 41]))
    b, feeds = Builder(), {}

    def operand(name: str, array: Array) -> Value:
        feeds[name] = array
        return b.input(name, "u8" if array.dtype == np.uint8 else "f32", array.shape)

    shapes = {"q": (length, groups * share, d), "k": (total, groups, d), "v": (total, groups, e)}
    rows = [operand(k, rng.integers(0, 256, (1, *s), np.uint8)) for k, s in shapes.items()]
    scales = [
        operand(f"{k}_scale", (rng.random((1, *s[:2], 1)) * 0.03 + 1e-3).astype(np.float32))
        for k, s in shapes.items()
    ]
    mask = None
    if rng.random() < 0.5:
        array = numbers(rng, 1, 1, length, total)
        array[rng.random(array.shape) < 0.3] = -np.inf
        mask = operand("mask", array)
    graph = b.outputs(y=b.scaled_attention(*rows, *scales, mask, is_causal=bool(rng.integers(2))))
    return Drawn(graph, feeds)


@family
def moved(rng: Random) -> Drawn:
    """Pads, gathers, scatters, resizing, sampling and the like."""
    b = Builder()
    shape = (int(rng.integers(1, 3)), int(rng.integers(1, 6)), *rng.integers(3, 9, 2).tolist())
    x = b.input("x", "f32", shape)
    feeds = {}
    may: tuple[str, ...] = ()
    match str(rng.choice(["pad", "gather", "gather_in", "scatter", "resize", "grid_sample", "arg",
                          "cumsum", "depth", "sorted"])):  # fmt: skip
        case "pad":
            mode = str(rng.choice(["constant", "edge", "reflect", "wrap"]))
            pads = np.array([0, 0, *rng.integers(0, 3, 2), 0, 0, *rng.integers(0, 3, 2)])
            value = np.float32(rng.choice(SPECIAL)) if mode == "constant" else None
            y = b.pad(x, pads, value, mode=mode)
        case "gather":
            axis = int(rng.integers(4))
            y = b.gather(x, rng.integers(0, shape[axis], 5), axis=axis)
        case "gather_in":
            feeds["at"] = rng.integers(0, shape[1], 4)
            y = b.gather(x, b.input("at", "i64", (4,)), axis=1)
        case "scatter":
            feeds["at"] = rng.integers(0, shape[2], (shape[0], shape[1], 2, shape[3]))
            at = b.input("at", "i64", feeds["at"].shape)
            how = str(rng.choice(["none", "add", "mul", "max", "min"]))
            y = b.scatter_elements(
                x, at, b.input("u", "f32", feeds["at"].shape), axis=2, reduction=how
            )
            may = ("scatter_elements",)
        case "resize":
            mode = str(rng.choice(["nearest", "linear", "cubic"]))
            how = str(rng.choice(["half_pixel", "align_corners", "asymmetric"]))
            sizes = np.array([*shape[:2], *rng.integers(1, 14, 2)])
            y = b.resize(x, None, None, sizes, mode=mode, coordinate_transformation_mode=how)
        case "grid_sample":
            mode = str(rng.choice(["nearest", "linear", "cubic"]))
            padding = str(rng.choice(["zeros", "border", "reflection"]))
            grid = b.input("grid", "f32", (shape[0], 4, 5, 2))
            y, may = b.grid_sample(x, grid, mode=mode, padding_mode=padding), ("grid_sample",)
        case "arg":
            name = str(rng.choice(["arg_max", "arg_min"]))
            y = getattr(b, name)(
                x, axis=int(rng.integers(4)), select_last_index=bool(rng.integers(2))
            )
        case "cumsum":
            y, may = b.cum_sum(x, np.array(int(rng.integers(4)))), ("cum_sum",)
        case "depth":
            y = b.space_to_depth(b.slice(x, np.array([0, 0]), np.array([2, 2]), np.array([2, 3])),
                                 blocksize=2)  # fmt: skip
        case _:
            axis = int(rng.integers(4))
            y, at = b.top_k(x, np.array([2 if shape[axis] > 1 else 1]), axis=axis)
            may = ("top_k",)
    graph = b.outputs(y=y)
    return Drawn(graph, {**feeds_of(rng, graph), **feeds}, may)


@family
def recurrent(rng: Random) -> Drawn:
    cell = str(rng.choice(["rnn", "gru", "lstm"]))
    rows = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    time, size = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    batch, hidden = int(rng.choice([1, 2, 5])), int(rng.choice([1, 5, 16, 33]))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    ways = 1 + (direction == "bidirectional")
    b = Builder()
    x = b.input("x", "f32", (time, batch, size))
    w = weights(rng, ways, rows * hidden, size)
    r = weights(rng, ways, rows * hidden, hidden)
    bias = numbers(rng, ways, 2 * rows * hidden) if rng.random() < 0.5 else None
    lengths = rng.integers(0, time + 1, batch).astype(np.int32) if rng.random() < 0.5 else None
    states = [numbers(rng, ways, batch, hidden) if rng.random() < 0.3 else None
              for _ in range(1 + (cell == "lstm"))]  # fmt: skip
    more: dict[str, Any] = {"clip": 2.0} if rng.random() < 0.3 else {}
    if cell == "gru":
        more["linear_before_reset"] = bool(rng.integers(2))
    if cell == "lstm":
        more["input_forget"] = bool(rng.random() < 0.3)
    made = getattr(b, cell)(
        x, w, r, bias, lengths, *states, hidden_size=hidden, direction=direction, **more
    )
    made = made if type(made) is tuple else (made,)
    graph = b.outputs(**{f"y{i}": y for i, y in enumerate(made)})
    return Drawn(graph, feeds_of(rng, graph))


@family
def loss(rng: Random) -> Drawn:
    n, c = int(rng.integers(1, 9)), int(rng.choice([2, 5, 17]))
    more = (int(rng.integers(1, 5)),) if rng.random() < 0.5 else ()
    labels = rng.integers(0, c, (n, *more))
    ignored = 1 if rng.random() < 0.5 else None
    b = Builder()
    x = b.input("x", "f32", (n, c, *more))
    weight = np.abs(numbers(rng, c)) if rng.random() < 0.5 else None
    how = str(rng.choice(["none", "mean", "sum"]))
    if rng.random() < 0.5:
        y = b.negative_log_likelihood_loss(
            b.log_softmax(x, axis=1), labels, weight, reduction=how, ignore_index=ignored
        )
    else:
        y = b.softmax_cross_entropy_loss(x, labels, weight, reduction=how, ignore_index=ignored)
    graph = b.outputs(y=y)
    return Drawn(graph, feeds_of(rng, graph))


@family
def quantized_conv(rng: Random) -> Drawn:
    """A float input with special numbers, quantized, ahead of integer kernels."""
    group = int(rng.choice([1, 1, 2, 4]))
    per_in, per_out = int(rng.choice([1, 3, 8])), int(rng.choice([4, 16]))
    zero = np.uint8(rng.integers(0, 256))
    b = Builder()
    x = b.input("x", "f32", (1, group * per_in, 7, 6))
    if rng.random() < 0.5:
        x = b.max_pool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    q = b.quantize_linear(x, np.float32(0.03), zero)
    w = rng.integers(-127, 128, (group * per_out, per_in, 3, 3)).astype(np.int8)
    acc = b.conv_integer(q, w, zero, group=group, pads=(1, 1, 1, 1))
    graph = b.outputs(y=b.dequantize_linear(acc, np.float32(0.001)))
    return Drawn(graph, feeds_of(rng, graph))


@family
def rows_of_bytes(rng: Random) -> Drawn:
    """Rows quantized by their own range, and a product of them."""
    m, k, n = (int(rng.choice([1, 3, 16, 37])) for _ in range(3))
    b = Builder()
    x = b.input("x", "f32", (m, k))
    if rng.random() < 0.5:
        made = b.dynamic_quantize_linear(x)  # refuses what is not finite
        graph = b.outputs(**{f"y{i}": y for i, y in enumerate(made)})
        return Drawn(graph, feeds_of(rng, graph), calm=("x",))
    q, scale, zero = b.quantize_rows(x, symmetric=bool(rng.integers(2)))
    w = rng.integers(-127, 128, (k, n)).astype(np.int8)
    y = b.scaled_mat_mul(q, w, scale, np.full(1, 0.01, np.float32), zero)
    graph = b.outputs(y=y, scale=scale)
    return Drawn(graph, feeds_of(rng, graph))


# ---- checking ----------------------------------------------------------------------------------

PIPELINES = ("", "", "O2", "fuse-conv,fuse-matmul")


def check(name: str, seed: int, rounds: int = 5) -> str | None:
    """What differs from the reference, in words: special numbers are put into one program's feeds
    so many times."""
    rng = np.random.default_rng([seed, *name.encode()])
    graph, plain, may, calm = FAMILIES[name](rng)
    pipeline = str(rng.choice(PIPELINES))
    graph = optimize(graph, pipeline) if pipeline else graph
    table, threads = str(rng.choice(NAMES)), int(rng.integers(1, 3))
    program, feeds = compile(graph, isa=table, threads=threads), plain
    where = f"{name}, seed {seed}, {table}, {threads} threads"
    names = {n.name: n.op.name for n in graph.nodes()}
    slow = {names.get(f, f) for f in program.fallbacks} - set(may)
    if slow:
        return f"{where}: in Python: {slow}"
    for turn in range(rounds):
        feeds = {k: v if k in calm else sprinkle(rng, v) for k, v in plain.items()}
        with np.errstate(all="ignore"):
            want, got = interpret(graph, feeds), program(**feeds)
        for key, array in want.items():
            reason = differences(array, got[key])
            if reason is not None:
                return f"{where}, turn {turn}: {key} {reason}"
    reason = poison.check(program, feeds)
    return None if reason is None else f"{where}: {reason}"


def search(seeds: range, names: Sequence[str] = (), rounds: int = 25) -> list[str]:
    """What differs over all seeds and families (or these), said as it is found."""
    found = []
    for name in names or sorted(FAMILIES):
        before, failures = time.perf_counter(), 0
        for seed in seeds:
            reason = check(name, seed, rounds)
            if reason is not None:
                failures += 1
                found.append(reason)
                print(reason, flush=True)
        took = time.perf_counter() - before
        print(f"{name}: {len(seeds)} programs, {failures} differ, {took:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    first, last, *chosen = sys.argv[1:]
    sys.exit(bool(search(range(int(first), int(last)), chosen)))

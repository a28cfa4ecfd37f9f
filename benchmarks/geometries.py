"""Small graphs whose geometry is drawn: every kernel of the CPU backend that writes, or reads, at
computed offsets.

What chooses a kernel's machine code (a window's size where it is unrolled, types, activations) is
drawn from few values, so that thousands of geometries share what is compiled; sizes, strides, pads,
dilations and groups are free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from taut.ir import Builder, DType, Graph, Value, op_class

Array = np.ndarray[Any, Any]


@dataclass
class Draw:
    """Numbers from one generator, and the graph that they become."""

    r: np.random.Generator
    b: Builder = field(default_factory=Builder)
    feeds: dict[str, Array] = field(default_factory=dict)

    def one(self, *choices: Any) -> Any:
        return choices[int(self.r.integers(len(choices)))]

    def number(self, low: int, high: int) -> int:
        """From low to high, both among them."""
        return int(self.r.integers(low, high + 1))

    def numbers(self, count: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(self.number(low, high) for _ in range(count))

    def array(self, shape: Sequence[int], kind: str = "f32") -> Array:
        """Numbers of about 1, or any bytes."""
        if kind[0] == "f":
            return self.r.standard_normal(shape).astype(DType(kind).numpy)
        low, high = DType(kind).bounds
        return self.r.integers(max(low, -1000), min(high, 1000) + 1, shape).astype(
            DType(kind).numpy
        )

    def given(self, array: Array) -> Value:
        """An input with this content."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = array
        return self.b.input(name, DType.of(array), array.shape)

    def input(self, *shape: int, kind: str = "f32") -> Value:
        return self.given(self.array(shape, kind))

    def either(self, array: Array) -> Value:
        """A constant or an input."""
        return self.given(array) if self.r.random() < 0.3 else self.b.constant(array)

    def image(self, *shape: int, kind: str = "f32") -> Value:
        """An input, or what an image op made of one: in planes or in pixels."""
        x = self.input(*shape, kind=kind)
        if kind == "f32" and self.r.random() < 0.4:
            return self.b.conv(x, self.array((shape[1], shape[1], *(1,) * (len(shape) - 2))) / 4)
        return x

    def window(self, rank: int, kernel: Sequence[int], sizes: Sequence[int]) -> dict[str, Any]:
        """Strides, dilations and pads under which at least one window fits."""
        strides = self.numbers(rank, 1, 3)
        dilations = self.numbers(rank, 1, self.one(1, 1, 3))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
        how = self.one("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
        made: dict[str, Any] = {"strides": strides, "dilations": dilations}
        if how != "NOTSET" and (how != "VALID" or all(n >= e for n, e in zip(sizes, reach))):
            return made | {"auto_pad": how}
        pads = [self.number(0, 4) for _ in range(2 * rank)]
        for k, (n, e) in enumerate(zip(sizes, reach)):
            pads[k] += max(0, e - n - pads[k] - pads[k + rank])
        return made | {"pads": tuple(pads)}


CHANNELS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 24, 33, 48)
ACTIVATIONS = (("", ()), ("relu", ()), ("clip", (-0.5, 0.5)), ("silu", ()))


def _sizes(d: Draw, rank: int) -> tuple[int, ...]:
    return d.numbers(rank, 1, d.one(4, 9, 17))


def _groups(d: Draw) -> tuple[int, int, int]:
    """(group, channels, filters): dense, depthwise, or in groups."""
    how = d.one("dense", "dense", "depthwise", "groups")
    if how == "depthwise":
        c = d.one(2, 3, 8, 16, 17, 32, 40)
        return c, c, c
    group = 1 if how == "dense" else d.one(2, 3, 4)
    return group, group * d.one(*CHANNELS[:8]), group * d.one(*CHANNELS)


def conv(d: Draw) -> dict[str, Value]:
    rank = d.one(1, 2, 2)
    group, c, o = _groups(d)
    kernel, sizes = (d.one(1, 2, 3),) * rank, _sizes(d, rank)
    n = d.number(1, 3)
    x, at = d.image(n, c, *sizes), d.window(rank, kernel, sizes)
    w = d.either(d.array((o, c // group, *kernel)) / 4)
    bias = d.either(d.array((o,))) if d.one(True, False) else None
    name, params = d.one(*ACTIVATIONS)
    y = d.b.conv(x, w, bias, group=group, **at)
    if name == "":
        return {"y": y}
    side = d.image(*y.type.static_shape) if d.one(True, False) else None
    last = d.one(True, False)
    z = d.b.fused_conv(x, w, bias, side, group=group, activation={"silu": "swish"}.get(name, name),
                       params=params, residual_last=last and side is not None, **at)  # fmt: skip
    return {"z": z}


def shuffle(d: Draw) -> dict[str, Value]:
    """A convolution in groups whose channels are dealt out in turn."""
    rank, group = d.one(1, 2, 2), d.one(2, 3, 4)
    per, sizes = d.one(5, 16, 17, 24), _sizes(d, rank)
    x = d.image(d.number(1, 2), group * d.one(1, 3, 16), *sizes)
    w = d.array((group * per, x.type.static_shape[1] // group, *(1,) * rank))
    y = d.b.conv(x, w, group=group)
    n, c, *rest = y.type.static_shape
    parted = d.b.reshape(y, np.array([n, group, per, *rest]))
    turned = d.b.transpose(parted, perm=(0, 2, 1, *range(3, rank + 3)))
    return {"y": d.b.relu(d.b.reshape(turned, np.array([n, c, *rest])))}


def conv_transpose(d: Draw) -> dict[str, Value]:
    rank, group = d.one(1, 2, 2), d.one(1, 1, 2, 3)
    kernel, sizes = d.numbers(rank, 1, 4), d.numbers(rank, 1, 6)
    strides, dilations = d.numbers(rank, 1, 4), d.numbers(rank, 1, d.one(1, 3))
    full = [(n - 1) * s + (k - 1) * e + 1 for n, s, k, e in zip(sizes, strides, kernel, dilations)]
    at: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    how = d.one("NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if how == "NOTSET":
        before = [d.number(0, min(n - 1, 3)) for n in full]
        at["pads"] = (*before, *(d.number(0, min(n - 1 - p, 3)) for n, p in zip(full, before)))
    else:
        at["auto_pad"] = how
    if d.one(True, False):
        at["output_padding"] = tuple(d.number(0, max(s, e) - 1) for s, e in zip(strides, dilations))
    if d.one(True, False, False):
        at["output_shape"] = tuple(max(1, n + d.number(-4, 6)) for n in full)
    c, o = group * d.one(1, 2, 3, 8), d.one(1, 2, 3, 16, 17)
    w = d.either(d.array((c, o, *kernel)) / 4)
    bias = d.either(d.array((group * o,))) if d.one(True, False) else None
    return {"y": d.b.conv_transpose(d.image(d.number(1, 2), c, *sizes), w, bias, **at)}


def conv_gradients(d: Draw) -> dict[str, Value]:
    rank = d.one(1, 2, 2)
    group, c, o = _groups(d)
    kernel, sizes = (d.one(1, 2, 3),) * rank, _sizes(d, rank)
    at, n = d.window(rank, kernel, sizes), d.number(1, 3)
    one: Any = op_class("conv")(group=group, **at)
    out = one.window_dims(sizes, kernel)
    x, dy = d.image(n, c, *sizes), d.image(n, o, *out)
    op: Any = op_class("conv_weight_gradient")(group=group, kernel_shape=kernel, **at)
    made = {"dw": d.b.add_op(op, x, dy)}
    window = one.window(sizes, kernel)
    rest = [s - ((m - 1) * t + e - a - b) for s, m, t, e, a, b in
            zip(sizes, out, window.strides, window.extent, window.begin, window.end)]  # fmt: skip
    if all(0 <= v < max(s, t) for v, s, t in zip(rest, window.strides, window.dilations)):
        w = d.either(d.array((o, c // group, *kernel)) / 4)
        made["dx"] = d.b.conv_transpose(
            dy, w, group=group, strides=window.strides, dilations=window.dilations,
            pads=window.pads, output_padding=tuple(rest),
        )  # fmt: skip
    return made


def pool(d: Draw) -> dict[str, Value]:
    rank = d.one(1, 2, 2)
    kernel, sizes = d.numbers(rank, 1, 4), _sizes(d, rank)
    at, shape = d.window(rank, kernel, sizes), (d.number(1, 3), d.one(*CHANNELS), *sizes)
    at |= {"kernel_shape": kernel, "ceil_mode": d.one(True, False)}
    if "pads" in at:  # no window lies in the border alone
        reach = [(k - 1) * e + 1 for k, e in zip(kernel, at["dilations"])]
        at["pads"] = tuple(min(p, k - 1) for p, k in zip(at["pads"], (*kernel, *kernel)))
        if any(n + a + b < e for n, a, b, e in
               zip(sizes, at["pads"], at["pads"][rank:], reach)):  # fmt: skip
            del at["pads"], at["dilations"]
            at["kernel_shape"] = (1,) * rank
    kind = d.one("f32", "f32", "u8")
    x = d.image(*shape, kind=kind)
    y = d.b.max_pool(x, **at)
    made = {"y": y}
    if kind == "u8":
        return made
    made["z"] = d.b.average_pool(x, count_include_pad=d.one(True, False), **at)
    dy = d.image(*y.type.static_shape)
    grad: Any = op_class("max_pool_gradient")(**at)
    made["dx"] = d.b.add_op(grad, x, dy)
    back: Any = op_class("average_pool_gradient")(**at)
    made["dz"] = d.b.add_op(back, dy, d.b.constant(np.array(shape, np.int64)))
    if rank == 2:
        made["g"] = d.b.global_average_pool(x)
    return made


def resize(d: Draw) -> dict[str, Value]:
    rank = d.one(1, 2, 2, 3)
    sizes = _sizes(d, rank)
    x = d.image(d.number(1, 2), d.one(1, 3, 16, 17), *sizes)
    mode = d.one("nearest", "linear", "cubic")
    at = {"mode": mode, "coordinate_transformation_mode":
          d.one("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")}  # fmt: skip
    if mode == "nearest":
        at["nearest_mode"] = d.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    wanted = np.array([*x.type.static_shape[:2], *d.numbers(rank, 1, 20)], np.int64)
    return {"y": d.b.resize(x, None, None, wanted, **at)}


def grid_sample(d: Draw) -> dict[str, Value]:
    n, sizes = d.number(1, 2), _sizes(d, 2)
    x = d.image(n, d.one(1, 3, 16), *sizes)
    grid = d.given(d.array((n, *d.numbers(2, 1, 7), 2)) * np.float32(1.3))
    return {"y": d.b.grid_sample(x, grid, padding_mode=d.one("zeros", "border", "reflection"))}


def pad(d: Draw) -> dict[str, Value]:
    rank = d.number(1, 4)
    shape = d.numbers(rank, 1, 8)
    mode = d.one("constant", "constant", "edge", "reflect", "wrap")
    kind = d.one("f32", "u8", "i64")
    x = d.image(*shape, kind=kind) if rank > 2 else d.input(*shape, kind=kind)
    amounts = [d.number(-min(1, n - 1), n - 1 if mode != "constant" else 5)
               for n in (*shape, *shape)]  # fmt: skip
    for k, n in enumerate(shape):
        if n + amounts[k] + amounts[k + rank] < 1 or (min(amounts[k], amounts[k + rank]) < 0 \
                and n < 3):  # fmt: skip
            amounts[k] = amounts[k + rank] = 0
    y = d.b.pad(x, np.array(amounts, np.int64), None, mode=mode)
    repeats = d.numbers(rank, 1, 3)
    return {"y": y, "z": d.b.tile(x, np.array(repeats, np.int64))}


def moves(d: Draw) -> dict[str, Value]:
    """Views, copies, joins: slices with steps, transposes, broadcasts."""
    rank = d.number(2, 5)
    shape = d.numbers(rank, 1, 7)
    kind = d.one("f32", "u8", "i64", "f64")
    x = d.image(*shape, kind=kind) if 3 <= rank <= 4 else d.input(*shape, kind=kind)
    order = tuple(int(k) for k in d.r.permutation(rank))
    y = d.b.transpose(x, perm=order)
    axis = d.number(0, rank - 1)
    n = y.type.static_shape[axis]
    step, start = d.one(1, 2, -1), d.number(0, n - 1)
    ends = n if step > 0 else -n - 1
    z = d.b.slice(y, np.array([start]), np.array([ends]), np.array([axis]), np.array([step]))
    at = d.number(0, rank - 1)
    made = {"y": d.b.concat(x, x, axis=at), "z": d.b.concat(z, z, axis=axis), "n": d.b.neg(y)
            if kind != "u8" else y}  # fmt: skip
    size = d.one(1, 2)
    block = d.input(d.number(1, 2), 4 * d.number(1, 5), size * 2, 2)
    made["b"] = d.b.depth_to_space(block, blocksize=2, mode=d.one("DCR", "CRD"))
    made["s"] = d.b.space_to_depth(block, blocksize=2)
    return made


def _indices(d: Draw, n: int, shape: Sequence[int], kind: str) -> Array:
    """Mostly indices of n elements, some of them from the end; now and then one outside."""
    low, high = (-n, n - 1) if d.r.random() < 0.85 else (-n - 3, n + 3)
    return d.r.integers(low, high + 1, shape).astype(DType(kind).numpy)


def gather(d: Draw) -> dict[str, Value]:
    rank = d.number(1, 4)
    shape, axis = d.numbers(rank, 1, 7), d.number(0, rank - 1)
    x, kind = d.input(*shape, kind=d.one("f32", "u8")), d.one("i64", "i32")
    at = d.given(_indices(d, shape[axis], d.numbers(d.number(0, 2), 1, 5), kind))
    known = np.clip(_indices(d, shape[axis], (3,), kind), -shape[axis], shape[axis] - 1)
    same = d.given(_indices(d, shape[axis], shape, kind))
    return {"y": d.b.gather(x, at, axis=axis), "k": d.b.gather(x, known, axis=axis),
            "e": d.b.gather_elements(x, same, axis=axis)}  # fmt: skip


def scatter(d: Draw) -> dict[str, Value]:
    rank = d.number(1, 4)
    shape = d.numbers(rank, 1, 7)
    x, kind = d.input(*shape), d.one("i64", "i32")
    how = d.one("none", "add")
    if d.one(True, False):
        depth, rows = d.number(1, rank), d.number(1, 6)
        places = np.stack([_indices(d, n, (rows,), "i64") for n in shape[:depth]], -1)
        updates = d.input(rows, *shape[depth:])
        return {"y": d.b.scatter_nd(x, d.given(places), updates, reduction=how)}
    axis = d.number(0, rank - 1)
    same = [*shape]
    same[axis] = d.number(1, shape[axis] + 2)
    at = d.given(_indices(d, shape[axis], same, kind))
    return {"y": d.b.scatter_elements(x, at, d.input(*same), axis=axis, reduction=how)}


def losses(d: Draw) -> dict[str, Value]:
    n, classes = d.number(1, 4), d.number(1, 9)
    rest = d.numbers(d.number(0, 2), 1, 4)
    high = classes - 1 if d.r.random() < 0.85 else classes + 2
    labels = d.given(d.r.integers(0, high + 1, (n, *rest)).astype(np.int64))
    weight = d.b.constant(np.abs(d.array((classes,)))) if d.one(True, False) else None
    y = d.b.softmax_cross_entropy_loss(d.input(n, classes, *rest), labels, weight,
                                       reduction=d.one("none", "sum", "mean"))  # fmt: skip
    return {"y": y[0] if isinstance(y, tuple) else y}


def attention(d: Draw) -> dict[str, Value]:
    batch, groups = d.number(1, 2), d.number(1, 2)
    heads = groups * d.number(1, 2)
    length, size = (d.one(1, 2, 5, 14, 15, 33, 65, 130, 150) for _ in range(2))
    depth, width = d.one(1, 5, 16, 33), d.one(1, 5, 32, 33)
    flat = d.one(True, False)

    def operand(count: int, rows: int, wide: int) -> Value:
        return d.input(*((batch, rows, count * wide) if flat else (batch, count, rows, wide)))

    past = [d.input(batch, groups, 3, w) for w in (depth, width)] if d.one(True, False, False) \
        else [None, None]  # fmt: skip
    total = size + (3 if past[0] is not None else 0)
    mask = None
    if d.one(True, False):
        front = d.one((), (length,), (batch, 1, length), (batch, heads, length))
        mask = d.input(*front, d.one(total, max(1, total - 2)))
    y = d.b.attention(
        operand(heads, length, depth), operand(groups, size, depth), operand(groups, size, width),
        mask, *past, is_causal=d.one(True, False), q_num_heads=heads if flat else None,
        kv_num_heads=groups if flat else None,
    )  # fmt: skip
    return {"y": y}


def scaled_attention(d: Draw) -> dict[str, Value]:
    batch, groups = d.number(1, 2), d.number(1, 2)
    heads = groups * d.number(1, 2)
    length, size = (d.one(1, 2, 5, 15, 33, 130) for _ in range(2))
    depth, width = d.one(4, 5, 16, 33), d.one(1, 5, 32, 33)
    parts = [d.b.quantize_rows(d.input(batch, rows, count, wide), symmetric=True) for
             rows, count, wide in ((length, heads, depth), (size, groups, depth),
                                   (size, groups, width))]  # fmt: skip
    mask = d.input(length, size) if d.one(True, False) else None
    y = d.b.scaled_attention(*(p[0] for p in parts), *(p[1] for p in parts), mask,
                             is_causal=d.one(True, False))  # fmt: skip
    return {"y": y}


def products(d: Draw) -> dict[str, Value]:
    m, k, n = (d.one(1, 2, 3, 7, 15, 16, 17, 33, 40) for _ in range(3))
    lead = d.one((), (2,), (2, 3))
    a = d.array((*lead, m, k))
    b = d.array((*d.one((), lead), k, n))
    kind = d.one("plain", "turned", "fused", "f64", "heads")
    if kind == "plain":
        return {"y": d.b.mat_mul(d.given(a), d.either(b))}
    if kind == "f64":
        return {"y": d.b.mat_mul(d.given(a.astype(np.float64)), d.given(b.astype(np.float64)))}
    if kind == "heads":
        x = d.b.transpose(d.input(2, m, 3, k), perm=(0, 2, 1, 3))
        return {"y": d.b.mat_mul(x, d.b.transpose(d.input(2, n, 3, k), perm=(0, 2, 3, 1)))}
    if kind == "turned":
        right = d.either(d.array((n, k)))
        c = d.either(d.array((n,))) if d.one(True, False) else None
        return {"y": d.b.gemm(d.given(d.array((k, m))), right, c, transA=True, transB=True)}
    bias = d.b.constant(d.array((n,)))
    side = d.input(*lead, m, n) if d.one(True, False) else None
    return {"y": d.b.fused_mat_mul(d.given(a), d.either(b), bias, side,
                                   activation=d.one("", "relu"))}  # fmt: skip


def integer_products(d: Draw) -> dict[str, Value]:
    m, k, n = (d.one(1, 2, 3, 5, 7, 15, 16, 17, 33, 40) for _ in range(3))
    lead = d.one((), (2,))
    kind = d.one("known", "computed", "rows", "dynamic")
    if kind == "known":
        a, w = d.input(*lead, m, k, kind="u8"), d.array((k, n), "i8")
        return {"y": _rescaled(d, d.b.mat_mul_integer(a, w, np.uint8(d.number(0, 255))), k, -1)}
    if kind == "computed":
        a, w = d.input(*lead, m, k, kind="u8"), d.input(k, n, kind="u8")
        return {"y": d.b.mat_mul_integer(a, w, np.uint8(3), np.uint8(d.number(0, 255)))}
    if kind == "dynamic":
        q, s, z = d.b.dynamic_quantize_linear(d.input(*lead, m, k))
        return {"q": q, "s": s, "z": z}
    q, s, z = d.b.quantize_rows(d.input(*lead, m, k), symmetric=d.one(True, False))
    w = d.array((k, n), "i8")
    factor = np.abs(d.array((n,))) / 100
    y = d.b.scaled_mat_mul(q, d.b.constant(w), s, d.b.constant(factor.astype(np.float32)), z)
    return {"y": y}


def _rescaled(d: Draw, acc: Value, terms: int, axis: int) -> Value:
    """An accumulator as bytes."""
    count = acc.type.static_shape[axis]
    scale = 2.0**30 / (300 * math.sqrt(max(terms, 1)) * 60)
    m = (d.r.uniform(0.5, 1.5, count) * scale).astype(np.int32)
    m = m if d.one(True, False) else m[0].reshape(())
    return d.b.requantize(acc, m, shift=30, zero_points=(0,), zero_point=d.number(0, 255),
                          dtype=DType.u8, axis=axis % acc.type.rank)  # fmt: skip


def integer_conv(d: Draw) -> dict[str, Value]:
    rank = d.one(1, 2, 2)
    group, c, o = _groups(d)
    kernel, sizes = (d.one(1, 2, 3),) * rank, _sizes(d, rank)
    at = d.window(rank, kernel, sizes)
    x = d.input(d.number(1, 3), c, *sizes, kind=d.one("u8", "u8", "i8"))
    zero = d.array((), x.type.dtype.value)
    acc = d.b.conv_integer(x, d.array((o, c // group, *kernel), "i8"), zero,
                           None, d.array((o,), "i32"), group=group, **at)  # fmt: skip
    if d.one(True, False, False):
        return {"acc": acc}
    y = _rescaled(d, acc, c // group * math.prod(kernel), 1)
    return {"y": d.b.lookup(y, d.array((256,), "u8"))} if d.one(True, False) else {"y": y}


def integer_maps(d: Draw) -> dict[str, Value]:
    shape = (d.number(1, 2), d.one(*CHANNELS), *d.numbers(2, 1, 9))
    x = d.b.quantize_linear(d.input(*shape), np.float32(0.05), np.uint8(d.number(0, 255)))
    kind = d.one("real", "pixels", "product", "table", "sums")
    if kind in ("real", "pixels"):
        x = d.b.max_pool(x, kernel_shape=(1, 1), strides=d.numbers(2, 1, 2))
        real = d.b.dequantize_linear(x, np.float32(0.05), np.uint8(7))
        return {"y": real if kind == "real" else d.b.conv(real, d.array((3, shape[1], 1, 1)))}
    if kind == "product":
        acc = d.b.mul_integer(x, x, a_zero_point=3, b_zero_point=250)
        return {"y": _rescaled(d, acc, 40000, 1)}
    if kind == "table":
        return {"y": d.b.lookup(x, d.array((d.one(256, 100),), "u8"))}
    acc = d.b.sum_pool_integer(x, kernel_shape=d.numbers(2, 1, min(shape[2:])), x_zero_point=9)
    return {"y": _rescaled(d, acc, 16, 1)}


def recurrent(d: Draw) -> dict[str, Value]:
    cell, ways = d.one("rnn", "gru", "lstm"), d.number(1, 2)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    time, batch, size, hidden = d.number(1, 5), d.number(1, 9), d.number(1, 9), d.one(1, 5, 16, 33)
    layout = d.number(0, 1)
    x = d.input(*((batch, time, size) if layout else (time, batch, size)))
    weights = [d.array((ways, gates * hidden, n)) / 4 for n in (size, hidden)]
    lengths = None
    if d.one(True, False):
        high = time if d.r.random() < 0.8 else time + 4
        lengths = d.given(d.r.integers(0, high + 1, batch).astype(np.int32))
    h = d.input(*((batch, ways, hidden) if layout else (ways, batch, hidden))) \
        if d.one(True, False) else None  # fmt: skip
    outs = 3 if cell == "lstm" else 2
    made = getattr(d.b, cell)(
        x, *weights, d.array((ways, 2 * gates * hidden)) if d.one(True, False) else None, lengths,
        h, hidden_size=hidden, layout=layout, outputs=outs,
        direction="bidirectional" if ways == 2 else d.one("forward", "reverse"),
    )  # fmt: skip
    return {f"y{i}": v for i, v in enumerate(made)}


def rows(d: Draw) -> dict[str, Value]:
    """Folds along axes, softmax, normalization, extremes."""
    rank = d.number(1, 4)
    shape, axis = d.numbers(rank, 1, d.one(5, 20)), d.number(0, rank - 1)
    x = d.image(*shape) if rank > 2 else d.input(*shape)
    made = {
        "s": d.b.softmax(x, axis=axis),
        "r": d.b.reduce_sum(x, np.array([axis]), keepdims=d.one(True, False)),
        "m": d.b.reduce_max(x, keepdims=False),
        "a": d.b.arg_max(x, axis=axis),
        "l": d.b.layer_normalization(x, d.array(shape[axis:]), axis=axis),
    }
    return {k: made[k] for k in d.r.permutation(list(made))[:2]}


FAMILIES: dict[str, Callable[[Draw], dict[str, Value]]] = {
    f.__name__: f for f in (
        conv, shuffle, conv_transpose, conv_gradients, pool, resize, grid_sample, pad, moves,
        gather, scatter, losses, attention, scaled_attention, products, integer_products,
        integer_conv, integer_maps, recurrent, rows,
    )
}  # fmt: skip


def drawn(seed: int, number: int) -> tuple[str, Graph, dict[str, Array]]:
    """(family, graph, inputs) of a number; families take turns."""
    name = list(FAMILIES)[number % len(FAMILIES)]
    d = Draw(np.random.default_rng((seed, number)))
    outputs = FAMILIES[name](d)
    return name, d.b.outputs(**outputs), d.feeds

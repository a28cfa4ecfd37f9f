"""Ops that ONNX does not name: they are drawn as graphs and held against the reference alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from taut.ir import DType, op_class

from ..sketch import Misfit, Ref, Sketch
from .base import FLAG, axis_of, recipe
from .linear import _matrices
from .windows import batch, channels_of, kernel_of, layout, outer_size, space_of

_WORDS = (DType.u8, DType.i8, DType.u16, DType.i16)
_ACTIVATIONS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("relu", ()), ("", ()), ("clip", (0.0, 6.0)), ("leaky_relu", (0.1,)), ("hard_swish", ()),
    ("sigmoid", ()), ("gelu", ()), ("gelu_tanh", ()), ("swish", ()), ("tanh", ()), ("elu", (0.5,)),
    ("hard_sigmoid", (0.2, 0.5)), ("softplus", ()), ("mish", ()),
)  # fmt: skip


def _f32(d: Sketch, shape: Any, level: str = "mild", constant: int = 40) -> Ref:
    return d.given(DType.f32, tuple(shape), level, constant)


def _positive(d: Sketch, *shape: int) -> Ref:
    made = d.given(DType.f32, shape, "tame", 60)
    assert made.array is not None
    made.array = np.abs(made.array) * np.float32(0.1) + np.float32(0.01)
    return made


def _activation(d: Sketch) -> dict[str, Any]:
    name, params = d.choices.one(_ACTIVATIONS)
    return {"activation": name, "params": params} if name else {}


@recipe("optimization_barrier")
def barrier(d: Sketch) -> None:
    d.emit([d.given(d.choices.one(list(DType)), d.shape(), constant=10)])


@recipe("scale_gradient")
def scale_gradient(d: Sketch) -> None:
    d.emit([_f32(d, d.shape(), constant=10), _f32(d, ())])


@recipe("lookup")
def lookup(d: Sketch) -> None:
    dtype = d.choices.one(_WORDS)
    length = d.choices.one((3, 1, 50, 256))
    low, high = dtype.bounds
    x = d.given(dtype, d.shape(), constant=5)
    given = {}
    if d.maybe(60):
        given["low"] = max(low, min(d.choices.one((0, -20, 5)), high - length + 1))
    d.emit([x, d.given(d.choices.one(_WORDS), (length,), constant=80)], given)


@recipe("mul_integer")
def mul_integer(d: Sketch) -> None:
    a = d.given(d.choices.one(_WORDS), d.shape(), constant=10)
    b = d.given(d.choices.one(_WORDS), d.broadcasts(a.shape))
    zeros = [d.choices.between(*x.dtype.bounds) if d.maybe(50) else 0 for x in (a, b)]
    d.emit([a, b], {"a_zero_point": zeros[0], "b_zero_point": zeros[1]})


@recipe("requantize")
def requantize(d: Sketch) -> None:
    shape = d.shape((3, 2, 4, 1))
    axis = axis_of(d, len(shape))
    pairs, zeros = [], []
    for i in range(d.choices.one((1, 1, 2, 2))):
        dtype = d.choices.one((DType.i32, *_WORDS))
        x = d.given(dtype, shape if i == 0 else d.broadcasts(shape), constant=5)
        most = d.choices.one(((1 << 31) - 1, 1 << 20, 99))
        count = (shape[axis],) if d.maybe(50) else ()
        generator = np.random.default_rng(d.choices.below(1 << 16))
        low = 0 if dtype is DType.i32 else -most
        factors = generator.integers(low, most, count, endpoint=True).astype(np.int32)
        pairs += [x, d.put(factors, 90)]
        zeros.append(0 if dtype is DType.i32 else d.choices.between(*dtype.bounds))
    result = d.choices.one(_WORDS)
    given: dict[str, Any] = {"dtype": result, "axis": axis,
                             "shift": d.choices.one((31, 0, 1, 20, 40, 44)),
                             "zero_point": d.choices.between(*result.bounds)}  # fmt: skip
    if any(zeros) or d.maybe(30):
        given["zero_points"] = tuple(zeros)
    if d.maybe(40):
        lo = d.choices.between(*result.bounds)
        given |= {"lo": lo, "hi": d.choices.between(lo, result.bounds[1])}
    if d.maybe(50):
        given["rounding"] = d.choices.one(("half_even", "half_up", "floor"))
    d.emit(pairs, given)


@recipe("sum_pool_integer")
def sum_pool(d: Sketch) -> None:
    rank = d.choices.one((2, 1, 3))
    dtype = d.choices.one(_WORDS)
    x = d.given(dtype, (batch(d), d.choices.one((1, 2, 3, 8)), *space_of(d, rank)), constant=5)
    given: dict[str, Any] = {}
    if d.maybe(70):
        kernel = kernel_of(d, rank)
        given = layout(d, kernel, pads_below=True) | {"kernel_shape": kernel}
    if d.maybe(60):
        given["x_zero_point"] = d.choices.between(*dtype.bounds)
    d.emit([x], given)


@recipe("fused_conv", "fused_conv_transpose")
def fused_conv(d: Sketch) -> None:
    groups, each, out = channels_of(d)
    rank = d.choices.one((2, 1, 3))
    x = _f32(d, (batch(d), groups * each, *space_of(d, rank)), constant=5)
    kernel = kernel_of(d, rank)
    given = layout(d, kernel) | {"group": groups}
    turned = d.op == "fused_conv_transpose"
    if turned:
        given |= outer_size(d, x.shape[2:], kernel, given)
    shape = (groups * each, out, *kernel) if turned else (groups * out, each, *kernel)
    weight = _f32(d, shape, constant=85)
    given |= _activation(d)
    results = _shape(d.op, given, x.shape, shape)
    residual = _f32(d, results, constant=10) if d.maybe(50) else None
    slope = None
    if d.maybe(20):
        given |= {"activation": "prelu", "params": ()}
        slope = _f32(d, (groups * out,) if d.maybe(60) else (1,), "tame", 90)
    if residual is not None and d.maybe(40):
        given["residual_last"] = True
    bias = _f32(d, (groups * out,), constant=85) if d.maybe(60) else None
    d.emit([x, weight, bias, residual, slope], given)


def _shape(op: str, given: dict[str, Any], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that an op gives to operands of these shapes."""
    from taut.ir import Abstract, TensorType

    made: Any = op_class(op)(**given).infer(*(Abstract(TensorType(DType.f32, s)) for s in shapes))
    return made.static_shape


@recipe("fused_mat_mul")
def fused_mat_mul(d: Sketch) -> None:
    a, b = _matrices(d)
    if len(a) < 2 or len(b) < 2:
        raise Misfit("vectors")
    given: dict[str, Any] = {"transA": bool(d.choices.below(2)), "transB": bool(d.choices.below(2)),
                             "alpha": d.choices.one((1.0, 0.5, 2.0)), **_activation(d)}  # fmt: skip
    stack = np.broadcast_shapes(a[:-2], b[:-2])
    whole = (*stack, a[-2], b[-1])
    first = (*a[:-2], a[-1], a[-2]) if given["transA"] else a
    second = (*b[:-2], b[-1], b[-2]) if given["transB"] else b
    x, y = _f32(d, first, constant=5), _f32(d, second, constant=70)
    bias = _f32(d, (b[-1],), constant=70) if d.maybe(50) else None
    residual = _f32(d, whole if d.maybe(70) else d.broadcasts(whole)) if d.maybe(40) else None
    d.emit([x, y, bias, residual], given)


@recipe("quantize_rows")
def quantize_rows(d: Sketch) -> None:
    d.emit([_f32(d, d.shape((2, 1, 3)), "mild", 5)], {"symmetric": bool(d.choices.below(2))})


@recipe("scaled_mat_mul")
def scaled_mat_mul(d: Sketch) -> None:
    m, k, n = d.size(), d.size(), d.size()
    front = tuple(d.choices.one((2, 1)) for _ in range(d.choices.one((0, 1))))
    a, b = (*front, m, k), (k, n)
    kinds = (DType.u8, DType.i8)
    x = d.given(d.choices.one(kinds), a, constant=5)
    y = d.given(d.choices.one(kinds), b, constant=70)
    scales = [_positive(d, *front, m, 1) if d.maybe(50) else _positive(d),
              _positive(d, n) if d.maybe(60) else _positive(d)]  # fmt: skip
    zeros = [d.given(x.dtype, (*front, m, 1) if d.maybe(50) else ()) if d.maybe(50) else None,
             d.given(y.dtype, (n,) if d.maybe(50) else ()) if d.maybe(40) else None]  # fmt: skip
    bias = _f32(d, (n,), "tame") if d.maybe(50) else None
    residual = _f32(d, (*front, m, n), "tame") if d.maybe(30) else None
    d.emit([x, y, *scales, *zeros, bias, residual], _activation(d))


@recipe("scaled_attention")
def scaled_attention(d: Sketch) -> None:
    b, group, kv = d.choices.one((1, 2)), d.choices.one((1, 2)), d.choices.one((1, 2))
    heads, wide, out = group * kv, d.choices.one((8, 4, 3)), d.choices.one((6, 1, 8))
    q_len, k_len = d.choices.one((3, 1, 7)), d.choices.one((5, 1, 20))
    shapes = [(b, q_len, heads, wide), (b, k_len, kv, wide), (b, k_len, kv, out)]
    words = [d.given(DType.u8, s, constant=5) for s in shapes]
    scales = [_positive(d, *s[:-1], 1) for s in shapes]
    given: dict[str, Any] = {}
    if d.maybe(50):
        given["scale"] = d.choices.one((0.3, 1e-3, 1.0))
    if d.maybe(40):
        given["is_causal"] = True
    mask = _f32(d, (b, 1, 1, k_len), "tame") if d.maybe(40) else None
    d.emit([*words, *scales, mask], given)


@recipe("round_bias")
def round_bias(d: Sketch) -> None:
    n = d.choices.one((5, 1, 3))
    scale = _positive(d, *((n,) if d.maybe(40) else ()))
    operands: list[Ref | None] = [_f32(d, (n,), "tame"), scale]
    if d.maybe(50):
        operands += [_f32(d, (n,), "tame"), _f32(d, (n,), "tame"), _positive(d, n)]
        operands.append(_f32(d, (n,), "tame") if d.maybe(50) else None)
    d.emit(operands, {"epsilon": d.choices.one((1e-5, 1e-3))})


# ---- gradients -----------------------------------------------------------------------------------


@recipe("conv_weight_gradient")
def conv_weight_gradient(d: Sketch) -> None:
    groups, each, out = channels_of(d)
    rank = d.choices.one((2, 1, 3))
    x = _f32(d, (batch(d) or 1, groups * each, *space_of(d, rank)), "tame", 5)
    kernel = kernel_of(d, rank)
    given = layout(d, kernel) | {"group": groups}
    results = _shape("conv", given, x.shape, (groups * out, each, *kernel))
    d.emit([x, _f32(d, results, "tame", 10)], {**given, "kernel_shape": kernel})


@recipe("max_pool_gradient", "average_pool_gradient")
def pool_gradient(d: Sketch) -> None:
    rank = d.choices.one((2, 1, 3))
    shape = (batch(d) or 1, d.choices.one((1, 2, 3)), *space_of(d, rank))
    kernel = kernel_of(d, rank)
    given = layout(d, kernel, pads_below=True) | {"kernel_shape": kernel}
    if d.maybe(30):
        given["ceil_mode"] = True
    dy = _f32(d, _shape("max_pool", given, shape), "tame", 5)
    if d.op == "max_pool_gradient":
        d.emit([_f32(d, shape, "tame", 5), dy], given)
        return
    for name in ("count_include_pad", "total"):
        if d.maybe(25):
            given[name] = True
            break
    d.emit([dy, d.ints(shape)], given)


@recipe("resize_gradient")
def resize_gradient(d: Sketch) -> None:
    space = tuple(d.choices.one((5, 2, 1, 7)) for _ in range(d.choices.one((2, 1))))
    sizes = tuple(d.choices.one((10, 3, 1, 6)) for _ in space)
    given = {"mode": d.choices.one(("nearest", "linear", "cubic"))}
    if d.maybe(60):
        given["coordinate_transformation_mode"] = d.choices.one(
            ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"))  # fmt: skip
    dy = _f32(d, (1, 2, *sizes), "tame", 5)
    d.emit([dy, d.ints((1, 2, *space)), None, None, d.ints((1, 2, *sizes))], given)


@recipe("grid_sample_gradient")
def grid_sample_gradient(d: Sketch) -> None:
    n, c, space = d.choices.one((1, 2)), d.choices.one((1, 3)), (d.choices.one((5, 1, 3)), 4)
    out = (d.choices.one((3, 1)), 2)
    given: dict[str, Any] = {
        "mode": d.choices.one(("linear", "nearest", "cubic")),
        "padding_mode": d.choices.one(("zeros", "border", "reflection")),
        "align_corners": bool(d.choices.one(FLAG)),
    }
    grid = d.given(DType.f32, (n, *out, 2), "tame", 10, d.choices.one((0.7, 1.5)))
    d.emit([_f32(d, (n, c, *out), "tame", 5), d.ints((n, c, *space)), grid], given)

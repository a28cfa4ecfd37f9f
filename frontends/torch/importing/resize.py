"""Interpolation: the sizes are given, or factors, which then also place the samples (but not where
corners are aligned).

PyTorch reads place p of an axis of m elements, made of one of n, in single precision at

    nearest         floor(r p)                      r = 1 / factor, n / m where no factor is given
    nearest-exact   floor(r (p + 1/2))
    others          r (p + 1/2) - 1/2
    align_corners   p (n - 1) / (m - 1)

and m is floor(n * factor) in double precision. Linear ways hand an axis on as it is where m is n, a
factor or not; so does nearest on images, which there also reads p / 2 where m is 2 n. The IR's
`resize` divides by the factor and computes m in single precision, as ONNX has it. Where that comes
to the same it is used, else the elements are read by index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from ....ir import DType, UnsupportedError, Value
from ....ir.ops.resize import Resize
from ..call import Call, Dimension, Size, aten, rank

Sizes = Sequence[Dimension] | None
Factors = Sequence[float | None] | None

_CUBIC = -0.75


class Axis(NamedTuple):
    """One axis to be resized, from n to m elements; the factor places samples."""

    at: int
    n: Dimension
    m: Dimension
    factor: float | None


def resize(c: Call, x: Value, sizes: Sizes, factors: Factors, op: Resize) -> Value:
    count = rank(x) - 2
    if factors is not None and not all(isinstance(f, int | float | None) for f in factors):
        raise UnsupportedError("a factor that varies with the inputs' sizes is not supported")
    if op.coordinate_transformation_mode == "align_corners" and factors and sizes is None:
        sizes, factors = [_made(c, c.size(x, 2 + i), f) for i, f in enumerate(factors)], None
    given = list(factors) if factors is not None else [None] * count
    if sizes is None and None in given:
        raise UnsupportedError("is given neither sizes nor factors")
    axes = []
    for i, factor in enumerate(given):
        n = c.size(x, 2 + i)
        m = sizes[i] if sizes is not None else _made(c, n, cast(float, factor))
        axes.append(_seen(Axis(2 + i, n, m, factor or None), op, count))
    over = tuple(a.at for a in axes)
    scales = _scales(axes, op)
    if scales is not None and any(a.factor for a in axes):
        return c.b.add_op(op.replace(over=over), x, None, c.b.constant(scales))
    if all(a.factor is None and _as_in_the_ir(a, op, None) for a in axes):
        return c.b.add_op(op.replace(over=over), x, None, None, c.vector([a.m for a in axes]))
    for axis in axes:
        x = _by_index(c, x, axis, op, _whole_ratios(op, count))
    return x


def _whole_ratios(op: Resize, count: int) -> list[int]:
    """At which m / n the factor does not count."""
    if op.mode == "linear":
        return [1]
    images = count == 2 and op.mode == "nearest" and not _shift(op)
    return [1, 2] if images else []


def _seen(axis: Axis, op: Resize, count: int) -> Axis:
    known = isinstance(axis.n, int) and isinstance(axis.m, int)
    if known and axis.m in [axis.n * k for k in _whole_ratios(op, count)]:
        return axis._replace(factor=None)
    return axis


def _made(c: Call, n: Dimension, factor: float) -> Dimension:
    """How long an axis becomes: floor(n * factor) in double precision."""
    if isinstance(n, int):
        return math.floor(n * factor)
    if float(factor).is_integer():
        return Size(c.b.mul(n.vector, c.ints([int(factor)])))
    long = c.b.mul(c.b.cast(n.vector, to=DType.f64), c.constant([factor], DType.f64))
    return Size(c.b.cast(c.b.floor(long), to=DType.i64))


# ---- by the IR's own rule ----------------------------------------------------------------------


def _scales(axes: Sequence[Axis], op: Resize) -> np.ndarray[Any, Any] | None:
    """Scales by which the IR makes the same sizes of the same elements, None where none do."""
    found = [_scale(a, op, len(axes)) for a in axes]
    return None if None in found else np.array(found, np.float32)


def _scale(axis: Axis, op: Resize, count: int) -> np.float32 | None:
    """The factor in single precision, moved by a few steps where only that makes the size right."""
    if not isinstance(axis.n, int) or not isinstance(axis.m, int):
        factor = axis.factor or 0.0
        # Products of few bits are exact in both precisions, for every size that there is.
        few = (factor * 256).is_integer() and 0 < factor < 256
        # By a little over k, some axes become k times as long.
        whole = any(k < factor < k + 0.5 for k in _whole_ratios(op, count))
        fits = few and not whole and _as_in_the_ir(axis, op, factor)
        return np.float32(factor) if fits else None
    exact = np.float32(axis.factor or (axis.m / axis.n if axis.n else 1.0))
    for steps in range(16):
        for direction in (np.float32(0), np.float32(np.inf)):
            scale = exact
            for _ in range(steps):
                scale = np.nextafter(scale, direction)
            if math.floor(np.float32(axis.n) * scale) == axis.m:
                return scale if _as_in_the_ir(axis, op, float(scale)) else None
    return None


def _as_in_the_ir(axis: Axis, op: Resize, scale: float | None) -> bool:
    """Whether the IR's rule reads the same elements: weights differ by rounding only, so that
    counts for the nearest.
    """
    if op.mode != "nearest":
        return True
    if not isinstance(axis.n, int) or not isinstance(axis.m, int):
        return scale is not None and math.frexp(scale)[0] == 0.5  # a power of 2: all is exact
    if not axis.n or not axis.m:
        return True
    u = op.coordinates(axis.n, axis.m, scale or axis.m / axis.n, None)
    return bool((np.clip(op.nearest(u), 0, axis.n - 1) == _nearest(axis, op)).all())


def _nearest(axis: Axis, op: Resize) -> np.ndarray[Any, Any]:
    """PyTorch's choice of elements."""
    assert isinstance(axis.n, int) and isinstance(axis.m, int)
    ratio = np.float32(1 / axis.factor) if axis.factor else np.float32(axis.n) / np.float32(axis.m)
    places = np.arange(axis.m, dtype=np.float32) + np.float32(_shift(op))
    return np.clip(np.floor(places * ratio).astype(np.int64), 0, axis.n - 1)


def _shift(op: Resize) -> float:
    """Where within an element a place is."""
    return 0.0 if op.coordinate_transformation_mode == "asymmetric" else 0.5


# ---- by index ----------------------------------------------------------------------------------


def _by_index(c: Call, x: Value, axis: Axis, op: Resize, whole: Sequence[int]) -> Value:
    """One axis as a sum of elements read by index, each with its weight."""
    b, kind = c.b, DType.f32
    if axis.m == axis.n and axis.factor is None:
        return x
    last = b.sub(c.scalar(axis.n), c.constant(1, DType.i64))

    def read(at: Value) -> Value:
        whole = b.min(b.max(b.cast(at, to=DType.i64), c.constant(0, DType.i64)), last)
        return b.gather(x, whole, axis=axis.at)

    if op.mode == "nearest" and isinstance(axis.n, int) and isinstance(axis.m, int):
        return b.gather(x, c.ints(_nearest(axis, op).tolist()), axis=axis.at)
    places = b.cast(b.range(c.constant(0, DType.i64), c.scalar(axis.m), c.constant(1, DType.i64)),
                    to=kind)  # fmt: skip
    n, m = (b.cast(c.scalar(d), to=kind) for d in (axis.n, axis.m))
    ratio = c.constant(1 / axis.factor, kind) if axis.factor else b.div(n, m)
    for k in whole:
        same = b.equal(m, b.mul(n, c.constant(k, kind)))
        ratio = b.where(same, c.constant(1 / k, kind), ratio)
    u = b.mul(b.add(places, c.constant(_shift(op), kind)), ratio)
    if op.mode == "nearest":
        return read(b.floor(u))
    u = b.sub(u, c.constant(0.5, kind))
    first = b.floor(u)
    t = b.sub(u, first)
    column = c.ints([-1] + [1] * (rank(x) - 1 - axis.at))
    made = None
    for step, weigh in _taps(op.mode):
        weight = b.reshape(b.cast(weigh(c, t), to=x.type.dtype), column)
        part = b.mul(read(b.add(first, c.constant(step, kind))), weight)
        made = part if made is None else b.add(made, part)
    assert made is not None
    return made


Weigh = Callable[[Call, Value], Value]


def _taps(mode: str) -> list[tuple[int, Weigh]]:
    """Which neighbours of a place take part, and by how much, t behind the first one before it."""
    if mode == "linear":
        return [(0, lambda c, t: c.b.sub(c.constant(1, DType.f32), t)), (1, lambda c, t: t)]
    a = _CUBIC
    far, near = (a, -5 * a, 8 * a, -4 * a), (a + 2, -(a + 3), 0.0, 1.0)
    return [
        (-1, lambda c, t: _polynomial(c, far, c.b.add(t, c.constant(1, DType.f32)))),
        (0, lambda c, t: _polynomial(c, near, t)),
        (1, lambda c, t: _polynomial(c, near, c.b.sub(c.constant(1, DType.f32), t))),
        (2, lambda c, t: _polynomial(c, far, c.b.sub(c.constant(2, DType.f32), t))),
    ]


def _polynomial(c: Call, factors: Sequence[float], t: Value) -> Value:
    """By Horner's rule, the highest power first."""
    made = c.constant(factors[0], DType.f32)
    for factor in factors[1:]:
        made = c.b.add(c.b.mul(made, t), c.constant(factor, DType.f32))
    return made


# ---- the table ---------------------------------------------------------------------------------


def _register(name: str, axes: Sequence[str], op: Callable[..., Resize], corners: bool) -> None:
    def by_list(c: Call, x: Value, sizes: Sizes, *rest: Any) -> Value:
        *how, factors = rest
        return resize(c, x, sizes, factors, op(*how))

    def by_axis(c: Call, x: Value, sizes: Sizes, *rest: Any) -> Value:
        factors = rest[1:] if corners else rest
        return resize(c, x, sizes, None if set(factors) == {None} else factors,
                      op(*rest[: int(corners)]))  # fmt: skip

    for a in axes:
        aten(f"{name}{a}.vec")(by_list)
        aten(f"{name}{a}")(by_axis)


def _smooth(mode: str) -> Callable[[bool], Resize]:
    def op(corners: bool) -> Resize:
        return Resize(mode, "align_corners" if corners else "half_pixel", cubic_coeff_a=_CUBIC)

    return op


_register("upsample_nearest", ("1d", "2d", "3d"),
          lambda: Resize("nearest", "asymmetric", "floor"), False)  # fmt: skip
_register("_upsample_nearest_exact", ("1d", "2d", "3d"),
          lambda: Resize("nearest", "half_pixel", "round_prefer_ceil"), False)  # fmt: skip
_register("upsample_linear", ("1d",), _smooth("linear"), True)
_register("upsample_bilinear", ("2d",), _smooth("linear"), True)
_register("upsample_trilinear", ("3d",), _smooth("linear"), True)
_register("upsample_bicubic", ("2d",), _smooth("cubic"), True)

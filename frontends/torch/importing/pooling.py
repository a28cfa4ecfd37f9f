"""Pooling over windows of a given and of an adaptive size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import UnsupportedError, Value
from ..call import Call, aten, count, rank, shape_of, spread
from .convolution import batched

Ints = int | Sequence[int]


@aten("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(c: Call, x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints,
             ceil_mode: bool) -> Value:  # fmt: skip
    axes = _axes(c)
    size = spread(kernel, axes)
    return batched(c, x, axes, lambda v: c.b.max_pool(
        v, kernel_shape=size, strides=spread(stride, axes) or size,
        pads=spread(padding, axes) * 2, dilations=spread(dilation, axes), ceil_mode=ceil_mode,
    ))  # fmt: skip


@aten("max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(c: Call, *args: Any) -> tuple[Value, None]:
    return max_pool(c, *args), None


@aten("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(c: Call, x: Value, kernel: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
             include_pad: bool, divisor: int | None = None) -> Value:  # fmt: skip
    c.no(divisor, "divisor_override")
    axes = _axes(c)
    size = spread(kernel, axes)
    return batched(c, x, axes, lambda v: c.b.average_pool(
        v, kernel_shape=size, strides=spread(stride, axes) or size,
        pads=spread(padding, axes) * 2, ceil_mode=ceil_mode, count_include_pad=include_pad,
    ))  # fmt: skip


def _axes(c: Call) -> int:
    """How many spatial axes: the digit in the op's name."""
    return int(str(c.node.target).split("d.")[0].split("d_")[0][-1])


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
      "_adaptive_avg_pool3d")  # fmt: skip
def adaptive_avg_pool(c: Call, x: Value, size: Sequence[int]) -> Value:
    return _adaptive(c, x, size, "average")


@aten("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(c: Call, x: Value, size: Sequence[int]) -> tuple[Value, None]:
    return _adaptive(c, x, size, "max"), None


def _adaptive(c: Call, x: Value, size: Sequence[int], kind: str) -> Value:
    """Window i of m over n elements is floor(i n / m) .. ceil((i + 1) n / m): one size for all
    where m divides n, else pieces cut out and reduced, one axis after the other.
    """
    axes = len(size)
    if all(s == 1 for s in size):
        return batched(c, x, axes, getattr(c.b, f"global_{kind}_pool"))
    if any(not isinstance(s, int) for s in size):
        raise UnsupportedError("an adaptive pool to a varying size is not supported")
    old = [count([d], "an adaptive pool") for d in shape_of(x)[rank(x) - axes :]]
    if all(m and n % m == 0 for n, m in zip(old, size)):
        steps = tuple(n // m for n, m in zip(old, size))
        pool = getattr(c.b, f"{kind}_pool")
        return batched(c, x, axes, lambda v: pool(v, kernel_shape=steps, strides=steps))
    reduce = c.b.reduce_max if kind == "max" else c.b.reduce_mean
    for axis, n, m in zip(range(-axes, 0), old, size):
        at = c.ints([axis])
        pieces = [
            reduce(c.b.slice(x, c.ints([i * n // m]), c.ints([-(-(i + 1) * n // m)]), at), at)
            for i in range(m)
        ]
        x = c.b.concat(*pieces, axis=axis)
    return x

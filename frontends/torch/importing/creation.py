"""Tensors made from sizes and numbers, and copies and casts of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ....ir import Value
from ..call import Call, Dimension, Size, aten, numbers, shape_of, static

MOST = 1 << 16
"""Elements that are written out as a constant; more are made when the graph runs."""


def filled(c: Call, sizes: Sequence[Dimension], value: Any) -> Value:
    known = static(sizes) and not isinstance(value, Value | Size)
    if known and math.prod(cast(Sequence[int], sizes)) <= MOST:
        return c.b.constant(np.full(cast(Sequence[int], sizes), numbers(value, c.dtype)))
    return c.b.expand(c.tensor(value), c.vector(sizes))


def like(c: Call, x: Value, value: Any) -> Value:
    dims = shape_of(x)
    if static(dims):
        return filled(c, cast(Sequence[int], dims), value)
    return c.b.expand(c.tensor(value), c.b.shape(x))


@aten("full")
def full(c: Call, sizes: Sequence[Dimension], value: Any, *_: Any) -> Value:
    return filled(c, sizes, value)


@aten("zeros", "empty.memory_format")
def zeros(c: Call, sizes: Sequence[Dimension], *_: Any) -> Value:
    return filled(c, sizes, 0)


@aten("ones")
def ones(c: Call, sizes: Sequence[Dimension], *_: Any) -> Value:
    return filled(c, sizes, 1)


@aten("new_zeros")
def new_zeros(c: Call, x: Value, sizes: Sequence[Dimension], *_: Any) -> Value:
    return filled(c, sizes, 0)


@aten("new_ones")
def new_ones(c: Call, x: Value, sizes: Sequence[Dimension], *_: Any) -> Value:
    return filled(c, sizes, 1)


@aten("new_full")
def new_full(c: Call, x: Value, sizes: Sequence[Dimension], value: Any, *_: Any) -> Value:
    return filled(c, sizes, value)


@aten("full_like")
def full_like(c: Call, x: Value, value: Any, *_: Any) -> Value:
    return like(c, x, value)


@aten("zeros_like")
def zeros_like(c: Call, x: Value, *_: Any) -> Value:
    return like(c, x, 0)


@aten("ones_like")
def ones_like(c: Call, x: Value, *_: Any) -> Value:
    return like(c, x, 1)


@aten("scalar_tensor")
def scalar_tensor(c: Call, value: Any, *_: Any) -> Value:
    return c.tensor(value)


@aten("arange")
def arange(c: Call, end: Any, *_: Any) -> Value:
    return arange_step(c, 0, end, 1)


@aten("arange.start")
def arange_start(c: Call, start: Any, end: Any, *_: Any) -> Value:
    return arange_step(c, start, end, 1)


@aten("arange.start_step")
def arange_step(c: Call, start: Any, end: Any, step: Any, *_: Any) -> Value:
    if not any(isinstance(x, Size) for x in (start, end, step)):
        made = np.arange(start, end, step)
        if made.size <= MOST:
            return c.b.constant(made.astype(c.dtype.numpy))
    return c.b.range(*(c.tensor(x) for x in (start, end, step)))


@aten("clone", "contiguous", "detach", "detach_", "alias", "lift_fresh_copy")
def same(c: Call, x: Value, *_: Any) -> Value:
    return x


@aten("to.dtype", "to.other", "_to_copy", "type_as")
def convert(c: Call, x: Value, *_: Any) -> Value:
    return c.tensor(x)

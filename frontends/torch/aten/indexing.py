"""Ops that read elements by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType, UnsupportedError, Value
from ..call import Call, Dimension, aten, rank


@aten("embedding")
def embedding(c: Call, weight: Value, indices: Value, *_: Any) -> Value:
    return c.b.gather(weight, indices, axis=0)


@aten("select.int")
def select(c: Call, x: Value, dim: int, index: Dimension) -> Value:
    return c.b.gather(x, c.scalar(index), axis=dim)


@aten("index_select")
def index_select(c: Call, x: Value, dim: int, index: Value) -> Value:
    return c.b.gather(x, index, axis=dim)


@aten("gather")
def gather(c: Call, x: Value, dim: int, index: Value, _: bool) -> Value:
    return c.b.gather_elements(x, index, axis=dim)


@aten("index.Tensor")
def index(c: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    """One index along any axis, or several along the first ones."""
    given = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    if any(not i.type.dtype.is_integer for _, i in given):
        raise UnsupportedError("an index by a mask gives a size that depends on data")
    if len(given) == 1:
        axis, at = given[0]
        return c.b.gather(x, at, axis=axis)
    if [axis for axis, _ in given] != list(range(len(given))):
        raise UnsupportedError("several indices along other than the first axes")
    last = max(rank(i) for _, i in given)
    wide = given[0][1]
    for _, i in given[1:]:  # broadcast without a shape: zeros of the sum's
        wide = c.b.add(c.b.mul(wide, c.constant(0, DType.i64)), c.cast(i, DType.i64))
    zero = c.b.mul(wide, c.constant(0, DType.i64))
    columns = [
        c.b.unsqueeze(c.b.add(c.cast(i, DType.i64), zero), c.ints([last])) for _, i in given
    ]
    return c.b.gather_nd(x, c.b.concat(*columns, axis=last))


def _triangle(name: str, upper: bool) -> None:
    def f(c: Call, x: Value, diagonal: int) -> Value:
        return c.b.trilu(x, c.constant(diagonal, DType.i64), upper=upper)

    aten(name)(f)


_triangle("triu", True)
_triangle("tril", False)

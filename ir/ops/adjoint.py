"""What gradients are made of: sums over what was broadcast, shapes as values, elements put back.

All hold for symbolic and unknown dimensions; what is known is used while the graph is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NotDifferentiableError
from ..types import Dim, Shape

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


def known_shape(x: Value) -> Shape:
    """The shape, whose rank is known. Raises NotDifferentiableError."""
    if x.shape is None:
        raise NotDifferentiableError(
            f"the rank of {x.node.name!r} is unknown, which its gradient needs",
            hint="bind the inputs' shapes first",
        )
    return x.shape


def rank_of(x: Value) -> int:
    return len(known_shape(x))


def ints(b: Builder, *numbers: int) -> Value:
    """A vector i64 of these numbers."""
    return b.constant(np.array(numbers, np.int64))


def shape_of(b: Builder, x: Value) -> Value:
    """x's shape as i64[rank]: a constant where it is known."""
    return ints(b, *x.type.static_shape) if x.type.is_static else b.shape(x)


def size_of(b: Builder, x: Value, axis: int) -> Value:
    """x's size along an axis as i64[1]: a constant where it is known."""
    size = known_shape(x)[axis]
    if isinstance(size, int):
        return ints(b, size)
    at = axis % rank_of(x)
    return b.shape(x, start=at, end=at + 1)


def filled(b: Builder, shape: Value, number: float, like: Value) -> Value:
    """A tensor of this shape and of `like`'s element type."""
    return b.constant_of_shape(shape, value=np.array([number], like.type.dtype.numpy))


def zeros(b: Builder, x: Value, like: Value | None = None) -> Value:
    """Zeros of x's shape, in its element type or that of `like`."""
    return filled(b, shape_of(b, x), 0, x if like is None else like)


def shaped(b: Builder, g: Value, x: Value) -> Value:
    """g, which has x's elements, in x's shape."""
    if g.shape is not None and g.shape == x.shape and None not in g.shape:
        return g
    return b.reshape(g, shape_of(b, x), allowzero=True)


def spread(b: Builder, g: Value, x: Value) -> Value:
    """g broadcast to x's shape."""
    if g.shape is not None and g.shape == x.shape and None not in g.shape:
        return g
    return b.expand(g, shape_of(b, x))


def sum_to(b: Builder, g: Value, x: Value) -> Value:
    """g summed over the axes along which x was broadcast to its shape: the adjoint of broadcasting.

    Where dimensions are not known, the axes are found when the graph runs.
    """
    made, given = known_shape(x), known_shape(g)
    extra = len(given) - len(made)
    aligned = [*[1] * extra, *made]
    if not all(_settled(d, n) for d, n in zip(aligned, given)):
        return _sum_dynamic(b, g, x, extra)
    over = [i for i, (d, n) in enumerate(zip(aligned, given)) if i < extra or (d == 1 and n != 1)]
    if not over:
        return shaped(b, g, x)
    return shaped(b, b.reduce_sum(g, ints(b, *over), keepdims=over[-1] >= extra), x)


def _settled(d: Dim, n: Dim) -> bool:
    """Whether it is known if an axis of size d was broadcast to n."""
    return isinstance(d, int) or n == 1 or (d is not None and d == n)


def _sum_dynamic(b: Builder, g: Value, x: Value, extra: int) -> Value:
    sizes = shape_of(b, x)
    if extra:
        sizes = b.concat(ints(b, *[1] * extra), sizes, axis=0)
    smaller = b.not_(b.equal(sizes, b.shape(g)))
    axes = b.reshape(b.non_zero(smaller), ints(b, -1))
    return b.reshape(b.reduce_sum(g, axes, noop_with_empty_axes=True), shape_of(b, x),
                     allowzero=True)  # fmt: skip


def where(b: Builder, condition: Value, g: Value) -> Value:
    """g where the condition holds, else 0."""
    return b.where(condition, g, b.number(0, g))


def scaled(b: Builder, g: Value, factor: float) -> Value:
    return g if factor == 1.0 else b.mul(g, b.number(factor, g))


def in_type_of(b: Builder, g: Value, x: Value) -> Value:
    """g in x's element type."""
    return g if g.type.dtype is x.type.dtype else b.cast(g, to=x.type.dtype)


def swap_last(b: Builder, x: Value) -> Value:
    """The last two axes exchanged."""
    rank = rank_of(x)
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def move(b: Builder, x: Value, perm: Sequence[int]) -> Value:
    return x if list(perm) == list(range(len(perm))) else b.transpose(x, perm=tuple(perm))


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(perm))


def places(b: Builder, x: Value, axis: int) -> Value:
    """0, 1, ... for x's elements along an axis, as i64."""
    size = known_shape(x)[axis]
    if isinstance(size, int):
        return ints(b, *range(size))
    return b.range(b.constant(np.int64(0)), b.squeeze(size_of(b, x, axis), ints(b, 0)),
                   b.constant(np.int64(1)))  # fmt: skip


def put(b: Builder, g: Value, at: Value, x: Value, axis: int) -> Value:
    """The adjoint of picking along an axis: zeros of x's shape, but along `axis` of g's other
    sizes, with g's slices added at the indices `at` (any rank; g has its axes in place of axis).
    """
    rank, count = rank_of(x), rank_of(at)
    front = range(axis, axis + count)
    perm = [*front, *(i for i in range(rank_of(g)) if i not in front)]
    rest = [i for i in range(rank) if i != axis]
    sizes = [size_of(b, x, axis), *(size_of(b, g, i if i < axis else i + count - 1) for i in rest)]
    empty = filled(b, b.concat(*sizes, axis=0), 0, g)
    made = b.scatter_nd(empty, b.unsqueeze(at, ints(b, -1)), move(b, g, perm), reduction="add")
    return move(b, made, inverse([axis, *rest]))


def keep_axes(b: Builder, y: Value, axes: Value | None, keepdims: bool) -> Value:
    """y, a reduction over axes (all of them if none are given), as it broadcasts to x."""
    if keepdims or axes is None:  # a scalar broadcasts to anything
        return y
    return b.unsqueeze(y, axes)


def mean_factor(b: Builder, x: Value, y: Value) -> Value:
    """1 / (how many elements of x make one of its mean y), a scalar of y's element type."""
    if x.type.is_static and y.type.is_static:
        return b.number(y.type.size / max(x.type.size, 1), y)
    kept, all_ = (b.cast(b.size(v), to=y.type.dtype) for v in (y, x))
    return b.div(kept, all_)


def extreme_gradient(b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
    """The gradient of y, a maximum or minimum of x over axes that are kept: an equal share for
    each of the elements that are the extreme one.
    """
    hits = b.equal(x, y)
    count = b.reduce_sum(b.cast(hits, to=g.type.dtype), axes)
    return where(b, hits, b.div(g, count))

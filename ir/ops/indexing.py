"""Ops that pick or place elements by index. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import FeedError, VerifyError
from ..op import Abstract, Array, Inferred, Op, register
from ..types import Dim, Shape, TensorType, unify
from .common import (
    check_axes,
    check_axis,
    check_choice,
    check_integer,
    check_same,
    length,
    unknown,
    wide,
)


@register
@dataclass(frozen=True)
class Slice(Op):
    """x[start:end:step] along the given axes (the first ones if none are given)

    Starts and ends beyond the axis are clamped, as NumPy's are.
    """

    def infer(
        self,
        x: Abstract,
        starts: Abstract,
        ends: Abstract,
        axes: Abstract | None = None,
        steps: Abstract | None = None,
    ) -> Inferred:
        count = length(starts)
        for o in (ends, axes, steps):
            if o is not None and None not in (count, length(o)) and length(o) != count:
                raise VerifyError(f"{o.type} does not have {count} elements as the starts do")
        if x.shape is None:
            return x.type
        if axes is None:
            which: tuple[int, ...] | None = None if count is None else tuple(range(count))
        else:
            which = axes.as_ints()
        if which is None:
            return x.type.with_shape(unknown(len(x.shape)))
        which = check_axes(which, len(x.shape))
        out = list(x.shape)
        begin, end = _entries(starts, len(which)), _entries(ends, len(which))
        step = (1,) * len(which) if steps is None else _entries(steps, len(which))
        for axis, a, b, s in zip(which, begin, end, step):
            if s == 0:
                raise VerifyError("a step is 0")
            out[axis] = _sliced(out[axis], a, b, s)
        return x.type.with_shape(out)

    def reference(
        self,
        x: Array,
        starts: Array,
        ends: Array,
        axes: Array | None = None,
        steps: Array | None = None,
    ) -> Array:
        which = range(len(starts)) if axes is None else check_axes(axes.tolist(), x.ndim)
        step = [1] * len(starts) if steps is None else steps.tolist()
        keep = [slice(None)] * x.ndim
        for axis, a, b, s in zip(which, starts.tolist(), ends.tolist(), step):
            keep[axis] = slice(*slice_bounds(x.shape[axis], a, b, s))
        return x[(*keep, ...)].copy()

    def dims(
        self,
        x: Abstract,
        starts: Abstract,
        ends: Abstract,
        axes: Abstract | None = None,
        steps: Abstract | None = None,
    ) -> Shape | None:
        dims, a, b = x.as_dims(), starts.as_ints(), ends.as_ints()
        s = (1,) if steps is None else steps.as_ints()
        if dims is None or not a or not b or not s:
            return None
        return dims[slice(*slice_bounds(len(dims), a[0], b[0], s[0]))]


def _entries(x: Abstract, count: int) -> Shape:
    dims = x.as_dims()
    return unknown(count) if dims is None else dims


def slice_bounds(n: int, a: int, b: int, s: int) -> tuple[int, int | None, int]:
    """Start, stop and step for Python's slice, from ONNX's clamping rules."""
    a, b = (a + n if a < 0 else a), (b + n if b < 0 else b)
    if s > 0:
        return min(max(a, 0), n), min(max(b, 0), n), s
    stop = min(max(b, -1), n - 1)
    return min(max(a, 0), max(n - 1, 0)), None if stop < 0 else stop, s


def _sliced(n: Dim, a: Dim, b: Dim, s: Dim) -> Dim:
    if not isinstance(a, int) or not isinstance(s, int):
        return None
    if isinstance(n, int) and isinstance(b, int):
        return len(range(n)[slice(*slice_bounds(n, a, b, s))])
    whole = b == n or (isinstance(b, int) and b >= (1 << 31) - 1)
    return n if a == 0 and s == 1 and isinstance(n, str) and whole else None


@register
@dataclass(frozen=True)
class Gather(Op):
    """x's slices at these indices along an axis: shape x[:axis] + indices + x[axis + 1:]"""

    axis: int = 0

    def infer(self, x: Abstract, indices: Abstract) -> Inferred:
        check_integer(indices, "the indices")
        if x.shape is None or indices.shape is None:
            return TensorType(x.dtype, None)
        axis = check_axis(self.axis, len(x.shape))
        return TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    def reference(self, x: Array, indices: Array) -> Array:
        return np.take(x, _checked(indices, x.shape[self.axis]), axis=self.axis)

    def dims(self, x: Abstract, indices: Abstract) -> Shape | None:
        dims, at = x.as_dims(), indices.as_ints()
        if dims is None or at is None or x.shape is None or len(x.shape) != 1:
            return None
        if any(not -len(dims) <= i < len(dims) for i in at):
            raise VerifyError(f"indices {list(at)} are out of range for {len(dims)} elements")
        return tuple(dims[i] for i in at)


def _checked(indices: Array, n: int) -> Array:
    """Indices within 0..n-1. Raises FeedError."""
    at = indices.astype(np.int64)
    if at.size and (at.min() < -n or at.max() >= n):
        raise FeedError(f"an index is out of range for {n} elements")
    return np.where(at < 0, at + n, at)


def _grid(shape: tuple[int, ...], axis: int, at: Array) -> tuple[Array, ...]:
    """An index for each axis: `at` along one, each element's own place along the others."""
    places = list(np.indices(shape, sparse=True))
    places[axis] = at
    return tuple(places)


@register
@dataclass(frozen=True)
class GatherElements(Op):
    """y[i, j, ...] = x[indices[i, j, ...], j, ...] (for axis 0)"""

    axis: int = 0

    def infer(self, x: Abstract, indices: Abstract) -> Inferred:
        check_integer(indices, "the indices")
        _check_ranks(x, indices, self.axis)
        return TensorType(x.dtype, indices.shape)

    def reference(self, x: Array, indices: Array) -> Array:
        axis = check_axis(self.axis, x.ndim)
        return x[_grid(indices.shape, axis, _checked(indices, x.shape[axis]))]


def _check_ranks(x: Abstract, indices: Abstract, axis: int) -> None:
    if x.shape is None or indices.shape is None:
        return
    if len(x.shape) != len(indices.shape):
        raise VerifyError(f"{x.type} and the indices {indices.type} differ in rank")
    axis = check_axis(axis, len(x.shape))
    for i, (n, m) in enumerate(zip(x.shape, indices.shape)):
        if i != axis and isinstance(n, int) and isinstance(m, int) and m > n:
            raise VerifyError(f"the indices {indices.type} reach beyond {x.type}")


@register
@dataclass(frozen=True)
class GatherND(Op):
    """y[..., :] = x[indices[..., 0], indices[..., 1], ...]; the first batch_dims axes go along"""

    batch_dims: int = 0

    def infer(self, x: Abstract, indices: Abstract) -> Inferred:
        check_integer(indices, "the indices")
        depth = _depth(x, indices, self.batch_dims)
        if x.shape is None or indices.shape is None or depth is None:
            return TensorType(x.dtype, None)
        b = self.batch_dims
        batch = [unify(n, m) for n, m in zip(x.shape[:b], indices.shape[:b])]
        return TensorType(x.dtype, (*batch, *indices.shape[b:-1], *x.shape[b + depth :]))

    def reference(self, x: Array, indices: Array) -> Array:
        b, depth = self.batch_dims, indices.shape[-1]
        if depth == 0:
            rest = indices.shape[b:-1] + x.shape[b:]
            alone = x.reshape(*x.shape[:b], *(1 for _ in indices.shape[b:-1]), *x.shape[b:])
            return np.broadcast_to(alone, (*x.shape[:b], *rest)).copy()
        at = [_checked(indices[..., i], x.shape[b + i]) for i in range(depth)]
        shape = indices.shape[:-1]
        batch = np.indices(shape, sparse=True)[:b] if b else ()
        return x[(*batch, *at)]


def _depth(x: Abstract, indices: Abstract, batch: int) -> int | None:
    """How many axes an index covers. Raises VerifyError."""
    if batch < 0:
        raise VerifyError(f"batch_dims is {batch}, which is negative")
    if indices.shape is None:
        return None
    if not indices.shape or len(indices.shape) <= batch:
        raise VerifyError(f"the indices {indices.type} have too few axes")
    depth = indices.shape[-1]
    if isinstance(depth, int) and x.shape is not None and batch + depth > len(x.shape):
        raise VerifyError(f"indices of {depth} entries are too long for {x.type}")
    return depth if isinstance(depth, int) else None


REDUCTIONS = ("none", "add", "mul", "max", "min")
_REDUCE: dict[str, Callable[..., None]] = {
    "add": np.add.at, "mul": np.multiply.at, "max": np.maximum.at, "min": np.minimum.at
}  # fmt: skip


def _scatter(x: Array, at: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    if reduction == "none":
        made = x.copy()
        made[at] = updates
        return made
    made = wide(x).copy()
    _REDUCE[reduction](made, at, wide(updates))
    return made.astype(x.dtype)


@register
@dataclass(frozen=True)
class ScatterElements(Op):
    """x with y[indices[i, j, ...], j, ...] = updates[i, j, ...] (for axis 0), or joined to what is
    there by `reduction`
    """

    axis: int = 0
    reduction: str = "none"

    def infer(self, x: Abstract, indices: Abstract, updates: Abstract) -> Inferred:
        check_choice(self.reduction, REDUCTIONS, "reduction")
        check_integer(indices, "the indices")
        check_same(x, updates)
        _check_ranks(x, indices, self.axis)
        if not TensorType(x.dtype, indices.shape).accepts(updates.type):
            raise VerifyError(f"{updates.type} does not fit the indices {indices.type}")
        return x.type

    def reference(self, x: Array, indices: Array, updates: Array) -> Array:
        axis = check_axis(self.axis, x.ndim)
        at = _grid(indices.shape, axis, _checked(indices, x.shape[axis]))
        return _scatter(x, at, updates, self.reduction)


@register
@dataclass(frozen=True)
class ScatterND(Op):
    """x with y[indices[..., 0], indices[..., 1], ...] = updates[..., :], or joined to what is there
    by `reduction`
    """

    reduction: str = "none"

    def infer(self, x: Abstract, indices: Abstract, updates: Abstract) -> Inferred:
        check_choice(self.reduction, REDUCTIONS, "reduction")
        check_integer(indices, "the indices")
        check_same(x, updates)
        depth = _depth(x, indices, 0)
        if x.shape is not None and indices.shape is not None and depth is not None:
            want = TensorType(x.dtype, (*indices.shape[:-1], *x.shape[depth:]))
            if not want.accepts(updates.type):
                raise VerifyError(f"updates are {updates.type}, which should be {want}")
        return x.type

    def reference(self, x: Array, indices: Array, updates: Array) -> Array:
        at = tuple(_checked(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
        return _scatter(x, at, updates, self.reduction)

"""Gathers, scatters, and others whose results hang on indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from taut.ir import DType

from ..sketch import Misfit, Ref, Sketch
from .base import FLAG, axis_of, recipe


def places(d: Sketch, bound: int, shape: tuple[int, ...], unique: bool = False) -> Any:
    """Indices into an axis of `bound`, some of them counted from the end, rarely one beyond."""
    size = int(np.prod(shape, dtype=np.int64))
    if bound == 0 and size:
        raise Misfit("nothing to index")
    generator = np.random.default_rng(d.choices.below(1 << 16))
    if unique and size <= bound:
        made = generator.permutation(bound)[:size].reshape(shape)
    else:
        made = generator.integers(0, max(bound, 1), shape)
    if d.maybe(40) and d.opset >= 11:
        made = np.where(generator.random(shape) < 0.4, made - bound, made)
    if size and d.maybe(2):
        made.reshape(-1)[0] = bound
    return np.asarray(made, np.int64)


@recipe("Gather")
def gather(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4))
    axis = axis_of(d, x.rank)
    kind = d.index_dtype(1)
    made = places(d, x.shape[axis], d.shape((1, 0, 2, 3)))
    given = {"axis": axis} if axis or d.maybe(40) else {}
    d.emit([x, d.put(made.astype(kind.numpy), 50)], given)


@recipe("GatherElements")
def gather_elements(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3))
    axis = axis_of(d, x.rank)
    kind = d.index_dtype(1)
    shape = [d.choices.between(min(1, s), s) if d.maybe(30) else s for s in x.shape]
    shape[axis] = d.size()
    made = places(d, x.shape[axis], tuple(shape))
    given = {"axis": axis} if axis or d.maybe(40) else {}
    d.emit([x, d.put(made.astype(kind.numpy), 30)], given)


@recipe("ScatterElements")
def scatter_elements(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3), "mild")
    axis = axis_of(d, x.rank)
    kind = d.index_dtype(1)
    given: dict[str, Any] = {"axis": axis} if axis or d.maybe(40) else {}
    given |= d.attributes(reduction=_joins(d))
    shape = [d.choices.between(min(1, s), s) for s in x.shape]
    plain = given.get("reduction", "none") == "none"
    bound = x.shape[axis % x.rank]
    size = tuple(shape)
    made = _lines(d, bound, size, axis % x.rank) if plain else places(d, bound, size)
    updates = d.given(x.dtype, tuple(shape), "mild")
    d.emit([x, d.put(made.astype(kind.numpy), 30), updates], given)


def _joins(d: Sketch) -> tuple[str, ...]:
    return ("none", "add", "mul", "max", "min") if d.opset >= 18 else ("none", "add", "mul")


def _lines(d: Sketch, bound: int, shape: tuple[int, ...], axis: int) -> Any:
    """Indices that are unique along `axis`: which of two updates of one place wins is not said."""
    generator = np.random.default_rng(d.choices.below(1 << 16))
    order = np.argsort(generator.random((*shape[:axis], bound, *shape[axis + 1 :])), axis=axis)
    made = np.take(order, range(shape[axis]), axis=axis)
    return np.where(generator.random(shape) < 0.3, made - bound, made)


def _tuples(d: Sketch, x: Ref, batch: int, unique: bool) -> tuple[Any, tuple[int, ...]]:
    """Index tuples into x's axes from `batch` on, and the shape of what each names."""
    if x.rank <= batch:
        raise Misfit("rank")
    depth = d.choices.between(1, x.rank - batch)
    space = x.shape[batch : batch + depth]
    if 0 in space:
        raise Misfit("nothing to index")
    count = (*x.shape[:batch], *d.shape((1, 0, 2)))
    total, n = int(np.prod(space)), int(np.prod(count, dtype=np.int64))
    if unique and n > total:
        count, n = (total,), total
    generator = np.random.default_rng(d.choices.below(1 << 16))
    flat = generator.permutation(total)[:n] if unique else generator.integers(0, total, n)
    made = np.stack(np.unravel_index(flat, space), -1).reshape(*count, depth)
    if d.maybe(40):
        made = np.where(generator.random(made.shape) < 0.4, made - np.array(space), made)
    return made.astype(np.int64), x.shape[batch + depth :]


@recipe("GatherND")
def gather_nd(d: Sketch) -> None:
    x = d.data(0, (2, 3, 1, 4))
    batch = d.choices.between(0, 1) if d.opset >= 12 and x.rank > 1 and d.maybe(40) else 0
    made, _ = _tuples(d, x, batch, unique=False)
    d.emit([x, d.put(made, 30)], {"batch_dims": batch} if batch or d.maybe(20) else {})


@recipe("ScatterND")
def scatter_nd(d: Sketch) -> None:
    x = d.data(0, (2, 3, 1), "mild")
    given = d.attributes(reduction=_joins(d))
    made, rest = _tuples(d, x, 0, given.get("reduction", "none") == "none")
    updates = d.given(x.dtype, (*made.shape[:-1], *rest), "mild")
    d.emit([x, d.put(made, 30), updates], given)


@recipe("Compress")
def compress(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3))
    axis = axis_of(d, x.rank) if d.maybe(60) else None
    length = int(np.prod(x.shape, dtype=np.int64)) if axis is None else x.shape[axis]
    count = d.choices.between(0, min(length, 40)) if d.maybe(30) else min(length, 40)
    condition = d.given(DType.bool, (count,))
    d.emit([x, condition], {} if axis is None else {"axis": axis})


@recipe("TopK")
def top_k(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3), "mild")
    axis = axis_of(d, x.rank)
    k = d.choices.between(0, min(x.shape[axis], 5))
    given = d.attributes(largest=FLAG, sorted=(1,))
    if axis not in (-1, x.rank - 1) or d.maybe(40):
        given["axis"] = axis
    else:
        k = min(k, x.shape[-1])
    if d.has("k"):
        d.emit([x], {**given, "k": max(k, 1)}, 2)
        return
    d.emit([x, d.ints([k])], given, 2)


@recipe("Unique")
def unique(d: Sketch) -> None:
    x = d.data(0, (1, 2, 0, 3), "tame")
    given = d.attributes(sorted=FLAG)
    if x.rank and d.maybe(40):
        given["axis"] = axis_of(d, x.rank)
    d.emit([x], given, d.choices.one((1, 4, 2)))

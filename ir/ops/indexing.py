"""Ops that pick or place elements by index. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..affine import ZERO, Affine
from ..dependence import ANY, Dependences, Place, Table
from ..errors import FeedError, NotDifferentiableError, VerifyError
from ..numerics import MOVES
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import Space, everything, ints_at, is_given, shape_at
from ..traits import Moves
from ..types import Dim, Shape, TensorType, unify
from .adjoint import (
    ints,
    known_shape,
    places,
    put,
    rank_of,
    shape_of,
    shaped,
    size_of,
    where,
    zeros,
)
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

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


@register
@dataclass(frozen=True)
class Slice(Op):
    """x[start:end:step] along the given axes (the first ones if none are given)

    Starts and ends beyond the axis are clamped, as NumPy's are.
    """

    moves = Moves()
    numerics = MOVES

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

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        shape, starts = shape_at(operands, 0), ints_at(operands, 1)
        count = shape_at(operands, 1)[0]
        numbers = tuple(range(count)) if isinstance(count, int) else None
        which = ints_at(operands, 3) if is_given(operands, 3) else numbers
        steps = ints_at(operands, 4) if is_given(operands, 4) else (1,) * len(numbers or ())
        if which is None:
            return everything(operands, results, "the axes are computed")
        s, which = Space(operands, results), check_axes(which, len(shape))
        read: list[Place] = [*(own := s.loops(s.results[0]))]
        for i, k in enumerate(which):
            first = None if starts is None or steps is None else \
                _first(starts[i], steps[i], shape[k])  # fmt: skip
            read[k] = s.loop(f"all{k}", shape[k], ANY) if first is None or steps is None else \
                own[k].scaled(steps[i], first)  # fmt: skip
        s.relate(0, 0, read, own)
        s.rest("it says the places")
        return s.made()

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

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, starts, ends, axes, steps), (g,) = operands, gradients
        count = length(starts.abstract)
        which = None if axes is None else axes.abstract.as_ints()
        if axes is None and count is not None:
            which = tuple(range(count))
        if which is None:
            raise NotDifferentiableError("its axes are computed", hint="fold constants first")
        which = check_axes(which, rank_of(x))
        simple = self._margins(x, which, starts, ends, steps)
        if simple is not None:
            return (shaped(b, b.pad(g, ints(b, *simple), None, ints(b, *which)), x),)
        for i, axis in enumerate(which):
            part = [None if v is None else b.slice(v, ints(b, i), ints(b, i + 1))
                    for v in (starts, ends, steps)]  # fmt: skip
            source = b.slice(places(b, x, axis), part[0], part[1], ints(b, 0), part[2])
            g = put(b, g, source, x, axis)
        return (shaped(b, g, x),)

    def _margins(
        self, x: Value, axes: tuple[int, ...], starts: Value, ends: Value, steps: Value | None
    ) -> list[int] | None:
        """How many elements are left out before and after, where that is known and steps are 1."""
        a, z, shape = starts.abstract.as_ints(), ends.abstract.as_ints(), known_shape(x)
        step = (1,) if steps is None else steps.abstract.as_ints()
        if a is None or z is None or step is None or any(s != 1 for s in step):
            return None
        before, after = [], []
        for axis, start, end in zip(axes, a, z):
            n = shape[axis]
            if not isinstance(n, int):
                return None
            first, stop, _ = slice_bounds(n, start, end, 1)
            assert stop is not None
            before.append(first)
            after.append(n - max(stop, first))
        return [*before, *after]


def _first(start: int, step: int, size: Dim) -> int | None:
    """Where a slice begins; None where that depends on a size that is not known."""
    if isinstance(size, int):
        start = start + size if start < 0 else start
        return min(max(start, 0), size if step > 0 else size - 1)
    return None if start < 0 or step < 0 else start


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

    moves = Moves()
    numerics = MOVES
    axis: int = 0

    def infer(self, x: Abstract, indices: Abstract) -> Inferred:
        check_integer(indices, "the indices")
        if x.shape is None or indices.shape is None:
            return TensorType(x.dtype, None)
        axis = check_axis(self.axis, len(x.shape))
        return TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, shape = Space(operands, results), shape_at(operands, 0)
        axis, count = self.axis % len(shape), len(shape_at(operands, 1))
        own, n = s.loops(s.results[0]), shape[axis]
        at, reason = self._place(s, own[axis : axis + count], operands[1], n), ""
        if at is None:
            at, reason = s.loop("all", n, ANY), "the indices are computed"
        s.relate(0, 0, (*own[:axis], at, *own[axis + count :]), own, reason)
        s.relate(1, 0, own[axis : axis + count], own)
        return s.made()

    def _place(
        self, s: Space, own: Sequence[Affine], indices: Abstract | None, n: Dim
    ) -> Place | None:
        """What constant indices read, in even steps or by a table."""
        known = None if indices is None else indices.value
        if known is None or known.size > 1 << 20 or not isinstance(n, int):
            return None
        flat = [int(i) + n * (i < 0) for i in known.reshape(-1)]
        if not all(0 <= i < n for i in flat):
            return None  # refused when it runs
        step = flat[1] - flat[0] if len(flat) > 1 else 0
        if known.ndim <= 1 and flat and all(b - a == step for a, b in pairwise(flat)):
            return own[0].scaled(step, flat[0]) if known.ndim else Affine(flat[0])
        line = ZERO
        for size, place in zip(known.shape, own):
            line = line.scaled(size) + place
        return Table(tuple(flat), line)

    def reference(self, x: Array, indices: Array) -> Array:
        return np.take(x, _checked(indices, x.shape[self.axis]), axis=self.axis)

    def dims(self, x: Abstract, indices: Abstract) -> Shape | None:
        dims, at = x.as_dims(), indices.as_ints()
        if dims is None or at is None or x.shape is None or len(x.shape) != 1:
            return None
        if any(not -len(dims) <= i < len(dims) for i in at):
            raise VerifyError(f"indices {list(at)} are out of range for {len(dims)} elements")
        return tuple(dims[i] for i in at)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, at), (g,) = operands, gradients
        return shaped(b, put(b, g, at, x, check_axis(self.axis, rank_of(x))), x), None


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

    moves = Moves()
    numerics = MOVES
    axis: int = 0

    def infer(self, x: Abstract, indices: Abstract) -> Inferred:
        check_integer(indices, "the indices")
        _check_ranks(x, indices, self.axis)
        return TensorType(x.dtype, indices.shape)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, axis = Space(operands, results), self.axis % results[0].rank
        own = s.loops(s.results[0])
        whole = s.loop("all", shape_at(operands, 0)[axis], ANY)
        s.relate(0, 0, [whole if k == axis else p for k, p in enumerate(own)], own,
                 "the indices are computed")  # fmt: skip
        s.relate(1, 0, own, own)
        return s.made()

    def reference(self, x: Array, indices: Array) -> Array:
        axis = check_axis(self.axis, x.ndim)
        return x[_grid(indices.shape, axis, _checked(indices, x.shape[axis]))]

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, at), (g,) = operands, gradients
        return b.scatter_elements(zeros(b, x), at, g, axis=self.axis, reduction="add"), None


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

    moves = Moves()
    numerics = MOVES
    batch_dims: int = 0

    def infer(self, x: Abstract, indices: Abstract) -> Inferred:
        check_integer(indices, "the indices")
        depth = _depth(x, indices, self.batch_dims)
        if x.shape is None or indices.shape is None or depth is None:
            return TensorType(x.dtype, None)
        b = self.batch_dims
        batch = [unify(n, m) for n, m in zip(x.shape[:b], indices.shape[:b])]
        return TensorType(x.dtype, (*batch, *indices.shape[b:-1], *x.shape[b + depth :]))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, batch, shape = Space(operands, results), self.batch_dims, shape_at(operands, 0)
        own, places, depth = s.loops(s.results[0]), shape_at(operands, 1), shape_at(operands, 1)[-1]
        if not isinstance(depth, int):
            return everything(operands, results, "how many axes an index has is not known")
        whole = [s.loop(f"all{k}", n, ANY) for k, n in enumerate(shape[batch : batch + depth])]
        rest = own[len(places) - 1 :]
        s.relate(0, 0, (*own[:batch], *whole, *rest), own, "the indices are computed")
        s.relate(1, 0, (*own[: len(places) - 1], s.loop("entry", depth, ANY)), own)
        return s.made()

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

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, at), (g,) = operands, gradients
        for axis in reversed(range(self.batch_dims)):
            at = b.concat(_along(b, at, axis), at, axis=-1)
        return b.scatter_nd(zeros(b, x), at, g, reduction="add"), None


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


def _along(b: Builder, at: Value, axis: int) -> Value:
    """For each index its own place along an axis: i64 of at's shape, but 1 at the end."""
    rank = rank_of(at)
    own = b.reshape(places(b, at, axis), ints(b, *(-1 if i == axis else 1 for i in range(rank))))
    sizes = [size_of(b, at, i) for i in range(rank - 1)]
    return b.cast(b.expand(own, b.concat(*sizes, ints(b, 1), axis=0)), to=at.type.dtype)


def scatter_gradients(
    b: Builder, reduction: str, values: tuple[Value, ...], pick: Callable[..., Value],
    place: Callable[..., Value],
) -> tuple[Value, Value]:  # fmt: skip
    """The gradients of x and of the updates, for (x, updates, y, gradient of y)."""
    x, updates, y, g = values
    match reduction:
        case "add":
            return g, pick(g)
        case "none":  # where an index occurs twice, the last update is the one that counts
            count = b.reshape(b.size(updates), ints(b))
            number = b.range(b.constant(np.int64(0)), count, b.constant(np.int64(1)))
            number = b.reshape(number, shape_of(b, updates), allowzero=True)
            blank = b.constant_of_shape(shape_of(b, x), value=np.array([-1]))
            last = b.equal(pick(place(blank, number)), number)
            return place(g, zeros(b, updates)), where(b, last, pick(g))
        case "mul":
            factors = place(b.add(b.sub(x, x), b.number(1, x)), updates, "mul")
            return b.mul(g, factors), b.div(pick(b.mul(g, y)), updates)
    one, zero = b.number(1, g), b.number(0, g)
    own = b.where(b.equal(x, y), one, zero)
    theirs = b.where(b.equal(updates, pick(y)), one, zero)
    share = b.div(g, place(own, theirs, "add"))
    return b.mul(share, own), b.mul(pick(share), theirs)


@register
@dataclass(frozen=True)
class ScatterElements(Op):
    """x with y[indices[i, j, ...], j, ...] = updates[i, j, ...] (for axis 0), or joined to what is
    there by `reduction`
    """

    numerics = MOVES.but(
        overflow="`add` and `mul` as those ops, in order",
        ties="the last update of a place",
    )
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

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, axis = Space(operands, results), self.axis % results[0].rank
        own = s.loops(s.results[0])
        s.relate(0, 0, own, own)
        part = s.loops(shape_at(operands, 1), name="j")
        read = [s.loop("all", n, ANY) if k == axis else part[k]
                for k, n in enumerate(shape_at(operands, 1))]  # fmt: skip
        written = [own[k] if k == axis else p for k, p in enumerate(part)]
        for o in (1, 2):
            s.relate(o, 0, read, written, "the indices are computed")
        return s.made()

    def reference(self, x: Array, indices: Array, updates: Array) -> Array:
        axis = check_axis(self.axis, x.ndim)
        at = _grid(indices.shape, axis, _checked(indices, x.shape[axis]))
        return _scatter(x, at, updates, self.reduction)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, at, updates), (y,), (g,) = operands, results, gradients

        def pick(v: Value) -> Value:
            return b.gather_elements(v, at, axis=self.axis)

        def place(v: Value, new: Value, reduction: str = "none") -> Value:
            return b.scatter_elements(v, at, new, axis=self.axis, reduction=reduction)

        dx, du = scatter_gradients(b, self.reduction, (x, updates, y, g), pick, place)
        return dx, None, du


@register
@dataclass(frozen=True)
class ScatterND(Op):
    """x with y[indices[..., 0], indices[..., 1], ...] = updates[..., :], or joined to what is there
    by `reduction`
    """

    numerics = MOVES.but(
        overflow="`add` and `mul` as those ops, in order",
        ties="the last update of a place",
    )
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

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, places = Space(operands, results), shape_at(operands, 1)
        own, depth = s.loops(s.results[0]), places[-1]
        s.relate(0, 0, own, own)
        if not isinstance(depth, int):
            s.rest("how many axes an index has is not known")
            return s.made()
        whole = s.loops(places, ANY, "all")
        s.relate(1, 0, whole, own, "the indices are computed")
        s.relate(2, 0, (*whole[:-1], *own[depth:]), own, "the indices are computed")
        return s.made()

    def reference(self, x: Array, indices: Array, updates: Array) -> Array:
        at = tuple(_checked(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
        return _scatter(x, at, updates, self.reduction)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, at, updates), (y,), (g,) = operands, results, gradients

        def pick(v: Value) -> Value:
            return b.reshape(b.gather_nd(v, at), shape_of(b, updates), allowzero=True)

        def place(v: Value, new: Value, reduction: str = "none") -> Value:
            return b.scatter_nd(v, at, new, reduction=reduction)

        dx, du = scatter_gradients(b, self.reduction, (x, updates, y, g), pick, place)
        return dx, None, du

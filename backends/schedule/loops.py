"""The loops of a nest: which axes are walked as one, which is innermost, what is shared out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.analysis.index import Index
from ...ir.analysis.nest import Nest
from .layout import Ref, Tensor

LANES = 128  # neighbouring rows that are computed together
FEWEST_LANES = 8  # fewer are not worth it
LONG = 4096  # elements of a row that is cut in pieces where there are few rows
PIECE = 2048


@dataclass(frozen=True)
class View:
    """An operand or result: where it begins, and a stride for each axis of the nest."""

    tensor: Tensor
    offset: int
    strides: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor, index: Index, axes: int) -> View:
        strides, offset = [0] * axes, 0
        for f, stride in zip(index, tensor.strides):
            offset += f.start * stride
            for a, s in f.terms:
                strides[a] += s * stride
        return View(tensor, offset, tuple(strides))

    @property
    def key(self) -> tuple[object, ...]:
        t = self.tensor
        return (id(t.buffer), t.offset + self.offset, t.dtype, self.strides)

    @property
    def ref(self) -> Ref:
        return self.tensor.ref + self.offset

    def step(self, group: Sequence[int]) -> int:
        """The stride along axes that are walked as one."""
        return self.strides[group[-1]] if group else 0


@dataclass(frozen=True)
class Loops:
    """Axes that are walked as one: over rows, around the innermost loop, and in it.

    With `lanes` the innermost loop runs over neighbouring rows. It takes `width` elements at a
    time, in `pieces`, the last of which has `tail`.
    """

    rows: tuple[tuple[int, ...], ...]
    around: tuple[tuple[int, ...], ...]
    inner: tuple[int, ...]
    lanes: bool
    width: int
    pieces: int
    tail: int


def loops_of(nest: Nest, targets: Sequence[View], reads: Sequence[View], threads: int) -> Loops:
    """The best loops for these layouts."""
    views = [*targets, *reads]
    lead = targets[0]
    if not nest.inner:
        order = _outermost_first(nest.rows, lead)
        groups = _joined(order, views, nest.sizes)
        inner = groups.pop() if groups else ()
        return _cut(nest, groups, [], inner, False, threads)
    whole = max(reads, key=lambda v: sum(v.strides[k] != 0 for k in nest.inner), default=lead)
    along = _outermost_first(nest.inner, whole)
    lane = _lane(nest, whole, along[-1])
    rows = _joined([k for k in _outermost_first(nest.rows, lead) if k != lane], views, nest.sizes)
    groups = _joined(along, views, nest.sizes)
    if lane is not None:
        return _cut(nest, rows, groups, (lane,), True, threads)
    return _cut(nest, rows, groups[:-1], groups[-1], False, threads)


def _outermost_first(axes: Sequence[int], view: View) -> list[int]:
    return sorted(axes, key=lambda k: (-abs(view.strides[k]), k))


def _lane(nest: Nest, whole: View, innermost: int) -> int | None:
    """A row axis along which the data is contiguous, if the row itself is not."""
    item = whole.tensor.item
    if whole.strides[innermost] == item:
        return None
    fits = [k for k in nest.rows if whole.strides[k] == item and nest.sizes[k] >= FEWEST_LANES]
    return fits[0] if fits else None


def _joined(
    order: Sequence[int], views: Sequence[View], sizes: Sequence[int]
) -> list[tuple[int, ...]]:
    """Neighbouring axes in groups that every view walks with one stride."""
    groups: list[tuple[int, ...]] = []
    for k in order:
        if groups and all(v.step(groups[-1]) == v.strides[k] * sizes[k] for v in views):
            groups[-1] = (*groups[-1], k)
        else:
            groups.append((k,))
    return groups


def _cut(
    nest: Nest, rows: Sequence[tuple[int, ...]], around: Sequence[tuple[int, ...]],
    inner: tuple[int, ...], lanes: bool, threads: int,
) -> Loops:  # fmt: skip
    """The innermost loop in pieces: vectors of lanes, or a long row where there are few."""
    size = extent(nest, inner)
    width = size
    few = math.prod(extent(nest, g) for g in rows) < 4 * threads
    if lanes:
        width = min(size, LANES)
    elif not nest.inner and few and threads > 1 and size > LONG:
        width = PIECE
    pieces = -(-size // width) if width else 1  # a row of nothing is a piece of nothing
    tail = size - (pieces - 1) * width
    return Loops(tuple(rows), tuple(around), inner, lanes, width, pieces, tail)


def extent(nest: Nest, group: Sequence[int]) -> int:
    return math.prod(nest.sizes[k] for k in group)

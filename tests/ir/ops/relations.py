"""Relations as tables of truths, samples with changed operands, and samples cut along loops: what
the tests of dependence compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from op_samples import Sample
from taut.ir import Abstract, DType, Op, TensorType
from taut.ir.affine import Affine
from taut.ir.analysis.dependence import dependence_of
from taut.ir.dependence import Dependences, Map, Relation, place_of
from taut.ir.ops.windows import Windowed

Array = np.ndarray[Any, Any]
LARGEST = 1 << 22
JOIN = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def run(op: Op, operands: Sequence[Array | None]) -> list[Array]:
    with np.errstate(all="ignore"):
        made = op.reference(*operands)
    return [np.ascontiguousarray(y).reshape(np.shape(y))
            for y in (made if isinstance(made, tuple) else (made,))]  # fmt: skip


def related(sample: Sample, results: Sequence[Array]) -> Dependences:
    """The dependence of a sample whose operands are all known."""
    known = [None if x is None else Abstract(TensorType.of(x), x) for x in sample.operands]
    return dependence_of(sample.op, known, [TensorType.of(y) for y in results])


def related_with_less(sample: Sample, results: Sequence[Array], how: str) -> Dependences:
    """The same where contents are not known ("types"), nor sizes ("symbols", "dimensions"), with
    the sizes put back afterwards."""

    def shape(x: Array) -> Any:
        if how == "types":
            return x.shape
        return tuple(d if d <= 1 else f"d{d}" if how == "symbols" else None for d in x.shape)

    known = [None if x is None else Abstract(TensorType(DType.of(x), shape(x)))
             for x in sample.operands]  # fmt: skip
    types = [TensorType(DType.of(y), shape(y)) for y in results]
    found = dependence_of(sample.op, known, types)
    sizes: dict[tuple[int, int], int] = {}
    ends = []
    for d in found:
        x, y = sample.operands[d.operand], results[d.result]
        assert x is not None
        ends.append((x.shape, y.shape))
        if isinstance(d, Relation):
            for place, n in [*zip(d.read, x.shape), *zip(d.written, y.shape)]:
                if isinstance(place, Affine) and len(place.terms) == 1 and place.terms[0][1] == 1:
                    sizes.setdefault((id(d.loops), place.terms[0][0]), n - place.start)
    return tuple(_sized(d, sizes, *shapes) for d, shapes in zip(found, ends))


def _sized(
    d: Any, sizes: Mapping[tuple[int, int], int], x: tuple[int, ...], y: tuple[int, ...]
) -> Any:
    """A relation with sizes in the place of symbols and of what an axis of its own counts."""
    if not isinstance(d, Relation):
        return d
    known = [int(p.size[1:]) if isinstance(p.size, str)
             else sizes.get((id(d.loops), k), 1) if p.size is None else p.size
             for k, p in enumerate(d.loops)]  # fmt: skip
    loops = tuple(replace(p, size=n) for p, n in zip(d.loops, known))
    return replace(d, loops=loops, operand_shape=x, result_shape=y)


# ---- tables --------------------------------------------------------------------------------------


def truths(d: Any, x: Array, y: Array) -> Array:
    """Whether element j of the result may depend on element i of the operand, flat."""
    shown = np.zeros((x.size, y.size), bool)
    if not isinstance(d, Relation):
        return ~shown
    assert (d.operand_shape, d.result_shape) == (x.shape, y.shape)
    numbers = [n for k in d.used if isinstance(n := d.loops[k].size, int)]
    assert len(numbers) == len(d.used), d
    count = int(np.prod(numbers, dtype=float))
    assert count <= LARGEST, d
    points = dict(zip(d.used, np.indices(numbers).reshape(len(numbers), count)))
    inside, ends = np.ones(count, bool), []
    for places, shape in ((d.read, x.shape), (d.written, y.shape)):
        flat = np.zeros(count, np.int64)
        for place, n in zip(places, shape):
            index = np.broadcast_to(place_of(place, points), (count,))
            inside = inside & (index >= 0) & (index < n)
            flat = flat * n + index
        ends.append(flat)
    shown[ends[0][inside], ends[1][inside]] = True
    return shown


def joint(found: Dependences, operand: int, result: int, x: Array, y: Array) -> Array:
    """All relations of one operand and one result together."""
    made = np.zeros((x.size, y.size), bool)
    for d in found:
        if (d.operand, d.result) == (operand, result):
            made |= truths(d, x, y)
    return made


# ---- changes -------------------------------------------------------------------------------------


def other(x: Array, marks: Array, chance: np.random.Generator) -> Array:
    """x with other values where the flat `marks` are: small and large ones of either sign, unless
    all of x is positive; integers from the range that x has (those of 8 bits from all)."""
    made, kind, count = x.reshape(-1).copy(), DType.of(x), int(marks.sum())
    if kind is DType.bool:
        made[marks] = ~made[marks]
    elif kind.is_float:
        new = chance.standard_normal(count) * np.where(chance.random(count) < 0.5, 1, 100)
        positive = (x.astype(np.float64) > 0).all()
        made[marks] = (np.abs(new) + 0.1 if positive else new).astype(x.dtype)
    else:
        low, high = (int(x.min()), int(x.max())) if kind.bits > 8 else kind.bounds
        high = min(high, low + (1 << 52))
        made[marks] = [low + int(t * (high - low + 1)) for t in chance.random(count)]
    return made.reshape(x.shape)


def changed(a: Array, b: Array, rounded: bool = False) -> Array:
    """Where two results differ, flat: in any bit, or (`rounded`) by more than rounding."""
    if not a.size:
        return np.zeros(0, bool)
    if rounded and DType.of(a).is_float:
        tolerance = 2e-2 if a.dtype.itemsize < 4 else 1e-4
        wide = [v.astype(np.float64).reshape(-1) for v in (a, b)]
        return ~np.isclose(*wide, rtol=tolerance, atol=tolerance, equal_nan=True)
    bits = [np.ascontiguousarray(v).view(np.uint8).reshape(v.size, -1) for v in (a, b)]
    return (bits[0] != bits[1]).any(1)


# ---- cuts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A sample on one part of a loop, and what it should give."""

    op: Op
    operands: list[Array | None]
    wanted: list[Array]


@dataclass(frozen=True)
class Cut:
    """A loop of a sample, cut in two; `how` its parts are to be joined ("": each is a part)."""

    sample: Sample
    relations: tuple[Relation, ...]
    made: list[Array]
    loop: int
    how: str

    def part(self, number: int) -> Part:
        n = self.relations[0].loops[self.loop].size
        assert isinstance(n, int)
        some = range((n + 1) // 2) if number == 0 else range((n + 1) // 2, n)
        operands: list[Array | None] = [*self.sample.operands]
        wanted = [*self.made]
        for d in self.relations:
            x = self.sample.operands[d.operand]
            assert x is not None
            if self._has(d.read):
                operands[d.operand] = x[np.ix_(*self._kept(d, d.read, x.shape, some))]
            if self._has(d.written):
                y = self.made[d.result]
                wanted[d.result] = y[np.ix_(*self._kept(d, d.written, y.shape, some))]
        return Part(self._op(some), self._sized(operands, wanted), wanted)

    def _has(self, places: Map) -> bool:
        return any(self.loop in p.axes for p in places)

    def _kept(self, d: Relation, places: Map, shape: Sequence[int], some: range) -> Iterator[Array]:
        """The indices of each axis that the loop's part reaches."""
        for place, n in zip(places, shape):
            if self.loop not in place.axes:
                yield np.arange(n)
                continue
            ks = sorted(place.axes)
            spans: list[Any] = [some if k == self.loop else range(int(str(d.loops[k].size)))
                                for k in ks]  # fmt: skip
            points: Mapping[int, Array] = dict(zip(ks, np.ix_(*map(np.array, spans))))
            index = np.unique(place_of(place, points))
            yield index[(index >= 0) & (index < n)]

    def _op(self, some: range) -> Op:
        """The op for this part: as many groups (or heads) as it has, pads where it still has a
        border, blocks of its size."""
        op, name = self.sample.op, self.relations[0].loops[self.loop].name
        if name in ("group", "num_groups"):
            return op.replace(**{name: len(some)})
        if name == "inside":
            return op.replace(block_size=len(some))
        for d in self.relations:
            for i, place in enumerate(d.read):
                windowed = isinstance(op, Windowed) and d.kind(i) in ("window", "blocks") and i > 1
                if windowed and self.loop in place.axes:
                    return self._padded(op, d, i - 2, some)
        return op

    def _padded(self, op: Any, d: Relation, axis: int, some: range) -> Op:
        weight = next((x for x in self.sample.operands[1:] if x is not None and x.ndim > 2), None)
        kernel = op.kernel_shape or (() if weight is None else weight.shape[2:])
        sizes = d.operand_shape[2:]
        w = op.window(sizes, kernel)
        start = some.start * w.strides[axis] - w.begin[axis]
        stop = (some.stop - 1) * w.strides[axis] + w.extent[axis] - w.begin[axis]
        begin, end = [*w.begin], [*w.end]
        begin[axis], end[axis] = max(-start, 0), max(stop - int(str(sizes[axis])), 0)
        return op.replace(pads=(*begin, *end), auto_pad="NOTSET")

    def _sized(self, operands: list[Array | None], wanted: list[Array]) -> list[Array | None]:
        """Operands that hold a result's shape get the part's."""
        return [
            next((np.array(w.shape, np.int64) for y, w in zip(self.made, wanted)
                  if x is not None and x.dtype == np.int64 and x.shape == (y.ndim,)
                  and tuple(x) == y.shape), x)
            for x in operands
        ]  # fmt: skip


PLAIN = {"same", "mixed radix", "blocks", "window", "contracted"}
"""Axes that are sliced. What a segment or a permutation reads is for the tables: with a slice of
the operand, the op's places are other ones."""


def cuts(sample: Sample, made: list[Array]) -> Iterator[Cut]:
    """The loops of a sample along which it can be cut and run in parts."""
    found = [d for d in related(sample, made) if isinstance(d, Relation)]
    if not found or any(d.loops is not found[0].loops for d in found):
        return  # those of bodies have loops of their own
    for k, loop in enumerate(found[0].loops):
        mine = [d for d in found if k in d.used]
        kinds = {d.kind(i) for d in mine for i in d.axes_of(k)[0]}
        count = loop.size
        if not isinstance(count, int) or count < 2 or not kinds or not kinds <= PLAIN:
            continue
        if loop.cut == "no" or not _is_whole(found, k):
            continue
        if getattr(sample.op, "ceil_mode", False) and kinds & {"window", "blocks"}:
            continue  # the last window reaches beyond what pads can say
        if loop.cut == "partial":
            inputs = [o for o, x in enumerate(sample.operands) if x is not None]
            reading = {d.operand for d in mine if d.axes_of(k)[0]}
            if kinds != {"contracted"} or reading != set(inputs):
                continue  # a bias would be added twice
        yield Cut(sample, tuple(found), made, k, loop.how)


def _is_whole(found: Sequence[Relation], k: int) -> bool:
    """Whether axes that the loop counts are counted by it in all relations."""
    reads: dict[tuple[int, int], set[bool]] = {}
    writes: dict[tuple[int, int], set[bool]] = {}
    for d in found:
        for i, place in enumerate(d.read):
            reads.setdefault((d.operand, i), set()).add(k in place.axes)
        for i, place in enumerate(d.written):
            writes.setdefault((d.result, i), set()).add(k in place.axes)
    return all(len(v) == 1 for v in (*reads.values(), *writes.values()))

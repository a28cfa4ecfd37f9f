"""What an op's results depend on: relations between the axes of an operand and of a result.

A node has numbered *loops* (as the indexing maps of MLIR's linalg dialect have). For an operand and
a result, a `Relation` says for each axis of either which index stands there, as a function of the
loops. A result's element depends on those of the operand that some point of the loops joins to it,
and on no others:

    conv   x[n, group*i, stride*p + dilation*k - pad]  ->  y[n, group*o, p]     sum over i and k
    concat the second part  x[i, j]  ->  y[i, 3 + j]

What stands outside of a tensor (padding) is no element of it. Several relations between one operand
and one result hold together: what none of them joins does not depend. Relations are exact or say
too much, never too little; where `Unknown` stands, anything may depend on anything.

Operands that say how an op goes (a shape, axes, places) and are known are part of the relations
between the others, and may change all of a result themselves (`everything`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .affine import Affine
from .types import Dim, Shape

ANY = "any"
ASSOCIATIVE = frozenset(("sum", "prod", "max", "min"))
Cut = Literal["parallel", "partial", "no"]
Kind = Literal[
    "same", "segment", "mixed radix", "permuted", "window", "blocks", "contracted", "everything",
    "fixed",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loop:
    """A range of indices. `how` says how its points are joined: "" where each has results of its
    own (it is *parallel*), else the name of a sum, max, ...; "any" for an arbitrary function of
    all that is read along it.
    """

    name: str
    size: Dim
    how: str = ""

    @property
    def cut(self) -> Cut:
        """What the pieces give if the loop is cut: parts of the result; partial results, to be
        joined by `how`; or nothing of use.
        """
        if not self.how:
            return "parallel"
        return "partial" if self.how in ASSOCIATIVE else "no"


@dataclass(frozen=True, slots=True)
class Table:
    """values[at]: a permutation or gather by constants. A negative value is no element."""

    values: tuple[int, ...]
    at: Affine

    @property
    def axes(self) -> frozenset[int]:
        return self.at.axes


Place = Affine | Table
Map = tuple[Place, ...]
Indices = np.ndarray[Any, Any]
_LARGEST = 1 << 24  # points of loops that a query looks at


@dataclass(frozen=True)
class Relation:
    """How result number `result` depends on operand number `operand`.

    `read` and `written` are the indices of the operand's and of the result's axes over `loops`,
    which all relations of a node share by number. `reason` says why an axis is read as a whole,
    where one might expect more.
    """

    operand: int
    result: int
    loops: tuple[Loop, ...]
    read: Map
    written: Map
    operand_shape: Shape
    result_shape: Shape
    reason: str = ""

    # ---- loops ---------------------------------------------------------------------------------

    @property
    def used(self) -> tuple[int, ...]:
        """The loops that this relation has."""
        return tuple(sorted(frozenset[int]().union(*(p.axes for p in (*self.read, *self.written)))))

    @property
    def contracted(self) -> tuple[int, ...]:
        """The loops whose points are joined in one element of the result."""
        return tuple(k for k in self.used if self.loops[k].how)

    def axes_of(self, loop: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of the operand and of the result whose index this loop is part of."""
        return (tuple(i for i, p in enumerate(self.read) if loop in p.axes),
                tuple(i for i, p in enumerate(self.written) if loop in p.axes))  # fmt: skip

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(operand axis, result axis) of axes whose indices are the same."""
        return tuple((i, j) for i, p in enumerate(self.read) for j, q in enumerate(self.written)
                     if p == q and self.kind(i) == "same")  # fmt: skip

    def index_of(self, axis: int) -> Indices:
        """For each element of the operand, at which index of a result's axis its results are: an
        array that broadcasts to the operand, of size 1 along axes that do not matter.

        So is the output channel of every element of a weight. Raises ValueError where an element
        has results at several, or a size is not known.
        """
        wanted = self.written[axis].axes
        at = [i for i, p in enumerate(self.read) if p.axes & wanted]
        loops = sorted(frozenset[int]().union(*(self.read[i].axes for i in at)))
        sizes = [n for k in loops if isinstance(n := self.loops[k].size, int)]
        if len(sizes) < len(loops) or not wanted <= set(loops):
            raise ValueError(f"axis {axis} of {self} has no index for each element")
        shape = [n if i in at else 1 for i, n in enumerate(self.operand_shape)]
        points = dict(zip(loops, np.ix_(*map(np.arange, sizes))))
        made = np.zeros([int(str(n)) for n in shape], np.int64)
        places = [place_of(p, points) if i in at else 0 for i, p in enumerate(self.read)]
        made[tuple(places)] = place_of(self.written[axis], points)
        return made

    def kind(self, at: int) -> Kind:
        """What an axis of the operand is to the result."""
        place = self.read[at]
        if isinstance(place, Table):
            return "permuted"
        if not place.terms:
            return "fixed"
        hows = [self.loops[k].how for k, _ in place.terms]
        if all(hows):
            return "everything" if ANY in hows else "contracted"
        if any(hows):
            return "blocks" if self._tiles(place, self.operand_shape[at]) else "window"
        return self._parallel_kind(place, self.operand_shape[at])

    def _parallel_kind(self, place: Affine, size: Dim) -> Kind:
        joined = [j for j, q in enumerate(self.written) if q.axes & place.axes]
        if [self.written[j] for j in joined] == [place]:
            return "same" if self.result_shape[joined[0]] == size else "segment"
        if any(isinstance(self.written[j], Table) for j in joined):
            return "permuted"
        parts = [place, *(self.written[j] for j in joined)]
        return "segment" if len(joined) == 1 and all(len(p.axes) == 1 for p in parts) else \
            "mixed radix"  # fmt: skip

    def _tiles(self, place: Affine, size: Dim) -> bool:
        """Whether each index of an axis occurs once, as mixed-radix digits count."""
        step: Dim = 1
        for k, s in sorted(place.terms, key=lambda term: term[1]):
            if s != step:
                return False
            n = self.loops[k].size
            step = s * n if isinstance(n, int) else n if s == 1 else None
        return place.start == 0 and step == size

    # ---- sets of indices -----------------------------------------------------------------------

    def reads(self, wanted: Mapping[int, Iterable[int]]) -> tuple[Indices | None, ...]:
        """For each axis of the operand the indices that results at `wanted` depend on.

        `wanted` has sets of indices for axes of the result; the other axes count as a whole. None
        stands for all of an axis, where it cannot be said (sizes that are not known).
        """
        return self._image(self.written, self.read, self.result_shape, self.operand_shape, wanted)

    def reached(self, given: Mapping[int, Iterable[int]]) -> tuple[Indices | None, ...]:
        """For each axis of the result the indices that may depend on the operand at `given`."""
        return self._image(self.read, self.written, self.operand_shape, self.result_shape, given)

    def _image(
        self, source: Map, target: Map, source_shape: Shape, target_shape: Shape,
        given: Mapping[int, Iterable[int]],
    ) -> tuple[Indices | None, ...]:  # fmt: skip
        sets = {i: np.unique(np.fromiter(v, np.int64)) for i, v in given.items()}
        found: list[Indices | None] = [None] * len(target)
        for loops, at, to in _components(source, target):
            points = self._points(loops, source, at, sets)
            if points is None:
                continue
            keep: Any = np.True_
            for i in at:
                index = place_of(source[i], points)
                keep = keep & _inside(index, source_shape[i])
                if i in sets:
                    keep = keep & np.isin(index, sets[i])
            if not np.any(keep):
                return tuple(np.zeros(0, np.int64) for _ in target)
            for i in to:
                index, ok = np.broadcast_arrays(place_of(target[i], points), keep)
                index = np.unique(index[ok])
                found[i] = index[_inside(index, target_shape[i])]
        return tuple(found)

    def _points(
        self, loops: Iterable[int], source: Map, at: Sequence[int], sets: Mapping[int, Indices]
    ) -> dict[int, Indices] | None:
        """The indices of these loops, each along an axis of its own; None where they are too many
        or not known.
        """
        values: dict[int, Indices] = {}
        for k in sorted(loops):
            n = self.loops[k].size
            found = np.arange(n) if isinstance(n, int) else self._solved(source, at, sets, k)
            if found is None:
                return None
            values[k] = found
        if math.prod(len(v) for v in values.values()) > _LARGEST:
            return None
        return dict(zip(values, np.ix_(*values.values())))

    def _solved(
        self, source: Map, at: Sequence[int], sets: Mapping[int, Indices], loop: int
    ) -> Indices | None:
        """A loop's indices, from the set of an axis that it alone counts."""
        for i in at:
            place = source[i]
            if i in sets and isinstance(place, Affine) and place.axes == {loop}:
                step = place.terms[0][1]
                rest = sets[i] - place.start
                return rest[rest % step == 0] // step
        return None

    def __str__(self) -> str:
        sums: dict[str, list[str]] = {}
        for k in self.contracted:
            sums.setdefault(self.loops[k].how, []).append(self.loops[k].name)
        ends = [f"{how} over {', '.join(names)}" for how, names in sums.items()]
        made = f"operand {self.operand}{self._shown(self.read)} -> " \
               f"result {self.result}{self._shown(self.written)}"  # fmt: skip
        return "; ".join([made, *ends]) + (f" ({self.reason})" if self.reason else "")

    def _shown(self, places: Map) -> str:
        return f"[{', '.join(_text(p, self.loops) for p in places)}]"


@dataclass(frozen=True)
class Unknown:
    """All of a result may depend on all of an operand, for this reason."""

    operand: int
    result: int
    reason: str

    def __str__(self) -> str:
        return f"operand {self.operand} -> result {self.result}: unknown, {self.reason}"


Dependence = Relation | Unknown
Dependences = tuple[Dependence, ...]


def own_axes(found: Dependences, operand: int, data: int = 0) -> tuple[int, ...]:
    """The axes of result 0 that an operand has, and operand `data` has not: a weight's output
    channels. Where the data has all of them (a depthwise convolution), those that both have.
    """
    one, other = (next((d for d in found if isinstance(d, Relation) and d.result == 0
                        and d.operand == o), None) for o in (operand, data))  # fmt: skip
    if one is None or other is None:
        return ()
    mine, theirs = (frozenset(k for p in d.read for k in p.axes if not d.loops[k].how)
                    for d in (one, other))  # fmt: skip
    only = tuple(i for i, p in enumerate(one.written) if p.axes & (mine - theirs))
    return only or tuple(i for i, p in enumerate(one.written) if p.axes and p.axes <= mine)


def place_of(place: Place, points: Mapping[int, Any]) -> Any:
    """The index at points of the loops, which may be arrays."""
    if isinstance(place, Table):
        at = place_of(place.at, points)
        values = np.array(place.values, np.int64)
        inside = (at >= 0) & (at < len(values))
        if not len(values):
            return np.full(np.shape(at), -1)
        return np.where(inside, values[np.clip(at, 0, len(values) - 1)], -1)
    made: Any = np.int64(place.start)
    for k, step in place.terms:
        made = made + step * points[k]
    return made


def _inside(index: Any, size: Dim) -> Any:
    return index >= 0 if not isinstance(size, int) else (index >= 0) & (index < size)


def _components(source: Map, target: Map) -> list[tuple[frozenset[int], list[int], list[int]]]:
    """Loops, and the axes of both sides that they join, directly or through others."""
    groups: list[tuple[frozenset[int], list[int], list[int]]] = []
    sides = [(p.axes, [i], []) for i, p in enumerate(source)]
    sides += [(p.axes, [], [i]) for i, p in enumerate(target)]
    for mine in sides:
        apart = []
        for group in groups:
            if group[0] & mine[0]:
                mine = (group[0] | mine[0], group[1] + mine[1], group[2] + mine[2])
            else:
                apart.append(group)
        groups = [*apart, mine]
    return groups


def _text(place: Place, loops: Sequence[Loop]) -> str:
    if isinstance(place, Table):
        return f"table[{_text(place.at, loops)}]"
    parts = [loops[k].name if s == 1 else f"{s}*{loops[k].name}" for k, s in
             sorted(place.terms, key=lambda term: -abs(term[1]))]  # fmt: skip
    if place.start or not parts:
        parts.append(str(place.start))
    return " + ".join(parts).replace("+ -", "- ")

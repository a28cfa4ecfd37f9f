"""Ops that move data: reshaping, joining, cutting, repeating."""

from __future__ import annotations

from typing import Any

import numpy as np

from taut.ir import DType

from ..sketch import MOST, Misfit, Ref, Sketch
from .base import FLAG, axes_of, axis_of, numbers, recipe


@recipe("Identity", "Size", "NonZero")
def plain(d: Sketch) -> None:
    d.emit([d.data(0)])


@recipe("Shape")
def shape(d: Sketch) -> None:
    x = d.data(0)
    d.emit([x], d.attributes(start=(1, 0, -1, -9), end=(2, -1, 9, 0)))


@recipe("Reshape")
def reshape(d: Sketch) -> None:
    x = d.data(0)
    size = int(np.prod(x.shape, dtype=np.int64))
    given = d.attributes(allowzero=FLAG)
    factors = [f for f in (1, 2, 3, 4, 5, 7) if size and size % f == 0]
    made: list[int] = []
    rest = size
    for _ in range(d.choices.one((1, 2, 0, 3, 4))):
        f = d.choices.one([f for f in factors if rest and rest % f == 0] or [1])
        made.append(f)
        rest = rest // f
    if size == 0:
        made = d.choices.shuffled(x.shape)
    elif rest != 1 or d.maybe(50):
        made.insert(d.choices.below(len(made) + 1), rest)
    if made and 0 not in made and d.maybe(40):
        made[d.choices.below(len(made))] = -1
    elif not given.get("allowzero") and d.maybe(30):
        made = [0 if i < x.rank and v == x.shape[i] else v for i, v in enumerate(made)]
    d.emit([x, d.ints(made)], given)


@recipe("Flatten")
def flatten(d: Sketch) -> None:
    x = d.data(0, (2, 3, 1, 4, 0))
    d.emit([x], d.attributes(axis=(d.choices.between(0 if d.opset < 11 else -x.rank, x.rank),)))


@recipe("Transpose")
def transpose(d: Sketch) -> None:
    x = d.data(0, (2, 3, 4, 1, 5, 0))
    d.emit([x], d.attributes(perm=(tuple(d.choices.shuffled(range(x.rank))),)))


@recipe("Squeeze")
def squeeze(d: Sketch) -> None:
    x = d.data(0, (3, 2, 1, 4))
    places = [i for i, s in enumerate(x.shape) if s == 1]
    given: dict[str, Any] = {}
    axes = axes_of(d, places, x.rank, 1) if places and d.maybe(75) else None
    d.emit([x, numbers(d, "axes", axes, given)], given)


@recipe("Unsqueeze")
def unsqueeze(d: Sketch) -> None:
    x = d.data(0, (2, 1, 0, 3))
    count = d.choices.between(1, 3)
    rank = x.rank + count
    places = d.choices.some(range(rank), count)[:count]
    axes = [p - rank if d.opset >= 11 and d.maybe(30) else p for p in places]
    given: dict[str, Any] = {}
    d.emit([x, numbers(d, "axes", axes, given)], given)


@recipe("Expand")
def expand(d: Sketch) -> None:
    x = d.data(0, (2, 1, 0, 3))
    target = [d.choices.one((2, 3, 1, 0)) if s == 1 and d.maybe(60) else s for s in x.shape]
    target = [1 if d.maybe(15) else t for t in target]
    target = [*d.shape((0, 1, 2)), *target] if d.maybe(40) else target
    if int(np.prod(target, dtype=np.int64)) > 4 * MOST:
        raise Misfit("large")
    d.emit([x, d.ints(target)])


@recipe("Tile")
def tile(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 0))
    repeats = [d.choices.one((2, 1, 3, 0)) for _ in x.shape]
    if int(np.prod(repeats)) * int(np.prod(x.shape)) > 4 * MOST:
        raise Misfit("large")
    d.emit([x, d.ints(repeats)])


@recipe("Concat")
def concat(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4))
    axis = axis_of(d, x.rank)
    operands = [x]
    for _ in range(d.choices.below(4)):
        other = list(x.shape)
        other[axis] = d.size()
        operands.append(d.operand(0, other, constant=40))
    given = d.choices.shuffled(operands)
    d.emit(given, {"axis": axis})


@recipe("Split")
def split(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3))
    axis = axis_of(d, x.rank)
    given: dict[str, Any] = {"axis": axis} if axis or d.maybe(50) else {}
    length, count = x.shape[axis], d.choices.between(1, 3)
    sizes = None
    if d.maybe(60) or (d.opset < 18 and length % count):
        cuts = sorted(d.choices.between(0, length) for _ in range(count - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, length])]
    elif d.has("num_outputs"):
        given["num_outputs"] = count
    operand = numbers(d, "split", sizes, given)
    d.emit([x, operand], given, count)


@recipe("Slice")
def slice_(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4))
    steps = d.opset >= 10
    places = d.choices.some(range(x.rank), 1)
    starts, ends, by = [], [], []
    for p in places:
        n = x.shape[p]
        step = d.choices.one((1, 1, 2, -1, 3, -2)) if steps else 1
        options = [0, 1, -1, n, n - 1, -n, -n - 2, n + 3, 1 << 40, -(1 << 40)]
        a, b = d.choices.one(options[:8]), d.choices.one(options[::-1] if d.maybe(50) else options)
        starts.append(a)
        ends.append(b)
        by.append(step)
    axes = [p - x.rank if d.opset >= 10 and d.maybe(30) else p for p in places]
    if not steps:
        d.emit([x], {"starts": tuple(starts), "ends": tuple(ends), "axes": tuple(axes)})
        return
    kind = d.dtype(1, (DType.i64, DType.i32))
    if kind is DType.i32:
        ends = [max(min(e, 2**31 - 1), -(2**31)) for e in ends]
    leave = sorted(places) == list(range(x.rank)) and places == sorted(places) and d.maybe(50)
    operands = [x, d.ints(starts, kind), d.ints(ends, kind), None if leave else d.ints(axes, kind)]
    if any(s != 1 for s in by) or d.maybe(30):
        operands.append(d.ints(by, kind))
    d.emit(operands)


@recipe("Pad")
def pad(d: Sketch) -> None:
    modes = ["constant", "reflect", "edge"] + ["wrap"] * (d.opset >= 19)
    mode = d.choices.one(modes)
    x = d.data(0, (2, 1, 3, 4), zeros=mode == "constant")
    given: dict[str, Any] = {} if mode == "constant" and d.maybe(60) else {"mode": mode}
    axes = None
    places = list(range(x.rank))
    if d.opset >= 18 and d.maybe(35):
        places = sorted(d.choices.some(range(x.rank), 1))
        axes = [p - x.rank if d.maybe(30) else p for p in places]
    most = [min(x.shape[p] - 1, 3) if mode == "reflect" else 3 for p in places]
    pads = [d.choices.between(0, max(m, 0)) for m in (*most, *most)]
    if d.maybe(20):
        at = d.choices.below(len(pads))
        pads[at] = -min(1, x.shape[places[at % len(places)]])
    if d.has("pads"):
        given |= d.attributes(value=(0.0, 1.5))
        d.emit([x], {**given, "pads": tuple(pads)})
        return
    value: Ref | None = d.operand(2, ()) if mode == "constant" and d.maybe(50) else None
    listed = None if axes is None else d.ints(axes, d.index_dtype(3))
    d.emit([x, d.ints(pads), value, listed], given)


@recipe("ConstantOfShape")
def constant_of_shape(d: Sketch) -> None:
    from ..sketch import _dtypes

    wanted = d.shape((2, 1, 0, 3))
    given: dict[str, Any] = {}
    if d.maybe(70):
        kind = d.choices.one(_dtypes(d.schema.outputs[0].types))
        given["value"] = np.array([d.choices.one((0, 1, 3))]).astype(kind.numpy)
    d.emit([d.ints(wanted)], given)


@recipe("EyeLike")
def eye_like(d: Sketch) -> None:
    from ..sketch import _dtypes

    x = d.data(0, (2,))
    kinds = _dtypes(d.schema.outputs[0].types)
    d.emit([x], d.attributes(k=(1, 0, -1, 9), dtype=(kinds[0], d.choices.one(kinds))))


@recipe("Trilu")
def trilu(d: Sketch) -> None:
    x = d.data(0, (2, 3, 4))
    k = d.put(np.array(d.choices.one((0, 1, -1, 9, -9))), 80) if d.maybe(60) else None
    d.emit([x, k], d.attributes(upper=FLAG))


@recipe("ReverseSequence")
def reverse_sequence(d: Sketch) -> None:
    x = d.data(0, (2, 3, 4))
    swapped = d.maybe(50)
    given = {"batch_axis": 1, "time_axis": 0} if not swapped else {"batch_axis": 0, "time_axis": 1}
    if not swapped and d.maybe(50):
        given = {}
    n, t = x.shape[1 - swapped], x.shape[int(swapped)]
    d.emit([x, d.ints([d.choices.between(min(1, t), t) for _ in range(n)], constant=40)], given)

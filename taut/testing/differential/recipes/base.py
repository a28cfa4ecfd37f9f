"""The table of recipes, the generic one, and what several share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..sketch import Misfit, Ref, Sketch

Recipe = Callable[[Sketch], None]
RECIPES: dict[str, Recipe] = {}
"""By ONNX name, or by text name for ops that ONNX lacks."""

FLAG = (0, 1)
FACTORS = (0.5, 1.0, 0.1, 2.0, 0.0, -0.5)
EPSILONS = (1e-5, 1e-3, 0.5, 0.0)


def recipe(*ops: str) -> Callable[[Recipe], Recipe]:
    def add(f: Recipe) -> Recipe:
        for op in ops:
            RECIPES[op] = f
        return f

    return add


def axis_of(d: Sketch, rank: int, more: int = 0) -> int:
    """An axis, counted from the end in some draws; `more` places beyond the last are allowed."""
    if rank + more < 1:
        raise Misfit("a scalar has no axis")
    axis = d.choices.below(rank + more)
    return axis - rank if axis < rank and d.maybe(35) else axis


def axes_of(d: Sketch, places: Sequence[int], rank: int, least: int = 0) -> list[int]:
    """Some of these places, each counted from the end in some draws."""
    return [a - rank if d.maybe(30) else a for a in sorted(d.choices.some(places, least))]


def numbers(d: Sketch, name: str, values: Sequence[int] | None, attributes: dict[str, Any]
            ) -> Ref | None:  # fmt: skip
    """Whole numbers as an operand, or as the attribute `name` in opsets that had it so."""
    if values is None:
        return None
    if d.has(name):
        attributes[name] = tuple(values)
        return None
    return d.ints(values)


# ---- the generic recipe --------------------------------------------------------------------------

_OPTIONS: dict[str, Sequence[Any]] = {
    "alpha": FACTORS, "beta": FACTORS, "gamma": FACTORS, "lambd": FACTORS, "bias": FACTORS,
    "fmod": FLAG, "direction": ("RIGHT", "LEFT"), "detect_positive": FLAG, "detect_negative": FLAG,
    "approximate": ("none", "tanh"), "p": (2, 1, 3), "saturate": FLAG,
}  # fmt: skip


def generic(d: Sketch) -> None:
    """Operands that broadcast with the first one; attributes by their names."""
    spatial = d.op.startswith("Global")
    x = d.data(0, (4, 3, 5) if spatial else (2, 1, 3, 0, 4, 5))
    operands: list[Ref | None] = [x]
    for place, spec in enumerate(d.schema.inputs):
        if spec.option.name == "Variadic":
            operands += [d.operand(0, d.broadcasts(x.shape)) for _ in range(d.choices.below(4))]
        elif place:
            operands.append(d.operand(place, d.broadcasts(x.shape)))
    if len(operands) == 2 and d.op != "PRelu" and d.maybe(25):
        operands.reverse()
    options = {k: v for k, v in _OPTIONS.items() if k in d.schema.attributes}
    if "axis" in d.schema.attributes:
        options["axis"] = (axis_of(d, x.rank),)
    given = d.attributes(**options)
    if "fmod" in d.schema.attributes and x.dtype.is_float:
        given["fmod"] = 1
    d.emit(operands, given)


@recipe("BitShift")
def bit_shift(d: Sketch) -> None:
    """By less than the type's width: beyond it the standard says nothing."""
    x = d.data(0)
    by = d.ints([d.choices.below(x.dtype.bits) for _ in range(d.choices.one((1, 0)) or 1)])
    assert by.array is not None
    by.array, by.dtype = by.array.astype(x.dtype.numpy), x.dtype
    d.emit([x, by], d.attributes(direction=("RIGHT", "LEFT")))


@recipe("Where")
def where(d: Sketch) -> None:
    x = d.data(1)
    d.emit([d.operand(0, d.broadcasts(x.shape)), x, d.operand(2, d.broadcasts(x.shape))])


@recipe("Pow")
def power(d: Sketch) -> None:
    x = d.data(0, level="mild")
    if len(d.schema.type_constraints) < 2:
        by = d.operand(1, d.broadcasts(x.shape), "mild")
    else:
        by = d.given(d.dtype(1), d.broadcasts(x.shape), "mild")
    d.emit([x, by])


@recipe("Clip")
def clip(d: Sketch) -> None:
    x = d.data(0)
    if d.has("min"):
        d.emit([x], d.attributes(min=(-1.0, 0.0, 2.0), max=(1.0, 0.0, 6.0, -3.0)))
        return
    bounds = [d.operand(i, ()) if d.maybe(70) else None for i in (1, 2)]
    d.emit([x, *bounds])


@recipe("Softmax", "LogSoftmax", "Hardmax")
def over_axis(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4), "mild")
    d.emit([x], d.attributes(axis=(axis_of(d, x.rank),)))


@recipe("CumSum", "CumProd")
def cumulative(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3), "mild")
    axis = d.ints([axis_of(d, x.rank)], d.dtype(1))
    assert axis.array is not None
    axis.array, axis.shape = axis.array.reshape(()), ()
    d.emit([x, axis], d.attributes(exclusive=FLAG, reverse=FLAG))


@recipe("Cast", "BitCast")
def cast(d: Sketch) -> None:
    from ..sketch import _dtypes

    x = d.data(0)
    options = _dtypes(d.schema.outputs[0].types)
    if d.op == "BitCast":
        options = [o for o in options if o.bits == x.dtype.bits] or [x.dtype]
    given = d.attributes(saturate=FLAG, round_mode=("up", "down", "nearest"))
    d.emit([x], {**given, "to": d.choices.one(options)})


@recipe("CastLike")
def cast_like(d: Sketch) -> None:
    x = d.data(0)
    d.emit([x, d.operand(1, d.shape())], d.attributes(saturate=FLAG))


@recipe("Dropout")
def dropout(d: Sketch) -> None:
    """Only what is the identity: drawn masks have no right value."""
    import numpy as np

    x = d.data(0)
    operands: list[Ref | None] = [x]
    given = d.attributes(seed=(1, 7))
    if d.has("ratio"):
        given |= d.attributes(ratio=(0.5, 0.0, 0.9))
    else:
        ratio = d.given(d.dtype(1), (), "tame") if d.maybe(50) else None
        if ratio is not None:
            ratio.array = np.array(0.5, ratio.dtype.numpy)
        operands += [ratio, d.put(np.array(False)) if d.maybe(50) else None]
    d.emit(operands, given, 2 if d.maybe(30) else 1)


@recipe("Range")
def ranged(d: Sketch) -> None:
    import numpy as np

    dtype = d.dtype(0)
    start, step = d.choices.between(-3, 5), d.choices.one((1, 2, -1, 3, -2))
    limit = d.choices.between(-5, 9)
    factor = d.choices.one((1, 0.5, 0.3)) if dtype.is_float else 1
    made = [np.array(v * factor, np.float64).astype(dtype.numpy) for v in (start, limit, step)]
    d.emit([d.put(m) for m in made])


@recipe("OneHot")
def one_hot(d: Sketch) -> None:
    import numpy as np

    depth = d.choices.one((3, 1, 4, 7))
    shape = d.shape((1, 2, 0, 3))
    kind = d.dtype(0)
    low = 0 if not (kind.is_signed or kind.is_float) else -depth - 1
    places = d.given(kind, shape, "tame")
    assert places.array is not None
    spread = np.random.default_rng(d.choices.below(999)).integers(low, depth + 1, shape)
    places.array = spread.astype(kind.numpy)
    count = d.put(np.array(depth if d.maybe(80) else [depth]).astype(d.dtype(1).numpy), 80)
    values = d.given(d.dtype(2), (2,))
    d.emit([places, count, values], d.attributes(axis=(-1, axis_of(d, len(shape), 1))))

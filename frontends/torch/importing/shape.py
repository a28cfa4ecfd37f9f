"""Ops that change shape, join, cut and repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import UnsupportedError, Value
from ..call import Call, Dimension, Size, aten, count, rank, shape_of
from ..guards import same_size

END = 1 << 62
"""From here on the end of a slice means the axis's own."""


@aten("view", "reshape", "_unsafe_view", "view_copy")
def view(c: Call, x: Value, sizes: Sequence[Dimension]) -> Value:
    return c.reshape(x, sizes)


@aten("flatten.using_ints")
def flatten(c: Call, x: Value, start: int, end: int) -> Value:
    n = rank(x)
    if n == 0:
        return c.b.reshape(x, c.ints([1]))
    start, end = start % n, end % n
    if start == end:
        return x
    if start == 1 and end == n - 1:
        return c.b.flatten(x, axis=1)
    rest = [c.size(x, i) for i in range(end + 1, n)]
    return c.b.reshape(x, c.vector([0] * start + [-1] + rest))


@aten("unflatten.int")
def unflatten(c: Call, x: Value, dim: int, sizes: Sequence[Dimension]) -> Value:
    dim %= rank(x)
    rest = [c.size(x, i) for i in range(dim + 1, rank(x))]
    return c.reshape(x, [*(c.size(x, i) for i in range(dim)), *sizes, *rest])


@aten("squeeze", "squeeze.dim", "squeeze.dims")
def squeeze(c: Call, x: Value, dims: int | Sequence[int] | None = None) -> Value:
    asked = range(rank(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = [d % rank(x) for d in asked if shape_of(x)[d] == 1]
    for d in asked:
        if shape_of(x)[d] != 1:
            c.need(c.metas[0].shape[d] != 1)
    return c.b.squeeze(x, c.ints(gone)) if gone else x


@aten("unsqueeze")
def unsqueeze(c: Call, x: Value, dim: int) -> Value:
    return c.b.unsqueeze(x, c.ints([dim]))


@aten("permute")
def permute(c: Call, x: Value, dims: Sequence[int]) -> Value:
    return c.b.transpose(x, perm=tuple(d % rank(x) for d in dims))


@aten("transpose.int")
def transpose(c: Call, x: Value, a: int, b: int) -> Value:
    order = list(range(rank(x)))
    if order:
        order[a], order[b] = order[b], order[a]
    return c.b.transpose(x, perm=tuple(order)) if order else x


@aten("t")
def t(c: Call, x: Value) -> Value:
    return transpose(c, x, 0, 1) if rank(x) == 2 else x


@aten("expand")
def expand(c: Call, x: Value, sizes: Sequence[Dimension], _: bool) -> Value:
    """-1 keeps an axis, which broadcasting with 1 does as well."""
    return c.b.expand(x, c.vector([1 if isinstance(s, int) and s == -1 else s for s in sizes]))


@aten("expand_as")
def expand_as(c: Call, x: Value, like: Value) -> Value:
    return c.b.expand(x, c.b.shape(like))


@aten("repeat")
def repeat(c: Call, x: Value, repeats: Sequence[Dimension]) -> Value:
    more = len(repeats) - rank(x)
    if more:
        x = c.b.unsqueeze(x, c.ints(range(more)))
    return c.b.tile(x, c.vector(repeats))


@aten("cat")
def cat(c: Call, xs: Sequence[Value], dim: int) -> Value:
    """An old exception: an empty vector may stand among tensors of any rank."""
    kept = [x for x in xs if shape_of(x) != (0,)] or list(xs[:1])
    return c.b.concat(*(c.tensor(x) for x in kept), axis=dim)


@aten("stack")
def stack(c: Call, xs: Sequence[Value], dim: int) -> Value:
    at = c.ints([dim])
    return c.b.concat(*(c.b.unsqueeze(c.tensor(x), at) for x in xs), axis=dim)


def _pieces(c: Call, x: Value, sizes: Sequence[Dimension], dim: int) -> tuple[Value, ...]:
    made = c.b.split(x, c.vector(sizes), axis=dim)
    return made if isinstance(made, tuple) else (made,)


@aten("split_with_sizes")
def split_with_sizes(c: Call, x: Value, sizes: Sequence[Dimension], dim: int) -> Any:
    return _pieces(c, x, sizes, dim)


@aten("split.Tensor")
def split(c: Call, x: Value, size: Dimension, dim: int) -> Any:
    step, n = c.whole(size, "the size of a piece"), count([shape_of(x)[dim]], "a split")
    return _pieces(c, x, [min(step, n - i) for i in range(0, n, step)], dim)


@aten("unbind.int")
def unbind(c: Call, x: Value, dim: int) -> Any:
    n, at = count([shape_of(x)[dim]], "a split"), c.ints([dim])
    return tuple(c.b.squeeze(p, at) for p in _pieces(c, x, [1] * n, dim))


@aten("slice.Tensor")
def slice_(c: Call, x: Value, dim: int, start: Dimension | None, end: Dimension | None,
           step: int = 1) -> Value:  # fmt: skip
    whole = end is None or (isinstance(end, int) and end >= END)
    if whole and start in (None, 0) and step == 1:
        return x
    last: Dimension = END if end is None else end
    made = c.b.slice(x, c.vector([start or 0]), c.vector([last]), c.ints([dim]), c.ints([step]))
    whole = not start and step == 1 and isinstance(end, Size)
    if whole and same_size(c.result.shape[dim], c.metas[3]):
        # A reshape that changes nothing says what inference cannot know: nothing was cut short.
        sizes = [c.size(made, i) for i in range(rank(made))]
        sizes[dim] = end
        return c.b.reshape(made, c.vector(sizes))
    return made


@aten("slice_scatter")
def slice_scatter(c: Call, x: Value, new: Value, dim: int, start: Dimension | None,
                  end: Dimension | None, step: int) -> Value:  # fmt: skip
    """x with a stretch of one axis replaced: what is before it, `new`, and what is after."""
    c.no(step != 1, "writing to every other element")
    n = count([shape_of(x)[dim]], "writing to a slice")
    first, last, _ = slice(_bound(c, start, 0), _bound(c, end, n), 1).indices(n)
    parts = [slice_(c, x, dim, 0, first)] if first else []
    parts += [new] if last > first else []
    parts += [slice_(c, x, dim, max(first, last), None)] if max(first, last) < n else []
    return c.b.concat(*(c.tensor(p) for p in parts), axis=dim) if len(parts) > 1 else parts[0]


def _bound(c: Call, x: Dimension | None, default: int) -> int:
    return default if x is None else c.whole(x, "where a slice is written")


@aten("select_scatter")
def select_scatter(c: Call, x: Value, new: Value, dim: int, index: Dimension) -> Value:
    at = c.whole(index, "where an element is written")
    n = count([shape_of(x)[dim]], "writing to an element")
    row = c.b.unsqueeze(new, c.ints([dim]))
    return slice_scatter(c, x, row, dim, at % n, at % n + 1, 1)


@aten("copy")
def copy(c: Call, x: Value, source: Value, _: bool) -> Value:
    """The source in x's shape and type."""
    return c.b.expand(c.tensor(source), c.vector([c.size(x, i) for i in range(rank(x))]))


@aten("narrow")
def narrow(c: Call, x: Value, dim: int, start: Dimension, length: Dimension) -> Value:
    """A negative start counts from the end, also where the part ends there (a slice would at 0)."""
    n = c.size(x, dim)
    if isinstance(start, Size) or (start < 0 and isinstance(n, Size)):
        start = Size(c.b.mod(c.vector([start]), c.vector([n])))
    elif start < 0:
        start += n
    if isinstance(start, int) and isinstance(length, int):
        end: Dimension = start + length
    else:
        end = Size(c.b.add(c.vector([start]), c.vector([length])))
    return slice_(c, x, dim, start, end)


@aten("flip")
def flip(c: Call, x: Value, dims: Sequence[int]) -> Value:
    k = len(dims)
    return c.b.slice(x, c.ints([-1] * k), c.ints([-END] * k), c.ints(dims), c.ints([-1] * k))


@aten("roll")
def roll(c: Call, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    if not dims:
        raise UnsupportedError("a roll without axes is not supported")
    for shift, dim in zip(shifts, dims):
        n = count([shape_of(x)[dim]], "a roll")
        cut = -shift % n if n else 0
        if cut:
            parts = _pieces(c, x, [cut, n - cut], dim)
            x = c.b.concat(*reversed(parts), axis=dim)
    return x


@aten("pixel_shuffle")
def pixel_shuffle(c: Call, x: Value, factor: int) -> Value:
    c.no(rank(x) != 4, "a pixel shuffle of other than a batch of images")
    return c.b.depth_to_space(x, blocksize=factor, mode="CRD")


@aten("channel_shuffle")
def channel_shuffle(c: Call, x: Value, groups: int) -> Value:
    """Channels (g, c / g) in the order (c / g, g)."""
    n = count(shape_of(x)[1:2], "a channel shuffle")
    parts = c.b.reshape(x, c.ints([0, groups, n // groups, -1]))
    turned = c.b.transpose(parts, perm=(0, 2, 1, 3))
    return c.reshape(turned, [c.size(x, i) for i in range(rank(x))])


# ---- padding -----------------------------------------------------------------------------------

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@aten("pad")
def pad(c: Call, x: Value, pads: Sequence[Dimension], mode: str, value: float | None) -> Value:
    """`pads` holds (before, after) of the last axis, then of the one before it, ..."""
    count_ = len(pads) // 2
    axes = [rank(x) - 1 - i for i in range(count_)]
    amounts = c.vector([*pads[0::2], *pads[1::2]])
    fill = c.tensor(value or 0) if mode == "constant" else None
    return c.b.pad(x, amounts, fill, c.ints(axes), mode=_MODES[mode])


@aten("constant_pad_nd")
def constant_pad(c: Call, x: Value, pads: Sequence[Dimension], value: float) -> Value:
    return pad(c, x, pads, "constant", value)


@aten("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(c: Call, x: Value, pads: Sequence[Dimension]) -> Value:
    return pad(c, x, pads, "reflect", None)


@aten("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(c: Call, x: Value, pads: Sequence[Dimension]) -> Value:
    return pad(c, x, pads, "replicate", None)

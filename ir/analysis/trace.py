"""A group of ops as loop nests: where the rules of `nest_rules` are put to work (see `nest`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..affine import ZERO, Affine, axis
from ..graph import Graph, Node, Value
from . import nest_rules as nest_rules
from .index import Index, NotNest, Refine, Size
from .nest import MAX_NODES, MAX_PIECES, Fold, Nest, Shape, Store, Tracer, expressions


@dataclass
class Axis:
    """One axis of the first result: `start` + step * axis for each of `parts`, (size, step)."""

    start: int
    parts: list[tuple[Size, int]]


def trace(
    graph: Graph, members: set[Node], outputs: Sequence[Value],
    shape: Shape = lambda v: v.shape,
) -> list[Nest]:  # fmt: skip
    """The group's nests, one after the other. Raises NotNest with the reason why it is none.

    `members` are the group's nodes, `outputs` those of its values that are wanted from outside.
    """
    if len(members) > MAX_NODES:
        raise NotNest(f"more than {MAX_NODES} ops")
    shapes = [shape(v) for v in outputs]
    if not shapes:
        raise NotNest("nothing reads it")
    if any(s is None for s in shapes):
        raise NotNest("a rank is not known")
    known: list[tuple[Size, ...]] = [tuple(s) for s in shapes if s is not None]
    first = max(range(len(known)), key=lambda i: (_weight(known[i]), -i))
    pieces = [[Axis(0, [(n, 1)]) for n in known[first]]]
    nests: list[Nest] = []
    while pieces:
        piece = pieces.pop()
        if len(pieces) + len(nests) >= MAX_PIECES:
            raise NotNest("too many concatenations")
        tracer = Tracer(graph, members, shape)
        try:
            nests.append(_traced(tracer, piece, outputs, known, first))
        except Refine as refine:
            pieces += _refined(piece, refine, bool(tracer.inner))
    if len(nests) > 1 and any(nest.inner for nest in nests):
        raise NotNest("a concatenation around a reduction")
    return nests


def _weight(shape: Sequence[Size]) -> tuple[int, int]:
    """Orders shapes by size: by symbols first, then by what is known."""
    size = 1
    for n in shape:
        size *= n if isinstance(n, int) else 1
    return sum(not isinstance(n, int) for n in shape), size


def _traced(
    tracer: Tracer, piece: list[Axis], outputs: Sequence[Value], shapes: list[tuple[Size, ...]],
    first: int,
) -> Nest:  # fmt: skip
    places: list[Affine] = []
    for a in piece:
        line = Affine(a.start)
        for n, step in a.parts:
            line = line if n == 1 else line + axis(len(tracer.sizes)).scaled(step)
            tracer.sizes.append(n)
        places.append(line)
    own = [k for k, n in enumerate(tracer.sizes) if n != 1]
    stores = []
    order = [first, *(i for i in range(len(outputs)) if i != first)]
    for i in order:
        index = tuple(places) if i == first else _placed(shapes[i], shapes[first], places)
        stores.append(Store(i, index, tracer.read(outputs[i], index)))
    inner = tuple(k for k in tracer.inner or () if tracer.sizes[k] != 1)
    rows = tuple(k for k in own if k not in inner)
    for store in stores:
        used = frozenset[int]().union(*(f.axes for f in store.index))
        if used not in (frozenset(rows), frozenset(own)):
            raise NotNest("results of different shapes")
        if not store.expr.axes <= used:
            raise NotNest("it reduces over other axes")
    if any(set(f.axes) & set(inner) for e in expressions([s.expr for s in stores])
           for f in [e] if isinstance(e, Fold)):  # fmt: skip
        raise NotNest("it reduces over other axes")
    return Nest(tuple(tracer.sizes), inner, rows, tuple(stores))


def _placed(shape: tuple[Size, ...], whole: tuple[Size, ...], places: list[Affine]) -> Index:
    """The index of a further result: its axes are some of the first result's, in order.

    Axes are matched from the back where ranks are equal, else greedily from the front.
    """
    if len(shape) == len(whole) and all(n in (1, m) for n, m in zip(shape, whole)):
        return tuple(ZERO if n == 1 else f for n, f in zip(shape, places))
    out: list[Affine] = []
    at = 0
    for n in shape:
        if n == 1:
            out.append(ZERO)
            continue
        k = next((k for k in range(at, len(whole)) if whole[k] == n), None)
        if k is None:
            raise NotNest("results of different shapes")
        out.append(places[k])
        at = k + 1
    return tuple(out)


def _refined(piece: list[Axis], refine: Refine, folds: bool) -> list[list[Axis]]:
    """The piece with one axis factored, or in two pieces."""
    k = refine.axis
    for i, a in enumerate(piece):
        if k >= len(a.parts):
            k -= len(a.parts)
            continue
        if folds and refine.at:
            raise NotNest("a concatenation around a reduction")
        (n, step), by, at = a.parts[k], refine.by, refine.at

        def cut(start: int, *parts: tuple[Size, int], i: int = i, k: int = k) -> list[Axis]:
            made = Axis(start, [*piece[i].parts[:k], *parts, *piece[i].parts[k + 1 :]])
            return [*piece[:i], made, *piece[i + 1 :]]

        if by:
            return [cut(a.start, (n // by, step * by), (by, step))]
        return [cut(a.start + at * step, (n - at, step)), cut(a.start, (at, step))]
    raise NotNest("a concatenation inside a reduction")

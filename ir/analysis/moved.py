"""How ops that move elements are read in a loop nest: by their relations, turned round.

A result is read at an index over the nest's axes. Each axis of it is counted by loops of the
relation, as one loop or as mixed-radix digits; so the index gives the loops, and the loops give the
index that the operand is read at.
"""

from __future__ import annotations

from ..affine import Affine
from ..dependence import Place, Relation, Table, Unknown
from ..graph import Node
from ..op import Op
from ..ops.indexing import Gather, Slice
from ..ops.joining import Concat, Split
from ..ops.shape import Expand, Flatten, Identity, Reshape, Squeeze, Transpose, Unsqueeze
from .dependence import dependence_over
from .index import Index, NotNest, Refine, apart, bounds
from .nest import Expr, Tracer

MOVED: tuple[type[Op], ...] = (
    Identity, Transpose, Reshape, Flatten, Squeeze, Unsqueeze, Expand, Slice, Split, Gather, Concat,
)  # fmt: skip
"""Ops that only move elements, whose relations are affine where sizes and places are known."""


def moved(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    """The element of an operand that stands at `index` of the result."""
    parts = [d for d in _relations(t, node) if d.result == result]
    for d in parts:
        at = _inside(t, d, index) if len(parts) > 1 else index
        if at is not None:
            return t.read(t.operands(node)[d.operand], _read(t, d, at))
    raise NotNest("a concatenation seen through another view")


def _relations(t: Tracer, node: Node) -> list[Relation]:
    """Those of the operands that are moved, each an affine function of the result's index."""
    found = t.relations.get(node)
    if found is None:
        values = t.operands(node)
        wanted = _moved_operands(node.op, len(values))
        shapes = [None if v is None else t.shape(v) for v in values]
        results = [t.shape(node[r]) for r in range(len(node.results))]
        made = dependence_over(node, values, shapes, results)
        found = t.relations[node] = [_plain(d) for d in made if d.operand in wanted]
    return found


def _moved_operands(op: Op, count: int) -> set[int]:
    assert op.moves is not None
    names = [o.name for o in op.operands]
    last = len(names) - 1
    return {i for i in range(count) if names[min(i, last)] in op.moves.operands}


def _plain(d: Relation | Unknown) -> Relation:
    if isinstance(d, Unknown):
        raise NotNest(d.reason)
    if any(d.loops[k].how and d.loops[k].size != 1 for p in d.read for k in p.axes):
        raise NotNest(d.reason or "what it reads depends on sizes that are not known")
    if any(isinstance(p, Table) for p in (*d.read, *d.written)):
        raise NotNest("it reads in uneven steps")
    return d


def _inside(t: Tracer, d: Relation, index: Index) -> Index | None:
    """The index within a part of the result; None where it lies in another part. Where it lies in
    two, the axis is to be cut between them.
    """
    out = list(index)
    for k, (place, f, whole) in enumerate(zip(d.written, index, d.result_shape)):
        n = _size(d, place)
        if n == whole and not _start(place):
            continue
        if not isinstance(n, int):
            raise NotNest("a concatenation of sizes that are not known")
        low, high = bounds(f, t.size)
        start = _start(place)
        if start <= low and high < start + n:
            out[k] = f.scaled(1, -start)
            continue
        if not start <= low < start + n:
            return None
        if len(f.terms) != 1 or f.terms[0][1] < 1:
            raise NotNest("a concatenation seen through another view")
        (a, step), = f.terms  # fmt: skip
        raise Refine(a, at=-(-(start + n - low) // step))
    return tuple(out)


def _start(place: Place) -> int:
    return place.start if isinstance(place, Affine) else 0


def _size(d: Relation, place: Place) -> object:
    """The size of the one loop that counts an axis."""
    (k,) = place.axes
    return d.loops[k].size


def _read(t: Tracer, d: Relation, index: Index) -> Index:
    """The operand's index where the result's is `index`."""
    loops: dict[int, Affine] = {}
    for place, f in zip(d.written, index):
        assert isinstance(place, Affine)
        if not place.terms:
            continue
        terms = sorted(place.terms, key=lambda term: -term[1])
        sizes = [d.loops[k].size for k, _ in terms]
        parts = [f] if len(terms) == 1 else apart(f, sizes, t.size)
        loops.update({k: part for (k, _), part in zip(terms, parts)})
    return tuple(_substituted(d, p, loops) for p in d.read)


def _substituted(d: Relation, place: Place, loops: dict[int, Affine]) -> Affine:
    assert isinstance(place, Affine)
    made = Affine(place.start)
    for k, step in place.terms:
        if d.loops[k].size != 1:
            made = made + loops[k].scaled(step)
    return made

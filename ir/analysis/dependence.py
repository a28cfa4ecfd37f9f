"""The dependence of a graph's nodes, and of whole bodies: relations put one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..affine import Affine
from ..bodies import specialize
from ..dependence import (
    ANY,
    ASSOCIATIVE,
    Dependence,
    Dependences,
    Loop,
    Map,
    Place,
    Relation,
    Table,
    Unknown,
    place_of,
)
from ..errors import TautError
from ..graph import Graph, Node, Value
from ..op import Abstract, Op
from ..relate import everything, unknown
from ..types import TensorType

_MOST = 8
"""Relations between one input and one output of a body; where there are more, they count as one
that says everything."""


def dependence(graph: Graph, node: Node) -> Dependences:
    """How the results of a node depend on its operands, by position."""
    operands = [None if v is None else v.abstract for v in graph.operands(node)]
    return dependence_of(node.op, operands, node.types)


def dependence_of(
    op: Op, operands: Sequence[Abstract | None], results: Sequence[TensorType]
) -> Dependences:
    """The same of an op on these operands, whose results have these types."""
    ranks = [x.shape for x in operands if x is not None] + [y.shape for y in results]
    if any(shape is None for shape in ranks):
        return unknown(operands, results, "a rank is not known")
    return op.dependence(operands, results)


Token = Any  # of a size: a number, a symbol, None, or ("#", n) for one that is computed


def dependence_over(
    node: Node, operands: Sequence[Value | None], shapes: Sequence[Sequence[Token] | None],
    results: Sequence[Sequence[Token]],
) -> Dependences:  # fmt: skip
    """A node's relations where more is known of sizes than types tell: `shapes` of the operands
    and `results`, in tokens. Sizes of loops are such tokens as `symbol` writes them."""
    types = [TensorType(t.dtype, tuple(map(symbol, s))) for t, s in zip(node.types, results)]
    known = [None if v is None else
             Abstract(v.type.with_shape(None if s is None else map(symbol, s)),
                      v.abstract.value, v.abstract.dims)
             for v, s in zip(operands, shapes)]  # fmt: skip
    return dependence_of(node.op, known, types)


def symbol(token: Token) -> Any:
    """A token as a dimension; the model's symbols and computed sizes stay apart."""
    return f"t_{token[1]}" if isinstance(token, tuple) else \
        f"s_{token}" if isinstance(token, str) else token  # fmt: skip


def token(size: Any) -> Token:
    """What `symbol` was made of."""
    if not isinstance(size, str):
        return size
    return ("#", int(size[2:])) if size.startswith("t_") else size[2:]


def body_dependence(
    body: Graph, operands: Sequence[Abstract | None], results: Sequence[TensorType]
) -> Dependences:
    """How the outputs of a body depend on its inputs, which are the operands."""
    try:
        inside = specialize(body, [x for x in operands if x is not None])
    except TautError:
        return everything(operands, results, "its body cannot take the operands")
    found = graph_dependence(inside)
    return tuple(
        d if isinstance(d, Unknown) or _fits(d, operands, results)
        else everything([operands[d.operand]], [results[d.result]], "its sizes are not known")[0]
        for d in found
    )  # fmt: skip


def _fits(d: Relation, operands: Sequence[Abstract | None], results: Sequence[TensorType]) -> bool:
    x, y = operands[d.operand], results[d.result]
    return (x is not None and len(x.shape or ()) == len(d.operand_shape)
            and len(y.shape or ()) == len(d.result_shape))  # fmt: skip


def graph_dependence(graph: Graph) -> Dependences:
    """How a graph's outputs depend on its inputs, both by position."""
    made: dict[Value, dict[int, list[Dependence]]] = {}
    for i, node in enumerate(graph.inputs):
        made[node[0]] = {i: [_itself(node.type, i)]}
    for node in graph.nodes():
        if not node.results or node[0] in made:
            continue
        operands = graph.operands(node)
        for r in range(len(node.results)):
            made[node[r]] = {}
        for d in dependence(graph, node):
            v = operands[d.operand]
            assert v is not None
            into = made[node[d.result]]
            for i, before in made[v].items():
                into.setdefault(i, []).extend(after(b, d) for b in before)
        for r in range(len(node.results)):
            made[node[r]] = {i: _bounded(found, node.types[r], graph.inputs[i].type)
                             for i, found in made[node[r]].items()}  # fmt: skip
    return tuple(replace(d, operand=i, result=r) for r, v in enumerate(graph.outputs)
                 for i, found in made[v].items() for d in found)  # fmt: skip


def _itself(type: TensorType, i: int) -> Dependence:
    if type.shape is None:
        return Unknown(i, 0, "a rank is not known")
    loops = tuple(Loop(f"i{k}", n) for k, n in enumerate(type.shape))
    own = tuple(Affine(0, ((k, 1),)) for k in range(len(loops)))
    return Relation(i, 0, loops, own, own, type.shape, type.shape)


def _bounded(found: list[Dependence], y: TensorType, x: TensorType) -> list[Dependence]:
    """The relations, each once; one for all where they are many."""
    once = list(dict.fromkeys(found))
    if len(once) <= _MOST:
        return once
    if x.shape is None or y.shape is None:
        return [Unknown(0, 0, "a rank is not known")]
    return [*everything([Abstract(x)], [y], "it is read in many ways")]


def after(first: Dependence, second: Dependence) -> Dependence:
    """What the result of `second` depends on, where `first` made the operand that it reads."""
    if isinstance(first, Unknown) or isinstance(second, Unknown):
        reason = first.reason if isinstance(first, Unknown) else second.reason
        return Unknown(first.operand, second.result, reason)
    return _Chain(first, second).joined()


class _Chain:
    """Two relations with the tensor between them taken out.

    Where one side counts that tensor's axis by a loop alone, the other side's index takes the
    loop's place; else all of the axis is read.
    """

    def __init__(self, first: Relation, second: Relation) -> None:
        self.first, self.second = first, second
        self.offset = len(first.loops)
        self.loops = [*map(_nested, first.loops), *map(_nested, second.loops)]
        self.read: list[Place] = list(first.read)
        self.between = list(zip(first.written, (_moved(p, self.offset) for p in second.read)))
        self.written: list[Place] = [_moved(p, self.offset) for p in second.written]
        self.hows: dict[int, str] = {}

    def joined(self) -> Relation:
        for i in range(len(self.between)):
            self._join(*self.between[i])
        a, b = self.first, self.second
        return Relation(a.operand, b.result, *self._trimmed(), a.operand_shape, b.result_shape,
                        a.reason or b.reason)  # fmt: skip

    def _join(self, made: Place, wanted: Place) -> None:
        if not made.axes and not wanted.axes:
            return
        if self._is_alone(made, 0):
            self._replace(made, wanted)
        elif self._is_alone(wanted, 1):
            self._replace(wanted, made)
        else:
            self._coarsen(made, self.read)
            self._coarsen(wanted, self.read)

    def _is_alone(self, place: Place, side: int) -> bool:
        """Whether a place is one loop, in steps of 1, that no other axis between has."""
        if not isinstance(place, Affine) or len(place.terms) != 1 or place.terms[0][1] != 1:
            return False
        k = place.terms[0][0]
        others = [pair[side] for pair in self.between if pair[side] is not place]
        return not any(k in p.axes for p in others) and (side == 1 or not self.loops[k].how)

    def _replace(self, alone: Place, by: Place) -> None:
        """Put `by` in the place of the loop that `alone` counts, wherever it stands."""
        assert isinstance(alone, Affine)
        k, start = alone.terms[0][0], alone.start
        self.hows.update(dict.fromkeys(by.axes, self.loops[k].how or ANY))
        for side in (self.read, self.written):
            for i, p in enumerate(side):
                if k in p.axes:
                    side[i] = self._substituted(p, k, start, by)
        self.between = [(self._kept(a, k, start, by), self._kept(b, k, start, by))
                        for a, b in self.between]  # fmt: skip

    def _kept(self, p: Place, k: int, start: int, by: Place) -> Place:
        if k in p.axes and isinstance(p, Affine) and isinstance(by, Affine):
            return _affine(p, k, start, by)
        return p

    def _substituted(self, p: Place, k: int, start: int, by: Place) -> Place:
        if isinstance(by, Affine):
            if isinstance(p, Affine):
                return _affine(p, k, start, by)
            return Table(p.values, _affine(p.at, k, start, by))
        if p.axes == {k}:  # a function of this loop alone: a longer table
            values = np.array(by.values, np.int64)
            made = np.where(values < 0, -1, place_of(p, {k: values - start}))
            return Table(tuple(made.tolist()), by.at)
        return self._whole()

    def _whole(self) -> Affine:
        self.loops.append(Loop("all", None, ANY))
        return Affine(0, ((len(self.loops) - 1, 1),))

    def _coarsen(self, place: Place, side: list[Place]) -> None:
        """All along the axes of the operand that have loops of `place`."""
        for i, p in enumerate(side):
            if p.axes & place.axes:
                self.loops.append(Loop(f"all{i}", self.first.operand_shape[i], ANY))
                side[i] = Affine(0, ((len(self.loops) - 1, 1),))

    def _trimmed(self) -> tuple[tuple[Loop, ...], Map, Map]:
        """The loops that are still used, numbered anew."""
        used = sorted(frozenset[int]().union(*(p.axes for p in (*self.read, *self.written))))
        again = {k: i for i, k in enumerate(used)}
        own = frozenset[int]().union(*(p.axes for p in self.written))
        loops = [p if p.how or k in own else replace(p, how=self.hows.get(k, ANY))
                 for k, p in enumerate(self.loops)]  # fmt: skip
        return (tuple(loops[k] for k in used),
                tuple(_numbered(p, again) for p in self.read),
                tuple(_numbered(p, again) for p in self.written))  # fmt: skip


def _nested(loop: Loop) -> Loop:
    """A sum within other work is no partial result of the whole."""
    return replace(loop, how=f"nested {loop.how}") if loop.how in ASSOCIATIVE else loop


def _affine(p: Affine, k: int, start: int, by: Affine) -> Affine:
    step = dict(p.terms)[k]
    rest = Affine(p.start - step * start, tuple(t for t in p.terms if t[0] != k))
    return rest + by.scaled(step)


def _moved(p: Place, by: int) -> Place:
    if isinstance(p, Table):
        return Table(p.values, Affine(p.at.start, tuple((k + by, s) for k, s in p.at.terms)))
    return Affine(p.start, tuple((k + by, s) for k, s in p.terms))


def _numbered(p: Place, again: dict[int, int]) -> Place:
    if isinstance(p, Table):
        made = _numbered(p.at, again)
        assert isinstance(made, Affine)
        return Table(p.values, made)
    return Affine(p.start, tuple(sorted((again[k], s) for k, s in p.terms)))

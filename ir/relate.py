"""How relations are built: what ops declare their dependence with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from .affine import ZERO, Affine, axis
from .dependence import ANY, Dependences, Loop, Map, Place, Relation, Unknown
from .types import Dim, Shape


class Space:
    """Builds the relations of a node: loops first, then what is read and written over them.

    s = Space(operands, results)
    rows, columns = s.loops(x.shape)
    s.relate(0, 0, (rows, columns), (columns, rows))      # a transpose
    return s.made()
    """

    def __init__(self, operands: Sequence[Any], results: Sequence[Any]) -> None:
        self.shapes: list[Shape | None] = [None if x is None else x.shape for x in operands]
        self.results: list[Shape] = [y.shape for y in results]
        self._loops: list[Loop] = []
        self._found: list[tuple[int, int, Map, Map, str]] = []

    def loop(self, name: str, size: Dim, how: str = "") -> Affine:
        """A new loop's index."""
        self._loops.append(Loop(name, size, how))
        return axis(len(self._loops) - 1)

    def digit(self, name: str, size: Dim, how: str = "") -> Affine:
        """The index of a loop that is part of an axis; of a size of 1 it is 0."""
        return ZERO if size == 1 else self.loop(name, size, how)

    def loops(self, shape: Iterable[Dim], how: str = "", name: str = "i") -> list[Affine]:
        """A new loop for each axis."""
        return [self.loop(f"{name}{k}", n, how) for k, n in enumerate(shape)]

    def relate(
        self, operand: int, result: int, read: Iterable[Place], written: Iterable[Place],
        reason: str = "",
    ) -> None:  # fmt: skip
        self._found.append((operand, result, tuple(read), tuple(written), reason))

    def everything(self, operand: int, result: int, reason: str = "") -> None:
        """All of a result depends on all of an operand."""
        shape = self.shapes[operand]
        assert shape is not None
        self.relate(operand, result, self.loops(shape, ANY, f"all{operand}_"),
                    self.loops(self.results[result]), reason)  # fmt: skip

    def broadcast(self, operand: int, written: Sequence[Place], reason: str = "",
                  result: int = 0) -> None:  # fmt: skip
        """An operand whose axes are the last ones of a result, or of size 1."""
        shape = self.shapes[operand]
        assert shape is not None
        read: list[Place] = []
        for k, (n, m, place) in enumerate(zip(shape, self.results[result][-len(shape) :],
                                              written[-len(shape) :])):  # fmt: skip
            if n == m and n is not None:
                read.append(place)
            else:
                read.append(ZERO if n == 1 else self.loop(f"all{k}", n, ANY))
        self.relate(operand, result, read if shape else (), written, reason)

    def rest(self, reason: str, result: int | None = None) -> None:
        """Operands that no relation joins to a result yet, as `everything`."""
        joined = {(o, r) for o, r, *_ in self._found}
        for r in range(len(self.results)) if result is None else (result,):
            for o, shape in enumerate(self.shapes):
                if shape is not None and (o, r) not in joined:
                    self.everything(o, r, reason)

    def made(self) -> Dependences:
        loops, shapes = tuple(self._loops), self.shapes
        return tuple(
            Relation(o, r, loops, read, written, shapes[o] or (), self.results[r], reason)
            for o, r, read, written, reason in self._found
        )


def shape_at(operands: Sequence[Any], k: int) -> Shape:
    """The shape of an operand that is there; its rank is known."""
    return operands[k].shape


def is_given(operands: Sequence[Any], k: int) -> bool:
    return k < len(operands) and operands[k] is not None


def ints_at(operands: Sequence[Any], k: int) -> tuple[int, ...] | None:
    """The contents of an operand, if it is there and known."""
    return operands[k].as_ints() if is_given(operands, k) else None


def known(*sizes: Dim) -> Dim:
    """What is known best of a size that all of these are."""
    return min(sizes, key=lambda n: 0 if isinstance(n, int) else 1 if n is not None else 2)


def everything(operands: Sequence[Any], results: Sequence[Any], reason: str) -> Dependences:
    """All results depend on all of every operand."""
    s = Space(operands, results)
    s.rest(reason)
    return s.made()


def unknown(operands: Sequence[Any], results: Sequence[Any], reason: str) -> Dependences:
    return tuple(Unknown(o, r, reason) for o, x in enumerate(operands) if x is not None
                 for r in range(len(results)))  # fmt: skip


def along(
    operands: Sequence[Any], results: Sequence[Any], axes: Iterable[int], reason: str = "",
    sized: bool = True,
) -> Dependences:  # fmt: skip
    """Results of operand 0's rank that depend on everything along `axes` of it, and are the same
    along the others; other operands may change everything. `sized`: they have its size along
    `axes` too.
    """
    s, gone = Space(operands, results), frozenset(axes)
    shape = operands[0].shape
    for r, y in enumerate(results):
        own = s.loops(known(m, n) if sized or k not in gone else m
                      for k, (n, m) in enumerate(zip(shape, y.shape)))  # fmt: skip
        s.relate(0, r, [s.loop(f"all{k}", n, ANY) if k in gone else own[k]
                        for k, n in enumerate(shape)], own, reason)  # fmt: skip
    s.rest("it says how the op goes")
    return s.made()


def pointwise(operands: Sequence[Any], results: Sequence[Any]) -> Dependences:
    """Operands that broadcast to the results."""
    s = Space(operands, results)
    for r, y in enumerate(results):
        own = s.loops(y.shape)
        for o, x in enumerate(operands):
            if x is not None:
                s.broadcast(o, own, result=r)
    return s.made()


def reduced(
    operands: Sequence[Any], results: Sequence[Any], gone: Iterable[int], how: str
) -> Dependences:
    """Operand 0 with the axes `gone` contracted; results have 1 there, or not these axes."""
    s, out = Space(operands, results), frozenset(gone)
    own = [s.loop(f"i{k}", n, how if k in out else "") for k, n in enumerate(operands[0].shape)]
    for r, y in enumerate(results):
        kept = len(y.shape) == len(own)
        s.relate(0, r, own, [ZERO if k in out else p for k, p in enumerate(own)
                             if kept or k not in out])  # fmt: skip
    s.rest("it says which axes")
    return s.made()


def reshaped(s: Space, old: Sequence[Dim], new: Sequence[Dim]) -> tuple[list[Affine], list[Affine]]:
    """The axes of a tensor and of its reshape, as mixed-radix digits that both have.

    Runs whose radices do not nest are related as a whole.
    """
    read, written = [ZERO] * len(old), [ZERO] * len(new)
    js = [j for j, n in enumerate(new) if n != 1]
    ks = [k for k, n in enumerate(old) if n != 1]
    while js or ks:
        alone = len(js) == len(ks) == 1
        if js and ks and (alone or (new[js[0]] == old[ks[0]] and new[js[0]] is not None)):
            run_j, run_k, at = 1, 1, 0
        elif js and ks and new[js[-1]] == old[ks[-1]] and new[js[-1]] is not None:
            run_j, run_k, at = 1, 1, -1
        else:
            (run_j, run_k), at = _run([new[j] for j in js], [old[k] for k in ks]), 0
        here_j = js[-run_j:] if at else js[:run_j]
        here_k = ks[-run_k:] if at else ks[:run_k]
        js, ks = (js[:-run_j], ks[:-run_k]) if at else (js[run_j:], ks[run_k:])
        if run_j == run_k == 1:
            size = min(old[here_k[0]], new[here_j[0]], key=lambda n: not isinstance(n, int))
            read[here_k[0]] = written[here_j[0]] = s.loop(f"i{here_j[0]}", size)
            continue
        _digits(s, ([old[k] for k in here_k], here_k, read),
                ([new[j] for j in here_j], here_j, written))  # fmt: skip
    return read, written


def _run(new: Sequence[Dim], old: Sequence[Dim]) -> tuple[int, int]:
    """How many leading sizes on each side have the same product; all where that is not known."""
    i = j = 1
    while i <= len(new) and j <= len(old):
        numbers = [n for n in (*new[:i], *old[:j]) if isinstance(n, int) and n > 0]
        if len(numbers) < i + j:
            break
        a, b = math.prod(numbers[:i]), math.prod(numbers[i:])
        if a == b:
            return i, j
        i, j = (i + 1, j) if a < b else (i, j + 1)
    return len(new), len(old)


Side = tuple[Sequence[Dim], Sequence[int], list[Affine]]
"""Sizes of a run of axes, their places, and the indices of all axes."""


def _digits(s: Space, before: Side, after: Side) -> None:
    """Sets the indices of two runs of axes that count the same elements."""
    ends = [_ends(before[0]), _ends(after[0])]
    cuts = sorted(ends[0] | ends[1]) if all(ends) else []
    if len(cuts) < 2 or any(b % a for a, b in pairwise(cuts)):
        for n, k in zip(before[0], before[1]):
            before[2][k] = s.loop(f"all{k}", n, ANY)
        for n, j in zip(after[0], after[1]):
            after[2][j] = s.loop(f"i{j}", n)
        return
    digits = {a: s.loop(f"d{a}", b // a) for a, b in pairwise(cuts)}
    for sizes, places, out in (before, after):
        low = 1
        for n, k in zip(reversed(sizes), reversed(places)):
            assert isinstance(n, int)
            for a, digit in digits.items():
                if low <= a < low * n:
                    out[k] = out[k] + digit.scaled(a // low)
            low *= n


def _ends(sizes: Sequence[Dim]) -> set[int]:
    """The products of the last sizes; empty where one is not a positive number."""
    made = [1]
    for n in reversed(sizes):
        if not isinstance(n, int) or n < 1:
            return set()
        made.append(made[-1] * n)
    return set(made)


def rejoined(found: Dependences, how: str, was: str = "sum") -> Dependences:
    """The relations of a node, with what was joined by `was` joined by `how`."""
    loops = next((d.loops for d in found if isinstance(d, Relation)), ())
    changed = tuple(replace(p, how=how) if p.how == was else p for p in loops)
    return tuple(replace(d, loops=changed) if isinstance(d, Relation) else d for d in found)

"""How the results of attention depend on its operands, head by head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..affine import ZERO, Affine
from ..dependence import ANY, Dependences
from ..op import Operands, Results
from ..relate import Space, is_given, shape_at
from ..types import Dim


class Sizes(NamedTuple):
    """Batch, heads of q and of k, lengths of q and k, sizes of q's and v's rows, the past."""

    b: Dim
    h: int
    g: int
    length: Dim
    s: Dim
    d: int
    e: int
    past: int


class AttentionRelations:
    """The relations of an attention, head by head."""

    def __init__(self, operands: Operands, results: Results, n: Sizes, shown: int) -> None:
        """`shown` is qk_matmul_output_mode."""
        self.operands, self.n, self.shown = operands, n, shown
        self.space = s = Space(operands, results)
        total = n.past + n.s if isinstance(n.s, int) else n.s if not n.past else None
        self.b, self.l = s.loop("b", n.b), s.loop("l", n.length)
        self.g, self.r = s.loop("g", n.g), s.digit("r", n.h // n.g)
        self.h = self.g.scaled(n.h // n.g) + self.r
        self.e, self.t, self.total = s.loop("e", n.e), s.loop("t", total), total
        self.key = s.loop("key", n.s)

    def relations(self) -> Dependences:
        s, shown = self.space, self.shown
        y = self._row(len(self.space.results[0]), self.h, self.l, self.e, self.n.e)
        self._scored(0, y, ANY)
        self._valued(y)
        for r, (o, past, size) in enumerate(((1, 4, self.n.d), (2, 5, self.n.e)), 1):
            if r < len(s.results):
                self._kept(r, o, past, size)
        if len(s.results) == 4:
            scores = (self.b, self.h, self.l, self.t)
            self._scored(3, scores, ANY if shown == 3 else "", shown >= 2)
        return s.made()

    def _row(
        self, rank: int, head: Affine, place: Affine, x: Affine, size: int
    ) -> Sequence[Affine]:
        """The axes of rows in either form."""
        return (self.b, head, place, x) if rank == 4 else (self.b, place, head.scaled(size) + x)

    def _reads(self, o: int, head: Affine, place: Affine, x: Affine, size: int) -> Sequence[Affine]:
        return self._row(len(shape_at(self.operands, o)), head, place, x, size)

    def _scored(self, r: int, out: Sequence[Affine], keys: str, biased: bool = True) -> None:
        """What the scores are made of, all keys or only one."""
        s, n = self.space, self.n
        d = s.loop("d", n.d, ANY)
        s.relate(0, r, self._reads(0, self.h, self.l, d, n.d), out)
        self._cached(1, 4, r, d, n.d, out, keys)
        if is_given(self.operands, 3) and biased:
            s.relate(3, r, self._masked(keys), out)
        if is_given(self.operands, 6) and biased:
            s.relate(6, r, (self.b,), out)

    def _valued(self, out: Sequence[Affine]) -> None:
        self._cached(2, 5, 0, self.e, self.n.e, out, ANY)

    def _cached(self, o: int, past: int, r: int, x: Affine, size: int, out: Sequence[Affine],
                keys: str) -> None:  # fmt: skip
        """Keys or values, and those of the past before them."""
        s, n = self.space, self.n
        if keys:
            here, before = s.loop("keys", n.s, ANY), s.loop("past", n.past, ANY)
            s.relate(o, r, self._reads(o, self.g, here, x, size), out)
            if is_given(self.operands, past):
                s.relate(past, r, (self.b, self.g, before, x), out)
            return
        s.relate(o, r, self._reads(o, self.g, self.key, x, size),
                 (*out[:3], self.key.scaled(1, n.past)))  # fmt: skip
        if is_given(self.operands, past):
            before = s.loop("before", n.past)
            s.relate(past, r, (self.b, self.g, before, x), (*out[:3], before))

    def _masked(self, keys: str) -> list[Affine]:
        shape = shape_at(self.operands, 3)
        own = (self.b, self.h, self.l, self.t)
        made = [ZERO if m == 1 else p for m, p in zip(shape[:-1], own[4 - len(shape) : 3])]
        return [*made, self.space.loop("masked", shape[-1], ANY) if keys else self.t]

    def _kept(self, r: int, o: int, past: int, size: int) -> None:
        """Present keys or values: the past, then the new ones."""
        s, x = self.space, self.space.loop("x", size)
        s.relate(o, r, self._reads(o, self.g, self.key, x, size),
                 (self.b, self.g, self.key.scaled(1, self.n.past), x))  # fmt: skip
        if is_given(self.operands, past):
            before = s.loop("before", self.n.past)
            s.relate(past, r, (self.b, self.g, before, x), (self.b, self.g, before, x))

"""32-bit words in another order: a table says where each comes from, or that it is zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ...schedule.records import Header
from ..codegen.chunked import Chunked
from ..codegen.emit import I32, Emit, Value
from ..codegen.isa import Isa
from .tile import Fields


@dataclass(frozen=True, kw_only=True)
class ArrangeRecord(Header):
    """target[i] = source[table[i] - 1], or 0 where table[i] is 0; chunks of `per` words."""

    table: int
    source: int
    target: int
    words: int
    per: int


class Place(Fields):
    """The record's words."""

    record = ArrangeRecord


def arrange(isa: Isa):
    """Build the kernel."""
    from ..codegen import vector as v

    run = v.emitted(isa, 2, _run)

    def body(d, chunk):
        run(d, chunk)

    return Chunked(body)


def _run(e: Emit, d: Value, chunk: Value) -> None:
    b, place = e.b, Place(e, d)
    per, count = place.field("per"), place.field("words")
    first = e.mul(chunk, per)
    last = e.add(first, per)
    last = b.select(b.icmp_signed("<", last, count), last, count)
    table, target = place.field("table"), place.field("target")
    base = b.sub(place.field("source"), e.i64(4))
    zero = e.stack(4, 4)
    e.store(I32(0), zero, 4)

    def word(i: Value, _: list[Value]) -> list[Value]:
        at = b.zext(e.load(e.add(table, e.mul(i, 4)), I32), per.type)
        here = b.select(b.icmp_signed("==", at, e.i64(0)), zero, e.add(base, e.mul(at, 4)))
        e.store(e.load(here, I32), e.add(target, e.mul(i, 4)))
        return []

    e.loop(first, last, 1, [], word)


@reaches(arrange, ArrangeRecord)
def _reach(r: Reach) -> None:
    entries = r.table("table", r["words"], np.int32)
    if len(entries):
        r.needs(int(entries.min()) >= 0, "a table's entries are places")
        r.reads("source", 4 * int(entries.max()))
    r.writes("target", 4 * r["words"])


def kernel() -> Kernel:
    """See `arrange`."""
    return Kernel.of(arrange)

"""Channel shuffle: the channels of g groups dealt out in turn, target[k * g + i] = source[i, k]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ..codegen.isa import Isa
from .grid import LANES, GridRecord, Row, grid, walk

MOST = 8  # groups: more make vectors that LLVM takes apart badly


@dataclass(frozen=True, kw_only=True)
class ShuffleRecord(GridRecord):
    """`channels` are those of one group, at least 16; group: bytes from a group to the next."""

    source: int
    source_image: int = 0
    source_row: int = 0
    source_pixel: int = 0
    group: int


def shuffle(isa: Isa, groups: int, item: int):
    """Build the kernel for so many groups of elements of 1 or 4 bytes.

    A vector of each group is loaded, they are interleaved, and stored as one run. Where channels
    are no whole vectors the last ones overlap those before.
    """
    from ..codegen.emit import I8, I32, vec

    order = [i * LANES + k for k in range(LANES) for i in range(groups)]

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        source, target = row.base("source"), row.base("target")
        last = b.sub(row.field("channels"), e.i64(LANES))
        kind = vec(I8 if item == 1 else I32, LANES)

        def pixel(x: Any, _: list[Any]) -> list[Any]:
            here = e.add(source, e.mul(x, row.field("source_pixel")))
            there = e.add(target, e.mul(x, row.field("target_pixel")))

            def vector(k: Any, _: list[Any]) -> list[Any]:
                k = b.select(b.icmp_signed("<", k, last), k, last)
                at = e.add(here, e.mul(k, item))
                parts = [e.load(e.add(at, e.mul(row.field("group"), i)), kind)
                         for i in range(groups)]  # fmt: skip
                joined = e.shuffle(*joined_pair(e, parts), order)
                e.store(joined, e.add(there, e.mul(k, item * groups)))
                return []

            e.loop(e.i64(0), row.field("channels"), LANES, [], vector)
            return []

        e.loop(e.i64(0), row.field("width"), 1, [], pixel)

    return grid(isa, ShuffleRecord, emit_row)


@reaches(shuffle, ShuffleRecord)
def _reach(r: Reach, groups: int, item: int) -> None:
    r.needs(r["channels"] >= LANES, "a group has a vector's channels")
    r.reads("source", item * r["channels"], *walk(r, "source"), (groups, r["group"]))
    r.writes("target", item * groups * r["channels"], *walk(r, "target"))


def joined_pair(e: Any, parts: list[Any]) -> tuple[Any, Any]:
    """The vectors one after another as two vectors of one length, padded with the last of them."""
    length = 1
    while 2 * length < len(parts):
        length *= 2
    parts = parts + parts[-1:] * (2 * length - len(parts))
    while len(parts) > 2:
        parts = [e.join(a, c) for a, c in zip(parts[::2], parts[1::2])]
    return parts[0], parts[1]


def kernel(groups: int, item: int) -> Kernel:
    """See `shuffle`."""
    return Kernel.of(shuffle, groups=groups, item=item)

"""Tables of up to 4096 bytes as staircases: 64 lookups at a time by byte permutations.

A table is cut into 256 buckets of 16 entries. Where a bucket rises, or falls, by no more than three
in all, entry r of it is

    first + sign * ([r > t1] + [r > t2] + [r > t3])

with four-bit thresholds, so that three permutations of 256 bytes stand for a gather of 4096. What
curved activations give over an index of 12 bits nearly always is such a staircase; whether a table
is one is found, entry by entry, when it is lowered, so that the results are the table's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BUCKETS, SIZE, MOST = 256, 16, 3
STAIRS = BUCKETS * MOST  # bytes of a staircase's tables


def staircase(table: np.ndarray) -> tuple[np.ndarray, int] | None:
    """(three tables of 256 bytes, how far entry 0 lies from the first bucket's start), or None.

    The shift is what makes the buckets fit, where they do not at once.
    """
    if len(table) > BUCKETS * SIZE:
        return None
    for shift in range(min(SIZE, BUCKETS * SIZE - len(table) + 1)):
        room = BUCKETS * SIZE - shift - len(table)
        entries = np.pad(table, (shift, room), "edge").reshape(BUCKETS, SIZE).astype(np.int16)
        moves = np.diff(entries, axis=1)
        rise, fall = np.maximum(moves, 0).sum(1), np.maximum(-moves, 0).sum(1)
        if np.all(np.minimum(rise, fall) == 0) and max(rise.max(), fall.max()) <= MOST:
            gone = np.cumsum(np.abs(moves), axis=1)
            t1, t2, t3 = ((gone < k).sum(1) for k in (1, 2, 3))
            parts = [entries[:, 0], t1 | t2 << 4, t3 | (fall > 0) << 7]
            return np.concatenate(parts).astype(np.uint8), shift
    return None


def climb(e: Any, address: Any, four: Sequence[Any], zero: Any, lo: Any, hi: Any) -> Any:
    """The bytes for clamp(x + zero, lo, hi) of four <16 x i32> in order, as <64 x i8>.

    address: of `staircase`'s tables; zero, lo, hi: <32 x i16>.
    """
    from ..codegen.emit import I8, I16, vec

    b = e.b
    words = [e.clamp_int(w, lo, hi) for w in e.words(four, zero)]
    four_bits = e.vector(I16, 15, 32)

    def joined(pair: list[Any]) -> Any:
        return e.call("llvm.x86.avx512.packuswb.512", vec(I8, 64), *pair)

    bucket = joined([b.lshr(w, e.vector(I16, 4, 32)) for w in words])
    entry = joined([b.and_(w, four_bits) for w in words])
    first, low_two, high_one = (
        e.permuted(e.quarters(e.add(address, BUCKETS * k)), bucket) for k in range(MOST)
    )
    nibble = e.vector(I8, 15, 64)
    thresholds = [
        b.and_(low_two, nibble), b.lshr(low_two, e.vector(I8, 4, 64)), b.and_(high_one, nibble),
    ]  # fmt: skip
    count = e.vector(I8, 0, 64)
    for t in thresholds:
        count = b.add(count, b.zext(b.icmp_unsigned(">", entry, t), count.type))
    falls = b.icmp_signed("<", high_one, e.vector(I8, 0, 64))
    return e.in_order(b.select(falls, b.sub(first, count), b.add(first, count)))

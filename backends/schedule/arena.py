"""Places for the arena's buffers: those that live at the same time do not overlap."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from .layout import SLACK, Buffer, round_up

ALIGNMENT = 64
_PAGE = 4096


def assign(buffers: Iterable[Buffer]) -> int:
    """Give every buffer its offset and return the arena's size in bytes.

    Greedy by size, the largest first, each at the lowest gap that fits (Pisarchyk and Lee, 2020,
    "Efficient Memory Management for Deep Neural Net Inference"). Lifetimes are closed intervals of
    phases.
    """
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        size = extent(buffer)
        taken = [
            (other.offset, other.offset + extent(other))
            for other in placed
            if other.first <= buffer.last and buffer.first <= other.last
        ]
        taken.sort()
        at = 0
        for start, end in taken:
            if at + size <= start:
                break
            at = max(at, end)
        buffer.offset = at
        bisect.insort(placed, buffer, key=lambda b: b.offset)
        total = max(total, at + size)
    return total


def extent(buffer: Buffer) -> int:
    """Bytes that a buffer takes in the arena: its slack is its own, so that a load of a whole
    vector past its end never races with a store."""
    size = round_up(buffer.size + SLACK, ALIGNMENT)
    # An odd number of cache lines past a page keeps large buffers from aliasing in L1.
    return size + ALIGNMENT if size > _PAGE and size % _PAGE == 0 else size

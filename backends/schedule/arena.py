"""Places for the arena's buffers: those that live at the same time do not overlap."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...ir import LimitError
from .layout import SLACK, Buffer, round_up
from .phases import Lifetimes

ALIGNMENT = 64
_PAGE = 4096


@dataclass(frozen=True)
class Arena:
    """One allocation of `size` bytes, and where in it each buffer begins."""

    size: int
    offsets: Mapping[Buffer, int]


def assign(buffers: Iterable[Buffer], lifetimes: Lifetimes) -> Arena:
    """A place for every buffer.

    Greedy by size, the largest first, each at the lowest gap that fits (Pisarchyk and Lee, 2020,
    "Efficient Memory Management for Deep Neural Net Inference"). Lifetimes are closed intervals of
    phases.
    """
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(buffers, key=lambda b: (-b.size, lifetimes[b][0])):
        size = extent(buffer)
        first, last = lifetimes[buffer]
        at = 0
        for start, end, since, until in placed:  # by their starts
            if since <= last and first <= until:
                if at + size <= start:
                    break
                at = max(at, end)
        offsets[buffer] = at
        bisect.insort(placed, (at, at + size, first, last))
    total = max((end for _, end, _, _ in placed), default=0)
    return Arena(total, MappingProxyType(offsets))


def extent(buffer: Buffer) -> int:
    """Bytes that a buffer takes in the arena: its slack is its own, so that a load of a whole
    vector past its end never races with a store."""
    size = round_up(buffer.size + SLACK, ALIGNMENT)
    # An odd number of cache lines past a page keeps large buffers from aliasing in L1.
    return size + ALIGNMENT if size > _PAGE and size % _PAGE == 0 else size


def check_size(total: int, limit: int) -> None:
    """Refuse an arena beyond the limit before it is allocated. Raises LimitError."""
    if total > limit:
        raise LimitError(
            f"one call needs an arena of {total} bytes, over the limit of {limit}",
            hint="raise Limits.model_bytes, or use smaller inputs",
        )

"""What a kernel's builder gives: a function, or the work on one chunk of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunked:
    """A kernel by its work on one chunk of a record: `body(d, chunk)`, a Python function of int64s.
    The loop around it is `vector.driver`, the same for all."""

    body: Callable[[int, int], None]


Function = Callable[[int, int, int], None] | Chunked

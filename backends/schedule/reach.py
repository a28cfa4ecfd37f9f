"""What kernels may read and write, as functions of the words of their records.

Beside each kernel stands its *reach*, a function of the record's words that says which bytes it may
read and write: from an address in the record, so many steps of so many bytes along each loop, and
the bytes that one access takes. `bounds` compares this with the buffers before a plan first runs.

    @reaches(pool, PoolRecord)
    def _reach(r: Reach, kind: str) -> None:
        r.reads("source", 64, (r["rows"], r["source_row"]), (r["width"], r["source_pixel"]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ...ir import DType
from .layout import Ref
from .records import Header
from .steps import Step

Loop = tuple[int, int]
"""How often a loop goes round, and the bytes that an address moves by each time."""


class OutOfBounds(Exception):
    """A kernel would leave its buffers; the text says where."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes low to high, from the address in a word on."""

    word: int
    low: int
    high: int
    writes: bool


class Reach:
    """A step's record while its kernel says what it reaches; `r[name]` is an integer of it.
    `target` is what the kernel is built for, as its backend describes it."""

    __slots__ = ("names", "spans", "target", "words")

    def __init__(self, step: Step, target: Any, names: dict[str, int]) -> None:
        self.words, self.target, self.names = step.words, target, names
        self.spans: list[Span] = []

    def __getitem__(self, name: str | int) -> int:
        word = self.words[self.names[name] if isinstance(name, str) else name]
        if isinstance(word, int):
            return word
        raise OutOfBounds(f"word {name!r} is {word!r}, where a number should be")

    def given(self, name: str) -> bool:
        """Whether there is an address in a word (else a 0)."""
        return isinstance(self.words[self.names[name]], Ref)

    def reads(self, at: str | int, size: int, *loops: Loop, start: Loop = (0, 0)) -> None:
        """Reads of `size` bytes in nested loops, which begin anywhere within the offsets `start`.
        Nothing, where a loop does not go round."""
        self._span(at, size, loops, start, False)

    def writes(self, at: str | int, size: int, *loops: Loop, start: Loop = (0, 0)) -> None:
        """The same of writes."""
        self._span(at, size, loops, start, True)

    def _span(
        self, at: str | int, size: int, loops: Sequence[Loop], start: Loop, writes: bool
    ) -> None:
        low, high = start
        for count, stride in loops:
            if count <= 0:
                return
            if stride < 0:
                low += (count - 1) * stride
            else:
                high += (count - 1) * stride
        if size > 0:
            word = self.names[at] if isinstance(at, str) else at
            self.spans.append(Span(word, low, high + size, writes))

    def needs(self, condition: bool, what: str) -> None:
        """What must hold of a record for its kernel to stay where it says."""
        if not condition:
            raise OutOfBounds(f"the record breaks a rule: {what}")

    def table(self, at: str | int, count: int, kind: Any = np.int64) -> np.ndarray:
        """The first `count` entries of a table that the kernel reads, which must be known."""
        ref = self.words[self.names[at] if isinstance(at, str) else at]
        size = count * np.dtype(kind).itemsize
        if not isinstance(ref, Ref) or ref.buffer.data is None:
            raise OutOfBounds(f"the table {at!r} is not known")
        if ref.offset < 0 or ref.offset + size > ref.buffer.size:
            raise OutOfBounds(f"the table {at!r} ends before entry {count}")
        return ref.buffer.data[ref.offset : ref.offset + size].view(kind)

    def offsets(self, at: str | int, count: int, columns: int) -> list[Loop]:
        """The least and the greatest entry of each column of an int64 table."""
        entries = self.table(at, count * columns).reshape(count, columns)
        if not count:
            return [(0, 0)] * columns
        return list(zip(entries.min(0).tolist(), entries.max(0).tolist()))


Declaration = Callable[..., None]
_DECLARED: dict[Callable[..., Any], tuple[dict[str, int], Declaration]] = {}


def reaches(
    build: Callable[..., Any], record: type[Header] | None = None
) -> Callable[[Declaration], Declaration]:
    """Register `declaration(r, **parameters of the kernel)` for the kernels that `build` makes;
    `record` gives names to the words."""
    names = {} if record is None else {n: i for i, n in enumerate(record.__dataclass_fields__)}

    def register(declaration: Declaration) -> Declaration:
        _DECLARED[build] = (names, declaration)
        return declaration

    return register


def declared(build: Callable[..., Any]) -> bool:
    """Whether a kernel says what it reaches."""
    return build in _DECLARED


def spans_of(step: Step, target: Any) -> list[Span]:
    """Everything that a step may read and write. Raises OutOfBounds where its kernel does not say,
    or the record breaks a rule of the kernel's."""
    found = _DECLARED.get(step.kernel.build)
    if found is None:
        raise OutOfBounds("the kernel does not say what it reaches")
    names, declaration = found
    reach = Reach(step, target, names)
    declaration(reach, **dict(step.kernel.parameters))
    return reach.spans


def up(value: int, granule: int) -> int:
    """`value` rounded up to whole granules."""
    return -(-value // granule) * granule


@cache
def item_of(kind: str) -> int:
    """Bytes of an element of a type."""
    return DType(kind).numpy.itemsize

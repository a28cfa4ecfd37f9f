"""A step: one kernel call with its record, and what it reads and writes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from .kernel import Kernel
from .layout import Buffer, Ref, Tensor
from .records import Header

Word = int | float | Ref

HEADER = 3  # sync, slot, chunks: what every record begins with


@dataclass(eq=False)
class Step:
    """`kernel` is called with a record of `words` (the header's first).

    nodes   names of the IR nodes that it computes (for people)
    macs    its multiply-accumulates
    """

    kernel: Kernel
    words: list[Word]
    reads: list[Buffer]
    writes: list[Buffer]
    nodes: tuple[str, ...] = ()
    macs: int = 0

    @property
    def chunks(self) -> Word:
        """In how many parts threads share it out: the last word of the header."""
        return self.words[HEADER - 1]


@dataclass(eq=False)
class PythonStep:
    """A step that runs in Python on NumPy views: an op that no kernel covers, or (`kind`) one that
    runs compiled bodies."""

    run: Callable[[list[np.ndarray]], Sequence[np.ndarray]]
    inputs: list[Tensor]
    outputs: list[Tensor]
    reads: list[Buffer]
    writes: list[Buffer]
    nodes: tuple[str, ...] = ()
    macs: int = field(default=0)
    kind: str = "python"


AnyStep = Step | PythonStep


def record_words(record: type[Header], values: dict[str, Word]) -> list[Word]:
    """Words in the record's order; fields left out take their defaults."""
    out: list[Word] = []
    for f in fields(record):
        value = values.get(f.name, 0 if f.name in ("sync", "slot") else f.default)
        if not isinstance(value, int | float | Ref | np.integer | np.floating):
            raise TypeError(f"{record.__name__}.{f.name} is not given")
        out.append(value if isinstance(value, Ref | float) else int(value))
    return out


def bits(value: float) -> int:
    """A double as the int64 that has the same bits."""
    return struct.unpack("<q", struct.pack("<d", value))[0]

"""A step: one kernel call with its record, and what it reads and writes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from .jit import Kernel
from .layout import Buffer, Ref, Tensor
from .records import Header

Word = int | float | Ref

HEADER = 3  # sync, slot, chunks: what every record begins with
SLOTS = 4  # work counters, so steps between two barriers


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
    at: int = -1  # word in the program's table


@dataclass(eq=False)
class PythonStep:
    """A step that runs in Python on NumPy views: an op that no kernel covers."""

    run: Callable[[list[np.ndarray]], Sequence[np.ndarray]]
    inputs: list[Tensor]
    outputs: list[Tensor]
    reads: list[Buffer]
    writes: list[Buffer]
    nodes: tuple[str, ...] = ()
    macs: int = field(default=0)


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


@dataclass(eq=False)
class Phase:
    """Steps that may run at the same time; a barrier follows."""

    steps: list[Step]


@dataclass(eq=False)
class Segment:
    """Phases that one compiled entry runs, or one step in Python."""

    phases: list[Phase]
    python: PythonStep | None = None
    address: int = 0
    source: str = ""


def schedule(steps: Sequence[AnyStep]) -> list[Segment]:
    """Cut the steps, in order, into segments and phases, and set the buffers' lifetimes.

    A step joins the open phase unless it reads what that phase writes or the phase is full. No
    memory is reused inside a phase, so there are no other hazards. A phase that opens a segment
    counts like any other: lifetimes are in units of phases over the whole program.
    """
    segments: list[Segment] = []
    number = -1
    written: set[Buffer] = set()
    for step in steps:
        if isinstance(step, PythonStep):
            number += 1
            segments.append(Segment([], step))
            written = set()
        else:
            open_segment = segments and segments[-1].python is None
            if not open_segment:
                segments.append(Segment([]))
            phases = segments[-1].phases
            if (
                not phases
                or len(phases[-1].steps) == SLOTS
                or any(b in written for b in step.reads)
            ):
                phases.append(Phase([]))
                number += 1
                written = set()
            phases[-1].steps.append(step)
            written.update(step.writes)
        for buffer in (*step.reads, *step.writes):
            if buffer.first < 0:
                buffer.first = number
            buffer.last = max(buffer.last, number)
    return segments

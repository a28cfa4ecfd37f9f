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


@dataclass(eq=False)
class Task:
    """What one work counter hands out: a step's chunks, or (`alone`) all of a few small steps to
    one thread, in order."""

    steps: list[Step]
    alone: bool = False
    at: int = -1  # word in the program's table of the record of a task that runs alone


@dataclass(eq=False)
class Phase:
    """Tasks that may run at the same time; a barrier follows."""

    tasks: list[Task]

    @property
    def steps(self) -> list[Step]:
        return [step for task in self.tasks for step in task.steps]


@dataclass(eq=False)
class Segment:
    """Phases that one compiled entry runs, or one step in Python."""

    phases: list[Phase]
    python: PythonStep | None = None
    address: int = 0
    source: str = ""


SMALL = 2000.0  # nanoseconds of one thread that are not worth sharing: see `nanoseconds`


def nanoseconds(step: Step) -> float:
    """About what a step takes on one thread: only its order of magnitude matters."""
    buffers = {b for b in (*step.reads, *step.writes) if b.space != "constant"}
    return step.macs / 150 + sum(b.size for b in buffers) / 10


class _Open:
    """The phase that steps are being put into, and what its tasks write."""

    def __init__(self) -> None:
        self.phase = Phase([])
        self.shared: set[Buffer] = set()  # written by tasks that several threads work on
        self.alone: set[Buffer] = set()  # written by the task that runs alone
        self.read: set[Buffer] = set()
        self.load = 0.0  # nanoseconds of that task

    def add(self, step: Step, threads: int) -> bool:
        """Put the step into this phase, if it may run beside what is there or, small, behind it."""
        if any(b in self.shared for b in step.reads) or any(b in self.read for b in step.writes):
            return False
        took = nanoseconds(step)
        single = next((t for t in self.phase.tasks if t.alone), None)
        follows = any(b in self.alone for b in step.reads)
        small = took < SMALL or step.words[2] == 1
        joins = small and (follows or self.load + took < 2 * SMALL)
        if (follows and not joins) or (threads == 1 and self.phase.tasks):
            return False
        if joins and single is not None:
            single.steps.append(step)
        elif len(self.phase.tasks) == SLOTS:
            return False
        else:
            self.phase.tasks.append(Task([step], alone=joins))
        if joins:
            self.alone.update(step.writes)
            self.load += took
        else:
            self.shared.update(step.writes)
        self.read.update(step.reads)
        return True


def schedule(steps: Sequence[AnyStep], threads: int) -> list[Segment]:
    """Cut the steps, in order, into segments and phases, and set the buffers' lifetimes.

    A step joins the open phase unless it reads what other threads may be writing in it, or the
    phase is full. Steps too small to share run alone: one thread does a few of them in a row, with
    no barrier between them though each reads what the last wrote. No memory is reused inside a
    phase, so there are no other hazards. Lifetimes are in phases, counted over the whole program.
    """
    segments: list[Segment] = []
    number = -1
    now: _Open | None = None
    for step in steps:
        if isinstance(step, PythonStep):
            number += 1
            segments.append(Segment([], step))
            now = None
        elif now is None or not now.add(step, threads):
            if now is None:
                segments.append(Segment([]))
            now = _Open()
            now.add(step, threads)
            segments[-1].phases.append(now.phase)
            number += 1
        for buffer in (*step.reads, *step.writes):
            if buffer.first < 0:
                buffer.first = number
            buffer.last = max(buffer.last, number)
    for task in (t for segment in segments for phase in segment.phases for t in phase.tasks):
        task.alone = task.alone and (len(task.steps) > 1 or task.steps[0].words[2] != 1)
    return segments

"""Steps cut into phases: what may run at the same time, and what one thread does alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...ir.machine import Machine
from .layout import Buffer
from .steps import AnyStep, PythonStep, Step

SLOTS = 4  # work counters, so tasks between two barriers


@dataclass(frozen=True, eq=False)
class Task:
    """What one work counter hands out: a step's chunks, or (`alone`) all of a few small steps to
    one thread, in order."""

    steps: tuple[Step, ...]
    alone: bool = False


@dataclass(frozen=True, eq=False)
class Phase:
    """Tasks that may run at the same time; a barrier follows."""

    tasks: tuple[Task, ...]

    @property
    def steps(self) -> list[Step]:
        return [step for task in self.tasks for step in task.steps]


@dataclass(frozen=True, eq=False)
class Segment:
    """Phases that one compiled entry runs, or one step in Python."""

    phases: tuple[Phase, ...]
    python: PythonStep | None = None

    @property
    def steps(self) -> list[Step]:
        return [step for phase in self.phases for step in phase.steps]


def seconds(step: Step, machine: Machine) -> float:
    """About what a step takes on one thread: only its order of magnitude matters."""
    buffers = {b for b in (*step.reads, *step.writes) if b.space != "constant"}
    touched = sum(b.size for b in buffers)
    return step.macs / machine.macs_per_second + touched / machine.touch_per_second


class _Open:
    """The phase that steps are being put into, and what its tasks write."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tasks: list[tuple[list[Step], bool]] = []
        self.shared: set[Buffer] = set()  # written by tasks that several threads work on
        self.alone: set[Buffer] = set()  # written by the task that runs alone
        self.read: set[Buffer] = set()
        self.load = 0.0  # seconds of that task

    def add(self, step: Step) -> bool:
        """Put the step into this phase, if it may run beside what is there or, small, behind it."""
        if any(b in self.shared for b in step.reads) or any(b in self.read for b in step.writes):
            return False
        took, worth = seconds(step, self.machine), self.machine.barrier
        single = next((steps for steps, alone in self.tasks if alone), None)
        follows = any(b in self.alone for b in step.reads)
        small = took < worth or step.chunks == 1
        joins = small and (follows or self.load + took < 2 * worth)
        if (follows and not joins) or (self.machine.threads == 1 and self.tasks):
            return False
        if joins and single is not None:
            single.append(step)
        elif len(self.tasks) == SLOTS:
            return False
        else:
            self.tasks.append(([step], joins))
        if joins:
            self.alone.update(step.writes)
            self.load += took
        else:
            self.shared.update(step.writes)
        self.read.update(step.reads)
        return True

    def close(self) -> Phase:
        """What has come together. A single step of one chunk needs nobody to run it alone."""
        return Phase(tuple(
            Task(tuple(steps), alone and (len(steps) > 1 or steps[0].chunks != 1))
            for steps, alone in self.tasks
        ))  # fmt: skip


def segments_of(steps: Sequence[AnyStep], machine: Machine) -> tuple[Segment, ...]:
    """Cut the steps, in order, into segments and phases.

    A step joins the open phase unless it reads what other threads may be writing in it, or the
    phase is full. Steps too small to share run alone: one thread does a few of them in a row, with
    no barrier between them though each reads what the last wrote. No memory is reused inside a
    phase, so there are no other hazards.
    """
    segments: list[Segment] = []
    phases: list[_Open] = []

    def close() -> None:
        if phases:
            segments.append(Segment(tuple(p.close() for p in phases)))
            phases.clear()

    for step in steps:
        if isinstance(step, PythonStep):
            close()
            segments.append(Segment((), step))
        elif not phases or not phases[-1].add(step):
            phases.append(_Open(machine))
            phases[-1].add(step)
    close()
    return tuple(segments)


Lifetimes = Mapping[Buffer, tuple[int, int]]
"""The first and the last phase in which a buffer is used, counted over the whole program."""


def lifetimes_of(segments: Sequence[Segment]) -> Lifetimes:
    """When each buffer is alive; a step in Python is a phase of its own."""
    found: dict[Buffer, tuple[int, int]] = {}
    groups: list[Sequence[AnyStep]] = []
    for segment in segments:
        groups.extend(phase.steps for phase in segment.phases)
        if segment.python is not None:
            groups.append([segment.python])
    for number, group in enumerate(groups):
        for buffer in (b for step in group for b in (*step.reads, *step.writes)):
            first, _ = found.get(buffer, (number, number))
            found[buffer] = first, number
    return MappingProxyType(found)

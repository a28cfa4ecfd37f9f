"""The program's text: readable Python with one line a kernel call, compiled as one entry.

The source holds compiler-made names and numbers only, and no sizes: these are in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...schedule.phases import Segment, Task
from ...schedule.steps import Step
from . import jit, sync
from .isa import Isa

Places = Mapping[Step | Task, int]
"""The word of the table at which a step's record begins, or that of a task which runs alone."""


class Code(NamedTuple):
    """A segment's source and the address of its native code."""

    source: str
    address: int


def source(segment: Segment, places: Places, threads: int) -> str:
    """Python source of `entry(tid, nt, base)`; `base` is the table's address, word 0 its sync."""
    lines = ["def entry(tid, nt, base):", "    sync = load_i64(base)"]
    for phase in segment.phases:
        for task in phase.tasks:
            call = "    {}(tid, nt, base + {})".format
            calls = [call(step.kernel.name, 8 * places[step]) for step in task.steps]
            if threads > 1 and task.alone:
                lines += [call("alone", 8 * places[task]), *(f"    # {c.strip()}" for c in calls)]
            else:
                lines += calls
        if threads > 1:
            lines.append("    barrier(tid, nt, sync)")
    return "\n".join(lines) + "\n"


def compile_segment(segment: Segment, places: Places, isa: Isa, threads: int) -> Code:
    """Native code for the phases of a segment."""
    kernels = {step.kernel.name: step.kernel for step in segment.steps}
    text = source(segment, places, threads)
    names = {"alone": sync.ALONE, "barrier": sync.BARRIER, **kernels}
    return Code(text, jit.build_entry(text, names, isa).address)

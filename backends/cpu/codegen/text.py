"""The program's text: readable Python with one line a kernel call, compiled as one entry.

The source holds compiler-made names and numbers only, and no sizes: these are in the table.
"""

from __future__ import annotations

from ...schedule.steps import Segment
from . import jit, sync
from .isa import Isa


def source(segment: Segment, threads: int) -> str:
    """Python source of `entry(tid, nt, base)`; `base` is the table's address, word 0 its sync."""
    lines = ["def entry(tid, nt, base):", "    sync = load_i64(base)"]
    for phase in segment.phases:
        for task in phase.tasks:
            call = "    {}(tid, nt, base + {})".format
            calls = [call(step.kernel.name, 8 * step.at) for step in task.steps]
            if threads > 1 and task.alone:
                lines += [call("alone", 8 * task.at), *(f"    # {c.strip()}" for c in calls)]
            else:
                lines += calls
        if threads > 1:
            lines.append("    barrier(tid, nt, sync)")
    return "\n".join(lines) + "\n"


def compile_segment(segment: Segment, isa: Isa, threads: int) -> None:
    """Fill in the segment's source and the address of its native code."""
    kernels = {step.kernel.name: step.kernel for phase in segment.phases for step in phase.steps}
    segment.source = source(segment, threads)
    segment.address = jit.build_entry(
        segment.source, {"alone": sync.ALONE, "barrier": sync.BARRIER, **kernels}, isa
    ).address

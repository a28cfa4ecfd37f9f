"""A plan's steps against its buffers, before anything runs.

Every kernel says, beside its code, what it may read and write for the words of a record (`reach`).
Here that is held against the sizes of the buffers: a step may read its buffers and, behind those of
the arena and the constants, the `SLACK` that is granted to whole vectors; it may write within its
buffers only, never to a constant or an input, and to nothing that the schedule does not know of.
What breaks this is a fault of the compiler: it becomes a CompileError and never a write. Indices
that are data are clamped in the kernels; their reach is that of every index which is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...ir import CompileError
from .layout import SLACK, Ref
from .reach import OutOfBounds, Span, spans_of
from .steps import AnyStep, Step


def check(steps: Iterable[AnyStep], target: Any) -> None:
    """Raise CompileError, with the node and the kernel, for a step that would leave its buffers."""
    for step in steps:
        if not isinstance(step, Step):
            continue  # NumPy checks what steps in Python do
        try:
            for span in spans_of(step, target):
                _check(step, span)
        except OutOfBounds as error:
            raise CompileError(
                f"kernel {step.kernel.name} would leave its buffers: {error}",
                node=step.nodes[0] if step.nodes else None,
                hint="this is a fault of Taut's; nothing was run",
            ) from error


def _check(step: Step, span: Span) -> None:
    ref = step.words[span.word]
    if not isinstance(ref, Ref):
        raise OutOfBounds(f"word {span.word} is {ref}, where an address should be")
    buffer = ref.buffer
    low, high = ref.offset + span.low, ref.offset + span.high
    granted = not span.writes and buffer.space in ("arena", "constant")
    room = buffer.size + (SLACK if granted else 0)
    verb = "writes" if span.writes else "reads"
    if low < 0 or high > room:
        raise OutOfBounds(
            f"it {verb} bytes {low} to {high} of a buffer of {buffer.size} ({buffer.space})"
        )
    if span.writes and buffer.space in ("constant", "input"):
        raise OutOfBounds(f"it writes to {buffer.space} memory")
    known = step.writes if span.writes else (*step.reads, *step.writes)
    if buffer.space not in ("constant", "fault") and buffer not in known:
        raise OutOfBounds(f"it {verb} a buffer that the schedule does not know of")

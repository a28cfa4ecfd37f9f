"""When every step runs, and where every buffer is: what a backend's runtime carries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.machine import Machine
from . import arena
from .layout import Buffer
from .phases import Lifetimes, Segment, lifetimes_of, segments_of
from .steps import AnyStep


@dataclass(frozen=True)
class Timetable:
    """
    segments    the steps in order: phases, and between them what runs in Python
    lifetimes   of all buffers, in phases
    places      of the arena's buffers
    constants   the buffers that have to be kept
    """

    segments: tuple[Segment, ...]
    lifetimes: Lifetimes
    places: arena.Arena
    constants: tuple[Buffer, ...]


def timetable_of(steps: Sequence[AnyStep], machine: Machine, limit: int) -> Timetable:
    """The timetable of these steps. Raises LimitError for an arena of more than `limit` bytes."""
    segments = segments_of(steps, machine)
    lifetimes = lifetimes_of(segments)
    buffers = dict.fromkeys(b for s in steps for b in (*s.reads, *s.writes))
    places = arena.assign((b for b in buffers if b.space == "arena"), lifetimes)
    arena.check_size(places.size, limit)
    constants = tuple(b for b in buffers if b.space == "constant")
    return Timetable(segments, lifetimes, places, constants)

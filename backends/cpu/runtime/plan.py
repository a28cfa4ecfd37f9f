"""Plans: what a program does for one set of input sizes."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ....ir import Array, FeedError, Graph, Limits, interpret
from ...base import KernelTime
from ...schedule import bounds
from ...schedule.kernel import Kernel
from ...schedule.layout import SLACK, Buffer, Ref, Tensor
from ...schedule.memory import aligned
from ...schedule.phases import Segment, Task
from ...schedule.schedule import Schedule
from ...schedule.steps import HEADER, PythonStep, Step, bits
from ...schedule.timetable import timetable_of
from ..codegen import jit, sync, syncblock
from ..codegen import text as codegen
from ..codegen.isa import Isa, find
from ..lower.lowering import Emitted
from . import turns
from .team import Team


class Plan:
    """Steps, table and arena for one set of input sizes."""

    def __init__(
        self, schedule: Schedule, made: Emitted, isa: Isa, workers: Team, limits: Limits
    ) -> None:
        self.team, self.isa = workers, isa
        self.names = schedule.graph.output_names
        self._fallbacks = [n.name for n in made.fallbacks]
        self._bodies = made.bodies
        self._outputs = [(t.shape, t.dtype.numpy) for t in made.outputs]
        bounds.check(made.steps, isa)
        self._times = timetable_of(made.steps, schedule.machine, limits.model_bytes)
        self.segments = self._times.segments
        self._messages = made.faults
        self._places, self._words = places_of(self.segments)
        self._settle()
        self._code = [
            None if s.python else codegen.compile_segment(s, self._places, isa, workers.nt)
            for s in self.segments
        ]
        self._link()

    def _settle(self) -> None:
        """Memory of its own: arena, flags of faults, sync block and table."""
        self.lock, self.busy = threading.Lock(), False
        self._twin: Plan | None = None
        self._arena = aligned(self._times.places.size + SLACK, 4096)
        self._sync = aligned(syncblock.sync_bytes(self.team.nt))
        self._flags = {buffer: aligned(8) for _, buffer in self._messages}
        self._faults = [(m, self._flags[b].view(np.int64)) for m, b in self._messages]
        self._write_table()
        self._lease = self.team.lend((self._table, self._sync))

    def _link(self) -> None:
        """What a call goes through, once there is native code."""
        self._calls = [
            (0 if code is None else code.address, s.python and _Bridge(self, s.python))
            for s, code in zip(self.segments, self._code)
        ]
        turns.watch(self)

    def twin(self) -> Plan:
        """The same on other memory, for a call within a call."""
        if self._twin is None:
            made = copy.copy(self)
            made._settle()
            made._link()
            self._twin = made
        return self._twin

    def after_fork(self) -> None:
        """What threads had in hand is gone, so their counters begin again."""
        self._sync[:] = 0

    @property
    def memory(self) -> int:
        inside = sum(b.memory for b in self._bodies)
        twin = 0 if self._twin is None else self._twin.memory - inside
        return self._arena.size + self._table.nbytes + inside + twin

    @property
    def fallbacks(self) -> list[str]:
        """Nodes that run in Python, those of bodies by their path as far as these have run."""
        return self._fallbacks + [name for b in self._bodies for name in b.fallbacks()]

    def _write_table(self) -> None:
        raw = aligned(8 * self._words)
        self._table = raw.view(np.int64)
        self._base = raw.ctypes.data
        self._table[0] = self._sync.ctypes.data
        patches: list[tuple[int, Buffer, int]] = []
        for phase in (phase for segment in self.segments for phase in segment.phases):
            for slot, task in enumerate(phase.tasks):
                if task.alone:
                    self._write_head(task, slot)
                for step in task.steps:
                    patches += self._write_record(step, 0 if task.alone else slot)
        self._reads = [(w, b.index, o) for w, b, o in patches if b.space == "input"]
        self._writes = [(w, b.index, o) for w, b, o in patches if b.space == "output"]

    def _write_head(self, task: Task, slot: int) -> None:
        """The record of a task that runs alone: its steps' functions and records."""
        calls = [w for s in task.steps for w in (self._native(s), self._base + 8 * self._places[s])]
        record = [self._sync.ctypes.data, slot, 1, len(task.steps), *calls]
        at = self._places[task]
        self._table[at : at + len(record)] = record

    def _write_record(self, step: Step, slot: int) -> Iterator[tuple[int, Buffer, int]]:
        """A step's words; gives those that each call writes: where, of which array, from where."""
        at = self._places[step]
        for i, word in enumerate([self._sync.ctypes.data, slot, *step.words[2:]], at):
            if isinstance(word, Ref):
                if word.buffer.space in ("input", "output"):
                    yield i, word.buffer, word.offset
                    continue
                word = self.address(word.buffer) + word.offset
            self._table[i] = bits(word) if isinstance(word, float) else word

    def address(self, buffer: Buffer) -> int:
        if buffer in self._flags:
            return self._flags[buffer].ctypes.data
        if buffer.data is not None:
            return buffer.data.ctypes.data
        return self._arena.ctypes.data + self._times.places.offsets[buffer]

    def view(self, tensor: Tensor, given: Sequence[Array], made: Sequence[Array]) -> Array:
        """A tensor's elements as a NumPy view."""
        buffer = tensor.buffer
        if buffer.space == "arena":
            start = self._times.places.offsets[buffer]
            memory: Array = self._arena[start : start + buffer.size]
        elif buffer.data is not None:
            memory = buffer.data[: buffer.size]
        else:
            whole = (given if buffer.space == "input" else made)[buffer.index]
            memory = whole.reshape(-1).view(np.uint8)
        if not tensor.size:
            return np.empty(tensor.shape, tensor.dtype.numpy)
        return np.ndarray(tensor.shape, tensor.dtype.numpy, memory, tensor.offset, tensor.strides)

    def _open(
        self, given: Sequence[Array], out: Sequence[Array | None] | None = None
    ) -> list[Array]:
        """The outputs, new ones but for those given; the table gets the addresses of this call's
        arrays, and no fault is left of one that was cut off."""
        for _, word in self._faults:
            word[0] = 0
        made = [_fitting(o, shape, dtype) for o, (shape, dtype) in
                zip(out or [None] * len(self._outputs), self._outputs)]  # fmt: skip
        table = self._table
        starts = [a.__array_interface__["data"][0] for a in given]
        for word, index, offset in self._reads:
            table[word] = starts[index] + offset
        starts = [a.__array_interface__["data"][0] for a in made]
        for word, index, offset in self._writes:
            table[word] = starts[index] + offset
        return made

    @turns.holds
    def run(
        self, given: Sequence[Array], out: Sequence[Array | None] | None = None
    ) -> dict[str, Array]:
        """One call; `given` are contiguous arrays of the plan's sizes in graph order, `out` as in
        Program.run."""
        if self.busy and turns.is_nested():
            return self.twin().run(given, out)
        team = self.team
        if not team.ready:
            team.start()
        call, block = team.call, team.address + syncblock.LENT
        with self.lock:
            try:
                held = self.busy = True
                made = self._open(given, out)
                for address, bridge in self._calls:
                    if bridge is None:
                        call(address, self._base, block)
                    else:
                        bridge(given, made)
                if self._faults:
                    self._check_faults()
            finally:
                held = self.busy = False  # noqa: F841 (read from the stack by `turns`)
        return dict(zip(self.names, made))

    def _check_faults(self) -> None:
        """Raise FeedError if a kernel met data that the reference refuses."""
        for message, word in self._faults:
            if word[0]:
                raise FeedError(message)

    @turns.holds
    def time(self, given: Sequence[Array]) -> list[KernelTime]:
        """One call, step by step, each timed."""
        if self.busy and turns.is_nested():
            return self.twin().time(given)
        with self.lock:
            try:
                held = self.busy = True
                return self._rows(given, self._open(given))
            finally:
                held = self.busy = False  # noqa: F841 (read from the stack by `turns`)

    def _rows(self, given: Sequence[Array], made: Sequence[Array]) -> list[KernelTime]:
        rows = []
        idle = jit.load(sync.BARRIER, find("portable")).address
        empty = min(self._clock(idle, self._sync.ctypes.data) for _ in range(5))
        for segment, (_, bridge) in zip(self.segments, self._calls):
            if segment.python is not None and bridge is not None:
                start = time.perf_counter()
                bridge(given, made)
                took = time.perf_counter() - start
                rows.append(KernelTime(segment.python.kind, segment.python.nodes, took))
            for step in segment.steps:
                took = self._clock(self._native(step), self._base + 8 * self._places[step]) - empty
                self.team.run(idle, self._sync.ctypes.data)  # resets the work counters
                rows.append(KernelTime(step.kernel.name, step.nodes, max(took, 0.0), step.macs))
        return rows

    def _native(self, step: Step) -> int:
        return jit.load(step.kernel, self.isa).address

    def _clock(self, address: int, record: int) -> float:
        start = time.perf_counter()
        self.team.run(address, record)
        return time.perf_counter() - start

    def kernels(self) -> list[Kernel]:
        """The kernels that the plan calls, each once."""
        found = {s.kernel.name: s.kernel for segment in self.segments for s in segment.steps}
        return list(found.values())

    def source(self) -> str:
        parts = [
            f"# in Python: {len(s.python.inputs)} operands, {len(s.python.outputs)} results\n"
            if s.python
            else (code.source if code else "")
            for s, code in zip(self.segments, self._code)
        ]
        parts += [text for b in self._bodies for text in b.sources()]
        return "\n".join(parts)


def places_of(segments: Sequence[Segment]) -> tuple[Mapping[Step | Task, int], int]:
    """Where each record begins in the table, in words, and how many words there are."""
    places: dict[Step | Task, int] = {}
    at = 1
    for task in (t for s in segments for phase in s.phases for t in phase.tasks):
        if task.alone:
            places[task] = at
            at += HEADER + 1 + 2 * len(task.steps)
        for step in task.steps:
            places[step] = at
            at += len(step.words)
    return places, at


class _Bridge:
    """A Python step as a call on the plan's memory."""

    def __init__(self, plan: Plan, step: PythonStep) -> None:
        self.plan, self.step = plan, step

    def __call__(self, given: Sequence[Array], made: Sequence[Array]) -> None:
        arrays = [self.plan.view(t, given, made) for t in self.step.inputs]
        for tensor, result in zip(self.step.outputs, self.step.run(arrays)):
            self.plan.view(tensor, given, made)[...] = result


class Interpreted:
    """A graph that runs by the reference, node by node."""

    memory = 0

    def __init__(self, graph: Graph, limits: Limits) -> None:
        self.graph, self.limits = graph, limits
        self.fallbacks = [n.name for n in graph.nodes() if n is not graph.result]

    def run(self, given: Sequence[Array]) -> dict[str, Array]:
        names = [n.name for n in self.graph.inputs]
        return interpret(self.graph, dict(zip(names, given)), limits=self.limits)

    def time(self, given: Sequence[Array]) -> list[KernelTime]:
        start = time.perf_counter()
        self.run(given)
        return [KernelTime("python", tuple(self.fallbacks), time.perf_counter() - start)]

    def kernels(self) -> list[Kernel]:
        return []

    def source(self) -> str:
        return "# in Python: sizes depend on data, so the reference runs the graph\n"


def _fitting(array: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """`array` if an output of this type can be written there, or a new one."""
    fits = array is not None and array.shape == shape and array.dtype == dtype
    if array is None or not fits or not array.flags.c_contiguous or not array.flags.writeable:
        return np.empty(shape, dtype)
    return array


assert HEADER == 3

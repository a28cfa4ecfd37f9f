"""Plans: what a program does for one set of input sizes."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir import Array, FeedError, Graph, Limits, interpret
from ...base import KernelTime
from ...schedule import arena, bounds
from ...schedule.kernel import Kernel
from ...schedule.layout import SLACK, Buffer, Ref, Tensor
from ...schedule.memory import aligned
from ...schedule.steps import HEADER, PythonStep, Step, Task, bits, schedule
from ..codegen import jit, sync, syncblock
from ..codegen import text as codegen
from ..codegen.isa import find
from ..lower.lowering import Lowering, check_size
from . import turns
from .team import Team


class Plan:
    """Steps, table and arena for one set of input sizes."""

    def __init__(self, lowering: Lowering, workers: Team, limits: Limits) -> None:
        self.team, self.isa = workers, lowering.isa
        self.names = lowering.graph.output_names
        self.segments = schedule(lowering.steps, workers.nt)
        self._fallbacks = [n.name for n in lowering.fallbacks]
        self._bodies = lowering.bodies
        self._outputs = [(t.shape, t.dtype.numpy) for t in lowering.outputs]
        bounds.check(lowering.steps, self.isa)
        buffers = {b: None for s in lowering.steps for b in (*s.reads, *s.writes)}
        self._size = arena.assign(b for b in buffers if b.space == "arena")
        check_size(self._size, limits.model_bytes)
        self._messages = lowering.faults
        self.constants = [b for b in buffers if b.space == "constant"]  # kept alive
        self._settle()
        for segment in self.segments:
            if segment.python is None:
                codegen.compile_segment(segment, lowering.isa, workers.nt)
        self._link()

    def _settle(self) -> None:
        """Memory of its own: arena, flags of faults, sync block and table."""
        self.lock, self.busy = threading.Lock(), False
        self._twin: Plan | None = None
        self._arena = aligned(self._size + SLACK, 4096)
        self._sync = aligned(syncblock.sync_bytes(self.team.nt))
        self._flags = {buffer: aligned(8) for _, buffer in self._messages}
        self._faults = [(m, self._flags[b].view(np.int64)) for m, b in self._messages]
        self._write_table()
        self._lease = self.team.lend((self._table, self._sync))

    def _link(self) -> None:
        """What a call goes through, once there is native code."""
        self._calls = [
            (s.address, None) if s.python is None else (0, _Bridge(self, s.python))
            for s in self.segments
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
        steps = [s for seg in self.segments for phase in seg.phases for s in phase.steps]
        at = 1
        heads: list[tuple[int, Task]] = []
        slots: dict[int, int] = {}  # by the step's place
        for segment in self.segments:
            for phase in segment.phases:
                for slot, task in enumerate(phase.tasks):
                    if task.alone:
                        task.at = at
                        heads.append((slot, task))
                        at += HEADER + 1 + 2 * len(task.steps)
                    for step in task.steps:
                        step.at = at
                        slots[at] = 0 if task.alone else slot
                        at += len(step.words)
        raw = aligned(8 * at)
        self._table = raw.view(np.int64)
        self._base = raw.ctypes.data
        self._table[0] = self._sync.ctypes.data
        for slot, task in heads:
            calls = [w for s in task.steps for w in (self._native(s), self._base + 8 * s.at)]
            record = [self._sync.ctypes.data, slot, 1, len(task.steps), *calls]
            self._table[task.at : task.at + len(record)] = record
        patches: list[tuple[int, Buffer, int]] = []
        for step in steps:
            words = [self._sync.ctypes.data, slots[step.at], *step.words[2:]]
            for i, word in enumerate(words):
                if isinstance(word, Ref):
                    if word.buffer.space in ("input", "output"):
                        patches.append((step.at + i, word.buffer, word.offset))
                        continue
                    word = self.address(word.buffer) + word.offset
                self._table[step.at + i] = bits(word) if isinstance(word, float) else word
        self._reads = [(w, b.index, o) for w, b, o in patches if b.space == "input"]
        self._writes = [(w, b.index, o) for w, b, o in patches if b.space == "output"]

    def address(self, buffer: Buffer) -> int:
        if buffer in self._flags:
            return self._flags[buffer].ctypes.data
        if buffer.data is not None:
            return buffer.data.ctypes.data
        return self._arena.ctypes.data + buffer.offset

    def view(self, tensor: Tensor, given: Sequence[Array], made: Sequence[Array]) -> Array:
        """A tensor's elements as a NumPy view."""
        buffer = tensor.buffer
        if buffer.space == "arena":
            memory: Array = self._arena[buffer.offset : buffer.offset + buffer.size]
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
            for phase in segment.phases:
                for step in phase.steps:
                    took = self._clock(self._native(step), self._base + 8 * step.at) - empty
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
        found = {
            step.kernel.name: step.kernel
            for segment in self.segments
            for phase in segment.phases
            for step in phase.steps
        }
        return list(found.values())

    def source(self) -> str:
        parts = [
            segment.source
            if segment.python is None
            else f"# in Python: {len(segment.python.inputs)} operands, "
            f"{len(segment.python.outputs)} results\n"
            for segment in self.segments
        ]
        parts += [text for b in self._bodies for text in b.sources()]
        return "\n".join(parts)


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

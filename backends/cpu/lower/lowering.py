"""From a schedule to steps: which kernels run, on which views of which buffers.

Handlers, one for each op (see `registry`), emit steps; an op without a handler, or whose handlers
all decline, becomes a step in Python that runs the op's reference. What spans several ops is
decided beforehand and does not change here: values known without running, groups of ops, layouts,
halos, and values that are made in their place inside a concatenation (`schedule`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ....ir import DEFAULT_LIMITS, Array, DType, Graph, Limits, Node, Value
from ....ir.interpret import run_node
from ...schedule.facts import Facts
from ...schedule.groups import Groups
from ...schedule.layout import (
    Buffer,
    Constants,
    Halo,
    Ref,
    Tensor,
    image_of,
    outside,
    round_up,
    row_major,
    rows_of,
)
from ...schedule.schedule import Schedule
from ...schedule.steps import AnyStep, PythonStep, Step, Word, record_words
from ..codegen.isa import Isa
from ..kernels import frame
from ..kernels.tiling import Tilings
from . import generic
from .bodies import Bodies, Compile
from .generic import Leaf
from .registry import handlers

GRANULE = 16  # channels of a pixel are a multiple of this: kernels work on whole vectors


@dataclass(frozen=True)
class Setting:
    """What a schedule is lowered for: instructions, where constants are kept, how layers are cut;
    `compile_body` compiles bodies of branches and loops (None: they run by the reference)."""

    isa: Isa
    constants: Constants = field(default_factory=Constants)
    tilings: Tilings = field(default_factory=Tilings)
    limits: Limits = DEFAULT_LIMITS
    compile_body: Compile | None = None


@dataclass
class Emitted:
    """What has come of a schedule: steps in order, the program's outputs, nodes that run in Python,
    compiled bodies, and what errors the flags of faults stand for."""

    steps: list[AnyStep] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    fallbacks: list[Node] = field(default_factory=list)
    bodies: list[Bodies] = field(default_factory=list)
    faults: list[tuple[str, Buffer]] = field(default_factory=list)


@dataclass
class Pending:
    """An element-wise result that was not stored: its one user computes it on the way."""

    text: str
    name: str
    leaves: list[Leaf]
    nodes: tuple[str, ...]
    dtype: DType


class Lowering:
    """Emits the steps of a schedule; handlers ask it for tensors and hand it steps.

    groups     those of the schedule that are still to be lowered as one
    tensors    where values are
    pending    expressions of values that are not stored
    variants   other layouts of values
    """

    def __init__(self, schedule: Schedule, setting: Setting) -> None:
        self.schedule, self.setting = schedule, setting
        self.made = Emitted()
        self.groups: Groups = schedule.groups
        self.tensors: dict[Value, Tensor] = {}
        self.pending: dict[Value, Pending] = {}
        self.variants: dict[object, Tensor] = {}
        self.facts: Facts = schedule.facts
        self.graph: Graph = schedule.graph
        self.isa, self.threads = setting.isa, schedule.machine.threads
        self.array: Callable[[Value | None], Array | None] = self.facts.array

    # ---- reading -------------------------------------------------------------------------------

    def shape(self, value: Value) -> tuple[int, ...]:
        return value.type.static_shape

    def is_spatial(self, value: Value) -> bool:
        """Whether a value's channels are to be side by side."""
        return value in self.schedule.layouts.spatial

    def tensor(self, value: Value) -> Tensor:
        """Where a value is; constants are placed and pending expressions computed on demand."""
        found = self.tensors.get(value)
        if found is not None:
            return found
        if value in self.pending:
            self.store(value)
            return self.tensors[value]
        made = self.place(self.facts.known[value])
        self.tensors[value] = made
        return made

    def place(self, array: Array) -> Tensor:
        """A constant in row-major order."""
        strides = row_major(array.shape, array.itemsize)
        buffer = self.setting.constants.place(array)
        return Tensor(buffer, DType.of(array), array.shape, strides)

    def constant(self, array: Array) -> Ref:
        """The address of a constant array."""
        return Ref(self.setting.constants.place(array))

    def scalar(self, value: object, dtype: DType) -> Leaf:
        """A constant operand of an expression."""
        return Leaf(self.place(np.asarray(value, dtype.numpy)))

    # ---- writing -------------------------------------------------------------------------------

    def emit(self, *steps: Step) -> None:
        self.made.steps.extend(s for s in steps if s.words[2] != 0)

    def fill(self, out: Tensor, value: float, nodes: tuple[str, ...] = ()) -> None:
        """Set every element of a view."""
        if out.size:
            leaf = Leaf(self.scalar(value, out.dtype).tensor.words())
            self.emit(generic.map_step("a0", "fill", out.words(), [leaf], self.threads, nodes))

    def copy(
        self, source: Tensor, out: Tensor, nodes: tuple[str, ...] = (), *, over: bool = False
    ) -> None:
        """Copy elements between views of one shape and type; `over` what an earlier step wrote
        there, which the copy then waits for."""
        if out.size:
            leaf = Leaf(source.words())
            step = generic.map_step("a0", "copy", out.words(), [leaf], self.threads, nodes)
            if over:
                step.reads.append(out.buffer)
            self.emit(step)

    def dense(self, t: Tensor, nodes: tuple[str, ...] = ()) -> Tensor:
        """`t` in row-major order, copied only if it must be."""
        if t.is_row_major:
            return t
        made = self.new(t.dtype, t.shape)
        self.copy(t, made, nodes)
        return made

    def fault(self, message: str) -> Ref:
        """An int64 that a kernel sets where it meets data that the reference refuses: the call
        then raises FeedError with this message."""
        return self.fault_tensor(message).ref

    def fault_tensor(self, message: str) -> Tensor:
        """The same as a scalar, for a step whose result says whether anything was refused."""
        flag = Buffer("fault", 8)  # whose memory is each plan's own
        self.made.faults.append((message, flag))
        return Tensor(flag, DType.i64, (), ())

    def scratch(self, size: int) -> Buffer:
        """Memory for a step's own use."""
        return Buffer("arena", size)

    def result(self, value: Value, *, exact: bool, granule: int = 1, rows: bool = False) -> Tensor:
        """A place for `value`, remembered as its tensor.

        exact    the step writes the tensor's elements only; otherwise it may write up to a multiple
                 of `granule` channels (`rows`: last-axis elements) of each pixel
        """
        home = self.schedule.layouts.homes.get(value)
        if home is not None:
            made = self._home(value, *home, exact=exact, granule=granule)
        elif exact and self._goes_out(value):
            made = self._output(value)
        else:
            made = self.allocate(value, 1 if exact else granule, rows)
        self.tensors[value] = made
        return made

    def allocate(self, value: Value, granule: int = 1, rows: bool = False) -> Tensor:
        """A new arena tensor in the layout that is wanted of `value`."""
        return self.new(
            value.type.dtype, self.shape(value), spatial=self.is_spatial(value) and not rows,
            granule=granule, halo=self.schedule.layouts.halos.get(value), names=(value.node.name,),
        )  # fmt: skip

    def new(
        self, dtype: DType, shape: tuple[int, ...], *, spatial: bool = False, granule: int = 1,
        halo: Halo | None = None, names: tuple[str, ...] = (),
    ) -> Tensor:  # fmt: skip
        """An arena tensor; a halo is filled by steps of its own."""
        if not spatial:
            return rows_of(dtype, shape, GRANULE if granule > 1 else 1)
        made = image_of(dtype, shape, halo, GRANULE, granule > 4)
        if halo is not None:
            self._fill_halo(made, names)
        return made

    def store(self, value: Value) -> None:
        """Compute a pending value into memory."""
        p = self.pending.pop(value)
        out = self.result(value, exact=True)
        if out.size:
            self.emit(generic.map_step(p.text, p.name, out, p.leaves, self.threads, p.nodes))

    def _goes_out(self, value: Value) -> bool:
        return self.graph.is_output(value) and (
            not self.is_spatial(value) or self.graph.use_count(value) == 1
        )

    def _output(self, value: Value) -> Tensor:
        return self.made.outputs[self.graph.outputs.index(value)]

    def _home(self, value: Value, into: Value, start: int, *, exact: bool, granule: int) -> Tensor:
        """The slice of a concatenation's buffer where `value` belongs, or a place of its own where
        the step would write over its neighbours (the concatenation then copies)."""
        if into not in self.tensors:
            outer = self.schedule.layouts.homes.get(into)
            self.tensors[into] = self.allocate(into) if outer is None else \
                self._home(into, *outer, exact=True, granule=1)  # fmt: skip
        whole = self.tensors[into]
        if whole.buffer.space != "arena":
            return self.allocate(value, 1 if exact else granule)
        part = whole.slice(1, start, self.shape(value)[1])
        if not exact and part.room < round_up(part.shape[1], granule):
            return self.allocate(value, granule)
        return part

    def _fill_halo(self, t: Tensor, names: tuple[str, ...]) -> None:
        """Fill the border of a new channels-last tensor: by the byte where that will do."""
        halo, item, shape = t.halo, t.item, list(t.shape)
        assert halo is not None
        raw = np.full(1, halo.fill, t.dtype.numpy).tobytes()
        if len(shape) > 4 or len(set(raw)) > 1:
            self._fill_strips(t, halo, names)
            return
        rank = len(shape) - 2
        before, after = (0,) * (2 - rank) + halo.before, (0,) * (2 - rank) + halo.after
        height = shape[2] if rank == 2 else 1
        pixel = t.strides[-1] if shape[-1] > 0 else t.room * item
        width = (shape[-1] + before[1] + after[1]) * pixel
        words: dict[str, Word] = {
            "chunks": shape[0],
            "target": Ref(t.buffer),
            "image": t.strides[0],
            "rows": height + before[0] + after[0],
            "row": width,
            "width": width,
            "top": before[0],
            "bottom": after[0],
            "left": before[1] * pixel,
            "right": after[1] * pixel,
            "value": raw[0],
        }
        words_ = record_words(frame.HaloRecord, words)
        self.emit(Step(frame.HALO, words_, [], [t.buffer], names))

    def _fill_strips(self, t: Tensor, halo: Halo, names: tuple[str, ...]) -> None:
        """Fill a border strip by strip, axis by axis, each strip over the whole of later axes."""
        shape = list(t.shape)
        shape[1] = t.room
        for axis in range(2, len(shape)):
            before, after = halo.before[axis - 2], halo.after[axis - 2]
            inner = list(shape)
            at = t.offset
            for later in range(axis + 1, len(shape)):
                inner[later] += halo.before[later - 2] + halo.after[later - 2]
                at -= halo.before[later - 2] * t.strides[later]
            for count, first in ((before, -before), (after, t.shape[axis])):
                if count:
                    inner[axis] = count
                    offset = at + first * t.strides[axis]
                    strip = Tensor(t.buffer, t.dtype, tuple(inner), t.strides, offset)
                    self.fill(strip, halo.fill, names)

    # ---- the whole -----------------------------------------------------------------------------

    def run(self) -> Emitted:
        """Lower every node that a call has to compute."""
        self._boundary()
        for node in self.facts.to_run():
            if node not in self.groups.absorbed:
                self.lower(node)
        for value, out in zip(self.graph.outputs, self.made.outputs):
            here = self.tensor(value)
            if here is not out:
                self.copy(here, out, (value.node.name,))
        return self.made

    def lower(self, node: Node) -> None:
        """Emit one node's steps by the first handler that takes it, else its reference."""
        for handler in handlers(node.op.name, grouped=node in self.groups.by_last):
            if handler(self, node):
                return
        self.fallback(node)

    def fallback(self, node: Node) -> None:
        """The op's reference as a step in Python."""
        self.made.fallbacks.append(node)
        operands = self.graph.operands(node)
        fixed = [self.array(v) for v in operands]
        inputs = [self.tensor(v) for v, a in zip(operands, fixed) if v is not None and a is None]
        outputs = [self.result(node[i], exact=True) for i in range(len(node.results))]

        def run(arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
            rest = iter(arrays)
            given: list[Array | None] = [
                     None if v is None else next(rest) if a is None else a
                     for v, a in zip(operands, fixed)]  # fmt: skip
            return run_node(node, given, self.setting.limits)

        self.made.steps.append(
            PythonStep(run, inputs, outputs, [t.buffer for t in inputs],
                       [t.buffer for t in outputs], (node.name,))
        )  # fmt: skip

    def _boundary(self) -> None:
        """Inputs and outputs, which are the caller's."""
        for i, node in enumerate(self.graph.inputs):
            shape = self.shape(node[0])
            self.tensors[node[0]] = outside("input", i, node.type.dtype, shape)
        for i, value in enumerate(self.graph.outputs):
            shape = self.shape(value)
            self.made.outputs.append(outside("output", i, value.type.dtype, shape))

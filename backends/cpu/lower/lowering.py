"""From a graph with known sizes to steps: which kernels run, on which views of which buffers.

Handlers, one for each op (registered with `@lowers`), emit steps; an op without a handler, or whose
handlers all decline, becomes a step in Python that runs the op's reference. What spans several ops
is found beforehand: values known without running, convolutions with what follows them
(`groups.py`), layouts, halos, and values that can be made in their place inside a concatenation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ....ir import DEFAULT_LIMITS, Array, DType, Graph, LimitError, Limits, Node, TensorType, Value
from ....ir.interpret import run_node
from ....ir.op import has_body
from ....ir.ops.structure import Input
from ...schedule.layout import (
    Buffer,
    Constants,
    Halo,
    Ref,
    Tensor,
    channels_last,
    round_up,
    row_major,
)
from ...schedule.steps import AnyStep, PythonStep, Step, Word, record_words
from ..codegen.isa import Isa
from ..kernels import frame
from ..runtime.tuning import Schedules
from . import generic
from .generic import Leaf

if TYPE_CHECKING:
    from ..runtime.program import Program
    from .control import Bodies
    from .groups import Group

Handler = Callable[["Lowering", Node], bool]
HANDLERS: dict[str, list[Handler]] = {}
GRANULE = 16  # channels of a pixel are a multiple of this: kernels work on whole vectors
GROUP = "(group)"  # handlers of a group's last node, whatever its op
FOLD_LIMIT = 64 << 20  # bytes of a result computed while planning


def lowers(*ops: str) -> Callable[[Handler], Handler]:
    """Register a handler for ops by name; later ones are tried first. It returns False to decline
    before it has emitted anything."""

    def register(handler: Handler) -> Handler:
        for op in ops:
            HANDLERS.setdefault(op, []).insert(0, handler)
        return handler

    return register


@dataclass
class Pending:
    """An element-wise result that was not stored: its one user computes it on the way."""

    text: str
    name: str
    leaves: list[Leaf]
    nodes: tuple[str, ...]
    dtype: DType


@dataclass
class Lowering:
    """The state of one lowering: `steps` grows while handlers run."""

    graph: Graph
    isa: Isa
    threads: int
    constants: Constants
    schedules: Schedules = field(default_factory=Schedules)
    steps: list[AnyStep] = field(default_factory=list)
    tensors: dict[Value, Tensor] = field(default_factory=dict)
    pending: dict[Value, Pending] = field(default_factory=dict)
    known: dict[Value, Array] = field(default_factory=dict)
    spatial: set[Value] = field(default_factory=set)
    halos: dict[Value, Halo] = field(default_factory=dict)
    homes: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    absorbed: dict[Node, Node] = field(default_factory=dict)  # node -> where its group is lowered
    groups: dict[Node, Group] = field(default_factory=dict)  # last node of a group -> the group
    variants: dict[object, Tensor] = field(default_factory=dict)  # other layouts of values
    outputs: list[Tensor] = field(default_factory=list)
    fallbacks: list[Node] = field(default_factory=list)
    limits: Limits = DEFAULT_LIMITS
    compile_body: Callable[[Graph], Program] | None = None  # for bodies of branches and loops
    bodies: list[Bodies] = field(default_factory=list)  # of the nodes lowered
    live: set[Node] = field(default_factory=set)
    faults: list[tuple[str, Buffer]] = field(default_factory=list)

    # ---- reading -------------------------------------------------------------------------------

    def array(self, value: Value | None) -> Array | None:
        """The contents of a value that is known without running."""
        return None if value is None else self.known.get(value)

    def tensor(self, value: Value) -> Tensor:
        """Where a value is; constants are placed and pending expressions computed on demand."""
        found = self.tensors.get(value)
        if found is not None:
            return found
        if value in self.pending:
            self.store(value)
            return self.tensors[value]
        made = self.place(self.known[value])
        self.tensors[value] = made
        return made

    def place(self, array: Array) -> Tensor:
        """A constant in row-major order."""
        dtype = DType.of(array)
        shape = array.shape
        return Tensor(self.constants.place(array), dtype, shape, row_major(shape, array.itemsize))

    def constant(self, array: Array) -> Ref:
        """The address of a constant array."""
        return Ref(self.constants.place(array))

    def scalar(self, value: object, dtype: DType) -> Leaf:
        """A constant operand of an expression."""
        return Leaf(self.place(np.asarray(value, dtype.numpy)))

    def shape(self, value: Value) -> tuple[int, ...]:
        return value.type.static_shape

    # ---- writing -------------------------------------------------------------------------------

    def emit(self, *steps: Step) -> None:
        self.steps.extend(s for s in steps if s.words[2] != 0)

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
        self.faults.append((message, flag))
        return Tensor(flag, DType.i64, (), ())

    def buffer(self) -> Buffer:
        return Buffer("arena", 0)

    def result(self, value: Value, *, exact: bool, granule: int = 1, rows: bool = False) -> Tensor:
        """A place for `value`, remembered as its tensor.

        exact    the step writes the tensor's elements only; otherwise it may write up to a multiple
                 of `granule` channels (`rows`: last-axis elements) of each pixel
        """
        home = self.homes.get(value)
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
            value.type.dtype, self.shape(value), spatial=value in self.spatial and not rows,
            granule=granule, halo=self.halos.get(value), names=(value.node.name,),
        )  # fmt: skip

    def new(
        self, dtype: DType, shape: tuple[int, ...], *, spatial: bool = False, granule: int = 1,
        halo: Halo | None = None, names: tuple[str, ...] = (),
    ) -> Tensor:  # fmt: skip
        """An arena tensor; a halo is filled by steps of its own."""
        item = dtype.numpy.itemsize
        buffer = self.buffer()
        if spatial:
            channels = shape[1]
            # Pixels of few channels take four bytes, so that a row of them is one run of a
            # convolution; else whole vectors, so that every tensor of so many channels has the
            # same strides and element-wise steps see one long row.
            few = channels <= 4 and granule <= 4 and item == 1
            room = 4 if few else round_up(channels, GRANULE)
            made = channels_last(buffer, dtype, shape, room, halo)
            if halo is not None:
                self._fill_halo(made, names)
            return made
        last = round_up(sum(shape[-1:]), GRANULE) if granule > 1 else sum(shape[-1:])
        padded = [*shape[:-1], last] if shape else []
        buffer.size = math.prod(padded) * item
        return Tensor(buffer, dtype, shape, row_major(padded, item), room=last)

    def store(self, value: Value) -> None:
        """Compute a pending value into memory."""
        p = self.pending.pop(value)
        out = self.result(value, exact=True)
        if out.size:
            self.emit(generic.map_step(p.text, p.name, out, p.leaves, self.threads, p.nodes))

    def _goes_out(self, value: Value) -> bool:
        return self.graph.is_output(value) and (
            value not in self.spatial or self.graph.use_count(value) == 1
        )

    def _output(self, value: Value) -> Tensor:
        return self.outputs[self.graph.outputs.index(value)]

    def _home(self, value: Value, into: Value, start: int, *, exact: bool, granule: int) -> Tensor:
        """The slice of a concatenation's buffer where `value` belongs, or a place of its own where
        the step would write over its neighbours (the concatenation then copies)."""
        if into not in self.tensors:
            if into in self.homes:
                self.tensors[into] = self._home(into, *self.homes[into], exact=True, granule=1)
            else:
                self.tensors[into] = self.allocate(into)
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

    def run(self) -> None:
        """Lower every live node."""
        from . import groups, plan_layout

        self._find_live()
        self._find_known()
        self._boundary()
        groups.find(self)
        plan_layout.plan(self)
        for node in self.graph.nodes():
            if node in self.live and not self._is_known(node) and node not in self.absorbed:
                self.lower(node)
        for value, out in zip(self.graph.outputs, self.outputs):
            here = self.tensor(value)
            if here is not out:
                self.copy(here, out, (value.node.name,))

    def lower(self, node: Node) -> None:
        """Emit one node's steps by the first handler that takes it, else its reference."""
        if node is self.graph.result or isinstance(node.op, Input):
            return
        handlers = HANDLERS.get(node.op.name, [])
        for handler in [*HANDLERS[GROUP], *handlers] if node in self.groups else handlers:
            if handler(self, node):
                return
        self.fallback(node)

    def fallback(self, node: Node) -> None:
        """The op's reference as a step in Python."""
        self.fallbacks.append(node)
        operands = self.graph.operands(node)
        fixed = [self.array(v) for v in operands]
        inputs = [self.tensor(v) for v, a in zip(operands, fixed) if v is not None and a is None]
        outputs = [self.result(node[i], exact=True) for i in range(len(node.results))]

        def run(arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
            rest = iter(arrays)
            given: list[Array | None] = [
                     None if v is None else next(rest) if a is None else a
                     for v, a in zip(operands, fixed)]  # fmt: skip
            return run_node(node, given, self.limits)

        self.steps.append(
            PythonStep(run, inputs, outputs, [t.buffer for t in inputs],
                       [t.buffer for t in outputs], (node.name,))
        )  # fmt: skip

    def _find_live(self) -> None:
        self.live = live_nodes(self.graph)

    def _is_known(self, node: Node) -> bool:
        return all(node[i] in self.known for i in range(len(node.results)))

    def _find_known(self) -> None:
        """Constants, shape data with known numbers, and what can be computed from them."""
        for node in self.graph.nodes():
            if node not in self.live or isinstance(node.op, Input):
                continue
            for i in range(len(node.results)):
                value = node[i]
                ints = value.abstract.as_ints()
                if value.array is not None:
                    self.known[value] = value.array
                elif ints is not None and value.type.is_static:
                    made = np.array(ints, value.type.dtype.numpy)
                    self.known[value] = made.reshape(self.shape(value))
            operands = self.graph.operands(node)
            if (
                not self._is_known(node)
                and node.op.pure
                and not has_body(node.op)
                and operands
                and all(v is None or v in self.known for v in operands)
                and sum(t.nbytes for t in node.types if t.is_static) <= FOLD_LIMIT
            ):
                arrays = run_node(node, [self.array(v) for v in operands])
                self.known.update({node[i]: a for i, a in enumerate(arrays)})

    def _boundary(self) -> None:
        for i, node in enumerate(self.graph.inputs):
            shape = self.shape(node[0])
            item = node.type.dtype.numpy.itemsize
            buffer = Buffer("input", node.type.nbytes, i)
            self.tensors[node[0]] = Tensor(buffer, node.type.dtype, shape, row_major(shape, item))
        for i, value in enumerate(self.graph.outputs):
            shape = self.shape(value)
            item = value.type.dtype.numpy.itemsize
            buffer = Buffer("output", value.type.nbytes, i)
            self.outputs.append(Tensor(buffer, value.type.dtype, shape, row_major(shape, item)))


def bind(graph: Graph, types: list[TensorType]) -> Graph:
    """The graph with these input types. Some sizes may still not be known: those that depend on
    data."""
    if all(t.is_static for n in graph.nodes() if n is not graph.result for t in n.types):
        return graph
    twin = graph.copy()
    for node, made in zip(twin.inputs, types):
        if node.type != made:
            twin.set_input_type(node, made)
    twin.reinfer()
    return twin


def live_nodes(graph: Graph) -> set[Node]:
    """The nodes that some output needs."""
    live: set[Node] = set()
    todo = [v.node for v in graph.outputs]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo.extend(graph.nx.predecessors(node))
    return live


def has_all_sizes(graph: Graph) -> bool:
    """Whether every size that a run needs is known beforehand."""
    return all(t.is_static for node in live_nodes(graph) for t in node.types)


def check_size(total: int, limit: int) -> None:
    """Refuse an arena beyond the limit before it is allocated."""
    if total > limit:
        raise LimitError(
            f"one call needs an arena of {total} bytes, over the limit of {limit}",
            hint="raise Limits.model_bytes, or use smaller inputs",
        )

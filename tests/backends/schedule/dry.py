"""A backend without a machine: schedules as they are, and NumPy where kernels would be.

Every node, or group of nodes, is one step. Tensors lie where the schedule says: images with their
channels side by side and a border, parts of a concatenation inside it, all in one arena. So what it
computes is right only if groups, layouts, lifetimes, places and phases are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from taut.backends.schedule.kernel import Kernel
from taut.backends.schedule.layout import SLACK, Tensor, image_of, outside, round_up, rows_of
from taut.backends.schedule.schedule import Schedule, schedule
from taut.backends.schedule.sizes import bind
from taut.backends.schedule.steps import AnyStep, Step
from taut.backends.schedule.timetable import Timetable, timetable_of
from taut.ir import Graph, Node, TensorType, Value
from taut.ir.interpret import run_node
from taut.ir.machine import Machine

Array = np.ndarray[Any, Any]
NOTHING = Kernel("nothing", lambda target: None)
GENERIC = Machine()
WIDE = 1 << 13  # elements of a result that threads share


@dataclass
class Lowering:
    """Emits a step for every node, or group, of a schedule."""

    schedule: Schedule
    steps: list[AnyStep] = field(default_factory=list)
    tensors: dict[Value, Tensor] = field(default_factory=dict)
    work: dict[AnyStep, tuple[Node, ...]] = field(default_factory=dict)

    def run(self) -> None:
        facts, groups = self.schedule.facts, self.schedule.groups
        for i, node in enumerate(facts.graph.inputs):
            self.tensors[node[0]] = outside("input", i, node.type.dtype, node.type.static_shape)
        for node in facts.to_run():
            group = groups.by_last.get(node)
            if node not in groups.absorbed:
                self.emit((node,) if group is None else group.nodes)

    def emit(self, nodes: tuple[Node, ...]) -> None:
        """The step that computes the last of these nodes by way of the others."""
        facts, last = self.schedule.facts, nodes[-1]
        operands = [v for n in nodes for v in facts.graph.operands(n)]
        read = [v for v in operands if v and v not in facts.known and v.node not in nodes]
        results = [last[i] for i in range(len(last.results))]
        reads = [self.tensors[v].buffer for v in read]
        writes = [self.place(v).buffer for v in results]
        chunks = 4 if last.type.size > WIDE else 1
        step = Step(NOTHING, [0, 0, chunks], reads, writes, tuple(n.name for n in nodes))
        self.steps.append(step)
        self.work[step] = nodes

    def place(self, value: Value) -> Tensor:
        """Where a value is to be made."""
        if value in self.tensors:
            return self.tensors[value]
        layouts, machine = self.schedule.layouts, self.schedule.machine
        dtype, shape = value.type.dtype, value.type.static_shape
        home = layouts.homes.get(value)
        if home is not None:
            made = self.place(home[0]).slice(1, home[1], shape[1])
        elif value in layouts.spatial:
            made = image_of(dtype, shape, layouts.halos.get(value), machine.granule, False)
        else:
            made = rows_of(dtype, shape)
        self.tensors[value] = made
        return made


class Program:
    """A graph planned for a machine; calls carry the plan out in NumPy."""

    def __init__(
        self, graph: Graph, machine: Machine = GENERIC, types: Sequence[TensorType] = ()
    ) -> None:
        """`types` are those of the inputs where the graph's own have symbols."""
        wanted = [*types] or [n.type for n in graph.inputs]
        self.schedule = schedule(bind(graph, wanted), machine)
        self.lowering = Lowering(self.schedule)
        self.lowering.run()
        self.times: Timetable = timetable_of(self.lowering.steps, machine, 1 << 40)

    def __call__(self, *arrays: Array, shuffle: Callable[[list[Any]], Any] = list) -> list[Array]:
        """The outputs. `shuffle` gives the tasks of a phase another order: none may matter."""
        memory = np.full(self.times.places.size + SLACK, 255, np.uint8)
        facts = self.schedule.facts

        def at(value: Value) -> Array:
            if value in facts.known:
                return facts.known[value]
            tensor = self.lowering.tensors[value]
            if tensor.buffer.space == "input":
                return arrays[tensor.buffer.index]
            start = self.times.places.offsets[tensor.buffer]
            part = memory[start : start + round_up(tensor.buffer.size, 64)]
            return np.ndarray(tensor.shape, tensor.dtype.numpy, part, tensor.offset, tensor.strides)

        def read(value: Value) -> Array:
            return np.array(at(value), order="C")  # as the reference has it: sums depend on that

        for segment in self.times.segments:
            for phase in segment.phases:
                for task in shuffle(list(phase.tasks)):
                    for step in task.steps:
                        self._compute(self.lowering.work[step], read, at)
        return [np.array(at(v)) for v in facts.graph.outputs]

    def _compute(
        self, nodes: Sequence[Node], read: Callable[[Value], Array], at: Callable[[Value], Array]
    ) -> None:
        inside: dict[Value, Array] = {}
        for node in nodes:
            operands = self.schedule.graph.operands(node)
            given = [None if v is None else inside[v] if v in inside else read(v) for v in operands]
            inside |= {node[i]: a for i, a in enumerate(run_node(node, given))}
        for i in range(len(nodes[-1].results)):
            at(nodes[-1][i])[...] = inside[nodes[-1][i]]


def bound_type(node: Node, array: Array) -> TensorType:
    """An input's type with the sizes of an array."""
    return TensorType(node.type.dtype, array.shape)


def small_type(node: Node) -> TensorType:
    """An input's type with 2 for every size that is not known."""
    shape = tuple(d if isinstance(d, int) else 2 for d in node.type.shape or ())
    return TensorType(node.type.dtype, shape)

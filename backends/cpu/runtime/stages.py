"""Programs whose sizes only a run can tell: a program before, one after, and what is in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ....ir import Array, Graph, Limits, Value
from ....ir.interpret import run_node
from ....ir.ops.control import ControlFlow
from ....ir.ops.structure import Constant
from ...base import KernelTime
from ...schedule.kernel import Kernel
from ...schedule.stages import stages_of
from ..lower.bodies import Bodies, Compiled


class Part(Compiled, Protocol):
    """A program as the whole that it is a part of sees it."""

    def time(self, arrays: Sequence[Array]) -> list[KernelTime]: ...

    def kernels(self) -> list[Kernel]: ...

    @property
    def planned(self) -> bool: ...


class Staged:
    """Runs a bound graph in which some sizes are not known."""

    def __init__(
        self, graph: Graph, compile: Callable[[Graph], Part], after: Callable[[Graph], Part],
        limits: Limits,
    ) -> None:  # fmt: skip
        self.graph, self.limits = graph, limits
        self.stages = stages = stages_of(graph)
        self.bodies = {
            n: Bodies(n, [_constant(v) for v in graph.operands(n)], compile, limits)
            for n in stages.breakers
            if isinstance(n.op, ControlFlow)
        }
        self.head = None if stages.head is None else compile(stages.head)
        self.tail = None if stages.tail is None else after(stages.tail)

    def run(self, given: Sequence[Array]) -> dict[str, Array]:
        values = self._before(given, [])
        if self.tail is not None:
            made = self.tail.run([values[v] for v in self.stages.enters])
            values.update(zip(self.stages.leaves, made))
        return self._outputs(values)

    def _before(self, given: Sequence[Array], rows: list[KernelTime]) -> dict[Value, Array]:
        """Values after the head and the breakers; `rows` takes the times of the latter."""
        graph = self.graph
        values = {Value(n): a for n, a in zip(graph.inputs, given)}
        if self.head is not None:
            values.update(zip(self.stages.needed, self.head.run(given)))
        for node in self.stages.breakers:
            operands = [None if v is None else _array(v, values) for v in graph.operands(node)]
            start = time.perf_counter()
            bodies = self.bodies.get(node)
            made = run_node(node, operands, self.limits) if bodies is None else bodies(operands)
            took = time.perf_counter() - start
            kind = "python" if bodies is None else node.op.name
            rows.append(KernelTime(kind, (node.name,), took))
            values.update({Value(node, i): np.asarray(a) for i, a in enumerate(made)})
        return values

    def _outputs(self, values: dict[Value, Array]) -> dict[str, Array]:
        pairs = zip(self.graph.output_names, self.graph.outputs)
        return {name: np.array(_array(v, values)) for name, v in pairs}

    def time(self, given: Sequence[Array]) -> list[KernelTime]:
        rows = [] if self.head is None else self.head.time(given)
        values = self._before(given, rows)
        if self.tail is not None:
            rows += self.tail.time([values[v] for v in self.stages.enters])
        return rows

    @property
    def fallbacks(self) -> list[str]:
        found = [] if self.head is None else list(self.head.fallbacks)
        for node in self.stages.breakers:
            bodies = self.bodies.get(node)
            found += [node.name] if bodies is None else bodies.fallbacks()
        return found + ([] if self.tail is None else self.tail.fallbacks)

    @property
    def memory(self) -> int:
        programs = [p for p in (self.head, self.tail) if p is not None]
        inside = sum(b.memory for b in self.bodies.values())
        return inside + sum(p.plan_memory for p in programs)

    def kernels(self) -> list[Kernel]:
        found: dict[str, Any] = {}
        for program in (self.head, self.tail):
            if program is not None and program.planned:
                found |= {k.name: k for k in program.kernels()}
        return list(found.values())

    def source(self) -> str:
        parts = [] if self.head is None else [self.head.source()]
        for node in self.stages.breakers:
            parts.append(f"# in Python: {node.op.name}, whose results' sizes depend on data\n")
            parts += self.bodies[node].sources() if node in self.bodies else ()
        if self.tail is not None and self.tail.planned:
            parts.append(self.tail.source())
        return "\n".join(parts)


def _constant(value: Value | None) -> Array | None:
    op = None if value is None else value.node.op
    return op.value if isinstance(op, Constant) else None


def _array(value: Value, values: dict[Value, Array]) -> Array:
    op = value.node.op
    return op.value if isinstance(op, Constant) else values[value]

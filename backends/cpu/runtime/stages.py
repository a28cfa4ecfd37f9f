"""Graphs with sizes that only a run can tell: what stands before is compiled, and what comes after
is compiled for the sizes that came out.

    head      every node whose sizes are known beforehand: one plan
    breakers  nodes whose operands the head has and whose results' sizes depend on the data
    tail      all that needs these: a program of its own, with a plan for each set of sizes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir import Array, Graph, Limits, Node, Value
from ....ir.interpret import run_node
from ....ir.ops.control import ControlFlow
from ....ir.ops.structure import Constant, Input
from ...base import KernelTime
from ..lower.control import Bodies
from ..lower.lowering import live_nodes

if TYPE_CHECKING:
    from ...schedule.kernel import Kernel
    from .program import Program


class Staged:
    """Runs a bound graph in which some sizes are not known."""

    def __init__(
        self, graph: Graph, compile: Callable[[Graph], Program], after: Callable[[Graph], Program],
        limits: Limits,
    ) -> None:  # fmt: skip
        self.graph, self.limits = graph, limits
        live = live_nodes(graph)
        order = [n for n in graph.nodes() if n in live and n is not graph.result]
        early: set[Node] = set()
        self.breakers: list[Node] = []
        late: list[Node] = []
        for node in order:
            ready = all(p in early for p in graph.nx.predecessors(node))
            if ready and all(t.is_static for t in node.types):
                early.add(node)
            else:
                (self.breakers if ready else late).append(node)
        self.bodies = {
            n: Bodies(n, [_constant(v) for v in graph.operands(n)], compile, limits)
            for n in self.breakers
            if isinstance(n.op, ControlFlow)
        }
        outside = {*self.breakers, *late, graph.result}
        needed = [
            Value(n, i)
            for n in order
            if n in early and not isinstance(n.op, Input | Constant)
            for i in range(len(n.results))
            if any(u.node in outside for u in graph.uses(Value(n, i)))
        ]
        self.needed = needed
        self.head = None
        if needed:
            inside = [n for n in order if n in early and not isinstance(n.op, Input)]
            self.head = compile(_part(graph, graph.inputs, inside, needed))
        given = [Value(n) for n in graph.inputs] + needed
        given += [Value(n, i) for n in self.breakers for i in range(len(n.results))]
        readers = {*late, graph.result} if late else set()
        self.enters = [v for v in given if any(u.node in readers for u in graph.uses(v))]
        self.leaves = [v for v in dict.fromkeys(graph.outputs) if v.node in set(late)]
        self.tail = after(_part(graph, self.enters, late, self.leaves)) if late else None

    def run(self, given: Sequence[Array]) -> dict[str, Array]:
        values = self._before(given, [])
        if self.tail is not None:
            made = self.tail.run([values[v] for v in self.enters])
            values.update(zip(self.leaves, made))
        return self._outputs(values)

    def _before(self, given: Sequence[Array], rows: list[KernelTime]) -> dict[Value, Array]:
        """Values after the head and the breakers; `rows` takes the times of the latter."""
        graph = self.graph
        values = {Value(n): a for n, a in zip(graph.inputs, given)}
        if self.head is not None:
            values.update(zip(self.needed, self.head.run(given)))
        for node in self.breakers:
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
            rows += self.tail.time([values[v] for v in self.enters])
        return rows

    @property
    def fallbacks(self) -> list[str]:
        found = [] if self.head is None else list(self.head.fallbacks)
        for node in self.breakers:
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
        for node in self.breakers:
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


def _part(
    graph: Graph, inputs: Sequence[Node | Value], nodes: Sequence[Node], outputs: Sequence[Value]
) -> Graph:
    """These nodes as a graph of their own; the constants they read come with them."""
    part = Graph(graph.name)
    there: dict[Value, Value] = {}
    for x in inputs:
        value = x if isinstance(x, Value) else Value(x)
        name = value.node.name if value.index == 0 else f"{value.node.name}.{value.index}"
        made = part.add_input(part.fresh(name), value.type)
        there[value] = Value(made)
    for node in nodes:
        operands: list[Value | None] = []
        for v in graph.operands(node):
            if v is not None and v not in there:
                assert isinstance(v.node.op, Constant)
                there[v] = part.constant(v.node.op.value, v.node.name)
            operands.append(None if v is None else there[v])
        if isinstance(node.op, Constant):
            there.setdefault(Value(node), part.constant(node.op.value, node.name))
            continue
        copy = part.add(node.op, *operands, name=node.name)
        there |= {Value(node, i): Value(copy, i) for i in range(len(node.results))}
    part.set_outputs({f"y{k}": there[v] for k, v in enumerate(outputs)})
    return part

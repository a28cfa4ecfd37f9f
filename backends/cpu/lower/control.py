"""Branches and loops: one step that runs its bodies as programs of their own.

A body is compiled when it first runs, and planned for each set of sizes that reaches it. What it
captures and is known while planning becomes a constant of it, so that its weights are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir import Array, Graph, Limits, Node, TautError
from ....ir.ops.control import ControlFlow
from ...schedule.steps import PythonStep
from .lowering import Lowering, lowers

if TYPE_CHECKING:
    from ..runtime.program import Program

Compile = Callable[[Graph], "Program"]


class Bodies:
    """The compiled bodies of one node, and how it runs on them."""

    def __init__(
        self, node: Node, fixed: Sequence[Array | None], compile: Compile, limits: Limits
    ) -> None:
        assert isinstance(node.op, ControlFlow)
        self.node, self.op, self.compile, self.limits = node, node.op, compile, limits
        made, start, captures = self.op.places
        self.fixed = list(fixed)
        self.known = {
            k - start + made: a for k, a in enumerate(fixed) if k >= captures and a is not None
        }
        self.programs: dict[str, Program] = {}

    def __call__(self, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        """The node's results on all of its operands."""
        try:
            return self.op.execute(arrays, self._run, self.limits)
        except TautError as error:
            raise error.with_context(node=self.node.name, op=self.op.name)

    def _run(self, name: str, arrays: Sequence[Array]) -> Sequence[Array]:
        program = self.programs.get(name)
        if program is None:
            program = self.compile(closed(self.op.bodies[name], self.known))
            self.programs[name] = program
        return program.run([a for k, a in enumerate(arrays) if k not in self.known])

    def fallbacks(self) -> Iterator[str]:
        """Nodes of the bodies that run in Python, as far as they have run."""
        for name, program in self.programs.items():
            yield from (f"{self.node.name}/{name}/{k}" for k in program.fallbacks)

    def sources(self) -> Iterator[str]:
        for name, program in self.programs.items():
            yield f"# body {name}\n{program.source()}"

    @property
    def memory(self) -> int:
        return sum(p.plan_memory for p in self.programs.values())


def closed(body: Graph, known: dict[int, Array]) -> Graph:
    """The body with these inputs as constants."""
    if not known:
        return body
    twin = body.copy()
    for place, node in enumerate(body.inputs):
        if place in known:
            old = twin[node.name]
            first = next((n for n in twin.nodes() if n is not old), None)
            made = twin.constant(known[place], f"{node.name}.known", before=first)
            twin.replace_all_uses(old, made)
            twin.erase(old)
    return twin


@lowers("if", "loop", "scan")
def control(lowering: Lowering, node: Node) -> bool:
    """A step in Python around compiled bodies."""
    if lowering.compile_body is None:
        return False
    operands = lowering.graph.operands(node)
    fixed = [lowering.array(v) for v in operands]
    bodies = Bodies(node, fixed, lowering.compile_body, lowering.limits)
    lowering.bodies.append(bodies)
    flowing = [v for v, a in zip(operands, fixed) if v is not None and a is None]
    inputs = [lowering.tensor(v) for v in flowing]
    outputs = [lowering.result(node[i], exact=True) for i in range(len(node.results))]

    def run(arrays: list[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]]:
        rest = iter(arrays)
        return bodies([
            None if v is None else np.asarray(next(rest), order="C") if a is None else a
            for v, a in zip(operands, fixed)
        ])  # fmt: skip

    lowering.steps.append(
        PythonStep(run, inputs, outputs, [t.buffer for t in inputs], [t.buffer for t in outputs],
                   (node.name,), kind=node.op.name)
    )  # fmt: skip
    return True

"""The bodies of branches and loops, which run as programs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ....ir import Array, Graph, Limits, Node, TautError
from ....ir.ops.control import ControlFlow


class Compiled(Protocol):
    """A compiled graph, as its caller sees it."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs in order."""
        ...

    def source(self) -> str: ...

    @property
    def fallbacks(self) -> list[str]: ...

    @property
    def plan_memory(self) -> int: ...


Compile = Callable[[Graph], Compiled]


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
        self.programs: dict[str, Compiled] = {}

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

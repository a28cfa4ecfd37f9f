"""Run a graph on compiled kernels while showing every value: what makes calibration quick.

Passes never import a backend, so whoever may (the facade, the command line) hands this to them as
`Context.runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taut.ir import Array, CompileError, Graph, LimitError, Value, interpret
from taut.ir.ops.structure import Constant

Watch = Callable[[Value, Array], Array | None]


class CompiledRunner:
    """Call with a graph, feeds and a watch, which sees each result as `ir.interpret` would show
    it, up to float rounding. The watch may look, not replace.

    The program of the last graph seen is kept. A graph that the backend or the memory limit
    refuses is interpreted.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        # Put in place as one: no interrupt leaves the program of one graph with values of another.
        self._made: tuple[Graph, int, Any, list[Value]] | None = None

    def __call__(self, graph: Graph, feeds: Mapping[str, Array], watch: Watch) -> None:
        try:
            program, values = self._compile(graph)
            shown = program(*(feeds[n.name] for n in graph.inputs))
        except (CompileError, LimitError):
            interpret(graph, feeds, watch=watch)
            return
        for i, value in enumerate(values):
            watch(value, shown[f"v{i}"])

    def _compile(self, graph: Graph) -> tuple[Any, list[Value]]:
        from taut.backends.base import compile

        made = self._made
        if made is not None and made[0] is graph and made[1] == graph.version:
            return made[2], made[3]
        values = [
            node[i]
            for node in graph.nodes()
            if node is not graph.result and not isinstance(node.op, Constant)
            for i in range(len(node.results))
        ]
        twin = graph.copy()
        twin.set_outputs({f"v{i}": twin[v.node.name][v.index] for i, v in enumerate(values)})
        program = compile(twin, threads=self.threads)
        self._made = (graph, graph.version, program, values)
        return program, values

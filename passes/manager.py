"""Runs pipelines, and watches over every pass."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..ir import Graph, PassError, TautError, print_graph, verify
from ..ir.ops.control import ControlFlow
from .base import Outcome, Pass
from .context import Context
from .instrument import NumericCheck, PeakMemory, Steps, Which, chosen
from .pipeline import Pipeline
from .report import PassRecord, Report
from .reproduce import write_reproducer


class PassManager:
    """Runs a pipeline over a copy of a graph.

    - `verify_each`: verify the graph before the first pass and after each that changed it.
    - `check`: run the reference on `check_samples` inputs around each pass and hold the pass to
      its bound; also compute preserved analyses again and compare.
    - `print_before`, `print_after`: all passes or those of these names; `print_changed`: after
      each pass that changed something. `write` takes the text (standard error by default).
    - `trace_memory`: peak memory from tracemalloc instead of the process's size.
    - `bisect_limit`: let only so many pass applications and rewrites happen.
    - `reproduce`: where to write a one-file reproducer if a pass fails.
    - `first`: the number of the first pass, which seeds its random numbers (a replay starts late).
    """

    def __init__(
        self,
        pipeline: Pipeline | Pass | str | Iterable[Pass | str | Pipeline],
        *,
        verify_each: bool = True,
        check: bool = False,
        check_samples: int = 2,
        print_before: Which = False,
        print_after: Which = False,
        print_changed: bool = False,
        write: Callable[[str], Any] | None = None,
        trace_memory: bool = False,
        bisect_limit: int | None = None,
        reproduce: str | os.PathLike[str] | None = None,
        first: int = 0,
    ) -> None:
        self.pipeline = Pipeline.of(pipeline)
        self.verify_each, self.check, self.check_samples = verify_each, check, check_samples
        self.print_before, self.print_after = print_before, print_after
        self.print_changed = print_changed
        self.write = write if write is not None else sys.stderr.write
        self.trace_memory = trace_memory
        self.bisect_limit, self.reproduce, self.first = bisect_limit, reproduce, first

    def run(self, graph: Graph, context: Context | None = None) -> Report:
        """The report, its `graph` the result. The graph handed in is not touched.

        Raises PassError that names the pass where one fails, breaks the graph or its promise.
        """
        context = context if context is not None else Context()
        if self.verify_each:
            verify(graph, context.limits)
        work = graph.copy()
        report = Report(work, str(self.pipeline), context.seed)
        checker = NumericCheck.of(work, context, self.check_samples) if self.check else None
        steps = Steps(self.bisect_limit, context.gate)
        outer, context.gate = context.gate, steps
        try:
            for i, p in enumerate(self.pipeline):
                report.passes.append(self._run_pass(i, p, work, context, steps, checker))
        finally:
            context.gate = outer
            report.steps, report.last_step = steps.count, steps.last
        return report

    def _run_pass(
        self, i: int, p: Pass, graph: Graph, context: Context, steps: Steps,
        checker: NumericCheck | None,
    ) -> PassRecord:  # fmt: skip
        record = PassRecord(p.name, str(p), nodes_before=len(graph), nodes_after=len(graph))
        first = steps.count
        if not steps(p.name, ""):
            record.skipped, record.steps = True, (first, first)
            return record
        if chosen(self.print_before, p.name):
            self._print("before", i, p, graph)
        before = graph.copy() if checker is not None or self.reproduce is not None else None
        try:
            outcome = self._watch(i, p, graph, context, record)
            if self.verify_each and record.changed:
                self._verify(p, graph, context)
            if self.check:
                context.analyses.check(graph, record.kept_analyses, str(p))
            if checker is not None and before is not None and record.changed:
                record.check = checker.after(p, before, graph)
        except TautError as error:
            if before is not None and self.reproduce is not None:
                self._write_reproducer(i, before, context, checker, error)
            raise
        if p.absent and not (record.changed or outcome.counts or outcome.remarks):
            outcome.note(f"nothing to do: {p.absent}")
        record.counts, record.remarks = outcome.counts, outcome.remarks
        record.dropped_remarks = outcome.dropped
        record.nodes_after, record.steps = len(graph), (first + 1, steps.count)
        if chosen(self.print_after, p.name) or (self.print_changed and record.changed):
            self._print("after", i, p, graph)
        return record

    def _watch(
        self, i: int, p: Pass, graph: Graph, context: Context, record: PassRecord
    ) -> Outcome:
        """Run one pass with time and memory taken, and analyses carried over."""
        context.restart(f"{self.first + i}:{p.name}")
        held = context.analyses.snapshot(graph)
        version = graph.version
        memory = PeakMemory(self.trace_memory)
        started = time.perf_counter()
        try:
            with memory:
                outcome = p.run(graph, context)
                if p.nested and isinstance(outcome, Outcome):
                    run_on_bodies(p, graph, context, outcome)
        except TautError as error:
            if not error.message.startswith(f"pass {p.name}"):
                error.message = f"pass {p.name}: {error.message}"
            raise
        except Exception as error:
            raise PassError(f"pass {p.name} failed: {type(error).__name__}: {error}") from error
        record.seconds = time.perf_counter() - started
        record.peak_bytes = memory.grown
        if not isinstance(outcome, Outcome):
            raise PassError(f"pass {p.name} returned {type(outcome).__name__}, not an Outcome")
        record.changed = graph.version != version
        preserved = p.preserves if record.changed else tuple(held)
        record.kept_analyses = context.analyses.keep(graph, held, preserved)
        return outcome

    def _verify(self, p: Pass, graph: Graph, context: Context) -> None:
        try:
            verify(graph, context.limits)
        except TautError as error:
            error.message = f"after pass {p.name} the graph is broken: {error.message}"
            raise

    def _print(self, when: str, i: int, p: Pass, graph: Graph) -> None:
        text = print_graph(graph, resources="none")
        self.write(f"// ---- {when} pass {self.first + i}: {p}\n{text}")

    def _write_reproducer(
        self, i: int, before: Graph, context: Context, checker: NumericCheck | None,
        error: TautError,
    ) -> None:  # fmt: skip
        assert self.reproduce is not None
        samples = [] if checker is None else checker.feeds
        if checker is None and context.data is not None:
            samples = list(context.feeds(before, 4))
        write_reproducer(
            self.reproduce, before, Pipeline(self.pipeline.passes[i:]), place=self.first + i,
            seed=context.seed, error=error, samples=samples, check=self.check,
        )  # fmt: skip
        if error.hint is None:
            error.hint = f"replay with `taut opt --reproduce {self.reproduce}`"


def run_on_bodies(
    p: Pass, graph: Graph, context: Context, outcome: Outcome, path: str = ""
) -> None:
    """Run a pass on every body of the graph's branches and loops, the outer ones first, and take
    what it did over into `outcome`. A node keeps its bodies unless one changed."""
    for node in [n for n in graph.nodes() if isinstance(n.op, ControlFlow)]:
        assert isinstance(node.op, ControlFlow)
        changed: dict[str, Graph] = {}
        for name, body in node.op.bodies.items():
            twin = body.copy()
            version, place = twin.version, f"{path}{node.name}/{name}/"
            made = p.run(twin, context)
            made.remarks = [r._replace(node=place + r.node) for r in made.remarks]
            outcome.merge(made)
            run_on_bodies(p, twin, context, outcome, place)
            if twin.version != version:
                changed[name] = twin
        if changed:
            graph.set_op(node, node.op.replace(**changed))


def optimize(
    graph: Graph, pipeline: Pipeline | str, context: Context | None = None, **options: Any
) -> Graph:
    """The graph that a pipeline makes of `graph`; `options` are the PassManager's."""
    return PassManager(pipeline, **options).run(graph, context).graph

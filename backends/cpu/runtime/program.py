"""The compiled program: plans for input sizes, and calls."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ....ir import (
    DEFAULT_LIMITS,
    Array,
    CompileError,
    FeedError,
    Graph,
    Limits,
    TensorType,
    VerifyError,
)
from ....ir.inline import inlined
from ....ir.interpret import bind_feeds
from ... import shield
from ...base import KernelTime, pick_form
from ...schedule.kernel import Kernel
from ...schedule.layout import Constants
from ...schedule.schedule import schedule
from ...schedule.sizes import bind, has_all_sizes
from ..codegen import jit
from ..codegen.isa import Isa, find
from ..kernels.tiling import HEURISTIC, Case, Tiling, Tilings
from ..lower.fusion import is_nest
from ..lower.lowering import Lowering, Setting
from . import search, turns
from . import tuning as records
from .plan import Interpreted, Plan
from .stages import Staged
from .team import team

PLANS = 8  # input signatures for which plans are kept
INNER_PLANS = 64  # the same for bodies and for what waits for sizes: a value may grow in a loop
STAGES = 32  # parts that wait for sizes one after the other; what comes then is interpreted

Shapes = tuple[tuple[int, ...], ...]
AnyPlan = Plan | Staged | Interpreted


@dataclass(frozen=True)
class CpuTarget:
    """What a program is compiled for."""

    isa: str
    threads: int

    def __str__(self) -> str:
        return f"cpu ({self.isa}, {self.threads} thread{'s' * (self.threads != 1)})"


class Program:
    """A graph compiled for this machine's processor.

    Graphs with symbolic sizes are planned when they are first called with those sizes; the machine
    code is shared by all sizes. Calls from several threads take turns.
    """

    def __init__(
        self, graph: Graph, isa: Isa, threads: int, limits: Limits,
        tilings: Mapping[str, Tiling], tuner: search.Tuner | None,
        outer: Program | None = None, stage: int = 0,
    ) -> None:  # fmt: skip
        """With `outer`, a part of another program: constants are shared and nothing is planned
        before it runs. `stage` counts the parts that wait for sizes one after the other."""
        self.graph = graph
        self.tilings, self._tuner = dict(tilings), tuner
        self.target = CpuTarget(isa.name, threads)
        self._isa, self._limits, self._stage = isa, limits, stage
        self._machine = isa.machine(threads)
        self._team = team(threads)
        self._constants = Constants() if outer is None else outer._constants
        self._kept = PLANS if outer is None else INNER_PLANS
        self._plans: dict[Shapes, AnyPlan] = {}  # the one used last comes last
        self.lock, self.busy = threading.Lock(), False
        turns.watch(self)
        self._names = [n.name for n in graph.inputs]
        self._dtypes = [n.type.dtype.numpy for n in graph.inputs]
        self._quick: tuple[Shapes, AnyPlan] | None = None
        if outer is None and all(n.type.is_static for n in graph.inputs):
            self._plan(tuple(n.type.static_shape for n in graph.inputs))

    def __call__(self, *arrays: Any, **named: Any) -> dict[str, Array]:
        """Outputs by name. Inputs by position in graph order or by name. Raises FeedError."""
        plan, given = self._feed(arrays, named)
        return plan.run(given)

    def run(
        self, arrays: Sequence[Array], out: Sequence[Array | None] | None = None
    ) -> list[Array]:
        """The outputs in order, of arrays of the right types in graph order.

        Where `out` holds an array of an output's type (contiguous, apart from all inputs), that
        output is written there if the plan is able to, which saves the fresh memory of a call.
        """
        plan, given = self._plan_of(arrays), _contiguous(arrays)
        made = plan.run(given, out) if isinstance(plan, Plan) else plan.run(given)
        return list(made.values())

    def time(self, arrays: Sequence[Array]) -> list[KernelTime]:
        """One call of `run`, each of its parts timed."""
        return self._plan_of(arrays).time(_contiguous(arrays))

    def _plan_of(self, arrays: Sequence[Array]) -> AnyPlan:
        shapes = tuple(a.shape for a in arrays)
        quick = self._quick
        return quick[1] if quick is not None and quick[0] == shapes else self._plan(shapes)

    def _feed(
        self, arrays: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[AnyPlan, Sequence[Array]]:
        quick = self._quick
        if quick is not None and not named and len(arrays) == len(self._dtypes):
            for a, shape, dtype in zip(arrays, quick[0], self._dtypes):
                if (
                    type(a) is not np.ndarray
                    or a.shape != shape
                    or a.dtype != dtype
                    or not a.flags.c_contiguous
                ):
                    break
            else:
                return quick[1], arrays
        feeds = bind_feeds(self.graph, arrays, named)
        given = [np.ascontiguousarray(feeds[n]).reshape(feeds[n].shape) for n in self._names]
        return self._plan(tuple(a.shape for a in given)), given

    @turns.holds
    def _plan(self, shapes: Shapes) -> AnyPlan:
        if self.busy and turns.is_nested():  # a call within the planning of another
            return self._plans.get(shapes) or self._make(shapes, None)
        with self.lock:
            try:
                held = self.busy = True
                found = self._plans.pop(shapes, None) or self._make(shapes, self._tuner)
                self._plans[shapes] = found
                while len(self._plans) > self._kept:
                    self._plans.pop(next(iter(self._plans)), None)
                self._quick = (shapes, found)
                return found
            finally:
                held = self.busy = False  # noqa: F841 (read from the stack by `turns`)

    def after_fork(self) -> None:
        """All that is kept is whole: plans, constants and bodies are put in when they are made."""

    def _make(self, shapes: Shapes, tuner: search.Tuner | None) -> AnyPlan:
        if sys.is_finalizing():
            raise CompileError("nothing can be planned any more: the interpreter is shutting down",
                               hint="call the program with these sizes once before")  # fmt: skip
        types = [TensorType(n.type.dtype, s) for n, s in zip(self.graph.inputs, shapes)]
        try:
            bound = bind(self.graph, types)
        except VerifyError as error:
            raise FeedError(f"inputs of these sizes do not fit: {error.message}",
                            node=error.node, op=error.op) from error  # fmt: skip
        if not has_all_sizes(bound):
            if self._stage == STAGES:
                return Interpreted(bound, self._limits)
            return Staged(bound, self._part, self._later, self._limits)
        bound = inlined(bound, partial(is_nest, bound))
        plan, asked = self._build(bound, self.tilings)
        return plan if tuner is None else self._tune(bound, asked, plan, tuner)

    def _build(self, bound: Graph, tilings: Mapping[str, Tiling]) -> tuple[Plan, Iterable[Case]]:
        """A plan for a bound graph, and the layers that asked how they are cut."""
        tried = Tilings(dict(tilings))
        setting = Setting(self._isa, self._constants, tried, self._limits, self._part)
        decided = schedule(bound, self._machine)
        made = Lowering(decided, setting).run()
        return Plan(decided, made, self._isa, self._team, self._limits), tried.asked

    def _tune(self, bound: Graph, asked: Iterable[Case], plan: Plan, tuner: search.Tuner) -> Plan:
        """The plan with other tilings, if the whole is faster for them too."""
        cases = [c for c in asked if c.name not in self.tilings]
        known, found = tuner.find(cases)
        chosen = {**self.tilings, **known, **found}
        if set(chosen.values()) <= {HEURISTIC}:
            tuner.settle(found, True)
            return plan
        made, _ = self._build(bound, chosen)
        if found:
            zeros = [np.zeros(n.type.static_shape, n.type.dtype.numpy) for n in bound.inputs]
            better = search.is_faster(lambda: made.run(zeros), lambda: plan.run(zeros))
            tuner.settle(found, better)
            if not better:
                return plan
        self.tilings = chosen
        return made

    def save_tuning(self, path: str | os.PathLike[str]) -> None:
        """Write the tilings in use as JSON, for `compile(..., tuning=path)`. StorageError."""
        records.write(self.tilings, self._isa, self.target.threads, path)

    def _part(self, graph: Graph, stage: int = 0) -> Program:
        return Program(
            graph, self._isa, self.target.threads, self._limits, self.tilings, self._tuner,
            self, stage,
        )  # fmt: skip

    def _later(self, graph: Graph) -> Program:
        return self._part(graph, self._stage + 1)

    @property
    def planned(self) -> bool:
        """Whether it has run, or its sizes were known from the start."""
        return self._quick is not None

    def kernels(self) -> list[Kernel]:
        """The kernels of the plan used last."""
        return self._used().kernels()

    @property
    def fallbacks(self) -> list[str]:
        """Names of the nodes that run in Python (in the plan used last)."""
        return [] if self._quick is None else self._quick[1].fallbacks

    @property
    def memory(self) -> int:
        """Bytes held: packed constants, and the arenas and tables of the plans kept."""
        return self._constants.total + self.plan_memory

    @property
    def plan_memory(self) -> int:
        """Bytes of the arenas and tables of the plans kept."""
        return sum(p.memory for p in list(self._plans.values()))

    @property
    def facts(self) -> Mapping[str, int]:
        """Pieces of machine code that this process has `compiled`, and loaded `from_disk` (for all
        its programs together); layers with measured `schedules`."""
        return {**jit.origins(), "schedules": len(self.tilings)}

    def profile(self, *arrays: Any, repeat: int = 1, **named: Any) -> list[KernelTime]:
        """Seconds for each kernel in the order they run: the median over `repeat` calls.

        Steps are run and timed one by one, so that the sum is a little more than a call takes.
        """
        plan, given = self._feed(arrays, named)
        rows = [plan.time(given) for _ in range(max(1, repeat))]
        return [
            row._replace(seconds=float(np.median([r[i].seconds for r in rows])))
            for i, row in enumerate(rows[0])
        ]

    def source(self, form: str = "source") -> str:
        """What was generated for the plan used last: `source` (the program as Python), or its
        kernels as `llvm` or `asm`. Raises UnsupportedError for another form."""
        forms = {"source": self._used().source, "llvm": self._llvm, "asm": self._assembly}
        return pick_form(forms, form, self.target)

    def _llvm(self) -> str:
        kernels, target = self._used().kernels(), jit.Target.native(self._isa)

        def text(kernel: Kernel) -> str:
            function = kernel.build(self._isa, **dict(kernel.parameters))
            return jit.llvm_ir(function, kernel.name, target)

        return "\n".join(shield.run(lambda: [text(kernel) for kernel in kernels]))

    def _assembly(self) -> str:
        kernels = self._used().kernels()
        return "\n".join(f"# {k.name}\n{jit.assembly(k, self._isa)}" for k in kernels)

    def _used(self) -> AnyPlan:
        if self._quick is None:
            raise CompileError("the sizes are not known yet", hint="call the program once first")
        return self._quick[1]


def _contiguous(arrays: Sequence[Array]) -> list[Array]:
    return [
        a if a.flags.c_contiguous else np.ascontiguousarray(a).reshape(a.shape) for a in arrays
    ]  # fmt: skip


def compile(
    graph: Graph,
    *,
    threads: int | None = None,
    isa: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tune: float | None = None,
    tuning: str | os.PathLike[str] | None = None,
    progress: search.Progress | None = None,
) -> Program:
    """Compile for this machine. `threads` defaults to the cores this process may use; `isa` names
    an instruction table (`TAUT_ISA` or the best by default).

    tune      seconds to spend on measuring other tilings for the layers, besides what earlier
              programs found on this machine (0: use only that). Without it nothing is measured and
              the same graph gives the same program.
    tuning    a file of tilings, from `Program.save_tuning`
    progress  called with (layers measured, layers to measure)
    Raises CompileError; StorageError where the tuning file cannot be read.
    """
    if threads is None:
        threads = default_threads()
    if not isinstance(threads, int) or not 1 <= threads <= 4096:
        raise CompileError(f"threads must be 1 to 4096, not {threads!r}")
    try:
        table = find(isa)
    except ValueError as error:
        raise CompileError(str(error)) from error
    if tune is not None and (not isinstance(tune, int | float) or not 0 <= tune < float("inf")):
        raise CompileError(f"tune is a number of seconds, not {tune!r}")
    tilings = {} if tuning is None else records.read(tuning, table, threads)
    tuner = None if tune is None else search.Tuner(table, threads, tune, progress)
    return Program(graph, table, threads, limits, tilings, tuner)


def default_threads() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1

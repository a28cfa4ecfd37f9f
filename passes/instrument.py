"""What the manager looks at around each pass: memory, printing, steps, numbers."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..ir import Array, DType, FeedError, Graph, Limits, PassError, TautError, Value, interpret
from ..ir.envelope import explained
from ..ir.interpret import bind_feeds
from .base import Bound, Changes, Exact, Pass, Within, WithinSteps
from .context import Context, Gate, random_feeds
from .report import CheckResult

HOLD_BYTES = 1 << 30  # of intermediate values, when a breach is traced to its node

TIE_RUNS = 16  # of the reference, where an output differs: whether ties explain it

HALVES = {DType.f16: 2.0**-7, DType.bf16: 2.0**-4}
"""The least relative tolerance of a bound that is not exact: eight roundings of the type."""

Which = bool | Collection[str]


def chosen(which: Which, name: str) -> bool:
    return which if isinstance(which, bool) else name in which


class PeakMemory:
    """Growth of the process's peak memory, or of traced allocations (slower, but exact), within a
    `with` block. Tracing that it began it also ends."""

    def __init__(self, trace: bool) -> None:
        self.trace = trace
        self.grown = 0

    def __enter__(self) -> PeakMemory:
        self._begun = self.trace and not tracemalloc.is_tracing()
        if self._begun:
            tracemalloc.start()
        if self.trace:
            tracemalloc.reset_peak()
        self._base = tracemalloc.get_traced_memory()[0] if self.trace else peak_rss()
        return self

    def __exit__(self, *_: object) -> None:
        now = tracemalloc.get_traced_memory()[1] if self.trace else peak_rss()
        self.grown = max(now - self._base, 0)
        if self._begun:
            tracemalloc.stop()


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes; 0 where it cannot be told."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class Steps:
    """Numbers pass applications and rewrites; those past the limit are forbidden."""

    limit: int | None = None
    inner: Gate | None = None
    count: int = 0
    last: str = ""

    def __call__(self, step: str, node: str) -> bool:
        if self.inner is not None and not self.inner(step, node):
            return False
        if self.limit is not None and self.count >= self.limit:
            return False
        self.count += 1
        self.last = f"{step} at {node}" if node else step
        return True


def bisect(last_good: int, first_bad: int, good: Callable[[int], bool]) -> int:
    """The first step that does harm: `good(limit)` runs with that bisect limit.

    `good(last_good)` must hold and `good(first_bad)` must not.
    """
    while first_bad - last_good > 1:
        middle = (last_good + first_bad) // 2
        if good(middle):
            last_good = middle
        else:
            first_bad = middle
    return first_bad


# ---- numbers -----------------------------------------------------------------------------------


def allowed_error(bound: Bound, before: Array) -> float | None:
    """What |after - before| may be for this tensor; None for anything. What is quantized may be
    off by more: see `tolerable`.
    """
    match bound:
        case Exact() | WithinSteps():
            return 0.0
        case Within(rtol, atol):
            wide = np.abs(before.astype(np.float64))
            finite = wide[np.isfinite(wide)]
            rtol = max(rtol, HALVES.get(DType.of(before), 0.0))
            return atol + rtol * float(finite.max(initial=0.0))
        case Changes():
            return None


def tolerable(
    bound: Bound, before: Graph, feeds: dict[str, Array], made: Outputs, limits: Limits
) -> list[str]:
    """Outputs that differ by more than `allowed_error` as ties allow: where sums may be rounded
    otherwise, or results moved by whole steps, what is quantized from them may be another integer.
    Where a zero has no sign, what is divided by it is infinite of either: exact bounds allow that.
    """
    if isinstance(bound, Changes):
        return []
    if isinstance(bound, Exact):
        return explained(before, feeds, made, 0, 0, rounding=False, runs=TIE_RUNS, limits=limits)
    tolerances = (bound.rtol, bound.atol) if isinstance(bound, Within) else (1e-5, 1e-6)
    steps = bound.count if isinstance(bound, WithinSteps) else 0.0
    return explained(before, feeds, made, *tolerances, steps=steps, runs=TIE_RUNS, limits=limits)


def error_between(before: Array, after: Array) -> float:
    """Largest |after - before|; infinite where shapes, types, NaN or infinities differ."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    if before.dtype.kind in "iub" and np.array_equal(before, after):
        return 0.0
    if before.dtype.kind in "iub":
        # At least 1, which doubles might round away.
        wide = before.astype(np.float64) - after.astype(np.float64)
        return max(1.0, float(np.max(np.abs(wide))))
    a, b = before.astype(np.float64), after.astype(np.float64)
    special = ~np.isfinite(a) | ~np.isfinite(b)
    if special.any():
        if not np.array_equal(a[special], b[special], equal_nan=True):
            return float("inf")
        a, b = a[~special], b[~special]
    return float(np.max(np.abs(a - b), initial=0.0))


Outputs = Mapping[str, Array]


@dataclass
class NumericCheck:
    """Runs the reference before and after each pass and holds the pass to its bound."""

    feeds: list[dict[str, Array]]
    limits: Limits
    seed: int = 0
    outputs: list[Outputs] = field(default_factory=list)
    drawn: bool = False

    @classmethod
    def of(cls, graph: Graph, context: Context, samples: int) -> NumericCheck:
        """With the context's samples, or random inputs where there are none."""
        if context.data is not None:
            feeds, drawn = list(context.feeds(graph, samples)), False
        else:
            rng = np.random.default_rng(context.seed)
            feeds, drawn = [random_feeds(graph, rng) for _ in range(samples)], True
        made = cls(feeds, context.limits, context.seed, drawn=drawn)
        made.outputs = made.run(graph)
        return made

    def run(self, graph: Graph) -> list[Outputs]:
        return [interpret(graph, f, limits=self.limits) for f in self.feeds]

    def refit(self, before: Graph, after: Graph) -> str:
        """Draw new inputs where the pass changed what the graph takes; says if it cannot."""
        try:
            for f in self.feeds:
                bind_feeds(after, (), f)
            return ""
        except FeedError:
            pass
        try:
            rng = np.random.default_rng(self.seed)
            self.feeds = [random_feeds(after, rng) for _ in self.feeds]
            self.drawn = True
            for f in self.feeds:
                bind_feeds(before, (), f)
            self.outputs = self.run(before)
            return ""
        except TautError:
            self.outputs = []
            return "not compared: the inputs changed"

    def after(self, p: Pass, before: Graph, after: Graph) -> CheckResult:
        """Compare, and take the new outputs as the reference for the next pass.

        Raises PassError that names the pass and the first node that is off.
        """
        note = self.refit(before, after)
        if note:
            return CheckResult(0.0, None, 0, note)
        try:
            made = self.run(after)
        except FeedError:
            if not self.drawn:
                raise
            self.outputs = []
            return CheckResult(0.0, None, 0, "not compared: the inputs drawn cannot run")
        worst, bound = CheckResult(0.0, 0.0, len(made)), p.promise_on(before)
        for feeds, old, new in zip(self.feeds, self.outputs, made):
            excused: list[str] | None = None
            for name, x in old.items():
                y = new.get(name)
                allowed = allowed_error(bound, x)
                error = float("inf") if y is None else error_between(x, y)
                if allowed is not None and not error <= allowed:
                    if excused is None:
                        excused = tolerable(bound, before, feeds, new, self.limits)
                    if name not in excused:
                        raise self.breach(p, before, after, name, error, allowed)
                    allowed = None
                if allowed is None or error >= worst.error:
                    worst.error, worst.allowed = max(error, worst.error), allowed
        self.outputs = made
        return worst

    def breach(
        self, p: Pass, before: Graph, after: Graph, output: str, error: float, allowed: float
    ) -> PassError:
        bound = p.promise_on(before)
        text = (f"pass {p} promises to be {bound}, but output {output!a} is off by "
                f"{error:.3g} where {allowed:.3g} is allowed")  # fmt: skip
        for feeds in self.feeds:
            found = first_difference(before, after, feeds, bound, self.limits)
            if found is not None:
                node, off = found
                first = f"; the first value that differs is this node's, by {off:.3g}"
                return PassError(text + first, node=node.node.name, op=node.node.op.name)
        return PassError(text)


def first_difference(
    before: Graph, after: Graph, feeds: dict[str, Array], bound: Bound, limits: Limits
) -> tuple[Value, float] | None:
    """The first node of `after`, in order, whose value differs from that of the node of the same
    name and shape in `before` by more than the bound.
    """
    held: dict[tuple[str, int], Array] = {}
    size = 0
    found: list[tuple[Value, float]] = []

    def hold(value: Value, array: Array) -> None:
        nonlocal size
        if size + array.nbytes <= HOLD_BYTES and after.find(value.node.name) is not None:
            held[value.node.name, value.index] = array
            size += array.nbytes

    def compare(value: Value, array: Array) -> None:
        old = held.get((value.node.name, value.index))
        if found or old is None or old.shape != array.shape or old.dtype != array.dtype:
            return
        allowed = allowed_error(bound, old)
        error = error_between(old, array)
        if allowed is not None and not error <= allowed:
            found.append((value, error))

    interpret(before, feeds, limits=limits, watch=hold)
    interpret(after, feeds, limits=limits, watch=compare)
    return found[0] if found else None

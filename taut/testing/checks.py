"""Property checks over drawn graphs: passes keep their promise, backends give the reference's bits.

Each check draws graphs (see `search`) and raises CheckFailure with the smallest that fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import networkx as nx
import numpy as np

from taut.backends.base import compile
from taut.ir import DType, FeedError, Graph, interpret, parse, print_graph, verify
from taut.ir.envelope import explained
from taut.ir.interpret import bind_feeds
from taut.ir.op import Array, has_body
from taut.passes.instrument import HALVES

from .growth import Growth
from .search import Feeds, search
from .tally import FuzzReport, Tally
from .values import AWKWARD

RTOL, ATOL = 1e-4, 1e-5
"""What a float backend may differ by: other orders of summation over short sums."""


def check_pass(
    name: Any,
    *,
    families: Iterable[str] = (),
    examples: int = 50,
    seed: int | None = None,
    awkward: bool | None = None,
) -> FuzzReport:
    """Draw graphs, run the pass `name` (registered name, pipeline text or a Pass), and require:

    * the result verifies, prints, parses and prints the same, and keeps the graph's signature;
    * outputs stay within the pass's own bound of the reference before it;
    * a second run from the same graph gives the same text.

    Half of the graphs are grown from the pass's own patterns and seeds, half drawn from all
    families; with `families` all are of these ("grown" is one of them). Weights and inputs hold
    awkward values (NaN, infinities, denormals, extremes) by default where the bound is exact.

    Returns to how many graphs the pass applied. Raises CheckFailure, NeverApplied where that is
    none, and FeedError for a pass that declares that it does not keep the signature.
    """
    return check_pipeline(name, families=families, examples=examples, seed=seed, awkward=awkward)


def check_pipeline(
    pipeline: Any,
    *,
    families: Iterable[str] = (),
    examples: int = 50,
    seed: int | None = None,
    awkward: bool | None = None,
) -> FuzzReport:
    """`check_pass` for several passes in a row: the loosest of their bounds holds."""
    return check_pipelines([pipeline], families=families, examples=examples, seed=seed,
                           awkward=awkward)[0]  # fmt: skip


def check_pipelines(
    pipelines: Iterable[Any],
    *,
    families: Iterable[str] = (),
    examples: int = 50,
    seed: int | None = None,
    awkward: bool | None = None,
    shrink: bool = True,
) -> list[FuzzReport]:
    """`check_pipeline` for each of several, over the same graphs: half of the work is to draw them
    and to run the reference. Weights and inputs are awkward if all bounds are exact. Without
    `shrink` the first failing graph is raised as it was drawn.
    """
    from taut.passes import Pipeline

    given = list(pipelines)
    pipes = [Pipeline.of(one) for one in given]
    changing = [p.name for pipe in pipes for p in pipe if not p.keeps_signature]
    if changing:
        raise FeedError(f"{changing} change what a graph takes or gives, so nothing is compared",
                        hint="check what they make by check_gradient or check_backend")  # fmt: skip
    promises = list(zip(given, pipes))
    if awkward is None:
        every = [one.promise for pipe in pipes for one in pipe]
        awkward = all(type(bound).__name__ == "Exact" for bound in every)
    kinds = AWKWARD if awkward else ()
    tallies = [Tally(str(one)) for one in given]
    growth = Growth.of(pipes, kinds, seed or 0)
    for pipe, tally in zip(pipes, tallies):
        tally.offered(growth.offered(pipe))

    def check(graph: Graph, inputs: Feeds, want: Feeds, grown: bool) -> None:
        before = print_graph(graph)
        for (pipeline, passes), tally in zip(promises, tallies):
            try:
                bounds = [one.promise_on(graph) for one in passes]
                did = _keeps(pipeline, bounds, graph, before, inputs, want)
            except FeedError:
                if len(promises) == 1:
                    raise
            except Exception as error:
                if len(promises) == 1:
                    raise
                raise AssertionError(f"{pipeline}: {type(error).__name__}: {error}") from error
            else:
                tally.add(*did, grown)

    started = time.perf_counter()
    search(check, growth, families, examples, seed, kinds, shrink)
    seconds = time.perf_counter() - started
    return [tally.report(seconds) for tally in tallies]


def _keeps(
    pipeline: Any, bounds: Iterable[Any], graph: Graph, before: str, inputs: Feeds, want: Feeds
) -> tuple[bool, set[str]]:
    """What `check_pass` requires of one graph, whose text is `before` and whose outputs are
    `want`; AssertionError says what does not hold. Returns whether the pass did anything, and the
    rewrites that it applied."""
    from taut.passes import Context, PassManager, Pipeline

    rewrites: set[str] = set()
    context = Context(data=[inputs], seed=0, watch=lambda rule, node: rewrites.add(rule))
    reports = [PassManager(pipeline).run(graph, context) for _ in range(2)]
    _require(print_graph(graph) == before, "the graph handed in changed too")
    after = reports[0].graph
    verify(after)
    text = print_graph(after)
    _require(text == print_graph(reports[1].graph), "a second run gives another graph")
    _require(print_graph(parse(text)) == text, "the result does not print as it parses")
    _require(_boundary(after) == _boundary(graph), "the signature changed")
    counts = [n for p in reports[0].passes for n in p.counts.values()]
    _require(all(n > 0 for n in counts), f"it counts {counts} of what it did")
    if any(p.narrows for p in Pipeline.of(pipeline)):
        bind_feeds(after, (), inputs)  # raises FeedError where the sizes are others
    got, tolerance = interpret(after, inputs), _tolerance(bounds)
    did = any(p.changed or p.counts for p in reports[0].passes), rewrites
    if tolerance is None:
        return did
    rtol, atol, steps = tolerance
    exact = not (rtol or atol or steps)
    reasons = {
        k: difference(v, got[k], _least(rtol, v), atol, exact and _signed(graph, k))
        for k, v in want.items()
    }  # fmt: skip
    _excuse(graph, inputs, got, reasons, rtol, atol, steps)
    for name, reason in reasons.items():
        _require(reason is None, f"output {name!a}: {reason}")
    return did


def _signed(graph: Graph, name: str) -> bool:
    """Whether ops say of an output which zeros are negative: none above it leaves that open."""
    node = dict(zip(graph.output_names, graph.outputs))[name].node
    above = {node, *nx.ancestors(graph.nx, node)}
    return not any("sign" in n.op.numerics.free or has_body(n.op) for n in above)


def check_backend(
    target: str = "cpu",
    *,
    families: Iterable[str] = (),
    examples: int = 50,
    seed: int | None = None,
    awkward: bool = False,
    rtol: float = RTOL,
    atol: float = ATOL,
    **options: Any,
) -> None:
    """Draw graphs, compile them for `target`, and require the reference's outputs: every bit of
    integers, floats within the tolerance. Each program is called twice. Raises CheckFailure.

    Where a sum of floats lies next to a tie of a quantizer behind it, either integer is right
    (`taut.ir.envelope`).
    """

    def check(graph: Graph, inputs: Feeds, want: Feeds, grown: bool) -> None:
        program = compile(graph, target, **options)
        for call in ("first", "second"):
            got = program(*(inputs[n.name] for n in graph.inputs))
            _require(list(got) == list(want), f"outputs {list(got)}, not {list(want)}")
            reasons = {k: difference(v, got[k], rtol, atol) for k, v in want.items()}
            _excuse(graph, inputs, got, reasons, rtol, atol)
            for name, reason in reasons.items():
                _require(reason is None, f"output {name!a} of the {call} call: {reason}")

    search(check, None, families, examples, seed, AWKWARD if awkward else ())


def _excuse(
    graph: Graph, inputs: Feeds, got: Feeds, reasons: dict[str, str | None], rtol: float,
    atol: float, steps: float = 0.0,
) -> None:  # fmt: skip
    """Drop the reasons that a tie explains. Exact promises allow none, but that a zero whose sign
    is open makes another infinity."""
    if any(reasons.values()):
        rounding = bool(rtol or atol or steps)
        wrong = {k: got[k] for k, reason in reasons.items()
                 if reason is not None and (rounding or not _signed(graph, k))}  # fmt: skip
        if not wrong:
            return
        for name in explained(graph, inputs, wrong, rtol, atol, steps=steps, rounding=rounding):
            reasons[name] = None


def difference(
    want: Array, got: Array, rtol: float = 0.0, atol: float = 0.0, signs: bool = False
) -> str | None:
    """What differs between two arrays, in words, or None. NaN equals NaN; 0.0 equals -0.0 unless
    `signs`.

    `rtol` counts against the largest finite magnitude in `want` (sums cancel), integers are exact.
    """
    if want.dtype != got.dtype or want.shape != got.shape:
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if not want.size:
        return None
    if want.dtype.kind in "iub":
        bad = want != got
        rtol = atol = 0.0
    else:
        with np.errstate(all="ignore"):
            a, b = want.astype(np.float64), got.astype(np.float64)
            finite = a[np.isfinite(a)]
            allowed = atol + rtol * (np.abs(finite).max() if finite.size else 0.0)
            bad = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= allowed))
            if signs:
                bad |= (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    return (f"{int(bad.sum())} of {bad.size} elements differ, first at {list(first)}: "
            f"{got[first]!s}, not {want[first]!s}")  # fmt: skip


def _tolerance(bounds: Iterable[Any]) -> tuple[float, float, float] | None:
    """The loosest of `bounds`: relative, absolute, steps of a grid. A pass that changes the
    function has none."""
    rtol = atol = steps = 0.0
    for bound in bounds:
        match type(bound).__name__:
            case "Changes":
                return None
            case "WithinSteps":
                rtol, atol, steps = rtol + 1e-5, atol + 1e-6, steps + bound.count
            case "Within":
                rtol, atol = rtol + bound.rtol, atol + bound.atol
    return rtol, atol, steps


def _least(rtol: float, want: Array) -> float:
    """A relative tolerance, at least some roundings of a small float type."""
    return max(rtol, HALVES.get(DType.of(want), 0.0)) if rtol else 0.0


def _boundary(graph: Graph) -> tuple[list[str], list[str]]:
    """Names and types at the boundary; shapes may become better known."""
    s = graph.signature
    return ([f"{k} {t.dtype}" for k, t in s.inputs.items()],
            [f"{k} {t.dtype}" for k, t in s.outputs.items()])  # fmt: skip


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise AssertionError(reason)

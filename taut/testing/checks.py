"""Property checks over drawn graphs: passes keep their promise, backends give the reference's bits.

Each check runs Hypothesis itself and raises CheckFailure with the smallest failing graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

import taut
from taut.ir import FeedError, Graph, TautError, interpret, parse, print_graph, verify
from taut.ir.op import Array

from .graphs import graphs
from .values import AWKWARD, feeds

RTOL, ATOL = 1e-4, 1e-5
"""What a float backend may differ by: other orders of summation over short sums."""

Feeds = Mapping[str, Array]

_SLOW = [
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example,
    HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture,
]  # fmt: skip


class CheckFailure(AssertionError):
    """The smallest graph found that fails, as text in `.text`; `.feeds` were its inputs."""

    def __init__(self, reason: str, graph: Graph, inputs: Feeds) -> None:
        self.reason, self.graph, self.feeds = reason, graph, dict(inputs)
        self.text = print_graph(graph)
        lines = [f"  {k} = {v.dtype}{list(v.shape)} {v.reshape(-1)[:8].tolist()}"
                 for k, v in self.feeds.items()]  # fmt: skip
        parts = [reason, self.text.rstrip(), "inputs (first elements):", *lines]
        super().__init__("\n".join(parts))


def check_pass(
    name: Any,
    *,
    families: Iterable[str] = (),
    examples: int = 50,
    seed: int | None = None,
    awkward: bool | None = None,
) -> None:
    """Draw graphs, run the pass `name` (registered name, pipeline text or a Pass), and require:

    * the result verifies, prints, parses and prints the same, and keeps the graph's signature;
    * outputs stay within the pass's own bound of the reference before it;
    * a second run from the same graph gives the same text.

    Weights and inputs hold awkward values (NaN, infinities, denormals, extremes) by default where
    the bound is exact. Raises CheckFailure, and FeedError for a pass that declares that it
    does not keep the signature.
    """
    check_pipeline(name, families=families, examples=examples, seed=seed, awkward=awkward)


def check_pipeline(
    pipeline: Any,
    *,
    families: Iterable[str] = (),
    examples: int = 50,
    seed: int | None = None,
    awkward: bool | None = None,
) -> None:
    """`check_pass` for several passes in a row: the loosest of their bounds holds."""
    from taut.passes import Context, PassManager, Pipeline

    changing = [p.name for p in Pipeline.of(pipeline) if not p.keeps_signature]
    if changing:
        raise FeedError(f"{changing} change what a graph takes or gives, so nothing is compared",
                        hint="check what they make by check_gradient or check_backend")  # fmt: skip

    def manager() -> Any:
        return PassManager(pipeline)

    bounds = [p.promise for p in Pipeline.of(pipeline)]
    if awkward is None:
        awkward = all(type(b).__name__ == "Exact" for b in bounds)

    def check(graph: Graph, inputs: Feeds) -> None:
        before = print_graph(graph)
        want = interpret(graph, inputs)
        context = Context(data=[inputs], seed=0)
        results = [manager().run(graph, context).graph for _ in range(2)]
        _require(print_graph(graph) == before, "the graph handed in changed too")
        after = results[0]
        verify(after)
        text = print_graph(after)
        _require(text == print_graph(results[1]), "a second run gives another graph")
        _require(print_graph(parse(text)) == text, "the result does not print as it parses")
        _require(_boundary(after) == _boundary(graph), "the signature changed")
        got = interpret(after, inputs)
        for name, array in want.items():
            reason = _outside(array, got[name], bounds)
            _require(reason is None, f"output {name!a}: {reason}")

    _search(check, families, examples, seed, AWKWARD if awkward else ())


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
    """

    def check(graph: Graph, inputs: Feeds) -> None:
        want = interpret(graph, inputs)
        program = taut.compile(graph, target, **options)
        for call in ("first", "second"):
            got = program(*(inputs[n.name] for n in graph.inputs))
            _require(list(got) == list(want), f"outputs {list(got)}, not {list(want)}")
            for name, array in want.items():
                reason = difference(array, got[name], rtol, atol)
                _require(reason is None, f"output {name!a} of the {call} call: {reason}")

    _search(check, families, examples, seed, AWKWARD if awkward else ())


def difference(want: Array, got: Array, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """What differs between two arrays, in words, or None. NaN equals NaN, 0.0 equals -0.0.

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
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    return (f"{int(bad.sum())} of {bad.size} elements differ, first at {list(first)}: "
            f"{got[first]!s}, not {want[first]!s}")  # fmt: skip


def _outside(want: Array, got: Array, bounds: Iterable[Any]) -> str | None:
    """What breaks the loosest of `bounds`. A pass that changes the function has no bound."""
    rtol = atol = 0.0
    for bound in bounds:
        kind = type(bound).__name__
        if kind == "Changes":
            return None
        if kind != "Exact":
            rtol, atol = rtol + bound.rtol, atol + bound.atol
    return difference(want, got, rtol, atol)


def _boundary(graph: Graph) -> tuple[list[str], list[str]]:
    """Names and types at the boundary; shapes may become better known."""
    s = graph.signature
    return ([f"{k} {t.dtype}" for k, t in s.inputs.items()],
            [f"{k} {t.dtype}" for k, t in s.outputs.items()])  # fmt: skip


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise AssertionError(reason)


def _search(
    check: Callable[[Graph, Feeds], None],
    families: Iterable[str],
    examples: int,
    seed: int | None,
    awkward: Iterable[str],
) -> None:
    """Run `check` over drawn graphs and inputs; raise CheckFailure for the smallest that fails."""
    kinds = tuple(awkward)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=seed is None,
        suppress_health_check=_SLOW, print_blob=False,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        graph = data.draw(graphs(*families, awkward=kinds))
        inputs = data.draw(feeds(graph, kinds))
        try:
            interpret(graph, inputs)
        except TautError:
            reject()  # an index or axis out of range, say: not the graph's to take
        try:
            check(graph, inputs)
        except FeedError:
            reject()  # a pass that reads data may refuse some, NaN say
        except (AssertionError, TautError) as error:
            raise CheckFailure(str(error) or type(error).__name__, graph, inputs) from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise CheckFailure(f"a fault, not a TautError: {what}", graph, inputs) from error

    (run if seed is None else seeded(seed)(run))()

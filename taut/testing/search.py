"""Draws graphs until one fails, and makes that one small.

Half of the graphs are grown around matches of a pass's own patterns (see `growth`), the other half
are drawn from families by Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from taut.ir import FeedError, Graph, TautError, interpret
from taut.ir.op import Array

from .failure import CheckFailure
from .graphs import graphs
from .growth import Growth
from .shrink import shrunk
from .values import feeds

GROWN = "grown"
"""The family of graphs that are grown from a pass's own patterns."""

Feeds = Mapping[str, Array]
Check = Callable[[Graph, Feeds, Feeds, bool], None]

_SLOW = [
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example,
    HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture,
]  # fmt: skip


def search(
    check: Check,
    growth: Growth | None,
    families: Iterable[str],
    examples: int,
    seed: int | None,
    awkward: Iterable[str],
    shrink: bool = True,
) -> None:
    """Run `check(graph, inputs, the reference's outputs, whether grown)` over drawn graphs; raise
    CheckFailure for the smallest that fails."""
    named = tuple(families)
    drawn = tuple(f for f in named if f != GROWN)
    grow = growth is not None and growth.possible and (not named or GROWN in named)
    share = 0 if not grow else examples if named and not drawn else (examples + 1) // 2
    if growth is not None and share:
        _search_grown(check, growth, share, shrink)
    preferred = growth.families if growth is not None and not named else ()
    if examples - share and (drawn or not named):
        _search_drawn(check, drawn, preferred, examples - share, seed, tuple(awkward), shrink)


def _search_grown(check: Check, growth: Growth, examples: int, shrink: bool) -> None:
    for _ in range(examples):
        graph, inputs = growth.draw(examples)
        failure = _tried(check, graph, inputs, grown=True)
        if failure is None or not shrink:
            if failure is not None:
                raise failure
            continue

        def fails(less: Graph, fed: Feeds) -> CheckFailure | None:
            return _tried(check, less, fed, grown=True)

        raise shrunk(failure, fails) from failure.__cause__


def _search_drawn(
    check: Check, families: tuple[str, ...], preferred: tuple[str, ...], examples: int,
    seed: int | None, awkward: tuple[str, ...], shrink: bool,
) -> None:  # fmt: skip
    every = graphs(*families, awkward=awkward)
    chosen = graphs(*preferred, awkward=awkward) if preferred else every

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=seed is None,
        suppress_health_check=_SLOW, print_blob=False,
        phases=(Phase.generate, *([Phase.shrink] if shrink else [])),
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        # Of its own, since one_of would lose the preferred among all others.
        graph = data.draw(chosen if preferred and data.draw(st.booleans()) else every)
        inputs = data.draw(feeds(graph, awkward))
        failure = _tried(check, graph, inputs, grown=False)
        if failure is not None:
            raise failure

    (run if seed is None else seeded(seed)(run))()


def _tried(check: Check, graph: Graph, inputs: Feeds, grown: bool) -> CheckFailure | None:
    """How the check fails on this graph, if it does. What the reference or the pass does not take
    is no failure: among drawn graphs it is rejected, and another is drawn."""
    try:
        want = interpret(graph, inputs)
    except TautError:  # an index or axis out of range, say: not the graph's to take
        return None if grown else reject()
    try:
        check(graph, inputs, want, grown)
    except FeedError:  # a pass that reads data may refuse some, NaN say
        return None if grown else reject()
    except (AssertionError, TautError) as error:
        return _caused(CheckFailure(str(error) or type(error).__name__, graph, inputs), error)
    except Exception as error:
        what = f"a fault, not a TautError: {type(error).__name__}: {error}"
        return _caused(CheckFailure(what, graph, inputs), error)
    return None


def _caused(failure: CheckFailure, error: Exception) -> CheckFailure:
    failure.__cause__ = error
    return failure

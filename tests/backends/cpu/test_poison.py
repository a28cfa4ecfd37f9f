"""No kernel lets memory that nothing wrote reach a result: graphs of every family give the same
bits on arenas full of NaN and of random bytes."""

from __future__ import annotations

import numpy as np
import poison
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.lower.lowering import Lowering
from taut.ir import Builder, Graph, TautError

from taut import testing

QUIET = {"deadline": None, "database": None, "derandomize": True,
         "suppress_health_check": list(HealthCheck)}  # fmt: skip


def search(family: str, examples: int) -> int:
    """Draw graphs, with awkward numbers in constants and inputs; how many could be called."""
    called = 0

    @settings(max_examples=examples, phases=[Phase.generate], **QUIET)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal called
        graph: Graph = data.draw(testing.graphs(family, awkward=testing.AWKWARD))
        feeds = data.draw(testing.feeds(graph, testing.AWKWARD))
        program = compile(graph, threads=data.draw(st.integers(1, 2)))
        try:
            with np.errstate(all="ignore"):
                reason = poison.check(program, feeds)
        except TautError:
            return  # data that the op refuses
        called += 1
        assert reason is None, reason

    run()
    return called


@pytest.mark.parametrize("family", sorted(testing.FAMILIES))
def test_drawn_graphs(family: str) -> None:
    assert search(family, 1) == 1


def test_a_border_that_is_not_filled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    x = b.relu(b.input("x", "f32", (1, 3, 5, 5)))
    graph = b.outputs(y=b.conv(x, np.ones((4, 3, 3, 3), np.float32), pads=(1, 1, 1, 1)))
    feeds = {"x": np.ones((1, 3, 5, 5), np.float32)}
    assert poison.check(compile(graph, threads=1), feeds) is None
    monkeypatch.setattr(Lowering, "_fill_halo", lambda *_: None)
    assert "full of nan" in str(poison.check(compile(graph, threads=1), feeds))

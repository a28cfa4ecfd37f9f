"""The manager: copies, verifies, checks numbers and analyses, bisects, reproduces, reports."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, Graph, PassError, TautError, Value, equal, print_graph
from taut.ir.ops.elementwise import Add, Sub
from taut.passes import (
    Changes,
    Context,
    Exact,
    Outcome,
    Pass,
    PassManager,
    Rewrite,
    Samples,
    Within,
    all_analyses,
    analysis,
    apply_rewrites,
    bisect,
    replay,
)
from taut.passes import base as registry


@pytest.fixture(autouse=True)
def own_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known in these tests only: whoever goes through all passes must not meet a wrong one."""
    for cls in (Wrong, Fails, Breaks, Lies, Asks, Draws):
        monkeypatch.setitem(registry._REGISTRY, cls.name, cls)


def chain(n: int = 4) -> Graph:
    b = Builder()
    x = y = b.input("x", "f32", ("n", 3))
    for i in range(n):
        y = b.relu(b.add(y, x, name=f"sum{i}"), name=f"relu{i}")
    return b.outputs(y=y)


class SumToDifference(Rewrite):
    """a + b -> a - b, which is wrong"""

    def pattern(self, p: Any, x: Any, y: Any) -> Any:
        return p.add(x, y)

    def rewrite(self, b: Any, m: Any) -> Value:
        return b.sub(m.x, m.y)


@dataclass(frozen=True)
class Wrong(Pass):
    """Turns sums into differences and claims to change nothing."""

    name = "test-wrong"
    bound = Exact()

    def run(self, graph: Graph, context: Context) -> Outcome:
        return apply_rewrites(graph, [SumToDifference()], context, who=self.name)


@dataclass(frozen=True)
class Fails(Pass):
    """Raises when it meets a relu."""

    name = "test-fails"

    def run(self, graph: Graph, context: Context) -> Outcome:
        if any(n.op.name == "relu" for n in graph.nodes()):
            raise RuntimeError("no relu, please")
        return Outcome()


@dataclass(frozen=True)
class Breaks(Pass):
    """Leaves a node with a type that is not its op's."""

    name = "test-breaks"

    def run(self, graph: Graph, context: Context) -> Outcome:
        node = graph["relu0"]
        node.results = (type(node.results[0])(node.type.with_shape((7, 7))),)
        graph.rename(node, "broken")
        return Outcome()


@dataclass(frozen=True)
class Lies(Pass):
    """Adds a node and claims that the number of nodes stays."""

    name = "test-lies"
    preserves = ("test-size", "test-inputs")

    def run(self, graph: Graph, context: Context) -> Outcome:
        graph.add(Add(), graph.inputs[0], graph.inputs[0])
        return Outcome()


@dataclass(frozen=True)
class Asks(Pass):
    """Looks at the graph."""

    name = "test-asks"

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outcome.count("size", context.analyses.get("test-size", graph))
        return outcome


@dataclass(frozen=True)
class Draws(Pass):
    """Writes down a random number."""

    name = "test-draws"
    bound = Changes()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outcome.note(str(context.rng.integers(1 << 60)))
        return outcome


@analysis("test-size")
def size(graph: Graph) -> int:
    return len(graph)


@analysis("test-inputs")
def inputs(graph: Graph) -> list[str]:
    return [n.name for n in graph.inputs]


def test_the_graph_handed_in_is_untouched() -> None:
    graph = chain()
    before = print_graph(graph)
    made = PassManager("test-wrong").run(graph).graph
    assert print_graph(graph) == before
    assert any(isinstance(n.op, Sub) for n in made.nodes())


def test_numeric_check_names_pass_and_node() -> None:
    with pytest.raises(PassError) as caught:
        PassManager("cse,test-wrong,dce", check=True).run(chain())
    assert "test-wrong" in str(caught.value) and caught.value.node == "sum0"
    assert "promises to be exact" in str(caught.value)


def test_numeric_check_takes_given_samples() -> None:
    zero = np.zeros((2, 3), np.float32)  # 0 + 0 is 0 - 0: on this sample nothing shows
    report = PassManager("test-wrong", check=True).run(chain(), Context(data=[zero]))
    assert report.passes[0].check is not None and report.passes[0].check.error == 0


def test_bound_is_measured_against_the_largest() -> None:
    from taut.passes.instrument import allowed_error, error_between

    x = np.array([100.0, 1e-9, np.inf, np.nan], np.float32)
    y = np.array([100.1, 0.01, np.inf, np.nan], np.float32)
    assert allowed_error(Within(1e-3, 1e-6), x) == pytest.approx(0.1 + 1e-6)
    assert error_between(x, y) == pytest.approx(0.1, rel=1e-3)
    assert error_between(x, x[::-1].copy()) == np.inf
    assert error_between(np.array([1 << 62]), np.array([(1 << 62) + 1])) >= 1


def test_failures_become_pass_errors() -> None:
    with pytest.raises(PassError, match="test-fails failed: RuntimeError: no relu, please"):
        PassManager("test-fails").run(chain())


def test_verification_names_the_pass_that_broke_it() -> None:
    with pytest.raises(TautError, match="after pass test-breaks the graph is broken"):
        PassManager("test-breaks,dce").run(chain())
    PassManager("test-breaks", verify_each=False).run(chain())


def test_preserved_analyses_are_checked() -> None:
    assert {"cost", "levels", "test-size"} <= set(all_analyses())
    stale = PassManager("test-asks,test-lies,test-asks").run(chain())
    assert stale.passes[0].counts == stale.passes[2].counts  # believed, as nothing was checked
    assert stale.passes[1].kept_analyses == ["test-size"]
    with pytest.raises(PassError, match="test-lies declares that it preserves test-size"):
        PassManager("test-asks,test-lies", check=True).run(chain())
    honest = PassManager("test-asks,test-wrong,test-asks").run(chain())
    assert honest.passes[1].kept_analyses == []


def test_analyses_are_cached_by_version() -> None:
    graph, context = chain(), Context()
    first = context.analyses.get("levels", graph)
    assert context.analyses.get("levels", graph) is first and context.analyses.hits == 1
    graph.add(Add(), graph.inputs[0], graph.inputs[0])
    assert context.analyses.get("levels", graph) != first


def test_bisect_limit_counts_passes_and_rewrites() -> None:
    full = PassManager("cse,test-wrong").run(chain(4))
    assert full.steps == 2 + 4
    partial = PassManager("cse,test-wrong", bisect_limit=4).run(chain(4))
    assert sum(isinstance(n.op, Sub) for n in partial.graph.nodes()) == 2
    assert partial.last_step == "test-wrong/sum-to-difference at sum1"
    nothing = PassManager("cse,test-wrong", bisect_limit=1).run(chain(4))
    assert nothing.passes[1].skipped and equal(nothing.graph, chain(4))


def test_bisect_finds_the_first_bad_step() -> None:
    def good(limit: int) -> bool:
        made = PassManager("cse,test-wrong", bisect_limit=limit).run(chain(4)).graph
        return not isinstance(made["sum2"].op, Sub)

    assert bisect(0, 6, good) == 5


def test_reproducer_replays(tmp_path: Path) -> None:
    path = tmp_path / "fail.ir"
    sample = np.ones((2, 3), np.float32)
    with pytest.raises(PassError) as first:
        context = Context(data=[sample], seed=7)
        PassManager("dce,test-wrong,cse", check=True, reproduce=path).run(chain(), context)
    assert "// pipeline: test-wrong,cse" in path.read_text()
    with pytest.raises(PassError) as second:
        replay(path)
    assert second.value.message == first.value.message
    assert second.value.node == first.value.node


def test_reproducer_keeps_weights_and_random_numbers(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 100))
    graph = b.outputs(y=b.relu(b.add(x, np.arange(100, dtype=np.float32))))
    path = tmp_path / "fail.ir"
    with pytest.raises(PassError):
        PassManager("dce,test-fails,test-draws", reproduce=path).run(graph, Context(seed=3))
    text = path.read_text().replace("test-fails,", "").replace("place: 1", "place: 2")
    path.write_text(text)
    again = replay(path)
    whole = PassManager("dce,cse,test-draws").run(graph, Context(seed=3))
    assert equal(again.graph, graph)
    assert next(again.remarks("note")) == next(whole.remarks("note"))


@pytest.mark.parametrize("text", ["", "graph @x() -> () {}", "// taut reproducer 1\n// seed: 1\n"])
def test_what_is_no_reproducer_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.ir"
    path.write_text(text)
    with pytest.raises(TautError):
        replay(path)


def test_the_same_seed_draws_the_same() -> None:
    def drawn(seed: int, pipeline: str = "test-draws,test-draws") -> list[str]:
        report = PassManager(pipeline).run(chain(), Context(seed=seed))
        return [r.reason for _, r in report.remarks("note")]

    first, second = drawn(1)
    assert first != second and drawn(1) == [first, second] and drawn(2) != [first, second]
    assert drawn(1, "test-wrong,test-draws")[0] == second  # by place, not by what came before


def test_printing_around_passes() -> None:
    def printed(**options: Any) -> str:
        out: list[str] = []
        PassManager("cse,test-wrong,dce", write=out.append, **options).run(chain(1))
        return "".join(out)

    assert printed() == ""
    assert printed(print_before=True).count("// ---- before pass") == 3
    assert "// ---- after pass 2: dce" in printed(print_after=["dce"])
    changed = printed(print_changed=True)
    assert changed.count("// ----") == 1 and "after pass 1: test-wrong" in changed
    assert "%sum0 = sub(%x, %x)" in changed


def test_report_is_json_and_tables() -> None:
    report = PassManager("O1,test-wrong", trace_memory=True).run(chain())
    data = json.loads(json.dumps(report.to_json()))
    assert data["pipeline"].endswith("test-wrong") and data["passes"][-1]["counts"]
    assert all(p["seconds"] >= 0 for p in data["passes"])
    assert any(p["peak_bytes"] > 0 for p in data["passes"])
    assert not tracemalloc.is_tracing()
    assert "sum-to-difference 4" in str(report)


def test_samples_stream_once_and_come_again() -> None:
    batches = (np.full((2, 3), i, np.float32) for i in range(5))
    samples = Samples(batches, keep=2 * 24)
    first = [b[0, 0] for b in samples]
    assert first == [0, 1, 2, 3, 4] and samples.truncated
    assert [b[0, 0] for b in samples] == [0, 1]
    again = Samples([1, 2])
    assert list(again) == list(again) == [1, 2]
    made = Samples(lambda: iter([1, 2]))
    assert list(made) == list(made) == [1, 2]


def test_samples_may_be_read_in_part_first() -> None:
    samples = Samples(iter([np.zeros(1), np.ones(1), np.ones(1) * 2]))
    assert next(iter(samples))[0] == 0
    assert [b[0] for b in samples] == [0, 1, 2]


def test_feeds_take_arrays_tuples_and_dicts() -> None:
    graph, x = chain(), np.ones((2, 3), np.float32)
    for batch in (x, (x,), [x], {"x": x}):
        assert next(Context(data=[batch]).feeds(graph))["x"] is x
    with pytest.raises(TautError, match="sample inputs"):
        next(Context().feeds(graph))
    with pytest.raises(TautError, match="empty"):
        list(Context(data=[]).feeds(graph))

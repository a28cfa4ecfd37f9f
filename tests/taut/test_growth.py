"""Graphs grown from a pass's own patterns: they match, they nearly match, and they find faults."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from taut.ir import Graph, interpret, parse, print_graph, verify
from taut.passes import (
    Context,
    Exact,
    Outcome,
    Pass,
    Pipeline,
    Rewrite,
    apply_rewrites,
    base,
    register_pass,
)

from taut import testing
from taut.testing.growth import Growth
from taut.testing.rule_code import literals

ROOT = Path(__file__).parents[2]


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`applied(rule)` registers the pass `planted` that applies one rule."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    def register(rule: Rewrite) -> str:
        @register_pass
        @dataclass(frozen=True)
        class Planted(Pass):
            """Applies the rule of a test."""

            name = "planted"
            bound = Exact()

            def run(self, graph: Graph, context: Context) -> Outcome:
                return apply_rewrites(graph, [rule], context, who="planted")

        return "planted"

    return register


class ReluOutside(Rewrite):
    """relu(x) + y -> relu(x + y), which is wrong"""

    def pattern(self, p, x, y):
        return p.add(p.relu(x), y)

    def rewrite(self, b, m):
        return b.relu(b.add(m.x, m.y))


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_rule_is_found_by_every_seed(applied, seed: int) -> None:
    with pytest.raises(testing.CheckFailure, match="elements differ") as caught:
        testing.check_pass(applied(ReluOutside()), examples=20, seed=seed)
    ops = sorted(n.op.name for n in caught.value.graph.nodes())
    assert len(ops) <= 5 and {"add", "relu", "return"} <= set(ops)


class NegatedDifference(Rewrite):
    """-(x - y) -> y - x, in the difference's own place"""

    uses: int | None = 1

    def pattern(self, p, x, y):
        return p.neg(p.sub(x, y, uses=self.uses, into="inner"))

    def applies(self, m):
        return m.x != m.y and not m.root.type.dtype.is_integer

    def rewrite(self, b, m):
        turned = b.sub(m.y, m.x)
        m.graph.replace_all_uses(m.inner, turned)  # whoever else reads it gets the wrong sign
        return turned


def test_a_dropped_guard_on_uses_is_found(applied) -> None:
    report = testing.check_pass(applied(NegatedDifference()), examples=30, seed=0)
    assert report.rewrites == {"planted/negated-difference": report.applied} and report.grown == 15
    unguarded = NegatedDifference()
    unguarded.uses = None
    with pytest.raises(testing.CheckFailure, match="elements differ"):
        testing.check_pass(applied(unguarded), examples=30, seed=0)


class NeverMatches(Rewrite):
    """acos(x) -> x, where nobody may"""

    def pattern(self, p, x):
        return p.acos(x)

    def applies(self, m):
        return False

    def rewrite(self, b, m):
        return m.x


def test_a_rule_that_is_never_exercised_is_named(applied) -> None:
    with pytest.raises(testing.NeverApplied) as vacuous:
        testing.check_pass(applied(NeverMatches()), examples=8)
    assert vacuous.value.report.unexercised == ["planted/never-matches"]
    assert "applied to 0 of 8 graphs" in str(vacuous.value)


def drawn(pipeline: str, count: int, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
    growth = Growth.of([Pipeline.of(pipeline)], testing.AWKWARD, seed)
    return [(print_graph(g), feeds) for g, feeds in (growth.draw(count) for _ in range(count))]


def test_grown_graphs_are_sound_and_repeat() -> None:
    for name in ("motion", "fuse-conv", "fuse-attention"):
        made, again = drawn(name, 3), drawn(name, 3)
        assert [t for t, _ in made] == [t for t, _ in again] != [t for t, _ in drawn(name, 3, 1)]
        for (text, feeds), (_, same) in zip(made, again):
            graph = parse(text)
            verify(graph)
            interpret(graph, feeds)
            assert all(feeds[k].tobytes() == same[k].tobytes() for k in feeds)


OPEN = """
graph @open(%x: f32[n,?]) -> (%y: f32[n,?]) {
  %c = constant [1.0, 2.0] : f32[2,1]
  %y = mul(%x, %c) : f32[2,?]
  return %y
}
"""


def test_seeds_are_varied_in_constants_and_keep_what_they_leave_open() -> None:
    growth = Growth({}, [OPEN], (), (), seed=0)
    fed = shaped = unknown = 0
    for graph, feeds in (growth.draw(20) for _ in range(20)):
        verify(graph)
        interpret(graph, feeds)
        products: Any = [graph.operands(n) for n in graph.nodes() if n.op.name == "mul"]
        fed += sum(c.node.op.name == "input" for _, c in products)
        shaped += sum(c.array is not None and c.shape != (2, 1) for _, c in products)
        unknown += sum(None in (x.shape or ()) for x, _ in products)
    assert fed and shaped and unknown > 10


def test_numbers_words_and_ops_of_a_rules_code_are_known() -> None:
    from taut.passes.fuse.order import ActivationBeforePool
    from taut.passes.simplify.algebra import PowConstant

    assert {2.0, 0.5, -1.0} <= set(literals(PowConstant)[0])
    assert {"conv", "conv_transpose"} <= {op.name for op in literals(ActivationBeforePool)[2]}


FAULTS = (
    "passes/fuse/recognize.py GeluFromErf.pattern: 1 / root2  =>  1 * root2",
    "passes/simplify/clips.py ClampChain.rewrite: max(inner[1], low)  =>  min(inner[1], low)",
    "passes/fuse/affine.py Layer.bias_with: total * change.scale  =>  total / change.scale",
)


def test_faults_planted_in_our_own_passes_are_found(tmp_path: Path) -> None:
    listed = tmp_path / "faults.txt"
    listed.write_text("\n".join(FAULTS))
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "mutation.py"), "--trust",
               "--jobs", "1", "--faults", str(listed), "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows = json.loads(done.stdout)["rows"]
    assert {r["fault"]: r["result"] for r in rows} == dict.fromkeys(FAULTS, "found"), rows

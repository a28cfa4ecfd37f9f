"""Patterns and the driver: what matches, what is remarked on, and that it ends."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, Graph, PassError, Value, equal, verify
from taut.ir.ops.elementwise import Add, Mul
from taut.passes import Context, Match, Rewrite, apply_rewrites
from taut.passes.pattern import Operands, Pattern, PatternBuilder, build, solutions
from taut.passes.rewrite import RewriteBuilder


def graph_of(*ops: str, n: int = 1) -> Graph:
    b = Builder()
    y = b.input("x", "f32", ("n", 4))
    for _ in range(n):
        for op in ops:
            y = getattr(b, op)(y)
    return b.outputs(y=y)


def matches(graph: Graph, pattern: Any, root: str) -> list[dict[str, Any]]:
    return [bound for bound, _ in solutions(Operands(graph), build(pattern), graph[root])]


class Rule(Rewrite):
    """Base of rules here: `f` says what to do."""

    def __init__(self, pattern: Any, make: Any, check: Any = None) -> None:
        self.pattern, self.make = pattern, make  # type: ignore[method-assign]
        if check is not None:
            self.check = check  # type: ignore[method-assign]

    def rewrite(self, b: Any, m: Match) -> Any:
        return self.make(b, m)


# ---- patterns ----------------------------------------------------------------------------------


def test_commutative_ops_match_in_both_orders() -> None:
    b = Builder()
    x, c = b.input("x", "f32", (4,)), b.constant(np.float32(2), "c")
    graph = b.outputs(p=b.add(c, x, name="p"), q=b.add(x, c, name="q"), r=b.sub(c, x, name="r"))
    for root in "pq":
        assert matches(graph, lambda p, x, c: p.add(x, p.const(c)), root) == [{"x": x, "c": c}]
    assert matches(graph, lambda p, x, c: p.sub(x, p.const(c)), "r") == []
    assert len(matches(graph, lambda p, x, c: p.add(x, c), "p")) == 2


def test_one_variable_stands_for_one_value() -> None:
    b = Builder()
    x, y = b.input("x", "f32", (4,)), b.input("y", "f32", (4,))
    graph = b.outputs(p=b.mul(x, x, name="p"), q=b.mul(x, y, name="q"))
    assert len(matches(graph, lambda p, x: p.mul(x, x), "p")) == 1
    assert matches(graph, lambda p, x: p.mul(x, x), "q") == []


def test_optional_operands() -> None:
    b = Builder()
    x, c = b.input("x", "f32", (4,)), b.constant(np.float32(1))
    graph = b.outputs(
        none=b.clip(x, name="none"), low=b.clip(x, c, name="low"), high=b.clip(x, None, c, name="h")
    )

    def pattern(p: Any, x: Any, low: Any, high: Any) -> Any:
        return p.clip(x, p.optional(low), p.optional(high))

    assert matches(graph, pattern, "none") == [{"x": x}]
    assert matches(graph, pattern, "low") == [{"x": x, "low": c}]
    assert matches(graph, pattern, "h") == [{"x": x, "high": c}]
    assert matches(graph, lambda p, x: p.clip(x), "low") == []  # what is not written is not there


def test_literals_match_rounded_and_uniform_constants() -> None:
    b = Builder()
    x = b.input("x", "f32", (2,))
    graph = b.outputs(
        p=b.mul(x, np.full((2,), 0.1, np.float32), name="p"),
        q=b.mul(x, np.array([0.1, 0.2], np.float32), name="q"),
        r=b.mul(x, np.float32(np.nan), name="r"),
    )
    assert len(matches(graph, lambda p, x: p.mul(x, 0.1), "p")) == 1
    for root in "qr":
        assert matches(graph, lambda p, x: p.mul(x, 0.1), root) == []


def test_alternatives_attributes_rest_and_captures() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 3))
    y = b.concat(x, b.relu(x), x, axis=1, name="y")
    graph = b.outputs(y=b.leaky_relu(y, alpha=0.5, name="z"))

    def pattern(p: Any, xs: Any) -> Any:
        return p.op("leaky_relu", "relu")(p.concat(p.rest(xs), into="joined"))

    (found,) = matches(graph, pattern, "z")
    assert found["joined"] is graph["y"] and len(found["xs"]) == 3
    assert matches(graph, lambda p, x: p.leaky_relu(x, alpha=0.25), "z") == []
    (other,) = matches(graph, lambda p, x, y: p.any_of(p.relu(y), p.leaky_relu(x)), "z")
    assert set(other) == {"x"}


def test_variables_of_choices_not_taken_are_none() -> None:
    seen: list[Any] = []
    rule = Rule(lambda p, x, y: p.any_of(p.relu(x), p.neg(y)),
                lambda b, m: seen.append((m.x is None, m.y is None)))  # fmt: skip
    apply_rewrites(graph_of("relu", "neg"), [rule], Context())
    assert seen == [(False, True), (True, False)]


# ---- the driver --------------------------------------------------------------------------------


def test_unknown_names_are_a_fault_of_the_rule() -> None:
    rule = Rule(lambda p, x: p.relu(x), lambda b, m: m.nothing)
    with pytest.raises(PassError, match=r"rule rule failed: .*binds no nothing"):
        apply_rewrites(graph_of("relu"), [rule], Context())


def relu_relu() -> Rule:
    return Rule(lambda p, x: p.relu(p.relu(x, into="inner")), lambda b, m: m.inner[0])


def test_rewrites_reach_a_fixed_point_and_leave_no_dead_code() -> None:
    graph = graph_of("relu", "neg", "neg", n=20)
    negs = Rule(lambda p, x: p.neg(p.neg(x)), lambda b, m: m.x)
    outcome = apply_rewrites(graph, [relu_relu(), negs], Context())
    verify(graph)
    assert equal(graph, graph_of("relu")) and len(graph) == 3
    assert outcome.counts["rule"] == 20 + 19


def test_inner_nodes_with_other_readers_stay() -> None:
    b = Builder()
    x = b.input("x", "f32", (4,))
    inner = b.neg(x, name="inner")
    graph = b.outputs(y=b.neg(inner), z=b.relu(inner))
    apply_rewrites(graph, [Rule(lambda p, x: p.neg(p.neg(x)), lambda b, m: m.x)], Context())
    verify(graph)
    assert graph.find("inner") is not None and graph.outputs[0] == x


def test_uses_are_counted_and_remarked_on() -> None:
    b = Builder()
    x = b.input("x", "f32", (4,))
    inner = b.relu(x, name="inner")
    graph = b.outputs(y=b.neg(inner), z=inner)
    rule = Rule(lambda p, x: p.neg(p.relu(x, uses=1)), lambda b, m: m.x)
    outcome = apply_rewrites(graph, [rule], Context())
    assert [str(r) for r in outcome.remarks] == ['missed "inner": rule: relu has 2 uses']


def test_a_second_look_when_a_reader_goes() -> None:
    """The relu is read twice until the dead reader's rewrite is done."""
    b = Builder()
    x = b.input("x", "f32", (4,))
    inner = b.relu(x, name="inner")
    graph = b.outputs(y=b.neg(inner, name="n"), z=b.abs(b.identity(inner)))
    rules = [
        Rule(lambda p, x: p.neg(p.relu(x, uses=1)), lambda b, m: b.exp(m.x)),
        Rule(lambda p, x: p.abs(p.identity(p.relu(x))), lambda b, m: b.sqrt(m.x)),
    ]
    outcome = apply_rewrites(graph, rules, Context())
    assert outcome.counts["rule"] == 2 and not outcome.remarks
    assert {n.op.name for n in graph.nodes()[1:3]} == {"sqrt", "exp"}


def test_failed_checks_say_why_once() -> None:
    graph = graph_of("relu", n=3)
    rule = Rule(lambda p, x: p.relu(x), None, lambda m: m.fail("not today"))
    outcome = apply_rewrites(graph, [rule], Context())
    assert sorted(r.node for r in outcome.remarks) == ["relu", "relu_0", "relu_1"]
    assert {r.reason for r in outcome.remarks} == {"rule: not today"}


def test_misses_of_what_was_rewritten_later_are_forgotten() -> None:
    graph = graph_of("relu", "relu")
    never = Rule(lambda p, x: p.relu(x), None, lambda m: m.fail("no"))
    outcome = apply_rewrites(graph, [never, relu_relu()], Context())
    assert [r.node for r in outcome.remarks] == ["relu"]


def test_the_replacement_takes_the_name_and_place() -> None:
    graph = graph_of("neg", "relu")
    order = graph["relu"].order
    apply_rewrites(graph, [Rule(lambda p, x: p.relu(x), lambda b, m: b.abs(b.exp(m.x)))], Context())
    assert graph["relu"].op.name == "abs" and graph["neg"].order < graph["relu"].order < (9e9,)
    assert order[0] >= graph["relu"].order[0]
    verify(graph)


def test_none_takes_everything_back() -> None:
    graph = graph_of("relu")
    before = len(graph)

    def make(b: Any, m: Match) -> None:
        b.add(m.x, np.float32(1))

    apply_rewrites(graph, [Rule(lambda p, x: p.relu(x), make)], Context())
    verify(graph)
    assert len(graph) == before


def test_rules_that_undo_each_other_are_refused() -> None:
    there = Rule(lambda p, x: p.mul(x, 2.0), lambda b, m: b.add(m.x, m.x))
    back = Rule(lambda p, x: p.add(x, x), lambda b, m: b.mul(m.x, np.float32(2)))
    b = Builder()
    x = b.input("x", "f32", (4,))
    with pytest.raises(PassError, match="undo each other"):
        apply_rewrites(b.outputs(y=b.add(x, x)), [there, back], Context())


def test_rules_that_grow_are_stopped() -> None:
    grow = Rule(lambda p, x: p.relu(x), lambda b, m: b.relu(b.neg(m.x)))
    graph = graph_of("relu")
    outcome = apply_rewrites(graph, [grow], Context(), limit=25)
    verify(graph)
    assert outcome.counts["rule"] == 25
    assert "stopped after 25 rewrites" in outcome.remarks[0].reason


def test_replacements_of_another_type_are_refused() -> None:
    rule = Rule(lambda p, x: p.relu(x), lambda b, m: b.constant(np.float64(1)))
    with pytest.raises(PassError, match="cannot replace"):
        apply_rewrites(graph_of("relu"), [rule], Context())


def test_every_application_can_be_watched_and_forbidden() -> None:
    seen: list[tuple[str, str]] = []
    context = Context(watch=lambda *what: seen.append(what), gate=lambda s, n: n != "relu_1")
    graph = graph_of("relu", n=4)
    apply_rewrites(graph, [relu_relu()], context, who="mine")
    assert seen == [("mine/rule", "relu_0"), ("mine/rule", "relu_2")]
    assert len(graph) == 4  # input, two relus that the gate kept, return


@pytest.mark.parametrize("ops", [("relu",), ("neg", "neg"), ("relu", "abs", "neg")])
def test_time_is_linear(ops: tuple[str, ...]) -> None:
    """Four times the nodes take about four times as long (quadratic would be sixteen)."""
    negs = Rule(lambda p, x: p.neg(p.neg(x)), lambda b, m: m.x)

    def seconds(n: int) -> float:
        best = float("inf")
        for _ in range(3):
            graph = graph_of(*ops, n=n)
            start = time.process_time()
            apply_rewrites(graph, [relu_relu(), negs], Context())
            best = min(best, time.process_time() - start)
        return best

    assert seconds(2000) < 9 * seconds(500)


def test_a_hub_does_not_make_it_quadratic() -> None:
    """One constant read by every node, and one value with thousands of readers."""
    b = Builder()
    x = b.input("x", "f32", (2,))
    c = b.constant(np.float32(1))
    hub = y = b.relu(x)
    for _ in range(4000):
        y = b.graph.add(Add(), y, b.graph.add(Mul(), hub, c))[0]
    graph = b.outputs(y=y)
    rule = Rule(lambda p, x: p.mul(p.relu(x, uses=1), 1.0), lambda b, m: m.x)
    one = Rule(lambda p, x: p.mul(x, 1.0), lambda b, m: m.x)
    start = time.process_time()
    apply_rewrites(graph, [rule, one], Context())
    assert time.process_time() - start < 20
    assert isinstance(graph.outputs[0], Value) and len(graph) == 4000 + 3


def test_a_pattern_is_built_once_for_a_rule_without_settings() -> None:
    class Twice(Rewrite):
        built = 0

        def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
            type(self).built += 1
            return p.neg(p.neg(x))

        def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
            return m.x

    class TwiceOf(Twice):
        def __init__(self, op: str) -> None:
            self.op = op

        def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
            return p.op(self.op)(p.op(self.op)(x))

    def left(*rules: Rewrite) -> list[str]:
        b = Builder()
        x = b.input("x", "f32", (2,))
        graph = b.outputs(y=b.neg(b.neg(x)), z=b.abs(b.abs(x)))
        apply_rewrites(graph, rules, Context())
        return [n.op.name for n in graph.nodes() if n.op.name in ("neg", "abs")]

    assert left(Twice()) == left(Twice()) == ["abs", "abs"] and Twice.built == 1
    assert left(TwiceOf("abs")) == ["neg", "neg"] and left(TwiceOf("neg")) == ["abs", "abs"]

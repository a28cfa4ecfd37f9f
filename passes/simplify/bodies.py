"""Branches and loops made simpler: known branches, dead results and captures, short loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Builder, Graph, Node, Op, Value
from ...ir.analysis.liveness import above
from ...ir.ops.control import ControlFlow
from ...ir.ops.loops import Loop
from ...ir.ops.structure import Input
from ..base import Exact, Outcome, Pass, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Match, Rewrite, RewriteBuilder, erase_dead
from . import seeds


class KnownBranch(Rewrite):
    """if(c, *xs) {a} {b} -> a(*xs) for a constant c that is true, else b(*xs)"""

    fast = False

    def pattern(self, p: PatternBuilder, cond: Any, xs: Any) -> Pattern:
        return p.op("if")(p.const(cond), p.rest(xs))

    def rewrite(self, b: RewriteBuilder, m: Match) -> tuple[Value, ...]:
        taken = m.op.then_branch if m.cond.array.all() else m.op.else_branch
        return tuple(_inline(taken, m.xs, b.node))


RULES = (KnownBranch,)


def _inline(body: Graph, operands: Sequence[Value], add: Any) -> list[Value]:
    """A body's nodes on these operands; `add(op, *operands, name=)` gives a first result."""
    here = {Value(n): v for n, v in zip(body.inputs, operands)}
    for node in body.nodes():
        if isinstance(node.op, Input) or node is body.result:
            continue
        inputs = [None if v is None else here[v] for v in body.operands(node)]
        made = add(node.op, *inputs, name=node.name).node
        here |= {Value(node, i): Value(made, i) for i in range(len(node.results))}
    return [here[v] for v in body.outputs]


# ---- dead parts ----------------------------------------------------------------------------------


def trim(graph: Graph, node: Node) -> int:
    """Take away results that nothing reads, carried values that only make themselves, and captures
    that no body reads. Returns how many; the node may be another one then."""
    op = node.op
    assert isinstance(op, ControlFlow)
    dead = _dead_results(graph, node, op)
    bodies = {name: _without(op, body, dead) for name, body in op.bodies.items()}
    inputs = {name: b.inputs for name, b in bodies.items()}
    made, start, captures = op.places
    first = captures - start + made  # body input of the first capture
    count = len(next(iter(inputs.values()))) - first
    unread = [
        k for k in range(count)
        if not any(b.nx.succ[inputs[name][first + k]] for name, b in bodies.items())
    ]  # fmt: skip
    if not dead and not unread:
        return 0
    gone = {captures + k for k in unread} | {start + r for r in dead if r < op.carried_values}
    for name, body in bodies.items():
        places = {first + k for k in unread} | {made + r for r in dead if r < op.carried_values}
        for place in places:
            body.erase(inputs[name][place])
    _replace(graph, node, op.replace(**op.trimmed(dead), **bodies), dead, gone)
    return len(dead) + len(unread)


def _dead_results(graph: Graph, node: Node, op: ControlFlow) -> set[int]:
    """Results that nothing reads; of carried values also no live part of the body."""
    unread = {r for r in range(len(node.results)) if not graph.use_count(node[r])}
    carried = {r for r in unread if r < op.carried_values}
    for body in op.bodies.values() if carried else ():
        made = op.places.made
        while True:
            live = [v for k, v in enumerate(body.outputs) if k - op.first_result not in carried]
            read = above(body, (v.node for v in live))
            again = {r for r in carried if body.inputs[made + r] not in read}
            if again == carried:
                break
            carried = again
    return {r for r in unread if r >= op.carried_values} | carried


def _without(op: ControlFlow, body: Graph, dead: set[int]) -> Graph:
    """The body without these results, and without what only they needed."""
    twin = body.copy()
    pairs = enumerate(zip(twin.output_names, twin.outputs))
    twin.set_outputs({k: v for r, (k, v) in pairs if r - op.first_result not in dead})
    erase_dead(twin, twin.nodes())
    return twin


def _replace(graph: Graph, node: Node, op: Op, dead: set[int], gone: set[int]) -> None:
    operands = [v for k, v in enumerate(graph.operands(node)) if k not in gone]
    new = graph.add(op, *operands, name=f"{node.name}.trimmed", before=node)
    kept = [r for r in range(len(node.results)) if r not in dead]
    for place, r in enumerate(kept):
        graph.replace_all_uses(node[r], new[place])
    name = node.name
    graph.erase(node)
    graph.rename(new, name)


# ---- short loops ---------------------------------------------------------------------------------


@register_pass
@dataclass(frozen=True)
class Unroll(Pass):
    """A loop of a known number of iterations, at most `trips`, becomes that many copies of its
    body, if these have at most `nodes` nodes together.
    """

    name = "unroll"
    bound = Exact()
    seeds = (seeds.LOOP,)
    families = ("control",)
    nested = True
    trips: int = 4
    nodes: int = 1000

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for node in list(graph.of(Loop)):
            why = self._unfit(graph, node)
            if why is not None:
                outcome.missed(node, why)
            elif context.gate(self.name, node.name):
                _unroll(graph, node)
                outcome.count("unrolled")
        return outcome

    def _unfit(self, graph: Graph, node: Node) -> str | None:
        op = node.op
        assert isinstance(op, Loop)
        trips = op.count(*([*graph.abstracts(node), None, None][:2]))
        if not isinstance(trips, int) or (trips == 0 and len(node.results) > op.carried):
            return "the number of iterations is not known"
        if trips > self.trips or trips * len(op.body) > self.nodes:
            return f"{trips} iterations of {len(op.body)} nodes are too many"
        return None


def _unroll(graph: Graph, node: Node) -> None:
    op = node.op
    assert isinstance(op, Loop)
    values = [v for v in graph.operands(node)[2:] if v is not None]
    carried, captures = values[: op.carried], values[op.carried :]
    number, flag = ((1,) if n.type.shape else () for n in op.body.inputs[:2])
    b: Any = Builder(graph, before=node)
    trips = op.count(*([*graph.abstracts(node), None, None][:2]))
    assert isinstance(trips, int)
    scans: list[list[Value]] = [[] for _ in range(len(node.results) - op.carried)]
    goes_on = b.constant(np.ones(flag, bool))

    def add(inner: Op, *operands: Value, name: str) -> Value:
        return graph.add(inner, *operands, name=f"{node.name}/{name}", before=node)[0]

    for i in range(trips):
        inputs = [b.constant(np.full(number, i, np.int64)), goes_on, *carried, *captures]
        goes_on, *made = _inline(op.body, inputs, add)
        carried = made[: op.carried]
        for scan, value in zip(scans, made[op.carried :]):
            scan.append(b.unsqueeze(value, np.array([0])))
    results = [*carried, *(b.concat(*s, axis=0) for s in scans)]
    for old, new in zip(range(len(node.results)), results):
        graph.replace_all_uses(node[old], new)
    erase_dead(graph, [node])

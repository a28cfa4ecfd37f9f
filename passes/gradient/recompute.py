"""Activations computed anew in the backward part of a graph rather than kept from the forward one.

T. Chen, B. Xu, C. Zhang and C. Guestrin, "Training deep nets with sublinear memory cost" (2016):
the forward part is cut into segments; what one segment hands to later ones is kept, the rest is
computed again when the backward part comes to the segment. The last segment is kept whole, since
the backward part starts with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir import Builder, Graph, Node, Value
from ...ir.graph import Order
from ...ir.ops.sizes import Shape_, Size
from ...ir.ops.structure import Input
from ..base import Outcome

PREFIX = "again."
SHAPES = (Shape_, Size)
"""Ops that read a type, for which nothing need be kept."""


@dataclass
class Segment:
    """Nodes in a row of the forward part, and what becomes of their results that are needed."""

    nodes: list[Node]
    kept: set[Value] = field(default_factory=set)
    anew: list[Node] = field(default_factory=list)


def recompute(graph: Graph, start: Order, memory: int = 0) -> Outcome:
    """Recompute activations that nodes after `start` read. Changes no numbers."""
    outcome = Outcome()
    forward = _forward(graph, start)
    if len(forward) < 2:
        outcome.note("there is too little to recompute")
        return outcome
    plan = _fitting(graph, forward, start, memory, outcome) if memory else \
        _plan(graph, forward, start, math.ceil(math.sqrt(len(forward))))  # fmt: skip
    for segment in plan[:-1]:
        _repeat(graph, segment, start, outcome)
    return outcome


def _forward(graph: Graph, start: Order) -> list[Node]:
    """Nodes of the forward part that depend on inputs, in order; their outputs may be large."""
    moving: set[Node] = set()
    made = []
    for node in graph.nodes():
        if node.order > start:
            break
        if isinstance(node.op, Input):
            moving.add(node)
        elif any(p in moving for p in graph.nx.pred[node]):
            moving.add(node)
            made.append(node)
    return made


def _plan(graph: Graph, forward: Sequence[Node], start: Order, count: int) -> list[Segment]:
    """`count` segments of about as many nodes each, and what they keep and compute anew."""
    cuts = [i * len(forward) // count for i in range(count + 1)]
    segments = [Segment(list(forward[i:j])) for i, j in itertools.pairwise(cuts)]
    for segment in segments:
        _settle(graph, segment, start)
    return segments


def _settle(graph: Graph, segment: Segment, start: Order) -> None:
    inside = set(segment.nodes)
    needed: set[Node] = set()
    for node in reversed(segment.nodes):
        for i in range(len(node.results)):
            users = [u.node for u in graph.uses(node[i]) if not isinstance(u.node.op, SHAPES)]
            if any(u not in inside and not u.order > start for u in users) or graph.is_output(
                node[i]
            ):
                segment.kept.add(node[i])
            elif any(u in needed or u.order > start for u in users):
                needed.add(node)
    segment.anew = [n for n in segment.nodes if n in needed]


def _nbytes(value: Value) -> int:
    """Bytes of a value, a dimension that is not known counted as 1."""
    shape = value.shape or ()
    return math.prod(d if isinstance(d, int) else 1 for d in shape) * \
        value.type.dtype.numpy.itemsize  # fmt: skip


def _peak(plan: Sequence[Segment]) -> int:
    """Bytes of activations that are held at most: all that is kept, and one segment's."""
    kept = sum(_nbytes(v) for s in plan for v in s.kept)
    anew = [sum(_nbytes(n[i]) for n in s.anew for i in range(len(n.results)) if n[i] not in s.kept)
            for s in plan]  # fmt: skip
    return kept + max(anew, default=0)


def _fitting(
    graph: Graph, forward: Sequence[Node], start: Order, memory: int, outcome: Outcome
) -> list[Segment]:
    """The plan of the fewest segments that stays below `memory`, or the smallest there is."""
    best: list[Segment] = []
    for count in range(1, len(forward) + 1):
        plan = _plan(graph, forward, start, count)
        if not best or _peak(plan) < _peak(best):
            best = plan
        if _peak(best) <= memory:
            break
    if _peak(best) > memory:
        outcome.missed("", f"activations take {_peak(best)} bytes at least, over {memory}")
    outcome.note(f"activations take {_peak(best)} bytes in {len(best)} segments")
    return best


def _repeat(graph: Graph, segment: Segment, start: Order, outcome: Outcome) -> None:
    """Copy the nodes to be computed anew to where the backward part first needs one of them, and
    let it read the copies."""
    late = {n: [u for i in range(len(n.results)) if n[i] not in segment.kept
                for u in graph.uses(n[i]) if _is_late(u.node, start)]
            for n in segment.anew}  # fmt: skip
    users = [u.node for uses in late.values() for u in uses]
    if not users:
        return
    b = Builder(graph, before=min(users, key=lambda n: n.order), prefix=PREFIX)
    here: dict[Value, Value] = {}  # copies, and what stands behind a barrier
    for node in segment.anew:
        operands = _stands(b, graph.operands(node), here)
        copy = graph.add(node.op, *operands, name=f"{PREFIX}{node.name}", before=b.before)
        here.update({node[i]: copy[i] for i in range(len(node.results))
                     if node[i] not in segment.kept})  # fmt: skip
        outcome.count("recomputed")
    for node, uses in late.items():
        for use in uses:
            value = graph.operand(use.node, use.position)
            assert value is not None and value.node is node
            graph.set_operand(use.node, use.position, here[value])


def _is_late(node: Node, start: Order) -> bool:
    """Whether a node of the backward part needs its operands' elements."""
    return start < node.order < (math.inf,) and not isinstance(node.op, SHAPES)


def _stands(
    b: Builder, operands: Sequence[Value | None], here: dict[Value, Value]
) -> list[Value | None]:
    """What a copy reads: other copies, and what is kept behind barriers. A graph's inputs, weights
    among them, need none where another operand tells the copy from the first computation.
    """

    def is_free(v: Value | None) -> bool:
        return v is None or v.array is not None or isinstance(v.node.op, Input)

    for v in operands:
        if v is not None and v not in here and not is_free(v):
            here[v] = b.optimization_barrier(v)
    if not any(v in here for v in operands):
        first = next(v for v in operands if v is not None and v.array is None)
        here[first] = b.optimization_barrier(first)
    return [v if v is None else here.get(v, v) for v in operands]

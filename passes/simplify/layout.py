"""Transposes moved through whole regions of element-wise ops, where that leaves fewer of them.

A region is a connected set of element-wise ops (and concatenations) of one rank. In front of it
and behind it stand transposes, or not. For each order of axes that occurs there, count how many
transposes would be needed if the region worked in that order; if the best is better than now, the
region is rebuilt in it. Each node lies in one region, so the work is linear, and as the count
strictly falls nothing is moved to and fro.

    transpose(relu(transpose(x, p)), p^-1)  ->  relu(x)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ...ir import Graph, Node, Value
from ...ir.ops.joining import Concat
from ...ir.ops.shape import Transpose
from ..base import Outcome
from ..context import Context
from ..rewrite import erase_dead
from .reshaping import compose, inverse, perm_of
from .unary import operand_kinds

Perm = tuple[int, ...]


@dataclass
class Region:
    rank: int
    nodes: list[Node] = field(default_factory=list)
    inputs: dict[Value, Perm | None] = field(default_factory=dict)  # perm if it is a transpose's
    removable: set[Value] = field(default_factory=set)  # transposes that only the region reads
    outputs: dict[Value, None] = field(default_factory=dict)
    behind: dict[Node, tuple[Value, Perm]] = field(default_factory=dict)  # transposes of outputs
    plain: set[Value] = field(default_factory=set)  # outputs that something else reads too


def move_transposes(graph: Graph, context: Context) -> Outcome:
    """Rebuild every region that gains by it."""
    outcome = Outcome()
    if next(graph.of(Transpose), None) is None:
        return outcome
    for region in regions(graph):
        survey(graph, region)  # only now: the regions before it may have changed its border
        best = best_order(region)
        if best is None:
            continue
        perm, saved = best
        if not context.gate("motion/layout", region.nodes[0].name):
            continue
        rebuild(graph, region, perm)
        outcome.count("moved", len(region.nodes))
        outcome.remark("applied", region.nodes[0].name,
                       f"{len(region.nodes)} ops work in order {list(perm)}: {saved} transposes "
                       "fewer")  # fmt: skip
    return outcome


def regions(graph: Graph) -> list[Region]:
    """Connected regions, in topological order of their first nodes."""
    nodes = [n for n in graph.nodes() if movable(graph, n)]
    inside = set(nodes)
    found: list[Region] = []
    seen: set[Node] = set()
    for start in nodes:
        if start in seen:
            continue
        region, stack = Region(start.type.rank), [start]
        seen.add(start)
        while stack:
            node = stack.pop()
            region.nodes.append(node)
            near = [v.node for v in full_operands(graph, node)]
            for other in (*near, *graph.nx.succ[node]):
                if other in inside and other not in seen and other.type.rank == region.rank:
                    seen.add(other)
                    stack.append(other)
        region.nodes.sort(key=lambda n: n.order)
        found.append(region)
    return found


def movable(graph: Graph, node: Node) -> bool:
    """Whether a node does the same in any order of axes, once its operands are in it."""
    shape = node.type.shape if len(node.results) == 1 else None
    if shape is None:
        return False
    if isinstance(node.op, Concat):
        return True
    kinds = operand_kinds(type(node.op))
    if kinds is None:
        return False
    for v, kind in zip(graph.operands(node), kinds):
        if v is None or kind == "scalar" or scalar_like(v):
            continue
        if v.shape is None or (len(v.shape) != len(shape) and v.array is None):
            return False
    return True


def scalar_like(v: Value) -> bool:
    return v.shape is not None and all(d == 1 for d in v.shape)


def full_operands(graph: Graph, node: Node) -> list[Value]:
    """Operands that share the node's order of axes."""
    kinds = operand_kinds(type(node.op)) or ("full",)
    out: list[Value] = []
    for i, v in enumerate(graph.operands(node)):
        kind = kinds[min(i, len(kinds) - 1)]
        if v is not None and kind == "full" and not scalar_like(v) and v.array is None:
            out.append(v)
    return out


def survey(graph: Graph, region: Region) -> None:
    """Fill in what stands at the region's border."""
    inside = set(region.nodes)
    reads: Counter[Node] = Counter()
    for node in region.nodes:
        for v in full_operands(graph, node):
            if v.node in inside:
                continue
            turned = isinstance(v.node.op, Transpose)
            region.inputs[v] = perm_of(v.node.op, v.shape) if turned else None
            reads[v.node] += 1
        for user, edges in graph.nx.succ[node].items():
            if user in inside and all(data["result"] == 0 for data in edges.values()):
                continue
            value = Value(node, 0)
            region.outputs[value] = None
            perm = perm_of(user.op, node.type.shape) if isinstance(user.op, Transpose) else None
            if perm is None:
                region.plain.add(value)
            else:
                region.behind[user] = (value, perm)
    for v, perm in region.inputs.items():
        total = sum(len(edges) for edges in graph.nx.succ[v.node].values())
        if perm is not None and total == reads[v.node]:
            region.removable.add(v)


def best_order(region: Region) -> tuple[Perm, int] | None:
    """(order, transposes saved): the region is to compute what `transpose(., order)` then gives.

    None if it is best as it is.
    """
    identity = tuple(range(region.rank))
    now = len(region.removable) + len(region.behind)
    candidates = dict.fromkeys(p for p in region.inputs.values() if p is not None)
    candidates |= dict.fromkeys(inverse(q) for _, q in region.behind.values())
    best: tuple[Perm, int] | None = None
    for perm in list(candidates)[:16]:
        needed = sum(p != perm for p in region.inputs.values()) + len(region.plain)
        needed += sum(compose(perm, q) != identity for _, q in region.behind.values())
        if needed < now and (best is None or now - needed > best[1]):
            best = perm, now - needed
    return best


def rebuild(graph: Graph, region: Region, perm: Perm) -> None:
    """Put `transpose(region in the other order, perm)` in the region's place."""
    back = inverse(perm)
    made: dict[Value, Value] = {}
    for v, order in region.inputs.items():
        if order == perm:
            source = graph.operand(v.node, 0)
            assert source is not None
            made[v] = source
    for node in region.nodes:
        op = node.op
        if isinstance(op, Concat):
            op = op.replace(axis=perm[op.axis % region.rank])
        kinds = operand_kinds(type(node.op)) or ("full",)
        operands: list[Value | None] = []
        for i, v in enumerate(graph.operands(node)):
            full = kinds[min(i, len(kinds) - 1)] == "full"
            if v is None or not full or scalar_like(v):
                operands.append(v)
                continue
            if v not in made:
                made[v] = reordered(graph, v, back, region.rank, node)
            operands.append(made[v])
        made[Value(node, 0)] = graph.add(op, *operands, name=f"{node.name}.moved", before=node)[0]
    renamed: list[tuple[Node, str]] = []
    for user, (value, after) in region.behind.items():
        joined = compose(perm, after)
        if list(joined) == sorted(joined):
            new = made[value]
        else:
            turn, name = Transpose(joined), f"{user.name}.moved"
            new = graph.add(turn, made[value], name=name, before=user)[0]
            renamed.append((new.node, user.name))
        graph.replace_all_uses(user, new)
        graph.erase(user)
    for value in region.plain:
        node = graph.add(Transpose(perm), made[value], name=f"{value.node.name}.back",
                         before=value.node)  # fmt: skip
        graph.replace_all_uses(value, node)
        renamed.append((node, value.node.name))
    erase_dead(graph, region.nodes)
    for node, name in renamed:
        if graph.find(name) is None:
            graph.rename(node, name)


def reordered(graph: Graph, v: Value, back: Perm, rank: int, before: Node) -> Value:
    """`v` in the region's new order: a constant at once, anything else by a transpose."""
    if v.array is not None:
        array = v.array.reshape((1,) * (rank - v.array.ndim) + v.array.shape)
        turned = np.ascontiguousarray(np.transpose(array, back))
        return graph.constant(turned, f"{v.node.name}.moved", before=before)
    return graph.add(Transpose(back), v, name=f"{v.node.name}.moved", before=before)[0]

"""Groups of element-wise ops, reductions and data movement, each made one `fusion`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ir import Builder, Graph, Node, Trait, Value
from ...ir.analysis.index import NotNest
from ...ir.analysis.nest import MAX_NODES, Nest
from ...ir.analysis.nest_rules import MOVED, computes
from ...ir.analysis.trace import trace
from ...ir.inline import inline
from ...ir.machine import Machine
from ...ir.ops.elementwise import Mul
from ...ir.ops.fusion import Fusion
from ...ir.ops.joining import Concat
from ...ir.ops.quantization import DequantizeLinear
from ...ir.ops.shape import Cast
from ...ir.ops.structure import Constant, Input
from ..base import Exact, Outcome, Pass, register_pass
from ..context import Context
from . import cost, seeds
from .clusters import Clusters
from .extents import Extents

SMALL = 16  # elements of a constant that goes into the bodies that read it
WORTH_TELLING = 2e-6  # seconds: what a refused group would have saved, to be remarked on


@register_pass
@dataclass(frozen=True)
class FuseAuto(Pass):
    """Groups that one loop nest computes, found by what they save: bytes of intermediate tensors
    that need not be written and read, and launches.

    Legal where the group is a loop nest (`ir.analysis.nest`): element-wise ops, reductions over one
    set of axes, and data movement that is affine in the nest's axes; shapes are proven equal; and
    no path leads out of the group and back in. The ops stay as they are, in the body of a `fusion`.
    """

    name = "fuse-auto"
    bound = Exact()
    families = ("fusible",)
    largest: int = 40

    def run(self, graph: Graph, context: Context) -> Outcome:
        largest = min(self.largest, MAX_NODES)
        finder = Finder(graph, Extents(graph), Clusters(graph), largest, context.target)
        finder.run()
        outcome = Outcome()
        for members in finder.groups():
            head = members[-1]
            if context.gate(self.name, head.name):
                saved = finder.saved(members)
                made = fuse(graph, members)
                what = f"{len(members)} ops, {saved} bytes less through memory: "
                outcome.applied("fused", made, what + ", ".join(n.name for n in members))
        for node, reason in finder.missed.items():
            outcome.missed(node, reason)
        return outcome


@register_pass
@dataclass(frozen=True)
class InlineFusions(Pass):
    """Every `fusion` taken apart again into the ops of its body. The inverse of `fuse-auto`."""

    name = "inline-fusions"
    bound = Exact()
    seeds = (seeds.GROUP,)

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for node in list(graph.of(Fusion)):
            if context.gate(self.name, node.name):
                outcome.applied("inlined", node)
                inline(graph, node)
        return outcome


@dataclass
class Finder:
    """Grows clusters node by node, in topological order."""

    graph: Graph
    extents: Extents
    clusters: Clusters
    largest: int
    machine: Machine
    missed: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        for node in self.graph.nodes():
            if self.joins(node):
                for value in self.graph.operands(node):
                    if value is not None:
                        self._consider(node, value)

    def joins(self, node: Node) -> bool:
        """Whether a node may be computed in a loop nest."""
        if not computes(node.op) or not self.graph.nx.succ[node]:
            return False
        return not self._static(node) and not self._epilogue(node)

    def groups(self) -> list[list[Node]]:
        """Clusters of more than one op, in order of their last nodes."""
        found = [sorted(m, key=lambda n: n.order) for m in self.clusters.members.values()
                 if len(m) > 1]  # fmt: skip
        return sorted(found, key=lambda m: m[-1].order)

    def _static(self, node: Node) -> bool:
        """Whether it reads constants only, which folding or the backend computes beforehand."""
        operands = [v for v in self.graph.operands(node) if v is not None]
        return all(v.array is not None for v in operands)

    def _epilogue(self, node: Node) -> bool:
        """Whether it is what turns an integer product into numbers, as backends fuse it."""
        if isinstance(node.op, Mul):
            return any(v is not None and isinstance(v.node.op, Cast) and self._epilogue(v.node)
                       for v in self.graph.operands(node))  # fmt: skip
        first = self.graph.operand(node, 0)
        return (
            isinstance(node.op, DequantizeLinear | Cast)
            and first is not None
            and Trait.INTEGER_PRODUCT in first.node.op.traits
            and first.type.dtype.is_integer
        )

    # ---- one operand ---------------------------------------------------------------------------

    def _consider(self, node: Node, value: Value) -> None:
        """Join a node with the group that computes an operand, and what moves it in between."""
        moves, sources = self._behind(value)
        if not sources:
            return
        here = self.clusters.of[node]
        parts = {here, *(self.clusters.of[n] for n in (*moves, *sources))}
        if len(parts) == 1:
            return
        reason, seconds = self._try(parts)
        if not reason:
            self.clusters.join(parts)
        elif seconds >= WORTH_TELLING:
            others = ", ".join(dict.fromkeys(n.name for n in sources))
            self.missed.setdefault(node.name, f"not fused with {others}: {reason}")

    def _behind(self, value: Value) -> tuple[list[Node], list[Node]]:
        """What only moves a value's elements, and the nodes that compute them."""
        moves, sources, todo = [], [], [value]
        while todo:
            v = todo.pop()
            if v.array is not None or isinstance(v.node.op, Input):
                continue
            if isinstance(v.node.op, MOVED):
                if self.graph.use_count(v) > 1 and len(v.node.results) == 1:
                    sources += self._moved_source(v)
                    continue
                moves.append(v.node)
                data = self.graph.operands(v.node)
                todo += [x for x in (data if isinstance(v.node.op, Concat) else data[:1]) if x]
            elif self.joins(v.node):
                sources.append(v.node)
        return moves, sources

    def _moved_source(self, value: Value) -> list[Node]:
        """A movement that several nodes read belongs to a group already, or to none."""
        return [value.node] if len(self.clusters.members[self.clusters.of[value.node]]) > 1 else []

    def _try(self, parts: set[int]) -> tuple[str, float]:
        """Why these clusters should not be one ("" if they should), and the seconds at stake."""
        members = set[Node]().union(*(self.clusters.members[c] for c in parts))
        saved = self._saved(members, parts)
        verdict = cost.Verdict(saved / self.machine.bytes_per_second)
        if len(members) > self.largest:
            return f"the group would have over {self.largest} ops", verdict.seconds
        try:
            nests = self._nests(members)
        except NotNest as refusal:
            return str(refusal), verdict.seconds
        if self.clusters.closes_cycle(parts):
            return "a path leads out of the group and back in", verdict.seconds
        verdict = cost.judge(nests, saved, self.machine)
        return verdict.reason, verdict.seconds

    def _nests(self, members: set[Node]) -> list[Nest]:
        return trace(self.graph, members, list(self._results(members)), self._shape)

    def _shape(self, value: Value):
        return self.extents.of(value) if value.index == 0 else value.shape

    def _results(self, members: set[Node]) -> Iterator[Value]:
        return results_of(self.graph, members)

    def _saved(self, members: set[Node], parts: set[int]) -> int:
        """Bytes that need not move: of values that cross from one part to another, those read, and
        those written where nothing else reads them."""
        total = 0
        outside = set(self._results(members))
        for part in parts:
            for v in self._results(self.clusters.members[part]):
                if not any(u.node in members and self.clusters.of[u.node] != part
                           for u in self.graph.uses(v)):  # fmt: skip
                    continue
                shape = self._shape(v)
                size = 0 if shape is None else cost.nbytes(shape, v.type.dtype)
                total += size if v in outside else 2 * size
        return total

    def saved(self, members: list[Node]) -> int:
        """Bytes that need not move since a whole group is one."""
        inside = set(members)
        outside = set(self._results(inside))
        total = 0
        for v in (n[i] for n in members for i in range(len(n.results))):
            readers = sum(u.node in inside for u in self.graph.uses(v))
            shape = self._shape(v)
            if readers and shape is not None:
                size = cost.nbytes(shape, v.type.dtype)
                total += size * (readers + (v not in outside))
        return total


def results_of(graph: Graph, members: set[Node]) -> Iterator[Value]:
    """Values of these nodes that others read, in order."""
    for node in sorted(members, key=lambda n: n.order):
        for i in range(len(node.results)):
            if any(u.node not in members for u in graph.uses(node[i])):
                yield node[i]


def fuse(graph: Graph, members: list[Node]) -> Node:
    """Put a `fusion` in the place of these nodes, which must be convex and in order.

    Small constants become part of its body; whatever else is read from outside is an operand. It
    has the name of its first result.
    """
    inside = set(members)
    outputs = list(results_of(graph, inside))
    b = Builder()
    there: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in members:
        for v in graph.operands(node):
            if v is None or v in there or v.node in inside:
                continue
            if isinstance(v.node.op, Constant) and v.node.op.value.size <= SMALL:
                there[v] = b.graph.constant(v.node.op.value, v.node.name)
            else:
                there[v] = b.graph.add_input(b.graph.fresh(v.node.name), v.type)[0]
                operands.append(v)
    for node in members:
        read = [None if v is None else there[v] for v in graph.operands(node)]
        copy = b.graph.add(node.op, *read, name=node.name)
        there.update({node[i]: copy[i] for i in range(len(node.results))})
    b.graph.set_outputs({f"y{i}": there[v] for i, v in enumerate(outputs)})
    name = outputs[0].node.name
    fusion = graph.add(Fusion(body=b.graph), *operands, name="fusion", before=members[-1])
    for i, v in enumerate(outputs):
        graph.replace_all_uses(v, fusion[i])
    for node in reversed(members):
        graph.erase(node)
    for v in there:
        if isinstance(v.node.op, Constant) and v.node in graph and not graph.nx.succ[v.node]:
            graph.erase(v.node)
    graph.rename(fusion, name)
    return fusion

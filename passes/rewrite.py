"""Rewriting: rules written as patterns, applied greedily to a fixed point.

    class FoldBatchNorm(Rewrite):
        '''bn(conv(x, w)) -> conv(x, w * s) + (bias - mean * s),  s = scale / sqrt(var + eps)'''
        def pattern(self, p, x, w, scale, bias, mean, var):
            conv = p.conv(x, p.const(w), uses=1, into="conv")
            return p.batch_normalization(conv, p.const(scale), ...)
        def check(self, m):
            return m.fail("weight is shared", m.w) if m.uses(m.w) > 1 else m.ok
        def rewrite(self, b, m): ...

The greedy worklist is that of MLIR's GreedyPatternRewriteDriver; here it is bounded, re-enqueues
only neighbours, and keeps the reason for each near miss.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from ..ir import Array, Builder, Graph, Node, Op, PassError, RankUnknown, TautError, Value
from ..ir.graph import Like, as_value
from ..ir.op import declared
from ..ir.ops.structure import Constant, Input
from .base import Outcome
from .context import Context
from .pattern import (
    Operands,
    Pattern,
    PatternBuilder,
    at_root,
    build,
    depth,
    roots,
    solutions,
    uniform,
    variables,
)

MAX_MISSES = 5_000
MAX_NEIGHBOURS = 256


class Failure(NamedTuple):
    """Why a rule does not apply, and the node that is to blame."""

    reason: str
    node: str


class Match:
    """What a pattern found. Variables are attributes: Values, Nodes for `into=`, tuples for
    `p.rest`, None in an optional operand that is left out or a choice that was not taken.
    """

    ok: ClassVar[None] = None

    def __init__(
        self, graph: Graph, root: Node, bound: dict[str, Any], names: frozenset[str] = frozenset()
    ) -> None:
        self.graph, self.root, self._bound, self._names = graph, root, bound, names

    def __getattr__(self, name: str) -> Any:
        if name in self._bound:
            return self._bound[name]
        if name in self._names:
            return None
        raise AttributeError(f"the pattern binds no {name}")

    @property
    def op(self) -> Any:
        """The root's op."""
        return self.root.op

    def fail(self, reason: str, at: Like | None = None) -> Failure:
        node = self.root if at is None else as_value(at).node
        return Failure(reason, node.name)

    def uses(self, what: Like, stop: int = 16) -> int:
        """Uses of a node's results, counted up to `stop`."""
        return count_uses(self.graph, as_value(what).node, stop)

    def array(self, value: Value | None) -> Array | None:
        """A constant's array."""
        return None if value is None else value.array

    def number(self, value: Value) -> float | None:
        """The number that every element of a constant is."""
        return None if value.array is None else uniform(value.array)

    def same_type(self, x: Value, y: Like | None = None) -> bool:
        """Whether `y` (the root) has the type of `x`, of a known rank: the constants between them
        then broaden nothing. Two tensors of unknown rank have one type and may differ."""
        made = self.root if y is None else as_value(y)
        return x.type == made.type and x.shape is not None

    def keeps_type(self, value: Value) -> bool:
        """Whether `value` has the root's element type and certainly its shape."""
        a, b = value.type, self.root.type
        return a == b and a.shape is not None and None not in a.shape


class RewriteBuilder(Builder):
    """A Builder whose nodes stand before the root and can be taken back."""

    def __init__(self, graph: Graph, before: Node) -> None:
        super().__init__(graph, before=before)
        self.made: list[Node] = []
        self.wished: list[tuple[Node, str]] = []

    def constant(self, value: Any, name: str | None = None) -> Value:
        made = super().constant(value, name)
        self.made.append(made.node)
        if name is not None and made.node.name != name:
            self.wished.append((made.node, name))
        return made

    def __getattr__(self, op_name: str) -> Any:
        add = super().__getattr__(op_name)

        def recorded(*operands: Any, **attributes: Any) -> Any:
            made = add(*operands, **attributes)
            self.made.append((made if isinstance(made, Value) else made[0]).node)
            return made

        return recorded

    def node(self, op: Op, *operands: Like | None, name: str | None = None) -> Value:
        """Add a node of this op, attributes and all; gives its first result."""
        made = self.graph.add(op, *operands, name=name, before=self.before)
        self.made.append(made)
        return made[0]

    def take_back(self) -> None:
        for node in reversed(self.made):
            if node in self.graph.nx:
                self.graph.erase(node)
        self.made.clear()


class Rewrite:
    """A rule. The docstring is its algebra; it must be right whenever `check` says ok."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def pattern(self, p: PatternBuilder, *variables: Any) -> Pattern:
        raise NotImplementedError

    def check(self, m: Match) -> Failure | None:
        """`m.ok`, or `m.fail(reason, node)` with a reason worth telling."""
        return m.ok

    def applies(self, m: Match) -> bool:
        """Like `check`, for conditions that are not worth a remark."""
        return True

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | tuple[Value, ...] | None:
        """Build the replacement of the root's result(s). None takes everything back."""
        raise NotImplementedError


_patterns: WeakKeyDictionary[type[Rewrite], tuple[int, Pattern]] = WeakKeyDictionary()


def pattern_of(rule: Rewrite) -> Pattern:
    """The rule's pattern: built once for a rule that has no settings, until an op is declared."""
    known = _patterns.get(type(rule))
    if known is not None and known[0] == declared() and not vars(rule):
        return known[1]
    made = build(rule.pattern)
    if not vars(rule):
        _patterns[type(rule)] = declared(), made
    return made


class _Rule(NamedTuple):
    rule: Rewrite
    pattern: Pattern
    names: frozenset[str]


def apply_rewrites(
    graph: Graph,
    rules: Iterable[Rewrite],
    context: Context,
    *,
    who: str = "rewrite",
    limit: int | None = None,
    start: Sequence[Node] | None = None,
) -> Outcome:
    """Apply rules to a fixed point, visiting nodes in topological order, then only neighbours of
    what changed. `limit` bounds the number of rewrites (by default 20 for each node).

    Raises PassError for a rule that undoes itself or breaks the graph.
    """
    return _Driver(graph, rules, context, who, limit).run(start)


class _Driver:
    def __init__(
        self, graph: Graph, rules: Iterable[Rewrite], context: Context, who: str, limit: int | None
    ) -> None:
        self.graph, self.context, self.who = graph, context, who
        self.limit = 20 * len(graph) + 100 if limit is None else limit
        self.outcome = Outcome()
        self.by_op: dict[type[Op], list[_Rule]] = {}
        self.reach = 1
        for rule in rules:
            pattern = pattern_of(rule)
            names = frozenset(variables(pattern))
            context.rewrites.setdefault(f"{who}/{rule.name}", rule)
            self.reach = max(self.reach, depth(pattern))
            for cls in roots(pattern):
                made = _Rule(rule, at_root(pattern, cls), names)
                self.by_op.setdefault(cls, []).append(made)
        self.read = Operands(graph)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        self.misses: dict[Node, dict[str, Failure]] = {}
        self.refused: set[tuple[str, Node]] = set()
        self.lineage: dict[Node, int] = {}
        self.seen: dict[int, set[int]] = {}
        self.applied = 0

    def run(self, start: Sequence[Node] | None) -> Outcome:
        for node in self.graph.nodes() if start is None else start:
            self.enqueue(node)
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node in self.graph.nx and self.graph.nx.succ[node]:
                if self.applied >= self.limit:
                    self.outcome.note(f"stopped after {self.applied} rewrites, the limit")
                    break
                self.visit(node)
        for node, failures in self.misses.items():
            if node in self.graph.nx:
                for rule, failure in failures.items():
                    self.outcome.missed(failure.node, f"{rule}: {failure.reason}")
        return self.outcome

    def enqueue(self, node: Node) -> None:
        if node not in self.queued and type(node.op) in self.by_op:
            self.queued.add(node)
            self.queue.append(node)

    def visit(self, node: Node) -> None:
        self.misses.pop(node, None)
        for known in self.by_op.get(type(node.op), ()):
            if (known.rule.name, node) in self.refused:
                continue
            found = self.find(known, node)
            if found is not None and self.apply(known.rule, found):
                return

    def find(self, known: _Rule, node: Node) -> Match | None:
        """The first way the pattern matches that passes every check. A check that asks for a rank
        that is not known has not passed."""
        rule, pattern, names = known
        first: Failure | None = None
        for bound, nodes in solutions(self.read, pattern, node):
            m = Match(self.graph, node, bound, names)
            try:
                if not rule.applies(m):
                    continue
                failure = self.too_many_uses(nodes, node) or rule.check(m)
            except RankUnknown as error:
                failure = Failure(error.message, node.name)
            except Exception as error:
                raise self.wrapped(error, rule, node) from error
            if failure is None:
                return m
            first = first or failure
        if first is not None and len(self.misses) < MAX_MISSES:
            self.misses.setdefault(node, {})[rule.name] = first
        return None

    def too_many_uses(self, nodes: list[tuple[Node, int | None]], root: Node) -> Failure | None:
        for node, wanted in nodes:
            if wanted is not None and node is not root:
                uses = count_uses(self.graph, node, wanted + 99)
                if uses != wanted:
                    return Failure(f"{node.op.name} has {uses} uses", node.name)
        return None

    def apply(self, rule: Rewrite, m: Match) -> bool:
        graph, root = self.graph, m.root
        if not self.context.gate(f"{self.who}/{rule.name}", root.name):
            self.refused.add((rule.name, root))
            return False
        b = RewriteBuilder(graph, root)
        try:
            made = self.made(rule, b, m)
            if made is None:
                b.take_back()
                return False
            values = made if type(made) is tuple else (made,)
            self.refuse_loop(rule, root, values[0], b)  # type: ignore[arg-type]
            below = [u.node for i in range(len(root.results)) for u in graph.uses(root[i])]
            for i, v in enumerate(values):
                graph.replace_all_uses(root[i], v)  # type: ignore[arg-type]
        except Exception as error:
            raise self.wrapped(error, rule, root) from error
        first: Value = values[0]  # type: ignore[assignment]
        name = root.name
        self.clean(root)
        if first.node in b.made and graph.find(name) is None:
            graph.rename(first.node, name)  # it computes what had this name
        for node, wish in b.wished:
            if node in graph.nx and graph.find(wish) is None:
                graph.rename(node, wish)
        self.applied += 1
        self.outcome.count(rule.name)
        if self.context.watch is not None:
            self.context.watch(f"{self.who}/{rule.name}", name)
        for node in b.made:
            if node in graph.nx:
                self.enqueue(node)
        self.enqueue_above(below)
        return True

    def made(self, rule: Rewrite, b: RewriteBuilder, m: Match) -> Any:
        """What the rule makes; None, as where it gives up, if it asks for a rank not known."""
        try:
            return rule.rewrite(b, m)
        except RankUnknown:
            return None

    def refuse_loop(self, rule: Rewrite, root: Node, value: Value, b: RewriteBuilder) -> None:
        """Raise where a place takes a form that it has had before."""
        if value.node is root:
            raise PassError("the rewrite gives back its own root")
        if value.node not in b.made:
            return
        line = self.lineage.pop(root, None)
        if line is None:
            line = len(self.seen)
            self.seen[line] = {self.form(root, ())}
        form = self.form(value.node, b.made)
        if form in self.seen[line]:
            raise PassError("the rewrites undo each other: this node has been so before",
                            hint="a rule must make the graph smaller or simpler")  # fmt: skip
        self.seen[line].add(form)
        self.lineage[value.node] = line

    def form(self, node: Node, new: Sequence[Node]) -> int:
        """A hash of a node's op and operands; those of new operands are unfolded."""
        operands = []
        for v in self.graph.operands(node):
            if v is None:
                operands.append(0)
            elif isinstance(v.node.op, Constant) and v.node.op.value.size <= 64:
                operands.append(hash(v.node.op.key()))
            elif v.node in new:
                operands.append(hash((self.form(v.node, new), v.index)))
            else:  # not id(): an erased node's may come again
                operands.append(hash((v.node.order, v.index)))
        return hash((node.op.key(), tuple(operands)))

    def clean(self, root: Node) -> None:
        """Erase the root and what only it read; look again at what now has fewer uses."""
        freed: list[Node] = []
        for node in erase_dead(self.graph, [root], freed):
            self.misses.pop(node, None)
            self.lineage.pop(node, None)
        for node in freed:
            if node in self.graph.nx and not isinstance(node.op, Constant):
                self.enqueue(node)
                if count_uses(self.graph, node, 3) <= 2:
                    self.enqueue_above(list(self.graph.nx.succ[node]))

    def enqueue_above(self, nodes: list[Node]) -> None:
        """Users, and users of users, as far as a pattern can look down."""
        level, count = nodes, 0
        for _ in range(self.reach):
            following: list[Node] = []
            for node in level:
                if node in self.graph.nx:
                    self.enqueue(node)
                    following += self.graph.nx.succ[node]
            count += len(level)
            level = following
            if count > MAX_NEIGHBOURS:
                return

    def wrapped(self, error: Exception, rule: Rewrite, root: Node) -> TautError:
        where = f"{self.who}, rule {rule.name}"
        if isinstance(error, PassError):
            error.message = f"{where}: {error.message}"
            return error.with_context(node=root.name, op=root.op.name)
        what = error.message if isinstance(error, TautError) else repr(error)
        return PassError(f"{where} failed: {what}", node=root.name, op=root.op.name)


def count_uses(graph: Graph, node: Node, stop: int) -> int:
    """Uses of any result of a node, counted no further than `stop`."""
    count = 0
    for edges in graph.nx.succ[node].values():
        count += len(edges)
        if count >= stop:
            break
    return count


def erase_dead(
    graph: Graph, candidates: Sequence[Node], freed: list[Node] | None = None
) -> list[Node]:
    """Erase those of `candidates` that nothing reads, then what only they read; returns them.

    Inputs stay: they are the graph's signature. `freed` collects operands that live on.
    """
    stack, gone = list(candidates), []
    while stack:
        node = stack.pop()
        if node not in graph.nx or node is graph.result or isinstance(node.op, Input):
            continue
        if graph.nx.succ[node]:
            continue
        above = list(graph.nx.pred[node])
        graph.erase(node)
        gone.append(node)
        for other in above:
            if graph.nx.succ[other]:
                if freed is not None:
                    freed.append(other)
            else:
                stack.append(other)
    return gone


__all__ = [
    "Failure", "Match", "Pattern", "PatternBuilder", "Rewrite", "RewriteBuilder",
    "apply_rewrites", "count_uses", "erase_dead", "uniform",
]  # fmt: skip

"""The dataflow graph: one networkx MultiDiGraph is its only store.

A graph node is a `Node`; an edge (producer, consumer, key = operand position, result = result
index) is a use. Everything that changes the graph goes through the methods here, which keep it
acyclic, typed and uniquely named.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import networkx as nx
import numpy as np

from .conditions import Condition, condition
from .errors import LimitError, TautError, VerifyError
from .node import Like, NamedOperands, Node, Order, Use, Value, as_value
from .numerics import MOVES, STRUCTURE
from .op import Abstract, Op
from .ops.structure import Constant, Input, Return
from .types import DType, Shape, TensorType

_CONDITIONS = 1000
Edges = Mapping["Node", Mapping[int, Mapping[str, int]]]


@dataclass(frozen=True)
class Signature:
    """Names and types at a graph's boundary."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]


class Graph:
    """A dataflow graph with named inputs and outputs. `graph.nx` is open to any networkx algorithm;
    change it only through the methods here.

    Order: every node has an `order` key, and every edge goes from a smaller to a larger key. So
    sorting by key is a topological order, the same each time, and most cycle checks are one
    comparison.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.nx: nx.MultiDiGraph = nx.MultiDiGraph()
        self.metadata: dict[str, str] = {}
        self.conditions: tuple[Condition, ...] = ()  # what sizes must fulfil; see `require`
        self._names: dict[str, Node] = {}
        self._suffix: dict[str, int] = {}
        self._inputs: list[Node] = []
        self._serial = 0
        self._sorted: list[Node] | None = None
        self.version = 0  # grows with each change; analyses are cached against it
        self.result = Node(Return(()), "return", (), (math.inf,))
        self.nx.add_node(self.result)

    # ---- reading -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<graph {self.name!r} of {len(self)} nodes>"

    def __len__(self) -> int:
        """Number of nodes, the return included."""
        return len(self.nx)

    def __contains__(self, node: object) -> bool:
        return node in self.nx

    def __getitem__(self, name: str) -> Node:
        """The node of this name. Raises KeyError."""
        return self._names[name]

    def find(self, name: str) -> Node | None:
        return self._names.get(name)

    def nodes(self) -> list[Node]:
        """All nodes in topological order (the return last), safe to change the graph under."""
        if self._sorted is None:
            self._sorted = sorted(self.nx, key=lambda n: n.order)
        return list(self._sorted)

    def of(self, *ops: type[Op]) -> Iterator[Node]:
        """Nodes of these ops in topological order."""
        return (n for n in self.nodes() if isinstance(n.op, ops))

    @property
    def inputs(self) -> list[Node]:
        return list(self._inputs)

    @property
    def outputs(self) -> list[Value]:
        return [v for v in self.operands(self.result) if v is not None]

    @property
    def output_names(self) -> tuple[str, ...]:
        op = self.result.op
        assert isinstance(op, Return)
        return op.names

    @property
    def signature(self) -> Signature:
        return Signature(
            {n.name: n.type for n in self._inputs},
            {name: v.type for name, v in zip(self.output_names, self.outputs)},
        )

    def operands(self, node: Node) -> list[Value | None]:
        """Operands by position; None where an optional one is left out."""
        found: dict[int, Value] = {}
        for producer, edges in self._reads(node).items():
            for position, data in edges.items():
                found[position] = Value(producer, data["result"])
        return [found.get(i) for i in range(max(found, default=-1) + 1)]

    def operands_of(self, node: Node) -> NamedOperands:
        """Operands by their declared names."""
        return NamedOperands(node.op, self.operands(node))

    def operand(self, node: Node, position: int) -> Value | None:
        operands = self.operands(node)
        return operands[position] if position < len(operands) else None

    def uses(self, value: Like) -> list[Use]:
        """Every use of a value, in topological order of the users."""
        value = as_value(value)
        found = [
            Use(user, position)
            for user, edges in self._readers(value.node).items()
            for position, data in edges.items()
            if data["result"] == value.index
        ]
        return sorted(found, key=lambda u: (u.node.order, u.position))

    def use_count(self, value: Like) -> int:
        value = as_value(value)
        return sum(
            data["result"] == value.index
            for edges in self.nx.succ[value.node].values()
            for data in edges.values()
        )

    def users(self, node: Node) -> list[Node]:
        """Nodes that read any result of this node, each once, in topological order."""
        return sorted(self.nx.succ[node], key=lambda n: n.order)

    def is_output(self, value: Like) -> bool:
        value = as_value(value)
        edges = self.nx.succ[value.node].get(self.result, {})
        return any(data["result"] == value.index for data in edges.values())

    def abstracts(self, node: Node) -> list[Abstract | None]:
        return [None if v is None else v.abstract for v in self.operands(node)]

    @property
    def frontier(self) -> Order:
        """The order of what was added last: nodes added at the end from now on come after it."""
        return (self._serial,)

    # ---- building ------------------------------------------------------------------------------

    def add_input(self, name: str, type: TensorType, *, before: Node | None = None) -> Node:
        """Add an input after the others, in the order of nodes just before `before`.

        Raises VerifyError if the name is taken.
        """
        if name in self._names:
            raise VerifyError(f"the name of input {name!r} is taken", node=name)
        node = self._insert(Input(), name, (Abstract(type),), before)
        self._inputs.append(node)
        return node

    def constant(self, value: Any, name: str | None = None, *, before: Node | None = None) -> Value:
        """Add a constant; `value` is anything NumPy takes and becomes read-only."""
        return self.add(Constant(np.asarray(value)), name=name or "const", before=before)[0]

    def add(
        self,
        op: Op,
        *operands: Like | None,
        name: str | None = None,
        before: Node | None = None,
    ) -> Node:
        """Add a node; types are inferred and checked.

        `name` is made unique by a suffix. With `before`, the node takes its place just before that
        one in the order, which a rewrite needs so that its result can serve the users of `before`.
        Raises VerifyError naming the node and op.
        """
        values = [None if x is None else as_value(x) for x in operands]
        while values and values[-1] is None:
            values.pop()
        name = self.fresh(name or op.name)
        for v in values:
            if v is not None and v.node not in self.nx:
                raise VerifyError("an operand is not in this graph", node=name, op=op.name)
        results = infer(op, [None if v is None else v.abstract for v in values], name)
        if before is not None and any(v and v.node.order >= before.order for v in values):
            raise VerifyError(
                f"an operand comes after {before.name!r}, before which the node was to stand",
                node=name, op=op.name,
            )  # fmt: skip
        node = self._insert(op, name, results, before)
        for position, v in enumerate(values):
            if v is not None:
                self.nx.add_edge(v.node, node, key=position, result=v.index)
        return node

    def set_outputs(self, outputs: Mapping[str, Like] | Sequence[Like]) -> None:
        """Say what the graph returns. A sequence takes the values' node names."""
        if not isinstance(outputs, Mapping):
            values = [as_value(v) for v in outputs]
            names = [v.node.name if v.index == 0 else f"{v.node.name}.{v.index}" for v in values]
            if len(set(names)) < len(names):
                names = [f"{n}.out{i}" for i, n in enumerate(names)]
        else:
            names, values = list(outputs), [as_value(v) for v in outputs.values()]
        for v in values:
            if v.node not in self.nx:
                raise VerifyError("an output is not in this graph", node=v.node.name)
        self.nx.remove_edges_from(list(self.nx.in_edges(self.result, keys=True)))
        self.result.op = Return(tuple(names))
        for position, v in enumerate(values):
            self.nx.add_edge(v.node, self.result, key=position, result=v.index)
        self._changed()

    def fresh(self, name: str) -> str:
        """`name`, or with the first numeric suffix that is free."""
        if name not in self._names:
            return name
        count = self._suffix.get(name, 0)
        while f"{name}_{count}" in self._names:
            count += 1
        self._suffix[name] = count + 1
        return f"{name}_{count}"

    # ---- changing ------------------------------------------------------------------------------

    def replace_all_uses(self, old: Like, new: Like, *, retype: bool = False) -> int:
        """Let every user of `old` (the return too) read `new`. Returns how many uses moved.

        The type must fit; with `retype` it may differ and the users are inferred again.
        """
        old, new = as_value(old), as_value(new)
        if old == new:
            return 0
        if not retype and not old.type.accepts(new.type):
            raise VerifyError(f"{new.type} cannot replace {old.type}", node=old.node.name)
        uses = [u for u in self.uses(old) if u.node is not new.node]
        moved: list[Use] = []
        try:
            for use in uses:
                self._connect(use, new)
                moved.append(use)
            # A constant in place of a computed value may tell more at the same type.
            if uses and (retype or old.abstract != new.abstract):
                self.reinfer([u.node for u in uses])
        except TautError:  # leave the graph as it was
            for use in moved:
                self._connect(use, old)
            raise
        return len(uses)

    def set_operand(self, node: Node, position: int, new: Like, *, retype: bool = False) -> None:
        """Let one operand read another value."""
        old, new = self.operand(node, position), as_value(new)
        if old is not None and not retype and not old.type.accepts(new.type):
            raise VerifyError(f"{new.type} cannot replace {old.type}", node=node.name)
        self._connect(Use(node, position), new)
        try:
            self.reinfer([node])
        except TautError:  # leave the graph as it was
            self._connect(Use(node, position), old)
            raise

    def set_op(self, node: Node, op: Op) -> None:
        """Change a node's op or attributes; its results are inferred again."""
        self._retype(node, op, infer(op, self.abstracts(node), node.name))

    def set_input_type(self, node: Node, type: TensorType) -> None:
        """Change an input's type and infer everything after it again. Conditions on a symbol that
        it had are then on what stands in its place; raises VerifyError where one does not hold.
        """
        conditions = self._conditions_after(node, type)
        self._retype(node, node.op, (Abstract(type),))
        self.conditions = conditions

    def require(self, text: str) -> None:
        """Add a condition on the inputs' symbols (`ir.conditions`): feeds that break it are
        refused. Raises ParseError, VerifyError for one that no size fulfils.
        """
        added = condition(text).bound({})
        if len(self.conditions) >= _CONDITIONS:
            raise LimitError(f"a graph has over {_CONDITIONS} conditions")
        if added is not None and added not in self.conditions:
            self.conditions += (added,)
            self._changed()

    def _take_conditions(self, other: Graph, feeds: Mapping[str, Like]) -> None:
        if not other.conditions:
            return
        now: dict[str, int | str] = {}
        for node in other.inputs:
            given = as_value(feeds[node.name]).shape if node.name in feeds else None
            now |= {s: d for s, d in zip(node.type.shape or (), given or ())
                    if isinstance(s, str) and d is not None}  # fmt: skip
        own = {d for n in self._inputs for d in n.type.shape or ()}
        for c in other.conditions:
            if not c.symbols <= now.keys() or not {now[s] for s in c.symbols} <= own | {
                d for d in now.values() if isinstance(d, int)
            }:
                raise VerifyError(f"whether {c.text[:80]!a} holds depends on sizes no input has")
        for bound in [c.bound(now) for c in other.conditions]:
            if bound is not None:
                self.require(bound.text)

    def _conditions_after(self, node: Node, type: TensorType) -> tuple[Condition, ...]:
        """The conditions once this input has another type. Where other inputs keep a symbol that it
        loses, both sizes must still be one.
        """
        old, new = node.type.shape or (), type.shape or ()
        now = {a: b for a, b in zip(old, new) if isinstance(a, str) and a != b and b is not None}
        if not self.conditions or not now:
            return self.conditions
        others = {d for n in self._inputs if n is not node for d in n.type.shape or ()} | {*new}
        kept = [condition(f"{a} == {b}") for a, b in now.items() if a in others]
        bound = [c.bound(now) for c in self.conditions]
        return tuple(dict.fromkeys(c for c in (*bound, *kept) if c is not None))

    def _retype(self, node: Node, op: Op, results: tuple[Abstract, ...]) -> None:
        """Set a node's op and results; where its users cannot take them, nothing changes."""
        before = node.op, node.results
        node.op, node.results = op, results
        self._changed()
        try:
            if results != before[1]:
                self.reinfer(self.users(node))
        except TautError:
            node.op, node.results = before
            raise

    def rename(self, node: Node, name: str) -> None:
        """Give a node another name. Raises VerifyError if it is taken."""
        if self._names.get(name, node) is not node:
            raise VerifyError(f"the name {name!r} is taken", node=node.name)
        del self._names[node.name]
        node.name = name
        self._names[name] = node
        self._changed()

    def erase(self, node: Node) -> None:
        """Remove a node that nothing reads. Raises VerifyError if something does."""
        if node is self.result or self.nx.succ[node]:
            raise VerifyError("a node that is still read cannot be erased", node=node.name)
        self.nx.remove_node(node)
        del self._names[node.name]
        if isinstance(node.op, Input):
            self._inputs.remove(node)
        self._changed()

    def splice(
        self, other: Graph, feeds: Mapping[str, Like], *, before: Node | None = None,
        prefix: str = "",
    ) -> dict[str, Value]:  # fmt: skip
        """Copy `other`'s nodes into this graph, its inputs replaced by `feeds`, the names of the
        others with a prefix.

        Returns this graph's value for each of other's outputs. Other's conditions are then on what
        it is fed; raises VerifyError where one does not hold, or where this graph's inputs lack the
        sizes to tell.
        """
        self._take_conditions(other, feeds)
        here: dict[Value, Value] = {}
        for node in other.nodes():
            if isinstance(node.op, Input):
                if node.name not in feeds:
                    raise VerifyError(f"no value is given for input {node.name!r}")
                here[Value(node)] = as_value(feeds[node.name])
            elif node is not other.result:
                operands = [None if v is None else here[v] for v in other.operands(node)]
                copy = self.add(node.op, *operands, name=prefix + node.name, before=before)
                here.update({Value(node, i): Value(copy, i) for i in range(len(copy.results))})
        return {name: here[v] for name, v in zip(other.output_names, other.outputs)}

    def copy(self) -> Graph:
        """A graph of its own; constants' arrays are shared (they are read-only)."""
        twin = Graph(self.name)
        twin.metadata, twin.conditions = dict(self.metadata), self.conditions
        there: dict[Node, Node] = {self.result: twin.result}
        for node in self.nodes():
            if node is not self.result:
                there[node] = twin._insert(node.op, node.name, node.results, None)
        twin.result.op = self.result.op
        twin._inputs = [there[n] for n in self._inputs]
        for a, b, position, data in self.nx.edges(keys=True, data=True):
            twin.nx.add_edge(there[a], there[b], key=position, **data)
        return twin

    def reinfer(self, start: Iterable[Node] | None = None) -> int:
        """Infer types again from these nodes on (all by default). Returns how many changed; raises
        VerifyError and changes nothing where a node cannot take its operands.
        """
        queue = [(n.order, n) for n in (self.nx if start is None else start)]
        heapq.heapify(queue)
        queued = {n for _, n in queue}
        before: dict[Node, tuple[Abstract, ...]] = {}
        while queue:
            _, node = heapq.heappop(queue)
            queued.discard(node)
            if node is self.result or isinstance(node.op, Input):
                continue
            try:
                results = infer(node.op, self.abstracts(node), node.name)
            except TautError:
                for changed, old in before.items():
                    changed.results = old
                raise
            if results == node.results:
                continue
            before.setdefault(node, node.results)
            node.results = results
            for user in self.nx.succ[node]:
                if user not in queued:
                    queued.add(user)
                    heapq.heappush(queue, (user.order, user))
        if before:
            self._changed()
        return len(before)

    # ---- inside --------------------------------------------------------------------------------

    def _reads(self, node: Node) -> Edges:
        return cast(Edges, self.nx.pred[node])

    def _readers(self, node: Node) -> Edges:
        return cast(Edges, self.nx.succ[node])

    def _changed(self) -> None:
        self._sorted = None
        self.version += 1

    def _insert(
        self, op: Op, name: str, results: tuple[Abstract, ...], before: Node | None
    ) -> Node:
        self._serial += 1
        if before is None or before is self.result:
            order: Order = (self._serial,)
        else:
            # Lexicographic: after all that stands before `before`, as serials only grow.
            order = (*before.order[:-1], before.order[-1] - 1, 1, self._serial)
        node = Node(op, name, results, order)
        self.nx.add_node(node)
        self._names[name] = node
        if self._sorted is not None and before is None and len(self._sorted) > 0:
            self._sorted.insert(len(self._sorted) - 1, node)
            self.version += 1
        else:
            self._changed()
        return node

    def _connect(self, use: Use, new: Value | None) -> None:
        """Point one use at a new value (or at none), keeping the order a topological one. Raises
        VerifyError and changes nothing where that would close a cycle.
        """
        old = self.operand(use.node, use.position)
        self._point(use, old, new)
        if new is not None and new.node.order >= use.node.order:
            try:
                self._reorder(use.node)
            except VerifyError:
                self._point(use, new, old)
                raise
        self._changed()

    def _point(self, use: Use, old: Value | None, new: Value | None) -> None:
        if old is not None:
            self.nx.remove_edge(old.node, use.node, key=use.position)
        if new is not None:
            self.nx.add_edge(new.node, use.node, key=use.position, result=new.index)

    def _reorder(self, node: Node) -> None:
        """Give every node a new serial after an edge against the order; a cycle raises."""
        try:
            ordered = list(nx.lexicographical_topological_sort(self.nx, key=lambda n: n.order))
        except nx.NetworkXUnfeasible as error:
            raise VerifyError("this change would close a cycle", node=node.name) from error
        for i, n in enumerate(n for n in ordered if n is not self.result):
            n.order = (i + 1,)
        self._serial = len(ordered)


def infer(op: Op, operands: Sequence[Abstract | None], name: str) -> tuple[Abstract, ...]:
    """Check operands against the op's declaration and infer its results.

    Raises VerifyError that names the node and op.
    """
    try:
        _check_operands(op, operands)
        _check_minifloats(op, operands)
        inferred = op.infer(*operands)
        results = inferred if isinstance(inferred, tuple) else (inferred,)
        out = tuple(r if isinstance(r, Abstract) else Abstract(r) for r in results)
        _check_minifloats(op, out)
        if len(out) == 1 and out[0].value is None and out[0].dims is None:
            made = out[0].type
            if made.dtype.is_integer and made.shape is not None and len(made.shape) <= 1:
                dims = op.dims(*operands)
                if dims is not None and not _fit(dims, made.dtype):
                    dims = None  # it wraps when it runs
                out = (Abstract(made, None, dims),) if dims is not None else out
        return out
    except TautError as error:
        raise error.with_context(node=name, op=op.name)
    except RecursionError as error:
        raise LimitError("its bodies are nested too deep", node=name, op=op.name) from error
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise VerifyError(f"types cannot be inferred ({what})", node=name, op=op.name) from error


def _check_minifloats(op: Op, values: Iterable[Abstract | None]) -> None:
    """Floats of 8 and 4 bits are stored, moved and converted, never calculated in."""
    if op.minifloats:
        return
    for x in values:
        if x is not None and x.dtype.is_minifloat and op.numerics not in (MOVES, STRUCTURE):
            raise VerifyError(f"takes no {x.type}: floats of that size are only stored",
                              hint="cast to f32 before it, or dequantize")  # fmt: skip


def _fit(dims: Shape, dtype: DType) -> bool:
    low, high = dtype.bounds
    return all(not isinstance(d, int) or low <= d <= high for d in dims)


def _check_operands(op: Op, operands: Sequence[Abstract | None]) -> None:
    specs = op.operands
    variadic = bool(specs) and specs[-1].variadic
    if len(operands) > len(specs) and not variadic:
        raise VerifyError(f"takes {len(specs)} operands at most, not {len(operands)}")
    for i, spec in enumerate(specs):
        if spec.variadic and None in operands[i:]:
            raise VerifyError(f"operand {operands.index(None)} is missing")
        if spec.optional or spec.variadic:
            continue
        if i >= len(operands) or operands[i] is None:
            raise VerifyError(f"operand {spec.name} is missing")

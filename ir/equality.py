"""Structural equality: the same ops, attributes, wiring and constants, whatever the names."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

from .errors import LimitError
from .graph import Graph, Node, Value
from .op import Op, body_key
from .ops.structure import Input


def difference(a: Graph, b: Graph, *, names: bool = False) -> str | None:
    """The first difference in words, or None if the graphs are equal.

    Nodes are matched from the outputs backwards, so that order and dead code do not matter. With
    `names`, node names count too. Input and output names always count, but not those of bodies,
    whose inputs and outputs are matched by position.
    """
    if a.signature != b.signature or list(a.signature.inputs) != list(b.signature.inputs):
        return f"signatures differ: {a.signature} and {b.signature}"
    if set(a.conditions) != set(b.conditions):
        return f"conditions differ: {a.conditions} and {b.conditions}"
    return _difference(a, b, names)


def _body_difference(a: Graph, b: Graph) -> str | None:
    ours = [[n.type for n in a.inputs], [v.type for v in a.outputs]]
    theirs = [[n.type for n in b.inputs], [v.type for v in b.outputs]]
    if ours != theirs:
        return f"types differ: {ours} and {theirs}"
    return _difference(a, b, False)


def _difference(a: Graph, b: Graph, names: bool) -> str | None:
    pairs: dict[Node, Node] = dict(zip(a.inputs, b.inputs))
    taken = set(pairs.values())
    pending = list(zip(a.outputs, b.outputs))
    while pending:
        x, y = pending.pop()
        if x.index != y.index:
            return f"{x.node.name!r}: result {x.index} against {y.index}"
        seen = pairs.get(x.node)
        if seen is not None:
            if seen is not y.node:
                return f"{x.node.name!r} stands for {seen.name!r} and for {y.node.name!r}"
            continue
        if y.node in taken:
            return f"{y.node.name!r} stands for {x.node.name!r} and for another node"
        pairs[x.node] = y.node
        taken.add(y.node)
        reason = _node_difference(x.node, y.node, names)
        if reason is not None:
            return f"{x.node.name!r} and {y.node.name!r}: {reason}"
        ours, theirs = a.operands(x.node), b.operands(y.node)
        if [v is None for v in ours] != [v is None for v in theirs]:
            return f"{x.node.name!r} and {y.node.name!r}: other operands"
        pending += [(v, w) for v, w in zip(ours, theirs) if v is not None and w is not None]
    return None


def equal(a: Graph, b: Graph, *, names: bool = False) -> bool:
    """Whether `difference` finds none."""
    return difference(a, b, names=names) is None


def assert_equal(a: Graph, b: Graph, *, names: bool = False) -> None:
    """Raise AssertionError with the first difference."""
    reason = difference(a, b, names=names)
    if reason is not None:
        raise AssertionError(reason)


def _node_difference(x: Node, y: Node, names: bool) -> str | None:
    if names and x.name != y.name:
        return "other names"
    if x.types != y.types:
        return f"types {x.types} and {y.types}"
    if type(x.op) is not type(y.op):
        return f"ops {x.op.name} and {y.op.name}"
    return _op_difference(x.op, y.op)


def _op_difference(x: Op, y: Op) -> str | None:
    bodies: set[str] = set()
    for spec in x.attributes:
        u, v = getattr(x, spec.name), getattr(y, spec.name)
        if spec.kind == "graph" and u is not None and v is not None:
            bodies.add(spec.name)
            reason = _body_difference(u, v)
            if reason is not None:
                return f"body {spec.name}: {reason}"
    if not bodies:
        same = x.key() == y.key()
    else:
        plain = [s.name for s in x.attributes if s.name not in bodies]
        same = all(getattr(x, name) == getattr(y, name) for name in plain)
    return None if same else f"attributes {dict(x.given())}, {dict(y.given())}"


_digests: WeakKeyDictionary[Graph, tuple[int, bytes]] = WeakKeyDictionary()


@body_key.register
def digest(graph: Graph) -> bytes:
    """A hash of what a body computes from its inputs by position: names, order and dead code do
    not count, nor whether two equal pure nodes are one. Remembered while the graph is as it is.
    """
    version, made = _digests.get(graph, (-1, b""))
    if version != graph.version:
        try:
            made = _digest(graph)
        except RecursionError as error:
            raise LimitError("bodies are nested too deep") from error
        _digests[graph] = graph.version, made
    return made


def _digest(graph: Graph) -> bytes:
    inputs = {node: place for place, node in enumerate(graph.inputs)}
    hashes: dict[Node, bytes] = {}

    def read(value: Value | None) -> object:
        return None if value is None else (hashes[value.node], value.index)

    for node in graph.nodes():
        what: object = node.op.key()
        if isinstance(node.op, Input):
            what = inputs[node]
        elif not node.op.pure and node is not graph.result:
            what = (what, node.name)
        elif node is graph.result:
            what = "return"
        operands = [read(v) for v in graph.operands(node)]
        parts = (what, [str(t) for t in node.types], operands)
        hashes[node] = hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()
    return hashes[graph.result]

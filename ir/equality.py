"""Structural equality: the same ops, attributes, wiring and constants, whatever the names."""

from __future__ import annotations

from .graph import Graph, Node
from .op import Op
from .ops.structure import Constant


def difference(a: Graph, b: Graph, *, names: bool = False) -> str | None:
    """The first difference in words, or None if the graphs are equal.

    Nodes are matched from the outputs backwards, so that order and dead code do not matter. With
    `names`, node names count too. Input and output names always count.
    """
    if a.signature != b.signature or list(a.signature.inputs) != list(b.signature.inputs):
        return f"signatures differ: {a.signature} and {b.signature}"
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
    for spec in x.attributes:
        u, v = getattr(x, spec.name), getattr(y, spec.name)
        if spec.kind == "graph" and u is not None and v is not None:
            reason = difference(u, v)
            if reason is not None:
                return f"body {spec.name}: {reason}"
    if isinstance(x, Constant) or not any(s.kind == "graph" for s in x.attributes):
        return None if x.key() == y.key() else f"attributes {dict(x.given())}, {dict(y.given())}"
    return None

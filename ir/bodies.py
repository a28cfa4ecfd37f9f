"""Bodies: the graphs that ops carry (branches, loops, fused groups).

A body is closed: what it reads from around it is one of its inputs, matched with its node's
operands by position. Inputs it does not type fully take the operands' types.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .errors import LimitError, TautError, VerifyError
from .graph import Graph, Node
from .interpret import interpret
from .op import Abstract, Array, Op, has_body
from .types import DEFAULT_LIMITS, Limits


class Place(NamedTuple):
    """A graph and where it is: "" for the outermost, "loop_1/body" for one inside."""

    graph: Graph
    path: str
    depth: int


def bodies_of(op: Op) -> Iterator[tuple[str, Graph]]:
    """The graphs that an op carries, by attribute."""
    for a in op.attributes:
        if a.kind == "graph" and (body := getattr(op, a.name)) is not None:
            yield a.name, body


def walk(graph: Graph, limits: Limits = DEFAULT_LIMITS) -> Iterator[Place]:
    """The graph and every body in it, each before those inside it. Raises LimitError where they
    are nested deeper than `limits.depth` or have too many nodes together."""
    pending = [Place(graph, "", 0)]
    total = 0
    while pending:
        place = pending.pop()
        if place.depth > limits.depth:
            raise LimitError(f"bodies are nested deeper than {limits.depth}",
                             node=place.path[:200])  # fmt: skip
        total += len(place.graph)
        if total > limits.nodes:
            raise LimitError(f"the graph has over {limits.nodes} nodes with its bodies")
        yield place
        inside = [
            Place(body, path_of(place.path, node, name), place.depth + 1)
            for node in place.graph.nodes()
            if has_body(node.op)
            for name, body in bodies_of(node.op)
        ]
        pending.extend(reversed(inside))


def path_of(outer: str, node: Node, name: str) -> str:
    return f"{outer}/{node.name}/{name}" if outer else f"{node.name}/{name}"


def specialize(body: Graph, operands: Sequence[Abstract]) -> Graph:
    """A copy whose inputs have the operands' types (and contents, where known), inferred again.

    Raises VerifyError where their number or a type does not fit.
    """
    inputs = body.inputs
    if len(inputs) != len(operands):
        raise VerifyError(f"its body takes {len(inputs)} inputs, not {len(operands)}")
    for node, x in zip(inputs, operands):
        if not node.type.accepts(x.type):
            raise VerifyError(f"its body's input {node.name!r} is {node.type}, not {x.type}")
    twin = body.copy()
    changed = [(node, x) for node, x in zip(twin.inputs, operands) if node.results != (x,)]
    for node, x in changed:
        node.results = (x,)
    if changed:
        twin.reinfer([user for node, _ in changed for user in twin.users(node)])
    return twin


_KEPT = 64  # sets of operands for which a body's outputs are remembered
_Key = tuple[Any, ...]
_Made = OrderedDict[_Key, tuple[Sequence[Abstract], tuple[Abstract, ...]]]
_inferred: WeakKeyDictionary[Graph, tuple[int, _Made]] = WeakKeyDictionary()


def infer_body(body: Graph, operands: Sequence[Abstract]) -> tuple[Abstract, ...]:
    """What is known of the body's outputs when its inputs are `operands`. Raises VerifyError.

    Remembered for each body as it is: the types of nested loops are sought in rounds, each of
    which would infer the inner bodies again, to the power of their depth.
    """
    version, made = _inferred.get(body, (-1, OrderedDict()))
    if version != body.version:
        made = OrderedDict()
        _inferred[body] = body.version, made
    key = tuple((x.type, x.dims, id(x.value)) for x in operands)
    found = made.get(key)
    if found is None:
        # The operands are held so that no other array takes the address of one of theirs.
        outputs = tuple(v.abstract for v in specialize(body, operands).outputs)
        found = made[key] = (tuple(operands), outputs)
        if len(made) > _KEPT:
            made.popitem(last=False)
    return found[1]


def run_body(
    body: Graph, arrays: Sequence[Array], limits: Limits = DEFAULT_LIMITS
) -> tuple[Array, ...]:
    """The body's outputs by the reference. Errors name the body."""
    feeds = {node.name: a for node, a in zip(body.inputs, arrays)}
    try:
        return tuple(interpret(body, feeds, limits=limits).values())
    except TautError as error:
        error.message = f"in its body: {error.message}"
        raise

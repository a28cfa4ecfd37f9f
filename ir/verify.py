"""The verifier: everything that must hold of a graph between passes."""

from __future__ import annotations

from .bodies import walk
from .errors import LimitError, TautError, VerifyError
from .graph import Graph, Node, infer
from .ops.structure import Constant, Input, Return
from .types import DEFAULT_LIMITS, Limits


def verify(graph: Graph, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check names, edges, order, types and limits, of bodies too; each op checks its own operands.

    Raises VerifyError (or LimitError) that names the first bad node. Linear in the graph's size.
    """
    if len(graph) > limits.nodes:
        raise LimitError(f"the graph has {len(graph)} nodes, over the limit of {limits.nodes}")
    total = 0
    for inside, path, _ in list(walk(graph, limits)):
        try:
            total += _verify_one(inside, limits)
            _verify_conditions(inside, path)
        except TautError as error:
            if path:
                error.message = f"in the body {path[:200]!a}: {error.message}"
            raise
    if total > limits.model_bytes:
        raise LimitError(f"constants take {total} bytes, over the limit of {limits.model_bytes}")


def _verify_one(graph: Graph, limits: Limits) -> int:
    """Check one graph, without its bodies. Returns the bytes of its constants."""
    names: set[str] = set()
    total = 0
    for node in graph.nodes():
        _verify_place(graph, node, names)
        _verify_edges(graph, node)
        if isinstance(node.op, Input):
            continue
        if isinstance(node.op, Constant):
            total += node.op.value.nbytes
        results = infer(node.op, graph.abstracts(node), node.name)
        if len(results) != len(node.results):
            raise VerifyError("has another number of results than inferred", node=node.name)
        for stored, now in zip(node.results, results):
            if not (stored.type.accepts(now.type) and now.type.accepts(stored.type)):
                raise VerifyError(
                    f"is typed {stored.type} but infers {now.type}",
                    node=node.name, op=node.op.name, hint="call graph.reinfer() after a change",
                )  # fmt: skip
            limits.check(stored.type, f"node {node.name!r}")
    _verify_boundary(graph)
    return total


def _verify_place(graph: Graph, node: Node, names: set[str]) -> None:
    if not isinstance(node, Node):
        raise VerifyError(f"the store holds a {type(node).__name__}, which is not a node")
    if node is graph.result:
        return
    if isinstance(node.op, Return):
        raise VerifyError("a graph has one return", node=node.name)
    if node.name in names or graph.find(node.name) is not node:
        raise VerifyError("the name is not unique", node=node.name, hint="use Graph.rename")
    names.add(node.name)


def _verify_edges(graph: Graph, node: Node) -> None:
    positions: set[int] = set()
    for producer, edges in graph.nx.pred[node].items():
        if not producer.order < node.order:
            raise VerifyError(f"reads {producer.name!r}, which comes after it", node=node.name)
        for position, data in edges.items():
            if not isinstance(position, int) or position < 0 or position in positions:
                raise VerifyError(f"operand position {position!r} is wrong", node=node.name)
            positions.add(position)
            if not 0 <= data.get("result", -1) < len(producer.results):
                raise VerifyError(f"reads a result {producer.name!r} has not", node=node.name)


def _verify_conditions(graph: Graph, path: str) -> None:
    if path and graph.conditions:
        raise VerifyError("a body has conditions: they belong to the whole graph")
    known = {d for n in graph.inputs for d in n.type.shape or ()} if graph.conditions else set()
    for c in graph.conditions:
        strange = sorted(c.symbols - known)
        if strange:
            raise VerifyError(f"the condition {c.text[:80]!a} is on {strange}, which no input has")


def _verify_boundary(graph: Graph) -> None:
    inputs = [n for n in graph.nx if isinstance(n.op, Input)]
    if len(inputs) != len(graph.inputs) or set(inputs) != set(graph.inputs):
        raise VerifyError("inputs were added or removed behind the graph's back")
    names = graph.output_names
    if len(names) != len(graph.outputs):
        raise VerifyError(f"{len(names)} output names for {len(graph.outputs)} outputs")
    if len(set(names)) < len(names):
        raise VerifyError("output names are not unique", hint="name each output once")

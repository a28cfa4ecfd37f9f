"""Makes a failing graph small: fewer outputs, nodes cut off or bypassed, plainer constants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from taut.ir import Graph, Node, TautError, TensorType, Value, interpret
from taut.ir.op import Array
from taut.ir.ops.structure import Constant, Input

from .failure import CheckFailure, Feeds

Fails = Callable[[Graph, Feeds], CheckFailure | None]
Smaller = tuple[Graph, dict[str, Array]]

SECONDS = 20.0


def shrunk(failure: CheckFailure, fails: Fails, seconds: float = SECONDS) -> CheckFailure:
    """The smallest failure that is found from this one within so many seconds, by taking away
    what it does not need, over and over. Any failure counts, also one of another kind."""
    until = time.monotonic() + seconds
    while True:
        smaller = _first(failure, fails, until)
        if smaller is None:
            return failure
        failure = smaller


def _first(failure: CheckFailure, fails: Fails, until: float) -> CheckFailure | None:
    graph, inputs = failure.graph, failure.feeds
    for less, fed in _candidates(graph, inputs):
        if time.monotonic() > until:
            return None
        found = fails(less, fed)
        if found is not None:
            return found
    return None


def _candidates(graph: Graph, inputs: Feeds) -> Iterator[Smaller]:
    """Graphs that are simpler in one place each, those that leave least first."""
    outputs = dict(zip(graph.output_names, graph.outputs))
    if len(outputs) > 1:
        for name in outputs:
            yield from _made(graph, inputs, lambda g, n=name: g.set_outputs(
                {n: dict(zip(g.output_names, g.outputs))[n]}))  # fmt: skip
        for name in outputs:
            yield from _made(graph, inputs, lambda g, n=name: g.set_outputs(
                {k: v for k, v in zip(g.output_names, g.outputs) if k != n}))  # fmt: skip
    yield from _earlier(graph, inputs)
    yield from _bypassed(graph, inputs)
    yield from _cut(graph, inputs)
    yield from _plainer(graph, inputs)


def _earlier(graph: Graph, inputs: Feeds) -> Iterator[Smaller]:
    """What an output is made of shown in its place."""
    for name, value in zip(graph.output_names, graph.outputs):
        for place, v in enumerate(graph.operands(value.node)):
            if v is not None and not isinstance(v.node.op, Input | Constant):
                yield from _made(graph, inputs, lambda g, n=name, p=place: _show(g, n, p))


def _show(graph: Graph, name: str, place: int) -> None:
    outputs = dict(zip(graph.output_names, graph.outputs))
    operand = graph.operands(outputs[name].node)[place]
    assert operand is not None
    graph.set_outputs({**outputs, name: operand})


def _bypassed(graph: Graph, inputs: Feeds) -> Iterator[Smaller]:
    """Each node in turn replaced by an operand of its type."""
    for node in graph.nodes():
        if len(node.results) != 1 or isinstance(node.op, Input | Constant):
            continue
        for place, v in enumerate(graph.operands(node)):
            if v is not None and v.type == node.type:
                yield from _made(graph, inputs, lambda g, n=node.name, p=place: _skip(g[n], g, p))


def _skip(node: Node, graph: Graph, place: int) -> None:
    operand = graph.operands(node)[place]
    assert operand is not None
    graph.replace_all_uses(node, operand)


def _cut(graph: Graph, inputs: Feeds) -> Iterator[Smaller]:
    """Each computed value in turn made an input that is fed what it was."""
    arrays: dict[str, Array] = {}

    def watch(value: Value, array: Array) -> None:
        if not value.index:
            arrays[value.node.name] = array

    try:
        interpret(graph, inputs, watch=watch)
    except TautError:
        return
    for node in graph.nodes()[::-1]:
        plain = not isinstance(node.op, Input | Constant) and len(node.results) == 1
        if not plain or node.name not in arrays or graph.is_output(node[0]):
            continue
        array = np.asarray(arrays[node.name], node.type.dtype.numpy)
        yield from _made(graph, inputs, lambda g, n=node.name: _feed(g[n], g), {"cut": array})


def _feed(node: Node, graph: Graph) -> None:
    made = graph.add_input(graph.fresh("cut"), node.type, before=node)
    graph.replace_all_uses(node, made)


def _plainer(graph: Graph, inputs: Feeds) -> Iterator[Smaller]:
    """Constants and inputs of small whole numbers."""
    for node in graph.nodes():
        if isinstance(node.op, Constant):
            array = node.op.value
            plain = _ramp(array)
            if array.dtype.kind == "f" and not np.array_equal(array, plain):
                yield from _made(graph, inputs, lambda g, n=node.name, a=plain: g.replace_all_uses(
                    g[n], g.constant(a, "plain", before=g[n])))  # fmt: skip
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.array_equal(array, _ramp(array)):
            yield graph, {**inputs, name: _ramp(array)}


def _ramp(array: Array) -> Array:
    return (np.arange(array.size) % 5 - 2).reshape(array.shape).astype(array.dtype)


def _made(
    graph: Graph, inputs: Feeds, change: Callable[[Graph], object], more: Feeds | None = None
) -> Iterator[Smaller]:
    """A changed copy without what nothing reads any more, if the change is legal."""
    from taut.passes.rewrite import erase_dead

    twin = graph.copy()
    fed = dict(inputs)
    try:
        change(twin)
    except TautError:
        return
    erase_dead(twin, twin.nodes()[::-1])
    for node in twin.inputs:
        if more and node.name not in fed:
            fed[node.name] = next(iter(more.values()))
            if not node.type.accepts(TensorType.of(fed[node.name])):
                return
        if not twin.nx.succ[node] and len(twin.inputs) > 1:
            twin.erase(node)
    yield twin, {n.name: fed[n.name] for n in twin.inputs}

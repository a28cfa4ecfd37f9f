"""Run a graph by the NumPy reference semantics: the definition of right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .errors import FeedError, LimitError, TautError, VerifyError
from .graph import Graph, Node, Value
from .op import Abstract, Array, has_body
from .ops.structure import Input
from .types import DEFAULT_LIMITS, Limits, TensorType

Feeds = Mapping[str, Array]


def bind_feeds(graph: Graph, args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays by input name from positional and named arguments, checked against the signature.

    Raises FeedError for missing, extra or ill-typed ones and for symbols bound to two sizes.
    """
    names = [n.name for n in graph.inputs]
    if len(args) > len(names):
        raise FeedError(f"{len(args)} inputs are given, the graph takes {len(names)}")
    feeds: dict[str, Any] = dict(zip(names, args))
    for name, value in named.items():
        if name not in names:
            raise FeedError(f"no input is named {name!a}", hint=f"the inputs are {names}")
        if name in feeds:
            raise FeedError(f"input {name!a} is given twice")
        feeds[name] = value
    missing = [n for n in names if n not in feeds]
    if missing:
        raise FeedError(f"inputs {missing} are not given")
    symbols: dict[str, int] = {}
    bound = {n.name: check_feed(n, feeds[n.name], symbols) for n in graph.inputs}
    check_sizes(graph, symbols)
    return bound


def check_sizes(graph: Graph, symbols: Mapping[str, int]) -> None:
    """Raise FeedError for sizes that break one of the graph's conditions."""
    for c in graph.conditions:
        if c.symbols <= symbols.keys() and not c.holds(symbols):
            raise FeedError(c.broken(symbols))


def check_feed(node: Node, value: Any, symbols: dict[str, int]) -> Array:
    """`value` as an array that fits an input; `symbols` collects what sizes stand for. Raises
    FeedError.
    """
    type = node.type
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise FeedError(f"is no array ({error})", node=node.name) from error
    if array.dtype != type.dtype.numpy:
        raise FeedError(
            f"wants {type}, not {array.dtype}{list(array.shape)}",
            node=node.name, hint=f"convert with .astype({type.dtype.numpy.name!r})",
        )  # fmt: skip
    if type.shape is None:
        return array
    if array.ndim != len(type.shape):
        raise FeedError(f"wants {type}, not shape {list(array.shape)}", node=node.name)
    for want, got in zip(type.shape, array.shape):
        known = symbols.setdefault(want, got) if isinstance(want, str) else want
        if known is not None and known != got:
            raise FeedError(
                f"wants {type}, not shape {list(array.shape)}"
                + (f": {want} is already {known}" if isinstance(want, str) else ""),
                node=node.name,
            )
    return array


def feeds_of(graph: Graph, item: Any) -> dict[str, Array]:
    """One item of `data` (an array, a tuple or list of arrays, a dict) as checked feeds."""
    if isinstance(item, Mapping):
        return bind_feeds(graph, (), item)
    return bind_feeds(graph, tuple(item) if isinstance(item, tuple | list) else (item,), {})


Watch = Callable[[Value, Array], Array | None]


def interpret(
    graph: Graph, feeds: Feeds, *, limits: Limits = DEFAULT_LIMITS, watch: Watch | None = None
) -> dict[str, Array]:
    """Outputs by name. Values are freed after their last use.

    `watch(value, array)` sees every result as it is made and may hand back another array.
    """
    values: dict[Value, Array] = {}
    left = {Value(n, i): graph.use_count(Value(n, i)) for n in graph.nx for i in _range(n)}
    for node, arrays in _run(graph, feeds, values, limits):
        for i, array in enumerate(arrays):
            value = Value(node, i)
            seen = watch(value, array) if watch else None
            if left[value]:
                values[value] = array if seen is None else seen
        for operand in graph.operands(node):
            if operand is not None:
                left[operand] -= 1
                if not left[operand]:
                    values.pop(operand, None)
    return {name: values[v] for name, v in zip(graph.output_names, graph.outputs)}


def _range(node: Node) -> range:
    return range(len(node.results))


def _run(
    graph: Graph, feeds: Feeds, values: dict[Value, Array], limits: Limits
) -> Iterator[tuple[Node, tuple[Array, ...]]]:
    for node in graph.nodes():
        if node is graph.result:
            return
        if isinstance(node.op, Input):
            yield node, (feeds[node.name],)
            continue
        operands = [None if v is None else values[v] for v in graph.operands(node)]
        yield node, run_node(node, operands, limits)


def run_node(
    node: Node, operands: list[Array | None], limits: Limits = DEFAULT_LIMITS
) -> tuple[Array, ...]:
    """One node by its reference. Result sizes are inferred and checked before it runs."""
    op = node.op
    try:
        for made_type in _concrete_types(node, operands):
            limits.check(made_type)
        with np.errstate(all="ignore"):
            made = op.evaluate(operands, limits)
    except TautError as error:
        raise error.with_context(node=node.name, op=op.name)
    except RecursionError as error:
        raise LimitError("its bodies are nested too deep", node=node.name, op=op.name) from error
    except MemoryError as error:
        raise LimitError("out of memory", node=node.name, op=op.name) from error
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        what = f"cannot run on these inputs ({type(error).__name__}: {error})"
        raise FeedError(what, node=node.name, op=op.name) from error
    arrays = made if isinstance(made, tuple) else (made,)
    out = tuple(np.asarray(a) for a in arrays)
    for a, r in zip(out, node.results):
        if not r.type.accepts(TensorType.of(a)):
            raise VerifyError(
                f"gave {TensorType.of(a)} where {r.type} was inferred", node=node.name, op=op.name
            )
    return out


def _concrete_types(node: Node, operands: list[Array | None]) -> tuple[TensorType, ...]:
    """What a node is about to make. Bodies check what they make themselves."""
    if all(t.is_static for t in node.types) or has_body(node.op):
        return tuple(t for t in node.types if t.is_static)
    known = [None if a is None else Abstract(TensorType.of(a), a) for a in operands]
    made = node.op.infer(*known)
    results = made if isinstance(made, tuple) else (made,)
    return tuple(r.type if isinstance(r, Abstract) else r for r in results)

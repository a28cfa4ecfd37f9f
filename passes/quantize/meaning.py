"""What the integers of a graph stand for: real = (q - zero) * step.

It is read where the graph says it: from the quantization that made a value or the dequantization
behind it, from the `steps` of a requantize and what its multipliers make of its operands' steps,
from the factor of an accumulator that becomes float. Movement of data moves the steps too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...ir import Graph, Node, TautError, Value
from ...ir.op import Array
from ...ir.ops.elementwise import Mul
from ...ir.ops.integer import Lookup, Requantize
from ...ir.ops.joining import Pad
from ...ir.ops.quantization import DequantizeLinear, Quantization, QuantizeLinear
from ...ir.ops.shape import Cast
from .place import SAME

LARGEST = 1 << 24
"""Elements of a tensor whose steps are moved one by one."""


class Meaning(NamedTuple):
    """Step and zero point, float64, each of which broadcasts to the value."""

    step: Array
    zero: Array

    def real(self, q: Array) -> Array:
        return (q.astype(np.float64) - self.zero) * self.step

    @property
    def single(self) -> bool:
        return self.step.size == 1 and self.zero.size == 1


def meanings(graph: Graph) -> dict[Value, Meaning]:
    """What each integer value stands for, of those where the graph tells it."""
    found: dict[Value, Meaning] = {}
    nodes = graph.nodes()
    for node in nodes:
        for k, result in enumerate(node.results):
            made = _made(graph, node, found) if result.type.dtype.is_integer else None
            if made is not None:
                found[node[k]] = made
    for node in reversed(nodes):
        for k, result in enumerate(node.results):
            if result.type.dtype.is_integer and node[k] not in found:
                read = _read(graph, node[k], found)
                if read is not None:
                    found[node[k]] = read
    for node in nodes:  # what is moved from what the readers told of
        for k, result in enumerate(node.results):
            if result.type.dtype.is_integer and node[k] not in found:
                made = _made(graph, node, found)
                if made is not None:
                    found[node[k]] = made
    return found


def _made(graph: Graph, node: Node, found: dict[Value, Meaning]) -> Meaning | None:
    """From the node that makes a value and its operands."""
    op = node.op
    if isinstance(op, QuantizeLinear):
        return _linear(graph, node, node[0])
    if isinstance(op, Requantize):
        if not op.steps:
            return None
        return Meaning(_along(op.steps, op.axis, node[0]), np.asarray(float(op.zero_point)))
    if isinstance(op, Lookup):
        known = op.step > 0
        return Meaning(np.asarray(op.step), np.asarray(float(op.zero_point))) if known else None
    named = dict(zip((o.name for o in op.operands), graph.operands(node)))
    scale, zero = named.get("y_scale"), named.get("y_zero_point")
    if scale is not None and zero is not None and scale.array is not None:
        if scale.array.size == 1 and zero.array is not None and zero.array.size == 1:
            return Meaning(scale.array.astype(np.float64).reshape(()),
                           zero.array.astype(np.float64).reshape(()))  # fmt: skip
        return None
    return _moved(graph, node, found)


def _moved(graph: Graph, node: Node, found: dict[Value, Meaning]) -> Meaning | None:
    """Through an op whose every result element is one of its operands'."""
    operands = graph.operands(node)
    wide = [v for v in operands if v is not None and v in found and v.type.dtype == node.type.dtype]
    first = operands[0] if operands else None
    if first not in wide or not isinstance(node.op, SAME):
        return None
    data = [v for v in operands if v is not None and v.array is None
            and v.type.dtype == node.type.dtype]  # fmt: skip
    if any(v not in found for v in data):
        return None
    given = [found[v] for v in data]
    if all(m.single for m in given) and all(m == given[0] for m in given):
        return given[0]
    if isinstance(node.op, Pad):
        return None  # what it pads with has no step of its own
    if any(not v.type.is_static or v.type.size > LARGEST for v in data):
        return None

    def spread(which: int) -> Array | None:
        arrays = {v: np.broadcast_to(found[v][which], v.type.static_shape) for v in data}
        rest = [None if v is None else arrays.get(v, v.array) for v in operands]
        if any(v is not None and a is None for v, a in zip(operands, rest)):
            return None
        try:
            return np.asarray(node.op.reference(*rest))
        except (TautError, ValueError, TypeError, IndexError):
            return None

    step, zero = spread(0), spread(1)
    return None if step is None or zero is None else Meaning(step, zero)


def _read(graph: Graph, value: Value, found: dict[Value, Meaning]) -> Meaning | None:
    """From those that read a value."""
    for use in graph.uses(value):
        node, op = use.node, use.node.op
        if isinstance(op, DequantizeLinear) and use.position == 0:
            return _linear(graph, node, value)
        if isinstance(op, Requantize) and use.position % 2 == 0 and node[0] in found:
            return _rescaled(graph, node, op, use.position, value, found[node[0]])
        if isinstance(op, Cast) and op.to.is_float:
            factor = _factor(graph, node)
            if factor is not None:
                return Meaning(factor, np.zeros(()))
        moved = found.get(node[0]) if node.results and use.position == 0 else None
        if moved is not None and moved.single and isinstance(node.op, SAME):
            return moved
    return None


def _rescaled(
    graph: Graph, node: Node, op: Requantize, position: int, value: Value, result: Meaning
) -> Meaning | None:
    """An operand of a requantize: m / 2^shift of the result's steps."""
    m = graph.operand(node, position + 1)
    if m is None or m.array is None:
        return None
    step = m.array.astype(np.float64) * 2.0**-op.shift
    per = _along(step.reshape(-1), op.axis, node[0]) if step.size > 1 else step.reshape(())
    zero = op.zeros(len(graph.operands(node)) // 2)[position // 2]
    return Meaning(per * result.step, np.asarray(float(zero)))


def _factor(graph: Graph, cast: Node) -> Array | None:
    """The constant that alone a cast accumulator is multiplied by."""
    users = graph.users(cast)
    if len(users) != 1 or not isinstance(users[0].op, Mul):
        return None
    arrays = [v.array for v in graph.operands(users[0]) if v is not None and v.array is not None]
    return arrays[0].astype(np.float64) if len(arrays) == 1 else None


def _linear(graph: Graph, node: Node, value: Value) -> Meaning | None:
    """Scale and zero point of a quantize_linear or dequantize_linear, as they lie along `value`."""
    op, (_, scale, *rest) = node.op, graph.operands(node)
    assert isinstance(op, Quantization)
    zero = rest[0] if rest else None
    if scale is None or scale.array is None or (zero is not None and zero.array is None):
        return None
    zeros = np.zeros(()) if zero is None or zero.array is None else zero.array
    arrays = []
    for v in (scale.array, zeros):
        if v.size == 1:
            arrays.append(v.astype(np.float64).reshape(()))
        elif value.type.shape is None or (op.block_size and not value.type.is_static):
            return None
        else:
            shape = value.type.static_shape if op.block_size else (1,) * len(value.type.shape)
            arrays.append(op.spread(v.astype(np.float64), shape))
    return Meaning(*arrays)


def _along(values: Sequence[float] | Array, axis: int, value: Value) -> Array:
    array = np.asarray(values, np.float64)
    if array.size == 1:
        return array.reshape(())
    rank = value.type.rank
    return array.reshape([-1 if k == axis % rank else 1 for k in range(rank)])

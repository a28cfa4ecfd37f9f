"""Reading quantization back out of a graph: which values are dequantized integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir import DType, Graph, Node, Value
from ...ir.op import Array
from ...ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ..quantize.grid import Grid

ACTIVATIONS = (DType.u8, DType.i8)


class Integers(NamedTuple):
    """A value of 8-bit integers and its grid: what a dequantize_linear reads."""

    value: Value
    grid: Grid


class WeightIntegers(NamedTuple):
    """A constant of integers with scales and zero points along `axis` (scalars where None)."""

    value: Value
    scale: Array
    zero: Array | None
    axis: int | None


def grid_of_node(graph: Graph, node: Node) -> Grid | None:
    """The grid of a quantize or dequantize node: constant scales, one or one for each index of
    axis 1, and one zero point.
    """
    operands = graph.operands(node)
    scale = operands[1].array if operands[1] is not None else None
    if scale is None or scale.dtype != np.float32 or getattr(node.op, "block_size", 0):
        return None
    if scale.size != 1 and (scale.ndim != 1 or getattr(node.op, "axis", 1) != 1):
        return None
    quantized = node.type.dtype if isinstance(node.op, QuantizeLinear) else None
    if quantized is None:
        assert operands[0] is not None
        quantized = operands[0].type.dtype
    if quantized not in ACTIVATIONS:
        return None
    zero = operands[2] if len(operands) > 2 else None
    if zero is not None and (zero.array is None or np.unique(zero.array).size != 1):
        return None
    number = 0 if zero is None or zero.array is None else int(zero.array.reshape(-1)[0])
    if scale.size == 1:
        return Grid(float(scale.reshape(-1)[0]), number, quantized)
    steps = tuple(float(v) for v in scale)
    return Grid(max(steps), number, quantized, steps)


def integers_of(graph: Graph, value: Value | None) -> Integers | None:
    """The integers that a float value is dequantized from, if it is."""
    if value is None or not isinstance(value.node.op, DequantizeLinear):
        return None
    source = graph.operand(value.node, 0)
    grid = grid_of_node(graph, value.node)
    if source is None or grid is None or source.array is not None:
        return None
    if value.type.dtype is not DType.f32:
        return None
    return Integers(source, grid)


def weight_of(graph: Graph, value: Value | None) -> WeightIntegers | None:
    """The constant integers of a dequantized weight, scales per tensor or along one axis."""
    if value is None or not isinstance(value.node.op, DequantizeLinear):
        return None
    op, operands = value.node.op, graph.operands(value.node)
    source, scale = operands[0], operands[1]
    if source is None or source.array is None or scale is None or scale.array is None:
        return None
    if source.type.dtype not in (DType.i8, DType.u8, DType.i32) or op.block_size:
        return None
    zero = operands[2] if len(operands) > 2 else None
    if zero is not None and zero.array is None:
        return None
    zeros = None if zero is None or zero.array is None or not zero.array.any() else zero.array
    if scale.array.size == 1:
        scales = scale.array.reshape(()).astype(np.float64)
        return WeightIntegers(source, scales, zeros, None)
    axis = op.axis % max(source.array.ndim, 1)
    return WeightIntegers(source, scale.array.astype(np.float64), zeros, axis)

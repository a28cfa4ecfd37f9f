"""Reading quantization back out of a graph: which values are dequantized integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir import DType, Graph, Node, Value
from ...ir.op import Array
from ...ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ..quantize.grids.affine import AffineGrid

ACTIVATIONS = (DType.u8, DType.i8)
REALS = (DType.f32, DType.f16)
STORED = (DType.i8, DType.u8, DType.i32, DType.i4, DType.u4, DType.i2, DType.u2)


class Integers(NamedTuple):
    """A value of 8-bit integers and its grid: what a dequantize_linear reads."""

    value: Value
    grid: AffineGrid


class WeightIntegers(NamedTuple):
    """Constant integers (4 bits and fewer as 8) with scales and zero points along `axis` (scalars
    where None); `source` is the constant that they come from.
    """

    array: Array
    scale: Array
    zero: Array | None
    axis: int | None
    source: Value

    def shifted(self) -> Array:
        """array - zero, int32."""
        wide = self.array.astype(np.int32)
        if self.zero is None:
            return wide
        zero = self.zero.astype(np.int32)
        if zero.size == 1:
            return wide - zero.reshape(())
        return wide - zero.reshape([-1 if k == self.axis else 1 for k in range(wide.ndim)])


def dequantized_weight(
    graph: Graph, w: WeightIntegers, real: Value, name: str, before: Node
) -> Value:
    """dequantize_linear of other constant integers, with the scales and zero points of `w`; `real`
    is what `w` was read from.
    """
    scale = graph.operand(real.node, 1)
    assert scale is not None and scale.array is not None
    factors = w.scale.astype(scale.array.dtype)
    operands = [graph.constant(w.array, f"{name}.int8", before=before),
                graph.constant(factors, f"{name}.scale", before=before)]  # fmt: skip
    if w.zero is not None:
        zero = w.zero.reshape(()) if w.zero.size == 1 else w.zero  # one for all may be a vector
        zeros = np.broadcast_to(zero.astype(w.array.dtype), factors.shape)
        operands.append(graph.constant(zeros, f"{name}.zero_point", before=before))
    op = DequantizeLinear(axis=w.axis if w.axis is not None else 0)
    return graph.add(op, *operands, name=f"{name}.dequantized", before=before)[0]


def grid_of_node(graph: Graph, node: Node) -> AffineGrid | None:
    """The grid of a quantize or dequantize node: constant scales, one or one for each index of
    axis 1, and one zero point.
    """
    operands = graph.operands(node)
    scale = operands[1].array if operands[1] is not None else None
    if scale is None or DType.of(scale) not in REALS or getattr(node.op, "block_size", 0):
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
        return AffineGrid(float(scale.reshape(-1)[0]), number, quantized)
    steps = tuple(float(v) for v in scale)
    return AffineGrid(max(steps), number, quantized, steps)


def integers_of(graph: Graph, value: Value | None, constants: bool = False) -> Integers | None:
    """The integers that a float value is dequantized from, if it is, and if they are computed or
    `constants` are asked for too.
    """
    if value is None or not isinstance(value.node.op, DequantizeLinear):
        return None
    source = graph.operand(value.node, 0)
    grid = grid_of_node(graph, value.node)
    if source is None or grid is None or (source.array is not None and not constants):
        return None
    if value.type.dtype not in REALS:
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
    if source.type.dtype not in STORED or op.block_size or value.type.dtype not in REALS:
        return None
    zero = operands[2] if len(operands) > 2 else None
    if zero is not None and zero.array is None:
        return None
    array = source.array if source.type.dtype.bits >= 8 else source.array.astype(np.int8)
    zeros = None if zero is None or zero.array is None else zero.array.astype(np.int32)
    if zeros is not None and not zeros.any():
        zeros = None
    if scale.array.size == 1:
        scales = scale.array.reshape(()).astype(np.float64)
        return WeightIntegers(array, scales, zeros, None, source)
    axis = op.axis % max(array.ndim, 1)
    return WeightIntegers(array, scale.array.astype(np.float64), zeros, axis, source)

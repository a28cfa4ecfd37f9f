"""Write a quantization into the graph as quantize_linear and dequantize_linear nodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...ir import Builder, Graph, Node, Value
from ...ir.op import Array
from ...ir.ops.quantization import DequantizeLinear
from .grid import Grid
from .place import Placement, on_grid
from .weights import Weights, quantize_bias


def insert_pairs(graph: Graph, placement: Placement, grids: Mapping[Value, Grid]) -> None:
    """Let every quantized reader of a value read its dequantized quantization.

    Readers that stay in float read the pair too, so that the value is made once; only the graph's
    own outputs keep full precision where nothing else asks.
    """
    settled = {v for v in grids if on_grid(graph, placement, v)}
    for value, grid in grids.items():
        uses = [u for u in graph.uses(value) if u not in placement.direct]
        if not uses:
            continue
        name = value.node.name if value.index == 0 else f"{value.node.name}.{value.index}"
        b = Builder(graph, before=uses[0].node)
        dq = grid.round(b, value, name, on_grid=value in settled)
        for use in uses:
            graph.set_operand(use.node, use.position, dq)


def insert_weight(graph: Graph, node: Node, weights: Weights, name: str = "") -> None:
    """Let a product read the dequantized integers instead of its weight, whose name they get by
    default.
    """
    old = graph.operand(node, 1)
    assert old is not None
    name = name or old.node.name
    operands = [
        graph.constant(weights.integers, f"{name}.int8", before=node),
        graph.constant(weights.scale, f"{name}.scale", before=node),
    ]
    if weights.zero is not None:
        operands.append(graph.constant(weights.zero, f"{name}.zero_point", before=node))
    op = DequantizeLinear(axis=weights.axis if weights.axis is not None else 0)
    real = graph.add(op, *operands, name=f"{name}.dequantized", before=node)
    graph.set_operand(node, 1, real)


def insert_bias(graph: Graph, node: Node, bias: Array, scale: Array) -> None:
    """Let a product read a bias of int32 whose scale is the accumulator's.

    A scalar scale (weights per tensor) serves all channels.
    """
    name = f"{node.name}.bias"
    scale = scale.astype(np.float32)
    integers = quantize_bias(bias.reshape(-1), scale)
    q = graph.constant(integers, f"{name}.int32", before=node)
    s = graph.constant(scale, f"{name}.scale", before=node)
    real = graph.add(DequantizeLinear(axis=0), q, s, name=f"{name}.dequantized", before=node)
    graph.set_operand(node, 2, real)

"""Quantizers whose scales and zero points are trained, as nodes.

    scale = exp(rate * v)                                   v: the parameter NAME.log_scale
    x^    = dequantize(quantize(clip(x, (lo - z) * scale, (hi - z) * scale)))

The clip holds the values to the grid's integers lo..hi, of 2 to 8 bits, and carries the gradient
of what lies outside: with the straight-through gradients of quantize_linear and dequantize_linear
the gradient of the scale is equation 3 of LSQ (S. Esser and others, "Learned step size
quantization", 2020), that of the zero point, in whole steps, LSQ+'s (Y. Bhalgat and others,
"LSQ+: improving low-bit quantization through learnable offsets and better initialization", 2020):

    dx^/dscale = rint(x / scale) - x / scale   inside,   lo - z below,   hi - z above
    dx^/dz     = 0                             inside,   -scale outside

The logarithm keeps scales positive and lets Adam move them by a share of themselves (S. Jain and
others, "Trained quantization thresholds", 2020). LSQ's factor g = 1 / sqrt(N * hi) stands in
`scale_gradient` as g / (rate * scale0^2), which makes a step of SGD change the scale as LSQ does at
the scale it starts with, `rate` times as fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir import Builder, DType, Graph, Node, Value
from ...ir.op import Array
from ...ir.ops.adjoint import ints
from ...ir.ops.elementwise import Add
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ...ir.ops.rounded_bias import RoundBias
from .grids.affine import AffineGrid, bounds_of
from .place import BETA, Placement, normalized_product, on_grid, takes_bias
from .weights import weight_axis


@dataclass(frozen=True)
class Learning:
    """What is trained, and how many times as fast as weights."""

    scales: bool = True
    zero_points: bool = False
    rate: float = 1.0


@dataclass(frozen=True)
class Rounding:
    """A grid as values: scale and bounds f32, the zero point u8."""

    scale: Value
    zero_point: Value
    low: Value
    high: Value


def scale_value(b: Builder, name: str, scale: Array, share: float, learning: Learning) -> Value:
    """A scale (scalar or vector) as a constant, or as what is computed of its parameter; `share` is
    LSQ's factor g.
    """
    scale = np.asarray(scale, np.float32)
    if not learning.scales:
        return b.constant(scale, f"{name}.scale")
    wide, rate = scale.astype(np.float64), learning.rate
    factor = np.minimum(share / (rate * wide * wide), 1e30).astype(np.float32)
    v = b.constant((np.log(wide) / rate).astype(np.float32), f"{name}.log_scale")
    v = b.scale_gradient(v, factor, name=f"{name}.scaled_gradient")
    v = b.mul(v, np.float32(rate)) if rate != 1 else v
    return b.exp(v, name=f"{name}.scale")


def rounding(b: Builder, name: str, grid: AffineGrid, count: int, learning: Learning) -> Rounding:
    """A value's grid; `count` elements of one input share it."""
    lo, hi = grid.bounds
    most = max(hi - grid.zero, grid.zero - lo)
    share = 1 / math.sqrt(max(count, 1) * most)
    scale = scale_value(b, name, np.asarray(grid.scale), share, learning)
    # Where the range begins at zero the zero point belongs at the end: it is left there.
    if not (learning.zero_points and lo < grid.zero < hi):
        zero_point = b.constant(np.asarray(grid.zero, grid.dtype.numpy), f"{name}.zero_point")
        low, high = (b.mul(scale, np.float32(v - grid.zero)) for v in (lo, hi))
        return Rounding(scale, zero_point, low, high)
    span = float(hi - lo)
    factor = min(share / (learning.rate * (grid.scale * span) ** 2), 1e30)
    z = b.constant(np.float32(grid.zero / (span * learning.rate)), f"{name}.zero_share")
    z = b.scale_gradient(z, np.float32(factor), name=f"{name}.zero_share.scaled_gradient")
    z = b.clip(b.mul(z, np.float32(span * learning.rate)), np.float32(lo), np.float32(hi))
    zero_point = b.quantize_linear(z, np.float32(1), output_dtype=grid.dtype,
                                   name=f"{name}.zero_point")  # fmt: skip
    whole = b.dequantize_linear(zero_point, np.float32(1))
    low, high = (b.mul(scale, b.sub(np.float32(v), whole)) for v in (lo, hi))
    return Rounding(scale, zero_point, low, high)


def insert_learned(
    graph: Graph, placement: Placement, grids: dict[Value, AffineGrid], learning: Learning
) -> None:
    """Let every quantized reader of a value read its quantization; one grid's values share its
    parameters.
    """
    settled = {v for v in placement.shared if on_grid(graph, placement, v)}
    for root, members in placement.groups().items():
        places = {v: [u for u in graph.uses(v) if u not in placement.direct] for v in members}
        places = {v: uses for v, uses in places.items() if uses}
        if not places:
            continue
        first = min((uses[0].node for uses in places.values()), key=lambda n: n.order)
        name = label(root)
        b = Builder(graph, before=first, prefix=f"{name}.")
        made = rounding(b, name, grids[root], _count(root), learning)
        for value, uses in places.items():
            b = Builder(graph, before=uses[0].node, prefix=f"{label(value)}.")
            x = value if value in settled else \
                b.clip(value, made.low, made.high, name=f"{label(value)}.clipped")  # fmt: skip
            q = b.quantize_linear(x, made.scale, made.zero_point, name=f"{label(value)}.quantized")
            dq = b.dequantize_linear(q, made.scale, made.zero_point,
                                     name=f"{label(value)}.dequantized")  # fmt: skip
            for use in uses:
                graph.set_operand(use.node, use.position, dq)


def insert_learned_weight(
    graph: Graph, node: Node, scale: Array, bits: int, learning: Learning
) -> None:
    """Let a product read the quantization of its weight: symmetric, a scale for each output channel
    or one for all.
    """
    old = graph.operand(node, 1)
    assert old is not None and old.array is not None
    name, axis, shape = old.node.name, weight_axis(node), old.array.shape
    top = bounds_of(DType.i8, bits)[1]
    share = 1 / math.sqrt(old.array.size / max(scale.size, 1) * top)
    b = Builder(graph, before=node, prefix=f"{name}.")
    s = scale_value(b, name, scale, share, learning)
    each = b.reshape(s, ints(b, *(-1 if i == axis else 1 for i in range(len(shape))))) \
        if scale.size > 1 else s  # fmt: skip
    low, high = (b.mul(each, np.float32(v)) for v in (-top, top))
    inside = b.min(b.max(old, low), high)
    q = b.add_op(QuantizeLinear(axis=axis, output_dtype=DType.i8), inside, s,
                 name=f"{name}.quantized")  # fmt: skip
    graph.set_operand(node, 1, b.add_op(DequantizeLinear(axis=axis), q, s,
                                        name=f"{name}.dequantized"))  # fmt: skip


def round_bias(graph: Graph, node: Node) -> None:
    """Let a quantized product have its bias, or that of its batch normalization, in whole steps of
    the accumulator, as `finalize-quantization` will write it.
    """
    x, w = (_scale(graph, graph.operand(node, i)) for i in (0, 1))
    found = _bias_of(graph, node)
    if found is None or x is None or w is None:
        return
    reader, position = found
    bias = graph.operand(reader, position)
    if bias is None or bias.array is None or bias.array.ndim != 1:
        return
    op, rest = RoundBias(), list[Value | None]()
    if isinstance(reader.op, BatchNormalization):
        op = RoundBias(epsilon=reader.op.epsilon)
        inner = graph.operand(node, 2) if len(graph.operands(node)) > 2 else None
        rest = [graph.operand(reader, i) for i in (1, 3, 4)] + [inner]
    b = Builder(graph, before=reader, prefix=f"{reader.name}.")
    made = b.add_op(op, bias, b.mul(x, w), *rest, name=f"{bias.node.name}.rounded")
    graph.set_operand(reader, position, made)


def _bias_of(graph: Graph, node: Node) -> tuple[Node, int] | None:
    """The node that adds a product's bias, and which of its operands that is."""
    uses = graph.uses(node[0])
    user = uses[0].node if len(uses) == 1 else None
    if user is not None and normalized_product(graph, user) is node:
        return user, BETA
    if takes_bias(node):
        return (node, 2) if len(graph.operands(node)) > 2 else None
    if user is not None and isinstance(user.op, Add):
        return user, 1 - uses[0].position
    return None


def _scale(graph: Graph, value: Value | None) -> Value | None:
    """What a dequantized value is scaled by."""
    if value is None or not isinstance(value.node.op, DequantizeLinear):
        return None
    return graph.operand(value.node, 1)


def label(value: Value) -> str:
    return value.node.name if value.index == 0 else f"{value.node.name}.{value.index}"


def _count(value: Value) -> int:
    """Elements of one input; dimensions that are not known count as one."""
    return math.prod(d for d in (value.shape or ())[1:] if isinstance(d, int))

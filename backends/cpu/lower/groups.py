"""Which integer ops run as one kernel: an accumulating op and what turns its result into bytes.

    conv_integer | mat_mul_integer   [-> requantize (+ one 8-bit operand) [-> lookup]]
                                     [-> dequantize_linear]
    mul_integer | sum_pool_integer   -> requantize [-> lookup, after mul_integer]

A channel shuffle (reshape, transpose, reshape) after a convolution joins its group too: where the
kernels compute it densely it is another order of the weights, else a step behind. So does
depth_to_space: each place in the block is a convolution of its own, with its part of the channels,
that writes every b-th pixel.

A group is lowered where its last node stands, when all its operands are there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir import Array, DType, Node, Value
from ...schedule.layout import round_up
from .lowering import Lowering

BYTES = (DType.u8, DType.i8)
LARGEST_JOINED = 1 << 28  # elements


@dataclass
class Rescale:
    """What a requantize does to one accumulator and at most one other operand."""

    multiplier: Array  # int64 [1] or [channels]
    shift: int
    zero: int
    lo: int
    hi: int
    other: Value | None = None
    other_zero: int = 0
    other_multiplier: int = 0

    @property
    def scale(self) -> Array:
        """m * 2^-shift, exact in double precision."""
        return self.multiplier * math.ldexp(1.0, -self.shift)

    @property
    def other_scale(self) -> float:
        return math.ldexp(float(self.other_multiplier), -self.shift)


@dataclass
class Group:
    """`first` accumulates; `last` is the group's final node."""

    first: Node
    last: Node
    rescale: Rescale | None = None
    table: Array | None = None  # u8, one entry for each of lo..hi of the rescaled value
    dequantize: Array | None = None  # float32 factors, [1] or [channels]
    factors: Array | None = None  # int64, of each output pixel's sum (sum_pool_integer)
    blocks: list[Array] | None = None  # depth_to_space: the channels of each place in the block
    deal: int = 0  # channel shuffle: so many groups of channels are dealt out in turn
    nodes: tuple[Node, ...] = ()


def find(low: Lowering) -> None:
    """Fill in `groups` (by last node) and `absorbed`."""
    for node in low.graph.nodes():
        if node not in low.live or node[0] in low.known:
            continue
        if node.op.name in ("conv_integer", "mat_mul_integer") and fits_gemm(low, node):
            group = spread(low, shuffled(low, _grown(low, node)))
        elif node.op.name in ("mul_integer", "sum_pool_integer"):
            group = _weighted(low, node) or _grown(low, node)
            if group.rescale is None or group.rescale.multiplier.size > 1 or \
                    group.rescale.other is not None:  # fmt: skip
                continue
            if node.op.name == "sum_pool_integer" and group.table is not None:
                rest = group.nodes[:-1]
                group = Group(node, rest[-1], group.rescale, factors=group.factors, nodes=rest)
        elif node.op.name in ("conv", "fused_conv"):
            group = shuffled(low, Group(node, node, nodes=(node,)))
            if not group.deal:
                continue
        else:
            continue
        low.groups[group.last] = group
        for member in group.nodes:
            if member is not group.last:
                low.absorbed[member] = group.last


def _weighted(low: Lowering, node: Node) -> Group | None:
    """sum_pool_integer -> mul by a known factor for each output pixel -> requantize: the average
    of windows that hang over the border."""
    user = only_reader(low, node[0])
    if node.op.name != "sum_pool_integer" or user is None or user.op.name != "mul":
        return None
    a, b = low.graph.operands(user)
    factors = low.array(b if a == node[0] else a)
    x = low.graph.operand(node, 0)
    assert x is not None
    if factors is None or user.type.static_shape != node.type.static_shape:
        return None
    shape = (1,) * (node.type.rank - factors.ndim) + factors.shape
    if shape[:2] != (1, 1):
        return None
    taps = math.prod(getattr(node.op, "kernel_shape", ()) or low.shape(x)[2:])
    largest = int(np.abs(factors.astype(np.int64)).max(initial=0))
    group = _grown(low, user)
    # Nothing wraps, and the factor times the multiplier is exact in double precision.
    if largest * taps * (1 << x.type.dtype.bits) >= 1 << 31 or group.rescale is None:
        return None
    if largest * int(group.rescale.multiplier.max(initial=0)) >= 1 << 53:
        return None
    wide = factors.astype(np.int64).reshape(shape)
    nodes = (node, *group.nodes)
    return Group(node, group.last, group.rescale, group.table, factors=wide, nodes=nodes)


def _grown(low: Lowering, node: Node) -> Group:
    group = Group(node, node, nodes=(node,))
    user = only_reader(low, node[0])
    if user is None:
        return group
    if user.op.name == "dequantize_linear" and node.op.name.endswith(("conv_integer", "l_integer")):
        factors = _factors(low, node, user)
        return group if factors is None else Group(
            node, user, dequantize=factors, nodes=(node, user)
        )  # fmt: skip
    if user.op.name == "cast":
        return _scaled(low, node, user) or group
    if user.op.name != "requantize":
        return group
    rescale = _rescale(low, node, user)
    if rescale is None:
        return group
    nodes = (node, user)
    reader = only_reader(low, user[0])
    if reader is not None and reader.op.name == "lookup":
        table = _table(low, reader, rescale)
        exact = rescale.other is None or user.type.dtype in BYTES or rescale.shift <= 35
        if table is not None and exact:
            return Group(node, reader, rescale, table, nodes=(*nodes, reader))
    if user.type.dtype is not DType.u8:
        return group
    return Group(node, user, rescale, nodes=nodes)


def shuffled(low: Lowering, group: Group) -> Group:
    """The group with the channel shuffle that follows it."""
    node, value = group.first, group.last[0]
    rescale = group.rescale
    if rescale is not None and rescale.other is not None:
        return group
    if node.op.name in ("conv", "fused_conv"):
        from .conv import float_fits

        if not float_fits(low, node) or low.graph.operand(node, 3) is not None:
            return group
    elif node.op.name != "conv_integer":
        return group
    chain: list[Node] = []
    for name in ("reshape", "transpose", "reshape"):
        user = only_reader(low, (chain[-1] if chain else group.last)[0])
        if user is None or user.op.name != name or low.graph.operands(user)[0] is None:
            return group
        chain.append(user)
    n, _, *rest = value.type.static_shape
    inner, perm = chain[0].type.static_shape, chain[1].op.perm  # type: ignore[attr-defined]
    swap = (0, 2, 1, *range(3, 3 + len(rest)))
    if len(inner) != len(rest) + 3 or inner[0] != n or list(inner[3:]) != rest or perm != swap:
        return group
    if chain[2].type.static_shape != value.type.static_shape or value.type.rank not in (3, 4):
        return group
    group.deal = inner[1]
    group.last, group.nodes = chain[2], (*group.nodes, *chain)
    return group


def spread(low: Lowering, group: Group) -> Group:
    """The group with the depth_to_space that follows it."""
    node, value, rescale = group.first, group.last[0], group.rescale
    user = only_reader(low, value)
    if user is None or user.op.name != "depth_to_space" or node.op.name != "conv_integer":
        return group
    c = value.type.static_shape[1]
    residual = rescale is not None and rescale.other is not None
    if residual or group.deal or value.type.rank != 4 or not is_dense(low, node, c):
        return group
    op: Any = user.op
    places, channels = op.blocksize**2, np.arange(c)
    by_place = channels.reshape(places, -1) if op.mode == "DCR" else channels.reshape(-1, places).T
    group.blocks = [np.ascontiguousarray(p) for p in by_place]
    group.last, group.nodes = user, (*group.nodes, user)
    return group


def is_dense(low: Lowering, node: Node, channels: int) -> bool:
    """Whether the kernels compute this convolution as one group (see `merged`)."""
    count = node.op.group  # type: ignore[attr-defined]
    weights = low.array(low.graph.operand(node, 1))
    depthwise = weights is not None and weights.shape[1] == 1 and count == channels > 1
    return not depthwise and merged(channels, count, low.isa.lanes) == count


def affordable(low: Lowering, weights: tuple[int, ...], groups: int) -> bool:
    """Whether groups joined with zeros stay small: a strange model could ask for terabytes."""
    times = merged(weights[0], groups, low.isa.lanes) if groups > 1 else 1
    return times == 1 or math.prod(weights) * times <= LARGEST_JOINED


def merged(channels: int, groups: int, lanes: int) -> int:
    """How many neighbouring groups are joined so that each has a vector of output channels."""
    per = channels // groups
    fitting = (m for m in range(1, groups + 1) if groups % m == 0 and per * m >= lanes)
    return next(fitting, groups)


def only_reader(low: Lowering, value: Value) -> Node | None:
    """The one node that reads a value, once."""
    uses = [u for u in low.graph.uses(value) if u.node in low.live]
    if len(uses) != 1 or low.graph.is_output(value):
        return None
    return uses[0].node


def channel_axis(node: Node) -> int:
    return node.type.rank - 1 if node.op.name == "mat_mul_integer" else 1


def _rescale(low: Lowering, node: Node, user: Node) -> Rescale | None:
    op: Any = user.op
    operands = low.graph.operands(user)
    xs, ms = operands[::2], [low.array(m) for m in operands[1::2]]
    if op.rounding != "half_even" or len(xs) > 2 or any(m is None for m in ms):
        return None
    at = xs.index(node[0])
    zeros, m = op.zeros(len(xs)), ms[at]
    assert m is not None
    if user.type.static_shape != node.type.static_shape or node.type.size == 0:
        return None
    if m.size > 1 and op.axis % node.type.rank != channel_axis(node):
        return None
    made = Rescale(m.reshape(-1).astype(np.int64), op.shift, op.zero_point, *op.bounds)
    if len(xs) == 2:
        other, factor = xs[1 - at], ms[1 - at]
        assert other is not None and factor is not None
        same = low.shape(other) == node.type.static_shape
        if other.type.dtype is not DType.u8 or factor.size != 1 or not same or other in low.known:
            return None
        made.other, made.other_zero = other, zeros[1 - at]
        made.other_multiplier = int(factor.reshape(-1)[0])
        if user.type.dtype not in BYTES and made.shift > 35:
            return None
    return made


def _table(low: Lowering, reader: Node, rescale: Rescale) -> Array | None:
    """The bytes for each index lo..hi, clamped as `lookup` says."""
    table = low.array(low.graph.operand(reader, 1))
    if table is None or table.dtype != np.uint8:
        return None
    op: Any = reader.op
    x = low.graph.operand(reader, 0)
    assert x is not None
    index = np.arange(rescale.lo, rescale.hi + 1) - op.first(x.type.dtype)
    return table[np.clip(index, 0, len(table) - 1)]


def _factors(low: Lowering, node: Node, user: Node) -> Array | None:
    """The scales of a dequantize that follows an accumulator."""
    scale, zero = [*low.graph.operands(user), None][1:3]
    factors, offset = low.array(scale), low.array(zero)
    if factors is None or factors.dtype != np.float32 or user.type.dtype is not DType.f32:
        return None
    op: Any = user.op
    if op.block_size or (zero is not None and (offset is None or np.any(offset))):
        return None
    if factors.size > 1 and op.axis % node.type.rank != channel_axis(node):
        return None
    return factors.reshape(-1)


def _scaled(low: Lowering, node: Node, cast: Node) -> Group | None:
    """cast to f32 -> mul by known factors: a dequantize in other words."""
    user = only_reader(low, cast[0])
    if cast.type.dtype is not DType.f32 or user is None or user.op.name != "mul":
        return None
    if not node.op.name.endswith(("conv_integer", "l_integer")):
        return None
    a, b = low.graph.operands(user)
    factors = low.array(b if a == cast[0] else a)
    if factors is None or user.type.static_shape != node.type.static_shape:
        return None
    shape = (1,) * (node.type.rank - factors.ndim) + factors.shape
    axis = channel_axis(node)
    if any(n != 1 for k, n in enumerate(shape) if k != axis) or node.type.size == 0:
        return None
    return Group(node, user, dequantize=factors.reshape(-1), nodes=(node, cast, user))


def fits_gemm(low: Lowering, node: Node) -> bool:
    """Whether the int8 tile kernels can run this: 8-bit data by known 8-bit weights."""
    x, w, x_zero, w_zero, bias = [*low.graph.operands(node), None, None, None][:5]
    assert x is not None and w is not None
    weights = low.array(w)
    if x.type.dtype not in BYTES or weights is None or node.type.size == 0 or weights.size == 0:
        return False
    for v in (x_zero, w_zero, bias):
        if v is not None and low.array(v) is None:
            return False
    zero = low.array(x_zero)
    if zero is not None and zero.size != 1:
        return False
    if shifted_weights(low, node) is None:
        return False
    if not affordable(low, weights.shape, getattr(node.op, "group", 1)):
        return False
    if node.op.name == "conv_integer":
        return x.type.rank in (3, 4)
    known = low.array(bias)
    columns = node.type.static_shape[-1]
    flat = known is None or known.size == 1 or (known.size == columns == known.shape[-1])
    return weights.ndim == 2 and x.type.rank >= 2 and flat


def shifted_weights(low: Lowering, node: Node) -> Array | None:
    """w - w_zero_point as s8, or None where that does not fit."""
    operands = low.graph.operands(node)
    w, zero = low.array(operands[1]), low.array(operands[3]) if len(operands) > 3 else None
    assert w is not None
    wide = w.astype(np.int16)
    if zero is not None:
        z = zero.astype(np.int16)
        if zero.size > 1 and node.op.name == "conv_integer":
            z = z.reshape(-1, *(1,) * (w.ndim - 1))
        elif zero.ndim > 1 and zero.size > 1 and zero.shape[-2:] != (1, w.shape[-1]):
            return None
        else:
            z = z.reshape(()) if zero.size == 1 else z.reshape(-1)
        wide = wide - z
    if wide.size and (wide.min() < -128 or wide.max() > 127):
        return None
    return wide.astype(np.int8)


def padded(values: Array, channels: int) -> Array:
    """One value for each of at least `channels` channels, padded to whole vectors."""
    made = np.zeros(round_up(channels, 16), values.dtype)
    made[:channels] = values if values.size > 1 else values.reshape(-1)[0]
    return made

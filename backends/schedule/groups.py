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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ...ir import Array, DType, Node, Trait, Value
from ...ir.machine import Machine
from ...ir.ops.convolution import Conv
from ...ir.ops.elementwise import Mul
from ...ir.ops.integer import ConvInteger, Lookup, MatMulInteger, Requantize, SumPoolInteger
from ...ir.ops.quantization import DequantizeLinear
from ...ir.ops.shape import Cast, DepthToSpace
from .facts import Facts

BYTES = (DType.u8, DType.i8)
LARGEST = 1 << 30  # elements of a convolution's weights: places in them are int32
LARGEST_JOINED = 1 << 28  # elements


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Group:
    """`first` accumulates; `last` is the group's final node."""

    first: Node
    last: Node
    rescale: Rescale | None = None
    table: Array | None = None  # u8, one entry for each of lo..hi of the rescaled value
    dequantize: Array | None = None  # float32 factors, [1] or [channels]
    factors: Array | None = None  # int64, of each output pixel's sum (sum_pool_integer)
    blocks: tuple[Array, ...] | None = None  # depth_to_space: channels of each place of a block
    deal: int = 0  # channel shuffle: so many groups of channels are dealt out in turn
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Groups:
    """Groups by their last node, and every other member with the last node of its group."""

    by_last: Mapping[Node, Group]
    absorbed: Mapping[Node, Node]

    @staticmethod
    def of(groups: Iterable[Group]) -> Groups:
        by_last = {g.last: g for g in groups}
        members = {n: g.last for g in by_last.values() for n in g.nodes if n is not g.last}
        return Groups(MappingProxyType(by_last), MappingProxyType(members))

    def without(self, group: Group) -> Groups:
        """The others."""
        return Groups.of(g for g in self.by_last.values() if g is not group)


def groups_of(facts: Facts, machine: Machine) -> Groups:
    """Every group of a graph."""
    todo = (n for n in facts.live_results() if n[0] not in facts.known)
    found = (_group(facts, node, machine.lanes) for node in todo)
    return Groups.of(g for g in found if g is not None)


def _group(facts: Facts, node: Node, lanes: int) -> Group | None:
    """The group that begins with this node."""
    match node.op.name:
        case "conv_integer" | "mat_mul_integer" if fits_gemm(facts, node, lanes):
            return spread(facts, shuffled(facts, _grown(facts, node), lanes), lanes)
        case "mul_integer" | "sum_pool_integer":
            return _rescaled(facts, node)
        case "conv" | "fused_conv":
            group = shuffled(facts, Group(node, node, nodes=(node,)), lanes)
            return group if group.deal else None
    return None


def _rescaled(facts: Facts, node: Node) -> Group | None:
    """A product or a sum of a window, with its requantize."""
    group = _weighted(facts, node) or _grown(facts, node)
    rescale = group.rescale
    if rescale is None or rescale.multiplier.size > 1 or rescale.other is not None:
        return None
    if isinstance(node.op, SumPoolInteger) and group.table is not None:
        rest = group.nodes[:-1]
        return Group(node, rest[-1], rescale, factors=group.factors, nodes=rest)
    return group


def _weighted(facts: Facts, node: Node) -> Group | None:
    """sum_pool_integer -> mul by a known factor for each output pixel -> requantize: the average
    of windows that hang over the border."""
    user = facts.only_reader(node[0])
    if not isinstance(node.op, SumPoolInteger) or user is None or not isinstance(user.op, Mul):
        return None
    a, b = facts.graph.operands(user)
    factors = facts.array(b if a == node[0] else a)
    x = facts.graph.operand(node, 0)
    assert x is not None
    if factors is None or user.type.static_shape != node.type.static_shape:
        return None
    shape = (1,) * (node.type.rank - factors.ndim) + factors.shape
    if shape[:2] != (1, 1):
        return None
    taps = math.prod(getattr(node.op, "kernel_shape", ()) or facts.shape(x)[2:])
    largest = int(np.abs(factors.astype(np.int64)).max(initial=0))
    group = _grown(facts, user)
    # Nothing wraps, and the factor times the multiplier is exact in double precision.
    if largest * taps * (1 << x.type.dtype.bits) >= 1 << 31 or group.rescale is None:
        return None
    if largest * int(group.rescale.multiplier.max(initial=0)) >= 1 << 53:
        return None
    wide = factors.astype(np.int64).reshape(shape)
    nodes = (node, *group.nodes)
    return Group(node, group.last, group.rescale, group.table, factors=wide, nodes=nodes)


def _grown(facts: Facts, node: Node) -> Group:
    group = Group(node, node, nodes=(node,))
    user = facts.only_reader(node[0])
    if user is None:
        return group
    if isinstance(user.op, DequantizeLinear) and Trait.INTEGER_PRODUCT in node.op.traits:
        factors = _factors(facts, node, user)
        return group if factors is None else Group(
            node, user, dequantize=factors, nodes=(node, user)
        )  # fmt: skip
    if isinstance(user.op, Cast):
        return _scaled(facts, node, user) or group
    if not isinstance(user.op, Requantize):
        return group
    rescale = _rescale(facts, node, user)
    if rescale is None:
        return group
    nodes = (node, user)
    reader = facts.only_reader(user[0])
    if reader is not None and isinstance(reader.op, Lookup):
        table = _table(facts, reader, rescale)
        exact = rescale.other is None or user.type.dtype in BYTES or rescale.shift <= 35
        if table is not None and exact:
            return Group(node, reader, rescale, table, nodes=(*nodes, reader))
    if user.type.dtype is not DType.u8:
        return group
    return Group(node, user, rescale, nodes=nodes)


def shuffled(facts: Facts, group: Group, lanes: int) -> Group:
    """The group with the channel shuffle that follows it."""
    node, value = group.first, group.last[0]
    rescale = group.rescale
    if rescale is not None and rescale.other is not None:
        return group
    if isinstance(node.op, Conv):
        if not float_fits(facts, node, lanes) or facts.graph.operand(node, 3) is not None:
            return group
    elif not isinstance(node.op, ConvInteger):
        return group
    chain: list[Node] = []
    for name in ("reshape", "transpose", "reshape"):
        user = facts.only_reader((chain[-1] if chain else group.last)[0])
        if user is None or user.op.name != name or facts.graph.operands(user)[0] is None:
            return group
        chain.append(user)
    n, _, *rest = value.type.static_shape
    inner, perm = chain[0].type.static_shape, chain[1].op.perm  # type: ignore[attr-defined]
    swap = (0, 2, 1, *range(3, 3 + len(rest)))
    if len(inner) != len(rest) + 3 or inner[0] != n or list(inner[3:]) != rest or perm != swap:
        return group
    if chain[2].type.static_shape != value.type.static_shape or value.type.rank not in (3, 4):
        return group
    return replace(group, last=chain[2], deal=inner[1], nodes=(*group.nodes, *chain))


def spread(facts: Facts, group: Group, lanes: int) -> Group:
    """The group with the depth_to_space that follows it."""
    node, value, rescale = group.first, group.last[0], group.rescale
    user = facts.only_reader(value)
    if (
        user is None
        or not isinstance(user.op, DepthToSpace)
        or not isinstance(node.op, ConvInteger)
    ):
        return group
    c = value.type.static_shape[1]
    residual = rescale is not None and rescale.other is not None
    if residual or group.deal or value.type.rank != 4 or not is_dense(facts, node, c, lanes):
        return group
    op: Any = user.op
    places, channels = op.blocksize**2, np.arange(c)
    by_place = channels.reshape(places, -1) if op.mode == "DCR" else channels.reshape(-1, places).T
    blocks = tuple(np.ascontiguousarray(p) for p in by_place)
    return replace(group, last=user, blocks=blocks, nodes=(*group.nodes, user))


def is_dense(facts: Facts, node: Node, channels: int, lanes: int) -> bool:
    """Whether the kernels compute this convolution as one group (see `merged`)."""
    count = node.op.group  # type: ignore[attr-defined]
    weights = facts.array(facts.graph.operand(node, 1))
    depthwise = weights is not None and weights.shape[1] == 1 and count == channels > 1
    return not depthwise and merged(channels, count, lanes) == count


def affordable(weights: tuple[int, ...], groups: int, lanes: int) -> bool:
    """Whether groups joined with zeros stay small: a strange model could ask for terabytes."""
    times = merged(weights[0], groups, lanes) if groups > 1 else 1
    return times == 1 or math.prod(weights) * times <= LARGEST_JOINED


def merged(channels: int, groups: int, lanes: int) -> int:
    """How many neighbouring groups are joined so that each has a vector of output channels."""
    per = channels // groups
    fitting = (m for m in range(1, groups + 1) if groups % m == 0 and per * m >= lanes)
    return next(fitting, groups)


def channel_axis(node: Node) -> int:
    return node.type.rank - 1 if isinstance(node.op, MatMulInteger) else 1


def _rescale(facts: Facts, node: Node, user: Node) -> Rescale | None:
    op: Any = user.op
    operands = facts.graph.operands(user)
    xs, ms = operands[::2], [facts.array(m) for m in operands[1::2]]
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
    if len(xs) < 2:
        return made
    other, factor = xs[1 - at], ms[1 - at]
    assert other is not None and factor is not None
    same = facts.shape(other) == node.type.static_shape
    if other.type.dtype is not DType.u8 or factor.size != 1 or not same or other in facts.known:
        return None
    if user.type.dtype not in BYTES and made.shift > 35:
        return None
    return replace(made, other=other, other_zero=zeros[1 - at],
                   other_multiplier=int(factor.reshape(-1)[0]))  # fmt: skip


def _table(facts: Facts, reader: Node, rescale: Rescale) -> Array | None:
    """The bytes for each index lo..hi, clamped as `lookup` says."""
    table = facts.array(facts.graph.operand(reader, 1))
    if table is None or table.dtype != np.uint8:
        return None
    op: Any = reader.op
    x = facts.graph.operand(reader, 0)
    assert x is not None
    index = np.arange(rescale.lo, rescale.hi + 1) - op.first(x.type.dtype)
    return table[np.clip(index, 0, len(table) - 1)]


def _factors(facts: Facts, node: Node, user: Node) -> Array | None:
    """The scales of a dequantize that follows an accumulator."""
    scale, zero = [*facts.graph.operands(user), None][1:3]
    factors, offset = facts.array(scale), facts.array(zero)
    if factors is None or factors.dtype != np.float32 or user.type.dtype is not DType.f32:
        return None
    op: Any = user.op
    if op.block_size or (zero is not None and (offset is None or np.any(offset))):
        return None
    if factors.size > 1 and op.axis % node.type.rank != channel_axis(node):
        return None
    return factors.reshape(-1)


def _scaled(facts: Facts, node: Node, cast: Node) -> Group | None:
    """cast to f32 -> mul by known factors: a dequantize in other words."""
    user = facts.only_reader(cast[0])
    if cast.type.dtype is not DType.f32 or user is None or not isinstance(user.op, Mul):
        return None
    if Trait.INTEGER_PRODUCT not in node.op.traits:
        return None
    a, b = facts.graph.operands(user)
    factors = facts.array(b if a == cast[0] else a)
    if factors is None or user.type.static_shape != node.type.static_shape:
        return None
    shape = (1,) * (node.type.rank - factors.ndim) + factors.shape
    axis = channel_axis(node)
    if any(n != 1 for k, n in enumerate(shape) if k != axis) or node.type.size == 0:
        return None
    return Group(node, user, dequantize=factors.reshape(-1), nodes=(node, cast, user))


def fits_gemm(facts: Facts, node: Node, lanes: int) -> bool:
    """Whether the int8 tile kernels can run this: 8-bit data by known 8-bit weights."""
    x, w, x_zero, w_zero, bias = [*facts.graph.operands(node), None, None, None][:5]
    assert x is not None and w is not None
    weights = facts.array(w)
    if x.type.dtype not in BYTES or weights is None or node.type.size == 0 or weights.size == 0:
        return False
    for v in (x_zero, w_zero, bias):
        if v is not None and facts.array(v) is None:
            return False
    zero = facts.array(x_zero)
    if zero is not None and zero.size != 1:
        return False
    if shifted_weights(facts, node) is None:
        return False
    if not affordable(weights.shape, getattr(node.op, "group", 1), lanes):
        return False
    if isinstance(node.op, ConvInteger):
        return x.type.rank in (3, 4)
    known = facts.array(bias)
    columns = node.type.static_shape[-1]
    flat = known is None or known.size == 1 or (known.size == columns == known.shape[-1])
    return weights.ndim == 2 and x.type.rank >= 2 and flat


def shifted_weights(facts: Facts, node: Node) -> Array | None:
    """w - w_zero_point as s8, or None where that does not fit."""
    operands = facts.graph.operands(node)
    w, zero = facts.array(operands[1]), facts.array(operands[3]) if len(operands) > 3 else None
    assert w is not None
    wide = w.astype(np.int16)
    if zero is not None:
        z = zero.astype(np.int16)
        if zero.size > 1 and isinstance(node.op, ConvInteger):
            z = z.reshape(-1, *(1,) * (w.ndim - 1))
        elif zero.ndim > 1 and zero.size > 1 and zero.shape[-2:] != (1, w.shape[-1]):
            return None
        else:
            z = z.reshape(()) if zero.size == 1 else z.reshape(-1)
        wide = wide - z
    if wide.size and (wide.min() < -128 or wide.max() > 127):
        return None
    return wide.astype(np.int8)


def float_fits(facts: Facts, node: Node, lanes: int) -> bool:
    """Whether float tile kernels can run this convolution."""
    x, weight = facts.graph.operands(node)[:2]
    assert x is not None and weight is not None
    if node.type.dtype is not DType.f32 or x.type.rank not in (3, 4):
        return False
    shape = facts.shape(weight)
    fits = affordable(shape, node.op.group, lanes)  # type: ignore[attr-defined]
    return fits and node.type.size > 0 and 0 < math.prod(shape) < LARGEST

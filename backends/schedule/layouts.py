"""Where values go, decided before any step is made: which are images with channels side by side,
how wide a border they have, and which are made in their place inside a concatenation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...ir import Node, Value
from ...ir.machine import Machine
from ...ir.ops.integer import ConvInteger, SumPoolInteger
from ...ir.ops.joining import Concat
from ...ir.ops.pooling import MaxPool
from ...ir.ops.shape import Reshape
from .facts import Facts
from .groups import Groups
from .layout import Halo
from .templates import POINTWISE
from .windows import node_geometry

# Ops whose image operand and result want channels last.
IMAGE_OPS = frozenset((
    "conv", "fused_conv", "conv_integer", "conv_transpose", "fused_conv_transpose",
    "max_pool", "average_pool", "global_average_pool", "global_max_pool", "lp_pool",
    "global_lp_pool", "sum_pool_integer",
    "conv_weight_gradient", "max_pool_gradient", "average_pool_gradient",
    "resize", "batch_normalization", "instance_normalization", "depth_to_space", "space_to_depth",
))  # fmt: skip

GRADIENTS = frozenset(("conv_weight_gradient", "max_pool_gradient"))  # of two images

ELEMENTWISE = POINTWISE | {
    "requantize",
    "lookup",
    "mul_integer",
    "quantize_linear",
    "dequantize_linear",
}  # what kernels compute in any layout


@dataclass(frozen=True)
class Layouts:
    """
    spatial   values whose channels are side by side
    halos     the border of a value's buffer
    homes     a value that is made inside another: that one, and its first channel there
    """

    spatial: frozenset[Value]
    halos: Mapping[Value, Halo]
    homes: Mapping[Value, tuple[Value, int]]


def layouts_of(facts: Facts, groups: Groups, machine: Machine) -> Layouts:
    """The layouts of all values of a graph."""
    if machine.image_order != "channels-last":
        return Layouts(frozenset(), MappingProxyType({}), MappingProxyType({}))
    spatial = spatial_values(facts, groups)
    homes = homes_of(facts, spatial)
    halos = borders(facts, homes)
    return Layouts(frozenset(spatial), MappingProxyType(halos), MappingProxyType(homes))


def spatial_values(facts: Facts, groups: Groups) -> set[Value]:
    """Images: what image ops read and write, and element-wise ops between them."""
    wanted: set[Value] = set()
    spatial: set[Value] = set()
    nodes = facts.live_results()
    for node in reversed(nodes):
        reads = [v for v in facts.graph.operands(node) if v is not None]
        if node.op.name in IMAGE_OPS:
            images = reads[:2] if node.op.name in GRADIENTS else reads[:1]
            wanted.update(v for v in images if v.type.rank >= 3)
        elif passes_layout(node):
            ranks = {v.type.rank for v in _results(node) if v in wanted}
            wanted.update(v for v in reads if v not in facts.known and v.type.rank in ranks)
    for value in (v for node in nodes for v in _results(node)):
        node = value.node
        if value.type.rank < 3:
            continue
        if node.op.name in IMAGE_OPS or (node in groups.by_last and isinstance(node.op, Reshape)):
            spatial.add(value)
        elif isinstance(node.op, Reshape) and value in wanted:
            spatial.add(value)  # a copy of it, if it takes one, is made as an image at once
        elif passes_layout(node):
            reads = [v for v in facts.graph.operands(node) if v is not None]
            same = [v for v in reads if v not in facts.known and v.type.rank == value.type.rank]
            if value in wanted or any(v in spatial for v in same):
                spatial.add(value)
    return spatial


def _results(node: Node) -> list[Value]:
    return [node[i] for i in range(len(node.results))]


def passes_layout(node: Node) -> bool:
    """Whether the op is as good in one layout as in another."""
    name = node.op.name
    return name in ELEMENTWISE or name in ("concat", "pad", "slice", "split", "fusion")


def homes_of(facts: Facts, spatial: set[Value]) -> dict[Value, tuple[Value, int]]:
    """Images that are joined along their channels are made in their place, where they can be."""
    homes: dict[Value, tuple[Value, int]] = {}
    for node in reversed(facts.live_results()):
        value = node[0]
        if not isinstance(node.op, Concat) or value not in spatial:
            continue
        if node.op.axis % value.type.rank != 1:  # type: ignore[attr-defined]
            continue
        parts = facts.graph.operands(node)
        at = 0
        for v in parts:
            assert v is not None
            fits = v in spatial and v not in homes and parts.count(v) == 1
            if fits and v not in facts.known and not facts.graph.is_output(v):
                homes[v] = (value, at)
            at += facts.shape(v)[1]
    return homes


def borders(facts: Facts, homes: Mapping[Value, tuple[Value, int]]) -> dict[Value, Halo]:
    """The widest border that the windows over each image want; convolutions are asked first, and
    the first fill asked for wins."""
    halos: dict[Value, Halo] = {}
    for first in (True, False):
        for node in facts.live_results():
            pools = "pool" in node.op.name
            if pools == first or node[0] in facts.known:
                continue
            g = node_geometry(facts, node)
            if g is None or not any(g.before + g.after):
                continue
            value = facts.graph.operands(node)[0]
            assert value is not None
            while value in homes:  # the border is that of the buffer which holds it
                value = homes[value][0]
            wanted = Halo(g.before, g.after, border_fill(facts, node))
            old = halos.get(value)
            if old is None or old.fill == wanted.fill:
                halos[value] = wanted if old is None else old.joined(wanted)
    return halos


def border_fill(facts: Facts, node: Node) -> float:
    """What padding holds for this op."""
    if isinstance(node.op, ConvInteger):
        zero = facts.graph.operand(node, 2)
        known = None if zero is None else facts.array(zero)
        return 0 if known is None else int(known.reshape(-1)[0])
    if isinstance(node.op, SumPoolInteger):
        return node.op.x_zero_point  # type: ignore[attr-defined]
    if isinstance(node.op, MaxPool):
        return -math.inf if node.type.dtype.is_float else node.type.dtype.bounds[0]
    return 0

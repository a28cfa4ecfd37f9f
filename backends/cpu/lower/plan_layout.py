"""Decisions made before lowering: layouts, halos, and homes inside concatenations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ....ir import Node, Value
from ...schedule.layout import Halo

if TYPE_CHECKING:
    from .lowering import Lowering

# Ops whose image operand and result want channels last.
IMAGE_OPS = frozenset((
    "conv", "fused_conv", "conv_integer", "conv_transpose", "fused_conv_transpose",
    "max_pool", "average_pool", "global_average_pool", "global_max_pool", "lp_pool",
    "global_lp_pool", "sum_pool_integer",
    "conv_weight_gradient", "max_pool_gradient", "average_pool_gradient",
    "resize", "batch_normalization", "instance_normalization", "depth_to_space", "space_to_depth",
))  # fmt: skip

GRADIENTS = frozenset(("conv_weight_gradient", "max_pool_gradient"))  # of two images

POINTWISE = frozenset(
    ("clip", "requantize", "lookup", "mul_integer", "quantize_linear", "dequantize_linear")
)


def plan(low: Lowering) -> None:
    """Fill in `spatial`, `halos` and `homes`."""
    spatial_values(low)
    homes(low)
    borders(low)


def homes(low: Lowering) -> None:
    """Images that are joined along their channels are made in their place, where they can be."""
    for node in reversed(live_results(low)):
        value = node[0]
        if node.op.name != "concat" or value not in low.spatial:
            continue
        if node.op.axis % value.type.rank != 1:  # type: ignore[attr-defined]
            continue
        parts = low.graph.operands(node)
        at = 0
        for v in parts:
            assert v is not None
            fits = v in low.spatial and v not in low.homes and parts.count(v) == 1
            if fits and v not in low.known and not low.graph.is_output(v):
                low.homes[v] = (value, at)
            at += low.shape(v)[1]


def root(low: Lowering, value: Value) -> Value:
    """The value whose buffer holds this one."""
    while value in low.homes:
        value = low.homes[value][0]
    return value


def borders(low: Lowering) -> None:
    """The widest border that the windows over each image want; convolutions are asked first."""
    from .images import node_geometry

    for first in (True, False):
        for node in live_results(low):
            pools = "pool" in node.op.name
            if pools == first or node[0] in low.known:
                continue
            g = node_geometry(low, node)
            if g is None or not any(g.before + g.after):
                continue
            value = low.graph.operands(node)[0]
            assert value is not None
            request_halo(low, root(low, value), g.before, g.after, border_fill(low, node))


def border_fill(low: Lowering, node: Node) -> float:
    """What padding holds for this op."""
    if node.op.name == "conv_integer":
        zero = low.graph.operand(node, 2)
        known = None if zero is None else low.array(zero)
        return 0 if known is None else int(known.reshape(-1)[0])
    if node.op.name == "sum_pool_integer":
        return node.op.x_zero_point  # type: ignore[attr-defined]
    if node.op.name == "max_pool":
        return -math.inf if node.type.dtype.is_float else node.type.dtype.bounds[0]
    return 0


def live_results(low: Lowering) -> list[Node]:
    return [n for n in low.graph.nodes() if n in low.live and n is not low.graph.result]


def pointwise(low: Lowering, node: Node) -> bool:
    """Whether a node computes each element from the same place of its operands."""
    from .elementwise import EXPRESSIONS

    return node.op.name in EXPRESSIONS or node.op.name in POINTWISE


def spatial_values(low: Lowering) -> None:
    """Images: what image ops read and write, and element-wise ops between them."""
    wanted: set[Value] = set()
    nodes = live_results(low)
    for node in reversed(nodes):
        reads = [v for v in low.graph.operands(node) if v is not None]
        if node.op.name in IMAGE_OPS:
            images = reads[:2] if node.op.name in GRADIENTS else reads[:1]
            wanted.update(v for v in images if v.type.rank >= 3)
        elif passes_layout(low, node):
            ranks = {v.type.rank for v in _results(node) if v in wanted}
            wanted.update(v for v in reads if v not in low.known and v.type.rank in ranks)
    for value in (v for node in nodes for v in _results(node)):
        node = value.node
        if value.type.rank < 3:
            continue
        if node.op.name in IMAGE_OPS or (node in low.groups and node.op.name == "reshape"):
            low.spatial.add(value)
        elif node.op.name == "reshape" and value in wanted:
            low.spatial.add(value)  # a copy of it, if it takes one, is made as an image at once
        elif passes_layout(low, node):
            reads = [v for v in low.graph.operands(node) if v is not None and v not in low.known]
            same = [v for v in reads if v.type.rank == value.type.rank]
            if value in wanted or any(v in low.spatial for v in same):
                low.spatial.add(value)


def _results(node: Node) -> list[Value]:
    return [node[i] for i in range(len(node.results))]


def passes_layout(low: Lowering, node: Node) -> bool:
    return pointwise(low, node) or node.op.name in ("concat", "pad", "slice", "split", "fusion")


def request_halo(low: Lowering, value: Value, before: tuple, after: tuple, fill: float) -> None:
    """Let `value` be made with a border at least this wide; the first fill asked for wins."""
    old = low.halos.get(value)
    if old is None:
        low.halos[value] = Halo(before, after, fill)
    elif old.fill == fill:
        low.halos[value] = Halo(
            tuple(map(max, old.before, before)), tuple(map(max, old.after, after)), fill
        )

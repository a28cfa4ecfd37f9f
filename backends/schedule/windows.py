"""Sliding windows over images: what a convolution or a pooling reads around each element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...ir import Node
from .facts import Facts


class Geometry(NamedTuple):
    """A sliding window over the spatial axes; `after` is what the windows really reach."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    out: tuple[int, ...]

    def lifted(self) -> Geometry:
        """With two spatial axes: a first one of size 1 is added to a single one."""
        if len(self.kernel) == 2:
            return self
        ones, zeros = (1,), (0,)
        return Geometry(
            ones + self.kernel, ones + self.strides, ones + self.dilations, zeros + self.before,
            zeros + self.after, ones + self.out,
        )  # fmt: skip


def geometry(op: Any, sizes: Sequence[int], kernel: Sequence[int], out: Sequence[int]) -> Geometry:
    """The window of an op with ONNX's window attributes over an input of these spatial sizes."""
    w = op.window(tuple(sizes), tuple(kernel))
    after = tuple(
        max((o - 1) * s + span - n - b, 0)
        for o, s, span, n, b in zip(out, w.strides, w.extent, sizes, w.begin)
    )
    return Geometry(w.kernel, w.strides, w.dilations, w.begin, after, tuple(out))


def node_geometry(facts: Facts, node: Node) -> Geometry | None:
    """The window of a convolution or pooling, or None for other ops."""
    name: str = node.op.name
    op: Any = node.op
    reads = facts.graph.operands(node)
    if not reads or reads[0] is None or node[0].type.rank < 3:
        return None
    sizes, out = facts.shape(reads[0])[2:], facts.shape(node[0])[2:]
    if name in ("conv", "fused_conv", "conv_integer"):
        assert reads[1] is not None
        return geometry(op, sizes, facts.shape(reads[1])[2:], out)
    if name == "conv_weight_gradient":
        assert reads[1] is not None
        return geometry(op, sizes, op.kernel_shape, facts.shape(reads[1])[2:])
    if name in ("max_pool", "average_pool", "sum_pool_integer"):
        kernel = getattr(op, "kernel_shape", ())
        return geometry(op, sizes, kernel, out) if kernel else None
    return None

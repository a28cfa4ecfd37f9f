"""Transposed convolutions of integers, as convolutions.

Along each axis, with stride s, kernel k and J = ceil(k / s),

    y[s m + r] = sum_j x[m - j] w[s j + r]          r = 0 .. s - 1

is a convolution with J taps for each phase r: o * s^2 channels, which depth_to_space puts in their
places and a slice crops. No product is made with a zero but where s does not divide k.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from ...ir import Graph, Node, Value
from ...ir.op import Array
from ...ir.ops.convolution import Conv, ConvTranspose
from ...ir.ops.fused_convolution import FusedConvTranspose
from ...ir.ops.indexing import Slice
from ...ir.ops.shape import DepthToSpace
from ..base import Outcome
from ..quantize.prepare import split_endings
from .match import WeightIntegers, dequantized_weight, integers_of, weight_of
from .scales import Refusal


def unfold_transposed(graph: Graph, node: Node, outcome: Outcome) -> bool:
    """Whether a node is a transposed convolution of dequantized integers; rewritten, if it can be,
    and remarked on otherwise.
    """
    if not isinstance(node.op, ConvTranspose | FusedConvTranspose):
        return False
    x, w = integers_of(graph, graph.operand(node, 0)), weight_of(graph, graph.operand(node, 1))
    if x is None or w is None or w.array.ndim != 4:
        return False
    try:
        stride = check(graph, node, w)
        bias = real_vector(graph, [*graph.operands(node), None][2])
    except Refusal as reason:
        outcome.missed(node, f"stays in float: {reason}")
        return True
    if isinstance(node.op, FusedConvTranspose):
        node = split_endings(graph, node, outcome)
    unfold(graph, node, w, bias, stride)
    outcome.applied("rewritten", node, "transposed convolution as a convolution of its phases")
    return True


def check(graph: Graph, node: Node, w: WeightIntegers) -> int:
    """The stride. Raises Refusal for a geometry that has no such form."""
    op = cast(ConvTranspose, node.op)
    strides = op.strides or (1, 1)
    x = graph.operand(node, 0)
    assert x is not None
    if not all(isinstance(n, int) for v in (x, node[0]) for n in (v.shape or ("",) * 3)[2:]):
        raise Refusal("the size of the image is not known yet (bind the model's dimensions)")
    if op.output_shape or op.auto_pad not in ("NOTSET", "VALID"):
        raise Refusal("its padding follows from the size of its result")
    if strides[0] != strides[1] or any(d != 1 for d in op.dilations):
        raise Refusal("its strides differ by axis or its kernel is dilated")
    if w.axis not in (None, 1):
        raise Refusal(f"its weight has scales along axis {w.axis}")
    if any(b // strides[0] > -(-k // strides[0]) - 1 for b, k in zip(op.pads, w.array.shape[2:])):
        raise Refusal("it crops more than its kernel is long")
    return strides[0]


def real_vector(graph: Graph, value: Value | None) -> Array | None:
    """A constant bias as f32, dequantized or not."""
    if value is None:
        return None
    found = weight_of(graph, value)
    if found is None and value.array is None:
        raise Refusal("its bias is not constant")
    if found is None:
        return value.array
    return (found.shifted() * found.scale).astype(np.float32)


def unfold(graph: Graph, node: Node, w: WeightIntegers, bias: Array | None, stride: int) -> None:
    op = cast(ConvTranspose, node.op)
    x, real = graph.operand(node, 0), graph.operand(node, 1)
    assert x is not None and real is not None
    repeats = stride * stride
    begins, outs = (op.pads or (0,) * 4)[:2], spatial(node[0])
    taps = [-(-k // stride) for k in w.array.shape[2:]]
    before, behind = [], []
    for size, j, begin, out in zip(spatial(x), taps, begins, outs):
        rows = -(-(begin + out) // stride) - begin // stride
        before.append(j - 1 - begin // stride)
        behind.append(max(rows - size - before[-1] + j - 1, 0))
    made = w._replace(array=phases(w, op.group, stride), axis=None if w.axis is None else 0)
    if w.axis is not None:
        made = made._replace(scale=by_phase(w.scale, op.group, repeats))
        if w.zero is not None and w.zero.size > 1:
            made = made._replace(zero=by_phase(w.zero, op.group, repeats))
    weight = dequantized_weight(graph, made, real, f"{node.name}.weight", node)
    given: list[Value | None] = [x, weight]
    if bias is not None:
        repeated = np.repeat(bias, repeats)
        given.append(graph.constant(repeated, f"{node.name}.bias", before=node))
    last = graph.add(Conv(group=op.group, pads=(*before, *behind)), *given,
                     name=f"{node.name}.columns", before=node)  # fmt: skip
    if stride > 1:
        moved = DepthToSpace(blocksize=stride, mode="CRD")
        last = graph.add(moved, last, name=f"{node.name}.image", before=node)
    starts = np.array([b % stride for b in begins])
    if starts.any() or spatial(last[0]) != outs:
        limits = (starts, starts + np.array(outs), np.array([2, 3]))
        bounds = [graph.constant(v, f"{node.name}.bounds", before=node) for v in limits]
        last = graph.add(Slice(), last, *bounds, name=f"{node.name}.cropped", before=node)
    graph.replace_all_uses(node[0], last[0])


def spatial(value: Value) -> tuple[int, ...]:
    """The known sizes behind batch and channels."""
    return cast(tuple[int, ...], (value.shape or ())[2:])


def by_phase(vector: Array, group: int, repeats: int) -> Array:
    """What each output channel of a group has, for each phase of each channel."""
    return np.tile(np.repeat(vector, repeats), group)


def phases(w: WeightIntegers, group: int, stride: int) -> Array:
    """[i, o/group, k, k] -> [o * stride^2, i/group, J, J]: a convolution's weight for each phase.
    What lies beyond the kernel is the zero point.
    """
    i, o, *kernel = w.array.shape
    taps = [-(-k // stride) for k in kernel]
    whole = np.zeros((i, o, *(j * stride for j in taps)), w.array.dtype)
    if w.zero is not None:
        whole += w.zero.astype(whole.dtype).reshape(1, -1, 1, 1)
    whole[:, :, : kernel[0], : kernel[1]] = w.array
    parts = whole.reshape(group, i // group, o, taps[0], stride, taps[1], stride)
    parts = parts[:, :, :, ::-1, :, ::-1]  # convolution counts x from the other side
    turned = parts.transpose(0, 2, 4, 6, 1, 3, 5)  # group, o, phase, phase, i, J, J
    return np.ascontiguousarray(turned).reshape(group * o * stride * stride, i // group, *taps)

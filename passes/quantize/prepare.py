"""Equal forms that quantize better, made just before quantization.

fused_conv{prelu}, fused_conv{residual_last}  ->  a convolution, prelu, add
    the first rounds before what follows it, which has integers of its own
conv_transpose(x, w), windows side by side  ->  depth_to_space(conv(x, w'))
    y[n, o, s p + k] = sum_c x[n, c, p] w[c, o, k]: a 1x1 convolution with o * s^2 channels
batch_normalization, * vector, + vector (of channels)  ->  a depthwise 1x1 convolution
    which joins the activation behind it and rounds once
x + x * g  ->  x * (g + 1)
    one rounding less, and adding 1 disappears in g's own table
"""

from __future__ import annotations

from typing import cast

import numpy as np

from ...ir import DType, Graph, Node, Op, Value, op_class
from ...ir.op import Array
from ...ir.ops.activation import Clip, PRelu
from ...ir.ops.convolution import Conv, ConvTranspose
from ...ir.ops.elementwise import Add, Mul
from ...ir.ops.fused_convolution import SLOPED, FusedConv, FusedConvTranspose
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.shape import DepthToSpace, Identity
from ..base import Outcome
from ..context import Context
from ..rewrite import erase_dead
from .functions import step_of
from .place import COMBINES, POOLS, PRODUCTS, SAME

Vector = tuple[Array, Array]
"""Scale and shift of each channel, float64."""


def prepare(graph: Graph, context: Context, outcome: Outcome) -> None:
    """Apply the rewrites above wherever they fit."""
    for node in graph.nodes():
        if node not in graph or not node.results or node.type.dtype is not DType.f32:
            continue
        if not context.gate("quantize-prepare", node.name):
            continue
        node = split_endings(graph, node, outcome)
        if isinstance(node.op, ConvTranspose):
            _unfold_transposed(graph, node, outcome)
        elif not _join_gate(graph, node, outcome):
            _affine(graph, node, outcome)
    erase_dead(graph, graph.nodes()[::-1])


def _sole_user(graph: Graph, value: Value) -> Node | None:
    uses = graph.uses(value)
    return uses[0].node if len(uses) == 1 and uses[0].node is not graph.result else None


def _activation(graph: Graph, value: Value) -> tuple[Node, str, tuple[float, ...]] | None:
    """The step that alone reads a value, as a fused activation."""
    user = _sole_user(graph, value)
    found = None if user is None else step_of(graph, user)
    if user is None or found is None or found[1] != value:
        return None
    step = found[0]
    bounds = step.interval()
    if isinstance(step.op, Clip) and bounds is not None:
        return user, "clip", (float(bounds[0]), float(bounds[1]))
    plain = all(a.kind == "float" for a in step.op.attributes) and not step.constants
    if not plain or isinstance(step.op, Identity):
        return None
    return user, step.op.name, tuple(getattr(step.op, a.name) for a in step.op.attributes)


def split_endings(graph: Graph, node: Node, outcome: Outcome) -> Node:
    """The convolution without the endings that have no integer form inside it."""
    op = node.op
    if not isinstance(op, FusedConv | FusedConvTranspose):
        return node
    x, w, bias, residual, slope = [*graph.operands(node), None, None, None][:5]
    transposed = isinstance(op, FusedConvTranspose)
    late = residual is not None and (op.residual_last or transposed or op.activation == SLOPED)
    sloped = op.activation == SLOPED
    if not late and not sloped and not transposed:
        return node
    plain: Op = ConvTranspose() if transposed else Conv()
    kept = {a.name: getattr(op, a.name) for a in plain.attributes}
    inside = op.residual_last and not sloped and not transposed  # the activation stays
    plain = op.replace(residual_last=False) if inside else plain.replace(**kept)
    made = first = graph.add(plain, x, w, bias, name=f"{node.name}.conv", before=node)
    steps: list[tuple[Op, tuple[Value, ...]]] = []
    if not inside:
        steps += _activation_of(graph, node, slope)
    if residual is not None:
        steps.insert(len(steps) if op.residual_last else 0, (Add(), (residual,)))
    for k, (step, rest) in enumerate(steps):
        made = graph.add(step, made[0], *rest, name=f"{node.name}.{k}", before=node)
    graph.replace_all_uses(node[0], made[0])
    outcome.applied("rewritten", node, "what follows the convolution as ops of their own")
    return first


def _activation_of(
    graph: Graph, node: Node, slope: Value | None
) -> list[tuple[Op, tuple[Value, ...]]]:
    """The activation of a fused convolution as an op with its further operands, if it has one."""
    op = cast(FusedConv, node.op)
    if op.activation == "clip":
        bounds = (np.asarray(v, np.float32) for v in op.params)
        return [(op_class("clip")(), tuple(
            graph.constant(v, f"{node.name}.{k}", before=node)
            for k, v in zip(("low", "high"), bounds)))]  # fmt: skip
    if slope is not None:
        assert slope.array is not None
        shape = (-1,) + (1,) * (node.type.rank - 2)
        made = graph.constant(slope.array.reshape(shape), f"{node.name}.slope", before=node)
        return [(PRelu(), (made,))]
    one = op.activation_op()
    return [] if one is None else [(one, ())]


def _unfold_transposed(graph: Graph, node: Node, outcome: Outcome) -> None:
    op = cast(ConvTranspose, node.op)
    x, w, bias = [*graph.operands(node), None][:3]
    if x is None or w is None or w.array is None or w.array.ndim != 4:
        return
    kernel = w.array.shape[2:]
    strides = op.strides or (1, 1)
    plain = not any(op.pads) and not any(op.output_padding) and not op.output_shape
    if not plain or op.auto_pad not in ("NOTSET", "VALID") or op.group != 1:
        return
    if strides != kernel or kernel[0] != kernel[1] or any(d != 1 for d in op.dilations):
        return
    c, o, s, _ = w.array.shape
    weight = np.ascontiguousarray(w.array.transpose(1, 2, 3, 0).reshape(o * s * s, c, 1, 1))
    operands: list[Value | None] = [x, graph.constant(weight, w.node.name, before=node)]
    if bias is not None:
        if bias.array is None:
            return
        repeated = np.repeat(bias.array, s * s)
        operands.append(graph.constant(repeated, bias.node.name, before=node))
    last, conv = node, cast(Conv, Conv())
    found = _activation(graph, node[0])
    if found is not None:
        last, name, params = found
        conv = FusedConv(activation=name, params=params)
    made = graph.add(conv, *operands, name=f"{node.name}.columns", before=node)
    if s > 1:
        moved = DepthToSpace(blocksize=s, mode="CRD")
        made = graph.add(moved, made, name=f"{node.name}.image", before=node)
    graph.replace_all_uses(last[0], made)
    outcome.applied("rewritten", node, "transposed convolution as a 1x1 convolution")


def _join_gate(graph: Graph, node: Node, outcome: Outcome) -> bool:
    """x + x * g -> x * (g + 1)"""
    if not isinstance(node.op, Add):
        return False
    operands = cast(list[Value], graph.operands(node))
    for x, product in (operands, operands[::-1]):
        inner = product.node
        if not isinstance(inner.op, Mul) or graph.use_count(product) != 1 or x.array is not None:
            continue
        factors = cast(list[Value], graph.operands(inner))
        if x not in factors or factors[0] == factors[1]:
            continue
        gate = factors[1 - factors.index(x)]
        if gate.array is not None or x.type != node.type:
            continue
        one = graph.constant(np.ones((), np.float32), f"{node.name}.one", before=inner)
        more = graph.add(Add(), gate, one, name=f"{node.name}.gate", before=inner)
        made = graph.add(Mul(), x, more, name=f"{node.name}.gated", before=inner)
        graph.replace_all_uses(node[0], made)
        outcome.applied("rewritten", node, "x + x * g as x * (g + 1)")
        return True
    return False


def _affine(graph: Graph, node: Node, outcome: Outcome) -> None:
    """A chain of affine maps of channels as one depthwise convolution."""
    start = channel_affine(graph, node)
    shape = node.type.shape
    if start is None or shape is None or not 3 <= len(shape) <= 5:
        return
    x, (scale, shift) = start
    if isinstance(x.node.op, Conv) and graph.use_count(x) == 1:
        return  # fusion had its reasons to leave it
    last, scalars = node, scale.size == 1
    while True:
        user = _sole_user(graph, last[0])
        following = None if user is None else channel_affine(graph, user)
        if user is None or following is None or following[0] != last[0]:
            break
        a, b = following[1]
        with np.errstate(all="ignore"):
            scale, shift, last = scale * a, shift * a + b, user
        scalars = scalars and a.size == 1
    if scalars or not np.isfinite(scale).all() or not np.isfinite(shift).all():
        return
    found = _activation(graph, last[0])
    end = last if found is None else found[0]
    wanted = PRODUCTS + SAME + COMBINES + POOLS
    if not any(isinstance(u.node.op, wanted) for u in graph.uses(end[0])):
        return
    scale, shift = np.broadcast_arrays(scale, shift)  # a factor or shift for all stands for each
    channels, rank = scale.size, len(shape)
    weight = scale.astype(np.float32).reshape(-1, *(1,) * (rank - 1))
    given = {} if found is None else {"activation": found[1], "params": found[2]}
    op = FusedConv(group=channels, **given) if found is not None else Conv(group=channels)
    made = graph.add(
        op,
        x,
        graph.constant(weight, f"{node.name}.weight", before=node),
        graph.constant(shift.astype(np.float32), f"{node.name}.shift", before=node),
        name=f"{node.name}.affine", before=node,
    )  # fmt: skip
    graph.replace_all_uses(end[0], made)
    outcome.applied("rewritten", node, "scale and shift of channels as a depthwise convolution")


def channel_affine(graph: Graph, node: Node) -> tuple[Value, Vector] | None:
    """The value that a node scales and shifts by channel, and by what."""
    operands = graph.operands(node)
    if isinstance(node.op, BatchNormalization):
        arrays = [v.array for v in operands[1:] if v is not None]
        if node.op.training_mode or len(arrays) != 4 or any(a is None for a in arrays):
            return None
        gamma, beta, mean, var = (cast(Array, a).astype(np.float64) for a in arrays)
        with np.errstate(all="ignore"):
            factor = gamma / np.sqrt(var + node.op.epsilon)
            shift = beta - mean * factor
        assert operands[0] is not None
        return operands[0], (factor, shift)
    if not isinstance(node.op, Mul | Add) or node.type.shape is None:
        return None
    for x, other in (operands, operands[::-1]):
        if x is None or other is None or other.array is None or x.array is not None:
            continue
        channels = node.type.shape[1] if len(node.type.shape) > 1 else None
        v = _channels(other.array, len(node.type.shape), channels)
        if v is None or x.type.shape != node.type.shape:
            return None
        return x, ((v, np.zeros(1)) if isinstance(node.op, Mul) else (np.ones(1), v))
    return None


def _channels(array: Array, rank: int, channels: object) -> Array | None:
    """A constant as a vector over axis 1 (or of one element)."""
    if array.size == 1:
        return array.reshape(1).astype(np.float64)
    if array.ndim > rank or array.size != channels:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    return array.reshape(-1).astype(np.float64) if shape[1] == array.size else None

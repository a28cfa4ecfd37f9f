"""Scales and shifts after or before a layer, folded into its weight and bias.

For y = layer(x; W, b) and a scale s and shift t for each output channel,

    y * s + t  =  layer(x; W * s, b * s + t)

and for a scale and shift of each input channel, where nothing is padded,

    layer(x * s + t; W, b)  =  layer(x; W * s, b + sum over the kernel of W * t)

(Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", 2018, section 3.2, for batch normalization: s = scale / sqrt(var + eps),
t = bias - mean * s). The folding is done in double precision and rounded once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ir import Array, Graph, Node, Op, Value
from ...ir.analysis.dependence import dependence
from ...ir.dependence import Relation, own_axes
from ...ir.ops.convolution import Conv, ConvTranspose
from ...ir.ops.elementwise import Div, Mul, Sub
from ...ir.ops.linear import Gemm, MatMul
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder

LAYERS = (Conv, ConvTranspose, Gemm, MatMul)


class Affine(NamedTuple):
    """y * scale + shift, each a vector of channels (float64) or None for nothing."""

    scale: Array | None = None
    shift: Array | None = None


def channel_vector(array: Array, rank: int, axis: int, size: int) -> Array | None:
    """A constant as one number for each index of `axis`, if it broadcasts so and no wider."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, size):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (size,))


def norm_affine(op: Any, scale: Array, bias: Array, mean: Array, var: Array) -> Affine:
    """Batch normalization as a scale and a shift."""
    wide = [v.astype(np.float64) for v in (scale, bias, mean, var)]
    with np.errstate(all="ignore"):
        factor = wide[0] / np.sqrt(wide[3] + op.epsilon)
        return Affine(factor, wide[1] - wide[2] * factor)


def finite(arrays: list[Array | None]) -> bool:
    return all(a is None or bool(np.all(np.isfinite(a.astype(np.float64)))) for a in arrays)


# ---- layers ------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution or matrix product with a constant weight, opened for folding."""

    node: Node
    op: Op
    x: Value
    weight: Value
    bias: Value | None
    axis: int
    """The axis of the result that counts output channels."""
    outputs: Array
    """The output channel of every element of the weight, of a shape that broadcasts to it."""

    @property
    def array(self) -> Array:
        assert self.weight.array is not None
        return self.weight.array

    @property
    def channels(self) -> int:
        return int(self.outputs.max(initial=-1)) + 1

    def scaled(self, s: Array) -> Array:
        """The weight times s for each output channel, in float64."""
        return self.array.astype(np.float64) * s[self.outputs]

    def fold(self, b: RewriteBuilder, change: Affine) -> Value | None:
        """The layer with scale and shift in it; None where a number would overflow."""
        kind = self.array.dtype
        weight = self.array if change.scale is None else self.scaled(change.scale)
        bias = self.bias_with(change)
        with np.errstate(over="ignore"):
            weight = weight.astype(kind)
            small = None if bias is None else bias.astype(kind)
        if not finite([weight, small]):
            return None
        w = self.weight if change.scale is None else b.constant(weight, self.weight.node.name)
        name = None if self.bias is None else self.bias.node.name
        c = None if small is None else b.constant(small, name or f"{self.node.name}.bias")
        op = self.op.replace(beta=1.0) if isinstance(self.op, Gemm) else self.op
        if isinstance(op, MatMul):
            made = b.mat_mul(self.x, w)
            return made if c is None else b.add(made, c)
        return b.node(op, self.x, w, c)

    def bias_with(self, change: Affine) -> Array | None:
        if self.bias is None and change.shift is None:
            return None
        total = np.zeros(self.channels)
        if self.bias is not None and self.bias.array is not None:
            given = self.bias.array.astype(np.float64).reshape(-1)
            beta = self.op.beta if isinstance(self.op, Gemm) else 1.0
            total = total + given * beta
        if change.scale is not None:
            total = total * change.scale
        return total if change.shift is None else total + change.shift


def output_channels(graph: Graph, node: Node) -> tuple[int, Array] | None:
    """The axis of the result that counts a layer's output channels, and which of them each element
    of its weight makes."""
    found = dependence(graph, node)
    axes = own_axes(found, 1)
    weight = next((d for d in found if isinstance(d, Relation) and d.operand == 1), None)
    return (axes[0], weight.index_of(axes[0])) if len(axes) == 1 and weight is not None else None


def layer_of(m: Match, node: Node) -> Layer | str:
    """The layer at a node, or why it cannot be folded into."""
    operands = [*m.graph.operands(node), None, None]
    x, weight, bias = operands[:3]
    assert x is not None and weight is not None
    if weight.array is None:
        return "the weight is not constant"
    if not weight.type.dtype.is_float:
        return "the weight is not floating point"
    if isinstance(node.op, MatMul) and (weight.array.ndim != 2 or node.type.rank < 2):
        return f"the weight has rank {weight.array.ndim}, not 2"
    found = output_channels(m.graph, node)
    if found is None:
        return "its output channels are not known"
    layer = Layer(node, node.op, x, weight, bias, *found)
    if bias is None:
        return layer
    if bias.array is None:
        return "the bias is not constant"
    rank = 1 if isinstance(node.op, Conv | ConvTranspose) else 2
    if channel_vector(bias.array, rank, rank - 1, layer.channels) is None:
        return "the bias is not one number for each channel"
    return layer


class FoldAfter(Rewrite):
    """Base of scale(layer(x)) -> layer(x): a subclass says what scale and shift its root is."""

    shared: bool

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared

    def affine(self, m: Match, layer: Layer) -> Affine | str:
        raise NotImplementedError

    def change(self, m: Match) -> tuple[Layer, Affine] | str:
        layer = layer_of(m, m.layer)
        if isinstance(layer, str):
            return layer
        change = self.affine(m, layer)
        if isinstance(change, str):
            return change
        if change.scale is not None and m.uses(layer.weight) > 1 and not self.shared:
            return "the weight is shared"
        if not finite([change.scale, change.shift]):
            return "the folded scale or shift is not finite"
        return layer, change

    def check(self, m: Match) -> Failure | None:
        found = self.change(m)
        return m.fail(found, m.layer) if isinstance(found, str) else m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        found = self.change(m)
        assert not isinstance(found, str)
        layer, change = found
        return layer.fold(b, change)


class FoldBatchNorm(FoldAfter):
    """bn(layer(x; W, b)) -> layer(x; W * s, (b - mean) * s + bias),  s = scale / sqrt(var + eps)"""

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, scale: Any, bias: Any, mean: Any, var: Any
    ) -> Pattern:
        layer = p.op(*LAYERS)(x, w, p.optional(c), uses=1, into="layer")
        return p.batch_normalization(layer, scale, bias, mean, var)

    def affine(self, m: Match, layer: Layer) -> Affine | str:
        stats = [m.array(v) for v in (m.scale, m.bias, m.mean, m.var)]
        if m.op.training_mode:
            return "batch normalization is in training mode"
        if any(s is None for s in stats):
            return "the statistics of batch normalization are not constant"
        if layer.axis != 1:
            return "batch normalization is over another axis than the channels"
        return norm_affine(m.op, *stats)  # type: ignore[arg-type]


class FoldScale(FoldAfter):
    """layer(x; W, b) * s -> layer(x; W * s, b * s), and so for division by s"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, s: Any) -> Pattern:
        layer = p.op(*LAYERS)(x, w, p.optional(c), uses=1, into="layer")
        return p.any_of(p.mul(layer, p.const(s)), p.div(layer, p.const(s)))

    def affine(self, m: Match, layer: Layer) -> Affine | str:
        s = channel_vector(m.s.array, layer.node.type.rank, layer.axis, layer.channels)
        if s is None:
            return f"the factor {m.s.type} is not one number for each channel"
        with np.errstate(all="ignore"):
            return Affine(1 / s if isinstance(m.op, Div) else s)


class FoldShift(FoldAfter):
    """layer(x; W, b) + t -> layer(x; W, b + t)"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, t: Any) -> Pattern:
        ops = (Conv, ConvTranspose, Gemm)  # a matrix product has no bias
        layer = p.op(*ops)(x, w, p.optional(c), uses=1, into="layer")
        return p.any_of(p.add(layer, p.const(t)), p.sub(layer, p.const(t)))

    def affine(self, m: Match, layer: Layer) -> Affine | str:
        t = channel_vector(m.t.array, layer.node.type.rank, layer.axis, layer.channels)
        if t is None:
            return f"the term {m.t.type} is not one number for each channel"
        return Affine(None, -t if isinstance(m.op, Sub) else t)


class ScaleBias(FoldAfter):
    """(x @ W + t) * s -> x @ (W * s) + t * s, for matrix products of any rank"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, t: Any, s: Any) -> Pattern:
        layer = p.mat_mul(x, w, uses=1, into="layer")
        total = p.add(layer, p.const(t), uses=1)
        return p.any_of(p.mul(total, p.const(s)), p.div(total, p.const(s)))

    def affine(self, m: Match, layer: Layer) -> Affine | str:
        rank = layer.node.type.rank
        s = channel_vector(m.s.array, rank, layer.axis, layer.channels)
        t = channel_vector(m.t.array, rank, layer.axis, layer.channels)
        if s is None or t is None:
            return "the factor or term is not one number for each column"
        with np.errstate(all="ignore"):
            s = 1 / s if isinstance(m.op, Div) else s
            return Affine(s, t * s)


class FoldBefore(Rewrite):
    """conv(x * s + t; W, b) -> conv(x; W * s, b + sum of W * t), the scale and shift being a batch
    normalization, or a product or sum with a constant. A shift must not meet padding, which
    pads after it.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared

    def pattern(
        self, p: PatternBuilder, x: Any, w: Any, c: Any, s: Any, bias: Any, mean: Any, var: Any
    ) -> Pattern:
        k = p.const
        norm = p.batch_normalization(x, k(s), k(bias), k(mean), k(var), uses=1, into="before")
        factor = p.any_of(p.mul(x, k(s), uses=1, into="before"),
                          p.add(x, k(s), uses=1, into="before"))  # fmt: skip
        return p.conv(p.any_of(norm, factor), w, p.optional(c))

    def affine(self, m: Match, channels: int) -> Affine | str:
        op = m.before.op
        if m.bias is not None:
            if op.training_mode:
                return "batch normalization is in training mode"
            arrays = [v.array for v in (m.s, m.bias, m.mean, m.var)]
            return norm_affine(op, *arrays)
        v = channel_vector(m.s.array, m.root.type.rank, 1, channels)
        if v is None:
            return f"the operand {m.s.type} is not one number for each channel"
        return Affine(v) if isinstance(op, Mul) else Affine(None, v)

    def change(self, m: Match) -> tuple[Layer, Affine] | str:
        layer = layer_of(m, m.root)
        if isinstance(layer, str):
            return layer
        change = self.affine(m, layer.array.shape[1] * m.op.group)
        if isinstance(change, str):
            return change
        if not m.same_type(m.x, m.before):
            return f"{m.before.op.name} broadcasts its operand"
        padded = any(m.op.pads) or m.op.auto_pad.startswith("SAME")
        if change.shift is not None and np.any(change.shift) and padded:
            return f"the convolution pads what {m.before.op.name} shifts"
        if change.scale is not None and m.uses(layer.weight) > 1 and not self.shared:
            return "the weight is shared"
        if not finite([change.scale, change.shift]):
            return "the folded scale or shift is not finite"
        return layer, change

    def check(self, m: Match) -> Failure | None:
        found = self.change(m)
        return m.fail(found) if isinstance(found, str) else m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        found = self.change(m)
        assert not isinstance(found, str)
        layer, change = found
        weight, group = layer.array.astype(np.float64), m.op.group
        shift = None
        if change.shift is not None:
            terms = weight * spread(change.shift, weight, group)
            shift = terms.sum(axis=tuple(range(1, weight.ndim)))
        scaled = weight
        if change.scale is not None:
            scaled = weight * spread(change.scale, weight, group)
        with np.errstate(over="ignore"):
            new = scaled.astype(layer.array.dtype)
        if not finite([new]):
            return None
        w = layer.weight if change.scale is None else b.constant(new, layer.weight.node.name)
        return layer._replace(x=m.x, weight=w).fold(b, Affine(None, shift))


class FoldScaleBefore(Rewrite):
    """conv(x * s + t; W) -> conv(x + t / s; W * s), also where the convolution pads: with zeros
    either way. The shift stays, one product goes.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any, s: Any, t: Any) -> Pattern:
        product = p.mul(x, p.const(s), uses=1, into="product")
        return p.conv(p.add(product, p.const(t), uses=1, into="total"), w, p.optional(c))

    def change(self, m: Match) -> tuple[Layer, Array, Array] | str:
        layer = layer_of(m, m.root)
        if isinstance(layer, str):
            return layer
        channels = layer.array.shape[1] * m.op.group
        s, t = (channel_vector(v.array, m.root.type.rank, 1, channels) for v in (m.s, m.t))
        if s is None or t is None:
            return "the factor or term is not one number for each channel"
        if not m.same_type(m.x, m.product) or not m.same_type(m.x, m.total):
            return "the factor or term broadcasts its operand"
        if m.uses(layer.weight) > 1 and not self.shared:
            return "the weight is shared"
        with np.errstate(all="ignore"):
            quotient = t / s
        # A far larger term would swallow the low bits of x.
        if not finite([s, quotient]) or np.any(np.abs(quotient) > 1e3):
            return "the term over the factor is too large"
        return layer, s, quotient

    def check(self, m: Match) -> Failure | None:
        found = self.change(m)
        return m.fail(found) if isinstance(found, str) else m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        found = self.change(m)
        assert not isinstance(found, str)
        layer, s, t = found
        kind = layer.array.dtype
        weight = (layer.array.astype(np.float64) * spread(s, layer.array, m.op.group)).astype(kind)
        if not finite([weight]):
            return None
        # As few numbers as before: one where all are equal.
        short = t[:1].reshape(()) if np.all(t == t[0]) else \
            t.reshape(-1, *(1,) * (m.root.type.rank - 2))  # fmt: skip
        total = b.add(m.x, b.constant(short.astype(kind), m.t.node.name))
        return b.node(m.op, total, b.constant(weight, layer.weight.node.name), layer.bias)


def spread(v: Array, weight: Array, group: int) -> Array:
    """Input channels' numbers as they stand against a weight (o, i / group, ...)."""
    rows = np.repeat(v.reshape(group, -1), weight.shape[0] // group, axis=0)
    return rows.reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))


RULES: tuple[type[Rewrite], ...] = (
    FoldBatchNorm, FoldScale, FoldShift, ScaleBias, FoldBefore,
    FoldScaleBefore,
)  # fmt: skip

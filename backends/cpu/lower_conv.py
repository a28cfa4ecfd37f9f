"""Convolutions and matrix products on the implicit-GEMM and depthwise kernels.

A `Layer` is what one kernel call (or two, for a tail of channels) computes, whatever op it comes
from: weights in the kernels' order, bias with zero points folded in, and an epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...ir import Array, DType, Node, Value
from . import generic
from .endings import Ending, ending_of
from .generic import Leaf
from .groups import affordable, merged
from .images import Geometry, image, lift, node_geometry
from .kernels import conv as gemm
from .kernels import depthwise, shuffle
from .kernels.conv import ConvRecord
from .kernels.depthwise import DepthwiseRecord
from .kernels.grid import LANES, share
from .kernels.shuffle import ShuffleRecord
from .layout import Halo, Tensor, round_up
from .lower import GRANULE, Lowering, lowers
from .steps import Step, Word, record_words

ITEM = {"u8": 1, "lut": 1, "s32": 4, "f32": 4, "float": 4}


@dataclass
class Layer:
    """One convolution: source and target are lifted to (n, c, h, w)."""

    weights: Array  # s8 or float32 [N, KH, KW, C / groups]
    bias: Array  # int32 or float32 [N]
    groups: int
    out: str  # an epilogue of kernels.conv
    scale: Array | None = None  # float64 [N]
    activation: str = "clamp"
    residual: Tensor | None = None
    extra: dict[str, Word] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    @property
    def other_scale(self) -> float | None:
        """The residual's multiplier, if it is known: then the fast epilogue may be chosen."""
        scale = self.extra.get("other_scale")
        return float(scale) if isinstance(scale, int | float) else None

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a group."""
        return self.groups > 1 and self.weights.shape[3] == 1 and len(self.weights) == self.groups


def emit_layer(low: Lowering, layer: Layer, source: Tensor, target: Tensor, g: Geometry) -> None:
    """The steps of a layer; source has the border, target the room that the kernels ask for."""
    macs = target.size * int(np.prod(layer.weights.shape[1:]))
    if layer.is_depthwise and layer.residual is None and layer.out != "f32":
        low.emit(_depthwise(low, layer, source, target, g, macs))
        return
    if layer.groups > 1:
        layer = merge_groups(layer, low.isa.lanes)
    groups, channels = layer.groups, layer.weights.shape[3]
    pixel, item = source.strides[3], source.item
    room = pixel // item
    # A pixel of few channels is read whole, so that a kernel row is one run.
    if item == 1 and groups == 1 and channels < room <= 4 and g.dilations[1] == 1:
        grown = np.zeros((*layer.weights.shape[:3], room), layer.weights.dtype)
        grown[..., :channels] = layer.weights
        layer = replace(layer, weights=grown)
    if source.shape[3] == 1 and g.kernel[1] == 1:
        pixel = room * item
    parts = gemm.prepare(
        layer.weights, layer.bias, layer.scale, low.isa, row=source.strides[2], pixel=pixel,
        size=(target.shape[2], target.shape[3]), images=target.shape[0],
        dilation=(g.dilations[0], g.dilations[1]),
        groups=groups, out=layer.out, residual=layer.residual is not None, threads=low.threads,
        activation=layer.activation, other_scale=layer.other_scale,
    )  # fmt: skip
    for part in parts:
        values: dict[str, Word] = {
            **part.fields,
            **first_tap(source, g),
            **strides("target", target, part.channel),
            "taps": low.constant(part.taps),
            "weights": low.constant(part.weights),
            "bias": low.constant(part.bias),
            "scale": low.constant(part.scale),
            **layer.extra,
        }
        reads = [source.buffer]
        if layer.residual is not None:
            values |= strides("other", layer.residual, part.channel)
            reads.append(layer.residual.buffer)
        words = record_words(ConvRecord, values)
        low.emit(Step(part.kernel, words, reads, [target.buffer], layer.nodes, macs))
        macs = 0


def strides(name: str, t: Tensor, channel: int = 0) -> dict[str, Word]:
    """Where a lifted tensor is, for a record."""
    return {
        name: t.ref + channel * t.item,
        f"{name}_image": t.strides[0],
        f"{name}_row": t.strides[2],
        f"{name}_pixel": t.strides[3],
    }


def first_tap(t: Tensor, g: Geometry) -> dict[str, Word]:
    """The source fields: the first tap of output pixel (0, 0), and moves by one output pixel."""
    back = g.before[0] * t.strides[2] + g.before[1] * t.strides[3]
    return {
        "source": t.ref + -back,
        "source_image": t.strides[0],
        "source_row": t.strides[2] * g.strides[0],
        "source_pixel": t.strides[3] * g.strides[1],
    }


def merge_groups(layer: Layer, lanes: int) -> Layer:
    """Join neighbouring groups, with zeros for what they do not share, until each has a vector of
    output channels."""
    n, kh, kw, c = layer.weights.shape
    per = n // layer.groups
    times = merged(n, layer.groups, lanes)
    if times == 1:
        return layer
    made = np.zeros((layer.groups // times, times, per, kh, kw, times, c), layer.weights.dtype)
    blocks = layer.weights.reshape(layer.groups // times, times, per, kh, kw, c)
    for k in range(times):
        made[:, k, :, :, :, k] = blocks[:, k]
    return replace(
        layer, weights=made.reshape(n, kh, kw, times * c), groups=layer.groups // times
    )


def reordered(layer: Layer, order: Array) -> Layer:
    """A dense layer with its output channels in another order."""
    assert layer.groups == 1
    scale = None if layer.scale is None else layer.scale[order]
    return replace(layer, weights=layer.weights[order], bias=layer.bias[order], scale=scale)


def emit_dealt(
    low: Lowering, layer: Layer, deal: int, source: Tensor, target: Tensor, g: Geometry
) -> None:
    """The steps of a layer whose output channels, in `deal` groups, are dealt out in turn: by the
    order of its weights where it is dense."""
    whole = layer if layer.is_depthwise else merge_groups(layer, low.isa.lanes)
    per = target.shape[1] // deal
    if whole.groups == 1:
        order = np.arange(deal * per).reshape(deal, per).T.reshape(-1)
        emit_layer(low, reordered(whole, order), source, target, g)
        return
    made = low.new(target.dtype, target.shape, spatial=True, names=layer.nodes)
    emit_layer(low, layer, source, made, g)
    if per < LANES or deal > shuffle.MOST or target.item not in (1, 4):
        n, _, h, w = target.shape
        a, c, *rest = made.strides
        seen = made.view((n, per, deal, h, w), (a, c, c * per, *rest))
        a, c, *rest = target.strides
        low.copy(seen, target.view((n, per, deal, h, w), (a, c * deal, c, *rest)), layer.nodes)
        return
    values = {
        **share(target.shape[2], target.shape[0], low.threads),
        "rows": target.shape[2],
        "width": target.shape[3],
        "channels": per,
        **strides("target", target),
        **strides("source", made),
        "group": per * made.item,
    }
    words = record_words(ShuffleRecord, values)
    kernel = shuffle.kernel(deal, target.item)
    low.emit(Step(kernel, words, [made.buffer], [target.buffer], layer.nodes))


def _depthwise(
    low: Lowering, layer: Layer, source: Tensor, target: Tensor, g: Geometry, macs: int
) -> Step:
    channels = round_up(len(layer.weights), LANES)
    weights = _grown(layer.weights[..., 0], channels)
    kernel = depthwise.kernel(
        (g.kernel[0], g.kernel[1]), g.strides[1], g.dilations[1], layer.out, layer.activation
    )
    packed = depthwise.pack(weights, low.isa, g.strides[1], g.dilations[1], layer.out)
    scale = np.zeros(channels) if layer.scale is None else _grown(layer.scale, channels)
    values: dict[str, Word] = {
        **share(target.shape[2], target.shape[0], low.threads),
        "rows": target.shape[2],
        "width": target.shape[3],
        "channels": channels,
        **strides("target", target),
        **first_tap(source, g),
        "tap_row": source.strides[2] * g.dilations[0],
        "tap_pixel": source.strides[3] * g.dilations[1],
        "weights": low.constant(packed),
        "bias": low.constant(_grown(layer.bias, channels)),
        "scale": low.constant(scale),
        **{k: v for k, v in layer.extra.items() if not k.startswith("other")},
    }
    words = record_words(DepthwiseRecord, values)
    return Step(kernel, words, [source.buffer], [target.buffer], layer.nodes, macs)


def _grown(values: Array, count: int) -> Array:
    """Zeros after the first axis' end."""
    if len(values) == count:
        return values
    made = np.zeros((count, *values.shape[1:]), values.dtype)
    made[: len(values)] = values
    return made


# ---- float -------------------------------------------------------------------------------------


@lowers("conv", "fused_conv")
def float_conv(low: Lowering, node: Node) -> bool:
    """Convolutions of one or two spatial axes in f32 with known weights."""
    group = low.groups.get(node)
    result = node[0]
    deal = 0
    if group is not None:
        node, deal = group.first, group.deal
    x, weight, bias, residual = [*low.graph.operands(node), None, None][:4]
    assert x is not None and weight is not None
    ending, b = ending_of(node.op), low.array(bias)
    if not float_fits(low, node) or ending is None:
        return False
    w = low.array(weight)
    g = node_geometry(low, node)
    assert g is not None and w is not None
    op: Any = node.op
    inside = residual is not None and low.shape(residual) == low.shape(node[0])
    inside = inside and ending.text == "a0"
    after = residual if not inside else None
    if after is not None and not ending.is_plain:
        return False
    other = _neighbour(low, residual) if inside and residual is not None else None
    source = image(low, x, g, 0.0)
    target = low.result(result, exact=False, granule=GRANULE)
    weights = np.ascontiguousarray(w.transpose(0, *range(2, w.ndim), 1))
    if w.ndim == 3:
        weights = weights[:, None]
    layer = Layer(
        weights, np.zeros(len(weights), np.float32) if b is None else b, op.group, "float", None,
        ending.activation, other, {"low": ending.low, "high": ending.high}, (node.name,),
    )  # fmt: skip
    if deal:
        emit_dealt(low, layer, deal, lift(source), lift(target), g.lifted())
    else:
        emit_layer(low, layer, lift(source), lift(target), g.lifted())
    _finish_by_map(low, target, ending, after, node)
    return True


def _finish_by_map(
    low: Lowering, target: Tensor, ending: Ending, residual: Value | None, node: Node
) -> None:
    if residual is not None:
        leaves = [Leaf(target), Leaf(low.tensor(residual))]
        low.emit(generic.map_step("a0 + a1", "add", target, leaves, low.threads, (node.name,)))
    ending.by_map(low, target, (node.name,))


def float_fits(low: Lowering, node: Node) -> bool:
    """Whether the float tile kernels can run this convolution."""
    x, weight, bias = [*low.graph.operands(node), None][:3]
    w = low.array(weight)
    if x is None or w is None or node.type.dtype is not DType.f32 or x.type.rank not in (3, 4):
        return False
    known = bias is None or low.array(bias) is not None
    known = known and affordable(low, w, node.op.group)  # type: ignore[attr-defined]
    return known and node.type.size > 0 and w.size > 0


def _neighbour(low: Lowering, value: Value) -> Tensor:
    """A residual operand, channels side by side, with room to read whole vectors."""
    t = low.tensor(value)
    if t.channels_last and t.buffer.space == "arena":
        return lift(t)
    made = low.new(t.dtype, t.shape, spatial=True)
    low.copy(t, made, (value.node.name,))
    return lift(made)


@lowers("conv_transpose")
def transposed_conv(low: Lowering, node: Node) -> bool:
    """In f32 with known weights: where windows do not overlap, a 1x1 convolution for each place in
    the window; else a convolution over the input spread out by zeros."""
    x, weight, bias = [*low.graph.operands(node), None][:3]
    assert x is not None and weight is not None
    op: Any = node.op
    w, b = low.array(weight), low.array(bias)
    if w is None or node.type.dtype is not DType.f32 or x.type.rank not in (3, 4):
        return False
    if (bias is not None and b is None) or node.type.size == 0 or x.type.size == 0:
        return False
    sizes = low.shape(x)[2:]
    window = op.transposed_window(sizes, w.shape[2:])
    # Weight [C, O / group, *kernel] as a convolution's [O, *kernel, C / group].
    c, per = w.shape[:2]
    grouped = w.reshape(op.group, c // op.group, per, *w.shape[2:]).swapaxes(1, 2)
    flat = grouped.reshape(op.group * per, c // op.group, *w.shape[2:])
    weights = np.moveaxis(flat, 1, -1)
    if w.ndim == 3:
        weights = weights[:, None]
    offsets = np.zeros(len(weights), np.float32) if b is None else b
    bounds: dict[str, Word] = {"low": -np.inf, "high": np.inf}
    layer = Layer(weights, offsets, op.group, "float", extra=bounds, nodes=(node.name,))
    out = node.type.static_shape[2:]
    full = tuple((n - 1) * s + e for n, s, e in zip(sizes, window.strides, window.extent))
    if window.strides == window.kernel and not any(window.begin) and full == out:
        _disjoint(low, node, x, layer, window.kernel)
        return True
    before = tuple(e - 1 - p for e, p in zip(window.extent, window.begin))
    spread = tuple((n - 1) * s + 1 for n, s in zip(sizes, window.strides))
    after = tuple(o - n - a + e - 1 for o, n, a, e in zip(out, spread, before, window.extent))
    if min(before + after) < 0:
        return False
    ones = (1,) * len(sizes)
    g = Geometry(window.kernel, ones, window.dilations, before, after, out)
    made = low.new(DType.f32, (*low.shape(x)[:2], *spread), spatial=True,
                   halo=Halo(before, after))  # fmt: skip
    low.fill(made, 0.0, (node.name,))
    steps = (*made.strides[:2], *(a * s for a, s in zip(made.strides[2:], window.strides)))
    low.copy(low.tensor(x), made.view(low.shape(x), steps), (node.name,), over=True)
    layer.weights = np.ascontiguousarray(weights[:, ::-1, ::-1])
    if w.ndim == 3:
        layer.weights = np.ascontiguousarray(weights[:, :, ::-1])
    target = low.result(node[0], exact=False, granule=GRANULE)
    emit_layer(low, layer, lift(made), lift(target), g.lifted())
    return True


def _disjoint(
    low: Lowering, node: Node, x: Value, layer: Layer, kernel: tuple[int, ...]
) -> None:
    one = (1,) * len(kernel)
    zero = (0,) * len(kernel)
    sizes = low.shape(x)[2:]
    g = Geometry(one, one, one, zero, zero, sizes).lifted()
    source = lift(image(low, x, g, 0.0))
    target = lift(low.result(node[0], exact=False, granule=GRANULE))
    a, b, h, w = target.strides
    kh, kw = (1, *kernel)[-2:]
    for y, z in np.ndindex(kh, kw):
        shape = (*target.shape[:2], *source.shape[2:])
        part = target.view(shape, (a, b, h * kh, w * kw), y * h + z * w)
        tap = np.ascontiguousarray(layer.weights[:, y : y + 1, z : z + 1])
        emit_layer(low, replace(layer, weights=tap), source, replace(part, room=target.room), g)

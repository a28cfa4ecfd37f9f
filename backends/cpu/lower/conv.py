"""Convolutions and matrix products on the implicit-GEMM and depthwise kernels.

A `Layer` is what one kernel call (or two, for a tail of channels) computes, whatever op it comes
from: weights in the kernels' order, bias with zero points folded in, and an epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ....ir import Array, Node, Value
from ...schedule.groups import float_fits, merged
from ...schedule.layout import Ref, Tensor, round_up
from ...schedule.steps import Step, Word, record_words
from ...schedule.windows import Geometry, node_geometry
from ..kernels import conv as gemm
from ..kernels import depthwise, shuffle
from ..kernels.conv import Owners
from ..kernels.conv_record import ConvRecord
from ..kernels.depthwise import DepthwiseRecord
from ..kernels.grid import LANES, share
from ..kernels.shuffle import ShuffleRecord
from . import generic
from .computed import Computed, arrays, placed
from .endings import Ending, ending_of
from .generic import Leaf
from .images import image, lift
from .lowering import GRANULE, Lowering
from .registry import lowers


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
    residual_last: bool = False  # after the activation (float)
    extra: dict[str, Word] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    computed: Computed | None = None  # float: weights and bias are places in these
    owners: Owners | None = None  # float: groups are joined

    @property
    def order(self) -> str:
        """The residual as the kernels call it."""
        return "" if self.residual is None else "last" if self.residual_last else "first"

    @property
    def other_scale(self) -> float | None:
        """The residual's multiplier, if it is known: then the fast epilogue may be chosen."""
        scale = self.extra.get("other_scale")
        return float(scale) if isinstance(scale, int | float) else None

    @property
    def is_bounded(self) -> bool:
        """Whether every rescaled sum fits in int32."""
        if self.scale is None or (self.residual is not None and self.other_scale is None):
            return False
        reach = gemm.reach(self.weights, self.bias)
        return gemm.is_bounded(self.scale, reach, self.other_scale or 0.0)

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a group."""
        return self.groups > 1 and self.weights.shape[3] == 1 and len(self.weights) == self.groups

    def placed(self, low: Lowering, weights: Array, bias: Array) -> tuple[Ref, Ref, list[Tensor]]:
        """Where packed weights and bias are, and the tensors that hold computed ones."""
        computed = self.computed
        w, made = placed(low, weights, computed and computed.weights, self.nodes)
        b, more = placed(low, bias, computed and computed.bias, self.nodes)
        return w, b, made + more


def emit_layer(low: Lowering, layer: Layer, source: Tensor, target: Tensor, g: Geometry) -> None:
    """The steps of a layer; source has the border, target the room that the kernels ask for."""
    macs = target.size * int(np.prod(layer.weights.shape[1:]))
    if layer.is_depthwise and layer.out != "f32":
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
        groups=groups, out=layer.out, residual=layer.order, threads=low.threads,
        activation=layer.activation, other_scale=layer.other_scale, tilings=low.setting.tilings,
        owners=layer.owners,
    )  # fmt: skip
    for part in parts:
        weights, bias, tensors = layer.placed(low, part.weights, part.bias)
        values: dict[str, Word] = {
            **part.fields,
            **first_tap(source, g),
            **strides("target", target, part.channel),
            "taps": low.constant(part.taps),
            "weights": weights,
            "bias": bias,
            "scale": low.constant(part.scale),
            **layer.extra,
        }
        if part.owners is not None:
            values["owners"], values["step_owners"] = map(low.constant, part.owners)
        reads = [source.buffer, *(t.buffer for t in tensors)]
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
    owners = None
    if layer.out == "float":
        rows, channels = (np.repeat(np.arange(times, dtype=np.int32), k) for k in (per, c))
        owners = Owners(np.tile(rows, layer.groups // times), channels)
    return replace(
        layer, weights=made.reshape(n, kh, kw, times * c), groups=layer.groups // times,
        owners=owners,
    )  # fmt: skip


def reordered(layer: Layer, order: Array) -> Layer:
    """A dense layer with its output channels in another order."""
    assert layer.groups == 1
    scale = None if layer.scale is None else layer.scale[order]
    owners = layer.owners and layer.owners._replace(rows=layer.owners.rows[order])
    return replace(
        layer, weights=layer.weights[order], bias=layer.bias[order], scale=scale, owners=owners
    )


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
        (g.kernel[0], g.kernel[1]), g.strides[1], g.dilations[1], layer.out, layer.activation,
        layer.order, layer.out == "u8" and layer.is_bounded,
        depthwise.tile(target.shape[3], low.isa, layer.out),
    )  # fmt: skip
    packed = depthwise.pack(weights, low.isa, g.strides[1], g.dilations[1], layer.out)
    scale = np.zeros(channels) if layer.scale is None else _grown(layer.scale, channels)
    weights, bias, tensors = layer.placed(low, packed, _grown(layer.bias, channels))
    reads = [source.buffer, *(t.buffer for t in tensors)]
    others: dict[str, Word] = {}
    if layer.residual is not None:
        others = strides("other", layer.residual)
        reads.append(layer.residual.buffer)
    values: dict[str, Word] = {
        **share(target.shape[2], target.shape[0], low.threads),
        "rows": target.shape[2],
        "width": target.shape[3],
        "channels": channels,
        **strides("target", target),
        **first_tap(source, g),
        "tap_row": source.strides[2] * g.dilations[0],
        "tap_pixel": source.strides[3] * g.dilations[1],
        "weights": weights,
        "bias": bias,
        "scale": low.constant(scale),
        **layer.extra,
        **others,
    }
    words = record_words(DepthwiseRecord, values)
    return Step(kernel, words, reads, [target.buffer], layer.nodes, macs)


def _grown(values: Array, count: int) -> Array:
    """Zeros after the first axis' end."""
    if len(values) == count:
        return values
    made = np.zeros((count, *values.shape[1:]), values.dtype)
    made[: len(values)] = values
    return made


# ---- float -------------------------------------------------------------------------------------


@dataclass
class Finish:
    """The ending and the residual of a float convolution, and which of them the kernel does."""

    node: Node
    ending: Ending
    inside: Tensor | None = None  # the residual in the kernel
    outside: Value | None = None  # the residual in a map behind it
    last: bool = False

    def put_on(self, layer: Layer) -> None:
        """Give a layer the part that its kernel does."""
        ending = self.ending
        layer.activation, layer.residual, layer.residual_last = \
            ending.activation, self.inside, self.last  # fmt: skip
        layer.extra = {"low": ending.low, "high": ending.high}
        if ending.slope is not None:
            layer.scale = np.broadcast_to(ending.slope, (len(layer.weights),))

    def by_map(self, low: Lowering, target: Tensor) -> None:
        """The rest, over the whole result."""
        nodes, leaves = (self.node.name,), [Leaf(target)]
        if self.outside is not None:
            leaves.append(Leaf(low.tensor(self.outside)))
        add = None if self.outside is None else \
            generic.map_step("a0 + a1", "add", target, leaves, low.threads, nodes)  # fmt: skip
        if add is not None and not self.last:
            low.emit(add)
        self.ending.by_map(low, target, nodes)
        if add is not None and self.last:
            low.emit(add)


def finish_of(low: Lowering, node: Node) -> Finish | None:
    """How to finish a float convolution; None where no kernel and no map does."""
    residual, slope = [*low.graph.operands(node), None, None, None][3:5]
    ending = ending_of(node.op, low.array(slope))
    if ending is None or residual is None:
        return None if ending is None else Finish(node, ending)
    last: bool = node.op.residual_last  # type: ignore[attr-defined]
    if low.shape(residual) == low.shape(node[0]) and ending.text == "a0":
        return Finish(node, ending, neighbour(low, residual), last=last)
    if not ending.is_plain and not last:
        return None
    return Finish(node, ending, outside=residual, last=last)


@lowers("conv", "fused_conv")
def float_conv(low: Lowering, node: Node) -> bool:
    """Convolutions of one or two spatial axes in f32."""
    group = low.groups.by_last.get(node)
    result = node[0]
    deal = 0
    if group is not None:
        node, deal = group.first, group.deal
    x, weight, bias = [*low.graph.operands(node), None][:3]
    assert x is not None and weight is not None
    finish = finish_of(low, node) if float_fits(low.facts, node, low.isa.lanes) else None
    if finish is None:
        return False
    w, b, computed = arrays(low, weight, bias, (node.name,))
    g = node_geometry(low.facts, node)
    assert g is not None
    op: Any = node.op
    source = image(low, x, g, 0.0)
    target = low.result(result, exact=False, granule=GRANULE)
    weights = np.ascontiguousarray(w.transpose(0, *range(2, w.ndim), 1))
    if w.ndim == 3:
        weights = weights[:, None]
    offsets = np.zeros(len(weights), np.float32) if b is None else b
    layer = Layer(weights, offsets, op.group, "float", nodes=(node.name,), computed=computed)
    finish.put_on(layer)
    if deal:
        emit_dealt(low, layer, deal, lift(source), lift(target), g.lifted())
    else:
        emit_layer(low, layer, lift(source), lift(target), g.lifted())
    finish.by_map(low, target)
    return True


def neighbour(low: Lowering, value: Value) -> Tensor:
    """A residual operand, channels side by side, with room to read whole vectors."""
    t = low.tensor(value)
    if t.channels_last and t.buffer.space == "arena":
        return lift(t)
    made = low.new(t.dtype, t.shape, spatial=True)
    low.copy(t, made, (value.node.name,))
    return lift(made)

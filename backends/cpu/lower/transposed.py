"""Transposed convolutions in f32, on the kernels of plain ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ....ir import DType, Node
from ....ir.ops.convolution import ConvTranspose
from ...schedule.groups import LARGEST
from ...schedule.layout import Halo, Tensor, round_up
from ...schedule.steps import Word
from ...schedule.windows import Geometry
from ..kernels.grid import LANES
from ..kernels.product_record import Form
from .computed import arrays
from .conv import Layer, emit_layer, finish_of
from .images import image, lift
from .lowering import GRANULE, Lowering
from .products import Product, dense_rows, emit_product, packed_columns
from .reduce import add_windows
from .registry import lowers

WORTH = 2.5  # times the work of a convolution that products with sums behind them are


@lowers("conv_transpose", "fused_conv_transpose")
def transposed_conv(low: Lowering, node: Node) -> bool:
    """In f32: where windows do not overlap, a 1x1 convolution for each place in the window; else a
    convolution over the input spread out by zeros, or products that are added window by window
    (col2im) where those are much less work."""
    x, weight, bias = [*low.graph.operands(node), None][:3]
    assert x is not None and weight is not None
    op: Any = node.op
    if node.type.dtype is not DType.f32 or x.type.rank not in (3, 4) or not \
            0 < weight.type.size < LARGEST or node.type.size == 0 or x.type.size == 0:  # fmt: skip
        return False
    sizes = low.shape(x)[2:]
    window = op.transposed_window(sizes, low.shape(weight)[2:])
    out = node.type.static_shape[2:]
    full = tuple((n - 1) * s + e for n, s, e in zip(sizes, window.strides, window.extent))
    apart = window.strides == window.extent == window.kernel and full == out
    apart = apart and not any(window.begin)
    before = tuple(e - 1 - p for e, p in zip(window.extent, window.begin))
    spread = tuple((n - 1) * s + 1 for n, s in zip(sizes, window.strides))
    after = tuple(o - n - a + e - 1 for o, n, a, e in zip(out, spread, before, window.extent))
    if not apart and _wasteful(low, node, out, sizes) and bias is None:
        return _scattered(low, node, window, sizes, out)
    known = low.array(weight)
    if not apart and known is not None and not np.isfinite(known).all():
        return False  # times the zeros between elements they would be NaN
    finish = finish_of(low, node)
    if finish is None:
        return False
    w, b, computed = arrays(low, weight, bias, (node.name,))
    weights = as_convolution(w, op.group)
    offsets = np.zeros(len(weights), np.float32) if b is None else b
    layer = Layer(weights, offsets, op.group, "float", nodes=(node.name,), computed=computed)
    finish.put_on(layer)
    target = low.result(node[0], exact=False, granule=GRANULE)
    if apart:
        one, zero = (1,) * len(sizes), (0,) * len(sizes)
        g = Geometry(one, one, one, zero, zero, sizes).lifted()
        _disjoint(low, layer, lift(image(low, x, g, 0.0)), lift(target), window.kernel, g)
    else:
        ones = (1,) * len(sizes)
        g = Geometry(window.kernel, ones, window.dilations, before, after, out)
        # Where pads take more than a window's reach away, no window begins at the first elements.
        halo = Halo(tuple(max(n, 0) for n in before), tuple(max(n, 0) for n in after))
        made = low.new(DType.f32, (*low.shape(x)[:2], *spread), spatial=True, halo=halo)
        low.fill(made, 0.0, (node.name,))
        steps = (*made.strides[:2], *(a * s for a, s in zip(made.strides[2:], window.strides)))
        low.copy(low.tensor(x), made.view(low.shape(x), steps), (node.name,), over=True)
        layer.weights = np.ascontiguousarray(
            weights[:, :, ::-1] if w.ndim == 3 else weights[:, ::-1, ::-1]
        )
        emit_layer(low, layer, lift(made), lift(target), g.lifted())
    finish.by_map(low, target)
    return True


def _wasteful(
    low: Lowering, node: Node, out: tuple[int, ...], sizes: tuple[int, ...]
) -> bool:  # fmt: skip
    """Whether a convolution would multiply by zeros more than it is worth: it computes whole
    vectors of channels at every place of the result."""
    op: Any = node.op
    if type(node.op) is not ConvTranspose or op.group > 1:
        return False
    channels = node.type.static_shape[1]
    places = math.prod(out) / math.prod(sizes)
    return places * round_up(channels, low.isa.lanes) / channels > WORTH


def _scattered(
    low: Lowering, node: Node, window: Any, sizes: tuple[int, ...], out: tuple[int, ...]
) -> bool:
    """Each input pixel times the weights of all taps, added where the window lies."""
    x, weight = low.graph.operands(node)[:2]
    assert x is not None and weight is not None
    nodes, rank = (node.name,), len(sizes)
    c, per, *kernel = low.shape(weight)
    after = tuple(max((n - 1) * s + e - b - o, 0) for n, s, e, b, o in
                  zip(sizes, window.strides, window.extent, window.begin, out))  # fmt: skip
    g = Geometry(tuple(kernel), window.strides, window.dilations, window.begin, after, sizes)
    zero = (0,) * rank
    source = lift(image(low, x, Geometry(g.kernel, g.strides, g.dilations, zero, zero, out), 0.0))
    n, _, h, w = source.shape
    taps = math.prod(kernel)
    matrix = low.new(DType.f32, (c, taps, per))
    flat = low.tensor(weight).reshape((c, per, taps))
    if flat is None:
        flat = low.dense(low.tensor(weight), nodes).reshape((c, per, taps))
    columns = matrix.reshape((c, taps * per))
    assert flat is not None and columns is not None
    low.copy(flat.permute((0, 2, 1)), matrix, nodes)
    # Channels are added in whole vectors, which may end behind the last tap.
    whole = low.new(DType.f32, (n * h * w * taps * per + LANES,))
    made = whole.slice(0, 0, n * h * w * taps * per).reshape((n, h, w, taps * per))
    assert made is not None
    product = Product(Form("float"), fields={"alpha": 1.0}, nodes=nodes)
    rows = dense_rows(low, source.permute((0, 2, 3, 1)), nodes)
    emit_product(low, rows, packed_columns(low, columns, n * h * w, nodes), made, product)
    (kw,), item = kernel[-1:], made.item
    other = made.permute((0, 3, 1, 2)).slice(1, 0, per)
    extra: dict[str, Word] = {"other_tap_row": kw * per * item, "other_tap_pixel": per * item}
    add_windows(low, node, g, other, "taps", None, extra)
    return True


def as_convolution(w: np.ndarray, group: int) -> np.ndarray:
    """Weights [C, O / group, *kernel] as a convolution's [O, KH, KW, C / group]."""
    c, per = w.shape[:2]
    grouped = w.reshape(group, c // group, per, *w.shape[2:]).swapaxes(1, 2)
    flat = grouped.reshape(group * per, c // group, *w.shape[2:])
    made = np.moveaxis(flat, 1, -1)
    return made[:, None] if w.ndim == 3 else made


def _disjoint(
    low: Lowering, layer: Layer, source: Tensor, target: Tensor, kernel: tuple[int, ...],
    g: Geometry,
) -> None:  # fmt: skip
    """One 1x1 convolution for each place of the window; all of lifted tensors."""
    kh, kw = (1, *kernel)[-2:]
    for y, z in np.ndindex(kh, kw):

        def part(t: Tensor, y: int = y, z: int = z) -> Tensor:
            a, b, h, w = t.strides
            shape = (*t.shape[:2], *source.shape[2:])
            seen = t.view(shape, (a, b, h * kh, w * kw), y * h + z * w)
            return replace(seen, room=t.room)

        tap = np.ascontiguousarray(layer.weights[:, y : y + 1, z : z + 1])
        other = None if layer.residual is None else part(layer.residual)
        emit_layer(low, replace(layer, weights=tap, residual=other), source, part(target), g)

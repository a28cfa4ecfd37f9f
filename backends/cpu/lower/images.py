"""Images as the kernels want them: channels side by side, with the border a window needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir import DType, Value
from ...schedule.layout import Halo, Tensor
from ...schedule.windows import Geometry
from . import generic
from .generic import Leaf
from .lowering import Lowering


def lift(t: Tensor) -> Tensor:
    """A tensor with two spatial axes (n, c, h, w) from one with one or two."""
    if len(t.shape) == 4:
        return t
    (n, c, w), (a, b, d) = t.shape, t.strides
    halo = None
    if t.halo is not None:
        halo = Halo((0, *t.halo.before), (0, *t.halo.after), t.halo.fill)
    return Tensor(t.buffer, t.dtype, (n, c, 1, w), (a, b, a, d), t.offset, halo, t.room)


def as_pixels(t: Tensor) -> Tensor:
    """A matrix whose last axis is contiguous, (..., m, k), as an image of one row of m pixels."""
    flat = t.reshape((int(np.prod(t.shape[:-1])), t.shape[-1]))
    assert flat is not None
    (m, k), (a, b) = flat.shape, flat.strides
    return Tensor(t.buffer, t.dtype, (1, k, 1, m), (a * m, b, a * m, a), flat.offset, None, t.room)


def image(
    low: Lowering, value: Value, g: Geometry, fill: float, *, unsigned: bool = False
) -> Tensor:
    """`value` as a channels-last tensor with a border, copied only where it is not one yet.

    `unsigned` asks for u8: an i8 tensor's elements are then shifted by 128 (and so is `fill`).
    """
    t = low.tensor(value)
    flip = unsigned and t.dtype is DType.i8
    if not flip and serves(t, g.before, g.after, fill):
        return t
    key = (value, g.before, g.after, fill, flip)
    if key not in low.variants:
        dtype = DType.u8 if flip else t.dtype
        halo = Halo(g.before, g.after, fill) if any(g.before + g.after) else None
        made = low.new(dtype, t.shape, spatial=True, halo=halo, names=(value.node.name,))
        text = "u8(i32(a0) ^ 128)" if flip else "a0"
        low.emit(
            generic.map_step(text, "to_pixels", made, [Leaf(t)], low.threads, (value.node.name,))
        )
        low.variants[key] = made
    return low.variants[key]


def serves(t: Tensor, before: Sequence[int], after: Sequence[int], fill: float) -> bool:
    """Whether a kernel can read this tensor as it is."""
    if t.buffer.space not in ("arena", "constant") or not t.channels_last:
        return False
    halo = t.halo or Halo((0,) * len(before), (0,) * len(after), fill)
    return halo.covers(before, after, fill)

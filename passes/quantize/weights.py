"""Integer weights: one scale for each output channel, chosen by the largest weight or by error.

The error of a channel is sum_k h_k (w_k - s q_k)^2 with h_k the second moment of the input that
w_k multiplies (about its mean, which the bias takes up): the expected squared error of the
channel's output if inputs were uncorrelated, i.e. the diagonal of GPTQ's Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...ir import Node
from ...ir.op import Array
from ...ir.ops.linear import Gemm, MatMul
from .grids.affine import SMALLEST, power_of_two

Estimate = Literal["max", "mse"]

LEAST_RATIO = 2.0**-12
"""Of a channel's weight scale to the layer's largest."""


@dataclass(frozen=True)
class Weights:
    """Integers with scale and zero point: vectors along `axis`, or scalars where it is None."""

    integers: Array
    scale: Array
    zero: Array | None
    axis: int | None

    def real(self) -> Array:
        scale, zero = self._spread(self.scale), 0
        if self.zero is not None:
            zero = self._spread(self.zero).astype(np.float32)
        return (self.integers.astype(np.float32) - zero) * scale

    def _spread(self, v: Array) -> Array:
        if self.axis is None:
            return v
        return v.reshape([-1 if i == self.axis else 1 for i in range(self.integers.ndim)])


def weight_axis(node: Node) -> int:
    """The axis of output channels of a product's weight."""
    layer = node.op.weighted
    assert layer is not None
    outputs, _ = layer.axes(node.op)
    return outputs if outputs >= 0 else outputs + 2  # of a matrix


def importance(node: Node, weight: Array, moments: Array | None) -> Array | None:
    """h_k for each weight, as a matrix (output channel, the rest), from moments per input channel.

    None where the moments are unknown or of no use.
    """
    if moments is None or not np.isfinite(moments).all() or not moments.any():
        return None
    axis = weight_axis(node)
    if isinstance(node.op, Gemm | MatMul):
        return np.broadcast_to(moments, (weight.shape[axis], moments.size))
    group = int(getattr(node.op, "group", 1))
    per_group = moments.reshape(group, 1, -1)
    rows = np.broadcast_to(per_group, (group, weight.shape[0] // group, weight.shape[1]))
    taps = int(np.prod(weight.shape[2:]))
    return np.repeat(rows.reshape(weight.shape[0], -1), taps, axis=1)


def quantize_weight(
    weight: Array,
    axis: int,
    *,
    bits: int = 8,
    per_channel: bool = True,
    symmetric: bool = True,
    powers: bool = False,
    estimate: Estimate = "max",
    importance: Array | None = None,
    least: Array | None = None,
) -> Weights:
    """Quantize a finite weight. `least` are scales that may not be undercut (for large biases)."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    if not per_channel:
        rows = rows.reshape(1, -1)
        importance = None if importance is None else importance.reshape(1, -1)
        least = None if least is None else least.max(keepdims=True)
    top = (1 << (bits - 1)) - 1
    low, high = np.minimum(rows.min(1), 0.0), np.maximum(rows.max(1), 0.0)
    if symmetric:
        scale, zero = np.maximum(high, -low) / top, np.zeros(len(rows))
    else:
        scale = (high - low) / (2 * top + 1)
        zero = -top - 1 - np.rint(low / np.where(scale > 0, scale, 1))
    scale = np.maximum(scale, SMALLEST)
    if rows.any():
        # Channels without weights, or with next to none, add nothing that the result's grid could
        # show; very small scales would cost the others precision in their multipliers.
        scale = np.where(rows.any(1), np.maximum(scale, scale.max() * LEAST_RATIO), scale.max())
    else:
        scale = np.ones(len(rows))
    if least is not None:
        scale = np.maximum(scale, least)
    if powers:
        scale = np.array([power_of_two(s) for s in scale])
    elif estimate == "mse" and symmetric:
        scale = _least_error(rows, scale, top, importance, least)
    scale = scale.astype(np.float32)
    lowest = -top if symmetric else -top - 1
    q = np.rint(rows / scale.astype(np.float64)[:, None]) + zero[:, None]
    integers = np.clip(q, lowest, top).astype(np.int8)
    moved = integers.reshape(np.moveaxis(weight, axis, 0).shape)
    integers = np.ascontiguousarray(np.moveaxis(moved, 0, axis))
    zeros = None if symmetric else zero.astype(np.int8)
    if per_channel:
        return Weights(integers, scale, zeros, axis)
    return Weights(integers, scale.reshape(()), None if zeros is None else zeros.reshape(()), None)


def _least_error(
    rows: Array, scale: Array, top: int, importance: Array | None, least: Array | None
) -> Array:
    best = np.full(len(rows), np.inf)
    chosen = scale.copy()
    for factor in np.linspace(1.0, 0.5, 41):
        tried = np.maximum(scale * factor, SMALLEST)
        if least is not None:
            tried = np.maximum(tried, least)
        s = tried[:, None]
        error = (np.clip(np.rint(rows / s), -top, top) * s - rows) ** 2
        total = (error if importance is None else error * importance).sum(1)
        better = total < best
        best[better], chosen[better] = total[better], tried[better]
    return chosen


def quantize_bias(bias: Array, scale: Array) -> Array:
    """bias / scale as int32, saturated (scales are chosen so that it is not)."""
    q = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(q, -(2**31) + 1, 2**31 - 1).astype(np.int32)


def least_scales(bias: Array | None, input_scale: Array, weight: Array, axis: int) -> Array | None:
    """Weight scales below which a bias would need more than 30 bits."""
    if bias is None:
        return None
    wide = np.abs(bias.astype(np.float64)).reshape(-1) / input_scale / 2.0**30
    return np.broadcast_to(wide, (weight.shape[axis],)).copy()

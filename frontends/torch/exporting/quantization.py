"""Quantizers for training. Quantized values are whole numbers in a float tensor, so that gradients
pass; rounding is the identity to them (straight-through estimator: Bengio, Leonard and Courville,
"Estimating or propagating gradients through stochastic neurons", 2013), and beyond the range there
is none (as in Jacob et al., 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....ir import DType
from ....ir.ops.common import check_axis
from ..tensors import torch_dtype
from .table import Step, computes


def spread(op: Any, v: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Scales or zero points as they broadcast to a tensor of this shape."""
    if v.numel() == 1 and v.ndim <= 1:
        return v.reshape(())
    axis = check_axis(op.axis, len(shape))
    if not op.block_size:
        return v.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return v.repeat_interleave(op.block_size, axis).narrow(axis, 0, shape[axis])


def quantized(op: Any, x: Tensor, scale: Tensor, zero: Tensor | None, dtype: DType) -> Tensor:
    """clamp(round(x / scale) + zero_point) as floats; NaN counts as 0."""
    shape = tuple(x.shape)
    # f32 does not hold 32-bit integers.
    kind = torch.float64 if dtype.bits > 16 else torch.float32 if x.dtype.itemsize < 4 else x.dtype
    steps = x.to(kind) / spread(op, scale, shape).to(kind)
    steps = steps + (torch.round(steps) - steps).detach()
    steps = torch.where(torch.isnan(steps), 0, steps)
    if zero is not None:
        steps = steps + spread(op, zero, shape).to(kind)
    low, high = dtype.bounds
    return torch.clamp(steps, low, high)


@computes("quantize_linear")
def quantize_linear(step: Step, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return quantized(step.op, x, scale, zero, step.dtypes[0])


@computes("dequantize_linear")
def dequantize_linear(step: Step, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    shape = tuple(x.shape)
    source = step.operands[0]
    assert source is not None
    steps = x.to(torch.float64 if source.dtype.bits > 16 else torch.float32)
    if zero is not None:
        steps = steps - spread(step.op, zero, shape).to(steps.dtype)
    made = torch_dtype(step.op.output_dtype) if step.op.output_dtype else scale.dtype
    return (steps * spread(step.op, scale, shape).to(steps.dtype)).to(made)

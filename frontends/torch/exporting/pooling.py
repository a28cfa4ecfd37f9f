"""Pooling and normalization."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..tensors import torch_dtype
from .linear import spatial_axes, torch_pads
from .table import Step, computes, plain, refuses

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _windows(step: Step, x: Tensor) -> tuple[Any, tuple[int, ...], list[int]]:
    """The window, the result's spatial sizes, and pads that let every window fit."""
    op, sizes = step.op, tuple(x.shape[2:])
    window = op.window(sizes, op.kernel_shape)
    out = op.window_dims(sizes, op.kernel_shape, op.ceil_mode)
    ends = [
        max((o - 1) * s + e - n - b, 0)
        for o, s, e, n, b in zip(out, window.strides, window.extent, sizes, window.begin)
    ]
    return window, out, torch_pads(window.begin, ends)


@refuses("max_pool")
def _indices(step: Step) -> str | None:
    return "a max pool with indices" if step.op.outputs > 1 else None


@refuses("batch_normalization")
def _trains(step: Step) -> str | None:
    return "training_mode of the IR" if step.op.training_mode else None


@computes("max_pool")
def max_pool(step: Step, x: Tensor) -> Tensor:
    axes = spatial_axes(x)
    window, out, pads = _windows(step, x)
    kind = x.dtype
    if not x.is_floating_point():
        x = x.to(torch.float64)  # PyTorch pools and pads floats only
    y = F.pad(x, pads, value=-math.inf) if any(pads) else x
    y = _MAX[axes](y, window.kernel, window.strides, 0, window.dilations)
    return y[(..., *(slice(o) for o in out))].to(kind)


@computes("average_pool")
def average_pool(step: Step, x: Tensor) -> Tensor:
    """The windows' sums over their counts; dilated windows are a convolution with ones."""
    axes = spatial_axes(x)
    window, out, pads = _windows(step, x)
    y = F.pad(x, pads) if any(pads) else x
    if max(window.dilations) == 1:
        sums = _MEAN[axes](y, window.kernel, window.strides) * math.prod(window.kernel)
    else:
        ones = x.new_ones(1, 1, *window.kernel)
        single = y.reshape(-1, 1, *y.shape[2:])
        conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
        sums = conv(single, ones, None, window.strides, 0, window.dilations)
        sums = sums.reshape(*x.shape[:2], *sums.shape[2:])
    counts = torch.from_numpy(step.op.counts(tuple(x.shape[2:]), window, out))
    return sums[(..., *(slice(o) for o in out))] / counts.to(x)


def _over(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


plain(lambda x: x.mean(_over(x), keepdim=True), "global_average_pool")
plain(lambda x: x.amax(_over(x), keepdim=True), "global_max_pool")


# ---- normalization -----------------------------------------------------------------------------


@computes("batch_normalization")
def batch_norm(step: Step, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor,
               var: Tensor) -> Tensor:  # fmt: skip
    """In training mode by the batch's statistics, which are mixed into `mean` and `var` (the
    variance's unbiased estimate, as PyTorch has it, where ONNX takes the biased one).
    """
    op = step.op
    return F.batch_norm(
        x, mean, var, scale, bias, step.training, 1 - op.momentum, op.epsilon
    )  # fmt: skip


@computes("instance_normalization")
def instance_norm(step: Step, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.group_norm(x, x.shape[1], scale, bias, step.op.epsilon)


@computes("group_normalization")
def group_norm(step: Step, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.group_norm(x, step.op.num_groups, scale, bias, step.op.epsilon)


@computes("layer_normalization")
def layer_norm(step: Step, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axes = tuple(range(step.op.axis % x.ndim, x.ndim))
    y = F.layer_norm(x, x.shape[axes[0] :], eps=step.op.epsilon) * scale
    y = y if bias is None else y + bias
    if step.op.outputs == 1:
        return y
    var, mean = torch.var_mean(x.to(torch_dtype(step.dtypes[1])), axes, correction=0, keepdim=True)
    return (y, mean, torch.rsqrt(var + step.op.epsilon))[: step.op.outputs]


@computes("rms_normalization")
def rms_norm(step: Step, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(step.op.axis % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + step.op.epsilon) * scale


@computes("lp_normalization")
def lp_norm(step: Step, x: Tensor) -> Tensor:
    return F.normalize(x, float(step.op.p), step.op.axis, eps=torch.finfo(x.dtype).tiny)


@computes("lrn")
def lrn(step: Step, x: Tensor) -> Tensor:
    op = step.op
    squares = F.pad(x.square().movedim(1, -1), ((op.size - 1) // 2, op.size // 2))
    sums = squares.unfold(-1, op.size, 1).sum(-1).movedim(-1, 1)
    return x / (op.bias + op.alpha / op.size * sums) ** op.beta

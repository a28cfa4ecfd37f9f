"""Convolutions, matrix products and attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ....ir.ops.fused_convolution import FusedConv
from ..tensors import torch_dtype
from .elementwise import activate
from .table import Step, computes, plain, refuses

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial_axes(x: Tensor) -> int:
    return x.ndim - 2


@refuses("conv", "conv_transpose", "fused_conv", "fused_conv_transpose", "max_pool",
         "average_pool")  # fmt: skip
def _spatial(step: Step) -> str | None:
    x = step.operands[0]
    if x is None or x.shape is None or len(x.shape) - 2 in _CONV:
        return None
    return f"a window over {len(x.shape) - 2} axes"


def torch_pads(begin: Any, end: Any) -> list[int]:
    """Pads as `F.pad` takes them: of the last axis first, before and after."""
    return [p for pair in zip(reversed(begin), reversed(end)) for p in pair]


@computes("conv")
def conv(step: Step, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = spatial_axes(x)
    window = step.op.conv_window(tuple(x.shape), tuple(weight.shape))
    padding = window.begin
    if window.begin != window.end:
        x, padding = F.pad(x, torch_pads(window.begin, window.end)), (0,) * axes
    return _CONV[axes](x, weight, bias, window.strides, padding, window.dilations, step.op.group)


@computes("conv_transpose")
def conv_transpose(step: Step, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Without padding, then cut (or filled) to the size that the op says."""
    axes, op = spatial_axes(x), step.op
    sizes, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
    window = op.transposed_window(sizes, kernel)
    y = _TRANSPOSED[axes](x, weight, None, window.strides, 0, 0, op.group, window.dilations)
    out = op.transposed_dims(sizes, kernel)
    cut = [-b for b in window.begin]
    end = [o - n - c for o, n, c in zip(out, y.shape[2:], cut)]
    y = F.pad(y, torch_pads(cut, end))
    return y if bias is None else y + bias.reshape(-1, *[1] * axes)


@computes("fused_conv", "fused_conv_transpose")
def fused_conv(step: Step, x: Tensor, weight: Tensor, bias: Tensor | None = None,
               residual: Tensor | None = None, slope: Tensor | None = None) -> Tensor:  # fmt: skip
    y = (conv if isinstance(step.op, FusedConv) else conv_transpose)(step, x, weight, bias)
    if residual is not None and not step.op.residual_last:
        y = y + residual
    y = activate(step, y, slope)
    return y + residual if residual is not None and step.op.residual_last else y


plain(torch.matmul, "mat_mul")


@computes("gemm")
def gemm(step: Step, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    op = step.op
    y = (a.T if op.transA else a) @ (b.T if op.transB else b)
    y = y if op.alpha == 1 else y * op.alpha
    return y if c is None or op.beta == 0 else y + (c if op.beta == 1 else c * op.beta)


@computes("fused_mat_mul")
def fused_mat_mul(step: Step, a: Tensor, b: Tensor, bias: Tensor | None = None,
                  residual: Tensor | None = None) -> Tensor:  # fmt: skip
    op = step.op
    y = (a.mT if op.transA else a) @ (b.mT if op.transB else b)
    y = y if op.alpha == 1 else y * op.alpha
    for term in (bias, residual):
        y = y if term is None else y + term
    return activate(step, y)


@computes("einsum")
def einsum(step: Step, *xs: Tensor) -> Tensor:
    return torch.einsum(step.op.equation.replace(" ", ""), *xs)


@refuses("attention")
def _past(step: Step) -> str | None:
    op = step.op
    more = any(o is not None for o in step.operands[4:]) or op.outputs > 1 or op.softcap
    windows = max(op.left_window_size, op.right_window_size) >= 0
    return "attention with a past, a cap, a window or several results" if more or windows else None


@computes("attention")
def attention(step: Step, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
              *_: None) -> Tensor:  # fmt: skip
    op = step.op
    flat = q.ndim == 3
    q = _heads(q, op.q_num_heads)
    k, v = _heads(k, op.kv_num_heads), _heads(v, op.kv_num_heads)
    share = q.shape[1] // k.shape[1]
    if share > 1:
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    y = _attend(step, q, k, v, mask)
    return y.transpose(1, 2).flatten(2) if flat else y


def _heads(x: Tensor, heads: int | None) -> Tensor:
    return x if x.ndim == 4 else x.unflatten(2, (heads or 1, -1)).transpose(1, 2)


def _attend(step: Step, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Written out: rows that are masked everywhere give zeros, and no gradient that is NaN."""
    scale = 1 / math.sqrt(max(q.shape[3], 1)) if step.op.scale is None else step.op.scale
    scores = (q * scale) @ k.mT
    length, total = scores.shape[2:]
    seen = torch.ones(length, total, dtype=torch.bool, device=q.device)
    if step.op.is_causal:
        seen = seen.tril()
    if mask is not None:
        short = total - mask.shape[-1]
        low = False if mask.dtype is torch.bool else -math.inf
        mask = F.pad(mask, (0, short), value=low) if short else mask
        if mask.dtype is torch.bool:
            seen = seen & mask
        else:
            seen = seen & (mask != -math.inf)
            scores = scores + torch.where(mask == -math.inf, 0, mask)
    wide = scores if step.op.softmax_precision is None else \
        scores.to(torch_dtype(step.op.softmax_precision))  # fmt: skip
    lowest = torch.finfo(wide.dtype).min
    weights = F.softmax(torch.where(seen, wide, lowest), -1)
    return torch.where(seen, weights, 0).to(q.dtype) @ v

"""Reductions, running sums, and where the extremes are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....ir.ops.reduction import ArgMax
from .table import Step, computes, real

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(name: str, run: Reduce) -> None:
    def f(step: Step, x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = () if axes is None else tuple(step.ints(axes, 1))
        over = step.op.over(given, x.ndim)
        if not over:  # PyTorch takes no axes for all of them
            return _EACH.get(name, lambda v: v)(x).to(x.dtype)
        return run(x, over, step.op.keepdims).to(x.dtype)

    computes(name)(f)


_EACH: dict[str, Callable[[Tensor], Tensor]] = {
    "reduce_l1": torch.abs, "reduce_l2": torch.abs, "reduce_sum_square": torch.square,
    "reduce_log_sum": torch.log,
}  # fmt: skip


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    y = real(x).mean(axes, keepdim=keep)
    return y if x.is_floating_point() else y.trunc()


def _extreme(f: Callable[..., Tensor], of_bool: Callable[..., Tensor], sign: int) -> Reduce:
    def run(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        if x.dtype is torch.bool:
            return of_bool(x, axes, keep)
        if not all(x.shape[a] for a in axes):  # of nothing: the type's end
            shape = x.sum(axes, keepdim=keep).shape
            end = math.inf if x.is_floating_point() else torch.iinfo(x.dtype).max
            low = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
            return torch.full(shape, end if sign < 0 else low, dtype=x.dtype, device=x.device)
        return f(x, axes, keep)

    return run


_reduction("reduce_sum", lambda x, a, k: x.sum(a, keepdim=k))
_reduction("reduce_mean", _mean)
_reduction("reduce_prod", _product)
_reduction("reduce_max", _extreme(torch.amax, torch.any, 1))
_reduction("reduce_min", _extreme(torch.amin, torch.all, -1))
_reduction("reduce_l1", lambda x, a, k: x.abs().sum(a, keepdim=k))
_reduction("reduce_l2", lambda x, a, k: torch.linalg.vector_norm(real(x), 2, a, k))
_reduction("reduce_sum_square", lambda x, a, k: x.square().sum(a, keepdim=k))
_reduction("reduce_log_sum", lambda x, a, k: x.sum(a, keepdim=k).log())
_reduction("reduce_log_sum_exp", lambda x, a, k: torch.logsumexp(real(x), a, k))


@computes("arg_max", "arg_min")
def arg(step: Step, x: Tensor) -> Tensor:
    """The first of equal elements, or the last."""
    op = step.op
    find = torch.argmax if isinstance(op, ArgMax) else torch.argmin
    if not op.select_last_index:
        return find(x, op.axis, op.keepdims)
    return x.shape[op.axis] - 1 - find(x.flip(op.axis), op.axis, op.keepdims)


def _running(name: str, run: Callable[..., Tensor], start: int) -> None:
    def f(step: Step, x: Tensor, axis: Tensor) -> Tensor:
        (a,) = step.ints(axis, 1)
        v = x.flip(a) if step.op.reverse else x
        if step.op.exclusive and v.shape[a]:
            first = torch.full_like(v.narrow(a, 0, 1), start)
            v = torch.cat([first, v.narrow(a, 0, v.shape[a] - 1)], a)
        made = run(v, a, dtype=x.dtype)
        return made.flip(a) if step.op.reverse else made

    computes(name)(f)


_running("cum_sum", torch.cumsum, 0)
_running("cum_prod", torch.cumprod, 1)


@computes("top_k")
def top_k(step: Step, x: Tensor, k: Tensor) -> Any:
    """Of equal elements the first comes first: a stable sort, not `topk`."""
    (count,) = step.ints(k, 1)
    op = step.op
    values, at = torch.sort(x, dim=op.axis, descending=op.largest, stable=True)
    return values.narrow(op.axis, 0, count), at.narrow(op.axis, 0, count)

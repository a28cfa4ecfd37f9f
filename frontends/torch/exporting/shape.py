"""Ops that change shape, join, cut, repeat, and read by index. Sizes are read from the graph where
it knows them, otherwise from the tensors that hold them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ....ir import TensorType
from ....ir.op import Abstract
from ....ir.ops.indexing import slice_bounds
from ..tensors import dtype_of, to_array, to_tensor
from .linear import torch_pads
from .table import Step, computes

_TYPE = torch.int64


@computes("shape")
def shape(step: Step, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[step.op.start : step.op.end], dtype=_TYPE, device=x.device)


@computes("size")
def size(step: Step, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=_TYPE, device=x.device)


@computes("reshape")
def reshape(step: Step, x: Tensor, sizes: Tensor) -> Tensor:
    known = Abstract(TensorType(dtype_of(x.dtype), tuple(x.shape)))
    return torch.reshape(x, step.op.resolve(known, tuple(step.ints(sizes, 1))))


@computes("flatten")
def flatten(step: Step, x: Tensor) -> Tensor:
    axis = step.op.axis % (x.ndim or 1) if step.op.axis < 0 else step.op.axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@computes("transpose")
def transpose(step: Step, x: Tensor) -> Tensor:
    return x.permute(step.op.order(x.ndim))


@computes("squeeze")
def squeeze(step: Step, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(step.ints(axes, 1)))


@computes("unsqueeze")
def unsqueeze(step: Step, x: Tensor, axes: Tensor) -> Tensor:
    where = step.ints(axes, 1)
    rank = x.ndim + len(where)
    for axis in sorted(a % rank for a in where):
        x = x.unsqueeze(axis)
    return x


@computes("expand")
def expand(step: Step, x: Tensor, sizes: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(step.ints(sizes, 1))))


@computes("tile")
def tile(step: Step, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(step.ints(repeats, 1))


@computes("depth_to_space")
def depth_to_space(step: Step, x: Tensor) -> Tensor:
    (n, c, h, w), b = x.shape, step.op.blocksize
    if step.op.mode == "DCR":
        parts = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // (b * b), h * b, w * b)


@computes("space_to_depth")
def space_to_depth(step: Step, x: Tensor) -> Tensor:
    (n, c, h, w), b = x.shape, step.op.blocksize
    parts = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b * b, h // b, w // b)


@computes("concat")
def concat(step: Step, *xs: Tensor) -> Tensor:
    return torch.cat(xs, step.op.axis)


@computes("split")
def split(step: Step, x: Tensor, sizes: Tensor | None = None) -> Any:
    axis = step.op.axis
    known = None if sizes is None else Abstract(
        TensorType(dtype_of(sizes.dtype), tuple(sizes.shape)), None, tuple(step.ints(sizes, 1))
    )  # fmt: skip
    counts: list[int] = step.op.pieces(x.shape[axis], known)
    pieces = list(torch.split(x, counts, axis))
    return pieces if len(pieces) > 1 else pieces[0]


@computes("pad")
def pad(step: Step, x: Tensor, pads: Tensor, value: Tensor | None = None,
        axes: Tensor | None = None) -> Tensor:  # fmt: skip
    """Other modes than constant take their elements by index, so that any axis can be padded."""
    amounts = step.ints(pads, 1)
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in step.ints(axes, 3)]
    begin, end = [0] * x.ndim, [0] * x.ndim
    for axis, a, b in zip(where, amounts, amounts[len(where) :]):
        begin[axis], end[axis] = a, b
    if step.op.mode == "constant":
        return F.pad(x, torch_pads(begin, end), value=0 if value is None else step.number(value, 2))
    x = F.pad(x, torch_pads([min(a, 0) for a in begin], [min(b, 0) for b in end]))
    for axis, (a, b) in enumerate(zip(begin, end)):
        if max(a, 0) or max(b, 0):
            at = step.op.sources(x.shape[axis], max(a, 0), max(b, 0))
            x = x.index_select(axis, to_tensor(at).to(x.device))
    return x


# ---- by index ----------------------------------------------------------------------------------


@computes("slice")
def slice_(step: Step, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None,
           steps: Tensor | None = None) -> Tensor:  # fmt: skip
    begin, end = step.ints(starts, 1), step.ints(ends, 2)
    where = list(range(len(begin))) if axes is None else step.ints(axes, 3)
    jump = [1] * len(begin) if steps is None else step.ints(steps, 4)
    for axis, a, b, s in zip(where, begin, end, jump):
        places = range(x.shape[axis])[python_slice(x.shape[axis], a, b, s)]
        if s > 0:
            keep = [slice(None)] * x.ndim
            keep[axis] = slice(places.start, places.stop, s)
            x = x[tuple(keep)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=_TYPE, device=x.device))
    return x


def python_slice(n: int, a: int, b: int, s: int) -> slice:
    """ONNX's clamping of a start and an end as a slice of n elements."""
    return slice(*slice_bounds(n, a, b, s))


@computes("gather")
def gather(step: Step, x: Tensor, indices: Tensor) -> Tensor:
    axis, n = step.op.axis % x.ndim, x.shape[step.op.axis]
    flat = indices.reshape(-1).to(_TYPE)
    flat = torch.where(flat < 0, flat + n, flat)
    made = x.index_select(axis, flat)
    return made.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@computes("gather_elements")
def gather_elements(step: Step, x: Tensor, indices: Tensor) -> Tensor:
    n = x.shape[step.op.axis]
    at = indices.to(_TYPE)
    return x.gather(step.op.axis, torch.where(at < 0, at + n, at))


@computes("gather_nd")
def gather_nd(step: Step, x: Tensor, indices: Tensor) -> Tensor:
    batch, at = step.op.batch_dims, indices.to(_TYPE)
    front = [torch.arange(n, device=x.device) for n in at.shape[:batch]]
    rest = at.ndim - 1
    places = [f.reshape([-1 if i == k else 1 for k in range(rest)]) for i, f in enumerate(front)]
    return x[(*places, *at.unbind(-1))]


@computes("trilu")
def trilu(step: Step, x: Tensor, k: Tensor | None = None) -> Tensor:
    shift = 0 if k is None else step.ints(k, 1)[0]
    return x.triu(shift) if step.op.upper else x.tril(shift)


@computes("one_hot")
def one_hot(step: Step, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    n = int(step.number(depth, 1))
    axis = step.op.axis % (indices.ndim + 1)
    at = indices.to(_TYPE)
    at = torch.where((at < 0) & (at >= -n), at + n, at).unsqueeze(axis)
    places = torch.arange(n, device=at.device).reshape([-1 if i == axis else 1
                                                        for i in range(at.ndim)])  # fmt: skip
    return torch.where(at == places, values[1], values[0])


# ---- made from sizes ---------------------------------------------------------------------------


@computes("range")
def range_(step: Step, *bounds: Tensor) -> Tensor:
    known = [Abstract(TensorType.of(a), a) for a in map(to_array, bounds)]
    places = torch.arange(step.op.count(*known), device=bounds[0].device)
    return bounds[0] + places.to(step.dtype) * bounds[2]


@computes("constant_of_shape")
def constant_of_shape(step: Step, sizes: Tensor) -> Tensor:
    fill = to_tensor(step.op.fill())
    return fill.to(sizes.device).expand(step.ints(sizes, 0))

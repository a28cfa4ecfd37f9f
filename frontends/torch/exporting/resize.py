"""Resizing, axis by axis: a weighted sum of elements taken by index, by the op's own rule of which
and how much. So every mode of the op is here, and gradients are those of a linear map.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ....ir.ops.common import known
from .table import Step, computes, refuses


@refuses("resize")
def _region(step: Step) -> str | None:
    crops = step.op.coordinate_transformation_mode == "tf_crop_and_resize"
    return "resizing a region" if crops else None


@computes("resize")
def resize(step: Step, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None,
           sizes: Tensor | None = None) -> Tensor:  # fmt: skip
    op = step.op
    arrays = [
        None if v is None or not v.numel() else v.detach().cpu().numpy() for v in (scales, sizes)
    ]
    probe = np.empty(tuple(x.shape), np.bool_)  # the op's rules want an array's shape only
    told = [None if a is None else known(a) for a in arrays]
    shape, factors = op.new_shape(tuple(x.shape), *told), op.factors(probe, *arrays)
    for axis, factor in zip(op.which(x.ndim), factors):
        n, m = x.shape[axis], int(shape[axis])
        if factor == 1.0 and n == m:
            continue
        x = torch.movedim(_along(step, torch.movedim(x, axis, -1), m, factor), -1, axis)
    return x


def _along(step: Step, x: Tensor, m: int, factor: float) -> Tensor:
    """The last axis by a matrix whose columns are what each element of the result sums up: the
    op's rule applied to the identity.
    """
    n = x.shape[-1]
    op = step.op
    u = op.coordinates(n, m, factor, None)
    if op.mode == "nearest":
        at = np.clip(op.nearest(u), 0, n - 1)
        return x.index_select(-1, torch.from_numpy(at).to(x.device))
    matrix = op.along(np.eye(n, dtype=np.float64), 1, u, factor)
    return x @ torch.from_numpy(matrix).to(x)


_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@refuses("grid_sample")
def _rank(step: Step) -> str | None:
    x = step.operands[0]
    rank = len(x.shape) if x is not None and x.shape is not None else 4
    fits = rank == 4 or (rank == 5 and step.op.mode != "cubic")
    return None if fits else f"{step.op.mode} sampling of {rank - 2} axes"


@computes("grid_sample")
def grid_sample(step: Step, x: Tensor, grid: Tensor) -> Tensor:
    op = step.op
    return F.grid_sample(x, grid.to(x.dtype), _MODES[op.mode], op.padding_mode, op.align_corners)

"""Interpolation. The sizes are given, or the factors, which then also place the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir import UnsupportedError, Value
from ..call import Call, Dimension, aten, rank

Sizes = Sequence[Dimension] | None
Factors = Sequence[float] | None


def resize(c: Call, x: Value, sizes: Sizes, factors: Factors, **attributes: Any) -> Value:
    axes = tuple(range(2, rank(x)))
    if factors is not None:
        if not all(isinstance(f, int | float) for f in factors):
            raise UnsupportedError("a factor that varies with the inputs' sizes is not supported")
        scales = c.b.constant(np.array(factors, np.float32))
        return c.b.resize(x, None, scales, over=axes, **attributes)
    if sizes is None:
        raise UnsupportedError("is given neither sizes nor factors")
    return c.b.resize(x, None, None, c.vector(sizes), over=axes, **attributes)


def _factors(*given: float | None) -> Factors:
    return None if any(g is None for g in given) else [g for g in given if g is not None]


def _nearest(name: str, **attributes: str) -> None:
    def by_list(c: Call, x: Value, sizes: Sizes, factors: Factors) -> Value:
        return resize(c, x, sizes, factors, **attributes)

    def by_axis(c: Call, x: Value, sizes: Sizes, *factors: float | None) -> Value:
        return resize(c, x, sizes, _factors(*factors), **attributes)

    for axes in (1, 2, 3):
        aten(f"{name}{axes}d.vec")(by_list)
        aten(f"{name}{axes}d")(by_axis)


_nearest("upsample_nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
_nearest("_upsample_nearest_exact", nearest_mode="round_prefer_ceil")


def _smooth(name: str, mode: str) -> None:
    def by_list(c: Call, x: Value, sizes: Sizes, corners: bool, factors: Factors) -> Value:
        how = "align_corners" if corners else "half_pixel"
        return resize(c, x, sizes, factors, mode=mode, coordinate_transformation_mode=how)

    def by_axis(c: Call, x: Value, sizes: Sizes, corners: bool, *factors: float | None) -> Value:
        return by_list(c, x, sizes, corners, _factors(*factors))

    aten(f"{name}.vec")(by_list)
    aten(name)(by_axis)


_smooth("upsample_linear1d", "linear")
_smooth("upsample_bilinear2d", "linear")
_smooth("upsample_trilinear3d", "linear")
_smooth("upsample_bicubic2d", "cubic")

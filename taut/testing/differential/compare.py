"""When two results are the same: type, shape, every bit of integers, floats within a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np

from taut.ir import DType
from taut.ir.op import Array

RTOL = {DType.f64: 1e-7, DType.f32: 3e-5, DType.f16: 4e-3, DType.bf16: 3e-2}
"""Relative tolerances of one op. Chains and sums are held to it against the largest element."""

_TINY = {DType.f64: 1e-300, DType.f32: 1e-30, DType.f16: 6e-8, DType.bf16: 1e-30}
"""What may be flushed to zero."""


def difference(
    want: Array, got: Array, *, sums: bool = True, factor: float = 1.0, signs: bool = False,
    slack: Array | float = 0.0,
) -> str | None:  # fmt: skip
    """What differs, in words, or None. NaN and infinities must be where they are wanted.

    `sums`: the result adds many terms, so that errors count against the largest element; without
    it they count against each element itself. `signs`: zeros have their wanted sign. `slack` is
    allowed beside, absolutely.
    """
    if want.dtype != got.dtype:
        return f"type {got.dtype}, not {want.dtype}"
    if want.shape != got.shape:
        return f"shape {list(got.shape)}, not {list(want.shape)}"
    if not want.size or want.tobytes() == got.tobytes():
        return None
    dtype = DType.of(want)
    if not dtype.is_float:
        both = np.isnan(want) & np.isnan(got) if dtype.is_minifloat else False
        return _first((want != got) & np.logical_not(both), want, got)
    with np.errstate(all="ignore"):
        a, b = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        rtol = RTOL[dtype] * factor
        scale: Any = np.abs(a)
        if sums and finite.any():
            scale = np.maximum(scale, min(float(np.abs(a[finite]).max()), 1e30))
        allowed = _TINY[dtype] + rtol * scale + slack
        if sums:
            allowed = allowed + rtol * 0.1
        close = finite & np.isfinite(b) & (np.abs(a - b) <= allowed)
        if not sums:
            close &= (a != 0) | (np.abs(b) <= slack)  # what has underflowed is zero, not nearly
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if signs:
            same &= (np.signbit(a) == np.signbit(b)) | np.isnan(a)
            close &= a != 0
    return _first(~(close | same), want, got)


def _first(bad: Array, want: Array, got: Array) -> str | None:
    if not bad.any():
        return None
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    return (f"{int(bad.sum())} of {bad.size} elements differ, first at {list(place)}: "
            f"{got[place]!s}, not {want[place]!s}")  # fmt: skip

"""Conversion to floats of 8 and 4 bits, by the tables of ONNX's Cast.

Numbers are rounded once, from f64, in which every source but the widest integers is exact (those
are beyond the largest of these types, or far from what decides the rounding). ml_dtypes itself
rounds doubles twice, through f32; it only encodes here what fits exactly.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..op import Array
from ..types import DType

ROUND_MODES = ("up", "down", "nearest")


@dataclass(frozen=True)
class Minifloat:
    """What a format holds. `step` is its smallest positive number, subnormal or not."""

    mantissa: int  # explicit bits
    lowest_exponent: int  # of a normal number
    step: float
    largest: float
    has_infinity: bool
    has_nan: bool


@functools.cache
def minifloat(dtype: DType) -> Minifloat:
    """The format of a float type of 8 or 4 bits."""
    info, kind = ml_dtypes.finfo(dtype.numpy), dtype.numpy.type
    return Minifloat(
        info.nmant, int(info.minexp), float(info.smallest_subnormal), float(info.max),
        bool(np.isinf(np.float32(kind(np.inf)))), bool(np.isnan(np.float32(kind(np.nan)))),
    )  # fmt: skip


def bounds_of(dtype: DType) -> tuple[float, float]:
    """The least and the largest number that quantizing to `dtype` gives."""
    if not dtype.is_minifloat:
        return dtype.bounds
    largest = minifloat(dtype).largest
    return -largest, largest


def to_minifloat(x: Array, to: DType, saturate: bool = True, round_mode: str = "up") -> Array:
    """f64 numbers in a float type of 8 or 4 bits, rounded to nearest, ties to even.

    What is too large becomes the largest number, infinities too; without `saturate` an infinity, or
    NaN where the type has none. f4e2m1fn has neither: it always saturates, and NaN becomes 0.
    f8e8m0fnu holds powers of two, see `_to_exponent`; `round_mode` concerns it alone.
    """
    form = minifloat(to)
    if to is DType.f8e8m0fnu:
        return _encoded(_to_exponent(x, form, saturate, round_mode), to)
    made = _rounded(x, form)
    over = np.abs(made) > form.largest
    if saturate or not form.has_nan:
        made = np.where(over, np.copysign(form.largest, made), made)
    else:
        beyond = np.inf if form.has_infinity else np.nan
        made = np.where(over, np.copysign(beyond, made), made)
    return _encoded(made if form.has_nan else np.where(np.isnan(made), 0.0, made), to)


def _rounded(x: Array, form: Minifloat) -> Array:
    """x on the grid that the format has without a largest number; infinities and NaN stay."""
    finite = np.where(np.isfinite(x), x, 0.0)
    _, exponent = np.frexp(finite)  # |x| is in [2^(exponent-1), 2^exponent)
    last = np.maximum(exponent - 1, form.lowest_exponent) - form.mantissa
    return np.where(np.isfinite(x), np.ldexp(np.rint(np.ldexp(finite, -last)), last), x)


def _to_exponent(x: Array, form: Minifloat, saturate: bool, round_mode: str) -> Array:
    """x as a power of two from 2^-127 to 2^127: the next one `up` or `down`, or the `nearest` (the
    upper one where x is halfway). What is outside, 0, negative numbers and infinities among it,
    becomes the nearer end, or without `saturate` NaN.
    """
    inside = np.clip(np.where(np.isnan(x), 1.0, x), form.step, form.largest)
    fraction, exponent = np.frexp(inside)  # fraction is in [0.5, 1)
    least = {"down": 1.0, "nearest": 0.75, "up": np.nextafter(0.5, 1.0)}[round_mode]
    made = np.ldexp(1.0, np.where(fraction >= least, exponent, exponent - 1))
    unknown = np.isnan(x) if saturate else np.isnan(x) | (x < form.step) | (x > form.largest)
    return np.where(unknown, np.nan, made)


def _encoded(x: Array, to: DType) -> Array:
    """f64 numbers that the type holds exactly; a NaN keeps its sign where the type's has one."""
    return x.astype(np.float32).astype(to.numpy)

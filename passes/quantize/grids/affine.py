"""Affine grids: integers of 2 to 8 bits with a scale and a zero point, and their arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np

from ....ir import Builder, DType, Value
from ....ir.op import Array
from ....ir.ops.activation import Clip
from ....ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ..grid import Grid, register_grid

Scheme = Literal["asymmetric", "symmetric", "power-of-two"]

SMALLEST, LARGEST = 2.0**-60, 2.0**60
"""Bounds of every scale: the product of two, which scales a bias, is still a normal float32."""


@register_grid
@dataclass(frozen=True)
class AffineGrid(Grid):
    """real = (q - zero) * scale for q of `dtype`; `scale` is a float32 number.

    With `scales` each channel (index of axis 1) has its own, and `scale` is the largest. With
    `bits` only 2^bits of the integers are used, from 0 on (from -2^(bits-1) on if signed).
    """

    schemes: ClassVar[tuple[str, ...]] = ("asymmetric", "symmetric", "power-of-two")
    lowers: ClassVar[bool] = True

    scale: float
    zero: int
    dtype: DType = DType.u8
    scales: tuple[float, ...] = ()
    bits: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest integer."""
        return bounds_of(self.dtype, self.bits)

    @property
    def step(self) -> Array:
        """The scale as float64: a scalar, or a vector of channels."""
        return np.asarray(self.scales or self.scale, np.float64)

    @property
    def low(self) -> float:
        return (self.bounds[0] - self.zero) * self.scale

    @property
    def high(self) -> float:
        return (self.bounds[1] - self.zero) * self.scale

    @property
    def levels(self) -> Array:
        low, high = self.bounds
        return (np.arange(low, high + 1) - self.zero) * float(self.scale)

    def encode(self, x: Array) -> Array:
        """Integers of `dtype`, bit for bit as the op quantize_linear has them."""
        low, high = self.bounds
        with np.errstate(all="ignore"):
            q = np.rint(x.astype(np.float32) / np.float32(self.scale)) + np.float32(self.zero)
        q = np.where(np.isnan(q), np.float32(self.zero), q)
        return np.clip(q, low, high).astype(self.dtype.numpy)

    def decode(self, codes: Array) -> Array:
        return (codes.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)

    @classmethod
    def covering(cls, low: float, high: float, scheme: str) -> AffineGrid:
        return grid_of(low, high, cast(Scheme, scheme))

    def read(self, b: Builder, codes: Value, name: str) -> Value:
        return self._read(b, codes, *self._parameters(b, name), name)

    def round(self, b: Builder, x: Value, name: str, on_grid: bool = False) -> Value:
        """quantize_linear and dequantize_linear. Grids of fewer bits than their type has clip
        first: clip(x, (lo - zero) * scale, (hi - zero) * scale)."""
        scale, zero_point = self._parameters(b, name)
        if self.bounds != self.dtype.bounds and not on_grid:
            steps = self.step.astype(np.float32)
            bounds = [b.constant(np.float32(q - self.zero) * steps, f"{name}.bound")
                      for q in self.bounds]  # fmt: skip
            x = b.add_op(Clip(), x, *bounds, name=f"{name}.clipped")
        codes = b.add_op(QuantizeLinear(), x, scale, zero_point, name=f"{name}.quantized")
        return self._read(b, codes, scale, zero_point, name)

    def _parameters(self, b: Builder, name: str) -> tuple[Value, Value]:
        steps = self.step.astype(np.float32)
        scale = b.constant(steps, f"{name}.scale")
        zero = np.full(steps.shape, self.zero, self.dtype.numpy)
        return scale, b.constant(zero, f"{name}.zero_point")

    def _read(self, b: Builder, codes: Value, scale: Value, zero: Value, name: str) -> Value:
        return b.add_op(DequantizeLinear(), codes, scale, zero, name=f"{name}.dequantized")


def bounded_scale(scale: float) -> float:
    """A scale as float32 within the bounds; zero, denormal and NaN become the smallest."""
    if not scale > SMALLEST:
        return SMALLEST
    return float(np.float32(min(scale, LARGEST)))


def power_of_two(scale: float) -> float:
    """The smallest power of two that is not below `scale`."""
    mantissa, exponent = math.frexp(scale)
    return 2.0 ** (exponent - 1 if mantissa == 0.5 else exponent)


def bounds_of(dtype: DType, bits: int | None = None) -> tuple[int, int]:
    """The least and the largest integer of a type, or of `bits` bits within it."""
    low, high = dtype.bounds
    if bits is None:
        return low, high
    return (0, (1 << bits) - 1) if low == 0 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def grid_of(
    low: float, high: float, scheme: Scheme, dtype: DType = DType.u8, bits: int | None = None
) -> AffineGrid:
    """The grid that covers [low, high] and holds zero exactly.

    asymmetric    the whole of the range on the whole of the integers
    symmetric     zero in the middle of the integers (u8: 128), or at their low end where the
                  range has no negative part
    power-of-two  symmetric, with the scale rounded up to a power of two
    A range of no extent (a constant zero) gets scale 1, so that its zeros stay zeros.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = bounds_of(dtype, bits)
    middle = (least + most + 1) // 2
    if low == high:
        return AffineGrid(1.0, least if scheme == "asymmetric" else middle, dtype, bits=bits)
    if scheme == "asymmetric":
        scale = bounded_scale((high - low) / (most - least))
        zero = min(max(least - round(low / scale), least), most)
        return AffineGrid(scale, zero, dtype, bits=bits)
    if low == 0.0 and least == 0:
        scale, zero = high / most, 0
    else:
        zero = middle
        scale = max(high / (most - zero), -low / (most - zero))
    scale = bounded_scale(scale)
    scale = power_of_two(scale) if scheme == "power-of-two" else scale
    return AffineGrid(scale, zero, dtype, bits=bits)


LEAST_SHARE = 2.0**-8
"""Of a channel's scale to the tensor's largest."""


def channel_grid(low: Array, high: Array, weight: Array, scheme: Scheme) -> AffineGrid | None:
    """A u8 grid with a scale for each channel and one zero point for all, which padding needs.

    The zero point is the one with the least sum of weight * scale^2, the noise behind it; None
    where no range has any extent, or where scales must be powers of two.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if scheme == "power-of-two" or not (high - low).max() > SMALLEST * 255:
        return None
    zeros = np.arange(256.0)[:, None]
    if scheme == "symmetric":
        zeros = np.array([[0.0 if not low.any() else 128.0]])
    with np.errstate(all="ignore"):
        above = np.where(high > 0, high / (255 - zeros), 0.0)
        below = np.where(low < 0, -low / zeros, 0.0)
        scales = np.maximum(above, below)
        scales = np.maximum(scales, scales.max(1, keepdims=True) * LEAST_SHARE)
        noise = (weight * scales**2).sum(1)
    best = int(np.argmin(np.where(np.isfinite(noise), noise, np.inf)))
    chosen = tuple(bounded_scale(float(v)) for v in scales[best])
    return AffineGrid(max(chosen), int(zeros[best, 0]), DType.u8, chosen)

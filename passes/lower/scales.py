"""Real scales as fixed-point multipliers, and activations as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.op import Array
from ..quantize.functions import Function
from ..quantize.grids.affine import AffineGrid

MAX_SHIFT = 44
INDEX_SHIFT = 35  # of 16-bit results: up to here doubles are exact
INDEX_ENTRIES = 1 << 12
TOLERANCE = 0.25  # of a step of the result: what multipliers may add to rounding's half
INDEX_TOLERANCE = 2.0  # the same of an index, 16 of which make a step of the result


class Refusal(Exception):
    """Why a node has no integer form."""


@dataclass(frozen=True)
class Multipliers:
    """int32 multipliers of each operand (scalars or vectors) that share one shift."""

    factors: tuple[Array, ...]
    shift: int


def multipliers(
    scales: Sequence[Array], largest: Sequence[float], *, span: float, powers: bool, most: int,
    tolerance: float = TOLERANCE,
) -> Multipliers:  # fmt: skip
    """rhe(scale * 2^shift) with the largest shift at which all fit.

    `largest` bounds |x_k|; `span` bounds the result that is not saturated, in steps. Raises Refusal
    where rounding a multiplier could move a result by more than `tolerance` steps, or where
    `powers` are asked for and a scale is none.
    """
    every = np.concatenate([np.abs(np.atleast_1d(s)) for s in scales])
    if not np.isfinite(every).all() or not every.max() > 0:
        raise Refusal("a scale is zero or not finite")
    shift = min(most, 30 - math.frexp(float(every.max()))[1] + 1)
    if shift < 0:
        raise Refusal("a scale is too large for a multiplier of 31 bits")
    if np.rint(every.max() * 2.0**shift) >= 2**31:
        shift -= 1
    if powers and not (np.frexp(every)[0] == 0.5).all():
        raise Refusal("a scale is no power of two (quantize with scheme=power-of-two)")
    factors: list[Array] = []
    error = 0.0
    for s, x in zip(scales, largest):
        m = np.rint(s * 2.0**shift)
        # What saturates anyway may be wrong; what does not is at most span / |s| large.
        reach = np.minimum(x, span / np.maximum(np.abs(s), 1e-300))
        error += float(np.max(np.abs(m * 2.0**-shift - s) * reach))
        factors.append(m.astype(np.int32))
    if error > tolerance:
        raise Refusal(f"its scales differ by so much that a multiplier loses {error:.2g} steps")
    return Multipliers(tuple(factors), shift)


def clamp_of(grid: AffineGrid, interval: tuple[float, float]) -> tuple[int, int]:
    """Integer bounds that hold min(max(x, low), high), which rounding commutes with."""
    least, most = grid.dtype.bounds
    low, high = interval

    def place(bound: float) -> int:
        if math.isinf(bound):
            return least if bound < 0 else most
        steps = np.rint(np.float32(bound) / grid.step.astype(np.float32)) + grid.zero
        found = np.unique(np.clip(steps, least, most))
        if found.size != 1:
            raise Refusal("its channels clamp at different integers")
        return int(found[0])

    lo, hi = place(low), place(high)
    return lo, max(lo, hi)


def byte_table(source: AffineGrid, f: Function, target: AffineGrid) -> Array:
    """The result for each of the 256 values of an 8-bit source: exact."""
    if source.scales or target.scales:
        raise Refusal("a table would differ by channel")
    low, high = source.dtype.bounds
    q = np.arange(low, high + 1)
    return target.encode(f(source.decode(q)))


@dataclass(frozen=True)
class Index:
    """A table over an accumulator: entry i of `table` is the result at (low + i - zero) * scale."""

    scale: float
    low: int
    high: int
    zero: int
    table: Array


def index_table(f: Function, target: AffineGrid, reach: float, powers: bool = False) -> Index:
    """The table of f for arguments in [-reach, reach], over the part where its result changes.

    Raises Refusal where 12 bits of index are too coarse for f.
    """
    if target.scales:
        raise Refusal("its result has scales by channel behind a curved activation")
    low, high = _active(f, target, min(reach, 1e30))
    scale = max(high - low, target.scale * 2.0**-20) / (INDEX_ENTRIES - 8)
    if powers:
        scale = 2.0 ** math.ceil(math.log2(scale))
    scale = float(np.float64(scale))
    first, last = math.floor(low / scale) - 1, math.ceil(high / scale) + 1
    # The index is i16: a range far from zero is moved there by a zero point.
    zero = 0 if first >= -32768 and last <= 32767 else -(first + last) // 2
    if not -32768 <= zero <= 32767 or last - first >= INDEX_ENTRIES:
        raise Refusal("its activation changes over a range that an index cannot hold")
    at = np.arange(first, last + 1) * scale
    values = f(at.astype(np.float32)).astype(np.float64)
    between = f(((at[:-1] + at[1:]) / 2).astype(np.float32)).astype(np.float64)
    inside = [np.clip(v / target.scale, *_span(target)) for v in (values, between)]
    jump = max(np.abs(inside[0][1:] - inside[1]).max(), np.abs(inside[0][:-1] - inside[1]).max())
    if not jump <= 0.5:
        raise Refusal(f"its activation moves by {jump:.2g} steps within one step of the index")
    table = target.encode(f(at.astype(np.float32)))
    return Index(scale, first + zero, last + zero, zero, table)


def _span(grid: AffineGrid) -> tuple[float, float]:
    low, high = grid.dtype.bounds
    return low - grid.zero - 0.5, high - grid.zero + 0.5


def _active(f: Function, target: AffineGrid, reach: float) -> tuple[float, float]:
    """The range of arguments outside which the quantized result is constant."""
    low, high = -reach, reach
    for _ in range(40):
        at = np.linspace(low, high, 4097)
        q = target.encode(f(at.astype(np.float32))).astype(np.int32)
        changes = np.flatnonzero(np.diff(q))
        if not len(changes):
            return (low, high) if high - low < 1e-3 * target.scale else _shrunk(low, high)
        first, last = int(changes[0]), int(changes[-1]) + 1
        if last - first > 1024:
            return float(at[first]), float(at[last])
        low, high = float(at[max(first - 1, 0)]), float(at[min(last + 1, 4096)])
    return low, high


def _shrunk(low: float, high: float) -> tuple[float, float]:
    """No change is seen between these samples: all that can happen is near zero."""
    return low / 4096, high / 4096

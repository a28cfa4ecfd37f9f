"""From what was seen of a tensor to the range that its grid covers.

min-max         everything
moving-average  exponential averages of each batch's extremes (Jacob et al. 2018)
percentile      all but the outermost (100 - p) percent at each end
entropy         the range whose quantized distribution has the least Kullback-Leibler divergence
                from the true one (Migacz, "8-bit inference with TensorRT", 2017)
mse             the range with the least mean squared error, rounding and clipping together
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...ir.op import Array
from .grids.affine import Scheme, grid_of
from .histogram import Histogram

Method = Literal["min-max", "moving-average", "percentile", "entropy", "mse"]
Range = tuple[float, float]

MOMENTUM = 0.9
LEVELS = 256
ENTROPY_BINS = 2048  # as in TensorRT; with more, every range that is cut far enough looks perfect
PER_BIN = 200


class Seen:
    """The running statistics of one tensor."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.batches = 0
        self.average_low = self.average_high = 0.0

    def add(self, x: Array) -> None:
        """Take in one batch of finite values."""
        if not x.size:
            return
        self.histogram.add(x)
        low, high = float(x.min()), float(x.max())
        if self.batches:
            low = MOMENTUM * self.average_low + (1 - MOMENTUM) * low
            high = MOMENTUM * self.average_high + (1 - MOMENTUM) * high
        self.average_low, self.average_high = low, high
        self.batches += 1

    @property
    def extremes(self) -> Range:
        return (self.histogram.low, self.histogram.high) if self.batches else (0.0, 0.0)


@dataclass(frozen=True)
class Estimator:
    """How ranges are chosen; calling it gives the range (zero included) of one tensor."""

    method: Method = "percentile"
    scheme: Scheme = "asymmetric"
    percentile: float = 99.999
    bits: int = 8

    def __call__(self, seen: Seen) -> Range:
        if not seen.batches:
            return 0.0, 0.0
        match self.method:
            case "moving-average":
                low, high = seen.average_low, seen.average_high
            case "percentile":
                cut = (100.0 - self.percentile) / 100.0
                h = seen.histogram
                low, high = h.quantile(cut), h.quantile(1.0 - cut)
            case "entropy":
                # Over few values the noise of the counts would pass for structure.
                bins = min(ENTROPY_BINS, max(LEVELS, seen.histogram.total // PER_BIN))
                low, high = self._search(seen, self._divergence, bins)
            case "mse":
                low, high = self._search(seen, self._squared_error)
            case _:
                low, high = seen.extremes
        return min(low, 0.0), max(high, 0.0)

    def _search(
        self, seen: Seen, loss: Callable[[Array, Array, Range], float], bins: int = 0
    ) -> Range:
        """The best of shrunk ranges: both ends together first, then each end alone. With `bins`
        the histogram is first merged into that many over the whole range.
        """
        low, high = min(seen.extremes[0], 0.0), max(seen.extremes[1], 0.0)
        if low == high:
            return low, high
        centres, counts = seen.histogram.filled()
        if bins:
            # Zeros are exact on every grid; spread over their level they would swamp the rest.
            centres, counts = centres[centres != 0], counts[centres != 0]
            at = np.minimum((centres - low) * (bins / (high - low)), bins - 1).astype(np.int64)
            counts = np.bincount(at, weights=counts, minlength=bins)
            filled = np.flatnonzero(counts)
            centres = low + (filled + 0.5) * ((high - low) / bins)
            counts = counts[filled]
        best = loss(centres, counts, (low, high))
        chosen = (1.0, 1.0)
        for factors in ((1, 1), (1, 0), (0, 1)):
            start = chosen
            for f in np.geomspace(1.0, 0.05, 48)[1:]:
                a, b = (s * (f if moves else 1.0) for s, moves in zip(start, factors))
                value = loss(centres, counts, (low * a, high * b))
                if value < best:
                    best, chosen = value, (float(a), float(b))
        return low * chosen[0], high * chosen[1]

    def _squared_error(self, centres: Array, counts: Array, r: Range) -> float:
        grid = grid_of(*r, self.scheme, bits=self.bits)
        clipped = np.clip(centres, grid.low, grid.high)
        error = np.rint(clipped / grid.scale) * grid.scale - centres
        # Inside a step the error is uniform whatever the centre; the histogram's bins are finer.
        return float(counts @ (error * error))

    def _divergence(self, centres: Array, counts: Array, r: Range) -> float:
        grid = grid_of(*r, self.scheme, bits=self.bits)
        inside = (centres >= grid.low) & (centres <= grid.high)
        if inside.sum() < 2:
            return float("inf")
        kept = counts[inside]
        p = kept.copy()
        # What is clipped lands on the outermost values that are kept.
        p[0] += counts[centres < grid.low].sum()
        p[-1] += counts[centres > grid.high].sum()
        level = (np.rint(centres[inside] / grid.scale) + grid.zero).astype(np.int64)
        levels = 1 << self.bits
        level = np.clip(level, 0, levels - 1)
        mass = np.bincount(level, weights=kept, minlength=levels)
        members = np.bincount(level, minlength=levels)
        q = mass[level] / members[level]
        p, q = p / p.sum(), q / q.sum()
        return float(np.sum(p * np.log(p / np.maximum(q, 1e-30))))

"""A histogram of a stream in bounded memory, which no order of the stream changes."""

from __future__ import annotations

import math

import numpy as np

from ...ir.op import Array

BINS = 4096  # on each side of zero
SMALLEST = -120  # exponent of the narrowest bin: its inverse is a float32 too


class Histogram:
    """Counts in bins [j * w, (j + 1) * w), w = 2^exponent, zeros apart.

    A value beyond the bins doubles w until it fits and merges the bins in pairs. Widths are powers
    of two and bins are aligned at zero, so merging is exact: the result depends only on the
    multiset of values seen, not on batches or order.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * BINS, np.int64)
        self.exponent = SMALLEST
        self.zeros = 0
        self.total = 0
        self.low = math.inf
        self.high = -math.inf

    def add(self, x: Array) -> None:
        """Count finite float values of any shape."""
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high, 0.0))
        flat = x.reshape(-1)
        at = np.floor(flat * flat.dtype.type(2.0**-self.exponent)).astype(np.int32)
        if low < 0:
            at -= (flat < 0) & (at == 0)  # products that underflowed
        at += BINS
        self.counts += np.bincount(at, minlength=2 * BINS)[: 2 * BINS]
        zeros = int(flat.size - np.count_nonzero(flat))
        self.counts[BINS] -= zeros
        self.zeros += zeros
        self.total += flat.size

    def _widen(self, largest: float) -> None:
        # One bin is left free, so that -largest, which rounds down, fits too.
        if largest < (BINS - 1) * 2.0**self.exponent:
            return
        needed = math.frexp(largest / (BINS - 1))[1]
        while needed > self.exponent:
            if not self.counts.any():
                self.exponent = needed
                return
            half = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[BINS // 2 : BINS // 2 + BINS] = half
            self.exponent += 1

    def filled(self) -> tuple[Array, Array]:
        """(centres, counts) of the bins that hold anything, ascending; zeros are a bin at 0."""
        width = 2.0**self.exponent
        at = np.flatnonzero(self.counts)
        centres = np.clip((at - BINS + 0.5) * width, self.low, self.high)
        if not self.zeros:
            return centres, self.counts[at].astype(np.float64)
        place = int(np.searchsorted(centres, 0.0))
        return (
            np.insert(centres, place, 0.0),
            np.insert(self.counts[at].astype(np.float64), place, self.zeros),
        )

    def quantile(self, q: float) -> float:
        """The value below which a fraction q lies, to within a bin, inside what was seen."""
        if not self.total:
            return 0.0
        if q <= 0 or q >= 1:
            return self.low if q <= 0 else self.high
        counts = self.counts.copy()
        counts[BINS] += self.zeros
        below = np.concatenate([[0], np.cumsum(counts)])
        rank = q * self.total
        at = int(np.searchsorted(below, rank, side="left")) - 1
        at = min(max(at, 0), 2 * BINS - 1)
        inside = (rank - below[at]) / max(int(counts[at]), 1)
        value = (at - BINS + min(max(float(inside), 0.0), 1.0)) * 2.0**self.exponent
        return min(max(value, self.low), self.high)

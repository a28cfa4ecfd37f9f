"""Memory at addresses that whole vectors like."""

from __future__ import annotations

import numpy as np


def aligned(size: int, alignment: int = 64) -> np.ndarray:
    """Zeroed uint8[size] at an aligned address."""
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]

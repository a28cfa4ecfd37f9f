"""Timing: medians of many calls, programs in turn so that a busy moment hits them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Timing:
    """Seconds a call over `calls` of them."""

    calls: int
    best: float
    median: float
    p90: float
    mean: float

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    calls: Mapping[str, Callable[[], Any]],
    *,
    repeat: int = 100,
    warmup: int = 5,
    budget: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time each of `calls`, round robin. Stops early (after 3 rounds) when `budget` seconds
    are spent. Compiling on the first call belongs to the warm-up.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    start = time.perf_counter()
    for i in range(repeat):
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - before)
        if progress is not None:
            progress(i + 1, repeat)
        if budget is not None and i >= 2 and time.perf_counter() - start > budget:
            break
    return {name: timing(seconds) for name, seconds in taken.items()}


def timing(seconds: Sequence[float]) -> Timing:
    ordered = sorted(seconds)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return Timing(len(ordered), ordered[0], statistics.median(ordered), p90,
                  statistics.fmean(ordered))  # fmt: skip

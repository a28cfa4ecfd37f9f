"""Memory that a kernel reads beyond what was written must never reach a result.

`poisoned(pattern)` fills the arena and the results of every plan before each call; `check` runs a
program so, and compares the bits with a call on memory of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from taut.backends.cpu import Program
from taut.backends.cpu.runtime import plan
from taut.ir import Array, TautError

PATTERNS = ("nan", "bytes", "ones")


def fill(memory: np.ndarray, pattern: str) -> None:
    """Fill bytes with float32 NaN, with random bytes, with ones (NaN in every float type) or 0."""
    flat = memory.reshape(-1).view(np.uint8)
    if pattern == "nan":
        words = flat[: len(flat) // 4 * 4].view(np.uint32)
        words[:], flat[4 * len(words) :] = 0x7FC00000, 0xC0
    elif pattern == "bytes":
        flat[:] = np.random.default_rng(0).integers(0, 256, len(flat), np.uint8)
    else:
        flat[:] = 0xFF if pattern == "ones" else 0


@contextmanager
def poisoned(pattern: str) -> Iterator[None]:
    """Plans find their arena, and the arrays for their results, full of `pattern`."""
    opened = plan.Plan._open

    def opening(self, *arguments):
        fill(self._arena, pattern)
        made = opened(self, *arguments)
        for array in made:
            fill(array, pattern)
        return made

    plan.Plan._open = opening  # type: ignore[method-assign]
    try:
        yield
    finally:
        plan.Plan._open = opened


def check(program: Program, feeds: Mapping[str, Array]) -> str | None:
    """What changes with the memory a call finds, in words. Raises what a call on zeros raises."""
    with poisoned("zeros"):
        want = program(**feeds)
    for pattern in PATTERNS:
        try:
            with poisoned(pattern):
                got = program(**feeds)
        except TautError as error:
            return f"refused on memory full of {pattern}: {error}"
        for name, array in want.items():
            if array.tobytes() != got[name].tobytes():
                return f"{name} is not the same on memory full of {pattern}"
    return None

"""What decisions need to know of a machine before any code is made for it.

Sizes are those of the machine itself; times are orders of magnitude, measured on the machine of
docs/kernels.md: a decision turns on them only where both sides are close. Passes find it in
`Context.target`, schedules get it from their backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Machine:
    """One kind of machine.

    name        for people
    lanes       32-bit elements of a vector
    granule     channels that a pixel takes are a multiple of this: kernels work on whole vectors
    image_order where an image's channels are: side by side ("channels-last"), or as the IR has
                them ("row-major")
    threads     how many share the work
    row_bytes   of a row that stays in the second-level cache between two walks over it
    alone_bytes less than this is computed on one thread anyway
    bytes_per_second        written and read again through the second-level cache, one thread
    operations_per_second   element-wise arithmetic in vectors, one thread
    macs_per_second         multiply-accumulates of bytes, one thread
    touch_per_second        bytes of all that a step reads and writes, one thread
    launch      seconds that a step of its own takes: its record, its chunks, its barrier
    barrier     seconds of one thread's work that are not worth sharing, since all have to meet
    """

    name: str = "generic"
    lanes: int = 16
    granule: int = 16
    image_order: Literal["channels-last", "row-major"] = "channels-last"
    threads: int = 4
    row_bytes: int = 1 << 19
    alone_bytes: int = 1 << 18
    bytes_per_second: float = 12e9
    operations_per_second: float = 30e9
    macs_per_second: float = 150e9
    touch_per_second: float = 10e9
    launch: float = 1.5e-6
    barrier: float = 2e-6

    def __str__(self) -> str:
        return f"{self.name} ({self.lanes} lanes, {self.threads} thread{'s' * (self.threads != 1)})"

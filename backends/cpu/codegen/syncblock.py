"""Places in the sync block and the team's block, and how long a thread waits (see `sync`)."""

from __future__ import annotations

import sys

from .isa import host_architecture

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "powerpc64le": 221, "s390x": 238}
FUTEX = _FUTEX.get(host_architecture(), 0) if sys.platform == "linux" else 0


# Turns of waiting: pauses, then yields, then sleep.
SPINS = 400
YIELDS = 300
IDLE_SPINS = 2000


# The team's block: generation, sleepers; two jobs by the generation's parity (function, base, the
# op number it begins at); how many threads it is for; whose turn it is (1: somebody's), and who
# sleeps for that; then a line a thread: the generation it has seen, the one it is working on (0:
# none), who sleeps for that. Native code alone counts and publishes: whatever interrupts Python
# finds a call not begun or over.
GENERATION, SLEEPERS, JOBS, STOP, THREADS, TURN, LINES = 0, 8, 64, 112, 120, 128, 192
SEEN, WORKING, WAITERS = 0, 8, 16  # in a thread's line
LENT = 1  # beside the block's address: the job's memory outlives the call


def sync_bytes(nt: int) -> int:
    """Size of the sync block for `nt` threads."""
    return 192 + 64 * nt

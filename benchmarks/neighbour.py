"""Another process that keeps one core busy, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

# It ends with its parent too: a closed pipe is looked at between two bursts.
_SPIN = """
import select, sys, time
while not select.select([sys.stdin], [], [], 0)[0]:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        sum(range(1000))
"""


@contextlib.contextmanager
def busy(on: bool = True) -> Iterator[None]:
    """Run a spinning process beside the block (nothing when not `on`). It is pinned nowhere: the
    system's scheduler may place it where it likes, as it would a real neighbour."""
    if not on:
        yield
        return
    child = subprocess.Popen([sys.executable, "-c", _SPIN], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(timeout=10)

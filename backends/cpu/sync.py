"""Threads that meet: the sync block, the barrier, and the team's own loops, as kernels.

A *sync block* is zeroed memory of `sync_bytes(nt)`, 64-byte aligned, shared by one program's ops:

    line 0       threads that have arrived at the barrier
    line 1       epoch (the number of barriers passed), sleepers
    line 2 + t   work counters of thread t: [epoch parity][slot], 2 x SLOTS words

Work is handed out by `vector.driver`: op k splits into chunks, thread t first takes its own share
one by one from its own counter, then what is left of the others' shares, so that a thread stays on
the same rows from op to op and a delayed one loses its work to the rest. Counters of the parity
not in use are reset by their owner on its way into the barrier; nobody else touches them then.
Ops between two barriers need different slots. A program ends with a barrier.

Waiting: spin, then yield, then sleep in a futex (on Linux), so that a busy neighbour can have the
core, and the scheduler can move the thread everyone waits for onto it.
"""

from __future__ import annotations

import sys

from .isa import Isa, host_architecture
from .jit import Kernel

SLOTS = 4
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "powerpc64le": 221, "s390x": 238}
FUTEX = _FUTEX.get(host_architecture(), 0) if sys.platform == "linux" else 0

# Turns of waiting: pauses, then yields, then sleep.
SPINS = 400
YIELDS = 20
IDLE_SPINS = 2000

# The team's block: a word each unless said otherwise.
GENERATION, SLEEPERS, FUNCTION, BASE, STOP = 0, 8, 64, 72, 80
DONE, DONE_SLEEPERS = 128, 136
TEAM_BYTES = 192


def sync_bytes(nt: int) -> int:
    """Size of the sync block for `nt` threads."""
    return 128 + 64 * nt


def barrier(isa: Isa):
    """`barrier(tid, nt, sync)`: nobody leaves before all have come."""
    from . import vector as v

    load, store, add = v.atomics()
    wait, wake = v.waiting(SPINS)

    def kernel(tid, nt, sync):
        epoch = load(sync + 64)
        mine = sync + 128 + 64 * tid + 32 * ((epoch + 1) & 1)
        for slot in range(4):
            store(mine + 8 * slot, 0)
        if add(sync, 1) == nt - 1:
            store(sync, 0)
            store(sync + 64, epoch + 1)
            wake(sync + 64, sync + 72)
        else:
            wait(sync + 64, sync + 72, epoch)

    return kernel


def team_worker(isa: Isa):
    """`team_worker(tid, nt, block)`: serve calls until STOP (or, without futexes, until idle)."""
    from . import vector as v

    load, store, add = v.atomics()
    wait, wake = v.waiting(IDLE_SPINS)
    invoke = v.invoke()

    def kernel(tid, nt, block):
        # The thread's own line after the block holds the generation that it has served.
        mine = block + 192 + 64 * tid
        while True:
            seen = load(mine)
            wait(block, block + 8, seen)
            if load(block) == seen:
                return
            store(mine, seen + 1)
            if load(block + 80) != 0:
                return
            invoke(load(block + 64), tid, nt, load(block + 72))
            if add(block + 128, 1) == nt - 2:
                wake(block + 128, block + 136)

    return kernel


def team_run(isa: Isa):
    """`team_run(0, nt, block)`: run FUNCTION(tid, nt, BASE) on every thread, this one as 0.

    With STOP set it only tells the others."""
    from . import vector as v

    load, store, _ = v.atomics()
    wait, wake = v.waiting(SPINS)
    invoke = v.invoke()

    def kernel(tid, nt, block):
        store(block + 128, 0)
        store(block, load(block) + 1)
        wake(block, block + 8)
        if load(block + 80) != 0:
            return
        invoke(load(block + 64), 0, nt, load(block + 72))
        done = load(block + 128)
        while done != nt - 1:
            wait(block + 128, block + 136, done)
            done = load(block + 128)

    return kernel


BARRIER = Kernel.of(barrier)
TEAM_WORKER = Kernel.of(team_worker)
TEAM_RUN = Kernel.of(team_run)

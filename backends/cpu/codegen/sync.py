"""Threads that meet: the sync block, the barrier, and the team's own loops, as kernels.

Nobody waits for a thread that has nothing in its hands. Ops are numbered; op k is over when all
its chunks are done, whoever did them, and a thread that comes late finds no chunk to take and
walks on to the op that is running. So a thread that lost its core to a neighbour delays the
program by the chunk that it holds, at most, and a sleeping one not at all.

A *sync block* is zeroed memory of `sync_bytes(nt)`, 64-byte aligned, of one program. Words:

    0          zero
    64, 72     epoch: the number of the running op; sleepers
    80         chunks done: (op << 24) + count, all kernels since the last barrier together (beside
               the epoch: who counts the last chunk then owns the line that the epoch is in)
    192 + 64 t  thread t: SLOTS work counters, (op << 24) + chunks taken of thread t's share;
               its own op number; (op << 24) + chunks that it knows this op to have

A number with an older op in it counts as 0, so nothing is ever reset. Thread t takes chunks of its
own share first and then of the others', so that it stays on the same rows from op to op and a
delayed one loses its work. Kernels between two barriers need different slots.

`base`, what an entry or a kernel is run on, begins with the address of its sync block, or is one.

Waiting: spin, then yield, then sleep in a futex (on Linux), so that a busy neighbour can have the
core, and the scheduler can move the thread everyone waits for onto it.
"""

from __future__ import annotations

from ...schedule.kernel import Kernel
from .chunked import Chunked
from .isa import Isa
from .syncblock import IDLE_SPINS, LINES, SPINS, TURN


def barrier(isa: Isa):
    """`barrier(tid, nt, sync)`: go on when everything since the last barrier is done."""
    from . import vector as v

    load, store, _ = v.atomics()
    swap = v.compare_and_swap()
    spin, wake = v.waiting(SPINS)

    def kernel(tid, nt, sync):
        mine = sync + 192 + 64 * tid
        op = load(mine + 32)
        goal = load(mine + 40)
        if goal >> 24 != op:
            goal = op << 24
        store(mine + 32, op + 1)
        turns = 0
        while load(sync + 64) == op:
            if goal == op << 24 or load(sync + 80) == goal:
                if swap(sync + 64, op, op + 1):
                    wake(sync + 64, sync + 72)
                return
            turns = spin(sync + 64, sync + 72, op, turns)

    return kernel


def team_worker(isa: Isa):
    """`team_worker(tid, nt, block)`: serve calls until STOP (or, without futexes, until idle)."""
    from . import vector as v

    load, store, _ = v.atomics()
    spin, wake = v.waiting(IDLE_SPINS)
    invoke = v.invoke()
    lines = LINES

    def kernel(tid, nt, block):
        mine = block + lines + 64 * tid
        while True:
            seen = load(mine)
            turns = 0
            while load(block) == seen:
                turns = spin(block, block + 8, seen, turns)
                if turns < 0:
                    return
            generation = load(block)
            # First say what will be used, then look whether it is still there. All that a job is
            # comes out of its place: the program's own first op number may be the next job's.
            store(mine + 8, generation)
            job = block + 64 + 24 * (generation & 1)
            function = load(job)
            base = load(job + 8)
            begin = load(job + 16)
            if load(block + 112) != 0:
                store(mine + 8, 0)
                wake(mine + 8, mine + 16)
                return
            if load(block) == generation:
                store(mine, generation)
                if function != 0:
                    sync = load(base)
                    if sync == 0:
                        sync = base
                    store(sync + 192 + 64 * tid + 32, begin)
                    invoke(function, tid, nt, base)
            store(mine + 8, 0)
            wake(mine + 8, mine + 16)

    return kernel


def team_run(isa: Isa):
    """`team_run(function, base, block)`: one call on every thread of the team, when it is its turn.

    Unless LENT is added to `block`, come back when no thread uses the job any more; with it, the
    job's memory must stay until no thread can be in it (`Team.lend`). Threads that do not come
    are not waited for, so it is right with any number of them, and with none. Without a function
    it only wakes the others, who then see STOP.
    """
    from . import vector as v

    load, store, _ = v.atomics()
    swap = v.compare_and_swap()
    spin, wake = v.waiting(SPINS)
    invoke = v.invoke()
    lines, turn = LINES, TURN

    def kernel(function, base, where):
        lent = where & 1
        block = where - lent
        nt = load(block + 120)
        turns = 0
        while swap(block + turn, 0, 1) == 0:
            turns = spin(block + turn, block + turn + 8, 1, turns)
        generation = load(block) + 1
        job = block + 64 + 24 * (generation & 1)
        if function != 0:
            sync = load(base)
            if sync == 0:
                sync = base
            if load(sync + 64) >> 38 != 0:
                # Before op numbers run out (after months), begin again, with nobody about.
                for thread in range(1, nt):
                    line = block + lines + 64 * thread
                    turns = 0
                    while load(line + 8) != 0:
                        turns = spin(line + 8, line + 16, load(line + 8), turns)
                for at in range(8, 192 + 64 * nt, 8):
                    store(sync + at, 0)
            # A new op number: whatever an earlier call left behind is old.
            op = load(sync + 64) + 1
            store(sync + 64, op)
            store(job + 16, op)
            store(sync + 192 + 32, op)
        store(job, function)
        store(job + 8, base)
        store(block, generation)
        wake(block, block + 8)
        if function != 0:
            invoke(function, 0, nt, base)
            if lent == 0:
                store(job, 0)
                for thread in range(1, nt):
                    line = block + lines + 64 * thread
                    turns = 0
                    while load(line + 8) == generation:
                        turns = spin(line + 8, line + 16, generation, turns)
        store(block + turn, 0)
        wake(block + turn, block + turn + 8)

    return kernel


def alone(isa: Isa):
    """`alone(tid, nt, record)`: whoever comes first runs a few kernels, one after the other.

    The record: sync, slot, 1, how many; then for each its function and its record's address.
    """
    from . import vector as v

    load = v.load_i64
    invoke = v.invoke()

    def body(d, chunk):
        at = d + 32
        for _ in range(load(d + 24)):
            invoke(load(at), 0, 1, load(at + 8))
            at += 16

    return Chunked(body)


BARRIER = Kernel.of(barrier)
ALONE = Kernel.of(alone)
TEAM_WORKER = Kernel.of(team_worker)
TEAM_RUN = Kernel.of(team_run)

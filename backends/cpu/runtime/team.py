"""A team of threads that runs compiled programs.

`team(nt)` gives the process's team of `nt` threads: the caller's thread plus nt-1 daemon threads
that sit in native code without the GIL and wait for work there (spin, yield, futex). One call runs
at a time; others wait for their turn. After a fork the child starts its own threads when it first
needs them; at exit all threads are told to stop and joined, and what is called after that runs on
the caller's thread alone.

A call is one native function with the job as its arguments, so that whatever interrupts Python
comes before it or after it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

from ... import shield
from ...schedule.memory import aligned
from ..codegen import cache, jit, sync, syncblock
from ..codegen.isa import TABLES

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_teams: dict[int, Team] = {}


class Lease:
    """Memory that a team's threads may still read for a while after the last call on it."""

    __slots__ = ("__weakref__",)


class Team:
    """`nt` threads. Use `team(nt)`, which shares them."""

    def __init__(self, nt: int, store: cache.Cache | None = None):
        if not 1 <= nt <= 4096:
            raise ValueError(f"a team has 1 to 4096 threads, not {nt}")
        self.nt = nt
        self._block = aligned(syncblock.LINES + 64 * nt)
        self._words = self._block.view(np.int64)
        self._words[syncblock.THREADS // 8] = nt
        self.address = self._block.ctypes.data
        plain = TABLES["portable"]
        self._run = _CALL(jit.load(sync.TEAM_RUN, plain, store).address)
        self._worker = _CALL(jit.load(sync.TEAM_WORKER, plain, store).address)
        # `call(function, base, address)`: the native call; see `run`.
        self.call: Callable[[int, int, int], object] = self._run if syncblock.FUTEX else self._rouse
        self.ready = nt == 1  # the threads have been started, as many as there were to be had
        self._threads: list[threading.Thread] = []
        self._gates = [threading.Lock() for _ in range(nt)]  # idle threads', for want of futexes
        self._lent: dict[int, tuple[weakref.ref[Lease], object]] = {}
        self._returned: dict[int, int] = {}  # the generation in which a lease was seen to be over
        self._numbers = itertools.count()

    def run(self, function: int, base: int, lease: Lease | None = None) -> None:
        """Run native `function(tid, nt, base)` on every thread of the team.

        `base` begins with the address of its sync block, or is a sync block. All work is done on
        return. A thread that did not get to run may then still walk through the records, without
        touching data, if there is a `lease` on the memory of the sync block and the records. What
        decides how many barriers it walks through (the rounds of a loop) must stay as it is until
        then: a thread that counts more of them than the others takes the next call's work. Without
        a lease, `run` waits for every thread to leave.
        """
        if not self.ready:
            self.start()
        self.call(function, base, self.address + (0 if lease is None else syncblock.LENT))

    def lend(self, memory: object) -> Lease:
        """A lease for `run`: `memory` is kept alive while the lease is, and after that until no
        thread can be in it."""
        lease = Lease()
        self._lent[next(self._numbers)] = weakref.ref(lease), memory
        self._let_go()
        return lease

    def start(self) -> None:
        """Start the threads. Where some cannot be started, calls are shared by fewer."""
        if not shield.ended():
            shield.run(self._start)

    def stop(self) -> None:
        """End the threads. The next `run` starts new ones."""
        shield.run(self._stop)

    def _let_go(self) -> None:
        """Forget memory whose lease is over, as soon as a later call has begun and no thread is in
        an earlier one. May be interrupted, and called again within itself."""
        now = int(self._words[0])
        working = self._words[(syncblock.LINES + syncblock.WORKING) // 8 :: 8].tolist()
        oldest = min((g for g in working if g), default=now)
        for key, (lease, _) in list(self._lent.items()):
            if lease() is None and self._returned.setdefault(key, now) < oldest:
                self._lent.pop(key, None)
                self._returned.pop(key, None)

    def _rouse(self, function: int, base: int, address: int) -> None:
        """A call where there are no futexes: threads that went to sleep do so in Python."""
        self._open()
        self._run(function, base, address)

    def _open(self) -> None:
        for gate in self._gates:
            with contextlib.suppress(RuntimeError):  # another caller has just opened it
                if gate.locked():
                    gate.release()

    def _start(self) -> None:
        if self.ready:
            return
        self.ready = True  # from here on a call shares its work with the threads there are
        for tid in range(1, self.nt):
            self._words[(syncblock.LINES + 64 * tid + syncblock.SEEN) // 8] = self._words[0]
            name = f"taut-{tid}"
            thread = threading.Thread(target=self._serve, args=(tid,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads are to be had
                return
            self._threads.append(thread)

    def _stop(self) -> None:
        if not self._threads:
            return
        self._words[syncblock.STOP // 8] = 1
        self.call(0, 0, self.address)
        for thread in self._threads:
            thread.join()
        self._words[syncblock.STOP // 8] = 0
        self._threads, self.ready = [], False

    def _serve(self, tid: int) -> None:
        gate = self._gates[tid]
        while True:
            self._worker(tid, self.nt, self.address)
            if self._words[syncblock.STOP // 8]:
                return
            gate.acquire()  # reached only where there are no futexes

    def after_fork(self) -> None:
        """In the child there are no other threads, and whatever they had in hand is gone."""
        self._words[:] = 0
        self._words[syncblock.THREADS // 8] = self.nt
        self._gates = [threading.Lock() for _ in range(self.nt)]
        self._threads, self.ready = [], self.nt == 1
        self._returned.clear()


def team(nt: int) -> Team:
    """The process's team of `nt` threads."""
    found = _teams.get(nt)
    return found if found is not None else _teams.setdefault(nt, Team(nt))


@atexit.register
def _stop_all() -> None:
    shield.end()
    for one in list(_teams.values()):
        one.stop()


def _after_fork() -> None:
    for one in list(_teams.values()):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

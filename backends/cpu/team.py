"""A team of threads that runs compiled programs.

`team(nt)` gives the process's team of `nt` threads: the caller's thread plus nt-1 daemon threads
that sit in native code without the GIL and wait for work there (spin, yield, futex). One call runs
at a time; others queue on a lock. After a fork the child starts its own threads when it first
needs them; at exit all threads are told to stop and joined.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading

import numpy as np

from . import cache, jit, sync
from .isa import TABLES

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_teams: dict[int, Team] = {}
_guard = threading.Lock()


def aligned(size: int, alignment: int = 64) -> np.ndarray:
    """Zeroed uint8[size] at an aligned address."""
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


class Team:
    """`nt` threads. Use `team(nt)`, which shares them."""

    def __init__(self, nt: int, store: cache.Cache | None = None):
        if not 1 <= nt <= 4096:
            raise ValueError(f"a team has 1 to 4096 threads, not {nt}")
        self.nt = nt
        self.lock = threading.Lock()
        self._block = aligned(sync.LINES + 64 * nt)
        self._words = self._block.view(np.int64)
        self._address = self._block.ctypes.data
        plain = TABLES["portable"]
        self._run = _CALL(jit.load(sync.TEAM_RUN, plain, store).address)
        self._worker = _CALL(jit.load(sync.TEAM_WORKER, plain, store).address)
        self._idle = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._calls = self._generation = 0
        self._kept: list[tuple[int, object]] = []  # (the first generation that used it, memory)

    def run(self, function: int, base: int, keep: object = None) -> None:
        """Run native `function(tid, nt, base)` on every thread of the team.

        `base` begins with the address of its sync block, or is a sync block. All work is done on
        return. A thread that did not get to run may then still walk through the records, without
        touching data, if `keep` is given: the arrays that hold the sync block and the records,
        which the team keeps alive so long. What decides how many barriers it walks through (the
        rounds of a loop) must stay as it is until then: a thread that counts more of them than the
        others takes the next call's work. Without `keep`, `run` waits for every thread to leave.
        """
        with self.lock:
            if self.nt > 1 and not self._threads:
                self._start()
            self._job(function, base)
            if keep is not None and (not self._kept or self._kept[-1][1] is not keep):
                self._kept.append((self._generation, keep))
            self._call(wait=keep is None)
            if len(self._kept) > 1:
                self._let_go()

    def stop(self) -> None:
        """End the threads. The next `run` starts new ones."""
        with self.lock:
            if not self._threads:
                return
            self._words[sync.STOP // 8] = 1
            self._call(wait=False)
            for thread in self._threads:
                thread.join()
            self._threads, self._kept = [], []

    def _job(self, function: int, base: int) -> None:
        self._generation += 1
        at = sync.JOBS // 8 + 3 * (self._generation & 1)
        self._words[at] = function
        self._words[at + 1] = base

    def _call(self, *, wait: bool) -> None:
        if not sync.FUTEX:
            with self._idle:
                self._calls += 1
                self._idle.notify_all()
        self._run(int(wait), self.nt, self._address)

    def _let_go(self) -> None:
        """Forget kept memory, but the newest, that no thread can be in."""
        working = self._words[sync.LINES // 8 + 9 :: 8].tolist()
        oldest = min((g for g in working if g), default=self._generation)
        while len(self._kept) > 1 and self._kept[1][0] <= oldest:
            self._kept.pop(0)

    def _start(self) -> None:
        self._words[:] = 0
        self._calls = self._generation = 0
        for tid in range(1, self.nt):
            name = f"taut-{tid}"
            thread = threading.Thread(target=self._serve, args=(tid,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, tid: int) -> None:
        served = (sync.LINES + 64 * tid) // 8
        while True:
            self._worker(tid, self.nt, self._address)
            if self._words[sync.STOP // 8]:
                return
            with self._idle:  # reached only where there are no futexes
                while self._calls == self._words[served]:
                    self._idle.wait()


def team(nt: int) -> Team:
    """The process's team of `nt` threads."""
    with _guard:
        if nt not in _teams:
            _teams[nt] = Team(nt)
        return _teams[nt]


@atexit.register
def _stop_all() -> None:
    for one in list(_teams.values()):
        one.stop()


def _after_fork() -> None:
    global _guard
    _guard = threading.Lock()
    for one in _teams.values():
        one.lock = threading.Lock()
        one._idle = threading.Condition()
        one._threads, one._kept = [], []
        one._words[:] = 0
        one._generation = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

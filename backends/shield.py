"""Work that no exception of a signal handler can cut in two.

Python runs signal handlers on the main thread, between any two of its instructions, and what they
raise (Ctrl-C, an alarm) leaves whatever was at work there half done: a compiler's lock taken and
never released, a thread started and not noted down. So `run` has such work done on a thread of its
own, where no handler runs, and waits for it: what is raised meanwhile ends the wait and not the
work, which the next who needs it finds done.

Jobs take turns. A fork waits for the turn, so that no compiler is inside its locks then; a child
does what its parent's threads had still to do for it again. At exit the job at work is waited for,
and whatever comes after that runs on its caller's thread.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..ir import CompileError

PATIENCE = 10.0  # seconds that a fork, or the end of the process, waits for the job at work

_turn = threading.RLock()
_workers: set[int] = set()  # threads that have a job
_jobs: dict[int, _Job] = {}  # jobs that somebody waits for
_ended = _lost = _wanted = False


class _Job:
    """A function to call, somebody who waits for it, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.done = threading.Lock()
        self.done.acquire()  # until it is finished
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None

    def serve(self) -> None:
        """Do it here."""
        me = threading.get_ident()
        _workers.add(me)
        _turn.acquire()
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        finally:
            _turn.release()
            _workers.discard(me)
            self.finished = True
            self.done.release()


SERVE = _Job.serve.__code__


def run(function: Callable[[], Any]) -> Any:
    """What `function()` returns or raises; it is called once and to its end, whatever is raised
    here while it is at work."""
    if _ended or threading.get_ident() in _workers:
        return function()
    job = _Job(function)
    _jobs[id(job)] = job
    try:
        while not job.finished:  # a fork may have ended the thread that was to do it
            try:
                start_new_thread(job.serve, ())
            except RuntimeError:  # there are no threads to be had
                with _turn:
                    return function()
            job.done.acquire()
    finally:
        _jobs.pop(id(job), None)
    if job.error is not None:
        raise job.error
    return job.result


def rest() -> None:
    """Between two parts of a job: let a fork that waits go ahead; end the job at exit."""
    if threading.get_ident() in _workers:
        if _ended:
            raise SystemExit
        if _wanted:
            _turn.release()
            time.sleep(0.001)
            _turn.acquire()


def ended() -> bool:
    """Whether the process is at its end, so that no thread should be started any more."""
    return _ended


def check() -> None:
    """Raise CompileError where a compiler cannot be used: the process was forked while another
    thread was in it for longer than a fork waits."""
    if _lost:
        raise CompileError("this process was forked while another thread was compiling",
                           hint="compile before forking")  # fmt: skip


@atexit.register
def end() -> None:
    """From now on no threads are started. Waits for the job at work."""
    global _ended
    _ended = True
    if _turn.acquire(timeout=PATIENCE):
        _turn.release()


def _ask() -> None:
    global _wanted
    _wanted = True


def _done() -> None:
    global _wanted
    _wanted = False


def _after_in_child() -> None:
    global _lost
    _done()
    _workers.intersection_update({threading.get_ident()})
    if _turn.acquire(blocking=False):
        _turn.release()
    else:
        _turn._at_fork_reinit()  # type: ignore[attr-defined]
        _lost = True
    for job in _jobs.values():
        with suppress(RuntimeError):  # who waits for it looks whether it is finished
            job.done.release()


if hasattr(os, "register_at_fork"):
    # The turn is taken and given back by functions in C, which nothing can interrupt; the last
    # `before` comes first.
    os.register_at_fork(before=partial(_turn.acquire, True, PATIENCE),
                        after_in_parent=_turn.release, after_in_child=_turn.release)  # fmt: skip
    os.register_at_fork(before=_ask, after_in_parent=_done, after_in_child=_after_in_child)

"""Calls within calls, and calls that a fork cut off.

Plans and programs are used by one thread at a time. Such an *owner* has a `lock`, and `busy` while
somebody is inside. Signal handlers and finalizers (`__del__`, callbacks of weak references) run
between any two instructions of a call, so they may call when their own thread is inside; such a
call never waits, or it might wait for itself, or for a thread that waits for it: where somebody is
inside already it takes other memory. Whether a call is within another is not noted down anywhere,
where an exception at the wrong moment could leave it wrong: the stack says it.

What holds an owner is a method marked with `holds`, of this form:

    if self.busy and is_nested():
        ...                             # go another way
    with self.lock:                     # a lock in C: nothing comes between it and the body
        try:
            held = self.busy = True
            ...
        finally:
            held = self.busy = False
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from ... import shield

F = TypeVar("F", bound=Callable[..., Any])


class Owner(Protocol):
    lock: threading.Lock
    busy: bool

    def after_fork(self) -> None:
        """In a child, where no other thread is any more: begin again with what they worked on."""
        ...


# Jobs of the shield hold its turn, for which somebody may wait who is inside an owner.
_holders: set[CodeType] = {shield.SERVE}
_owners: WeakSet[Any] = WeakSet()


def holds(method: F) -> F:
    """Mark a method (of the form above) whose body has its object to itself."""
    _holders.add(method.__code__)
    return method


def watch(owner: Owner) -> None:
    """Have the owner's lock renewed in forked children, and `after_fork` called there."""
    _owners.add(owner)


def is_nested() -> bool:
    """Whether the caller runs within a holder that began before it."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_code in _holders:
            return True
        frame = frame.f_back
    return False


def _after_fork() -> None:
    """Free what threads held that are no more. What the forking thread is in goes on: who forks in
    a signal handler returns into the call that it came in."""
    inside: dict[int, bool] = {}  # of owners that our own stack waits for or holds
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code in _holders:
            owner = id(frame.f_locals["self"])
            inside[owner] = inside.get(owner, False) or bool(frame.f_locals.get("held"))
        frame = frame.f_back
    for owner in list(_owners):
        if not inside.get(id(owner), False):
            owner.busy = False
            if id(owner) not in inside:
                owner.lock = threading.Lock()
            elif owner.lock.locked():
                owner.lock.release()
        owner.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

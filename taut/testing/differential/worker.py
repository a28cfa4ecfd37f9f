"""Models are drawn and run in a child process: what crashes or hangs it is found, not the end.

`Worker` asks a child, one JSON line there and one back; `here` does the same in this process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Request = dict[str, Any]
Answer = dict[str, Any]
MEMORY = 24 << 30
"""Bytes of address space of a child: what asks for more is a finding too."""


def here(request: Request) -> Answer:
    """Draw the model that the request names and check it."""
    import warnings

    from .check import STAGES, check
    from .draw import draw
    from .oracles import oracles
    from .sketch import Misfit

    warnings.simplefilter("ignore")
    try:
        case = draw(request["op"], request["seed"], request.get("made"),
                    request.get("chains", True), request.get("ones"),
                    request.get("drop", ()))  # fmt: skip
    except Misfit as misfit:
        return {"status": "misfit", "reason": str(misfit)}
    except Exception as error:
        if request.get("made") is None:
            raise
        return {"status": "misfit", "reason": f"replayed: {error}"}  # numbers that were not drawn
    peers = oracles(request["against"]) if request.get("peers", True) else ()
    verdict = check(case, peers, request.get("stages") or STAGES)
    return {**dataclasses.asdict(verdict), "made": case.made, "sizes": case.sizes,
            "attributes": sorted(case.attributes)}  # fmt: skip


class Worker:
    """A child that answers requests; started when it is first asked, and again when it died.

    `command` makes the child (`serve` of this module unless given); `limit` is the time for an
    answer in seconds."""

    def __init__(self, limit: float = 60.0, command: Sequence[str] = ()) -> None:
        self.limit = limit
        self.command = list(command) or [sys.executable, "-m", __name__]
        self.child: subprocess.Popen[bytes] | None = None
        self.rest = b""

    def ask(self, request: Request) -> Answer:
        """The child's answer; status `crash` or `hang` where it gives none."""
        started = self.child is None
        child = self._started()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return self._dead()
        line = self._line(self.limit + (60 if started else 0))
        if line is None:
            self.close()
            return {"status": "hang", "reason": f"no answer within {self.limit:.0f} s"}
        return json.loads(line) if line else self._dead()

    def _started(self) -> subprocess.Popen[bytes]:
        if self.child is None:
            self.rest = b""
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self.child

    def _line(self, limit: float) -> bytes | None:
        """The next line; empty at the child's end, None when the time is over."""
        assert self.child is not None and self.child.stdout is not None
        end = time.monotonic() + limit
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.child.stdout, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                left = end - time.monotonic()
                if left <= 0 or not waiting.select(left):
                    return None
                part = os.read(self.child.stdout.fileno(), 1 << 16)
                if not part:
                    return b""
                self.rest += part
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _dead(self) -> Answer:
        assert self.child is not None
        code = self.child.wait()
        self.child = None
        what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"status": "crash", "reason": f"the process died: {what}"}

    def close(self) -> None:
        """End the child, if there is one."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            for pipe in (self.child.stdin, self.child.stdout):
                if pipe is not None:
                    pipe.close()
            self.child = None


def serve(answer: Callable[[Request], Answer] = here, memory: int = MEMORY) -> None:
    """Answer requests until the pipe closes. What libraries print does not reach the answers.
    `memory` bounds the address space in bytes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # not on this system: the watcher's time limit is left
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()

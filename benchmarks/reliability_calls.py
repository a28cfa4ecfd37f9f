"""Interrupts at random moments, and forks under load: is anything wrong afterwards?

`interrupts` raises an exception out of a signal handler, as Ctrl-C does, at random moments of
calls, compiles, saves and training steps, and checks after each that every kind of program still
gives the same bits, on the same thread and on another. `forks` forks while other threads are in
calls and compiles, and while the forking thread itself is, and calls in the child. Every trial runs
in a child process under a watchdog, so that a hang or a deadly signal is counted, not suffered.

    python benchmarks/reliability.py interrupts forks
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Report = Callable[[str], None]
SILENCE = 90.0  # seconds without a word after which a child counts as hung
BATCH = {"interrupts": 1000, "forks": 25}  # trials of one child process
CHILD = 30  # seconds that a forked child has


@dataclass
class Found:
    """What came of trials."""

    name: str
    tried: int = 0
    wrong: int = 0
    signals: int = 0
    hangs: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def interrupts(
    count: int, seed: int = 0, report: Report = print, *, small: bool = False
) -> dict[str, Any]:
    """`count` interrupts, each followed by checks: a row of `reliability.py`. `small` leaves out
    what takes long to compile beforehand."""
    return _campaign("interrupts", count, seed, report, *(["small"] if small else []))


def forks(
    count: int, seed: int = 0, report: Report = print, *, small: bool = False
) -> dict[str, Any]:
    """`count` forks under load, with calls in each child: a row of `reliability.py`."""
    return _campaign("forks", count, seed, report, *(["small"] if small else []))


def _campaign(name: str, count: int, seed: int, report: Report, *more: str) -> dict[str, Any]:
    found, start, told = Found(name), time.perf_counter(), 0
    while found.tried < count and found.signals + found.hangs < 20:
        before = found.tried
        _watch(found, name, min(BATCH[name], count - before), seed, *more)
        seed += 1
        found.seconds = time.perf_counter() - start
        if found.tried == before and not found.signals + found.hangs:
            found.notes.append(f"{name}, seed {seed - 1}: nothing was tried")
            found.wrong += 1
            break
        report(f"{name}: {found.tried} tried, {found.wrong} wrong, {found.signals} signals, "
               f"{found.hangs} hangs, {found.seconds:.0f} s")  # fmt: skip
        for note in found.notes[told:]:
            report(note)
        told = len(found.notes)
    return asdict(found)


def _watch(found: Found, name: str, count: int, seed: int, *more: str) -> None:
    """Run trials in a child; a child that falls silent is killed and counted as hung."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, str(count), str(seed),
               *more]  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        open(Path(folder) / "errors", "w+") as errors,
        subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=errors, cwd=folder,
                         start_new_session=True) as child,
    ):  # fmt: skip
        assert child.stdout is not None
        tried = 0
        while True:
            ready, _, _ = select.select([child.stdout], [], [], SILENCE)
            line = child.stdout.readline() if ready else b""
            if not line:
                break
            facts = json.loads(line)
            found.tried += facts["tried"] - tried
            tried = facts["tried"]
            found.wrong += len(facts["wrong"])
            found.hangs += facts.get("hangs", 0)
            found.signals += facts.get("signals", 0)
            found.notes += facts["wrong"]
        if not ready:
            found.hangs += 1
            found.notes.append(f"{name}, seed {seed}: hung after {tried}")
            os.killpg(child.pid, signal.SIGKILL)
        status = child.wait()
        if ready and status < 0:
            found.signals += 1
            found.notes.append(f"{name}, seed {seed}: signal {-status} after {tried}")
        elif ready and status > 0:
            found.wrong += 1
            errors.seek(0)
            found.notes.append(f"{name}, seed {seed}: {errors.read()[-2000:]}")


# ---- in the child --------------------------------------------------------------------------------


class Interrupt(BaseException):
    """What the signal handler raises."""


def interrupted(action: Callable[[], Any], after: float) -> bool:
    """Run `action`; was it cut off by an alarm, `after` so many seconds?"""
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            action()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        return True
    return False


def interrupt_some(
    count: int, seed: int, folder: Path, say: Callable[..., None], small: bool
) -> int:
    """`count` interrupts. Returns how many left something wrong behind."""
    import reliability_cases

    cases = reliability_cases.all_cases(seed, folder, small)
    calls = [case for case in cases if isinstance(case, reliability_cases.Calls)]
    draw, moods = random.Random(seed), random.Random(-seed)
    usual = dict.fromkeys(cases, 0.002)  # seconds that an action takes

    def handler(*_: object) -> None:
        if moods.random() < 0.1:  # a call within whatever is at work
            note = moods.choice(calls).check()
            wrong.extend([f"seed {seed}, in the handler: {note}"] if note else [])
        raise Interrupt

    signal.signal(signal.SIGALRM, handler)
    sys.unraisablehook = lambda *_: None  # raised in a finalizer: Python says so and goes on
    tried, bad, wrong, said = 0, 0, [], time.perf_counter()
    with ThreadPoolExecutor(1) as other:
        while tried < count:
            case = draw.choice(cases)
            start = time.perf_counter()

            def action(case=case) -> None:
                for k in range(case.repeat):
                    case.act(k)

            hit = interrupted(action, max(1e-6, draw.uniform(0, 1.2) * usual[case]))
            took = time.perf_counter() - start
            usual[case] += 0.2 * (min(took, 0.5) * (1.3 if hit else 1) - usual[case])
            tried += hit
            for one, run in ((case, _here), (draw.choice(cases), _here), (case, other.submit)):
                try:
                    note = run(one.check).result(60)
                except Exception as error:
                    note = f"{one.name}: {type(error).__name__}: {error}"[:500]
                if note:
                    wrong.append(f"seed {seed}, {case.name} interrupted: {note}")
            if wrong or time.perf_counter() - said > 2 or tried == count:
                say(tried=tried, wrong=wrong)
                bad += len(wrong)
                wrong, said = [], time.perf_counter()
    return bad


class _Done:
    def __init__(self, value: str) -> None:
        self.value = value

    def result(self, _: float) -> str:
        return self.value


def _here(check: Callable[[], str]) -> Any:
    return _Done(check())


@contextlib.contextmanager
def _load(cases: list[Any], seed: int) -> Iterator[None]:
    """Other threads that call, and make programs, until the end."""
    stop = threading.Event()

    def work(k: int) -> None:
        draw = random.Random(seed + k)
        while not stop.is_set():
            draw.choice(cases).act(draw.randrange(9))

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def fork_some(count: int, seed: int, folder: Path, say: Callable[..., None], small: bool) -> int:
    """`count` forks. Returns how many children were wrong, hung or died."""
    import reliability_cases as rc

    draw = random.Random(seed)
    bad = 0
    for tried in range(1, count + 1):
        if tried % 25 == 1:  # programs anew, now and then: a fork then meets them half made
            cases: list[Any] = [*rc.calls(1, small), *rc.calls(2, small)]
            busy = [*cases, rc.Compiles(seed + tried, 0.1)]
        within = tried % 3 == 0
        with _load(busy, seed + tried):
            time.sleep(draw.uniform(0, 0.02))
            code = _fork_within(draw, cases) if within else _fork(draw, cases, None)
        facts = {"tried": tried, "wrong": [], "hangs": 0, "signals": 0}
        if code == -signal.SIGALRM:
            facts["hangs"] = 1
        elif code < 0:
            facts["signals"] = 1
        if code:
            facts["wrong"] = [f"seed {seed}, fork {tried}: exit {code}"] if code > 0 else []
        bad += code != 0
        say(**facts)
    return bad


def _fork(draw: random.Random, cases: list[Any], outer: Any) -> int | None:
    """Fork, check a few cases and make a program in the child, and return its exit code. Within a
    call of `outer`, the child returns (None), so that the call goes on."""
    import reliability_cases as rc

    chosen = draw.sample(cases, 3)
    new = rc.Compiles(draw.randrange(1 << 20), 0.2)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(CHILD)
    _judge([*chosen, new] if outer is None else [outer, *chosen, new], outer is None)
    return None


def _judge(cases: list[Any], end: bool) -> None:
    """In a forked child: check, and leave at the end or where something is wrong."""
    try:
        notes = [note for case in cases if (note := case.check())]
    except BaseException as error:
        notes = [f"{type(error).__name__}: {error}"]
    if notes or end:
        print(*notes, sep="\n", file=sys.stderr, flush=True)
        os._exit(bool(notes))


def _fork_within(draw: random.Random, cases: list[Any]) -> int:
    """Fork in a signal handler that comes during a call; the child then ends the call."""
    outer = draw.choice(cases)
    codes: list[int | None] = []

    def handler(*_: object) -> None:
        codes.append(_fork(draw, cases, outer))

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 2e-3))
    while not codes:
        note = outer.check()
        if note or (codes and codes[0] is None):
            break
    if codes and codes[0] is None:  # the child
        print(note, file=sys.stderr, flush=True)
        os._exit(bool(note))
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 1 if note else codes[0] or 0


def _child(name: str, count: int, seed: int, *more: str) -> int:
    sys.path.insert(0, str(Path(__file__).parent))

    def say(**facts: Any) -> None:
        os.write(1, (json.dumps(facts) + "\n").encode())

    folder = Path.cwd()
    run = interrupt_some if name == "interrupts" else fork_some
    return run(count, seed, folder, say, bool(more))


if __name__ == "__main__":  # a child, of `_watch`
    _, _, called, number, start, *rest = sys.argv
    _child(called, int(number), int(start), *rest)

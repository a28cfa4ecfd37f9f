"""Calls that are cut off, calls within calls, and calls in forked children."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taut.backends import shield
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import jit, sync
from taut.backends.cpu.codegen.isa import Isa, find
from taut.backends.cpu.runtime import turns
from taut.backends.cpu.runtime.plan import Plan
from taut.backends.cpu.runtime.team import team
from taut.backends.schedule.kernel import Kernel, exact
from taut.ir import Builder, CompileError, DType, FeedError, Graph

F32 = np.float32
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads


def gathers() -> Graph:
    """A gather, a step in Python, and a native one."""
    b: Any = Builder()
    x, i = b.input("x", "f32", ("n", 8)), b.input("i", "i64", ("k",))
    half = b.relu(b.cast(b.gather(b.mul(x, F32(3)), i), to=DType.f16))
    return b.outputs(y=b.mul(b.cast(half, to=DType.f32), F32(2)))


X = np.arange(40, dtype=F32).reshape(5, 8)
PLACES = np.array([4, 0, 2])


@pytest.fixture(params=[1, 2])
def program(request: pytest.FixtureRequest) -> Any:
    made = compile(gathers(), threads=request.param)
    assert made(X, PLACES)["y"].tobytes() == (6 * X[PLACES]).tobytes()
    return made


def plan_of(program: Any) -> Plan:
    plan = program._quick[1]
    assert isinstance(plan, Plan)
    return plan


def during(program: Any, monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Have `action()` called in the next call's step in Python, and in that call's alone."""
    bridge = next(bridge for _, bridge in plan_of(program)._calls if bridge is not None)
    run = bridge.step.run

    def acting(arrays: Any) -> Any:
        monkeypatch.setattr(bridge.step, "run", run)
        action()
        return run(arrays)

    monkeypatch.setattr(bridge.step, "run", acting)


def fail() -> None:
    raise KeyboardInterrupt


def test_a_fault_of_a_call_that_was_cut_off_is_forgotten(program: Any, monkeypatch) -> None:
    during(program, monkeypatch, fail)
    with pytest.raises(KeyboardInterrupt):
        program(X, np.array([4, 99, 2]))
    assert (program(X, PLACES)["y"] == 6 * X[PLACES]).all()
    with pytest.raises(FeedError):
        program(X, np.array([4, 99, 2]))
    assert (program(X, PLACES)["y"] == 6 * X[PLACES]).all()


def test_a_call_within_a_call_takes_memory_of_its_own(program: Any, monkeypatch) -> None:
    seen: list[Any] = []

    def inner() -> None:
        during(program, monkeypatch, lambda: seen.append(program(2 * X, PLACES)["y"]))
        seen.append(program(X + 1, PLACES)["y"])  # of which the twin's step calls once more
        with pytest.raises(FeedError):
            program(X, np.array([99, 0, 0]))
        seen.append(program(np.ones((7, 8), F32), PLACES)["y"])  # of another size

    before = program.memory
    during(program, monkeypatch, inner)
    assert (program(X, PLACES)["y"] == 6 * X[PLACES]).all()
    wanted = [12 * X[PLACES], 6 * (X + 1)[PLACES], np.full((3, 8), 6)]
    assert len(seen) == 3 and all((a == w).all() for a, w in zip(seen, wanted))
    assert program.memory > before
    assert not any(p.busy for p in program._plans.values())


def test_a_profile_within_a_call(program: Any, monkeypatch) -> None:
    rows: list[Any] = []
    during(program, monkeypatch, lambda: rows.append(program.profile(2 * X, PLACES)))
    assert (program(X, PLACES)["y"] == 6 * X[PLACES]).all()
    assert rows and (program(X, PLACES)["y"] == 6 * X[PLACES]).all()


@pytest.mark.parametrize("how", ["finalizer", "callback"])
def test_calls_of_finalizers_within_a_call(program: Any, monkeypatch, how: str) -> None:
    seen: list[Any] = []

    class Cycle:
        if how == "finalizer":

            def __del__(self) -> None:
                seen.append(program(X, PLACES)["y"])

    kept = []

    def drop() -> None:
        one: Any = Cycle()
        one.me = one
        if how == "callback":
            kept.append(weakref.ref(one, lambda _: seen.append(program(X, PLACES)["y"])))
        del one
        gc.collect()

    during(program, monkeypatch, drop)
    assert (program(2 * X, PLACES)["y"] == 12 * X[PLACES]).all()
    assert len(seen) == 1 and (seen[0] == 6 * X[PLACES]).all()


def test_a_call_within_a_call_never_waits_for_another_thread(program: Any, monkeypatch) -> None:
    """Two threads, each within a call of its own, call the other's program."""
    other = compile(gathers(), threads=program.target.threads)
    other(X, PLACES)
    both, seen = threading.Barrier(2, timeout=20), {}

    def work(mine: Any, theirs: Any) -> None:
        def cross() -> None:
            both.wait()
            seen[mine] = theirs(X, PLACES)["y"]

        during(mine, monkeypatch, cross)
        seen[mine, 0] = mine(2 * X, PLACES)["y"]

    threads = [threading.Thread(target=work, args=pair, daemon=True)
               for pair in ((program, other), (other, program))]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in (program, other):
        assert (seen[one] == 6 * X[PLACES]).all() and (seen[one, 0] == 12 * X[PLACES]).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs alarms")
def test_a_signal_handler_may_call(program: Any) -> None:
    seen: list[Any] = []
    feed = np.ones((1000, 8), F32)
    many = np.arange(1000)
    program(feed, many)
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(program(feed, many)["y"].sum()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        end = time.monotonic() + 20
        while len(seen) < 100 and time.monotonic() < end:
            assert (program(2 * feed, many)["y"] == 12).all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(seen) >= 100 and set(seen) == {6 * 8000}


# ---- forks ---------------------------------------------------------------------------------------


def in_child(action: Any) -> int:
    """The exit code of a forked child that does `action()`, which says whether all is well."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            os._exit(0 if action() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def another_inside(program: Any, monkeypatch) -> tuple[threading.Thread, threading.Event]:
    """A thread in the middle of a call of the program, where it stays until the event is set."""
    inside, forked = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        forked.wait(20)

    during(program, monkeypatch, stay)
    thread = threading.Thread(target=program, args=(2 * X, PLACES))
    thread.start()
    assert inside.wait(20)
    return thread, forked


@forks
def test_a_child_calls_what_another_thread_was_calling(program: Any, monkeypatch) -> None:
    thread, forked = another_inside(program, monkeypatch)
    assert plan_of(program).busy
    plan_of(program)._sync[:] = 255  # as if chunks of an op far ahead had been taken

    def action() -> bool:
        monkeypatch.undo()
        one = program(X, PLACES)["y"], program(np.ones((7, 8), F32), PLACES)["y"]
        return bool((one[0] == 6 * X[PLACES]).all() and (one[1] == 6).all())

    try:
        assert in_child(action) == 0
    finally:
        plan_of(program)._sync[:] = 0
        forked.set()
        thread.join()
    assert (program(X, PLACES)["y"] == 6 * X[PLACES]).all()


@forks
def test_a_fork_within_a_call(program: Any, monkeypatch) -> None:
    """The child calls, and goes on with the call that it was forked in."""
    codes: list[int] = []

    def fork() -> None:
        child = os.fork()
        if not child:
            signal.alarm(20)
            good = plan_of(program).busy and (program(X, PLACES)["y"] == 6 * X[PLACES]).all()
            codes.append(-1 if good else -2)
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    during(program, monkeypatch, fork)
    good = bool((program(2 * X, PLACES)["y"] == 12 * X[PLACES]).all())
    if codes[0] < 0:
        os._exit(0 if good and codes[0] == -1 else 1)
    assert good and codes == [0]


@forks
def test_a_fork_while_the_forking_thread_waits_for_another(program: Any, monkeypatch) -> None:
    """The main thread waits for a call of another thread; in the child that one will never end."""
    thread, forked = another_inside(program, monkeypatch)
    children: list[int] = []

    def fork(*_: object) -> None:
        children.append(os.fork())
        if children[0]:
            forked.set()
        else:
            signal.alarm(20)

    old = signal.signal(signal.SIGUSR1, fork)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    good = bool((program(X, PLACES)["y"] == 6 * X[PLACES]).all())
    if children == [0]:
        os._exit(0 if good and (program(X, PLACES)["y"] == 6 * X[PLACES]).all() else 1)
    signal.signal(signal.SIGUSR1, old)
    thread.join()
    assert good and os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


# ---- the shield ----------------------------------------------------------------------------------


def test_work_under_the_shield_is_done_to_its_end() -> None:
    go, cut_off, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        go.set()
        cut_off.wait(20)
        done.set()

    class Cut(Exception):
        pass

    def cut(*_: object) -> None:
        raise Cut

    old = signal.signal(signal.SIGINT, cut)

    def interrupt() -> None:
        go.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(Cut):
            shield.run(slow)
        assert not done.is_set()
        cut_off.set()
        assert shield.run(lambda: 5) == 5  # jobs take turns
        assert done.is_set()
    finally:
        signal.signal(signal.SIGINT, old)
    with pytest.raises(ZeroDivisionError):
        shield.run(lambda: 1 // 0)
    assert not shield._jobs and not shield._workers


@forks
def test_a_fork_waits_for_the_shield_and_its_child_does_the_work_again() -> None:
    begun = threading.Event()

    def slow() -> int:
        begun.set()
        time.sleep(0.3)
        return 7

    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(shield.run(slow)))
    thread.start()
    assert begun.wait(20)
    assert in_child(lambda: shield.run(lambda: 3) == 3 and not shield._lost) == 0
    thread.join()
    assert results == [7]


def test_a_child_of_a_stuck_compiler_says_so(monkeypatch) -> None:
    monkeypatch.setattr(shield, "_lost", True)
    with pytest.raises(CompileError, match="forked"):
        jit._load("not there", lambda *_: "", {}, find("portable"), None)


def test_a_finalizer_under_the_compiler_may_not_compile(monkeypatch) -> None:
    monkeypatch.setattr(jit, "_compiling", True)
    with pytest.raises(CompileError, match="finalizer"):
        jit._load("not there", lambda *_: "", {}, find("portable"), None)
    assert jit._compiling


def test_keys_of_code_do_not_change_where_a_repr_was_cut_off() -> None:
    """A dataclass's repr notes whom it is at work on, before its `try`."""
    kernel = Kernel("k", sync.barrier, (("tables", (find("portable"), 1.5)),))
    before = jit._kernel_key(kernel, find("portable")), exact(find("portable"))
    (running,) = (c.cell_contents for c in Isa.__repr__.__closure__ or ()
                  if isinstance(c.cell_contents, set))  # fmt: skip
    running.add((id(find("portable")), threading.get_ident()))
    try:
        assert repr(find("portable")) == "..."
        after = jit._kernel_key(kernel, find("portable")), exact(find("portable"))
    finally:
        running.clear()
    assert before == after and "portable" in before[1]


def test_an_interrupted_start_leaves_no_half_team() -> None:
    one = team(3)
    one.stop()
    old = signal.signal(signal.SIGINT, lambda *_: fail())
    try:
        for k in range(30):
            try:
                threading.Timer(1e-5 * k, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
                one.start()
                time.sleep(0.05)
            except KeyboardInterrupt:
                pass
            one.start()
            assert sum(t.name.startswith("taut-") for t in one._threads) == 2
            one.stop()
            assert not one._threads and not one.ready
    finally:
        signal.signal(signal.SIGINT, old)


# ---- the end of the process, and the stress ------------------------------------------------------

EXIT = """
import threading, numpy as np, taut
from taut.ir import Builder
b = Builder()
g = b.outputs(y=b.relu(b.input("x", "f32", ("n", 8))))
p, q = taut.compile(g, threads=2), taut.compile(g, threads=3)
x = np.ones((4, 8), "f")
p(x)
class Late:
    def __del__(self):
        print(p(x)["y"].tolist()[3][7], threading.active_count())
        try:
            q(x)
        except Exception as error:
            print(type(error).__name__, error.message)
keep = Late()
"""


def test_a_finalizer_may_call_as_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    called, refused = done.stdout.splitlines()
    assert called == "1.0 1" and not done.stderr
    assert refused.startswith("CompileError") and "shutting down" in refused


LIMITED = """
import resource, threading, numpy as np, taut
from taut.ir import Builder
b = Builder()
g = b.outputs(y=b.relu(b.input("x", "f32", ("n", 8))))
x = np.ones((4000, 8), "f")
taut.compile(g, threads=1)(x)
p = taut.compile(g, threads=64)
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)
assert all((p(x)["y"] == 1).all() for _ in range(10))
assert threading.active_count() < 64
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_team_works_with_the_threads_that_there_are() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture
def reliability(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    return importlib.import_module("reliability_calls")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs alarms")
def test_interrupts_at_random_moments(reliability: Any) -> None:
    found = reliability.interrupts(60, 1, lambda _: None, small=True)
    assert found["tried"] == 60 and not found["notes"]


@forks
def test_forks_under_load(reliability: Any) -> None:
    found = reliability.forks(6, 1, lambda _: None, small=True)
    assert found["tried"] == 6 and not found["notes"]


def test_what_is_busy_is_seen_on_the_stack() -> None:
    class Owner:
        def __init__(self) -> None:
            self.lock, self.busy = threading.Lock(), False

        @turns.holds
        def hold(self, action: Any) -> Any:
            with self.lock:
                try:
                    held = self.busy = True
                    return action()
                finally:
                    held = self.busy = False  # noqa: F841

        def after_fork(self) -> None:
            return

    def ask() -> bool:
        return turns.is_nested()

    one = Owner()
    assert not ask() and one.hold(lambda: ask())
    assert (one.busy, one.lock.locked()) == (False, False)

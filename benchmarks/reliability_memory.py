"""Compiled programs between pages that nobody may touch: what reads or writes outside its buffers
dies of a signal, and what reads memory that nobody wrote gets numbers that are wrong.

    python benchmarks/reliability_memory.py --count 20000 --seed 0

A graph of drawn geometry (`geometries`) is compiled one of three ways, in turn, and run twice.
*end* and *start*: every buffer of the arena and every constant has its own pages, laid against a
page without any rights at its end (after the `SLACK` that kernels may read) or at its start.
*arena*: the arena as it is, buffers sharing memory one after the other. Inputs have exactly their
size, and may not be written to; constants neither. Arena, slack and outputs are filled with NaN,
then with random bytes; slack must be as it was afterwards, and results the reference's. All of it
runs in a child process, which is started again behind a geometry that kills it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
LINE = 64
NONE, READ = 0, 1  # of mprotect
PATIENCE = 120.0  # seconds that a geometry may take, compiling included
MODES = ("end", "start", "arena")
Array = np.ndarray[Any, Any]


# ---- memory ------------------------------------------------------------------------------------


def _protect(address: int, size: int, rights: int) -> None:
    code = ctypes.CDLL(None, use_errno=True).mprotect(
        ctypes.c_void_p(address), ctypes.c_size_t(size), rights
    )
    if code:
        raise OSError(ctypes.get_errno(), "mprotect")


def _pages(size: int) -> int:
    return -(-max(size, 1) // PAGE) * PAGE


def guarded(size: int, mode: str, alignment: int = 1) -> Array:
    """uint8[size] that begins, or ends (but for the alignment), at a page without rights."""
    whole = _pages(size)
    memory = np.frombuffer(mmap.mmap(-1, whole + 2 * PAGE), np.uint8)
    base = memory.ctypes.data
    _protect(base, PAGE, NONE)
    _protect(base + PAGE + whole, PAGE, NONE)
    start = PAGE if mode == "start" else PAGE + (whole - size) // alignment * alignment
    return memory[start : start + size]


def read_only(array: Array) -> None:
    """Take the right to write to the pages of a guarded array."""
    first = array.ctypes.data // PAGE * PAGE
    last = array.ctypes.data + max(array.nbytes, 1)
    _protect(first, -(-(last - first) // PAGE) * PAGE, READ)


class Poison:
    """Fills memory, and says whether it is still as it was filled."""

    def __init__(self, seed: int) -> None:
        self.random = None if seed == 0 else np.random.default_rng(seed)

    def bytes(self, count: int) -> Array:
        """NaN of every float type, -1, or random bytes."""
        if self.random is None:
            return np.full(count, 255, np.uint8)
        return self.random.integers(0, 256, count, np.uint8)


class Layout:
    """Where a program's buffers go while it is compiled, and afterwards."""

    def __init__(self, mode: str) -> None:
        from taut.backends.schedule import arena, layout

        self.mode, self.slack = mode, layout.SLACK
        self.plain, self.made = arena.assign, arena.Arena
        self.constants: list[Array] = []
        self.places: dict[Any, int] = {}
        self.gaps: list[tuple[int, int]] = []  # offsets of pages that are taken away
        self.arena: Array = np.zeros(0, np.uint8)

    def assign(self, buffers: Any, lifetimes: Any) -> Any:
        """As `arena.assign`; each buffer has pages of its own unless the mode is 'arena'."""
        found = list(buffers)
        if self.mode == "arena":
            return self.plain(found, lifetimes)
        places: dict[Any, int] = {}
        at, self.gaps = PAGE, [(0, PAGE)]
        for buffer in found:
            size = -(-(buffer.size + self.slack) // LINE) * LINE
            whole = _pages(size)
            places[buffer] = at if self.mode == "start" else at + whole - size
            self.gaps.append((at + whole, PAGE))
            at += whole + PAGE
        self.places |= places
        return self.made(at, places)

    def aligned(self, size: int, alignment: int = LINE) -> Array:
        """As `memory.aligned`, for the arena (which asks for pages) and for constants."""
        if alignment < PAGE:
            made = guarded(size, self.mode, alignment)
            made[:] = 255
            self.constants.append(made)
            return made
        self.arena = guarded(size, self.mode, PAGE)
        for start, count in self.gaps:
            _protect(self.arena.ctypes.data + start, count, NONE)
        return self.arena

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Programs that are compiled in the block are laid out so."""
        from taut.backends.cpu.runtime import plan
        from taut.backends.schedule import arena, layout

        plain = layout.aligned

        def for_plan(size: int, alignment: int = LINE) -> Array:
            return plain(size, alignment) if alignment < PAGE else self.aligned(size, alignment)

        saved = [(arena, "assign", arena.assign), (layout, "aligned", plain),
                 (plan, "aligned", plan.aligned)]  # fmt: skip
        try:
            arena.assign, layout.aligned, plan.aligned = self.assign, self.aligned, for_plan
            yield
        finally:
            for module, name, value in saved:
                setattr(module, name, value)

    def fill(self, poison: Poison) -> list[tuple[Array, Array]]:
        """Poison the arena; what lies behind its buffers, and must stay as it is."""
        if self.mode == "arena":
            self.arena[:] = poison.bytes(self.arena.size)
            return []
        slack = []
        for buffer, start in self.places.items():
            end = start + buffer.size
            self.arena[start:end] = poison.bytes(buffer.size)
            behind = self.arena[end : end + self.slack]
            behind[:] = poison.bytes(behind.size)
            slack.append((behind, behind.copy()))
        return slack


# ---- one geometry ------------------------------------------------------------------------------


def _laid(array: Array, mode: str) -> Array:
    """A copy that has exactly its size between guards."""
    raw = guarded(array.nbytes, mode)
    made = raw.view(array.dtype)[: array.size].reshape(array.shape)
    made[...] = array
    return made


def _differs(made: Array, want: Array) -> str:
    """What is wrong with a result, or nothing."""
    if made.shape != want.shape or made.dtype != want.dtype:
        return f"{made.dtype}{list(made.shape)} for {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        count = int((made != want).sum())
        return f"{count} of {want.size} integers" if count else ""
    scale = 1 + float(np.abs(want).max(initial=0, where=np.isfinite(want)))
    close = np.isclose(made, want, rtol=1e-4, atol=3e-5 * scale, equal_nan=True)
    return "" if close.all() else f"{int((~close).sum())} of {want.size} numbers"


def attempt(
    graph: Any, feeds: dict[str, Array], threads: int = 1, modes: Sequence[str] = MODES
) -> list[str]:
    """What goes wrong with a graph between guards: nothing, or a line for each fault."""
    from taut.ir import FeedError, interpret

    with np.errstate(all="ignore"):
        try:
            want = interpret(graph, feeds)
        except FeedError:
            want = None
    wrong = []
    for mode in modes:
        wrong += [f"{mode}: {text}" for text in _attempt(graph, feeds, want, mode, threads)]
    return wrong


def _attempt(
    graph: Any, feeds: dict[str, Array], want: dict[str, Array] | None, mode: str, threads: int
) -> Iterator[str]:
    from taut.backends.cpu import compile
    from taut.ir import FeedError

    layout = Layout(mode)
    with layout.on():
        program = compile(graph, threads=threads)
    for constant in layout.constants:
        read_only(constant)
    side = "end" if mode == "arena" else mode
    given = [_laid(feeds[n.name], side) for n in graph.inputs]
    for array in given:
        read_only(array)
    types = [v.type for v in graph.outputs]
    for seed in (0, 1):
        poison = Poison(seed)
        slack = layout.fill(poison)
        out = [_laid(np.zeros(t.static_shape, t.dtype.numpy), side) for t in types]
        for array in out:
            array.reshape(-1).view(np.uint8)[:] = poison.bytes(array.nbytes)
        try:
            made = program.run(given, out)
        except FeedError as error:
            if want is not None:
                yield f"refused: {error}"
            continue
        if want is None:
            yield "takes what the reference refuses"
            continue
        for name, array in zip(graph.output_names, made):
            text = _differs(array, want[name])
            if text:
                yield f"{name}: {text}"
        if any(not np.array_equal(now, before) for now, before in slack):
            yield "writes behind a buffer"


# ---- many, in a child --------------------------------------------------------------------------


def _child(seed: int, start: int, stop: int) -> None:
    """Geometries start to stop; a line before and one behind each."""
    import gc

    import geometries
    from taut.backends.cpu.runtime import team

    for threads in (1, 2):
        team.team(threads)  # its memory is made before any is laid out
    for number in range(start, stop):
        print(json.dumps({"begins": number}), flush=True)
        name, graph, feeds = geometries.drawn(seed, number)
        mode = MODES[number // len(geometries.FAMILIES) % len(MODES)]
        try:
            wrong = attempt(graph, feeds, 2 if number % 7 == 0 else 1, [mode])
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        print(json.dumps({"ends": number, "family": name, "wrong": wrong}), flush=True)
        if number % 50 == 0:
            gc.collect()


def _lines(command: list[str]) -> Iterator[dict[str, Any]]:
    """What a child says, line by line; in the end how it ended, also where it had to be killed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as child:
        assert child.stdout is not None
        watch = selectors.DefaultSelector()
        watch.register(child.stdout, selectors.EVENT_READ)
        hangs = False
        while not hangs:
            if not watch.select(PATIENCE):
                child.kill()
                hangs = True
                break
            line = child.stdout.readline()
            if not line:
                break
            yield json.loads(line)
        child.stdout.close()
        yield {"code": child.wait(), "hangs": hangs}


def guard_pages(
    count: int, seed: int = 0, report: Callable[[str], None] = print, start: int = 0
) -> dict[str, Any]:
    """Try `count` drawn geometries: how many were `tried`, and how many gave `wrong` numbers (or
    errors), died of `signals`, and hung; `report` is told of each of these and, now and then, how
    far it is."""
    begun = time.perf_counter()
    found: dict[str, Any] = {"name": "guard pages", "tried": 0, "wrong": 0, "signals": 0,
                             "hangs": 0}  # fmt: skip
    at, stop = start, start + count
    while at < stop:
        command = [sys.executable, __file__, "--child", str(seed), str(at), str(stop)]
        for line in _lines(command):
            if "begins" in line:
                at = line["begins"]
            elif "ends" in line:
                found["tried"] += 1
                found["wrong"] += bool(line["wrong"])
                for text in line["wrong"][:3]:
                    report(f"{line['ends']} {line['family']}: {text}")
                if found["tried"] % 500 == 0:
                    report(f"{found['tried']} of {count}, {time.perf_counter() - begun:.0f} s")
                at = line["ends"] + 1
            elif line["hangs"] or line["code"]:
                found["tried"] += 1
                found["hangs" if line["hangs"] else "signals"] += 1
                what = "hangs" if line["hangs"] else _ending(line["code"])
                report(f"{at}: {what}")
                at += 1
    return found | {"seconds": round(time.perf_counter() - begun, 1)}


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(*options.child)
        return
    print(json.dumps(guard_pages(options.count, options.seed, start=options.start)))


if __name__ == "__main__":
    main()

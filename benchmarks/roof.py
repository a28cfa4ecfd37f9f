"""The dot-product roof: the most int8 (and float32) operations a second that registers alone allow.

Every thread runs independent dot products on registers, with nothing loaded or stored. No kernel
can be faster on this machine with this instruction table; a multiply and an add are two
operations. Run as a script it prints the roof for one and for all threads.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np
from taut.backends.cpu.codegen import isa, jit, syncblock
from taut.backends.cpu.runtime import team
from taut.backends.schedule.kernel import Kernel
from taut.backends.schedule.memory import aligned

STEPS = 200_000


def chains(table: isa.Isa) -> int:
    """Independent accumulators: more than latency times throughput, fewer than registers."""
    return 20 if table.lanes == 16 or table.architecture == "aarch64" else 12


def roof(table: isa.Isa):
    """A kernel that makes `STEPS * chains` dot products of registers on each thread."""
    from taut.backends.cpu.codegen import emit, vector

    def body(e: Any, steps: Any, record: Any) -> None:
        b = e.b
        kind = emit.vec(emit.I32, e.n) if table.group == 1 else emit.vec(emit.I8, 4 * e.n)
        if table.dot == "pmaddwd":
            kind = emit.vec(emit.I16, 2 * e.n)
        one = b.bitcast(e.splat(e.load(record, emit.I32)), kind)
        two = b.bitcast(e.splat(e.load(e.add(record, 4), emit.I32)), kind)
        start = [e.vector(emit.I32, i) for i in range(chains(table))]

        def step(_: Any, accs: list[Any]) -> list[Any]:
            # Each accumulator is its own weight, so that nothing can be moved out of the loop.
            own = [b.bitcast(acc, kind) for acc in accs]
            if table.dot == "pmaddwd":  # two multiplications a step
                return [e.dot(acc, (one, two), (w, w)) for acc, w in zip(accs, own)]
            return [e.dot(acc, one, w) for acc, w in zip(accs, own)]

        total, *rest = e.loop(e.i64(0), steps, 1, start, step)
        for acc in rest:
            total = b.add(total, acc)
        e.store(total, record)

    spin, word = vector.emitted(table, 2, body), vector.load_i64

    def kernel(tid, nt, d):
        spin(word(d + 8), d + 64 + 64 * tid)

    return kernel


def float_roof(table: isa.Isa):
    """As `roof`, with multiply-adds of float32."""
    from taut.backends.cpu.codegen import emit, vector

    def body(e: Any, steps: Any, record: Any) -> None:
        kind = emit.vec(emit.F32, e.n)
        one = e.b.bitcast(e.splat(e.load(record, emit.I32)), kind)
        start = [e.vector(emit.F32, float(i)) for i in range(chains(table))]

        def step(_: Any, accs: list[Any]) -> list[Any]:
            return [e.fma(acc, one, acc) for acc in accs]

        total, *rest = e.loop(e.i64(0), steps, 1, start, step)
        for acc in rest:
            total = e.b.fadd(total, acc)
        e.store(total, record)

    spin, word = vector.emitted(table, 2, body), vector.load_i64

    def kernel(tid, nt, d):
        spin(word(d + 8), d + 64 + 64 * tid)

    return kernel


def measure_roof(threads: int, table: isa.Isa | None = None, repeats: int = 15) -> float:
    """Billions of operations a second on `threads` threads: the best of several short runs."""
    table = table or isa.find()
    return _measure(roof, threads, table, repeats) * table.group


def measure_float_roof(threads: int, table: isa.Isa | None = None, repeats: int = 15) -> float:
    """As `measure_roof`, for float32."""
    return _measure(float_roof, threads, table or isa.find(), repeats)


def _measure(build: Any, threads: int, table: isa.Isa, repeats: int) -> float:
    """Billions of operations a second with one item a lane."""
    code = jit.load(Kernel.of(build), table)
    record = aligned(64 + 64 * threads)
    block = aligned(syncblock.sync_bytes(threads))
    record.view(np.int64)[:2] = block.ctypes.data, STEPS
    group = team.team(threads)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        group.run(code.address, record.ctypes.data)
        best = min(best, time.perf_counter() - start)
    work = 2 * threads * STEPS * chains(table) * table.lanes
    return work / best / 1e9


def main() -> None:
    """Print the roof of each runnable table, or of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", help="one instruction table; all runnable ones by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tables = [isa.find(options.isa)] if options.isa else isa.available()
    for table in tables:
        one, all_ = measure_roof(1, table), measure_roof(options.threads, table)
        print(f"{table.name:12} 1 thread {one:7.0f} GOPS   {options.threads} threads {all_:7.0f}")
        one, all_ = measure_float_roof(1, table), measure_float_roof(options.threads, table)
        print(f"{'float32':12} 1 thread {one:7.0f} GFLOPS {options.threads} threads {all_:7.0f}")


if __name__ == "__main__":
    main()

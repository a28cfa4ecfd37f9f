"""Numba's side of the kernels: intrinsics, threads, chunks. Importing this imports Numba."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.ir as ir
from numba import njit, types
from numba.extending import intrinsic as numba_intrinsic

from . import sync
from .emit import I8, I32, I64, Emit, Value, declare
from .isa import TABLES, Isa


def emitted(isa: Isa, arguments: int, body: Callable[..., Value], returns: bool = False) -> Any:
    """A Numba intrinsic of `arguments` int64s whose code is `body(emit, *values)`."""

    def generate(context, builder, signature, values):
        result = body(Emit(builder, isa), *values)
        return context.get_dummy_value() if result is None else result

    signature = (types.int64 if returns else types.void)(*(types.int64,) * arguments)
    names = ", ".join(f"a{i}" for i in range(arguments))
    scope: dict[str, object] = {"value": (signature, generate)}
    exec(f"def emitted(context, {names}): return value", scope)
    return numba_intrinsic(scope["emitted"])  # type: ignore[arg-type]


inline = njit(inline="always")


def external(symbol: str) -> Any:
    """A call to `void symbol(i64, i64, i64)`, which is linked by name."""

    def body(e: Emit, tid: Value, nt: Value, d: Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        e.b.call(declare(e.b.module, kind, symbol), [tid, nt, d])

    return emitted(_PLAIN, 3, body)


_PLAIN = TABLES["portable"]
load_i64 = emitted(_PLAIN, 1, lambda e, a: e.load(a), True)
store_i64 = emitted(_PLAIN, 2, lambda e, a, v: e.store(v, a))
smaller = emitted(
    _PLAIN, 2, lambda e, a, c: e.b.select(e.b.icmp_signed("<", a, c), a, c), True
)  # Numba's own min() is a function to link


def _fill(e: Emit, address: Value, value: Value, size: Value) -> None:
    b = e.b
    pointer = b.inttoptr(address, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I8, I64, ir.IntType(1)])
    memset = declare(b.module, kind, "llvm.memset.p0.i64")
    b.call(memset, [pointer, b.trunc(value, I8), size, ir.Constant(ir.IntType(1), 0)])


fill = emitted(_PLAIN, 3, _fill)


def language() -> dict[str, object]:
    """What a generated entry may use beside its kernels."""
    return {"load_i64": load_i64, "store_i64": store_i64}


# Threads.


@cache
def atomics():
    """(load, store, add) on int64 words, sequentially consistent; add returns the old value."""
    isa = TABLES["portable"]

    def pointer(e: Emit, address: Value) -> Value:
        return e.b.inttoptr(address, I64.as_pointer())

    return (
        emitted(isa, 1, lambda e, a: e.b.load_atomic(pointer(e, a), "seq_cst", 8), True),
        emitted(isa, 2, lambda e, a, v: e.b.store_atomic(v, pointer(e, a), "seq_cst", 8)),
        emitted(isa, 2, lambda e, a, v: e.b.atomic_rmw("add", pointer(e, a), v, "seq_cst"), True),
    )


@cache
def invoke():
    """`invoke(function, tid, nt, d)`: call native code by address."""

    def body(e: Emit, function: Value, *args: Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        e.b.call(e.b.inttoptr(function, kind.as_pointer()), args)

    return emitted(TABLES["portable"], 4, body)


@cache
def waiting(spins: int):
    """(wait(word, sleepers, value), wake(word, sleepers)): until the word at `word` changes.

    `wait` may come back early; without futexes it yields a while longer and then gives up.
    """
    isa = TABLES["portable"]
    load, _, add = atomics()

    def relax(e: Emit) -> None:
        if sync.host_architecture() == "x86_64":
            e.call("llvm.x86.sse2.pause", ir.VoidType())
        elif sync.host_architecture() == "aarch64":
            e.call("llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))

    def give_way(e: Emit) -> None:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        e.call(name, I32)

    def futex(e: Emit, word: Value, operation: int, value: Value) -> None:
        zero = e.i64(0)
        number = e.i64(sync.FUTEX)
        e.call("syscall", I64, number, word, e.i64(operation), value, zero, zero, zero)

    pause, hand_over = emitted(isa, 0, relax), emitted(isa, 0, give_way)
    # 128: private to the process; 0 waits while the (32-bit) word holds the value, 1 wakes.
    sleep = emitted(isa, 2, lambda e, word, value: futex(e, word, 128, value))
    rouse = emitted(isa, 1, lambda e, word: futex(e, word, 129, e.i64(2**31 - 1)))
    sleeps = sync.FUTEX != 0
    yields = sync.YIELDS if sleeps else 50 * sync.YIELDS

    @njit(inline="always")
    def wait(word, sleepers, value):
        for _ in range(spins):
            if load(word) != value:
                break
            pause()
        if load(word) == value:
            for _ in range(yields):
                if load(word) != value:
                    break
                hand_over()
            if sleeps:
                while load(word) == value:
                    add(sleepers, 1)
                    sleep(word, value)
                    add(sleepers, -1)

    @njit(inline="always")
    def wake(word, sleepers):
        if sleeps and load(sleepers) != 0:
            rouse(word)

    return wait, wake


def driver(body):
    """A kernel that calls `body(d, chunk)` for every chunk of a record once, over all threads.

    `body` is an intrinsic or an `njit(inline="always")` function. Records begin with the words
    sync, slot, chunks (see `records.Header`).
    """
    load, _, add = atomics()
    word = load_i64

    def kernel(tid, nt, d):
        sync = word(d)
        chunks = word(d + 16)
        counters = sync + 128 + 32 * (load(sync + 64) & 1) + 8 * word(d + 8)
        thread = tid
        for _ in range(nt):
            first = chunks * thread // nt
            last = chunks * (thread + 1) // nt
            if first < last:
                chunk = first + add(counters + 64 * thread, 1)
                while chunk < last:
                    body(d, chunk)
                    chunk = first + add(counters + 64 * thread, 1)
            thread += 1
            if thread == nt:
                thread = 0

    return kernel

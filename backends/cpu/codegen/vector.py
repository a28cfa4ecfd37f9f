"""Numba's side of the kernels: intrinsics, threads, chunks. Importing this imports Numba."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.ir as ir
from numba import njit, types
from numba.extending import intrinsic as numba_intrinsic

from . import syncblock
from .emit import I8, I32, I64, Emit, Value, declare
from .isa import TABLES, Isa, host_architecture


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


_PLAIN = TABLES["portable"]
load_i64 = emitted(_PLAIN, 1, lambda e, a: e.load(a), True)
smaller = emitted(
    _PLAIN, 2, lambda e, a, c: e.b.select(e.b.icmp_signed("<", a, c), a, c), True
)  # Numba's own min() is a function to link


# For numbers that are never negative, by ones above 0: Python's // and % are a page of LLVM IR.
part = emitted(_PLAIN, 2, lambda e, a, c: e.b.udiv(a, c), True)
rest = emitted(_PLAIN, 2, lambda e, a, c: e.b.urem(a, c), True)


@cache
def place(axes: int) -> Any:
    """`place(start, strides, i0, i1, ...)`: start + i0 * s0 + i1 * s1 + ..., the strides being
    words of a record. One call for a dozen expressions, each of which Numba would have to type."""

    def body(e: Emit, start: Value, strides: Value, *indices: Value) -> Value:
        for k, index in enumerate(indices):
            start = e.add(start, e.mul(index, e.field(strides, k)))
        return start

    return emitted(_PLAIN, 2 + axes, body, True)


def _fill(e: Emit, address: Value, value: Value, size: Value) -> None:
    b = e.b
    pointer = b.inttoptr(address, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I8, I64, ir.IntType(1)])
    memset = declare(b.module, kind, "llvm.memset.p0.i64")
    b.call(memset, [pointer, b.trunc(value, I8), size, ir.Constant(ir.IntType(1), 0)])


fill = emitted(_PLAIN, 3, _fill)


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
def compare_and_swap():
    """swap(word, old, new): 1 when the word held old and now holds new, else 0."""

    def body(e: Emit, address: Value, old: Value, new: Value) -> Value:
        pointer = e.b.inttoptr(address, I64.as_pointer())
        pair = e.b.cmpxchg(pointer, old, new, "seq_cst", "seq_cst")
        return e.b.zext(e.b.extract_value(pair, 1), I64)

    return emitted(_PLAIN, 3, body, True)


@cache
def waiting(spins: int):
    """(spin, wake): one turn of waiting for a word to change, and telling those who sleep.

    turns = spin(word, sleepers, value, turns) pauses, yields or sleeps, the more the higher
    turns; it is -1 when that has lasted and there are no futexes to sleep in.
    """
    load, _, add = atomics()

    def relax(e: Emit) -> None:
        if host_architecture() == "x86_64":
            e.call("llvm.x86.sse2.pause", ir.VoidType())
        elif host_architecture() == "aarch64":
            e.call("llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))

    def give_way(e: Emit) -> None:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        e.call(name, I32)

    def futex(e: Emit, word: Value, operation: int, value: Value) -> None:
        zero = e.i64(0)
        number = e.i64(syncblock.FUTEX)
        e.call("syscall", I64, number, word, e.i64(operation), value, zero, zero, zero)

    pause, hand_over = emitted(_PLAIN, 0, relax), emitted(_PLAIN, 0, give_way)
    # 128: private to the process; 0 waits while the (32-bit) word holds the value, 1 wakes.
    sleep = emitted(_PLAIN, 2, lambda e, word, value: futex(e, word, 128, value))
    rouse = emitted(_PLAIN, 1, lambda e, word: futex(e, word, 129, e.i64(2**31 - 1)))
    sleeps = syncblock.FUTEX != 0
    yields = spins + (syncblock.YIELDS if sleeps else 50 * syncblock.YIELDS)

    @njit(inline="always")
    def spin(word, sleepers, value, turns):
        if turns < spins:
            pause()
        elif turns < yields:
            hand_over()
        elif sleeps:
            add(sleepers, 1)
            sleep(word, value)
            add(sleepers, -1)
        else:
            turns = -2
        return turns + 1

    @njit(inline="always")
    def wake(word, sleepers):
        if sleeps and load(sleepers) != 0:
            rouse(word)

    return spin, wake


@cache
def sharing():
    """(expect, take, finish): how threads share the chunks of an op; see `sync`.

    expect(tid, sync, chunks) says that the running op has so many chunks more; then
    take(tid, nt, record) hands out chunks of the record until it is -1, and each one taken is
    reported by finish(tid, sync) when it is done.
    """
    load, store, _ = atomics()
    swap = compare_and_swap()
    word = load_i64

    @njit(inline="always")
    def expect(tid, sync, chunks):
        mine = sync + 192 + 64 * tid
        op = load(mine + 32)
        known = load(mine + 40)
        store(mine + 40, (known if known >> 24 == op else op << 24) + chunks)

    @njit(inline="always")
    def take(tid, nt, d):
        sync = word(d)
        chunks = word(d + 16)
        mine = sync + 192 + 64 * tid
        op = load(mine + 32)
        counter = sync + 192 + 8 * word(d + 8)
        thread = tid
        for _ in range(nt):
            first = chunks * thread // nt
            last = chunks * (thread + 1) // nt
            while first < last:
                taken = load(counter + 64 * thread)
                if taken >> 24 > op:
                    return -1  # this op has long been over
                fresh = taken if taken >> 24 == op else op << 24
                chunk = first + fresh - (op << 24)
                if chunk >= last:
                    break
                if swap(counter + 64 * thread, taken, fresh + 1):
                    return chunk
            thread += 1
            if thread == nt:
                thread = 0
        return -1

    @njit(inline="always")
    def finish(tid, sync):
        op = load(sync + 192 + 64 * tid + 32)
        while True:
            done = load(sync + 80)
            fresh = done if done >> 24 == op else op << 24
            if swap(sync + 80, done, fresh + 1):
                return

    return expect, take, finish


def driver(symbol: str) -> Any:
    """A kernel `f(tid, nt, d)` that calls `void symbol(d, chunk)` for every chunk of a record once,
    over all threads. With nt == 1 one thread runs all of them, with nt == 0 only chunk number
    `tid`; both leave the sync block alone.

    Records begin with the words sync, slot, chunks (see `records.Header`; how chunks are taken:
    `sync`).
    """
    expect, take, finish = sharing()
    word = load_i64

    def call(e: Emit, d: Value, chunk: Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 2)
        function = declare(e.b.module, kind, symbol)
        function.attributes.add("noduplicate")  # a body is large: it is to stand there once
        e.b.call(function, [d, chunk])

    body = emitted(_PLAIN, 2, call)

    def kernel(tid, nt, d):
        chunk = tid if nt == 0 else 0
        end = chunk + 1 if nt == 0 else word(d + 16)
        if nt > 1:
            expect(tid, word(d), end)
        while True:  # one loop for both ways, since `body` is large
            if nt > 1:
                chunk = take(tid, nt, d)
            if chunk < 0 or chunk >= end:
                return
            body(d, chunk)
            chunk += 1
            if nt > 1:
                finish(tid, word(d))

    return kernel

"""LLVM IR by hand: the pieces that kernels are made of. Importing this imports Numba.

`Emit` wraps an llvmlite builder with the few operations that the generators need; `intrinsic`
makes a Numba intrinsic of a function over `Emit`. Everything takes and gives int64 addresses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

from . import sync
from .isa import TABLES, Isa

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
MAGIC = 1.5 * 2.0**52
NEW_DOT = llvm.llvm_version_info[0] >= 22  # vpdpbusd then takes bytes; before, all int32


class Emit:
    """A builder with an instruction table. Vectors are LLVM vectors, addresses are i64."""

    def __init__(self, builder: ir.IRBuilder, isa: Isa):
        self.b = builder
        self.isa = isa
        self.n = isa.lanes

    # Scalars and memory.

    def i64(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def add(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.b.add(a, self.i64(b) if isinstance(b, int) else b)

    def mul(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.b.mul(a, self.i64(b) if isinstance(b, int) else b)

    def load(self, address: ir.Value, kind: ir.Type = I64, align: int = 1) -> ir.Value:
        value = self.b.load(self.b.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def store(self, value: ir.Value, address: ir.Value, align: int = 1) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer())).align = align

    def field(self, record: ir.Value, word: int, kind: ir.Type = I64) -> ir.Value:
        """Word `word` of a record, as i64, i32 (low half) or f64 (bits)."""
        return self.load(self.add(record, 8 * word), kind, 8)

    def call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    # Vectors.

    def splat(self, value: ir.Value, n: int | None = None) -> ir.Value:
        n = n or self.n
        kind = ir.VectorType(value.type, n)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, n), [0] * n))

    def vector(self, kind: ir.Type, value: float, n: int | None = None) -> ir.Constant:
        n = n or self.n
        return ir.Constant(ir.VectorType(kind, n), [value] * n)

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.b.shuffle_vector(a, b, mask)

    def join(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.shuffle(a, b, range(2 * a.type.count))

    def low(self, a: ir.Value) -> ir.Value:
        return self.shuffle(a, a, range(a.type.count // 2))

    def high(self, a: ir.Value) -> ir.Value:
        return self.shuffle(a, a, range(a.type.count // 2, a.type.count))

    def clamp_int(self, a: ir.Value, lo: ir.Value, hi: ir.Value) -> ir.Value:
        a = self.b.select(self.b.icmp_signed(">", a, lo), a, lo)
        return self.b.select(self.b.icmp_signed("<", a, hi), a, hi)

    def clamp_float(self, a: ir.Value, lo: ir.Value, hi: ir.Value) -> ir.Value:
        """min(max(a, lo), hi) as one max and one min instruction; a is never NaN."""
        a = self.b.select(self.b.fcmp_ordered(">", a, lo), a, lo)
        return self.b.select(self.b.fcmp_ordered("<", a, hi), a, hi)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c, rounded once (a library call where the machine has no such instruction)."""
        n, base = a.type.count, a.type.element
        return self.call(f"llvm.fma.v{n}f{64 if base == F64 else 32}", a.type, a, b, c)

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(F64, value)

    def lookup(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """table[index] for u8 tables and int32 lanes, lane by lane; int32 lanes out."""
        b, kind = self.b, index.type
        out = ir.Constant(kind, ir.Undefined)
        for lane in range(kind.count):
            i = b.zext(b.extract_element(index, ir.Constant(I32, lane)), I64)
            byte = b.zext(self.load(self.add(table, i), I8), I32)
            out = b.insert_element(out, byte, ir.Constant(I32, lane))
        return out

    # Control flow.

    def loop(
        self,
        start: ir.Value,
        stop: ir.Value,
        step: ir.Value | int,
        carried: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
    ) -> list[ir.Value]:
        """`for i in range(start, stop, step): carried = body(i, carried)`, run at least once."""
        b = self.b
        before = b.block
        head = b.append_basic_block("loop")
        after = b.append_basic_block("done")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(start, before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        new = list(body(i, list(phis)))
        following = self.add(i, step)
        i.add_incoming(following, b.block)
        for phi, value in zip(phis, new):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", following, stop), head, after)
        b.position_at_end(after)
        return new

    # The dot product.

    def input_step(self, address: ir.Value) -> ir.Value:
        """One step's `group` input bytes, broadcast to every lane in the form `dot` wants."""
        b, n, group = self.b, self.n, self.isa.group
        if group == 4:
            word = self.load(address, I32)
            if self.isa.signed:
                word = b.xor(word, ir.Constant(I32, -0x7F7F7F80))
            return self.splat(word)
        if group == 2:
            pair = b.zext(self.load(address, ir.VectorType(I8, 2)), ir.VectorType(I16, 2))
            return b.bitcast(self.splat(b.bitcast(pair, I32)), ir.VectorType(I16, 2 * n))
        return self.splat(b.zext(self.load(address, I8), I32))

    def weight_step(self, address: ir.Value) -> ir.Value:
        """One step's weights for `lanes` output channels, in the form `dot` wants."""
        n, group = self.n, self.isa.group
        raw = self.load(address, ir.VectorType(I8, n * group), n * group)
        if group == 4:
            return raw
        return self.b.sext(raw, ir.VectorType(I16 if group == 2 else I32, n * group))

    def dot(self, acc: ir.Value, x: ir.Value, w: ir.Value) -> ir.Value:
        """acc + sum over the group of x*w, exact modulo 2^32."""
        b, kind = self.b, acc.type
        match self.isa.dot:
            case "vpdpbusd512" | "vpdpbusd256":
                name = f"llvm.x86.avx512.vpdpbusd.{self.isa.dot[-3:]}"
                if NEW_DOT:
                    return self.call(name, kind, acc, b.bitcast(x, w.type), w)
                return self.call(name, kind, acc, x, b.bitcast(w, kind))
            case "pmaddwd":
                return b.add(acc, self.call("llvm.x86.avx2.pmadd.wd", kind, x, w))
            case "usdot" | "sdot":
                name = f"llvm.aarch64.neon.{self.isa.dot}.v4i32.v16i8"
                return self.call(name, kind, acc, b.bitcast(x, w.type), w)
        return b.add(acc, b.mul(x, w))

    # Requantization (docs/quantization.md).

    def requantize(
        self,
        terms: Sequence[tuple[ir.Value, tuple[ir.Value, ir.Value]]],
        low: ir.Value,
        high: ir.Value,
        zero: ir.Value,
    ) -> ir.Value:
        """clamp(round_half_even(sum_k x_k * m_k) + zero): int32 lanes out.

        terms: (x_k int32 lanes, m_k * 2^-shift as two half vectors of doubles); low and high are
        the half vectors lo - zero + MAGIC and hi - zero + MAGIC. Adding MAGIC = 1.5 * 2^52 puts
        the integer, rounded half to even, into a double's low bits (the well-known trick), so one
        fma multiplies and rounds at once, without the error of a rounded product.
        """  # fmt: skip
        b, halves = self.b, []
        for half, part in enumerate((self.low, self.high)):
            kind = ir.VectorType(F64, self.n // 2)
            total = self.vector(F64, MAGIC, self.n // 2)
            if len(terms) > 1:
                x, m = terms[1]
                total_rest = b.fmul(b.sitofp(part(x), kind), m[half])
                x, m = terms[0]
                total = b.fadd(self.fma(b.sitofp(part(x), kind), m[half], total_rest), total)
            else:
                x, m = terms[0]
                total = self.fma(b.sitofp(part(x), kind), m[half], total)
            halves.append(b.bitcast(self.clamp_float(total, low, high),
                                    ir.VectorType(I32, self.n)))  # fmt: skip
        # The low words of both halves: little-endian, so the even ones.
        return b.add(self.shuffle(halves[0], halves[1], range(0, 2 * self.n, 2)), zero)

    def load_doubles(self, address: ir.Value) -> tuple[ir.Value, ir.Value]:
        kind = ir.VectorType(F64, self.n // 2)
        return self.load(address, kind, 8), self.load(self.add(address, 4 * self.n), kind, 8)


def emitted(isa: Isa, arguments: int, body: Callable[..., ir.Value | None], returns: bool = False):
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


def external(symbol: str):
    """A call to `void symbol(i64, i64, i64)`, which is linked by name."""

    def body(e: Emit, tid: ir.Value, nt: ir.Value, d: ir.Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        e.b.call(cgutils.get_or_insert_function(e.b.module, kind, symbol), [tid, nt, d])

    return emitted(TABLES["portable"], 3, body)


_PLAIN = TABLES["portable"]
load_i64 = emitted(_PLAIN, 1, lambda e, a: e.load(a), True)
store_i64 = emitted(_PLAIN, 2, lambda e, a, v: e.store(v, a))
smaller = emitted(
    _PLAIN, 2, lambda e, a, c: e.b.select(e.b.icmp_signed("<", a, c), a, c), True
)  # Numba's own min() is a function to link


def language() -> dict[str, object]:
    """What a generated entry may use beside its kernels."""
    return {"load_i64": load_i64, "store_i64": store_i64}


# Threads.


@cache
def atomics():
    """(load, store, add) on int64 words, sequentially consistent; add returns the old value."""
    isa = TABLES["portable"]

    def pointer(e: Emit, address: ir.Value) -> ir.Value:
        return e.b.inttoptr(address, I64.as_pointer())

    return (
        emitted(isa, 1, lambda e, a: e.b.load_atomic(pointer(e, a), "seq_cst", 8), True),
        emitted(isa, 2, lambda e, a, v: e.b.store_atomic(v, pointer(e, a), "seq_cst", 8)),
        emitted(isa, 2, lambda e, a, v: e.b.atomic_rmw("add", pointer(e, a), v, "seq_cst"), True),
    )


@cache
def invoke():
    """`invoke(function, tid, nt, d)`: call native code by address."""

    def body(e: Emit, function: ir.Value, *args: ir.Value) -> None:
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

    def futex(e: Emit, word: ir.Value, operation: int, value: ir.Value) -> None:
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

"""LLVM IR by hand: the vector operations that the kernels' generators are made of.

`Emit` wraps an llvmlite builder. Vectors are LLVM vectors, addresses are int64. Nothing here needs
Numba; `vector` turns functions over `Emit` into Numba intrinsics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir

from .isa import Isa

Value = Any  # an llvmlite.ir.Value; llvmlite's own types are too loose to check against
Kind = Any  # an llvmlite.ir.Type
Terms = Sequence[tuple[Value, tuple[Value, Value]]]
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
MAGIC = 1.5 * 2.0**52
NEW_DOT = llvm.llvm_version_info[0] >= 22  # vpdpbusd then takes bytes; before, all int32


def vec(kind: Kind, n: int) -> Kind:
    """LLVM's <n x kind>."""
    return ir.VectorType(kind, n)


def declare(module: Any, kind: Kind, name: str) -> Value:
    """The function `name`, declared once a module."""
    return module.globals[name] if name in module.globals else ir.Function(module, kind, name)


class Emit:
    """A builder with an instruction table. Vectors are LLVM vectors, addresses are i64."""

    def __init__(self, builder: Any, isa: Isa, lanes: int = 0):
        self.b = builder
        self.isa = isa
        self.n = lanes or isa.lanes

    # Scalars and memory.

    def i64(self, value: int) -> Value:
        return ir.Constant(I64, value)

    def add(self, a: Value, b: Value | int) -> Value:
        return self.b.add(a, self.i64(b) if isinstance(b, int) else b)

    def mul(self, a: Value, b: Value | int) -> Value:
        return self.b.mul(a, self.i64(b) if isinstance(b, int) else b)

    def load(self, address: Value, kind: Kind = I64, align: int = 1) -> Value:
        value = self.b.load(self.b.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def store(self, value: Value, address: Value, align: int = 1) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer())).align = align

    def field(self, record: Value, word: int, kind: Kind = I64) -> Value:
        """Word `word` of a record, as i64, i32 (low half) or f64 (bits)."""
        value = self.load(self.add(record, 8 * word), kind, 8)
        # Records do not change while kernels run, so LLVM may lift the load out of loops.
        value.set_metadata("invariant.load", self.b.module.add_metadata([]))
        return value

    def stack(self, size: int, align: int) -> Value:
        """The address of `size` bytes of this function's frame."""
        with self.b.goto_entry_block():
            made = self.b.alloca(I8, size)
            made.align = align
        return self.b.ptrtoint(made, I64)

    def copy(self, source: Value, target: Value, size: Value) -> None:
        """Copy `size` bytes between places that do not overlap."""
        b = self.b
        places = [b.inttoptr(a, I8.as_pointer()) for a in (target, source)]
        kind = ir.FunctionType(ir.VoidType(), [places[0].type, places[1].type, I64, I1])
        move = declare(b.module, kind, "llvm.memcpy.p0.p0.i64")
        b.call(move, [*places, size, ir.Constant(I1, 0)])

    def call(self, name: str, result: Kind, *args: Value) -> Value:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(declare(self.b.module, kind, name), args)

    # Vectors.

    def splat(self, value: Value, n: int | None = None) -> Value:
        n = n or self.n
        kind = ir.VectorType(value.type, n)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, n), [0] * n))

    def vector(self, kind: Kind, value: float, n: int | None = None) -> Value:
        n = n or self.n
        return ir.Constant(ir.VectorType(kind, n), [value] * n)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.b.shuffle_vector(a, b, mask)

    def join(self, a: Value, b: Value) -> Value:
        return self.shuffle(a, b, range(2 * a.type.count))

    def low(self, a: Value) -> Value:
        return self.shuffle(a, a, range(a.type.count // 2))

    def high(self, a: Value) -> Value:
        return self.shuffle(a, a, range(a.type.count // 2, a.type.count))

    def clamp_int(self, a: Value, lo: Value, hi: Value) -> Value:
        a = self.b.select(self.b.icmp_signed(">", a, lo), a, lo)
        return self.b.select(self.b.icmp_signed("<", a, hi), a, hi)

    def clamp_float(self, a: Value, lo: Value, hi: Value) -> Value:
        """min(max(a, lo), hi) as one max and one min instruction; NaN becomes lo."""
        a = self.b.select(self.b.fcmp_ordered(">", a, lo), a, lo)
        return self.b.select(self.b.fcmp_ordered("<", a, hi), a, hi)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once (a library call where the machine has no such instruction)."""
        n, base = a.type.count, a.type.element
        return self.call(f"llvm.fma.v{n}f{64 if base == F64 else 32}", a.type, a, b, c)

    def number(self, value: float) -> Value:
        return ir.Constant(F64, value)

    def lookup(self, table: Value, index: Value, address: Value) -> None:
        """Store table[index] (bytes; int32 lanes of 0 to 65535) at `address`, lane by lane.

        Four indices at a time go through a general register: gathers and single extractions of
        32-bit lanes are both slower.
        """
        b, n = self.b, index.type.count
        words = b.bitcast(b.trunc(index, vec(I16, n)), vec(I64, n // 4))
        for i in range(n):
            word = b.extract_element(words, ir.Constant(I32, i // 4))
            at = b.and_(b.lshr(word, self.i64(16 * (i % 4))), self.i64(0xFFFF))
            self.store(self.load(self.add(table, at), I8), self.add(address, i))

    def total(self, a: Value) -> Value:
        """The sum of a float32 vector's lanes, halves first."""
        while a.type.count > 1:
            a = self.b.fadd(self.low(a), self.high(a))
        return self.b.extract_element(a, ir.Constant(I32, 0))

    # Control flow.

    def loop(
        self,
        start: Value,
        stop: Value,
        step: Value | int,
        carried: Sequence[Value],
        body: Callable[[Value, list[Value]], Sequence[Value]],
    ) -> list[Value]:
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

    def span(self, stop: Value, n: int, body: Callable[[Value, int], None]) -> None:
        """body(x, n) for x = 0, n, 2n, ... while n items are left, then body(x, 1) for the rest."""
        b = self.b
        whole = b.and_(stop, self.i64(-n))
        for start, end, width in ((self.i64(0), whole, n), (whole, stop, 1)):
            with b.if_then(b.icmp_signed("<", start, end)):

                def once(x: Value, _: list[Value], width: int = width) -> list[Value]:
                    body(x, width)
                    return []

                self.loop(start, end, width, [], once)

    def tiles(self, stop: Value, n: int, body: Callable[[Value, int], None]) -> None:
        """As `span`, for n that is no power of two too; with n = 1 one loop."""
        if n & (n - 1):
            raise ValueError("a tile has a power of two of pixels")
        if n > 1:
            self.span(stop, n, body)
            return

        def once(x: Value, _: list[Value]) -> list[Value]:
            body(x, 1)
            return []

        self.loop(self.i64(0), stop, 1, [], once)

    def scatter(self, value: Value, address: Value, stride: Value) -> None:
        """Store lane i at address + i * stride."""
        for i in range(value.type.count):
            lane = self.b.extract_element(value, ir.Constant(I32, i))
            self.store(lane, self.add(address, self.mul(stride, i)))

    def gather(self, kind: Kind, address: Value, stride: Value, n: int) -> Value:
        """The vector of what lies at address + i * stride."""
        out = ir.Constant(vec(kind, n), ir.Undefined)
        for i in range(n):
            lane = self.load(self.add(address, self.mul(stride, i)), kind)
            out = self.b.insert_element(out, lane, ir.Constant(I32, i))
        return out

    # The dot product.

    def input_step(self, address: Value, real: bool = False) -> Value:
        """One step's `group` input bytes (or float), broadcast in the form `dot` wants."""
        b, group = self.b, self.isa.group
        if real:
            return self.splat(self.load(address, F32))
        if group == 1:
            return self.splat(b.zext(self.load(address, I8), I32))
        word = self.load(address, I32)
        if self.isa.signed:
            word = b.xor(word, ir.Constant(I32, -0x7F7F7F80))
        word = self.splat(word)
        return self.even_and_odd(word) if self.isa.dot == "pmaddwd" else word

    def even_and_odd(self, word: Value) -> tuple[Value, Value]:
        """Lanes of four u8 as two vectors of int16 pairs: bytes 0 and 2, bytes 1 and 3."""
        b, words = self.b, vec(I16, 2 * self.n)
        even = b.and_(word, self.vector(I32, 0x00FF00FF))
        return b.bitcast(even, words), b.lshr(
            b.bitcast(word, words), self.vector(I16, 8, 2 * self.n)
        )

    def weight_step(self, address: Value, real: bool = False, align: int = 0) -> Value:
        """One step's weights for `lanes` output channels, in the form `dot` wants; they are aligned
        to whole vectors unless `align` says otherwise."""
        n, group = self.n, self.isa.group
        if real:
            return self.load(address, vec(F32, n), align or 4 * n)
        raw = self.load(address, vec(I8, n * group), n * group)
        if self.isa.dot == "pmaddwd":
            words, eight = self.b.bitcast(raw, vec(I16, 2 * n)), self.vector(I16, 8, 2 * n)
            return self.b.ashr(self.b.shl(words, eight), eight), self.b.ashr(words, eight)
        return raw if group == 4 else self.b.sext(raw, vec(I32, n))

    def dot(self, acc: Value, x: Value, w: Value) -> Value:
        """acc + sum over the group of x*w, exact modulo 2^32."""
        b, kind = self.b, acc.type
        match self.isa.dot:
            case "vpdpbusd512" | "vpdpbusd256":
                name = f"llvm.x86.avx512.vpdpbusd.{self.isa.dot[-3:]}"
                if NEW_DOT:
                    return self.call(name, kind, acc, b.bitcast(x, w.type), w)
                return self.call(name, kind, acc, x, b.bitcast(w, kind))
            case "pmaddwd":
                for pair in zip(x, w):
                    acc = b.add(acc, self.call("llvm.x86.avx2.pmadd.wd", kind, *pair))
                return acc
            case "usdot" | "sdot":
                name = f"llvm.aarch64.neon.{self.isa.dot}.v4i32.v16i8"
                return self.call(name, kind, acc, b.bitcast(x, w.type), w)
        return b.add(acc, b.mul(x, w))

    # Requantization (docs/quantization.md).

    def scaled(self, terms: Terms) -> list[Value]:
        """sum_k x_k * m_k + MAGIC as two half vectors of doubles.

        Adding MAGIC = 1.5 * 2^52 leaves the sum, rounded half to even, in a double's low bits (the
        well-known trick), so that one fma multiplies and rounds at once, exactly.
        """
        b, halves, kind = self.b, [], vec(F64, self.n // 2)
        magic = self.vector(F64, MAGIC, self.n // 2)
        for half, part in enumerate((self.low, self.high)):
            factors = [(b.sitofp(part(x), kind), m[half]) for x, m in terms]
            if len(factors) == 1:
                halves.append(self.fma(*factors[0], magic))
                continue
            total = b.fmul(*factors[-1])
            for x, m in reversed(factors[:-1]):
                total = self.fma(x, m, total)
            halves.append(b.fadd(total, magic))
        return halves

    def low_words(self, halves: Sequence[Value]) -> Value:
        """The low (little-endian: even) words of both halves of doubles."""
        words = [self.b.bitcast(half, vec(I32, self.n)) for half in halves]
        return self.shuffle(words[0], words[1], range(0, 2 * self.n, 2))

    def requantize(self, terms: Terms, low: Value, high: Value, zero: Value) -> Value:
        """clamp(round_half_even(sum_k x_k * m_k) + zero): int32 lanes out.

        terms: (x_k int32 lanes, m_k * 2^-shift as two half vectors of doubles); low and high are
        the half vectors lo - zero + MAGIC and hi - zero + MAGIC.
        """
        halves = [self.clamp_float(half, low, high) for half in self.scaled(terms)]
        return self.b.add(self.low_words(halves), zero)

    def rounded(self, terms: Terms) -> Value:
        """round_half_even(sum_k x_k * m_k) in int32 lanes, where that is known to fit."""
        return self.low_words(self.scaled(terms))

    def words(self, four: Sequence[Value], zero: Value) -> list[Value]:
        """x + zero, saturated, of four <16 x i32> as two <32 x i16>; zero <32 x i16>.

        AVX-512 packs within 128-bit lanes: `in_order` undoes that once they are bytes.
        """
        kind, made = vec(I16, 32), []
        for pair in (four[:2], four[2:]):
            word = self.call("llvm.x86.avx512.packssdw.512", kind, *pair)
            made.append(self.call("llvm.sadd.sat.v32i16", kind, word, zero))
        return made

    def in_order(self, packed: Value) -> Value:
        """Bytes that four vectors were packed into, one vector after another."""
        dwords = self.b.bitcast(packed, vec(I32, 16))
        order = [4 * lane + k for k in range(4) for lane in range(4)]
        return self.b.bitcast(self.shuffle(dwords, dwords, order), vec(I8, 64))

    def narrow(self, four: Sequence[Value], zero: Value, lo: Value, hi: Value) -> Value:
        """clamp(x + zero, lo, hi) of four <16 x i32> as <64 x i8>; zero <32 x i16>, bounds i8."""
        b, words = self.b, self.words(four, zero)
        packed = self.call("llvm.x86.avx512.packuswb.512", vec(I8, 64), *words)
        packed = b.select(b.icmp_unsigned(">", packed, lo), packed, lo)
        packed = b.select(b.icmp_unsigned("<", packed, hi), packed, hi)
        return self.in_order(packed)

    def quarters(self, address: Value) -> list[Value]:
        """The 256 bytes at `address` as `permuted` wants them."""
        return [self.load(self.add(address, 64 * i), vec(I8, 64)) for i in range(4)]

    def permuted(self, quarters: Sequence[Value], x: Value) -> Value:
        """table[x] for 64 u8 lanes of x and a table of 256 bytes (AVX-512 VBMI)."""
        b, wide = self.b, vec(I8, 64)
        low, high = (
            self.call("llvm.x86.avx512.vpermi2var.qi.512", wide, first, x, second)
            for first, second in (quarters[:2], quarters[2:])
        )
        return b.select(b.icmp_signed("<", x, self.vector(I8, 0, 64)), high, low)

    def load_doubles(self, address: Value) -> tuple[Value, Value]:
        kind = ir.VectorType(F64, self.n // 2)
        return self.load(address, kind, 8), self.load(self.add(address, 4 * self.n), kind, 8)

    def splat_double(self, address: Value) -> tuple[Value, Value]:
        """One float64 for all lanes, as two half vectors."""
        one = self.splat(self.load(address, F64, 8), self.n // 2)
        return one, one

    def quantizer(self, field: Callable[..., Value]) -> Callable[..., Value]:
        """(float32 lanes, n = all) -> int32 lanes by a record's scale, zero, lo and hi.

        clamp(rhe(x / scale) + zero, lo, hi); NaN becomes zero.
        """
        b = self.b
        scale = b.fptrunc(field("scale", F64), F32)
        zero, lo, hi = (field(name) for name in ("zero", "lo", "hi"))
        low, high = (b.sitofp(b.sub(q, zero), F32) for q in (lo, hi))
        zeros = b.trunc(zero, I32)

        def convert(x: Value, n: int = self.n) -> Value:
            x = b.fdiv(x, self.splat(scale, n))
            x = b.select(b.fcmp_unordered("uno", x, x), self.vector(F32, 0.0, n), x)
            x = self.clamp_float(x, self.splat(low, n), self.splat(high, n))
            x = self.call(f"llvm.rint.v{n}f32", x.type, x)
            return b.add(b.fptosi(x, vec(I32, n)), self.splat(zeros, n))

        return convert

    def byte_table(self, address: Value) -> Callable[[Value], Value]:
        """x -> table[x] for 16 u8 lanes of x and a table of 256 bytes."""
        b = self.b
        if not self.isa.vbmi:

            def scalar(x: Value) -> Value:
                out = ir.Constant(x.type, ir.Undefined)
                for lane in range(16):
                    at = b.zext(b.extract_element(x, ir.Constant(I32, lane)), I64)
                    byte = self.load(self.add(address, at), I8)
                    out = b.insert_element(out, byte, ir.Constant(I32, lane))
                return out

            return scalar
        quarters = self.quarters(address)

        def permute(x: Value) -> Value:
            found = self.permuted(quarters, self.shuffle(x, x, [*range(16)] * 4))
            return self.shuffle(found, found, range(16))

        return permute

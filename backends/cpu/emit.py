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
        return self.load(self.add(record, 8 * word), kind, 8)

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

    def hard_swish(self, a: Value) -> Value:
        """a * clamp(a / 6 + 0.5, 0, 1), float32, as ONNX defines it."""
        n = a.type.count
        t = self.b.fadd(self.b.fmul(a, self.vector(F32, 1 / 6, n)), self.vector(F32, 0.5, n))
        return self.b.fmul(a, self.clamp_float(t, self.vector(F32, 0, n), self.vector(F32, 1, n)))

    def number(self, value: float) -> Value:
        return ir.Constant(F64, value)

    def lookup(self, table: Value, index: Value) -> Value:
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

    # The dot product.

    def input_step(self, address: Value, real: bool = False) -> Value:
        """One step's `group` input bytes (or float), broadcast in the form `dot` wants."""
        b, n, group = self.b, self.n, self.isa.group
        if real:
            return self.splat(self.load(address, F32))
        if group == 4:
            word = self.load(address, I32)
            if self.isa.signed:
                word = b.xor(word, ir.Constant(I32, -0x7F7F7F80))
            return self.splat(word)
        if group == 2:
            pair = b.zext(self.load(address, ir.VectorType(I8, 2)), ir.VectorType(I16, 2))
            return b.bitcast(self.splat(b.bitcast(pair, I32)), ir.VectorType(I16, 2 * n))
        return self.splat(b.zext(self.load(address, I8), I32))

    def weight_step(self, address: Value, real: bool = False) -> Value:
        """One step's weights for `lanes` output channels, in the form `dot` wants."""
        n, group = self.n, self.isa.group
        if real:
            return self.load(address, vec(F32, n), 4 * n)
        raw = self.load(address, ir.VectorType(I8, n * group), n * group)
        if group == 4:
            return raw
        return self.b.sext(raw, ir.VectorType(I16 if group == 2 else I32, n * group))

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
                return b.add(acc, self.call("llvm.x86.avx2.pmadd.wd", kind, x, w))
            case "usdot" | "sdot":
                name = f"llvm.aarch64.neon.{self.isa.dot}.v4i32.v16i8"
                return self.call(name, kind, acc, b.bitcast(x, w.type), w)
        return b.add(acc, b.mul(x, w))

    # Requantization (docs/quantization.md).

    def requantize(
        self,
        terms: Sequence[tuple[Value, tuple[Value, Value]]],
        low: Value,
        high: Value,
        zero: Value,
    ) -> Value:
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

    def load_doubles(self, address: Value) -> tuple[Value, Value]:
        kind = ir.VectorType(F64, self.n // 2)
        return self.load(address, kind, 8), self.load(self.add(address, 4 * self.n), kind, 8)

"""Rows of float32 to u8 over each row's own range: two passes over a row.

The range is found with integer and ordered comparisons only, so that order does not matter; each
element then takes one multiplication and one addition of 1.5 * 2^23, whose rounding is half to
even and which leaves the integer in the low bits. docs/quantization.md has the formulas. ONNX's
dynamic_quantize_linear is the same for one row, the whole tensor, but divides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ...schedule.records import Header
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa

LANES = 16
UNROLLED = 4
SMALLEST_SPAN = 2.0**-100
MAGIC32 = 1.5 * 2.0**23
MAGIC32_BITS = 0x4B400000
ABSOLUTE = 0x7FFFFFFF
INFINITY_BITS = 0x7F800000


@dataclass(frozen=True, kw_only=True)
class RowsRecord(Header):
    """`rows` rows of `width` floats; chunks of `per` rows. Strides in bytes."""

    rows: int
    per: int
    width: int
    source: int
    source_row: int
    target: int
    target_row: int
    scale: int
    zero: int
    fault: int = 0  # onnx: the word that is set where an element is not finite


def quantize_rows(isa: Isa, how: str):
    """q, scale and zero point of each row; how: symmetric, asymmetric, or onnx (which divides)."""
    from ..codegen import vector as v
    from ..codegen.emit import Emit

    def emit(e: Any, d: Any, row: Any) -> None:
        _Row(Emit(e.b, isa, LANES), d, row, how).emit()

    one = v.emitted(isa, 2, emit)
    word, smaller = v.load_i64, v.smaller
    rows_, per_ = 8 * RowsRecord.at("rows"), 8 * RowsRecord.at("per")

    def body(d, chunk):
        row = chunk * word(d + per_)
        last = smaller(row + word(d + per_), word(d + rows_))
        while row < last:
            one(d, row)
            row += 1

    return Chunked(body)


class _Row:
    """The code for one row."""

    def __init__(self, e: Any, d: Any, row: Any, how: str):
        self.e, self.d, self.row = e, d, row
        self.symmetric, self.divides = how == "symmetric", how == "onnx"
        self.words = {name: i for i, name in enumerate(RowsRecord.__dataclass_fields__)}
        self.source = e.add(self.field("source"), e.mul(row, self.field("source_row")))
        self.target = e.add(self.field("target"), e.mul(row, self.field("target_row")))
        self.width = self.field("width")

    def field(self, name: str) -> Any:
        return self.e.field(self.d, self.words[name])

    def emit(self) -> None:
        import llvmlite.ir as ir

        from ..codegen.emit import F32, I8, I32

        e, b = self.e, self.e.b
        steps = ir.Constant(F32, 127.0 if self.symmetric else 255.0)
        low, span = self._range()
        if self.divides:
            scale = b.fdiv(span, steps)  # 0 where the span is, or is too small for a scale
            nothing = b.fcmp_ordered("==", scale, ir.Constant(F32, 0.0))
            factor = scale = b.select(nothing, ir.Constant(F32, 1.0), scale)
        else:
            smallest = ir.Constant(F32, SMALLEST_SPAN)
            span = b.select(b.fcmp_ordered("<", span, smallest), smallest, span)
            factor, scale = b.fdiv(steps, span), b.fdiv(span, steps)
        e.store(scale, e.add(self.field("scale"), e.mul(self.row, 4)))
        finite = b.icmp_signed("<", b.bitcast(span, I32), ir.Constant(I32, INFINITY_BITS))
        zero = ir.Constant(I32, 128)
        if not self.symmetric:
            steps = b.fdiv(b.fneg(low), factor) if self.divides else b.fmul(b.fneg(low), factor)
            shifted = b.fadd(self._bounded(steps), ir.Constant(F32, MAGIC32))
            zero = b.sub(b.bitcast(shifted, I32), ir.Constant(I32, MAGIC32_BITS))
            zero = b.select(finite, zero, ir.Constant(I32, 0))
            zero = e.clamp_int(zero, ir.Constant(I32, 0), ir.Constant(I32, 255))
        e.store(b.trunc(zero, I8), e.add(self.field("zero"), self.row))
        with b.if_else(finite) as (then, otherwise):
            with then:
                self._store(self._quantizer(factor, zero))
            with otherwise:
                if self.divides:
                    with b.if_then(self.odd):
                        e.store(e.i64(1), self.field("fault"), 8)
                self._store(lambda x: e.splat(b.trunc(zero, I8), x.type.count))

    # ---- the range -----------------------------------------------------------------------------

    def _range(self) -> tuple[Any, Any]:
        """(low, span); span is NaN or infinite where an element is."""
        import llvmlite.ir as ir

        from ..codegen.emit import F32, I32

        e, b = self.e, self.e.b
        kinds = [I32] if self.symmetric else [I32, F32, F32]
        found = [e.vector(kind, 0) for kind in kinds for _ in range(UNROLLED)]
        blocks = b.and_(self.width, e.i64(-LANES * UNROLLED))
        whole = b.and_(self.width, e.i64(-LANES))
        found = self._fold(e.i64(0), blocks, LANES * UNROLLED, found, self._widen)
        groups = [found[k : k + UNROLLED] for k in range(0, len(found), UNROLLED)]
        merged = [self._merge(k, group) for k, group in enumerate(groups)]
        merged = self._fold(blocks, whole, LANES, merged, self._widen)
        names = [("umax", I32), ("fmin", F32), ("fmax", F32)]
        single = [
            e.call(f"llvm.vector.reduce.{name}.v{LANES}{'i32' if kind == I32 else 'f32'}", kind, x)
            for (name, kind), x in zip(names, merged)
        ]
        single = self._fold(whole, self.width, 1, single, self._widen_by_one)
        if self.symmetric:
            return None, b.bitcast(single[0], F32)
        top, low, high = single
        # What is not finite makes the span so: its bits as a number say NaN or infinity.
        span = b.fsub(high, low)
        self.odd = b.icmp_unsigned(">=", top, ir.Constant(I32, INFINITY_BITS))
        return low, b.select(self.odd, b.bitcast(top, F32), span)

    def _fold(
        self, start: Any, stop: Any, step: int, carried: Sequence[Any],
        body: Callable[[Any, list[Any]], list[Any]],
    ) -> list[Any]:  # fmt: skip
        """`carried` after body(address, carried) for the elements from start to stop."""
        e, b = self.e, self.e.b
        before = b.block
        inside, after = (b.append_basic_block(name) for name in ("fold", "folded"))
        b.cbranch(b.icmp_signed("<", start, stop), inside, after)
        b.position_at_end(inside)

        def once(i: Any, values: list[Any]) -> list[Any]:
            return body(e.add(self.source, e.mul(i, 4)), values)

        made = e.loop(start, stop, step, list(carried), once)
        end = b.block
        b.branch(after)
        b.position_at_end(after)
        joined = []
        for old, new in zip(carried, made):
            phi = b.phi(old.type)
            phi.add_incoming(old, before)
            phi.add_incoming(new, end)
            joined.append(phi)
        return joined

    def _widen(self, address: Any, found: list[Any]) -> list[Any]:
        """The extremes so far with one vector more in each of the partial ones."""
        from ..codegen.emit import F32, vec

        e = self.e
        parts = len(found) // (1 if self.symmetric else 3)
        made = list(found)
        for k in range(parts):
            x = e.load(e.add(address, 4 * LANES * k), vec(F32, LANES))
            for j, value in enumerate(self._extremes(x, found[k::parts])):
                made[k + j * parts] = value
        return made

    def _widen_by_one(self, address: Any, found: list[Any]) -> list[Any]:
        from ..codegen.emit import F32

        return self._extremes(self.e.load(address, F32), found)

    def _extremes(self, x: Any, found: Sequence[Any]) -> list[Any]:
        """[greatest |x| by its bits, least x, greatest x]; the last two pass over NaN."""
        import llvmlite.ir as ir

        from ..codegen.emit import I32, vec

        b = self.e.b
        n = getattr(x.type, "count", 0)
        kind, mask = (vec(I32, n), [ABSOLUTE] * n) if n else (I32, ABSOLUTE)
        bits = b.and_(b.bitcast(x, kind), ir.Constant(kind, mask))
        made = [b.select(b.icmp_unsigned(">", bits, found[0]), bits, found[0])]
        if not self.symmetric:
            made.append(b.select(b.fcmp_ordered("<", x, found[1]), x, found[1]))
            made.append(b.select(b.fcmp_ordered(">", x, found[2]), x, found[2]))
        return made

    def _merge(self, which: int, parts: Sequence[Any]) -> Any:
        b, first = self.e.b, parts[0]
        for x in parts[1:]:
            if which == 0:
                first = b.select(b.icmp_unsigned(">", x, first), x, first)
            else:
                sign = "<" if which == 1 else ">"
                first = b.select(b.fcmp_ordered(sign, x, first), x, first)
        return first

    # ---- the integers --------------------------------------------------------------------------

    def _bounded(self, steps: Any) -> Any:
        """Quotients by a subnormal scale may lie anywhere: NaN as 0, the rest within 512 steps."""
        import llvmlite.ir as ir

        from ..codegen.emit import F32

        e, b = self.e, self.e.b
        if not self.divides:
            return steps
        n = getattr(steps.type, "count", 0)
        zero, low, high = (
            e.vector(F32, v, n) if n else ir.Constant(F32, v) for v in (0.0, -512.0, 512.0)
        )
        known = b.select(b.fcmp_unordered("uno", steps, steps), zero, steps)
        return e.clamp_float(known, low, high)

    def _quantizer(self, factor: Any, zero: Any) -> Callable[[Any], Any]:
        """float32 lanes to bytes."""
        import llvmlite.ir as ir

        from ..codegen.emit import F32, I8, I32, vec

        e, b = self.e, self.e.b
        offset = b.sub(zero, ir.Constant(I32, MAGIC32_BITS))

        def convert(x: Any) -> Any:
            n = x.type.count
            scaled = (b.fdiv if self.divides else b.fmul)(x, e.splat(factor, n))
            steps = b.fadd(self._bounded(scaled), e.vector(F32, MAGIC32, n))
            words = b.add(b.bitcast(steps, vec(I32, n)), e.splat(offset, n))
            if not self.symmetric:
                words = e.clamp_int(words, e.vector(I32, 0, n), e.vector(I32, 255, n))
            return b.trunc(words, vec(I8, n))

        return convert

    def _store(self, convert: Callable[[Any], Any]) -> None:
        """Every element's byte: blocks of four vectors, vectors, then one by one."""
        from ..codegen.emit import F32, vec

        e, b = self.e, self.e.b
        start = e.i64(0)
        for n in (LANES * UNROLLED, LANES, 1):
            stop = b.and_(self.width, e.i64(-n))

            def once(i: Any, _: list[Any], n: int = n) -> list[Any]:
                x = e.load(e.add(self.source, e.mul(i, 4)), vec(F32, n))
                e.store(convert(x), e.add(self.target, i))
                return []

            with b.if_then(b.icmp_signed("<", start, stop)):
                e.loop(start, stop, n, [], once)
            start = stop


@reaches(quantize_rows, RowsRecord)
def _reach(r: Reach, how: str) -> None:
    r.reads("source", 4 * r["width"], (r["rows"], r["source_row"]))
    r.writes("target", r["width"], (r["rows"], r["target_row"]))
    r.writes("scale", 4 * r["rows"])
    r.writes("zero", r["rows"])
    if r.given("fault"):
        r.writes("fault", 8)


def rows_kernel(how: str) -> Kernel:
    """See `quantize_rows`."""
    return Kernel.of(quantize_rows, how=how)

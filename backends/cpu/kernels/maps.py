"""Element by element: requantize (1 to 3 operands), multiply, lookup, and to and from float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ..codegen.isa import Isa
from .grid import LANES, GridRecord, Row, grid, lanes_of, walk

ITEM = {"u8": 1, "s16": 2, "s32": 4, "f32": 4}


@dataclass(frozen=True, kw_only=True)
class MapRecord(GridRecord):
    """Operands a, b, c (as many as the kernel has) and the result's parameters.

    *_zero      the operand's zero point (0 for accumulators)
    *_scale     address of the multipliers: one, or one per channel; float64 m * 2^-shift, or int64
                m for the exact roundings ('multiply' has a_scale only)
    zero, lo, hi   of the result, or of the table's index ('lut')
    shift       of the exact roundings
    table       address of hi - lo + 1 bytes ('lut'), or of 256 ('lookup')
    """

    a: int
    a_image: int = 0
    a_row: int = 0
    a_pixel: int = 0
    a_zero: int = 0
    a_scale: int = 0
    b: int = 0
    b_image: int = 0
    b_row: int = 0
    b_pixel: int = 0
    b_zero: int = 0
    b_scale: int = 0
    c: int = 0
    c_image: int = 0
    c_row: int = 0
    c_pixel: int = 0
    c_zero: int = 0
    c_scale: int = 0
    zero: int = 0
    lo: int = 0
    hi: int = 255
    shift: int = 0
    table: int = 0


@dataclass(frozen=True, kw_only=True)
class FloatRecord(GridRecord):
    """u8 to or from float32: (q - zero) * scale, or clamp(rhe(x / scale) + zero, lo, hi)."""

    a: int
    a_image: int = 0
    a_row: int = 0
    a_pixel: int = 0
    scale: float = 1.0
    zero: int = 0
    lo: int = 0
    hi: int = 255


def requantize(isa: Isa, operands: str, per_channel: bool, out: str, rounding: str):
    """clamp(round(sum_k (x_k - zero_k) * m_k * 2^-shift) + zero, lo, hi).

    operands   their kinds joined by '_', 's32_u8' for instance (u8, s16, s32)
    out        'u8', 's16', or 'lut' (through `table`, to u8)
    rounding   'fast': half to even in doubles, exact under docs/quantization.md's conditions;
               'even', 'up', 'floor': in 64-bit integers, always exact
    """
    from ..codegen.emit import I64, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        finish = _Finish(row, out, rounding == "fast")
        kinds = operands.split("_")

        def vector(at: Any, c: Any) -> None:
            terms = []
            for name, kind in zip("abc", kinds):
                x = _load(e, at(name, ITEM[kind]), kind)
                x = b.sub(x, e.splat(b.trunc(row.field(f"{name}_zero"), x.type.element)))
                scale = row.field(f"{name}_scale")
                if rounding != "fast":
                    x = b.sext(x, vec(I64, LANES))
                    place = e.add(scale, e.mul(c, 8)) if per_channel else scale
                    m = e.load(place, x.type, 8) if per_channel else e.splat(e.load(place, I64, 8))
                    terms.append((x, m))
                elif per_channel:
                    terms.append((x, e.load_doubles(e.add(scale, e.mul(c, 8)))))
                else:
                    terms.append((x, e.splat_double(scale)))
            if rounding == "fast":
                finish.fast(terms, at)
            else:
                total = b.mul(*terms[0])
                for term in terms[1:]:
                    total = b.add(total, b.mul(*term))
                finish.exact(total, rounding, at)

        row.vectors(vector)

    return grid(isa, MapRecord, emit_row)


def multiply(isa: Isa, out: str):
    """clamp(rhe((a - a_zero) * (b - b_zero) * a_scale) + zero, lo, hi); strides of 0 broadcast b.

    out        'u8', or 'lut' (through `table`)
    """

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        finish = _Finish(row, out, True)

        def vector(at: Any, c: Any) -> None:
            pair = []
            for name in "ab":
                x = _load(e, at(name, 1), "u8")
                pair.append(b.sub(x, e.splat(b.trunc(row.field(f"{name}_zero"), x.type.element))))
            finish.fast([(b.mul(*pair), e.splat_double(row.field("a_scale")))], at)

        row.vectors(vector)

    return grid(isa, MapRecord, emit_row)


def lookup(isa: Isa):
    """target = table[a], 256 bytes."""
    from ..codegen.emit import I8, vec

    def emit_row(row: Row) -> None:
        e = row.e
        table = e.byte_table(row.field("table"))

        def vector(at: Any, c: Any) -> None:
            e.store(table(e.load(at("a", 1), vec(I8, LANES))), at("target", 1))

        row.vectors(vector)

    return grid(isa, MapRecord, emit_row)


def dequantize(isa: Isa):
    """u8 to float32, both NHWC: (q - zero) * scale in single precision."""
    from ..codegen.emit import F32, F64, I32, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        zero = e.splat(b.trunc(row.field("zero"), I32))
        scale = e.splat(b.fptrunc(row.field("scale", F64), F32))

        def vector(at: Any, c: Any) -> None:
            x = b.sitofp(b.sub(_load(e, at("a", 1), "u8"), zero), vec(F32, LANES))
            e.store(b.fmul(x, scale), at("target", 4))

        row.vectors(vector)

    return grid(isa, FloatRecord, emit_row)


def quantize(isa: Isa):
    """float32 to u8, both NHWC: clamp(rhe(x / scale) + zero, lo, hi); NaN becomes zero."""
    from ..codegen.emit import F32, I8, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        convert = e.quantizer(row.field)

        def vector(at: Any, c: Any) -> None:
            q = convert(e.load(at("a", 4), vec(F32, LANES)))
            e.store(b.trunc(q, vec(I8, LANES)), at("target", 1))

        row.vectors(vector)

    return grid(isa, FloatRecord, emit_row)


class _Finish:
    """From a scaled sum to what is stored."""

    def __init__(self, row: Row, out: str, fast: bool):
        from ..codegen.emit import F64, I32, MAGIC

        self.row, self.out, e, b = row, out, row.e, row.e.b
        zero, lo, hi = (row.field(name) for name in ("zero", "lo", "hi"))
        shift = b.sub(zero, lo) if out == "lut" else zero
        self.zero, self.lo, self.hi, self.base = zero, lo, hi, lo
        if fast:
            self.low, self.high = (
                e.splat(b.fadd(b.sitofp(b.sub(q, zero), F64), e.number(MAGIC)), LANES // 2)
                for q in (lo, hi)
            )
            self.zeros = e.splat(b.trunc(shift, I32))

    def fast(self, terms: list[Any], at: Any) -> None:
        self._store(self.row.e.requantize(terms, self.low, self.high, self.zeros), at)

    def exact(self, total: Any, rounding: str, at: Any) -> None:
        from ..codegen.emit import I32, vec

        e, b = self.row.e, self.row.e.b
        shift = self.row.field("shift")
        none = b.icmp_signed("==", shift, e.i64(0))
        half = b.lshr(b.shl(e.i64(1), shift), e.i64(1))
        halves, shifts = e.splat(half), e.splat(shift)
        if rounding == "up":
            y = b.ashr(b.add(total, halves), shifts)
        else:
            y = b.ashr(total, shifts)
        if rounding == "even":
            rest = b.sub(total, b.shl(y, shifts))
            halves = e.splat(b.select(none, e.i64(1), half))
            odd = b.icmp_signed("!=", b.and_(y, e.vector(shift.type, 1)), e.vector(shift.type, 0))
            up = b.or_(
                b.icmp_signed(">", rest, halves),
                b.and_(b.icmp_signed("==", rest, halves), odd),
            )
            y = b.add(y, b.zext(up, y.type))
        y = e.clamp_int(b.add(y, e.splat(self.zero)), e.splat(self.lo), e.splat(self.hi))
        if self.out == "lut":
            y = b.sub(y, e.splat(self.lo))
        self._store(b.trunc(y, vec(I32, LANES)), at)

    def _store(self, value: Any, at: Any) -> None:
        from ..codegen.emit import I8, I16, vec

        e, b = self.row.e, self.row.e.b
        if self.out == "lut":
            e.lookup(self.row.field("table"), value, at("target", 1))
            return
        kind, item = (I16, 2) if self.out == "s16" else (I8, 1)
        e.store(b.trunc(value, vec(kind, LANES)), at("target", item))


def _load(e: Any, address: Any, kind: str) -> Any:
    """Sixteen operands as int32 lanes."""
    from ..codegen.emit import I8, I16, I32, vec

    if kind == "s32":
        return e.load(address, vec(I32, LANES))
    if kind == "s16":
        return e.b.sext(e.load(address, vec(I16, LANES)), vec(I32, LANES))
    return e.b.zext(e.load(address, vec(I8, LANES)), vec(I32, LANES))


# ---- what they reach ---------------------------------------------------------------------------


def _mapped(r: Reach, target: int, **sources: int) -> None:
    """Bytes of an element of the target, and of each operand."""
    for name, item in sources.items():
        r.reads(name, item * lanes_of(r), *walk(r, name))
    r.writes("target", target * lanes_of(r), *walk(r, "target"))


def _tabled(r: Reach, out: str) -> None:
    if out == "lut":
        r.reads("table", r["hi"] - r["lo"] + 1)


@reaches(requantize, MapRecord)
def _reach_requantize(r: Reach, operands: str, per_channel: bool, out: str, rounding: str) -> None:
    kinds = dict(zip("abc", operands.split("_")))
    _mapped(r, 2 if out == "s16" else 1, **{name: ITEM[kind] for name, kind in kinds.items()})
    for name in kinds:
        r.reads(f"{name}_scale", 8 * lanes_of(r) if per_channel else 8)
    _tabled(r, out)


@reaches(multiply, MapRecord)
def _reach_multiply(r: Reach, out: str) -> None:
    _mapped(r, 1, a=1, b=1)
    r.reads("a_scale", 8)
    _tabled(r, out)


@reaches(lookup, MapRecord)
def _reach_lookup(r: Reach) -> None:
    _mapped(r, 1, a=1)
    r.reads("table", 256)


@reaches(dequantize, FloatRecord)
def _reach_dequantize(r: Reach) -> None:
    _mapped(r, 4, a=1)


@reaches(quantize, FloatRecord)
def _reach_quantize(r: Reach) -> None:
    _mapped(r, 1, a=4)


def requantize_kernel(
    operands: str, *, per_channel: bool = False, out: str = "u8", rounding: str = "fast"
) -> Kernel:
    """See `requantize`."""
    return Kernel.of(
        requantize, operands=operands, per_channel=per_channel, out=out, rounding=rounding
    )


def multiply_kernel(out: str = "u8") -> Kernel:
    """See `multiply`."""
    return Kernel.of(multiply, out=out)


LOOKUP = Kernel.of(lookup)
QUANTIZE = Kernel.of(quantize)
DEQUANTIZE = Kernel.of(dequantize)

"""The parts of attention on bytes, and what it needs to know of keys (see `attention`).

The arithmetic is `ir.ops.scaled_attention`'s, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir.ops import scaled_attention as law
from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches, up
from ...schedule.records import Header
from ..codegen import emit_math as m
from ..codegen.chunked import Chunked
from ..codegen.emit import F32, F64, I8, I32, I64, Emit, Value, vec
from ..codegen.isa import Isa
from .attention_record import GROUPED
from .attention_tile import AttentionTile, Place
from .tile import Fields

WORDS = {"row_scale": 5, "facts": 6, "unit": 7}  # of a head's spot
SUMS, SCALES, RATIOS = range(3)  # kinds of facts of keys


class ScaledTile(AttentionTile):
    """Scores and sums of bytes; a row of weights takes the first bytes of its scores."""

    @property
    def value_row(self) -> int:
        """Bytes of a panel of values that one key takes."""
        return 2 * self.isa.lanes

    def scores(
        self, e: Emit, d: Value, spot: Value, queries: Value, keys: Value, out: Value, left: Value,
        first: Value,
    ) -> None:  # fmt: skip
        """out[i, j] = f32(sum over k of queries[i, k] * keys[k, j]) * scale of key j"""
        place, group = Place(e, d), self.isa.group
        sources = self._sources(e, queries, place.field("queries_row"), left)
        start = self._facts(e, place, spot, SUMS, first, I32)
        scales = self._facts(e, place, spot, SCALES, first, F32)
        accs = self._dots(e, sources, keys, place.field("depth"), start * self.rows, group)
        for k, acc in enumerate(accs):
            i, j = divmod(k, 2)
            real = e.b.fmul(e.b.sitofp(acc, vec(F32, e.n)), scales[j])
            e.store(real, e.add(out, self.at.pitch * i + 4 * e.n * j), 4 * e.n)

    def _facts(
        self, e: Emit, place: Place, spot: Value, kind: int, first: Value, element: Any
    ) -> list[Value]:
        """Facts of two vectors of keys."""
        at = e.add(place.field("facts"), e.load(e.add(spot, 8 * WORDS["facts"])))
        at = e.add(at, e.add(e.mul(place.field("fact_row"), kind), e.mul(first, 4)))
        return [e.load(e.add(at, 4 * e.n * j), vec(element, e.n)) for j in range(2)]

    def _dots(
        self, e: Emit, sources: list[Value], panel: Value, length: Value, accs: list[Value],
        group: int,
    ) -> list[Value]:  # fmt: skip
        """The sums with the products of rows of bytes and a packed panel."""

        def body(k: Value, carried: list[Value]) -> list[Value]:
            at, *made = carried
            w = [e.weight_step(e.add(at, group * e.n * j)) for j in range(2)]
            for i, source in enumerate(sources):
                x = e.input_step(e.add(source, k))
                for j in range(2):
                    made[2 * i + j] = e.dot(made[2 * i + j], x, w[j])
            return [e.add(at, 2 * group * e.n), *made]

        return e.loop(e.i64(0), length, group, [panel, *accs], body)[1:]

    def soften(
        self, e: Emit, d: Value, spot: Value, scratch: Value, mask: Value, ahead: Value,
        count: Value, left: Value, row0: Value, start: Value,
    ) -> None:  # fmt: skip
        """Scores to weights as bytes, row by row (see `AttentionTile.soften`)."""
        b, place, at = e.b, Place(e, d), self.at
        last, stride = b.sub(left, e.i64(1)), place.field("mask_row")
        ratios = e.add(place.field("facts"), e.load(e.add(spot, 8 * WORDS["facts"])))
        ratios = e.add(ratios, e.add(e.mul(place.field("fact_row"), RATIOS), e.mul(start, 4)))
        wide = GROUPED * e.n
        stop = e.mul(b.sdiv(e.add(count, wide - 1), e.i64(wide)), wide)

        def finish(i: Value, _: list[Value]) -> list[Value]:
            near = b.select(b.icmp_signed("<", i, last), i, last)
            limit = e.add(ahead, near)
            limit = b.select(b.icmp_signed("<", limit, count), limit, count)
            factor = e.splat(self._row_factor(e, place, spot, e.add(row0, near)))
            masks, scores = e.add(mask, e.mul(near, stride)), e.add(scratch, e.mul(i, at.pitch))
            best = self._finished(e, scores, masks, factor, limit, stop)
            e.store(best, e.add(scratch, e.add(e.mul(i, 4), at.alphas)))
            return []

        def weigh(i: Value, _: list[Value]) -> list[Value]:
            self._weigh_row(e, scratch, ratios, i, stop)
            return []

        e.loop(e.i64(0), e.i64(self.rows), 1, [], finish)
        for k in range(-(-self.rows // e.n)):
            self._decay(e, e.add(scratch, 4 * e.n * k))
        e.loop(e.i64(0), e.i64(self.rows), 1, [], weigh)

    def _row_factor(self, e: Emit, place: Place, spot: Value, query: Value) -> Value:
        at = e.add(place.field("row_scale"), e.load(e.add(spot, 8 * WORDS["row_scale"])))
        scale = e.load(e.add(at, e.mul(query, place.field("row_scale_step"))), F32)
        return e.b.fmul(scale, e.b.fptrunc(place.field("scale", F64), F32))

    def _finished(
        self, e: Emit, scores: Value, masks: Value, factor: Value, limit: Value, stop: Value
    ) -> Value:
        """Scores with scale, mask and limit, in place; the largest of them."""
        b, kind, wide = e.b, vec(F32, e.n), GROUPED * e.n
        lanes = vec(I32, e.n)(list(range(e.n)))
        never = e.vector(F32, float("-inf"))

        def score(k: Value, cut: bool) -> Value:
            x = e.load(e.add(scores, e.mul(k, 4)), kind, 4 * e.n)
            if self.masked:
                x = e.fma(x, factor, e.load(e.add(masks, e.mul(k, 4)), kind))
            else:
                x = b.fmul(x, factor)
            if not cut:
                return x
            left = e.splat(b.trunc(b.sub(limit, k), I32))
            return b.select(b.icmp_signed("<", lanes, left), x, never)

        def group(k: Value, best: list[Value], cut: bool) -> list[Value]:
            made = []
            for j, top in enumerate(best):
                x = score(e.add(k, e.n * j), cut)
                e.store(x, e.add(scores, e.mul(e.add(k, e.n * j), 4)), 4 * e.n)
                made.append(self._larger(e, x, top))
            return made

        # Whole groups within the limit, then those that are cut.
        whole = e.mul(b.sdiv(limit, e.i64(wide)), wide)
        best = [never] * GROUPED
        for start, end, cut in ((e.i64(0), whole, False), (whole, stop, True)):
            before = b.block
            with b.if_then(b.icmp_signed("<", start, end)):
                made = e.loop(start, end, wide, best, lambda k, x, cut=cut: group(k, x, cut))
                inside = b.block
            best = [_joined(e, [(x, before), (y, inside)]) for x, y in zip(best, made)]
        while len(best) > 1:
            best = [self._larger(e, x, y) for x, y in zip(best[::2], best[1::2])]
        found = best[0]
        while found.type.count > 1:
            found = self._larger(e, e.low(found), e.high(found))
        return b.extract_element(found, I32(0))

    def _larger(self, e: Emit, x: Value, y: Value) -> Value:
        """The larger of two; NaN where one is, which only a mask brings in."""
        if not self.masked:
            return m.larger(e, x, y)
        more = e.b.select(e.b.fcmp_ordered(">", x, y), x, y)
        return e.b.select(e.b.fcmp_ordered("ord", x, x), more, x)

    def _decay(self, e: Emit, rows: Value) -> None:
        """m and alpha of a vector of rows, whose largest new scores are in alpha's place."""
        at, kind = self.at, vec(F32, e.n)
        tops, alphas = e.add(rows, at.tops), e.add(rows, at.alphas)
        old = e.load(tops, kind)
        new = self._larger(e, e.load(alphas, kind), old)
        e.store(new, tops)
        e.store(_power(e, e.b.fsub(old, new), 0), alphas)

    def _weigh_row(self, e: Emit, scratch: Value, ratios: Value, i: Value, stop: Value) -> None:
        """Weights and their sum."""
        b, at, kind = e.b, self.at, vec(F32, e.n)
        scores = e.add(scratch, e.mul(i, at.pitch))
        number = e.add(scratch, e.mul(i, 4))
        top = e.load(e.add(number, at.tops), F32)
        spread = e.splat(top)

        def group(k: Value, counts: list[Value]) -> list[Value]:
            made = []
            for j, count in enumerate(counts):
                lane = e.add(k, e.n * j)
                x = e.load(e.add(scores, e.mul(lane, 4)), kind, 4 * e.n)
                weight = _power(e, b.fsub(x, spread), 16)
                rounder = m.number(x, m.ROUNDER)
                made.append(b.add(count, b.bitcast(b.fadd(weight, rounder), count.type)))
                ratio = e.load(e.add(ratios, e.mul(lane, 4)), kind)
                steps = b.bitcast(e.fma(weight, ratio, rounder), count.type)
                e.store(b.trunc(steps, vec(I8, e.n)), e.add(scores, lane))
            return made

        counts = [e.vector(I32, 0)] * GROUPED
        counts = e.loop(e.i64(0), stop, GROUPED * e.n, counts, group)
        while len(counts) > 1:
            counts = [b.add(x, y) for x, y in zip(counts[::2], counts[1::2])]
        count = e.call(f"llvm.vector.reduce.add.v{e.n}i32", I32, counts[0])
        count = b.sub(count, b.mul(b.trunc(stop, I32), I32(m.ROUNDER_BITS)))
        sums, decay = e.add(scratch, e.add(e.mul(i, 4 * e.n), at.sums)), e.add(number, at.alphas)
        total = b.fadd(b.fmul(e.load(sums, F32), e.load(decay, F32)), b.sitofp(count, F32))
        # Counts are integers, which know no NaN: it comes of a largest score that is not finite.
        e.store(b.fadd(total, b.fsub(top, top)), sums)

    def gather(self, e: Emit, scratch: Value, values: Value, out: Value, count: Value) -> None:
        """O[i, j] = alpha[i] * O[i, j] + f32(sum over k < count of weights[i, k] * values[k, j])"""
        at, kind = self.at, vec(F32, e.n)
        sources = [e.add(scratch, at.pitch * i) for i in range(self.rows)]
        zeros = [e.vector(I32, 0)] * (2 * self.rows)
        accs = self._dots(e, sources, values, count, zeros, self.isa.group)
        for k, acc in enumerate(accs):
            i, j = divmod(k, 2)
            alpha = e.splat(e.load(e.add(scratch, at.alphas + 4 * i), F32))
            place = e.add(out, at.wide * i + 4 * e.n * j)
            old = e.b.fmul(e.load(place, kind, 4 * e.n), alpha)
            e.store(e.b.fadd(old, e.b.sitofp(acc, kind)), place, 4 * e.n)

    def _factor(
        self, e: Emit, place: Place, spot: Value, scratch: Value, i: Value, query: Value
    ) -> Value:
        """unit / sum, or 0 where no key counted; NaN where a scale is not finite."""
        b, zero = e.b, F32(0.0)
        unit = e.load(e.add(place.field("units"), e.load(e.add(spot, 8 * WORDS["unit"]))), F32)
        unit = b.fadd(unit, b.fmul(self._row_factor(e, place, spot, query), zero))
        total = e.load(e.add(scratch, e.add(e.mul(i, 4 * e.n), self.at.sums)), F32)
        none = b.fcmp_ordered("<", total, F32(1.0))
        return b.select(none, b.fmul(unit, zero), b.fdiv(unit, total))

    def _unless_hidden(
        self, e: Emit, place: Place, spot: Value, factor: Value, query: Value, output: Value
    ) -> Value:  # fmt: skip
        """NaN in a mask or a scale stays."""
        return factor


def _power(e: Emit, x: Value, exponent: int) -> Value:
    """2^exponent * e^x for x <= 0, as `law.power`."""
    b, rounder, log2e = e.b, m.number(x, m.ROUNDER), m.number(x, float(law.LOG2E))
    x = m.at_least(e, x, m.number(x, float(law.LEAST)))
    shifted = e.fma(x, log2e, rounder)
    f = e.fma(x, log2e, b.fneg(b.fsub(shifted, rounder)))
    high, *rest = (float(c) for c in (*law.EXP2, 1.0))
    made = m.number(x, high)
    for c in rest:
        made = e.fma(made, f, m.number(x, c))
    bits = b.shl(b.bitcast(shifted, m.kind_of(x, I32)), m.number(x, 23, I32))
    bits = b.add(bits, m.number(x, (127 + exponent) << 23, I32))
    return b.fmul(made, b.bitcast(bits, x.type))


def _joined(e: Emit, sources: list[tuple[Value, Any]]) -> Value:
    phi = e.b.phi(sources[0][0].type)
    for value, block in sources:
        phi.add_incoming(value, block)
    return phi


# ---- keys --------------------------------------------------------------------------------------

SPOT = 5  # words of a head: offsets of keys, their scales, values' scales, facts, unit


@dataclass(frozen=True, kw_only=True)
class KeysRecord(Header):
    """A chunk a head of keys; strides in bytes.

    spots       address of int64[chunks][SPOT]
    keys, keys_row; depth   rows of u8
    scale, scale_row        of keys
    value, value_row        scales of values
    facts, fact_row   for each key -128 * the sum of its row less 128 (int32); its scale; what its
                weight is multiplied by (float32); a row for each
    units       what the head's values are in
    length      keys; facts are written up to a multiple of `law.BLOCK`
    """

    spots: int
    keys: int
    keys_row: int
    depth: int
    scale: int
    scale_row: int
    value: int
    value_row: int
    facts: int
    fact_row: int
    units: int
    length: int


class KeysPlace(Fields):
    """The record's words."""

    record = KeysRecord


def keys(isa: Isa):
    """Build the kernel."""
    from ..codegen import vector as v

    head = v.emitted(isa, 2, _head)

    def body(d, chunk):
        head(d, chunk)

    return Chunked(body)


def _head(e: Emit, d: Value, chunk: Value) -> None:
    b, place, zero = e.b, KeysPlace(e, d), F32(0.0)
    spot = e.add(place.field("spots"), e.mul(chunk, 8 * SPOT))
    key, scale, value, facts, unit = (
        e.add(place.field(name), e.load(e.add(spot, 8 * i)))
        for i, name in enumerate(("keys", "scale", "value", "facts", "units"))
    )
    steps = {name: place.field(f"{name}_row") for name in ("keys", "scale", "value", "fact")}
    length, depth = place.field("length"), place.field("depth")

    def widen(j: Value, carried: list[Value]) -> list[Value]:
        largest, nothing = carried
        x = e.load(e.add(value, e.mul(j, steps["value"])), F32)
        of_key = e.load(e.add(scale, e.mul(j, steps["scale"])), F32)
        nothing = b.fadd(nothing, b.fadd(b.fmul(x, zero), b.fmul(of_key, zero)))
        return [m.larger(e, largest, x), nothing]

    start = [F32(float(law.SMALLEST)), zero]
    largest, nothing = e.loop(e.i64(0), length, 1, start, widen)
    e.store(b.fadd(b.fmul(largest, F32(float(law.PER_TOP))), nothing), unit)
    ratio = b.fdiv(F32(float(law.TOP)), largest)

    def put(j: Value, found: list[Value]) -> None:
        for kind, fact in enumerate(found):
            at = e.add(e.mul(steps["fact"], kind), e.mul(j, 4))
            e.store(fact, e.add(facts, at))

    def fact(j: Value, _: list[Value]) -> list[Value]:
        total = _total(e, e.add(key, e.mul(j, steps["keys"])), depth)
        total = e.mul(b.sub(e.mul(depth, 128), total), 128)
        x = e.load(e.add(value, e.mul(j, steps["value"])), F32)
        of_key = e.load(e.add(scale, e.mul(j, steps["scale"])), F32)
        put(j, [b.trunc(total, I32), of_key, b.fmul(x, ratio)])
        return []

    def none(j: Value, _: list[Value]) -> list[Value]:
        put(j, [I32(0), zero, zero])
        return []

    e.loop(e.i64(0), length, 1, [], fact)
    end = b.and_(e.add(length, law.BLOCK - 1), e.i64(-law.BLOCK))
    with b.if_then(b.icmp_signed("<", length, end)):
        e.loop(length, end, 1, [], none)


def _total(e: Emit, row: Value, length: Value) -> Value:
    """The sum of a row of bytes."""
    b, n = e.b, 16
    found = e.stack(8, 8)
    e.store(e.i64(0), found, 8)

    def add(k: Value, width: int) -> None:
        at = e.add(row, k)
        if width > 1:
            words = b.zext(e.load(at, vec(I8, n)), vec(I32, n))
            part = e.call(f"llvm.vector.reduce.add.v{n}i32", I32, words)
        else:
            part = b.zext(e.load(at, I8), I32)
        e.store(e.add(e.load(found, I64, 8), b.zext(part, I64)), found, 8)

    e.span(length, n, add)
    return e.load(found, I64, 8)


@reaches(keys, KeysRecord)
def _reach(r: Reach) -> None:
    rows, scales, values, facts, units = r.offsets("spots", r["chunks"], SPOT)
    length = r["length"]
    r.reads("keys", r["depth"], (length, r["keys_row"]), start=rows)
    r.reads("scale", 4, (length, r["scale_row"]), start=scales)
    r.reads("value", 4, (length, r["value_row"]), start=values)
    r.writes("facts", 4 * up(length, law.BLOCK), (3, r["fact_row"]), start=facts)
    r.writes("units", 4, start=units)


def keys_kernel() -> Kernel:
    """The kernel that gathers what `attention` needs to know of keys."""
    return Kernel.of(keys)

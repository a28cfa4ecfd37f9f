"""The parts of attention on one tile of query rows, as LLVM IR (see `attention`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import llvmlite.ir as ir

from ..codegen import emit_math as m
from ..codegen.emit import F32, F64, I1, I32, Emit, Value, vec
from ..codegen.isa import Isa
from .attention_record import AttentionRecord, Scratch
from .tile import Fields

VALUES, MASK = 2, 4  # words of a head's spot
LOWEST = -3.4028234663852886e38  # the start of a maximum: finite, so that differences are numbers


class Place(Fields):
    """The record's words."""

    record = AttentionRecord

    def real(self, name: str) -> Value:
        """A float field as float32 in all lanes."""
        return self.e.splat(self.e.b.fptrunc(self.field(name, F64), F32))


@dataclass(frozen=True)
class AttentionTile:
    """Methods emit; rows beyond `left` repeat the last one."""

    isa: Isa
    rows: int
    block: int
    panels: int
    masked: bool
    capped: bool

    @property
    def at(self) -> Scratch:
        """The layout of the frame."""
        return Scratch(self.isa, self.rows, self.block, self.panels)

    @property
    def value_row(self) -> int:
        """Bytes of a panel of values that one key takes."""
        return self.at.wide

    def clear(self, e: Emit, scratch: Value) -> None:
        """m = LOWEST, sums and O = 0."""
        at, zero = self.at, e.vector(F32, 0.0)

        def row(i: Value, _: list[Value]) -> list[Value]:
            e.store(F32(LOWEST), e.add(scratch, e.add(e.mul(i, 4), at.tops)))
            e.store(zero, e.add(scratch, e.add(e.mul(i, 4 * e.n), at.sums)))
            return []

        e.loop(e.i64(0), e.i64(self.rows), 1, [], row)
        size = e.i64(self.panels * self.rows * at.wide)

        def vector(k: Value, _: list[Value]) -> list[Value]:
            e.store(zero, e.add(scratch, e.add(k, at.output)))
            return []

        e.loop(e.i64(0), size, 4 * e.n, [], vector)

    def scores(
        self, e: Emit, d: Value, spot: Value, queries: Value, keys: Value, out: Value, left: Value,
        first: Value,
    ) -> None:  # fmt: skip
        """out[i, j] = sum over k of queries[i, k] * keys[k, j] for one panel of keys, whose first
        is the key `first`."""
        place, step = Place(e, d), 2 * 4 * e.n
        sources = self._sources(e, queries, place.field("queries_row"), left)

        def body(k: Value, carried: list[Value]) -> list[Value]:
            at, *accs = carried
            made = self._multiply(e, [e.add(row, k) for row in sources], at, accs)
            return [e.add(at, step), *made]

        zeros = [e.vector(F32, 0.0)] * (2 * self.rows)
        _, *accs = e.loop(e.i64(0), e.mul(place.field("depth"), 4), 4, [keys, *zeros], body)
        for i in range(self.rows):
            for j in range(2):
                e.store(accs[2 * i + j], e.add(out, self.at.pitch * i + 4 * e.n * j))

    def _sources(self, e: Emit, start: Value, stride: Value, left: Value) -> list[Value]:
        """The tile's rows of queries."""
        last, sources = e.b.sub(left, e.i64(1)), []
        for i in range(self.rows):
            here = e.b.icmp_signed("<", e.i64(i), last)
            sources.append(e.add(start, e.mul(stride, e.b.select(here, e.i64(i), last))))
        return sources

    def _multiply(
        self, e: Emit, sources: list[Value], weights: Value, accs: list[Value]
    ) -> list[Value]:
        kind, made = vec(F32, e.n), list(accs)
        w = [e.load(e.add(weights, 4 * e.n * j), kind, 4 * e.n) for j in range(2)]
        for i, source in enumerate(sources):
            x = e.splat(e.load(source, F32))
            for j in range(2):
                made[2 * i + j] = e.fma(x, w[j], made[2 * i + j])
        return made

    def soften(
        self, e: Emit, d: Value, spot: Value, scratch: Value, mask: Value, ahead: Value,
        count: Value, left: Value, row0: Value, start: Value,
    ) -> None:  # fmt: skip
        """Scores to weights, row by row: row i's first min(count, ahead + i) columns count. The
        first row and column are query `row0` and key `start`."""
        b, place, at = e.b, Place(e, d), self.at
        scale, last = place.real("scale"), b.sub(left, e.i64(1))
        cap = place.real("cap")
        stride = place.field("mask_row")
        # Vectors past the last key are cut off: what they read of the mask is its first vector, so
        # that a row is read to the end of its last vector and not of its last block.
        steps = [e.mul(b.zext(b.icmp_signed("<", e.i64(e.n * j), count), count.type), 4 * e.n * j)
                 for j in range(self.block)]  # fmt: skip

        def row(i: Value, _: list[Value]) -> list[Value]:
            near = b.select(b.icmp_signed("<", i, last), i, last)
            limit = e.add(ahead, near)
            limit = b.select(b.icmp_signed("<", limit, count), limit, count)
            scores = e.add(scratch, e.mul(i, at.pitch))
            masks = e.add(mask, e.mul(near, stride))
            values = [self._score(e, scores, e.add(masks, step), scale, cap, j)
                      for j, step in enumerate(steps)]  # fmt: skip
            whole = b.icmp_signed(">=", limit, e.i64(self.block * e.n))
            with b.if_else(whole) as (then, otherwise):
                with then:
                    first = b.block
                with otherwise:
                    cut = [self._cut(e, x, limit, j) for j, x in enumerate(values)]
                    second = b.block
            chosen = []
            for x, y in zip(values, cut):
                phi = b.phi(x.type)
                phi.add_incoming(x, first)
                phi.add_incoming(y, second)
                chosen.append(phi)
            self._weigh(e, scratch, scores, i, chosen)
            return []

        e.loop(e.i64(0), e.i64(self.rows), 1, [], row)

    def _score(
        self, e: Emit, scores: Value, mask: Value, scale: Value, cap: Value, j: int
    ) -> Value:
        """Vector j of scores with scale, cap and the mask's vector."""
        kind = vec(F32, e.n)
        x = e.load(e.add(scores, 4 * e.n * j), kind, 4 * e.n)
        if self.capped:
            x = e.b.fdiv(e.b.fmul(x, scale), cap)
            x, scale = m.tanh(e, x), cap
        if not self.masked:
            return e.b.fmul(x, scale)
        return m.madd(e, x, scale, e.load(mask, kind))

    def _cut(self, e: Emit, x: Value, limit: Value, j: int) -> Value:
        """-inf from column `limit` on."""
        lanes = vec(I32, e.n)(list(range(e.n * j, e.n * (j + 1))))
        inside = e.b.icmp_signed("<", lanes, e.splat(e.b.trunc(limit, I32)))
        return e.b.select(inside, x, e.vector(F32, float("-inf")))

    def _weigh(self, e: Emit, scratch: Value, scores: Value, i: Value, values: list) -> None:
        """Weights, m, alpha and sums of one row."""
        b, at = e.b, self.at
        top = values
        while len(top) > 1:
            top = [m.larger(e, *top[k : k + 2]) if k + 1 < len(top) else top[k]
                   for k in range(0, len(top), 2)]  # fmt: skip
        best = top[0]
        while best.type.count > 1:
            best = m.larger(e, e.low(best), e.high(best))
        best = b.extract_element(best, I32(0))
        place = e.add(scratch, e.add(e.mul(i, 4), at.tops))
        old = e.load(place, F32)
        new = m.larger(e, best, old)
        e.store(new, place)
        alpha = m.exp_weight(e, b.fsub(old, new))
        e.store(alpha, e.add(place, at.alphas - at.tops))
        sums = e.add(scratch, e.add(e.mul(i, 4 * e.n), at.sums))
        total = b.fmul(e.load(sums, vec(F32, e.n), 4 * e.n), e.splat(alpha))
        spread = e.splat(new)
        for j, x in enumerate(values):
            weight = m.exp_weight(e, b.fsub(x, spread))
            total = b.fadd(total, weight)
            e.store(weight, e.add(scores, 4 * e.n * j), 4 * e.n)
        e.store(total, sums, 4 * e.n)

    def gather(self, e: Emit, scratch: Value, values: Value, out: Value, count: Value) -> None:
        """O[i, j] = alpha[i] * O[i, j] + sum over k < count of weights[i, k] * values[k, j]."""
        at, kind = self.at, vec(F32, e.n)
        accs = []
        for i in range(self.rows):
            alpha = e.splat(e.load(e.add(scratch, at.alphas + 4 * i), F32))
            for j in range(2):
                old = e.load(e.add(out, at.wide * i + 4 * e.n * j), kind, 4 * e.n)
                accs.append(e.b.fmul(old, alpha))

        def body(k: Value, carried: list[Value]) -> list[Value]:
            w_at, *inner = carried
            here = e.add(scratch, k)
            sources = [e.add(here, at.pitch * i) for i in range(self.rows)]
            return [e.add(w_at, at.wide), *self._multiply(e, sources, w_at, inner)]

        _, *accs = e.loop(e.i64(0), e.mul(count, 4), 4, [values, *accs], body)
        for i in range(self.rows):
            for j in range(2):
                e.store(accs[2 * i + j], e.add(out, at.wide * i + 4 * e.n * j), 4 * e.n)

    def finish(
        self, e: Emit, d: Value, spot: Value, scratch: Value, target: Value, left: Value,
        row0: Value,
    ) -> None:  # fmt: skip
        """target[i, :] = O[i, :] / sums[i], or 0 where no key counted."""
        b, place, at = e.b, Place(e, d), self.at
        step, columns = place.field("target_row"), place.field("columns")
        panel = self.rows * at.wide

        def row(i: Value, _: list[Value]) -> list[Value]:
            factor = self._factor(e, place, spot, scratch, i, e.add(row0, i))
            source = e.add(scratch, e.add(e.mul(i, at.wide), at.output))
            factor = self._unless_hidden(e, place, spot, factor, e.add(row0, i), source)
            out = e.add(target, e.mul(i, step))

            def column(k: Value, n: int) -> None:
                # Column k is in panel k / 2n at k % 2n.
                width = 2 * e.n
                within = b.and_(k, e.i64(width - 1))
                number = b.lshr(k, e.i64(width.bit_length() - 1))
                at_k = e.add(e.mul(number, panel), e.mul(within, 4))
                kind = vec(F32, n) if n > 1 else F32
                x = e.load(e.add(source, at_k), kind)
                scaled = b.fmul(x, e.splat(factor) if n > 1 else factor)
                e.store(scaled, e.add(out, e.mul(k, 4)))

            e.span(columns, e.n, column)
            return []

        e.loop(e.i64(0), left, 1, [], row)

    def _factor(
        self, e: Emit, place: Place, spot: Value, scratch: Value, i: Value, query: Value
    ) -> Value:
        """What row i of O is multiplied by."""
        b, at = e.b, self.at
        sums = e.load(e.add(scratch, e.add(e.mul(i, 4 * e.n), at.sums)), vec(F32, e.n))
        # The largest score's weight is 1; without one, all are next to nothing.
        total = e.total(sums)
        none = b.fcmp_ordered("<", total, m.number(total, 0.5))
        factor = b.fdiv(m.number(total, 1.0), total)
        return b.select(none, m.number(total, 0.0), factor)

    def _unless_hidden(
        self, e: Emit, place: Place, spot: Value, factor: Value, query: Value, output: Value
    ) -> Value:  # fmt: skip
        """A row's factor; 0 where it is NaN, since scores are, but the mask hides every key. The
        row's O, at `output`, is then made of weights of 0."""
        if not self.masked:
            return factor
        b, kept = e.b, e.stack(8, 8)
        e.store(factor, kept, 4)
        with b.if_then(b.fcmp_unordered("uno", factor, factor), likely=False):
            start = e.add(place.field("mask"), e.load(e.add(spot, 8 * MASK)))
            start = e.add(start, e.mul(query, place.field("mask_row")))
            ahead, length = e.add(query, place.field("ahead")), place.field("length")
            count = b.select(b.icmp_signed("<", ahead, length), ahead, length)

            def key(k: Value, found: list[Value]) -> list[Value]:
                here = e.load(e.add(start, e.mul(k, 4)), F32)
                return [b.and_(found[0], b.fcmp_ordered("==", here, F32(-math.inf)))]

            (hidden,) = e.loop(e.i64(0), count, 1, [ir.Constant(I1, 1)], key)
            with b.if_then(hidden):
                self._of_nothing(e, place, spot, count, output)
                e.store(F32(0.0), kept, 4)
        return e.load(kept, F32, 4)

    def _of_nothing(self, e: Emit, place: Place, spot: Value, count: Value, output: Value) -> None:
        """A row of O for weights of 0: NaN where a value is not finite."""
        at, zero = self.at, e.vector(F32, 0.0)
        start = e.add(place.field("values"), e.load(e.add(spot, 8 * VALUES)))

        def panel(p: Value, _: list[Value]) -> list[Value]:
            values = e.add(start, e.mul(p, place.field("value_panel")))

            def key(k: Value, accs: list[Value]) -> list[Value]:
                here = e.add(values, e.mul(k, at.wide))
                return [e.fma(e.load(e.add(here, 4 * e.n * j), zero.type, 4), zero, acc)
                        for j, acc in enumerate(accs)]  # fmt: skip

            row = e.add(output, e.mul(p, self.rows * at.wide))
            for j, acc in enumerate(e.loop(e.i64(0), count, 1, [zero] * 2, key)):
                e.store(acc, e.add(row, 4 * e.n * j), 4)
            return []

        e.loop(e.i64(0), e.i64(self.panels), 1, [], panel)

"""The register tile of the implicit GEMM, as LLVM IR (see `conv`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..emit import F32, F64, I8, I32, I64, MAGIC, Emit, Value, vec
from ..isa import Isa
from .conv import ConvRecord

WORDS = {name: i for i, name in enumerate(ConvRecord.__dataclass_fields__)}
BYTES = {"u8": 1, "lut": 1, "s32": 4, "f32": 4, "float": 4}


@dataclass(frozen=True)
class Tile:
    """`emit(e, d, image, panel, pixel, last)`: prologue (addresses), dot loop, epilogue.

    The tile's pixels are pixel, pixel + 1, ... in row-major order; from `last` on, the one before
    is repeated.
    """

    isa: Isa
    pixels: int
    vectors: int
    out: str
    residual: bool
    activation: str

    def emit(
        self, e: Emit, d: Value, image: Value, panel: Value, pixel: Value, last: Value
    ) -> None:
        spot = _Spot(e, d, image, pixel, last, self.pixels)
        first = e.mul(panel, self.vectors * e.n)
        group = e.mul(e.b.sdiv(panel, spot.field("group_panels")), spot.field("group_source"))
        source = [e.add(row, group) for row in spot.addresses("source")]
        accs = self._dots(e, spot, source, panel, self._start(e, spot, first))
        finish = {"float": self._float, "s32": self._raw, "f32": self._dequantized}
        at = e.mul(first, BYTES[self.out])
        targets = [e.add(address, at) for address in spot.addresses("target")]
        others = spot.addresses("other") if self.residual else []
        emit = finish.get(self.out, self._requantized)(e, spot, first, others)
        for j in range(self.vectors):
            store = emit(j)
            for i in range(self.pixels):
                value = store(accs[i * self.vectors + j], i)
                e.store(value, e.add(targets[i], BYTES[self.out] * e.n * j))

    def _start(self, e: Emit, spot: _Spot, first: Value) -> list[Value]:
        """The accumulators begin at the bias."""
        kind = vec(F32 if self.out == "float" else I32, e.n)
        bias = e.add(spot.field("bias"), e.mul(first, 4))
        row = [e.load(e.add(bias, 4 * e.n * j), kind, 4) for j in range(self.vectors)]
        return row * self.pixels

    def _dots(
        self, e: Emit, spot: _Spot, source: list[Value], panel: Value, accs: list[Value]
    ) -> list[Value]:
        real = self.out == "float"
        group = 4 if real else self.isa.group
        size = e.n * group
        weights = e.add(spot.field("weights"), e.mul(panel, spot.field("panel_bytes")))
        length, taps = e.mul(spot.field("steps"), group), spot.field("taps")

        def run(i: Value, carried: list[Value]) -> list[Value]:
            offset = e.load(e.add(taps, e.mul(i, 8)), I64, 8)

            def step(at: Value, inner: list[Value]) -> list[Value]:
                w_at, *acc = inner
                w = [e.weight_step(e.add(w_at, j * size), real) for j in range(self.vectors)]
                for i, row in enumerate(source):
                    x = e.input_step(e.add(row, at), real)
                    for j in range(self.vectors):
                        k = i * self.vectors + j
                        acc[k] = e.fma(x, w[j], acc[k]) if real else e.dot(acc[k], x, w[j])
                return [e.add(w_at, self.vectors * size), *acc]

            return e.loop(offset, e.add(offset, length), group, carried, step)

        return e.loop(e.i64(0), spot.field("runs"), 1, [weights, *accs], run)[1:]

    # Epilogues: emit(j) prepares vector j's parameters and returns store(acc, i) -> what to store.

    def _raw(self, e, spot, first, others) -> Emission:
        return lambda j: lambda acc, i: acc

    def _dequantized(self, e, spot, first, others) -> Emission:
        scale = e.add(spot.field("scale"), e.mul(first, 4))

        def emit(j: int) -> Callable[[Value, int], Value]:
            m = e.load(e.add(scale, 4 * e.n * j), vec(F32, e.n), 4)
            return lambda acc, i: e.b.fmul(e.b.sitofp(acc, vec(F32, e.n)), m)

        return emit

    def _float(self, e, spot, first, others) -> Emission:
        low, high = (e.splat(e.b.fptrunc(spot.field(f, F64), F32)) for f in ("low", "high"))
        at = e.mul(first, 4)

        def emit(j: int) -> Callable[[Value, int], Value]:
            def store(acc: Value, i: int) -> Value:
                if self.residual:
                    place = e.add(others[i], e.add(at, 4 * e.n * j))
                    acc = e.b.fadd(acc, e.load(place, vec(F32, e.n)))
                if self.activation == "hardswish":
                    return e.hard_swish(acc)
                return e.clamp_float(acc, low, high)

            return store

        return emit

    def _requantized(self, e, spot, first, others) -> Emission:
        b, n, half = e.b, e.n, e.n // 2
        scale = e.add(spot.field("scale"), e.mul(first, 8))
        zero, lo, hi = (spot.field(name) for name in ("zero", "lo", "hi"))
        low, high = (
            e.splat(b.fadd(b.sitofp(b.sub(q, zero), F64), e.number(MAGIC)), half) for q in (lo, hi)
        )
        zeros = e.splat(b.trunc(zero if self.out == "u8" else b.sub(zero, lo), I32))
        table = spot.field("table")
        other_zero = e.splat(spot.field("other_zero", I32))
        other_scale = e.splat(spot.field("other_scale", F64), half)

        def emit(j: int) -> Callable[[Value, int], Value]:
            m = e.load_doubles(e.add(scale, 8 * n * j))

            def store(acc: Value, i: int) -> Value:
                terms = [(acc, m)]
                if self.residual:
                    byte = e.load(e.add(others[i], e.add(first, n * j)), vec(I8, n))
                    byte = b.sub(b.zext(byte, vec(I32, n)), other_zero)
                    terms.append((byte, (other_scale, other_scale)))
                value = e.requantize(terms, low, high, zeros)
                if self.out == "lut":
                    value = e.lookup(table, value)
                return b.trunc(value, vec(I8, n))

            return store

        return emit


Emission = Callable[[int], Callable[[Value, int], Value]]


class _Spot:
    """Where a tile stands: the record, the image, and its pixels' moves through the rows."""

    def __init__(self, e: Emit, d: Value, image: Value, pixel: Value, last: Value, pixels: int):
        self.e, self.d, self.image = e, d, image
        b, width = e.b, self.field("width")
        self.y, self.x = b.sdiv(pixel, width), b.srem(pixel, width)
        # (wraps to the next row, stays because the chunk has ended) between neighbours.
        self.moves, x = [], self.x
        for i in range(1, pixels):
            x = e.add(x, 1)
            wraps = b.icmp_signed("==", x, width)
            x = b.select(wraps, e.i64(0), x)
            self.moves.append((wraps, b.icmp_signed(">=", e.add(pixel, i), last)))

    def field(self, name: str, kind=I64) -> Value:
        return self.e.field(self.d, WORDS[name], kind)

    def addresses(self, name: str) -> list[Value]:
        """The address of each of the tile's pixels in buffer `name`."""
        e, b = self.e, self.e.b
        row, pixel = self.field(f"{name}_row"), self.field(f"{name}_pixel")
        at = e.add(self.field(name), e.mul(self.image, self.field(f"{name}_image")))
        at = e.add(at, e.add(e.mul(self.y, row), e.mul(self.x, pixel)))
        back = b.sub(row, b.mul(pixel, b.sub(self.field("width"), e.i64(1))))
        addresses = [at]
        for wraps, stays in self.moves:
            at = e.add(at, b.select(stays, e.i64(0), b.select(wraps, back, pixel)))
            addresses.append(at)
        return addresses

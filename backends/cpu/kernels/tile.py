"""The register tile of the implicit GEMM, as LLVM IR (see `conv`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..codegen.emit import F32, F64, I8, I16, I32, I64, MAGIC, Emit, Value, vec
from ..codegen.emit_math import ACTIVATIONS, LIGHT
from ..codegen.isa import Isa
from .conv_record import BYTES, ConvRecord
from .stairs import climb

WORDS = {name: i for i, name in enumerate(ConvRecord.__dataclass_fields__)}


@dataclass(frozen=True)
class Tile:
    """`emit(e, d, image, panel, group, y, x, left)`: prologue (addresses), dot loop, epilogue.

    The tile's pixels follow (y, x) in row-major order; after `left` of them the last is repeated.
    """

    isa: Isa
    pixels: int
    vectors: int
    out: str
    residual: str
    activation: str
    bounded: bool
    ragged: bool

    weight_align: ClassVar[int] = 0  # 0: whole vectors

    def emit(self, e: Emit, d: Value, image: Value, panel: Value, group: Value, *place: Any) -> Any:
        """Emit the tile at `place` (y, x, left) of `image`, for one panel of output channels.

        group: which group of the input's channels the panel reads.
        """
        spot = Spot(e, d, image, group, place, self.pixels)
        names = ["source", "target", *(["other"] if self.residual else [])]
        addresses = spot.addresses(names)
        first = e.mul(panel, self.vectors * e.n)
        accs = self._dots(e, spot, addresses["source"], panel, self._start(e, spot, first))
        seen = self._seen(e, accs)
        channels = self._channels(e, spot, panel, first)
        targets, others = (
            [[e.add(at, e.mul(c, BYTES[self.out])) for c in channels] for at in addresses[name]]
            if name in addresses else [] for name in ("target", "other")
        )  # fmt: skip
        self._finish(e, spot, accs, first, targets, others)
        return seen

    def _seen(self, e: Emit, accs: list[Value]) -> Value | None:
        """What `emit` returns of the sums (see `joined`)."""
        return None

    def _finish(
        self, e: Emit, spot: Fields, accs: list[Value], first: Value, targets: Grid, others: Grid
    ) -> None:
        """The epilogue; targets and others are the addresses of each pixel's vectors."""
        if self.packs(e):
            self._packed(e, spot, accs, first, targets, others)
            return
        if self.activation not in LIGHT:
            self._finish_by_rows(e, spot, accs, first, targets, others)
            return
        stores = self._stores(e, spot, first, others)
        for j, store in enumerate(stores):
            for i in range(self.pixels):
                self._put(e, spot, store(accs[i * self.vectors + j], i), targets[i][j])

    def _finish_by_rows(
        self, e: Emit, spot: Fields, accs: list[Value], first: Value, targets: Grid, others: Grid
    ) -> None:
        """The epilogue as a loop over pixels: a long function's code is there once a vector."""
        size = 4 * e.n
        kept = e.stack(size * len(accs), 64)
        for k, acc in enumerate(accs):
            e.store(acc, e.add(kept, size * k))
        stores = self._stores(e, spot, first, Listed(e, others))
        places = Listed(e, targets)

        def row(i: Value, _: list[Value]) -> list[Value]:
            at = e.add(kept, e.mul(i, size * self.vectors))
            for j, store in enumerate(stores):
                acc = e.load(e.add(at, size * j), accs[0].type, size)
                self._put(e, spot, store(acc, i), places[i][j])
            return []

        e.loop(e.i64(0), e.i64(self.pixels), 1, [], row)

    def _stores(self, e: Emit, spot: Fields, first: Value, others: Any) -> list[Emission]:
        finish = {"float": self._float, "s32": self._raw, "f32": self._dequantized}
        emit = finish.get(self.out, self._requantized)(e, spot, first, others)
        return [emit(j) for j in range(self.vectors)]

    def _put(self, e: Emit, spot: Fields, value: Value, place: Value) -> None:
        if self.out == "lut":
            e.lookup(spot.field("table"), value, place)
        else:
            e.store(value, place)

    def packs(self, e: Emit) -> bool:
        """Does the epilogue narrow four vectors at a time (AVX-512)?"""
        return self.out == "stairs" or (self.out == "u8" and self.bounded and e.isa.lanes == 16)

    def _channels(self, e: Emit, spot: Spot, panel: Value, first: Value) -> list[Value]:
        """The first output channel of each vector; a group's last vector overlaps the one before
        where its channels are no whole vectors."""
        if not self.ragged:
            return [e.add(first, e.n * j) for j in range(self.vectors)]
        within = e.b.sub(panel, e.mul(spot.group, spot.field("group_panels")))
        start, last = e.mul(within, self.vectors * e.n), spot.field("group_last")
        base = e.mul(spot.group, spot.field("group_channels"))
        channels = []
        for j in range(self.vectors):
            c = e.add(start, e.n * j)
            channels.append(e.add(base, e.b.select(e.b.icmp_signed("<", c, last), c, last)))
        return channels

    def _start(self, e: Emit, spot: Fields, first: Value) -> list[Value]:
        """The accumulators begin at the bias."""
        kind = vec(F32 if self.out == "float" else I32, e.n)
        bias = e.add(spot.field("bias"), e.mul(first, 4))
        row = [e.load(e.add(bias, 4 * e.n * j), kind, 4) for j in range(self.vectors)]
        return row * self.pixels

    def _dots(
        self, e: Emit, spot: Fields, source: list[Value], panel: Value, accs: list[Value]
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
                acc = self._multiply(e, [e.add(row, at) for row in source], w_at, acc)
                return [e.add(w_at, self.vectors * size), *acc]

            return e.loop(offset, e.add(offset, length), group, carried, step)

        return e.loop(e.i64(0), spot.field("runs"), 1, [weights, *accs], run)[1:]

    def _multiply(
        self, e: Emit, source: list[Value], weights: Value, accs: list[Value]
    ) -> list[Value]:
        """One step: acc[i, j] += x[i] . w[j]."""
        real, made = self.out == "float", list(accs)
        size = e.n * (4 if real else self.isa.group)
        w = [
            e.weight_step(e.add(weights, j * size), real, self.weight_align)
            for j in range(self.vectors)
        ]
        for i, address in enumerate(source):
            x = e.input_step(address, real)
            for j in range(self.vectors):
                k = i * self.vectors + j
                made[k] = e.fma(x, w[j], made[k]) if real else e.dot(made[k], x, w[j])
        return made

    # Epilogues: emit(j) prepares vector j's parameters and returns store(acc, i) -> what to store.

    def _raw(self, e, spot, first, others) -> Callable[[int], Emission]:
        return lambda j: lambda acc, i: acc

    def _dequantized(self, e, spot, first, others) -> Callable[[int], Emission]:
        scale = e.add(spot.field("scale"), e.mul(first, 4))

        def emit(j: int) -> Callable[[Value, int], Value]:
            m = e.load(e.add(scale, 4 * e.n * j), vec(F32, e.n), 4)
            return lambda acc, i: e.b.fmul(e.b.sitofp(acc, vec(F32, e.n)), m)

        return emit

    def _float(self, e, spot, first, others) -> Callable[[int], Emission]:
        low, high = (e.splat(e.b.fptrunc(spot.field(f, F64), F32)) for f in ("low", "high"))
        sloped, slopes = self.activation == "prelu", e.add(spot.field("scale"), e.mul(first, 4))

        def emit(j: int) -> Callable[[Value, int], Value]:
            one = e.load(e.add(slopes, 4 * e.n * j), vec(F32, e.n), 4) if sloped else low

            def store(acc: Value, i: int) -> Value:
                other = e.load(others[i][j], vec(F32, e.n)) if self.residual else None
                if self.residual == "first":
                    acc = e.b.fadd(acc, other)
                acc = ACTIVATIONS[self.activation](e, acc, one, high)
                return e.b.fadd(acc, other) if self.residual == "last" else acc

            return store

        return emit

    def _requantized(self, e, spot, first, others) -> Callable[[int], Emission]:
        b, n, half = e.b, e.n, e.n // 2
        zero, lo, hi = (spot.field(name) for name in ("zero", "lo", "hi"))
        low, high = (
            e.splat(b.fadd(b.sitofp(b.sub(q, zero), F64), e.number(MAGIC)), half) for q in (lo, hi)
        )
        zeros = e.splat(b.trunc(zero if self.out == "u8" else b.sub(zero, lo), I32))
        terms = self._terms(e, spot, first, others)

        def emit(j: int) -> Callable[[Value, int], Value]:
            scaled = terms(j)

            def store(acc: Value, i: int) -> Value:
                value = e.requantize(scaled(acc, i), low, high, zeros)
                return value if self.out == "lut" else b.trunc(value, vec(I8, n))

            return store

        return emit

    def _packed(self, e, spot, accs, first, targets, others) -> None:
        """Four vectors are narrowed and clamped as one, then put in order and stored."""
        b = e.b
        zero, lo, hi = (spot.field(name) for name in ("zero", "lo", "hi"))
        zeros = e.splat(b.trunc(zero, I16), 32)
        stairs = self.out == "stairs"
        bounds = [e.splat(b.trunc(q, I16), 32) if stairs else e.splat(b.trunc(q, I8), 64)
                  for q in (lo, hi)]  # fmt: skip
        terms = self._terms(e, spot, first, others)
        scaled = [terms(j) for j in range(self.vectors)]
        order = [(i, j) for i in range(self.pixels) for j in range(self.vectors)]
        for at in range(0, len(order), 4):
            four = order[at : at + 4]
            values = [e.rounded(scaled[j](accs[at + k], i)) for k, (i, j) in enumerate(four)]
            values += values[:1] * (4 - len(four))
            if stairs:
                packed = climb(e, spot.field("table"), values, zeros, *bounds)
            else:
                packed = e.narrow(values, zeros, *bounds)
            k = 0
            while k < len(four):
                i, j = four[k]
                run = 1  # how many of the vectors lie side by side: 1, 2 or 4
                while run < 4 and [(i, j + q) for q in range(2 * run)] == four[k : k + 2 * run]:
                    if self.ragged:
                        break
                    run *= 2
                part = e.shuffle(packed, packed, range(16 * k, 16 * (k + run)))
                e.store(part, targets[i][j])
                k += run

    def _terms(self, e, spot, first, others) -> Terms:
        """terms(j)(acc, i): the summands of vector j of pixel i with their multipliers."""
        n = e.n
        scale = e.add(spot.field("scale"), e.mul(first, 8))
        other_zero = e.splat(spot.field("other_zero", I32))
        other_scale = e.splat(spot.field("other_scale", F64), n // 2)

        def terms(j: int) -> Callable[[Value, int], list[Any]]:
            m = e.load_doubles(e.add(scale, 8 * n * j))

            def scaled(acc: Value, i: int) -> list[Any]:
                if not self.residual:
                    return [(acc, m)]
                byte = e.load(others[i][j], vec(I8, n))
                byte = e.b.sub(e.b.zext(byte, vec(I32, n)), other_zero)
                return [(acc, m), (byte, (other_scale, other_scale))]

            return scaled

        return terms


Grid = list[list[Value]]
Emission = Callable[[Value, Any], Value]
Terms = Callable[[int], Callable[[Value, Any], list[Any]]]


class Listed:
    """Rows of int64s in the function's frame: `listed[i][j]` loads one, for a Value i."""

    def __init__(self, e: Emit, grid: Sequence[Sequence[Value]]):
        self.e, self.width = e, len(grid[0]) if grid else 0
        self.base = e.stack(8 * max(1, len(grid) * self.width), 8)
        for k, value in enumerate(value for row in grid for value in row):
            e.store(value, e.add(self.base, 8 * k), 8)

    def __getitem__(self, i: Value) -> list[Value]:
        e = self.e
        at = e.add(self.base, e.mul(i, 8 * self.width))
        return [e.load(e.add(at, 8 * j), I64, 8) for j in range(self.width)]


class Fields:
    """The words of a record, by name."""

    record: ClassVar[type] = ConvRecord
    words: ClassVar[dict[str, int]] = WORDS

    def __init_subclass__(cls) -> None:
        cls.words = {name: i for i, name in enumerate(cls.record.__dataclass_fields__)}

    def __init__(self, e: Emit, d: Value):
        self.e, self.d = e, d

    def field(self, name: str, kind: Any = I64) -> Value:
        return self.e.field(self.d, self.words[name], kind)


class Spot(Fields):
    """Where a tile stands: the record, the image, and the addresses of its pixels."""

    def __init__(
        self,
        e: Emit,
        d: Value,
        image: Value,
        group: Value,
        place: tuple[Value, ...],
        pixels: int,
    ):
        super().__init__(e, d)
        self.image, self.group = image, group
        (self.y, self.x, self.left), self.pixels = place, pixels
        self.width = self.field("width")

    def addresses(self, names: list[str]) -> dict[str, list[Value]]:
        """The addresses of the tile's pixels in each of the buffers `names`."""
        e, b = self.e, self.e.b
        starts, rows, pixels = {}, {}, {}
        for name in names:
            rows[name], pixels[name] = self.field(f"{name}_row"), self.field(f"{name}_pixel")
            at = e.add(self.field(name), e.mul(self.image, self.field(f"{name}_image")))
            if name == "source":
                at = e.add(at, e.mul(self.group, self.field("group_source")))
            offset = e.add(e.mul(self.y, rows[name]), e.mul(self.x, pixels[name]))
            starts[name] = e.add(at, offset)
        if self.pixels == 1:
            return {name: [start] for name, start in starts.items()}
        # Most tiles lie within a row: then addresses are steps, not choices.
        inside = b.and_(
            b.icmp_signed("<=", e.add(self.x, self.pixels), self.width),
            b.icmp_signed("<=", e.i64(self.pixels), self.left),
        )
        with b.if_else(inside) as (then, otherwise):
            with then:
                straight = {
                    name: [e.add(at, e.mul(pixels[name], i)) for i in range(self.pixels)]
                    for name, at in starts.items()
                }
                first = b.block
            with otherwise:
                bent = self._bent(starts, rows, pixels)
                second = b.block
        result: dict[str, list[Value]] = {}
        for name in names:
            result[name] = []
            for one, two in zip(straight[name], bent[name]):
                phi = b.phi(I64)
                phi.add_incoming(one, first)
                phi.add_incoming(two, second)
                result[name].append(phi)
        return result

    def _bent(self, starts: dict, rows: dict, pixels: dict) -> dict[str, list[Value]]:
        """Addresses of a tile that wraps over row ends or runs out of pixels."""
        e, b, x = self.e, self.e.b, self.x
        back = {
            name: b.sub(rows[name], b.mul(pixels[name], b.sub(self.width, e.i64(1))))
            for name in starts
        }
        result = {name: [at] for name, at in starts.items()}
        for i in range(1, self.pixels):
            x = e.add(x, 1)
            wraps = b.icmp_signed("==", x, self.width)
            x = b.select(wraps, e.i64(0), x)
            stays = b.icmp_signed(">=", e.i64(i), self.left)
            for name, at in result.items():
                step = b.select(wraps, back[name], pixels[name])
                at.append(e.add(at[-1], b.select(stays, e.i64(0), step)))
        return result

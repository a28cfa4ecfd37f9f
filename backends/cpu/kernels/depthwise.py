"""Depthwise convolution: a vector over channels, taps unrolled.

`dots` is for machines with a 16-lane dot product: four neighbouring pixels of 16 channels are
interleaved by one byte permutation into 16 lanes of four taps, which then serve every output pixel
of the tile that touches them (a 3-tap row at stride 1 serves two outputs from one interleaving).
Everywhere else, and for float32, each tap is a widening multiply and add; several neighbouring
pixels share what they load. Where a row is no whole tiles, its last tile overlaps the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ..codegen.emit_math import ACTIVATIONS
from ..codegen.isa import Isa
from .conv_record import BYTES
from .grid import LANES, GridRecord, Row, grid, lanes_of, walk
from .stairs import STAIRS, climb


@dataclass(frozen=True, kw_only=True)
class DepthwiseRecord(GridRecord):
    """`source*` as in ConvRecord (strides times the convolution's stride).

    tap_row, tap_pixel   bytes between taps (times the dilation)
    weights     address of `pack`'s result; bias: int32[channels], scale: float64[channels]
                (float: both float32[channels], scale the slopes of 'prelu')
    other*      residual operand, its zero point and multiplier * 2^-shift
    zero, lo, hi   of the result; table: the 'lut' kind's
    low, high   parameters of a float result's activation (clamp: the bounds)
    """

    source: int
    source_image: int = 0
    source_row: int = 0
    source_pixel: int = 0
    tap_row: int
    tap_pixel: int
    weights: int
    bias: int
    scale: int
    zero: int = 0
    lo: int = 0
    hi: int = 255
    table: int = 0
    low: float = float("-inf")
    high: float = float("inf")
    other: int = 0
    other_image: int = 0
    other_row: int = 0
    other_pixel: int = 0
    other_zero: int = 0
    other_scale: float = 0.0


@dataclass(frozen=True)
class Shape:
    """What is unrolled: the window, and the stride and dilation along a row."""

    height: int
    width: int
    stride: int
    dilation: int

    @property
    def tile(self) -> int:
        """Output pixels that share interleaved inputs."""
        if self.dilation > 1:
            return 1
        return {(3, 1): 2, (5, 1): 4, (7, 1): 2}.get((self.width, self.stride), 1)

    def columns(self, count: int) -> list[list[tuple[int, int]]]:
        """For each pixel of a row that `count` outputs read, which (output, tap) do."""
        found: dict[int, list[tuple[int, int]]] = {}
        for output in range(count):
            for tap in range(self.width):
                at = output * self.stride + tap * self.dilation
                found.setdefault(at, []).append((output, tap))
        return [found[at] for at in sorted(found)]

    def groups(self) -> list[tuple[int, list[tuple[int, list[int]]]]]:
        """Per group of four pixels: (first pixel, [(output, its tap for each pixel or -1)])."""
        span = (self.tile - 1) * self.stride + self.width
        result = []
        for first in range(0, span, 4):
            uses = []
            for output in range(self.tile):
                taps = [first + t - output * self.stride for t in range(4)]
                taps = [t if 0 <= t < self.width else -1 for t in taps]
                if any(t >= 0 for t in taps):
                    uses.append((output, taps))
            result.append((first, uses))
        return result


def depthwise(
    isa: Isa,
    height: int,
    width: int,
    stride: int,
    dilation: int,
    out: str,
    activation: str,
    residual: str,
    bounded: bool,
    pixels: int,
):
    """Build a depthwise kernel for one window, horizontal stride and horizontal dilation.

    out         'u8', 'lut', 'stairs' (u8 x s8, requantized), 's32', or 'float'
    activation  of 'float': a name of `emit_math.ACTIVATIONS`
    residual    '' for none; 'first': added before the activation or rounding; 'last' ('float'
                only): after it
    bounded     every rescaled sum is known to fit 32 bits
    pixels      a tile's, where there are no dots: no more than a row has
    """
    shape = Shape(height, width, stride, dilation)
    dots = uses_dots(isa, out)

    def emit_row(row: Row) -> None:
        line = _Line(row, shape, out, activation, residual)
        line.packs = dots and (out == "stairs" or (out == "u8" and bounded))
        e = row.e

        def channels(c: Any, _: list[Any]) -> list[Any]:
            if dots:
                e.tiles(row.field("width"), shape.tile, lambda x, n: line.dots(x, c, n))
                return []
            last = e.add(row.field("width"), -pixels)

            def tile(x: Any, _: list[Any]) -> list[Any]:
                if pixels > 1:
                    x = e.b.select(e.b.icmp_signed("<", x, last), x, last)
                line.products(x, c, pixels)
                return []

            e.loop(e.i64(0), row.field("width"), pixels, [], tile)
            return []

        e.loop(e.i64(0), row.field("channels"), LANES, [], channels)

    return grid(isa, DepthwiseRecord, emit_row)


class _Line:
    """One output row: the dots of a few pixels of 16 channels, and their epilogue."""

    def __init__(self, row: Row, shape: Shape, out: str, activation: str, residual: str):
        from ..codegen.emit import F32, F64, I32, MAGIC

        self.row, self.shape, self.out, self.activation = row, shape, out, activation
        self.residual, self.packs = residual, False
        self.other = row.base("other") if residual else None
        self.e = e = row.e
        b = e.b
        self.source, self.target = row.base("source"), row.base("target")
        zero, lo, hi = (row.field(name) for name in ("zero", "lo", "hi"))
        self.low, self.high = (
            e.splat(b.fadd(b.sitofp(b.sub(q, zero), F64), e.number(MAGIC)), LANES // 2)
            for q in (lo, hi)
        )
        self.zeros = e.splat(b.trunc(b.sub(zero, lo) if out == "lut" else zero, I32))
        self.bounds = [e.splat(b.fptrunc(row.field(name, F64), F32)) for name in ("low", "high")]

    def dots(self, x: Any, c: Any, count: int) -> None:
        """`count` outputs from x on, through interleaved groups of four pixels."""
        from ..codegen.emit import I8, I32, vec

        e, b, shape, row = self.e, self.e.b, self.shape, self.row
        groups = shape.groups()
        size = 64 * sum(len(uses) for _, uses in groups)
        base = e.add(e.add(self.source, e.mul(x, row.field("source_pixel"))), c)
        weights = row.field("weights")
        weights = e.add(weights, e.mul(b.lshr(c, e.i64(4)), size * shape.height))
        tap_row, tap_pixel = row.field("tap_row"), row.field("tap_pixel")
        accs = [self._bias(c, I32)] * count
        interleave = [16 * tap + lane for lane in range(16) for tap in range(4)]
        step = e.i64(0)
        for y in range(shape.height):
            line, at = e.add(base, e.mul(tap_row, y)), 0
            for first, uses in groups:
                used = [use for use in uses if use[0] < count]
                wanted = {t for _, taps in used for t in range(4) if taps[t] >= 0}
                pixels, group = [], None
                for t in range(4):
                    if t in wanted:
                        place = e.add(line, e.mul(tap_pixel, first + t))
                        pixels.append(e.load(place, vec(I8, LANES)))
                    else:
                        pixels.append(e.vector(I8, 0))
                if used:
                    joined = e.join(e.join(*pixels[:2]), e.join(*pixels[2:]))
                    group = b.bitcast(e.shuffle(joined, joined, interleave), vec(I32, LANES))
                for output, _ in uses:
                    if output < count:
                        w = e.load(e.add(weights, e.add(step, at)), vec(I8, 64), 64)
                        accs[output] = e.dot(accs[output], group, w)
                    at += 64
            step = e.add(step, size)
        places = [e.add(x, i) for i in range(count)]
        if self.packs:
            self._finish_packed(accs, places, c)
            return
        for acc, place in zip(accs, places):
            self._finish(acc, place, c)

    def products(self, x: Any, c: Any, count: int) -> None:
        """`count` outputs from x on by multiplying and adding, tap by tap."""
        from ..codegen.emit import F32, I8, I32, vec

        e, b, shape, row = self.e, self.e.b, self.shape, self.row
        real = self.out == "float"
        item, kind = (4, F32) if real else (1, I8)
        lanes = vec(kind, LANES)
        base = e.add(self.source, e.add(e.mul(x, row.field("source_pixel")), e.mul(c, item)))
        weights = e.add(row.field("weights"), e.mul(c, item * shape.height * shape.width))
        accs = [self._bias(c, F32 if real else I32)] * count
        for y in range(shape.height):
            line = e.add(base, e.mul(row.field("tap_row"), y))
            at = [item * LANES * (y * shape.width + t) for t in range(shape.width)]
            w = [e.load(e.add(weights, k), lanes) for k in at]
            for uses in shape.columns(count):
                output, tap = uses[0]
                place = e.add(line, e.mul(row.field("source_pixel"), output))
                value = e.load(e.add(place, e.mul(row.field("tap_pixel"), tap)), lanes)
                value = value if real else b.zext(value, vec(I32, LANES))
                for i, t in uses:
                    if real:
                        accs[i] = e.fma(value, w[t], accs[i])
                    else:
                        accs[i] = b.add(accs[i], b.mul(value, b.sext(w[t], value.type)))
        for i, acc in enumerate(accs):
            self._finish(acc, e.add(x, i), c)

    def _bias(self, c: Any, kind: Any) -> Any:
        from ..codegen.emit import vec

        e = self.e
        return e.load(e.add(self.row.field("bias"), e.mul(c, 4)), vec(kind, LANES), 4)

    def _finish(self, acc: Any, x: Any, c: Any) -> None:
        from ..codegen.emit import I8, vec

        e, b, row = self.e, self.e.b, self.row
        at = self._place(self.target, "target", x, c)
        if self.out == "float":
            acc = self._activated(acc, x, c)
        elif self.out != "s32":
            m = e.load_doubles(e.add(row.field("scale"), e.mul(c, 8)))
            terms = [(acc, m), *([self._other_term(x, c)] if self.residual else [])]
            acc = e.requantize(terms, self.low, self.high, self.zeros)
            if self.out == "lut":
                e.lookup(row.field("table"), acc, at)
                return
            acc = b.trunc(acc, vec(I8, LANES))
        e.store(acc, at)

    def _finish_packed(self, accs: list[Any], places: list[Any], c: Any) -> None:
        """Four vectors are narrowed as one (AVX-512)."""
        from ..codegen.emit import I8, I16

        e, b, row = self.e, self.e.b, self.row
        zero, lo, hi = (row.field(name) for name in ("zero", "lo", "hi"))
        zeros, stairs = e.splat(b.trunc(zero, I16), 32), self.out == "stairs"
        kind, n = (I16, 32) if stairs else (I8, 64)
        bounds = [e.splat(b.trunc(q, kind), n) for q in (lo, hi)]
        m = e.load_doubles(e.add(row.field("scale"), e.mul(c, 8)))
        for at in range(0, len(accs), 4):
            here = places[at : at + 4]
            terms = [
                [(acc, m), *([self._other_term(x, c)] if self.residual else [])]
                for acc, x in zip(accs[at : at + 4], here)
            ]
            values = [e.rounded(t) for t in terms]
            values += values[:1] * (4 - len(values))
            if stairs:
                packed = climb(e, row.field("table"), values, zeros, *bounds)
            else:
                packed = e.narrow(values, zeros, *bounds)
            for k, x in enumerate(here):
                part = e.shuffle(packed, packed, range(LANES * k, LANES * (k + 1)))
                e.store(part, self._place(self.target, "target", x, c))

    def _place(self, base: Any, name: str, x: Any, c: Any) -> Any:
        item = 4 if self.out in ("float", "s32") else 1
        e = self.e
        return e.add(base, e.add(e.mul(x, self.row.field(f"{name}_pixel")), e.mul(c, item)))

    def _activated(self, acc: Any, x: Any, c: Any) -> Any:
        from ..codegen.emit import F32, vec

        e, b = self.e, self.e.b
        other = None
        if self.residual:
            other = e.load(self._place(self.other, "other", x, c), vec(F32, LANES))
        if self.residual == "first":
            acc = b.fadd(acc, other)
        first, second = self.bounds
        if self.activation == "prelu":
            first = e.load(e.add(self.row.field("scale"), e.mul(c, 4)), vec(F32, LANES), 4)
        acc = ACTIVATIONS[self.activation](e, acc, first, second)
        return b.fadd(acc, other) if self.residual == "last" else acc

    def _other_term(self, x: Any, c: Any) -> Any:
        """The residual operand less its zero point, and its multiplier."""
        from ..codegen.emit import F64, I8, I32, vec

        e, b, row = self.e, self.e.b, self.row
        byte = e.load(self._place(self.other, "other", x, c), vec(I8, LANES))
        wide = b.sub(b.zext(byte, vec(I32, LANES)), e.splat(b.trunc(row.field("other_zero"), I32)))
        factor = e.splat(row.field("other_scale", F64), LANES // 2)
        return wide, (factor, factor)


def uses_dots(isa: Isa, out: str) -> bool:
    """Are weights packed for the dot product, or tap by tap?"""
    return out != "float" and isa.vbmi


def pack(
    weights: np.ndarray, isa: Isa, stride: int, dilation: int = 1, out: str = "u8"
) -> np.ndarray:
    """s8 or float32 [channels (a multiple of 16), KH, KW] -> bytes in the kernel's order."""
    channels, height, width = weights.shape
    if not uses_dots(isa, out):
        blocks = weights.reshape(channels // LANES, LANES, height * width).transpose(0, 2, 1)
        return np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
    groups = Shape(height, width, stride, dilation).groups()
    rows = [taps for _, uses in groups for _, taps in uses]
    padded = np.zeros((channels, height, width + 1), np.int8)  # tap -1 is the zero at the end
    padded[..., :width] = weights
    chosen = padded[:, :, np.array(rows)]  # channels, height, use, 4
    blocks = chosen.reshape(channels // LANES, LANES, height, len(rows), 4)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4)).reshape(-1).view(np.uint8)


@reaches(depthwise, DepthwiseRecord)
def _reach(
    r: Reach, height: int, width: int, stride: int, dilation: int, out: str, activation: str,
    residual: str, bounded: bool, pixels: int,
) -> None:  # fmt: skip
    dots, channels = uses_dots(r.target, out), lanes_of(r)
    r.needs(dots or r["width"] >= pixels, "a row has a tile's pixels")
    held, item = 4 if out == "float" else 1, BYTES[out]
    taps = (height, r["tap_row"]), (width, r["tap_pixel"])
    r.reads("source", held * channels, *walk(r, "source"), *taps)
    each = held * LANES * width
    if dots:
        each = 64 * sum(len(uses) for _, uses in Shape(height, width, stride, dilation).groups())
    r.reads("weights", each * height * (channels // LANES))
    r.reads("bias", 4 * channels)
    if out in ("u8", "lut", "stairs"):
        r.reads("scale", 8 * channels)
    elif activation == "prelu":
        r.reads("scale", 4 * channels)
    if residual:
        r.reads("other", item * channels, *walk(r, "other"))
    r.writes("target", item * channels, *walk(r, "target"))
    if out in ("lut", "stairs"):
        r.reads("table", r["hi"] - r["lo"] + 1 if out == "lut" else STAIRS)


def kernel(
    window: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    out: str = "u8",
    activation: str = "clamp",
    residual: str = "",
    bounded: bool = False,
    pixels: int = 1,
) -> Kernel:
    """See `depthwise`; stride and dilation are the horizontal ones (the vertical are strides)."""
    return Kernel.of(
        depthwise,
        height=window[0],
        width=window[1],
        stride=stride,
        dilation=dilation,
        out=out,
        activation=activation,
        residual=residual,
        bounded=bounded,
        pixels=pixels,
    )


def tile(width: int, isa: Isa, out: str) -> int:
    """How many pixels of a row of so many are best done at once, where there are no dots."""
    if out != "float":
        return 1
    fitting = [n for n in ((8, 4, 2, 1) if isa.lanes == 16 else (2, 1)) if n <= width]
    return min(fitting, key=lambda n: (-(-width // n) * n, -n))

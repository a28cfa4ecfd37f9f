"""Depthwise convolution: a vector over channels, taps unrolled.

`dots` is for machines with a 16-lane dot product: four neighbouring pixels of 16 channels are
interleaved by one byte permutation into 16 lanes of four taps, which then serve every output pixel
of the tile that touches them (a 3-tap row at stride 1 serves two outputs from one interleaving).
Everywhere else, and for float32, each tap is a widening multiply and add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emit_math import ACTIVATIONS
from ..isa import Isa
from ..jit import Kernel
from .grid import LANES, GridRecord, Row, grid


@dataclass(frozen=True, kw_only=True)
class DepthwiseRecord(GridRecord):
    """`source*` as in ConvRecord (strides times the convolution's stride).

    tap_row, tap_pixel   bytes between taps (times the dilation)
    weights     address of `pack`'s result; bias: int32[channels], scale: float64[channels]
                (float: bias float32[channels], scale unused)
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
    isa: Isa, height: int, width: int, stride: int, dilation: int, out: str, activation: str
):
    """Build a depthwise kernel for one window, horizontal stride and horizontal dilation.

    out         'u8', 'lut' (u8 x s8, requantized), 's32', or 'float'
    activation  of 'float': a name of `emit_math.ACTIVATIONS`
    """
    shape = Shape(height, width, stride, dilation)
    dots = uses_dots(isa, out)

    def emit_row(row: Row) -> None:
        line = _Line(row, shape, out, activation)
        tile = shape.tile if dots else 1
        body = line.dots if dots else line.products
        e = row.e

        def channels(c: Any, _: list[Any]) -> list[Any]:
            e.tiles(row.field("width"), tile, lambda x, n: body(x, c, n))
            return []

        e.loop(e.i64(0), row.field("channels"), LANES, [], channels)

    return grid(isa, DepthwiseRecord, emit_row)


class _Line:
    """One output row: the dots of a few pixels of 16 channels, and their epilogue."""

    def __init__(self, row: Row, shape: Shape, out: str, activation: str):
        from ..emit import F32, F64, I32, MAGIC

        self.row, self.shape, self.out, self.activation = row, shape, out, activation
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
        from ..emit import I8, I32, vec

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
        for i, acc in enumerate(accs):
            self._finish(acc, e.add(x, i), c)

    def products(self, x: Any, c: Any, count: int) -> None:
        """One output by multiplying and adding, tap by tap."""
        from ..emit import F32, I8, I32, vec

        e, b, shape, row = self.e, self.e.b, self.shape, self.row
        real = self.out == "float"
        item, kind = (4, F32) if real else (1, I8)
        base = e.add(self.source, e.add(e.mul(x, row.field("source_pixel")), e.mul(c, item)))
        taps = shape.height * shape.width
        weights = e.add(row.field("weights"), e.mul(c, item * taps))
        acc = self._bias(c, F32 if real else I32)
        for y in range(shape.height):
            for t in range(shape.width):
                place = e.add(base, e.mul(row.field("tap_row"), y))
                place = e.add(place, e.mul(row.field("tap_pixel"), t))
                at = item * LANES * (y * shape.width + t)
                value = e.load(place, vec(kind, LANES))
                w = e.load(e.add(weights, at), vec(kind, LANES))
                if real:
                    acc = e.fma(value, w, acc)
                else:
                    lanes = vec(I32, LANES)
                    acc = b.add(acc, b.mul(b.zext(value, lanes), b.sext(w, lanes)))
        self._finish(acc, x, c)

    def _bias(self, c: Any, kind: Any) -> Any:
        from ..emit import vec

        e = self.e
        return e.load(e.add(self.row.field("bias"), e.mul(c, 4)), vec(kind, LANES), 4)

    def _finish(self, acc: Any, x: Any, c: Any) -> None:
        from ..emit import I8, vec

        e, b, row = self.e, self.e.b, self.row
        item = 4 if self.out in ("float", "s32") else 1
        at = e.add(self.target, e.add(e.mul(x, row.field("target_pixel")), e.mul(c, item)))
        if self.out == "float":
            acc = ACTIVATIONS[self.activation](e, acc, *self.bounds)
        elif self.out != "s32":
            m = e.load_doubles(e.add(row.field("scale"), e.mul(c, 8)))
            acc = e.requantize([(acc, m)], self.low, self.high, self.zeros)
            if self.out == "lut":
                e.lookup(row.field("table"), acc, at)
                return
            acc = b.trunc(acc, vec(I8, LANES))
        e.store(acc, at)


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


def kernel(
    window: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    out: str = "u8",
    activation: str = "clamp",
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
    )

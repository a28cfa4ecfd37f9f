"""Pooling over windows: the maximum, and the sum with requantization (average, global average)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..isa import Isa
from ..jit import Kernel
from .grid import LANES, GridRecord, Row, grid


@dataclass(frozen=True, kw_only=True)
class PoolRecord(GridRecord):
    """Windows of height x window pixels; strides as for a convolution.

    source, source_row, source_pixel, source_image   as in ConvRecord (times the stride)
    tap_row, tap_pixel   bytes between the window's rows and pixels (times the dilation)
    a_zero      the input's zero point; zero, lo, hi: the result's ('sum' only)
    scale       address of float64 m * 2^-shift, one for all; scale_row and scale_pixel move it
                when windows that hang over the edge count fewer pixels
    """

    source: int
    source_image: int = 0
    source_row: int = 0
    source_pixel: int = 0
    height: int = 1
    window: int = 1
    tap_row: int = 0
    tap_pixel: int = 0
    a_zero: int = 0
    zero: int = 0
    lo: int = 0
    hi: int = 255
    scale: int = 0
    scale_image: int = 0
    scale_row: int = 0
    scale_pixel: int = 0


def max_pool(isa: Isa, kind: str):
    """The largest of each window. kind: 'u8' or 'f32'. Halos must hold 0 (or -inf)."""
    from ..emit import F32, I8, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        element, item = (I8, 1) if kind == "u8" else (F32, 4)
        lanes = vec(element, LANES)

        def vector(at: Any, c: Any) -> None:
            start = e.vector(element, 0 if kind == "u8" else float("-inf"))

            def tap(address: Any, best: Any) -> Any:
                x = e.load(address, lanes)
                if kind == "u8":
                    return b.select(b.icmp_unsigned(">", x, best), x, best)
                return b.select(b.fcmp_unordered(">", x, best), x, best)

            e.store(_window(row, at("source", item), start, tap), at("target", item))

        row.vectors(vector)

    return grid(isa, PoolRecord, emit_row)


def sum_pool(isa: Isa):
    """clamp(rhe(sum(x - a_zero) * scale) + zero, lo, hi) over each window, u8."""
    from ..emit import F64, I8, I32, MAGIC, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        zero, lo, hi = (row.field(name) for name in ("zero", "lo", "hi"))
        low, high = (
            e.splat(b.fadd(b.sitofp(b.sub(q, zero), F64), e.number(MAGIC)), LANES // 2)
            for q in (lo, hi)
        )
        zeros = e.splat(b.trunc(zero, I32))
        a_zero = e.splat(b.trunc(row.field("a_zero"), I32))

        def vector(at: Any, c: Any) -> None:
            def tap(address: Any, total: Any) -> Any:
                x = b.zext(e.load(address, vec(I8, LANES)), vec(I32, LANES))
                return b.add(total, b.sub(x, a_zero))

            total = _window(row, at("source", 1), e.vector(I32, 0), tap)
            m = e.splat_double(at("scale", 0))
            y = e.requantize([(total, m)], low, high, zeros)
            e.store(b.trunc(y, vec(I8, LANES)), at("target", 1))

        row.vectors(vector)

    return grid(isa, PoolRecord, emit_row)


def average_pool(isa: Isa):
    """float32: the sum over each window times scale (a float64, rounded to single)."""
    from ..emit import F32, F64, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b

        def vector(at: Any, c: Any) -> None:
            def tap(address: Any, total: Any) -> Any:
                return b.fadd(total, e.load(address, vec(F32, LANES)))

            total = _window(row, at("source", 4), e.vector(F32, 0.0), tap)
            m = e.splat(b.fptrunc(e.load(at("scale", 0), F64, 8), F32))
            e.store(b.fmul(total, m), at("target", 4))

        row.vectors(vector)

    return grid(isa, PoolRecord, emit_row)


@dataclass(frozen=True, kw_only=True)
class PoolGradientRecord(PoolRecord):
    """A window's gradient is `other`; what it adds goes to `target`, by windows as `source` is.

    target_tap_row, target_tap_pixel   as tap_row and tap_pixel, of the target
    other_tap_row, other_tap_pixel     the same of `other`, where each tap has its own
    """

    other: int
    other_image: int = 0
    other_row: int = 0
    other_pixel: int = 0
    target_tap_row: int = 0
    target_tap_pixel: int = 0
    other_tap_row: int = 0
    other_tap_pixel: int = 0


def pool_gradient(isa: Isa, kind: str):
    """float32: to each window of the target add `other`; windows of an image overlap: a chunk is
    an image.

    kind   'max': at the first of the window's largest elements in the source; 'mean': everywhere,
           times scale; 'taps': each tap has its own (col2im)
    """
    from ..emit import F32, F64, I1, vec

    def emit_row(row: Row) -> None:
        e, b, lanes = row.e, row.e.b, vec(F32, LANES)

        def vector(at: Any, c: Any) -> None:
            other, taken = at("other", 4), vec(I1, LANES)([0] * LANES)
            given = e.load(other, lanes)
            source, target, best = at("source", 4), at("target", 4), None
            if kind == "max":

                def most(address: Any, best: Any) -> Any:
                    x = e.load(address, lanes)
                    return b.select(b.fcmp_unordered(">", x, best), x, best)

                best = _window(row, source, e.vector(F32, float("-inf")), most)
            elif kind == "mean":
                given = b.fmul(given, e.splat(b.fptrunc(e.load(at("scale", 0), F64, 8), F32)))

            def tap(x: Any, y: Any, taken: Any) -> Any:
                there = e.add(target, e.add(e.mul(y, row.field("target_tap_row")),
                                            e.mul(x, row.field("target_tap_pixel"))))  # fmt: skip
                added = given
                if kind == "taps":
                    here = e.add(other, e.add(e.mul(y, row.field("other_tap_row")),
                                              e.mul(x, row.field("other_tap_pixel"))))  # fmt: skip
                    added = e.load(here, lanes)
                elif kind == "max":
                    here = e.add(source, e.add(e.mul(y, row.field("tap_row")),
                                               e.mul(x, row.field("tap_pixel"))))  # fmt: skip
                    found = b.fcmp_ordered("==", e.load(here, lanes), best)
                    found = b.and_(found, b.not_(taken))
                    taken = b.or_(taken, found)
                    added = b.select(found, given, e.vector(F32, 0.0))
                e.store(b.fadd(e.load(there, lanes), added), there)
                return taken

            def line(y: Any, carried: list[Any]) -> list[Any]:
                return e.loop(e.i64(0), row.field("window"), 1, carried,
                              lambda x, inner: [tap(x, y, inner[0])])  # fmt: skip

            e.loop(e.i64(0), row.field("height"), 1, [taken], line)

        row.vectors(vector)

    return grid(isa, PoolGradientRecord, emit_row)


def _window(row: Row, start: Any, first: Any, tap: Any) -> Any:
    """Fold tap(address, value) over the window that starts at address `start`."""
    e = row.e
    tap_row, tap_pixel = row.field("tap_row"), row.field("tap_pixel")

    def line(y: Any, carried: list[Any]) -> list[Any]:
        base = e.add(start, e.mul(y, tap_row))
        return e.loop(
            e.i64(0),
            row.field("window"),
            1,
            carried,
            lambda x, inner: [tap(e.add(base, e.mul(x, tap_pixel)), inner[0])],
        )

    return e.loop(e.i64(0), row.field("height"), 1, [first], line)[0]


def max_kernel(kind: str = "u8") -> Kernel:
    """See `max_pool`."""
    return Kernel.of(max_pool, kind=kind)


SUM = Kernel.of(sum_pool)
AVERAGE = Kernel.of(average_pool)


def gradient_kernel(kind: str) -> Kernel:
    """See `pool_gradient`."""
    return Kernel.of(pool_gradient, kind=kind)

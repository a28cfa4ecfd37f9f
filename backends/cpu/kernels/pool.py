"""Pooling over windows: the maximum, and the sum with requantization (average, global average)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schedule.kernel import Kernel
from ...schedule.reach import Loop, Reach, reaches
from ..codegen.isa import Isa
from .grid import LANES, GridRecord, Row, grid, lanes_of, walk


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


UNROLLED = 25  # taps that are written out, at most


def max_pool(isa: Isa, kind: str, height: int, width: int):
    """The largest of each window, NaN where it holds one. kind: 'u8' or 'f32'. Halos must hold 0
    (or -inf).

    height, width   how many taps are written out at a time: the whole window, one row (height is
                    1), or one tap
    """

    def emit_row(row: Row) -> None:
        row.vectors(lambda at, c: row.e.store(
            _largest_of_window(row, at("source", 1 if kind == "u8" else 4), kind, height, width),
            at("target", 1 if kind == "u8" else 4),
        ))  # fmt: skip

    return grid(isa, PoolRecord, emit_row)


def _largest_of_window(row: Row, start: Any, kind: str, height: int, width: int) -> Any:
    """The largest of the window at `start`, with height x width taps written out; the rest of the
    window, if there are more, in loops."""
    from ..codegen.emit import F32, I8, vec

    e, b = row.e, row.e.b
    lanes = vec(I8 if kind == "u8" else F32, LANES)
    tap_row, tap_pixel = row.field("tap_row"), row.field("tap_pixel")

    def block(at: Any) -> Any:
        lines = [e.add(at, e.mul(tap_row, y)) for y in range(height)]
        return _largest(e, [e.load(e.add(line, e.mul(tap_pixel, x)), lanes)
                            for line in lines for x in range(width)])  # fmt: skip

    if height > 1:
        return block(start)

    def more(at: Any, best: Any) -> Any:
        x = block(at)
        if kind == "u8":
            return _larger(e, x, best)
        # A NaN in `best` is below nothing and stays; one in x is taken.
        return b.select(b.fcmp_ordered("ord", x, x), _larger(e, x, best), x)

    first = e.vector(lanes.element, 0 if kind == "u8" else float("-inf"))
    return _window(row, start, first, more, width > 1)


def _larger(e: Any, x: Any, y: Any) -> Any:
    """max(x, y) as one instruction; of floats y where one is NaN."""
    from ..codegen.emit import F32

    above = e.b.fcmp_ordered if x.type.element == F32 else e.b.icmp_unsigned
    return e.b.select(above(">", x, y), x, y)


def _largest(e: Any, taps: list[Any]) -> Any:
    """The largest of some vectors; NaN in the lanes of floats where one is."""
    from ..codegen.emit import F32

    best, b = taps[0], e.b
    for x in taps[1:]:
        best = _larger(e, x, best)
    if best.type.element != F32 or len(taps) == 1:
        return best
    # One comparison sees NaN in either of two taps.
    known = None
    for x, y in zip(taps[::2], [*taps[1::2], taps[-1]]):
        both = b.fcmp_ordered("ord", x, y)
        known = both if known is None else b.and_(known, both)
    return b.select(known, best, e.vector(F32, float("nan")))


def sum_pool(isa: Isa):
    """clamp(rhe(sum(x - a_zero) * scale) + zero, lo, hi) over each window, u8."""
    from ..codegen.emit import F64, I8, I32, MAGIC, vec

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
    """float32: the sum over each window by scale, the number of its elements (a float64).

    Each row of the window is summed by itself and the division is one, as the reference has it: a
    mean of numbers on a grid often lies half way between two of a finer one, and a quantizer
    behind it would round what differs in the last bit to another integer.
    """
    from ..codegen.emit import F32, F64, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b

        def vector(at: Any, c: Any) -> None:
            def tap(address: Any, total: Any) -> Any:
                return b.fadd(total, e.load(address, vec(F32, LANES)))

            total = _window(row, at("source", 4), e.vector(F32, 0.0), tap, join=b.fadd)
            count = e.splat(b.fptrunc(e.load(at("scale", 0), F64, 8), F32))
            e.store(b.fdiv(total, count), at("target", 4))

        row.vectors(vector)

    return grid(isa, PoolRecord, emit_row)


@dataclass(frozen=True, kw_only=True)
class PoolGradientRecord(PoolRecord):
    """A window's gradient is `other`; what it adds goes to `target`, by windows as `source` is.

    target_tap_row, target_tap_pixel   as tap_row and tap_pixel, of the target
    other_tap_row, other_tap_pixel     the same of `other`, where each tap has its own
    top, below      bytes of the target from where the first window begins to the image's first
                    row, and to the end of its last one ('max'); left, beside: the same of pixels
    """

    other: int
    other_image: int = 0
    other_row: int = 0
    other_pixel: int = 0
    target_tap_row: int = 0
    target_tap_pixel: int = 0
    other_tap_row: int = 0
    other_tap_pixel: int = 0
    top: int = 0
    below: int = 0
    left: int = 0
    beside: int = 0


def pool_gradient(isa: Isa, kind: str, height: int = 1, width: int = 1):
    """float32: to each window of the target add `other`; windows of an image overlap: a chunk is
    an image.

    kind   'max': at the first of the window's largest elements in the source; 'mean': everywhere,
           times scale; 'taps': each tap has its own (col2im)
    height, width   as `max_pool`'s
    """
    from ..codegen.emit import F32, F64, I1, vec

    def emit_row(row: Row) -> None:
        e, b, lanes = row.e, row.e.b, vec(F32, LANES)

        def vector(at: Any, c: Any) -> None:
            other, taken = at("other", 4), vec(I1, LANES)([0] * LANES)
            given = e.load(other, lanes)
            source, target, best = at("source", 4), at("target", 4), None
            if kind == "max":
                best = _largest_of_window(row, source, "f32", height, width)
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
                    value = e.load(here, lanes)
                    # The largest is NaN where there is one; of several the first counts.
                    found = b.or_(b.fcmp_ordered("==", value, best),
                                  b.fcmp_unordered("uno", value, value))  # fmt: skip
                    found = b.and_(found, b.not_(taken))
                    found = b.and_(found, e.splat(_inside(row, x, y)))
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


def _inside(row: Row, x: Any, y: Any) -> Any:
    """Whether tap (y, x) of the window is within the image, and not in the border, which may be as
    large as the image's elements where these are -inf."""
    e, b = row.e, row.e.b
    made = None
    for index, tap, axis, first, end in (
        (row.row, y, "row", "top", "below"), (row.x, x, "pixel", "left", "beside"),
    ):  # fmt: skip
        at = e.add(e.mul(index, row.field(f"target_{axis}")),
                   e.mul(tap, row.field(f"target_tap_{axis}")))  # fmt: skip
        within = b.and_(b.icmp_signed(">=", at, row.field(first)),
                        b.icmp_signed("<", at, row.field(end)))  # fmt: skip
        made = within if made is None else b.and_(made, within)
    return made


def _window(
    row: Row, start: Any, first: Any, tap: Any, by_rows: bool = False, join: Any = None
) -> Any:
    """Fold tap(address, value) over the taps (or rows) of the window at address `start`; with
    `join`, over each of its rows from `first` on, whose results are joined.
    """
    e = row.e
    tap_row, tap_pixel = row.field("tap_row"), row.field("tap_pixel")

    def line(y: Any, carried: list[Any]) -> list[Any]:
        base = e.add(start, e.mul(y, tap_row))
        if by_rows:
            return [tap(base, carried[0])]
        made = e.loop(
            e.i64(0),
            row.field("window"),
            1,
            carried if join is None else [first],
            lambda x, inner: [tap(e.add(base, e.mul(x, tap_pixel)), inner[0])],
        )
        return made if join is None else [join(carried[0], made[0])]

    return e.loop(e.i64(0), row.field("height"), 1, [first], line)[0]


# ---- what they reach ---------------------------------------------------------------------------


def _taps(r: Reach, name: str = "") -> tuple[Loop, Loop]:
    return (r["height"], r[f"{name}tap_row"]), (r["window"], r[f"{name}tap_pixel"])


def _written(r: Reach, height: int, width: int) -> None:
    """Taps that are written out are those of the window."""
    r.needs(height in (1, r["height"]) and width in (1, r["window"]), "taps are the window's")


def _pooled(r: Reach, item: int) -> None:
    r.reads("source", item * lanes_of(r), *walk(r, "source"), *_taps(r))
    r.writes("target", item * lanes_of(r), *walk(r, "target"))


@reaches(max_pool, PoolRecord)
def _reach_max(r: Reach, kind: str, height: int, width: int) -> None:
    _written(r, height, width)
    _pooled(r, 1 if kind == "u8" else 4)


@reaches(sum_pool, PoolRecord)
def _reach_sum(r: Reach) -> None:
    _pooled(r, 1)
    r.reads("scale", 8, *walk(r, "scale"))


@reaches(average_pool, PoolRecord)
def _reach_average(r: Reach) -> None:
    _pooled(r, 4)
    r.reads("scale", 8, *walk(r, "scale"))


@reaches(pool_gradient, PoolGradientRecord)
def _reach_gradient(r: Reach, kind: str, height: int = 1, width: int = 1) -> None:
    _written(r, height, width)
    size = 4 * lanes_of(r)
    r.reads("other", size, *walk(r, "other"), *(_taps(r, "other_") if kind == "taps" else ()))
    if kind == "max":
        r.reads("source", size, *walk(r, "source"), *_taps(r))
    if kind == "mean":
        r.reads("scale", 8, *walk(r, "scale"))
    r.writes("target", size, *walk(r, "target"), *_taps(r, "target_"))


def max_kernel(kind: str, window: tuple[int, ...]) -> Kernel:
    """See `max_pool`: windows of few taps have kernels of their own."""
    height, width = written_out(window)
    return Kernel.of(max_pool, kind=kind, height=height, width=width)


def written_out(window: tuple[int, ...]) -> tuple[int, int]:
    """How many taps of a window are written out at a time (see `max_pool`)."""
    height, width = window
    if height * width <= UNROLLED:
        return height, width
    return 1, width if width <= UNROLLED else 1


SUM = Kernel.of(sum_pool)
AVERAGE = Kernel.of(average_pool)


def gradient_kernel(kind: str, window: tuple[int, ...]) -> Kernel:
    """See `pool_gradient`."""
    if kind != "max":
        return Kernel.of(pool_gradient, kind=kind)
    height, width = written_out(window)
    return Kernel.of(pool_gradient, kind=kind, height=height, width=width)

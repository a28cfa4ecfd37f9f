"""The program's frame: NCHW arrays in and out, and the halos around images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches, up
from ...schedule.records import Header
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa
from .grid import LANES, GridRecord, Row, grid, walk


@dataclass(frozen=True, kw_only=True)
class PlanarRecord(GridRecord):
    """Between planes (NCHW) and pixels (NHWC). `channels` are the pixels' padded ones.

    plane       address of element (0, 0) of image 0's channel 0; plane_image, plane_channel and
                plane_row are its strides in bytes, its items are contiguous along a row
    planes      how many channels there are; the pixels' others get the zero point (or 0)
    target      the pixels (their source, for `to_planes`), channels multiple of 4 (u8) or 1 (f32)
    scale, zero, lo, hi   as FloatRecord
    flip        128 to turn s8 planes into u8 pixels or back, else 0 ('u8')
    """

    plane: int
    plane_image: int
    plane_channel: int
    plane_row: int
    planes: int
    scale: float = 1.0
    zero: int = 0
    lo: int = 0
    hi: int = 255
    flip: int = 0


@dataclass(frozen=True, kw_only=True)
class HaloRecord(Header):
    """Fill the border of each image with a byte; chunks == images.

    target      address of image 0, halo included; `image` bytes to the next
    rows, row   all rows of an image, and bytes from one to the next
    top, bottom   rows of border; left, right   bytes of border in the other rows; `width` bytes
                a row holds, borders included
    """

    target: int
    image: int
    rows: int
    row: int
    width: int
    top: int
    bottom: int
    left: int
    right: int
    value: int


def from_planes(isa: Isa, kind: str):
    """NCHW -> NHWC. kind: 'quantize' (float32 to u8), 'u8' (bytes), 'f32' (float32)."""
    from ..codegen.emit import F32, I8, I32, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        item, element = (1, I8) if kind == "u8" else (4, F32)
        zero = row.field("zero")
        convert = e.quantizer(row.field)
        flip = b.trunc(row.field("flip"), I32)
        planes, pixel = row.field("planes"), row.field("target_pixel")
        source, target = row.base("plane"), row.base("target")
        last = b.sub(planes, e.i64(1))

        def load(channel: Any, x: Any, n: int) -> Any:
            """n items of a channel; a channel that is not there reads the last one."""
            there = b.icmp_signed("<", channel, planes)
            plane = e.mul(b.select(there, channel, last), row.field("plane_channel"))
            at = e.add(e.add(source, plane), e.mul(x, item))
            return e.load(at, vec(element, n)), there

        def quad(x: Any, c: Any, n: int) -> None:
            """Four channels of n pixels, as words."""
            lanes = vec(I32, n)
            word = e.vector(I32, 0, n)
            for i in range(4):
                value, there = load(e.add(c, i), x, n)
                if kind == "quantize":
                    value = convert(value, n)
                else:
                    value = b.xor(b.zext(value, lanes), e.splat(flip, n))
                value = b.select(there, value, e.splat(b.trunc(zero, I32), n))
                word = b.or_(word, b.shl(b.and_(value, e.vector(I32, 255, n)),
                                         e.vector(I32, 8 * i, n)))  # fmt: skip
            e.scatter(word, e.add(e.add(target, e.mul(x, pixel)), c), pixel)

        def single(x: Any, c: Any, n: int) -> None:
            value, there = load(c, x, n)
            value = b.select(there, value, e.vector(F32, 0.0, n))
            e.scatter(value, e.add(e.add(target, e.mul(x, pixel)), e.mul(c, 4)), pixel)

        body, step = (single, 1) if kind == "f32" else (quad, 4)

        def channel(c: Any, _: list[Any]) -> list[Any]:
            e.span(row.field("width"), LANES, lambda x, n: body(x, c, n))
            return []

        e.loop(e.i64(0), row.field("channels"), step, [], channel)

    return grid(isa, PlanarRecord, emit_row)


def to_planes(isa: Isa, kind: str):
    """NHWC -> NCHW. kind: 'dequantize' (u8 to float32), 'u8' (bytes), 'f32' (float32)."""
    from ..codegen.emit import F32, F64, I8, I32, vec

    def emit_row(row: Row) -> None:
        e, b = row.e, row.e.b
        planes, pixel = row.field("planes"), row.field("target_pixel")
        target, source = row.base("plane"), row.base("target")
        zero, flip = b.trunc(row.field("zero"), I32), b.trunc(row.field("flip"), I32)
        scale = b.fptrunc(row.field("scale", F64), F32)
        item = 1 if kind == "u8" else 4

        def store(value: Any, c: Any, x: Any) -> None:
            plane = e.mul(c, row.field("plane_channel"))
            e.store(value, e.add(e.add(target, plane), e.mul(x, item)))

        def quad(x: Any, c: Any, n: int) -> None:
            word = e.gather(I32, e.add(e.add(source, e.mul(x, pixel)), c), pixel, n)
            for i in range(4):
                with b.if_then(b.icmp_signed("<", e.add(c, i), planes)):
                    byte = b.and_(b.lshr(word, e.vector(I32, 8 * i, n)), e.vector(I32, 255, n))
                    if kind == "u8":
                        value = b.trunc(b.xor(byte, e.splat(flip, n)), vec(I8, n))
                    else:
                        value = b.sitofp(b.sub(byte, e.splat(zero, n)), vec(F32, n))
                        value = b.fmul(value, e.splat(scale, n))
                    store(value, e.add(c, i), x)

        def single(x: Any, c: Any, n: int) -> None:
            at = e.add(e.add(source, e.mul(x, pixel)), e.mul(c, 4))
            store(e.gather(F32, at, pixel, n), c, x)

        body, step = (single, 1) if kind == "f32" else (quad, 4)

        def channel(c: Any, _: list[Any]) -> list[Any]:
            e.span(row.field("width"), LANES, lambda x, n: body(x, c, n))
            return []

        e.loop(e.i64(0), planes, step, [], channel)

    return grid(isa, PlanarRecord, emit_row)


def halo(isa: Isa):
    """Fill borders; see HaloRecord."""
    from ..codegen import vector as v

    fill, word = v.fill, v.load_i64
    at = {name: 8 * HaloRecord.at(name) for name in HaloRecord.__dataclass_fields__}
    target_, image_, rows_, row_ = at["target"], at["image"], at["rows"], at["row"]
    width_, top_, bottom_ = at["width"], at["top"], at["bottom"]
    left_, right_, value_ = at["left"], at["right"], at["value"]

    def body(d, chunk):
        at = word(d + target_) + chunk * word(d + image_)
        stride, width = word(d + row_), word(d + width_)
        left, right, value = word(d + left_), word(d + right_), word(d + value_)
        rows, top = word(d + rows_), word(d + top_)
        below = rows - word(d + bottom_)
        for y in range(rows):
            line = at + y * stride
            if y < top or y >= below:
                fill(line, value, width)
            else:
                fill(line, value, left)
                fill(line + width - right, value, right)

    return Chunked(body)


# ---- what they reach ---------------------------------------------------------------------------


def _planes(r: Reach, item: int) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Bytes of a plane's row, and the loops over planes."""
    images, rows, _ = walk(r, "target")
    return (item * r["width"], (images[0], r["plane_image"]), (rows[0], r["plane_row"]),
            (r["planes"], r["plane_channel"]))  # fmt: skip


@reaches(from_planes, PlanarRecord)
def _reach_from_planes(r: Reach, kind: str) -> None:
    r.needs(r["planes"] > 0, "there is a channel")
    r.reads("plane", *_planes(r, 1 if kind == "u8" else 4))
    size = 4 * r["channels"] if kind == "f32" else up(r["channels"], 4)
    r.writes("target", size, *walk(r, "target"))


@reaches(to_planes, PlanarRecord)
def _reach_to_planes(r: Reach, kind: str) -> None:
    r.writes("plane", *_planes(r, 1 if kind == "u8" else 4))
    r.reads("target", 4 * r["planes"] if kind == "f32" else up(r["planes"], 4), *walk(r, "target"))


@reaches(halo, HaloRecord)
def _reach_halo(r: Reach) -> None:
    lines = (r["chunks"], r["image"]), (r["rows"], r["row"])
    r.writes("target", r["width"], *lines)
    r.writes("target", r["left"], *lines)
    right = r["width"] - r["right"]
    r.writes("target", r["right"], *lines, start=(right, right))


def from_planes_kernel(kind: str) -> Kernel:
    """See `from_planes`."""
    return Kernel.of(from_planes, kind=kind)


def to_planes_kernel(kind: str) -> Kernel:
    """See `to_planes`."""
    return Kernel.of(to_planes, kind=kind)


HALO = Kernel.of(halo)

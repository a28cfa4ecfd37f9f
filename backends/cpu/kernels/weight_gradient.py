"""The gradient of a convolution's weights: for each tap and input channel, the sum over all pixels
of an input element times the vector of the result's gradients there.

Both images are channels last, the input with its border, so that a kernel row (or a tap, see
`conv.runs_of`) is one run of elements from a pixel on. A tile is `rows` elements of a run times one
vector of output channels, in registers while a block of image rows goes by; between blocks it is in
memory. Blocks are small enough for the second-level cache, where all tiles pass over them. Threads
share blocks, each with sums of its own that are added up in the end, or tiles.

Depthwise a tile is all taps of a window (or of a kernel row) times a vector of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ...schedule.records import Header
from ..codegen.chunked import Chunked
from ..codegen.emit import F32, Emit, Value, vec
from ..codegen.isa import Isa
from .tile import Fields


@dataclass(frozen=True, kw_only=True)
class WeightGradientRecord(Header):
    """chunks == splits * tile_chunks, tiles fastest; strides in bytes.

    source, source_*   the input, as ConvRecord's
    other, other_*     the gradient of the result
    tiles       address of int64[tiles][3]: bytes from a pixel to the tile's elements in the input
                and in the gradient, and from `target` to the tile's sums
    chunk_tiles, tile_count, tile_chunks
    blocks      of images: row_blocks an image, block_rows each; chunk_blocks a split
    rows, width   of the result's image
    tap_row, tap_pixel   bytes from a tap to the next (depthwise)
    target      sums, target_split bytes for each split
    """

    source: int
    source_row: int
    source_pixel: int
    source_image: int
    other: int
    other_row: int
    other_pixel: int
    other_image: int
    tiles: int
    chunk_tiles: int
    tile_count: int
    tile_chunks: int
    blocks: int
    row_blocks: int
    block_rows: int
    chunk_blocks: int
    rows: int
    width: int
    target: int
    target_split: int
    tap_row: int = 0
    tap_pixel: int = 0


class Place(Fields):
    """The record's words."""

    record = WeightGradientRecord


def weight_gradient(isa: Isa, rows: int, taps: int):
    """Build the kernel for tiles of so many vectors: elements of a run, or depthwise taps, so many
    in a kernel row (0: no taps)."""
    from ..codegen import vector as v

    def emit(e: Emit, d: Value, *place: Value) -> None:
        _tile(e, d, rows, taps, *place)

    tile = v.emitted(isa, 6, emit)
    word, smaller = v.load_i64, v.smaller
    at = {name: 8 * WeightGradientRecord.at(name)
          for name in WeightGradientRecord.__dataclass_fields__}  # fmt: skip
    source_, source_row_, source_image_ = at["source"], at["source_row"], at["source_image"]
    other_, other_row_, other_image_ = at["other"], at["other_row"], at["other_image"]
    tiles_, chunk_tiles_, tile_count_ = at["tiles"], at["chunk_tiles"], at["tile_count"]
    tile_chunks_, blocks_, row_blocks_ = at["tile_chunks"], at["blocks"], at["row_blocks"]
    block_rows_, chunk_blocks_, rows_ = at["block_rows"], at["chunk_blocks"], at["rows"]
    target_, target_split_ = at["target"], at["target_split"]

    def body(d, chunk):
        tile_chunks = word(d + tile_chunks_)
        split = chunk // tile_chunks
        first = (chunk - split * tile_chunks) * word(d + chunk_tiles_)
        last = smaller(first + word(d + chunk_tiles_), word(d + tile_count_))
        start = split * word(d + chunk_blocks_)
        end = smaller(start + word(d + chunk_blocks_), word(d + blocks_))
        target = word(d + target_) + split * word(d + target_split_)
        block = start
        while block < end:
            image = block // word(d + row_blocks_)
            row = (block - image * word(d + row_blocks_)) * word(d + block_rows_)
            count = smaller(word(d + block_rows_), word(d + rows_) - row)
            source = word(d + source_) + image * word(d + source_image_)
            source += row * word(d + source_row_)
            other = word(d + other_) + image * word(d + other_image_) + row * word(d + other_row_)
            k = first
            while k < last:
                spot = word(d + tiles_) + 24 * k
                tile(
                    d,
                    source + word(spot),
                    other + word(spot + 8),
                    target + word(spot + 16),
                    count,
                    block - start,
                )
                k += 1
            block += 1

    return Chunked(body)


def _tile(
    e: Emit, d: Value, rows: int, taps: int, source: Value, other: Value, target: Value,
    count: Value, done: Value,
) -> None:  # fmt: skip
    """Add `count` image rows to the sums at `target`, which begin at 0 where nothing is done."""
    b, place, kind, size = e.b, Place(e, d), vec(F32, e.n), 4 * e.n
    zero = e.vector(F32, 0.0)
    fresh = b.icmp_signed("==", done, e.i64(0))
    sums = [b.select(fresh, zero, e.load(e.add(target, size * i), kind, size))
            for i in range(rows)]  # fmt: skip
    steps = {name: place.field(name) for name in
             ("source_row", "source_pixel", "other_row", "other_pixel")}  # fmt: skip
    element = _element(e, place, taps)

    def pixel(_: Value, carried: list[Value]) -> list[Value]:
        x, dy, *accs = carried
        vector = e.load(dy, kind, 4)
        made = [e.fma(element(x, i), vector, acc) for i, acc in enumerate(accs)]
        return [e.add(x, steps["source_pixel"]), e.add(dy, steps["other_pixel"]), *made]

    def row(_: Value, carried: list[Value]) -> list[Value]:
        x, dy, *accs = carried
        made = e.loop(e.i64(0), place.field("width"), 1, [x, dy, *accs], pixel)[2:]
        return [e.add(x, steps["source_row"]), e.add(dy, steps["other_row"]), *made]

    _, _, *sums = e.loop(e.i64(0), count, 1, [source, other, *sums], row)
    for i, value in enumerate(sums):
        e.store(value, e.add(target, size * i), size)


def _element(e: Emit, place: Place, taps: int) -> Callable[[Value, int], Value]:
    """(address, i) -> what a gradient is multiplied by for element i of a tile."""
    if not taps:
        return lambda x, i: e.splat(e.load(e.add(x, 4 * i), F32))
    tap_row, tap_pixel = place.field("tap_row"), place.field("tap_pixel")

    def tap(x: Value, i: int) -> Value:
        y, z = divmod(i, taps)
        at = e.add(x, e.add(e.mul(tap_row, y), e.mul(tap_pixel, z)))
        return e.load(at, vec(F32, e.n), 4)

    return tap


@reaches(weight_gradient, WeightGradientRecord)
def _reach(r: Reach, rows: int, taps: int) -> None:
    r.needs(min(r["tile_chunks"], r["row_blocks"]) > 0, "work is shared out in chunks")
    size = 4 * r.target.lanes
    splits, images = -(-r["chunks"] // r["tile_chunks"]), -(-r["blocks"] // r["row_blocks"])
    source, other, target = r.offsets("tiles", r["tile_count"], 3)

    def pixel(name: str) -> list[tuple[int, int]]:
        return [(images, r[f"{name}_image"]), (r["rows"], r[f"{name}_row"]),
                (r["width"], r[f"{name}_pixel"])]  # fmt: skip

    if taps:
        window = (-(-rows // taps), r["tap_row"]), (min(rows, taps), r["tap_pixel"])
        r.reads("source", size, *pixel("source"), *window, start=source)
    else:
        r.reads("source", 4 * rows, *pixel("source"), start=source)
    r.reads("other", size, *pixel("other"), start=other)
    r.writes("target", size * rows, (splits, r["target_split"]), start=target)


def kernel(rows: int, taps: int = 0) -> Kernel:
    """See `weight_gradient`."""
    return Kernel.of(weight_gradient, rows=rows, taps=taps)

"""What the kernels that walk over pixels share: records, and rows of 16-channel vectors.

A *grid* is images x rows x width x channels. Each buffer has its own image, row and pixel strides
in bytes, so halos, channel ranges of wider buffers and broadcasting (a stride of 0) cost nothing.
Channels are a multiple of 16. Where all pixel strides equal the channels' bytes and no parameter
is per channel, `flatten` turns a row into one long pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...schedule.reach import Loop, Reach, up
from ...schedule.records import Header
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa

LANES = 16


@dataclass(frozen=True, kw_only=True)
class GridRecord(Header):
    """chunks == images * row_chunks; target is where pixel (0, 0) of image 0 goes."""

    row_chunks: int
    chunk_rows: int
    rows: int
    width: int
    channels: int
    target: int
    target_image: int = 0
    target_row: int = 0
    target_pixel: int = 0


def walk(r: Reach, name: str) -> tuple[Loop, Loop, Loop]:
    """The loops over images, rows and pixels, as buffer `name` moves in them."""
    r.needs(r["row_chunks"] > 0, "rows are shared out in chunks")
    images = -(-r["chunks"] // r["row_chunks"])
    return ((images, r[f"{name}_image"]), (r["rows"], r[f"{name}_row"]),
            (r["width"], r[f"{name}_pixel"]))  # fmt: skip


def lanes_of(r: Reach) -> int:
    """The channels that a grid's kernels touch: whole vectors."""
    return up(r["channels"], LANES)


def share(rows: int, images: int, threads: int, grain: int = 1) -> dict[str, int]:
    """The fields chunks, row_chunks, chunk_rows: a few chunks a thread, at least `grain` rows."""
    wanted = max(1, min(rows // grain, -(-4 * threads // images))) if threads > 1 else 1
    chunk_rows = -(-rows // wanted)
    row_chunks = -(-rows // chunk_rows)
    return {"chunks": images * row_chunks, "row_chunks": row_chunks, "chunk_rows": chunk_rows}


def flatten(width: int, channels: int, pixels: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, channels) as one long pixel when every (pixel stride, item size) is contiguous."""
    if all(stride == channels * item for stride, item in pixels):
        return 1, width * channels
    return width, channels


class Row:
    """One row of a grid while its code is emitted."""

    def __init__(self, e: Any, record: type[Header], d: Any, image: Any, row: Any):
        self.e, self.d, self.image, self.row = e, d, image, row
        self.x: Any = None  # the pixel, within `vectors`
        self.words = {name: i for i, name in enumerate(record.__dataclass_fields__)}

    def field(self, name: str, kind: Any = None) -> Any:
        """A word of the record: i64, or `kind`'s bits."""
        return self.e.field(self.d, self.words[name], *(() if kind is None else (kind,)))

    def base(self, name: str) -> Any:
        """The address of the row's first pixel in buffer `name`."""
        e = self.e
        at = e.add(self.field(name), e.mul(self.image, self.field(f"{name}_image")))
        return e.add(at, e.mul(self.row, self.field(f"{name}_row")))

    def vectors(self, body: Callable[[Callable[[str, int], Any], Any], None]) -> None:
        """body(at, c) for each 16-channel vector: at(name, item bytes) is its address, c its
        first channel."""
        e = self.e
        names = [n for n in self.words if f"{n}_pixel" in self.words]
        bases = {n: (self.base(n), self.field(f"{n}_pixel")) for n in names}

        def pixel(x: Any, _: list[Any]) -> list[Any]:
            self.x = x
            starts = {n: e.add(base, e.mul(x, stride)) for n, (base, stride) in bases.items()}

            def vector(c: Any, _: list[Any]) -> list[Any]:
                body(lambda name, item: e.add(starts[name], e.mul(c, item)), c)
                return []

            e.loop(e.i64(0), self.field("channels"), LANES, [], vector)
            return []

        e.loop(e.i64(0), self.field("width"), 1, [], pixel)


def grid(isa: Isa, record: type[GridRecord], emit_row: Callable[[Row], None]) -> Any:
    """A kernel that emits `emit_row` for every row of every image."""
    from ..codegen import vector as v
    from ..codegen.emit import Emit

    def emit(e: Any, d: Any, image: Any, row: Any) -> None:
        emit_row(Row(Emit(e.b, isa, LANES), record, d, image, row))

    one = v.emitted(isa, 3, emit)
    word, smaller = v.load_i64, v.smaller
    row_chunks_, chunk_rows_ = 8 * record.at("row_chunks"), 8 * record.at("chunk_rows")
    rows_ = 8 * record.at("rows")

    def body(d, chunk):
        image = chunk // word(d + row_chunks_)
        row = (chunk - image * word(d + row_chunks_)) * word(d + chunk_rows_)
        last = smaller(row + word(d + chunk_rows_), word(d + rows_))
        while row < last:
            one(d, image, row)
            row += 1

    return Chunked(body)

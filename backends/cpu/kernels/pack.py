"""Packing a computed matrix into the panels that the product kernel reads.

float32: `[panel][k][columns]`; bytes: `[panel][k / group][columns][group]`, with zeros for rows
past the last. Columns past the last hold zeros too. Any strides: whole panels of columns that lie
side by side are copied (bytes: four rows interleaved), panels whose rows do are transposed in
registers, and what is neither is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches, up
from ...schedule.records import Header
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa

SPOT = 2  # words of a batch: offsets of source and target


@dataclass(frozen=True, kw_only=True)
class PackRecord(Header):
    """chunks == batches * panels, panels fastest; strides in bytes.

    spots     address of int64[batches][SPOT]
    source    b[k, n] at source + k * source_row + n * source_column
    flip      what bytes are exclusive-ored with (128 turns u8 into s8)
    """

    spots: int
    source: int
    source_row: int
    source_column: int
    target: int
    depth: int
    columns: int
    panels: int
    panel_bytes: int
    flip: int = 0


def pack(isa: Isa, vectors: int, kind: str, order: str):
    """Build a packing kernel.

    kind    'f32' or 'byte'
    order   'rows': elements of a row of b are side by side; 'columns': of a column; 'any'
    """
    from ..codegen import vector as v
    from ..codegen.emit import I8, I32
    from . import pack_emit

    word, smaller = v.load_i64, v.smaller
    group = isa.group if kind == "byte" else 1
    item = 1 if kind == "byte" else 4
    width = vectors * isa.lanes
    at = {name: 8 * PackRecord.at(name) for name in PackRecord.__dataclass_fields__}
    spots_, source_, row_, column_ = (
        at[n] for n in ("spots", "source", "source_row", "source_column")
    )
    target_, depth_, columns_ = at["target"], at["depth"], at["columns"]
    panels_, bytes_, flip_ = at["panels"], at["panel_bytes"], at["flip"]
    held = I8 if item == 1 else I32

    def move(e, source, target, flip):
        value = e.load(source, held)
        e.store(e.b.xor(value, e.b.trunc(flip, held)) if item == 1 else value, target)

    def zero(e, target):
        e.store(held(0), target)

    one, nothing = v.emitted(isa, 3, move), v.emitted(isa, 1, zero)
    fast, depth_step = pack_emit.block(isa, vectors, kind, order)
    block = v.emitted(isa, 5, fast) if fast else None
    step = group * item * width

    @v.inline
    def single(source, target, row, column, k, j, depth, columns, flip):
        # Element k of column j, in its place of the panel.
        place = target + (k // group) * step + j * group * item + k % group
        if k < depth and j < columns:
            one(source + k * row + j * column, place, flip)
        else:
            nothing(place)

    def body(d, chunk):
        panels = word(d + panels_)
        batch = chunk // panels
        panel = chunk - batch * panels
        spot = word(d + spots_) + 8 * SPOT * batch
        row, column, depth = word(d + row_), word(d + column_), word(d + depth_)
        source = word(d + source_) + word(spot) + panel * width * column
        target = word(d + target_) + word(spot + 8) + panel * word(d + bytes_)
        columns = smaller(word(d + columns_) - panel * width, width)
        flip = word(d + flip_)
        k = 0
        if block is not None and columns == width:
            while k + depth_step <= depth:
                block(source + k * row, target + (k // group) * step, row, column, flip)
                k += depth_step
        whole = (depth + group - 1) // group * group
        while k < whole:
            for j in range(width):
                single(source, target, row, column, k, j, depth, columns, flip)
            k += 1

    return Chunked(body)


@reaches(pack, PackRecord)
def _reach(r: Reach, vectors: int, kind: str, order: str) -> None:
    r.needs(r["panels"] > 0, "there is a panel")
    item, group = (1, r.target.group) if kind == "byte" else (4, 1)
    width, depth, columns = vectors * r.target.lanes, r["depth"], r["columns"]
    sources, targets = r.offsets("spots", -(-r["chunks"] // r["panels"]), SPOT)
    row, column = r["source_row"], r["source_column"]
    r.reads("source", item, (depth, row), (columns, column), start=sources)
    if order == "rows" and columns >= width:  # whole vectors of columns
        r.reads("source", item * columns, (depth, row), start=sources)
    if order == "columns" and columns >= width:
        r.reads("source", item * depth, (columns, column), start=sources)
    size = up(depth, group) * width * item
    r.writes("target", size, (r["panels"], r["panel_bytes"]), start=targets)


def kernel(vectors: int, kind: str, order: str) -> Kernel:
    """The packing kernel of a variant."""
    return Kernel.of(pack, vectors=vectors, kind=kind, order=order)

"""Matrix products on register tiles: rows of A by panels of packed columns of B, in batches.

A's last axis is contiguous; its rows, and the result's, are apart by any stride. B is packed in
panels of `vectors * lanes` columns, `[step][vector][lane][group]`, at compile time where it is
known and by `pack` kernels where it is not; float32 columns that lie side by side can be read where
they are, since the bytes between two steps are a word of the record.

The tile is the convolution's (see `conv`): `rows x vectors` accumulators. Rows that are missing
repeat the last one. Columns that are missing, in the last panel, are computed from whatever the
panel holds there and thrown away: the tile then goes to the stack and only its columns that exist
are copied, so that nothing outside the result is ever written.
"""

from __future__ import annotations

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa
from .conv_record import BYTES
from .product_record import SPOT, Form, ProductRecord
from .stairs import STAIRS


def product(
    isa: Isa, rows: int, vectors: int, out: str, residual: bool, activation: str, bias: bool,
    bounded: bool, row_scaled: bool, terms: int,
):  # fmt: skip
    """Build the product kernel with a tile of rows x (vectors * isa.lanes); see `Form`."""
    from ..codegen import vector as v
    from .product_tile import ProductTile

    form = Form(out, residual, activation, bias, bounded, row_scaled, terms)
    shape = ProductTile.of(isa, rows, vectors, form)
    tile = v.emitted(isa, 10, shape.emit)
    word, smaller = v.load_i64, v.smaller
    width, item = vectors * isa.lanes, shape.item
    at = {name: 8 * ProductRecord.at(name) for name in ProductRecord.__dataclass_fields__}
    panel_chunks_, row_chunks_ = at["panel_chunks"], at["row_chunks"]
    chunk_panels_, chunk_rows_ = at["chunk_panels"], at["chunk_rows"]
    panels_, rows_, columns_, spots_ = at["panels"], at["rows"], at["columns"], at["spots"]
    source_, source_row_, weights_ = at["source"], at["source_row"], at["weights"]
    panel_bytes_, target_, target_row_ = at["panel_bytes"], at["target"], at["target_row"]
    other_, other_row_ = at["other"], at["other_row"]

    def body(d, chunk):
        panel_chunks = word(d + panel_chunks_)
        row_chunks = word(d + row_chunks_)
        block = chunk // panel_chunks
        batch = block // row_chunks
        first = (block - batch * row_chunks) * word(d + chunk_rows_)
        panel = (chunk - block * panel_chunks) * word(d + chunk_panels_)
        last = smaller(first + word(d + chunk_rows_), word(d + rows_))
        end = smaller(panel + word(d + chunk_panels_), word(d + panels_))
        spot = word(d + spots_) + 8 * SPOT * batch
        source = word(d + source_) + word(spot)
        weights = word(d + weights_) + word(spot + 8)
        target = word(d + target_) + word(spot + 16)
        other = word(d + other_) + word(spot + 24)
        index, terms = word(spot + 32), word(spot + 40)
        while panel < end:
            row = first
            while row < last:
                tile(
                    d,
                    source + row * word(d + source_row_),
                    weights + panel * word(d + panel_bytes_),
                    target + row * word(d + target_row_) + panel * (width * item),
                    other + row * word(d + other_row_),
                    index + row,
                    panel * width,
                    terms + panel * width,
                    last - row,
                    word(d + columns_) - panel * width,
                )
                row += rows
            panel += 1

    return Chunked(body)


@reaches(product, ProductRecord)
def _reach(
    r: Reach, rows: int, vectors: int, out: str, residual: bool, activation: str, bias: bool,
    bounded: bool, row_scaled: bool, terms: int,
) -> None:  # fmt: skip
    r.needs(min(r["row_chunks"], r["panel_chunks"]) > 0, "work is shared out in chunks")
    group, item = 4 if out == "float" else r.target.group, BYTES[out]
    panels, count = r["panels"], r["rows"]
    wide = vectors * r.target.lanes
    whole, batches = panels * wide, -(-r["chunks"] // (r["row_chunks"] * r["panel_chunks"]))
    source, weights, target, other, row, term = r.offsets("spots", batches, SPOT)
    r.reads("source", r["steps"] * group, (count, r["source_row"]), start=source)
    r.reads("weights", wide * group, (panels, r["panel_bytes"]), (r["steps"], r["weights_step"]),
            start=weights)  # fmt: skip
    r.writes("target", min(r["columns"], whole) * item, (count, r["target_row"]), start=target)
    if residual:
        r.reads("other", whole * item, (count, r["other_row"]), start=other)
    if bias:
        r.reads("bias", 4 * whole)
    if item == 1:
        r.reads("scale", 8 * whole)
    elif out == "f32" or activation == "prelu":
        r.reads("scale", 4 * whole)
    parameters = [("row_scale", "row_scale_step")] if row_scaled else []
    if row_scaled:
        r.reads("offset", 4 * whole)
    for name in ("first", "second")[:terms]:
        parameters.append((f"{name}_row_term", f"{name}_row_step"))
        r.reads(f"{name}_column_term", 4 * whole, start=(4 * term[0], 4 * term[1]))
    for name, step in parameters:
        start = sorted(index * r[step] for index in row)
        r.reads(name, 4, (count, r[step]), start=(start[0], start[1]))
    if out in ("lut", "stairs"):
        r.reads("table", r["hi"] - r["lo"] + 1 if out == "lut" else STAIRS)


def kernel(tile: tuple[int, int], form: Form) -> Kernel:
    """The product kernel with this tile."""
    return Kernel.of(
        product, rows=tile[0], vectors=tile[1], out=form.out, residual=form.residual,
        activation=form.activation, bias=form.bias, bounded=form.bounded and form.out == "u8",
        row_scaled=form.row_scaled, terms=form.terms,
    )  # fmt: skip

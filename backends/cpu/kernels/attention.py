"""Attention without the matrix of scores: softmax(scale * q @ k^T + mask) @ v, block by block.

FlashAttention-2 (Dao, 2023): a tile of query rows walks over blocks of keys and keeps, for each
row, the largest score m so far, the sum of e^(score - m), and the weighted sum of values O. A block
with a larger score multiplies what was summed before by alpha = e^(m - m'). Scores of one block, O
and the rows' numbers are in the kernel's frame and stay in the first-level cache; memory grows with
the length, not with its square.

Keys and values are packed as the product kernel's panels (`pack`), once for all the rows and query
heads that share them. The tile of `scaled_attention` works on bytes, with the same walk.
"""

from __future__ import annotations

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches, up
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa
from .attention_record import GROUPED, SPOT, AttentionRecord


def attention(isa: Isa, rows: int, block: int, panels: int, masked: bool, capped: bool, real: bool):
    """Build the kernel for tiles of so many rows, blocks of so many vectors of keys, and panels of
    values; real: of float32, else of bytes."""
    from ..codegen import vector as v
    from .attention_tile import AttentionTile
    from .scaled_attention import ScaledTile

    kind = AttentionTile if real else ScaledTile
    tile = kind(isa, rows, block, panels, masked, capped)
    frame = v.emitted(isa, 0, lambda e: e.stack(tile.at.size, 64), True)
    clear = v.emitted(isa, 1, tile.clear)
    scores = v.emitted(isa, 7, tile.scores)
    soften = v.emitted(isa, 9, tile.soften)
    gather = v.emitted(isa, 4, tile.gather)
    finish = v.emitted(isa, 6, tile.finish)
    word, smaller = v.load_i64, v.smaller
    at = {name: 8 * AttentionRecord.at(name) for name in AttentionRecord.__dataclass_fields__}
    spots_, queries_, queries_row_ = at["spots"], at["queries"], at["queries_row"]
    keys_, key_panel_, values_ = at["keys"], at["key_panel"], at["values"]
    value_panel_ = at["value_panel"]
    target_, target_row_, rows_ = at["target"], at["target_row"], at["rows"]
    chunk_rows_, row_chunks_, length_ = at["chunk_rows"], at["row_chunks"], at["length"]
    ahead_, mask_, mask_row_ = at["ahead"], at["mask"], at["mask_row"]
    wide, most = 2 * isa.lanes, block * isa.lanes
    value_row, panel_size = tile.value_row, rows * tile.at.wide
    output = tile.at.output

    def body(d, chunk):
        row_chunks = word(d + row_chunks_)
        head = chunk // row_chunks
        row = (chunk - head * row_chunks) * word(d + chunk_rows_)
        last = smaller(row + word(d + chunk_rows_), word(d + rows_))
        spot = word(d + spots_) + 8 * SPOT * head
        queries = word(d + queries_) + word(spot)
        keys = word(d + keys_) + word(spot + 8)
        values = word(d + values_) + word(spot + 16)
        target = word(d + target_) + word(spot + 24)
        mask = word(d + mask_) + word(spot + 32)
        scratch = frame()
        while row < last:
            left = smaller(last - row, rows)
            clear(scratch)
            start = 0
            end = smaller(word(d + length_), row + left - 1 + word(d + ahead_))
            while start < end:
                count = smaller(end - start, most)
                column = 0
                while column < count:
                    scores(
                        d,
                        spot,
                        queries + row * word(d + queries_row_),
                        keys + (start + column) // wide * word(d + key_panel_),
                        scratch + 4 * column,
                        left,
                        start + column,
                    )
                    column += wide
                soften(
                    d,
                    spot,
                    scratch,
                    mask + row * word(d + mask_row_) + 4 * start,
                    row + word(d + ahead_) - start,
                    smaller(word(d + length_) - start, most),
                    left,
                    row,
                    start,
                )
                panel = 0
                while panel < panels:
                    place = values + panel * word(d + value_panel_) + start * value_row
                    gather(scratch, place, scratch + output + panel * panel_size, count)
                    panel += 1
                start += most
            finish(d, spot, scratch, target + row * word(d + target_row_), left, row)
            row += rows

    return Chunked(body)


@reaches(attention, AttentionRecord)
def _reach(
    r: Reach, rows: int, block: int, panels: int, masked: bool, capped: bool, real: bool
) -> None:
    r.needs(r["row_chunks"] > 0, "rows are shared out in chunks")
    heads, lanes, count = -(-r["chunks"] // r["row_chunks"]), r.target.lanes, r["rows"]
    length, wide = r["length"], 2 * lanes
    r.needs(r["columns"] <= panels * wide, "the frame has room for a row of the result")
    group, item = (1, 4) if real else (r.target.group, 1)
    depth = up(r["depth"], group) * item
    queries, keys, values, target, mask, scales, facts, unit = r.offsets("spots", heads, SPOT)
    r.reads("queries", depth, (count, r["queries_row"]), start=queries)
    r.reads("keys", depth * wide, (-(-length // wide), r["key_panel"]), start=keys)
    r.reads("values", up(length, group) * wide * item, (panels, r["value_panel"]), start=values)
    r.writes("target", 4 * r["columns"], (count, r["target_row"]), start=target)
    seen = up(length, lanes if real else GROUPED * lanes)
    if masked:
        r.reads("mask", 4 * seen, (count, r["mask_row"]), start=mask)
    if not real:
        r.reads("row_scale", 4, (count, r["row_scale_step"]), start=scales)
        r.reads("facts", 4 * max(seen, up(length, wide)), (3, r["fact_row"]), start=facts)
        r.reads("units", 4, start=unit)


def kernel(
    rows: int, block: int, panels: int, masked: bool, capped: bool = False, real: bool = True
) -> Kernel:
    """The kernel of a variant."""
    return Kernel.of(
        attention, rows=rows, block=block, panels=panels, masked=masked, capped=capped, real=real
    )

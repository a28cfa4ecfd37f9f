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

from dataclasses import dataclass

from ...schedule.reach import Reach, reaches, up
from ...schedule.records import Header
from ..codegen.isa import Isa
from ..codegen.jit import Chunked, Kernel

SPOT = 8  # words of a head: offsets of queries, keys, values, target, mask (scales, facts, unit)
BLOCK = 8  # vectors of scores a row and block, at most
GROUPED = 4  # vectors of scores of bytes that are worked on together
SINCE = 1 << 40  # `ahead` where every query sees all keys


@dataclass(frozen=True, kw_only=True)
class AttentionRecord(Header):
    """chunks == heads * row_chunks, rows fastest; strides in bytes.

    spots       address of int64[heads][SPOT]
    queries, queries_row; depth   rows of q, and their length
    keys, key_panel     packed k^T: panels of 2 vectors of keys
    values, value_panel   packed v; panels of 2 vectors of columns
    target, target_row; columns    the result's rows, and their length
    rows, chunk_rows, row_chunks   queries and how they are shared out
    length      keys; query i sees keys j < i + ahead
    mask, mask_row     float32 added to the scores (variants with a mask)
    scale, cap  factor of the scores; cap * tanh(score / cap)

    Of bytes:
    row_scale, row_scale_step   queries' scales
    facts, fact_row   of keys, see `keys`; a row for each kind
    units       what heads' values are in
    """

    spots: int
    queries: int
    queries_row: int
    depth: int
    keys: int
    key_panel: int
    values: int
    value_panel: int
    target: int
    target_row: int
    columns: int
    rows: int
    chunk_rows: int
    row_chunks: int
    length: int
    ahead: int = SINCE
    mask: int = 0
    mask_row: int = 0
    scale: float = 1.0
    cap: float = 1.0
    row_scale: int = 0
    row_scale_step: int = 0
    facts: int = 0
    fact_row: int = 0
    units: int = 0


@dataclass(frozen=True)
class Scratch:
    """Where things are in the kernel's frame: scores of a block, m and alpha and sums of rows, O.

    All rows of a tile, one after another; O by panels of values."""

    isa: Isa
    rows: int
    block: int
    panels: int

    @property
    def pitch(self) -> int:
        """Bytes of a row of scores."""
        return 4 * self.isa.lanes * self.block

    @property
    def wide(self) -> int:
        """Bytes of a row of a panel."""
        return 8 * self.isa.lanes

    @property
    def tops(self) -> int:
        return self.rows * self.pitch

    @property
    def alphas(self) -> int:
        return self.tops + self.numbers

    @property
    def sums(self) -> int:
        return self.alphas + self.numbers

    @property
    def numbers(self) -> int:
        """Bytes of a number of each row, in whole vectors."""
        return 64 * -(-4 * self.rows // 64)

    @property
    def output(self) -> int:
        return self.sums + 4 * self.isa.lanes * self.rows

    @property
    def size(self) -> int:
        return self.output + self.panels * self.rows * self.wide


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
    heads, lanes, count = -(-r["chunks"] // r["row_chunks"]), r.isa.lanes, r["rows"]
    length, wide = r["length"], 2 * lanes
    r.needs(r["columns"] <= panels * wide, "the frame has room for a row of the result")
    group, item = (1, 4) if real else (r.isa.group, 1)
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

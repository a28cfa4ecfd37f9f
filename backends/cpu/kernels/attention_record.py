"""The record of attention and the layout of its kernel's frame (see `attention`)."""

from __future__ import annotations

from dataclasses import dataclass

from ...schedule.records import Header
from ..codegen.isa import Isa

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

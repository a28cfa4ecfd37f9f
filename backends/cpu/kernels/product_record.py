"""The record of a matrix product and the variants of its kernel (see `product`)."""

from __future__ import annotations

from dataclasses import dataclass

from ...schedule.records import Header

SPOT = 6  # words of a batch (see `ProductRecord.spots`)


@dataclass(frozen=True, kw_only=True)
class ProductRecord(Header):
    """Batches of products; all strides are in bytes.

    chunks == batches * row_chunks * panel_chunks, panels fastest.
    spots       address of int64[batches][SPOT]: what is added to the addresses source, weights,
                target and other (bytes), and to the index of a row and of a column in the arrays
                of rows' parameters and of column terms
    source, source_row    A
    steps       dot steps: columns of A, or groups of them
    weights, weights_step, panel_bytes   packed B, and from one step and one panel to the next
    rows, columns         of the result
    chunk_rows, row_chunks, chunk_panels, panel_chunks, panels   how work is split
    bias        address of int32 or float32[panels * width]; 0: none
    scale       address of float64 (u8, lut) or float32 (f32) [panels * width]
    offset      'f32': address of float32[panels * width] added after scaling
    target, target_row, other, other_row   the result and a residual operand
    alpha       'float': factor of the sum
    row_scale   'f32': address of a float32 factor for each row
    *_row_term, *_column_term   addresses of int32s whose products are added to the sum
    *_step      bytes from one row's parameter to the next one's
    zero, lo, hi, other_zero, other_scale, table, low, high   as ConvRecord's
    """

    spots: int
    source: int
    source_row: int
    steps: int
    weights: int
    weights_step: int
    panel_bytes: int
    rows: int
    columns: int
    chunk_rows: int
    row_chunks: int
    chunk_panels: int
    panel_chunks: int
    panels: int
    target: int
    target_row: int
    bias: int = 0
    scale: int = 0
    offset: int = 0
    other: int = 0
    other_row: int = 0
    alpha: float = 1.0
    row_scale: int = 0
    row_scale_step: int = 4
    first_row_term: int = 0
    first_row_step: int = 4
    first_column_term: int = 0
    second_row_term: int = 0
    second_row_step: int = 4
    second_column_term: int = 0
    zero: int = 0
    lo: int = 0
    hi: int = 255
    other_zero: int = 0
    other_scale: float = 0.0
    table: int = 0
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Form:
    """A variant of the product kernel.

    out         'float' (all float32), or of u8 x s8: 's32' sums, 'f32' sums * column scale
                [* row scale] + offset, 'u8' requantized, 'lut' and 'stairs' requantized to an index
                of `table`
    residual    add the other operand before the activation ('u8', 'lut': before rounding)
    activation  of 'float' and 'f32': a name of `emit_math.ACTIVATIONS`
    bias        'float': added after alpha; integers: the sums begin with it
    bounded     'u8': see `conv.is_bounded`
    row_scaled  'f32': a factor for each row
    terms       0, 1 or 2 products of a row's and a column's int32 added to the sums
    """

    out: str
    residual: bool = False
    activation: str = "clamp"
    bias: bool = False
    bounded: bool = False
    row_scaled: bool = False
    terms: int = 0

"""The record of a convolution: what `conv` and its register tile are told."""

from __future__ import annotations

from dataclasses import dataclass

from ...schedule.records import Header

BYTES = {"u8": 1, "lut": 1, "stairs": 1, "s32": 4, "f32": 4, "float": 4}
"""Of an element of the result, by epilogue."""


@dataclass(frozen=True, kw_only=True)
class ConvRecord(Header):
    """One convolution (or the part of it done with one tile shape); all strides are in bytes.

    chunks == images * pixel_chunks * panel_chunks, panels fastest.
    source      address of the first tap of output pixel (0, 0) of image 0 (halo included)
    source_*    what moves it by one output row, one output pixel, one image
    taps, runs  address of int64[runs] offsets of the runs
    steps       dot steps a run: run bytes / isa.step
    width, pixels         output width; output pixels of an image
    chunk_pixels, pixel_chunks, chunk_panels, panel_chunks, panels   how work is split
    group_panels, group_source   the panels of one group, and the bytes from a group's input
                channels to the next one's (one group: panels, 0)
    group_channels, group_last   'ragged': output channels from one group to the next, and where in
                this part of a group the last vector starts
    weights     address of packed weights (64-byte aligned); panel_bytes each panel's size
    bias        address of int32[panels * lanes * vectors]
                (float: float32)
    scale       address of float64 multipliers m_c * 2^-shift (u8, lut) or float32 (f32; float:
                slopes)
    target      address of output pixel (0, 0), first channel of this part
    zero, lo, hi          of the result (u8) or of the table's index (lut: index = value - lo;
                stairs: the value itself, see `stairs`)
    other*      residual operand, its zero point and multiplier * 2^-shift
    table       address of the lut's bytes, hi - lo + 1 of them, or of `staircase`'s
    owners, step_owners   'joined': addresses of int32s, the group of each output channel (as bias)
                and of each step of a run
    low, high   parameters of a float result's activation (clamp: the bounds)
    """

    source: int
    source_row: int
    source_pixel: int
    source_image: int
    taps: int
    runs: int
    steps: int
    width: int
    pixels: int
    chunk_pixels: int
    pixel_chunks: int
    chunk_panels: int
    panel_chunks: int
    panels: int
    group_panels: int
    group_source: int
    group_channels: int
    group_last: int
    weights: int
    panel_bytes: int
    bias: int
    scale: int
    target: int
    target_row: int
    target_pixel: int
    target_image: int
    zero: int = 0
    lo: int = 0
    hi: int = 255
    other: int = 0
    other_row: int = 0
    other_pixel: int = 0
    other_image: int = 0
    other_zero: int = 0
    other_scale: float = 0.0
    table: int = 0
    owners: int = 0
    step_owners: int = 0
    low: float = float("-inf")
    high: float = float("inf")

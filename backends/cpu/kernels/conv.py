"""Convolution and matrix product as one implicit GEMM over register tiles.

The input is u8 NHWC with a halo, so the bytes that one output pixel needs from one input row are
contiguous: a KxK convolution is KH *runs* of KW*C bytes, each a plain GEMM inner loop from another
address. `taps` lists the runs' offsets from the pixel's first byte, so dilation (a run per tap) and
groups (shorter runs) need no code of their own, and a fully connected layer is one run.

A tile is `pixels x (vectors * lanes)` int32 accumulators in registers. Its pixels are consecutive
in the image's row-major order and wrap over row ends, so no image width is special. Tails repeat
the last pixel. The epilogue (bias, requantize, residual, table) runs while they are in registers.

Weights: s8 [panel][run][step][vector][lane][group], panels of vectors*lanes output channels, a step
being `isa.group` input bytes of one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ..codegen.chunked import Chunked
from ..codegen.isa import Isa
from .conv_record import BYTES, ConvRecord
from .stairs import STAIRS
from .tiling import Case, Tiling, Tilings


def conv(
    isa: Isa,
    pixels: int,
    vectors: int,
    out: str,
    residual: str,
    activation: str,
    bounded: bool,
    ragged: bool,
    joined: bool,
):
    """Build a convolution kernel.

    pixels, vectors   the register tile
    out        of u8 x s8: 'u8' requantized; 's32' accumulator + bias; 'f32' (accumulator + bias)
               * scale in single precision; 'lut' requantized to an index into `table`;
               'stairs' (AVX-512 VBMI, bounded) the same through a staircase.
               'float': everything is float32, fused multiply-adds, bias, residual, activation
    residual   '' for none; 'first': 'u8', 'lut': add (other - other_zero) * other_scale before
               rounding, 'float': add other before the activation; 'last' ('float'): after it
    activation of 'float': a name of `emit_math.ACTIVATIONS`; the slopes of 'prelu' are in `scale`
    bounded    'u8': every rescaled sum is known to fit 32 bits (see `is_bounded`)
    ragged     the channels of a group are no whole panels
    joined     'float': groups are joined with zeros for what they do not share
    """
    from ..codegen import vector as v
    from .joined import ApartTile, WatchedTile
    from .tile import Tile

    rest = (vectors, out, residual, activation, bounded, ragged)
    kind = WatchedTile if joined else Tile
    tile = v.emitted(isa, 7, kind(isa, pixels, *rest).emit, joined)
    if joined:
        tile = _watched(tile, v.emitted(isa, 7, ApartTile(isa, 1, *rest).emit), pixels)
    word, smaller = v.load_i64, v.smaller
    at = {name: 8 * ConvRecord.at(name) for name in ConvRecord.__dataclass_fields__}
    panel_chunks_, pixel_chunks_ = at["panel_chunks"], at["pixel_chunks"]
    chunk_panels_, chunk_pixels_ = at["chunk_panels"], at["chunk_pixels"]
    panels_, pixels_, width_ = at["panels"], at["pixels"], at["width"]
    group_panels_ = at["group_panels"]

    def body(d, chunk):
        panel_chunks = word(d + panel_chunks_)
        pixel_chunks = word(d + pixel_chunks_)
        block = chunk // panel_chunks
        image = block // pixel_chunks
        first = (block - image * pixel_chunks) * word(d + chunk_pixels_)
        panel = (chunk - block * panel_chunks) * word(d + chunk_panels_)
        last = smaller(first + word(d + chunk_pixels_), word(d + pixels_))
        end = smaller(panel + word(d + chunk_panels_), word(d + panels_))
        width = word(d + width_)
        top = first // width
        start = first - top * width
        while panel < end:
            group = panel // word(d + group_panels_)
            left = last - first
            y, x = top, start
            while left > 0:
                tile(d, image, panel, group, y, x, left)
                left -= pixels
                x += pixels
                while x >= width:
                    x -= width
                    y += 1
            panel += 1

    return Chunked(body)


def _watched(tile: Any, pixel: Any, pixels: int) -> Any:
    """The tile, and once more pixel by pixel where it found NaN (see `joined`)."""
    from ..codegen import vector as v

    word, smaller, width_ = v.load_i64, v.smaller, 8 * ConvRecord.at("width")

    @v.inline
    def watched(d, image, panel, group, y, x, left):
        if tile(d, image, panel, group, y, x, left) != 0:
            count = smaller(left, pixels)
            while count > 0:
                pixel(d, image, panel, group, y, x, count)
                count -= 1
                x += 1
                if x == word(d + width_):
                    x = 0
                    y += 1

    return watched


@reaches(conv, ConvRecord)
def _reach(
    r: Reach, pixels: int, vectors: int, out: str, residual: str, activation: str, bounded: bool,
    ragged: bool, joined: bool,
) -> None:  # fmt: skip
    chunks = r["pixel_chunks"] * r["panel_chunks"]
    r.needs(min(chunks, r["width"], r["group_panels"]) > 0, "sizes are 1 or more")
    images, panels, lanes = -(-r["chunks"] // chunks), r["panels"], r.target.lanes
    rows, width = -(-r["pixels"] // r["width"]), min(r["width"], r["pixels"])
    groups = -(-panels // r["group_panels"])

    def pixel(name: str) -> list[tuple[int, int]]:
        return [(images, r[f"{name}_image"]), (rows, r[f"{name}_row"]), (width, r[f"{name}_pixel"])]

    step = 4 if out == "float" else r.target.group
    taps = r.offsets("taps", r["runs"], 1)[0]
    r.reads("source", r["steps"] * step, *pixel("source"), (groups, r["group_source"]), start=taps)
    whole = panels * vectors * lanes
    r.reads("weights", r["runs"] * r["steps"] * vectors * lanes * step, (panels, r["panel_bytes"]))
    r.reads("bias", 4 * whole)
    if out in ("u8", "lut", "stairs"):
        r.reads("scale", 8 * whole)
    elif out == "f32" or activation == "prelu":
        r.reads("scale", 4 * whole)
    if joined:
        r.reads("owners", 4 * whole)
        r.reads("step_owners", 4 * r["steps"])
    # The first channels of vectors. A group's last one overlaps the one before where its channels
    # are no whole vectors, and may begin before those of this part.
    item, last, by_group = BYTES[out], whole - lanes, []
    if ragged:
        last = min((r["group_panels"] * vectors - 1) * lanes, r["group_last"])
        by_group = [(groups, r["group_channels"] * item)]
    first = (min(0, last) * item, last * item)
    r.writes("target", lanes * item, *pixel("target"), *by_group, start=first)
    if residual:
        r.reads("other", lanes * item, *pixel("other"), *by_group, start=first)
    if out in ("lut", "stairs"):
        r.reads("table", r["hi"] - r["lo"] + 1 if out == "lut" else STAIRS)


def kernel(
    pixels: int,
    vectors: int,
    out: str = "u8",
    residual: str = "",
    activation: str = "clamp",
    bounded: bool = False,
    ragged: bool = False,
    joined: bool = False,
) -> Kernel:
    """The convolution kernel with this tile and epilogue; see `conv`."""
    return Kernel.of(
        conv,
        pixels=pixels,
        vectors=vectors,
        out=out,
        residual=residual,
        activation=activation,
        bounded=bounded,
        ragged=ragged,
        joined=joined,
    )


def is_bounded(scale: np.ndarray, reach: np.ndarray, other_scale: float = 0.0) -> bool:
    """Does any accumulator up to `reach` times `scale`, plus any (u8 - u8) times `other_scale`, fit
    in int32?"""
    largest = np.max(reach * np.abs(scale), initial=0.0)
    return bool(largest + 255 * abs(other_scale) < 2.0**31 - 1)


def reach(weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """For s8 weights [N, ...], bounds of the accumulators of u8 inputs, which wrap at int32."""
    rows = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(1)
    return np.minimum(255.0 * rows + np.abs(bias.astype(np.float64)), 2.0**31)


@dataclass(frozen=True)
class Part:
    """The output channels of a layer that one kernel call computes.

    channel     first output channel, a multiple of isa.lanes
    weights, bias, scale, taps   arrays to place at 64-byte aligned addresses; the record points
                at them
    fields      the record's words that do not depend on addresses, ready for ConvRecord(**...)
    """

    kernel: Kernel
    channel: int
    weights: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    taps: np.ndarray
    fields: dict[str, int]
    owners: Owners | None = None


class Owners(NamedTuple):
    """Which of the groups that are joined has each output channel, and each channel of the input;
    int32s."""

    rows: np.ndarray
    channels: np.ndarray


def prepare(
    weights: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray | None,
    isa: Isa,
    *,
    row: int,
    pixel: int,
    size: tuple[int, int],
    images: int = 1,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    out: str = "u8",
    residual: str = "",
    threads: int = 1,
    tile: tuple[int, int] | None = None,
    activation: str = "clamp",
    other_scale: float | None = None,
    tilings: Tilings | None = None,
    tiling: Tiling | None = None,
    owners: Owners | None = None,
) -> list[Part]:
    """Choose tiles, pack weights and split the work of one layer.

    weights   s8 or float32 [N, KH, KW, C]: C is the physical channel count of one group's input
    bias      int32[N], zero points folded in (`-x_zero * sum(w)`), or float32[N]
    scale     float64[N], m_c * 2^-shift (float32 for 'f32', and the slopes of 'prelu'); or None
    row, pixel   bytes between rows and pixels of the input buffer (not times the stride)
    size      output height and width
    other_scale   the record's, if residual; not given, the slower unbounded epilogue is chosen
    tiling      how to cut the layer, or `tilings` where that is looked up; else by heuristics
    owners        where groups of a float layer are joined
    The result covers N rounded up to whole vectors; with groups N exactly, each of which needs a
    vector's channels at least (see `merge_groups`).
    """
    n, height, width, channels = weights.shape
    item = weights.dtype.itemsize
    taps, length = runs_of((height, width), dilation, row, pixel, channels * item)
    flat = weights.reshape(n, len(taps), length // item)
    factors = np.zeros(n) if scale is None else scale
    real = np.float32 if out in ("f32", "float") else np.float64
    known = other_scale is not None or not residual
    bounded = out == "u8" and known and is_bounded(factors, reach(flat, bias), other_scale or 0.0)
    if item == 1:
        bias = fold_signed(flat, bias, isa)
    pixels = size[0] * size[1]
    if tilings is not None:
        case = Case(
            (n, height, width, channels), item, pixel, size, images, groups, dilation, out,
            residual, activation, bounded and out == "u8",
        )  # fmt: skip
        tiling = tilings.find(case, isa)
    if tiling is not None:
        tile = tiling.tile
    parts = []
    for share in choose(n, pixels, groups, isa, tile, out == "float"):
        shape, rows = share.tile, share.rows
        wide = shape[1] * isa.lanes
        panels = -(-len(rows) // wide)
        packed = pack_weights(flat[rows], shape[1], isa)
        tiles = -(-pixels // shape[0])
        chunk_tiles, chunk_panels = split(
            tiles, images, panels, threads, shape[0] * pixel, packed.size // panels
        )
        if tiling is not None and shape == tiling.tile:
            chunk_tiles, chunk_panels = min(tiles, tiling.tiles), min(panels, tiling.panels)
        chunk_pixels = chunk_tiles * shape[0]
        pixel_chunks, panel_chunks = -(-pixels // chunk_pixels), -(-panels // chunk_panels)
        fields = {
            "chunks": images * pixel_chunks * panel_chunks,
            "runs": len(taps),
            "steps": -(-length // (4 if item == 4 else isa.group)),
            "width": size[1],
            "pixels": pixels,
            "chunk_pixels": chunk_pixels,
            "pixel_chunks": pixel_chunks,
            "chunk_panels": chunk_panels,
            "panel_chunks": panel_chunks,
            "panels": panels,
            "group_panels": panels // groups,
            "group_source": channels * item if groups > 1 else 0,
            "group_channels": n // groups,
            "group_last": n // groups - isa.lanes - share.channel,
            "panel_bytes": packed.size // panels,
        }
        parts.append(
            Part(
                kernel(*shape, out, residual, activation, bounded, share.ragged, bool(owners)),
                share.channel,
                packed,
                _padded(bias[rows], panels * wide, np.int32 if item == 1 else np.float32),
                _padded(factors[rows], panels * wide, real),
                taps,
                fields,
                owners
                and Owners(
                    _padded(owners.rows[rows], panels * wide, np.int32),
                    np.tile(owners.channels, length // item // channels),
                ),
            )
        )
    return parts


class Share(NamedTuple):
    """The output channels that one part computes: `rows` in the order of its panels' lanes, the
    first of them `channel`."""

    channel: int
    rows: np.ndarray
    tile: tuple[int, int]
    ragged: bool = False


def choose(
    channels: int,
    pixels: int,
    groups: int,
    isa: Isa,
    tile: tuple[int, int] | None = None,
    real: bool = False,
) -> list[Share]:
    """The parts of a layer, whole tiles first."""
    tiles = isa.float_tiles if real else isa.tiles
    lanes, per = isa.lanes, channels // groups
    vectors = -(-per // lanes)
    tile = tile or best_tile(pixels, vectors, tiles)
    single = next(t for t in tiles if t[1] == 1)
    whole = vectors // tile[1] * tile[1]
    parts = []
    for start, stop, shape in ((0, whole, tile), (whole, vectors, single)):
        if start == stop:
            continue
        if groups == 1:
            rows = np.arange(start * lanes, min(channels, stop * lanes))
        else:
            rows = overlapped(groups, per, start, stop, lanes)
        ragged = groups > 1 and (per % lanes != 0 or stop - start < vectors)
        parts.append(Share(start * lanes, rows, shape, ragged))
    return parts


def overlapped(groups: int, per: int, start: int, stop: int, lanes: int) -> np.ndarray:
    """The channels in vectors start..stop of every group, `per` to a group; the last vector ends
    with the group and repeats channels of the one before."""
    first = np.minimum(np.arange(start, stop) * lanes, per - lanes)
    rows = np.arange(groups)[:, None, None] * per + first[:, None] + np.arange(lanes)
    return rows.reshape(-1)


def best_tile(pixels: int, vectors: int, tiles: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The tile that wastes least; the table's order breaks ties."""
    if pixels == 1:
        return next(t for t in tiles if t[0] == 1)

    def waste(tile: tuple[int, int]) -> float:
        tall, wide = tile
        return -(-pixels // tall) * tall / pixels * (1.0 if vectors % wide == 0 else 1.1)

    # A tile wider than the layer would leave all of it to the narrow tile for rests.
    fitting = [t for t in tiles if t[0] > 1 and 1 < t[1] <= max(vectors, 2)]
    return min(fitting, key=waste)


NEAR = 256 << 10  # bytes of input that should stay in a core's second-level cache


def split(
    tiles: int, images: int, panels: int, threads: int, tile_bytes: int, panel_bytes: int
) -> tuple[int, int]:
    """(tiles a chunk, panels a chunk).

    Sharing out pixels makes every thread read all weights, sharing out panels all of the input:
    the smaller is shared by all. Chunks are few a thread, but enough to balance and to take over
    from a thread that is delayed. A chunk's input stays near while its panels go by.
    """
    near = max(1, min(tiles, NEAR // max(1, tile_bytes))) if panels > 1 else tiles
    if threads == 1:
        return near, panels
    rows = [(t, panels) for t in range(near, 0, -1)]
    columns = [(near, p) for p in range(panels, 0, -1)]
    by_pixels = images * tiles * tile_bytes >= panels * panel_bytes
    options = rows + columns if by_pixels else columns + rows
    options += [(t, p) for t in (-(-tiles // 2), -(-tiles // 4), 1) for p in range(panels, 0, -1)]

    def loss(option: tuple[int, int]) -> float:
        t, p = option
        chunks = images * -(-tiles // t) * -(-panels // p)
        longest = -(-chunks // threads) * t * p
        return longest * threads / (images * tiles * panels) - 1

    def chunks(option: tuple[int, int]) -> int:
        return images * -(-tiles // option[0]) * -(-panels // option[1])

    for least, most in ((4, 0.03), (2, 0.03), (1, 0.03), (1, 0.1)):
        for option in options:
            if chunks(option) >= least * threads and loss(option) <= most:
                return option
    return min(options, key=loss)


def _padded(values: np.ndarray, count: int, kind: type) -> np.ndarray:
    out = np.zeros(count, kind)
    out[: len(values)] = values
    return out


def pack_weights(weights: np.ndarray, vectors: int, isa: Isa) -> np.ndarray:
    """[N, runs, items of a run in the input's order], s8 or float32 -> bytes of packed weights.

    N is padded with zeros to whole panels, a run to whole steps.
    """
    n, runs, length = weights.shape
    width, group = vectors * isa.lanes, isa.group if weights.dtype == np.int8 else 1
    panels, steps = -(-n // width), -(-length // group)
    padded = np.zeros((panels * width, runs, steps * group), weights.dtype)
    padded[:n, :, :length] = weights
    split = padded.reshape(panels, vectors, isa.lanes, runs, steps, group)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 1, 2, 5)).reshape(-1).view(np.uint8)


def fold_signed(weights: np.ndarray, bias: np.ndarray, isa: Isa) -> np.ndarray:
    """The bias for `isa`: s8 x s8 dot products see x - 128, so 128 * sum(w) goes back in."""
    if not isa.signed:
        return bias
    total = weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
    return (bias.astype(np.int64) + 128 * total).astype(np.int32)


def runs_of(
    kernel: Sequence[int], dilation: Sequence[int], row: int, pixel: int, channels: int
) -> tuple[np.ndarray, int]:
    """(int64 offsets of the runs, bytes a run) of a kernel over a buffer with these strides.

    A run is a whole kernel row when it is contiguous, one tap otherwise (dilation, groups).
    """
    (height, width), (down, right) = kernel, dilation
    if width == 1 or (right == 1 and channels == pixel):
        return np.arange(height, dtype=np.int64) * (down * row), width * channels
    y, x = np.mgrid[:height, :width]
    return (y * (down * row) + x * (right * pixel)).reshape(-1).astype(np.int64), channels

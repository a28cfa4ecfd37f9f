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

import numpy as np

from ..isa import Isa
from ..jit import Kernel
from ..records import Header


@dataclass(frozen=True, kw_only=True)
class ConvRecord(Header):
    """One convolution (or the part of it done with one tile shape); all strides are in bytes.

    chunks == images * pixel_chunks * panel_chunks, panels fastest.
    source      address of the first tap of output pixel (0, 0) of image 0 (halo included)
    source_*    what moves it by one output row, one output pixel, one image
    taps, runs  address of int64[runs] offsets of the runs
    steps       dot steps a run (run bytes / group)
    width, pixels         output width; output pixels of an image
    chunk_pixels, pixel_chunks, chunk_panels, panel_chunks, panels   how work is split
    group_panels, group_source   the panels of one group, and the bytes from a group's input
                channels to the next one's (one group: panels, 0)
    weights     address of packed weights (64-byte aligned); panel_bytes each panel's size
    bias        address of int32[panels * lanes * vectors]
    scale       address of float64 multipliers m_c * 2^-shift (u8, lut) or float32 (f32)
    target      address of output pixel (0, 0), first channel of this part
    zero, lo, hi          of the result (u8) or of the table's index (lut: index = value - lo)
    other*      residual operand, its zero point and multiplier * 2^-shift
    table       address of the lut's bytes, hi - lo + 1 of them, 3 more readable
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


def conv(isa: Isa, pixels: int, vectors: int, out: str, residual: bool):
    """Build a convolution kernel.

    pixels, vectors   the register tile
    out        'u8': requantized; 's32': accumulator + bias; 'f32': (accumulator + bias) * scale
               in single precision; 'lut': requantized to an index into `table`
    residual   add (other - other_zero) * other_scale before rounding ('u8' only)
    """
    from .. import vector as v

    tile = v.emitted(isa, 5, _Tile(isa, pixels, vectors, out, residual).emit)
    word, smaller = v.load_i64, v.smaller
    at = {name: 8 * ConvRecord.at(name) for name in ConvRecord.__dataclass_fields__}
    panel_chunks_, pixel_chunks_ = at["panel_chunks"], at["pixel_chunks"]
    chunk_panels_, chunk_pixels_ = at["chunk_panels"], at["chunk_pixels"]
    panels_, pixels_ = at["panels"], at["pixels"]

    @v.inline
    def body(d, chunk):
        panel_chunks = word(d + panel_chunks_)
        pixel_chunks = word(d + pixel_chunks_)
        block = chunk // panel_chunks
        image = block // pixel_chunks
        first = (block - image * pixel_chunks) * word(d + chunk_pixels_)
        panel = (chunk - block * panel_chunks) * word(d + chunk_panels_)
        last = smaller(first + word(d + chunk_pixels_), word(d + pixels_))
        end = smaller(panel + word(d + chunk_panels_), word(d + panels_))
        while panel < end:
            pixel = first
            while pixel < last:
                tile(d, image, panel, pixel, last)
                pixel += pixels
            panel += 1

    return v.driver(body)


@dataclass(frozen=True)
class _Tile:
    """Emits one register tile: prologue (row addresses), dot loop, epilogue."""

    isa: Isa
    pixels: int
    vectors: int
    out: str
    residual: bool

    def emit(self, e, d, image, panel, pixel, last) -> None:
        from .. import vector as v

        b, n, isa = e.b, e.n, self.isa
        words = {name: i for i, name in enumerate(ConvRecord.__dataclass_fields__)}

        def field(name, kind=v.I64):
            return e.field(d, words[name], kind)

        width = field("width")
        y = b.sdiv(pixel, width)
        x = b.srem(pixel, width)
        moves = self._moves(e, x, pixel, last, width)
        source = self._addresses(e, field, "source", image, y, x, moves)
        group = e.mul(b.sdiv(panel, field("group_panels")), field("group_source"))
        source = [e.add(row, group) for row in source]

        weights = e.add(field("weights"), e.mul(panel, field("panel_bytes")))
        steps, taps = field("steps"), field("taps")
        size = self.isa.lanes * isa.group
        kind = e.vector(v.I32, 0)
        accs = [kind] * (self.pixels * self.vectors)

        def run(i, carried):
            offset = e.load(e.add(taps, e.mul(i, 8)), v.I64, 8)

            def step(at, inner):
                w_at, *acc = inner
                ws = [e.weight_step(e.add(w_at, j * size)) for j in range(self.vectors)]
                new = []
                for i, row in enumerate(source):
                    value = e.input_step(e.add(row, at))
                    for j, w in enumerate(ws):
                        new.append(e.dot(acc[i * self.vectors + j], value, w))
                return [e.add(w_at, self.vectors * size), *new]

            stop = e.add(offset, e.mul(steps, isa.group))
            return e.loop(offset, stop, isa.group, carried, step)

        _, *accs = e.loop(e.i64(0), field("runs"), 1, [weights, *accs], run)

        first = e.mul(panel, self.vectors * n)
        target = self._addresses(e, field, "target", image, y, x, moves)
        self._epilogue(e, field, accs, first, target, image, y, x, moves)

    def _moves(self, e, x, pixel, last, width):
        """(wraps to the next row, stays: the chunk has ended) between neighbours in the tile."""
        b, moves = e.b, []
        for i in range(1, self.pixels):
            x = e.add(x, 1)
            wraps = b.icmp_signed("==", x, width)
            x = b.select(wraps, e.i64(0), x)
            moves.append((wraps, b.icmp_signed(">=", e.add(pixel, i), last)))
        return moves

    def _addresses(self, e, field, name, image, y, x, moves):
        """The address of each of the tile's pixels in buffer `name`."""
        b = e.b
        row, pixel = field(f"{name}_row"), field(f"{name}_pixel")
        at = e.add(field(name), e.mul(image, field(f"{name}_image")))
        at = e.add(at, e.add(e.mul(y, row), e.mul(x, pixel)))
        back = b.sub(row, b.mul(pixel, b.sub(field("width"), e.i64(1))))
        addresses = [at]
        for wraps, stays in moves:
            at = e.add(at, b.select(stays, e.i64(0), b.select(wraps, back, pixel)))
            addresses.append(at)
        return addresses

    def _epilogue(self, e, field, accs, first, target, image, y, x, moves) -> None:
        from .. import vector as v

        b, n, half = e.b, e.n, e.n // 2
        bytes_ = {"u8": 1, "lut": 1, "s32": 4, "f32": 4}[self.out]
        bias = e.add(field("bias"), e.mul(first, 4))
        scale = e.add(field("scale"), e.mul(first, 4 if self.out == "f32" else 8))
        requantized = self.out in ("u8", "lut")
        if requantized:
            zero, lo, hi = (field(name) for name in ("zero", "lo", "hi"))
            low, high = (
                e.splat(b.fadd(b.sitofp(b.sub(q, zero), v.F64), e.number(v.MAGIC)), half)
                for q in (lo, hi)
            )
            shift = zero if self.out == "u8" else b.sub(zero, lo)
            zeros = e.splat(b.trunc(shift, v.I32))
        if self.residual:
            other = self._addresses(e, field, "other", image, y, x, moves)
            other_zero = e.splat(field("other_zero", v.I32))
            other_scale = e.splat(field("other_scale", v.F64), half)
        for j in range(self.vectors):
            biases = e.load(e.add(bias, 4 * n * j), ir_vector(v.I32, n), 4)
            if requantized:
                m = e.load_doubles(e.add(scale, 8 * n * j))
            elif self.out == "f32":
                m = e.load(e.add(scale, 4 * n * j), ir_vector(v.F32, n), 4)
            for i in range(self.pixels):
                value = b.add(accs[i * self.vectors + j], biases)
                at = e.add(target[i], e.add(e.mul(first, bytes_), bytes_ * n * j))
                if self.out == "f32":
                    value = b.fmul(b.sitofp(value, ir_vector(v.F32, n)), m)
                elif requantized:
                    terms = [(value, m)]
                    if self.residual:
                        byte = e.load(e.add(other[i], e.add(first, n * j)), ir_vector(v.I8, n))
                        byte = b.sub(b.zext(byte, ir_vector(v.I32, n)), other_zero)
                        terms.append((byte, (other_scale, other_scale)))
                    value = e.requantize(terms, low, high, zeros)
                    if self.out == "lut":
                        value = e.lookup(field("table"), value)
                    value = b.trunc(value, ir_vector(v.I8, n))
                e.store(value, at)


def ir_vector(kind, n):
    """LLVM's <n x kind>."""
    import llvmlite.ir as ir

    return ir.VectorType(kind, n)


def kernel(pixels: int, vectors: int, out: str = "u8", residual: bool = False) -> Kernel:
    """The convolution kernel with this tile and epilogue."""
    return Kernel.of(conv, pixels=pixels, vectors=vectors, out=out, residual=residual)


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


def prepare(
    weights: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray,
    isa: Isa,
    *,
    row: int,
    pixel: int,
    size: tuple[int, int],
    images: int = 1,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    out: str = "u8",
    residual: bool = False,
    threads: int = 1,
    tile: tuple[int, int] | None = None,
) -> list[Part]:
    """Choose tiles, pack weights and split the work of one layer.

    weights   s8[N, KH, KW, C]: C is the physical channel count of one group's input
    bias      int32[N], zero points folded in (`-x_zero * sum(w)`); scale: float64[N] (float32
              values for 'f32', ignored for 's32')
    row, pixel   bytes between rows and pixels of the input buffer (not times the stride)
    size      output height and width
    The result covers N rounded up to whole vectors: with groups, N / groups must be such a
    multiple or `merge_groups` must have been applied.
    """
    n, height, width, channels = weights.shape
    taps, length = runs_of((height, width), dilation, row, pixel, channels)
    flat = weights.reshape(n, len(taps), length)
    bias = fold_signed(flat, bias, isa)
    pixels = size[0] * size[1]
    parts = []
    for channel, count, shape in choose(n, pixels, groups, isa, tile):
        wide = shape[1] * isa.lanes
        panels = -(-count // wide)
        chosen = slice(channel, channel + count)
        packed = pack_weights(flat[chosen], shape[1], isa)
        chunk_pixels, chunk_panels = split(pixels, images, panels, shape[0], threads)
        pixel_chunks, panel_chunks = -(-pixels // chunk_pixels), -(-panels // chunk_panels)
        fields = {
            "chunks": images * pixel_chunks * panel_chunks,
            "runs": len(taps),
            "steps": -(-length // isa.group),
            "width": size[1],
            "pixels": pixels,
            "chunk_pixels": chunk_pixels,
            "pixel_chunks": pixel_chunks,
            "chunk_panels": chunk_panels,
            "panel_chunks": panel_chunks,
            "panels": panels,
            "group_panels": panels // groups,
            "group_source": channels if groups > 1 else 0,
            "panel_bytes": packed.size // panels,
        }
        parts.append(
            Part(
                kernel(*shape, out, residual),
                channel,
                packed,
                _padded(bias[chosen], panels * wide, np.int32),
                _padded(scale[chosen], panels * wide, np.float32 if out == "f32" else np.float64),
                taps,
                fields,
            )
        )
    return parts


def choose(
    channels: int, pixels: int, groups: int, isa: Isa, tile: tuple[int, int] | None = None
) -> list[tuple[int, int, tuple[int, int]]]:
    """(first channel, channels, tile) of each part of a layer, whole tiles first."""
    lanes = isa.lanes
    vectors = -(-channels // groups // lanes)
    if tile is None:
        tile = best_tile(pixels, vectors, isa)
    if groups > 1:
        fitting = [t for t in isa.tiles if (vectors % t[1] == 0 and t[0] > 1) or t[1] == 1]
        return [(0, channels, tile if vectors % tile[1] == 0 else fitting[0])]
    whole = vectors // tile[1] * tile[1] * lanes
    if whole >= channels:
        return [(0, channels, tile)]
    rest = next(t for t in isa.tiles if t[1] == 1)
    head = [(0, whole, tile)] if whole else []
    return [*head, (whole, channels - whole, rest)]


def best_tile(pixels: int, vectors: int, isa: Isa) -> tuple[int, int]:
    """The tile that wastes least; the table's order breaks ties."""
    if pixels == 1:
        return next(t for t in isa.tiles if t[0] == 1)

    def waste(tile: tuple[int, int]) -> float:
        tall, wide = tile
        return -(-pixels // tall) * tall / pixels * (1.0 if vectors % wide == 0 else 1.1)

    return min((t for t in isa.tiles if t[0] > 1 and t[1] > 1), key=waste)


def split(pixels: int, images: int, panels: int, tall: int, threads: int) -> tuple[int, int]:
    """(pixels a chunk, panels a chunk): a few chunks a thread, whole tiles, rows before panels."""
    tiles = -(-pixels // tall)
    wanted = 1 if threads == 1 else 4 * threads
    by_pixels = min(tiles, -(-wanted // images))
    if threads > 1 and by_pixels * images < wanted and panels > 1:
        # Few rows: share out the panels, so that each thread reads its own weights only.
        by_panels = min(panels, wanted)
        return tall * tiles, -(-panels // by_panels)
    return tall * -(-tiles // by_pixels), panels


def _padded(values: np.ndarray, count: int, kind: type) -> np.ndarray:
    out = np.zeros(count, kind)
    out[: len(values)] = values
    return out


def pack_weights(weights: np.ndarray, vectors: int, isa: Isa) -> np.ndarray:
    """s8[N, runs, bytes] (bytes in the input's order) -> u8 view of the packed weights.

    N is padded with zeros to whole panels, a run's bytes to whole steps.
    """
    n, runs, length = weights.shape
    width, group = vectors * isa.lanes, isa.group
    panels, steps = -(-n // width), -(-length // group)
    padded = np.zeros((panels * width, runs, steps * group), np.int8)
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

"""Steps of matrix products: packed columns, tiles, batches (see `kernels.product`).

A product is (..., m, k) @ (..., k, n) with leading axes that broadcast. Leading axes that B does
not have are rows: they are merged into one matrix where strides allow, so that a layer over
[batch, sequence, channels] is one product. The others are batches, each with offsets of its own in
a table of constants, whatever the strides: heads that are split off or transposed need no copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ....ir import Array, DType
from ...schedule.layout import Ref, Tensor, row_major
from ...schedule.steps import Step, Word, record_words
from ..codegen.isa import Isa
from ..kernels import conv, pack, product
from ..kernels.product_record import Form, ProductRecord
from .lowering import Lowering

PAGE, LINE = 4096, 64
DIRECT = 2  # tiles of rows up to which packing float32 columns costs more than it saves


@dataclass(frozen=True)
class Columns:
    """B as the kernel reads it.

    shape     its leading axes, and `strides` between those matrices in bytes
    tensor    where the first panel begins (of bytes or float32)
    """

    tensor: Tensor
    depth: int
    columns: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    vectors: int
    step: int
    panel_bytes: int


@dataclass
class Product:
    """One product with its ending; what is in `fields` goes to the record as it is.

    bias, scale and offset are by column: constants of any length up to whole panels. Parameters of
    rows are row-major tensors of shape (..., m), column terms of (..., n), with the leading axes of
    A and of B.
    """

    form: Form
    bias: Array | Tensor | None = None
    scale: Array | None = None
    offset: Array | None = None
    residual: Tensor | None = None
    fields: dict[str, Word] = field(default_factory=dict)
    reads: list[Tensor] = field(default_factory=list)
    nodes: tuple[str, ...] = ()


# ---- the columns -------------------------------------------------------------------------------


def tile_of(m: int, n: int, isa: Isa, real: bool) -> tuple[int, int]:
    """The register tile for m rows and n columns."""
    tiles = isa.float_tiles if real else isa.tiles
    return conv.best_tile(m, -(-n // isa.lanes), tiles)


def known_columns(low: Lowering, matrix: Array, m: int) -> Columns:
    """A constant B, (k, n), s8 or float32, packed for products of m rows."""
    real = matrix.dtype == np.float32
    k, n = matrix.shape
    vectors = tile_of(m, n, low.isa, real)[1]
    turned = np.ascontiguousarray(matrix.T)[:, None]
    made = conv.pack_weights(turned, vectors, low.isa)
    group = 4 if real else low.isa.group
    step = vectors * low.isa.lanes * group
    panel_bytes = made.size // -(-n // (vectors * low.isa.lanes))
    return Columns(low.place(made), k, n, (), (), vectors, step, panel_bytes)


def packed_columns(
    low: Lowering, b: Tensor, m: int, nodes: tuple[str, ...], flip: int = 0
) -> Columns:
    """A computed B, (..., k, n), f32 or bytes (each exclusive-ored with `flip`)."""
    real, (k, n) = b.dtype is DType.f32, b.shape[-2:]
    rows, vectors = tile_of(m, n, low.isa, real)
    dense = b.strides[-1] == b.item or n == 1
    if real and dense and m <= DIRECT * rows and b.buffer.space in ("arena", "constant"):
        wide = vectors * low.isa.lanes * b.item
        return Columns(b, k, n, b.shape[:-2], b.strides[:-2], vectors, b.strides[-2], wide)
    return packed(low, b, vectors, nodes, flip)


def packed(
    low: Lowering, b: Tensor, vectors: int, nodes: tuple[str, ...], flip: int = 0
) -> Columns:
    """A computed B in panels of so many vectors."""
    real = b.dtype is DType.f32
    (k, n), lead = b.shape[-2:], b.shape[:-2]
    lanes, group = low.isa.lanes, 1 if real else low.isa.group
    dense = b.strides[-1] == b.item or n == 1
    step = vectors * lanes * group * b.item
    panels = -(-n // (vectors * lanes))
    panel_bytes = -(-k // group) * step
    # Axes along which B only repeats are packed once.
    kept = tuple(1 if s == 0 else c for c, s in zip(lead, b.strides[:-2]))
    made = low.new(DType.u8, (*kept, panels * panel_bytes))
    spots = np.stack(
        [offsets(kept, b.strides[:-2]), offsets(kept, made.strides[:-1])], axis=-1
    )  # fmt: skip
    order = "rows" if dense else "columns" if b.strides[-2] == b.item or k == 1 else "any"
    values: dict[str, Word] = {
        "chunks": math.prod(kept) * panels,
        "spots": low.constant(spots),
        "source": b.ref,
        "source_row": b.strides[-2],
        "source_column": b.strides[-1],
        "target": made.ref,
        "depth": k,
        "columns": n,
        "panels": panels,
        "panel_bytes": panel_bytes,
        "flip": flip,
    }
    kernel = pack.kernel(vectors, "f32" if real else "byte", order)
    words = record_words(pack.PackRecord, values)
    low.emit(Step(kernel, words, [b.buffer], [made.buffer], nodes))
    strides = tuple(0 if c == 1 else s for c, s in zip(kept, made.strides[:-1]))
    return Columns(made, k, n, lead, strides, vectors, step, panel_bytes)


def offsets(shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Offsets of all index tuples, in C order."""
    total = np.zeros((), np.int64)
    for n, s in zip(shape, strides):
        total = total[..., None] + np.arange(n, dtype=np.int64) * s
    return total.reshape(-1)


# ---- the product -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operands:
    """Views of one product: a (..., m, k), out and residual (..., m, n), all with out's batches."""

    a: Tensor
    out: Tensor
    residual: Tensor | None
    shape: tuple[int, ...]  # batches
    b_strides: tuple[int, ...]  # bytes between B's matrices
    a_index: tuple[int, ...] = ()  # elements between the batches' parameters of rows
    b_index: tuple[int, ...] = ()  # and of columns


def emit_product(low: Lowering, a: Tensor, b: Columns, out: Tensor, p: Product) -> None:
    """out = a @ b with the ending. a and out have contiguous last axes; reading a beyond its last
    column by less than a group must be allowed (bytes)."""
    a = _apart(low, a, b.columns, p.nodes)
    v = _merged(_operands(a, b, out, p))
    m, n = out_rows(v.out), b.columns
    real, lanes = p.form.out == "float", low.isa.lanes
    item = 4 if real else 1
    rows, vectors = _fitting(m, b.vectors, low.isa, real)
    group = 1 if real else low.isa.group
    count = math.prod(v.shape)
    spots = _spots(v)
    wide = vectors * lanes
    whole, rest = -(-n // wide), 0
    single = next((t for t in (low.isa.float_tiles if real else low.isa.tiles)
                   if t[1] == 1), None)  # fmt: skip
    if vectors == 2 and -(-n // lanes) % 2 and single is not None and m > 1:
        whole, rest = whole - 1, 1
    common: dict[str, Word] = {
        "spots": low.constant(spots),
        "source": v.a.ref,
        "source_row": v.a.strides[-2],
        "steps": -(-b.depth // group),
        "weights": b.tensor.ref,
        "weights_step": b.step,
        "panel_bytes": b.panel_bytes,
        "rows": m,
        "columns": n,
        "target": v.out.ref,
        "target_row": v.out.strides[-2],
        **p.fields,
    }
    reads = [a, b.tensor, *p.reads]
    if v.residual is not None:
        common |= {"other": v.residual.ref, "other_row": v.residual.strides[-2]}
        reads.append(v.residual)
    panels = whole + rest
    for name, kind in (("bias", np.float32 if real else np.int32), ("offset", np.float32),
                       ("scale", np.float32 if p.form.out == "f32" else np.float64)):  # fmt: skip
        given = getattr(p, name)
        if isinstance(given, Tensor):
            common[name] = given.ref
            reads.append(given)
        elif given is not None:
            common[name] = low.constant(_padded(given, panels * wide, kind))
    macs = count * m * n * b.depth
    if whole:
        values = common | {"columns": n if not rest else whole * wide}
        values |= _split(low, m, count, whole, (rows, vectors), b.depth * item, b.panel_bytes)
        _step(low, (rows, vectors), p, values, reads, out, macs)
        macs = 0
    if rest:
        assert single is not None
        values = common | _moved(common, p.form, whole, wide, b)
        values |= {"columns": n - whole * wide}
        values |= _split(low, m, count, 1, single, b.depth * item, b.panel_bytes // 2)
        _step(low, single, p, values, reads, out, macs)


def _apart(low: Lowering, a: Tensor, columns: int, nodes: tuple[str, ...]) -> Tensor:
    """`a`, or a copy with a line more in each row: rows a multiple of a page apart share the same
    few sets of the first-level cache, which costs more than a copy where there are many columns."""
    if a.strides[-2] % PAGE or a.shape[-2] < 64 or columns < 1024:
        return a
    *lead, k = a.shape
    made = low.new(a.dtype, (*lead, k + LINE // a.item)).slice(len(lead), 0, k)
    low.copy(a, made, nodes)
    return made


def out_rows(out: Tensor) -> int:
    return out.shape[-2]


def _step(
    low: Lowering, tile: tuple[int, int], p: Product, values: dict[str, Word],
    reads: list[Tensor], out: Tensor, macs: int,
) -> None:  # fmt: skip
    kernel = product.kernel(tile, p.form)
    words = record_words(ProductRecord, values)
    low.emit(Step(kernel, words, [t.buffer for t in reads], [out.buffer], p.nodes, macs))


def _moved(
    common: dict[str, Word], form: Form, panels: int, wide: int, b: Columns
) -> dict[str, Word]:
    """The fields of the part that begins after so many panels."""
    first, item = panels * wide, 1 if form.out in ("u8", "lut", "stairs") else 4
    sizes = {"target": item, "other": item, "bias": 4, "offset": 4, "first_column_term": 4,
             "second_column_term": 4, "scale": 4 if form.out == "f32" else 8}  # fmt: skip
    moved: dict[str, Word] = {"weights": _plus(common["weights"], panels * b.panel_bytes)}
    for name, size in sizes.items():
        if name in common:
            moved[name] = _plus(common[name], first * size)
    return moved


def _plus(word: Word, more: int) -> Word:
    assert isinstance(word, Ref)
    return word + more


def _fitting(m: int, vectors: int, isa: Isa, real: bool) -> tuple[int, int]:
    """The tile of so many vectors that wastes least of m rows."""
    tiles = [t for t in (isa.float_tiles if real else isa.tiles) if t[1] == vectors]
    return min(tiles, key=lambda t: -(-m // t[0]) * t[0])


def _split(
    low: Lowering, m: int, count: int, panels: int, tile: tuple[int, int], row: int, panel: int
) -> dict[str, Word]:
    tiles = -(-m // tile[0])
    chunk_tiles, chunk_panels = conv.split(tiles, count, panels, low.threads, tile[0] * row, panel)
    row_chunks, panel_chunks = -(-tiles // chunk_tiles), -(-panels // chunk_panels)
    return {
        "chunks": count * row_chunks * panel_chunks,
        "chunk_rows": chunk_tiles * tile[0],
        "row_chunks": row_chunks,
        "chunk_panels": chunk_panels,
        "panel_chunks": panel_chunks,
        "panels": panels,
    }


def _operands(a: Tensor, b: Columns, out: Tensor, p: Product) -> _Operands:
    batch, (m, n) = out.shape[:-2], out.shape[-2:]
    missing = len(batch) - len(b.shape)
    strides = (0,) * missing + tuple(0 if c == 1 else s for c, s in zip(b.shape, b.strides))
    other = None if p.residual is None else p.residual.broadcast((*batch, m, n))
    a_index = _indices((*a.shape[:-2], m), batch)
    b_index = _indices((*b.shape, n), batch)
    wide = a.broadcast((*batch, m, a.shape[-1]))
    return _Operands(wide, out, other, batch, strides, a_index, b_index)


def _indices(shape: Sequence[int], batch: Sequence[int]) -> tuple[int, ...]:
    """Steps over `batch` in a row-major array of `shape`, whose last axis is no batch."""
    steps = row_major(shape, 1)[:-1]
    made = tuple(0 if n == 1 else s for n, s in zip(shape, steps))
    return (0,) * (len(batch) - len(made)) + made


def _merged(v: _Operands) -> _Operands:
    """With batches as rows where B is the same for all of them and strides allow."""
    if any(v.b_strides) or not v.shape:
        return v
    m = math.prod(v.out.shape[:-1])
    made = []
    for t in (v.a, v.out, v.residual):
        if t is None:
            made.append(None)
            continue
        flat = t.reshape((m, t.shape[-1]))
        if flat is None or flat.strides[-1] != t.strides[-1]:
            return v
        made.append(flat)
    return _Operands(made[0], made[1], made[2], (), ())


def _spots(v: _Operands) -> Array:
    count = math.prod(v.shape)
    columns = [
        offsets(v.shape, v.a.strides[:-2]),
        offsets(v.shape, v.b_strides),
        offsets(v.shape, v.out.strides[:-2]),
        np.zeros(count, np.int64) if v.residual is None
        else offsets(v.shape, v.residual.strides[:-2]),
        offsets(v.shape, v.a_index),
        offsets(v.shape, v.b_index),
    ]  # fmt: skip
    return np.stack(columns, axis=-1)


def _padded(values: Array, count: int, kind: type) -> Array:
    """One value for each column, zeros after the last; a single one stands for all."""
    made = np.zeros(count, kind)
    flat = values.reshape(-1)
    if flat.size == 1:
        made[:] = flat[0]
    else:
        made[: flat.size] = flat
    return made


# ---- operands ----------------------------------------------------------------------------------


def dense_rows(low: Lowering, t: Tensor, nodes: tuple[str, ...], slack: int = 0) -> Tensor:
    """`t` with a contiguous last axis, copied only if it must be; `slack`: bytes that may be read
    past the end of a row."""
    lies = t.strides[-1] == t.item or t.shape[-1] == 1
    if lies and (not slack or t.buffer.space in ("arena", "constant")):
        return t
    made = low.new(t.dtype, t.shape)
    low.copy(t, made, nodes)
    return made

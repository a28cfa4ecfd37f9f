"""Attention on the streaming kernel (see `kernels.attention`), of float32 and of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir import Array, DType, Node, Value
from ....ir.ops import scaled_attention as law
from ...schedule.layout import Tensor, round_up
from ...schedule.steps import Step, Word, record_words
from ..kernels import attention
from ..kernels.attention_record import BLOCK, SINCE, SPOT, AttentionRecord
from ..kernels.scaled_attention import KeysRecord, keys_kernel
from . import generic
from .generic import Leaf
from .lowering import Lowering
from .matmul import turned
from .products import Columns, dense_rows, offsets, packed
from .registry import lowers

WIDEST = 512  # columns of a head's values: their sums are in the kernel's frame
TILES = 8  # chunks a thread, at least, where there is work enough


@dataclass
class Heads:
    """q (b, h, l, d), keys (b, g, t, d) and values (b, g, t, e) as views."""

    q: Tensor
    keys: Tensor
    values: Tensor


@lowers("attention")
def streaming(low: Lowering, node: Node) -> bool:
    """Any head layout, masks, causal order and a past, in f32."""
    op: Any = node.op
    operands = [*low.graph.operands(node), *[None] * 4][:7]
    q, k, v, mask, _, _, lengths = operands
    assert q is not None and k is not None and v is not None
    windows = max(op.left_window_size, op.right_window_size) >= 0
    precise = op.softmax_precision not in (None, DType.f32)
    if node.type.dtype is not DType.f32 or lengths is not None or windows or precise:
        return False
    if low.shape(v)[-1] // (op.kv_num_heads or 1) > WIDEST:
        return False
    if len(node.results) > 3 or node.type.size == 0 or 0 in low.shape(k) or 0 in low.shape(v):
        return False
    nodes = (node.name,)
    x = _with_past(low, node, operands)
    b, h, length, d = x.q.shape
    _, _, total, e = x.values.shape
    scale = 1 / math.sqrt(d) if op.scale is None else op.scale
    bias = None if mask is None else _mask(low, mask, (b, h, length, total), nodes)
    result = low.result(node[0], exact=True, rows=True)
    out = result if result.strides[-1] == 4 or result.shape[-1] == 1 else \
        low.new(DType.f32, result.shape)  # fmt: skip
    seen = _split(out, h) if len(out.shape) == 3 else out
    rows, block = _tile(low, length, total)
    keys = packed(low, turned(x.keys), 2, nodes)
    values = packed(low, x.values, 2, nodes)
    queries = dense_rows(low, x.q, nodes)
    past = total - low.shape(k)[-2]
    fields: dict[str, Word] = {
        **_shares(low, b * h, length, rows),
        **_places(x, queries, keys, values, seen, bias),
        "spots": low.constant(_spots(x, queries, keys, values, seen, bias)),
        "ahead": past + 1 if op.is_causal else SINCE,
        "scale": float(scale),
        "cap": float(op.softcap) or 1.0,
    }
    reads = [queries, keys.tensor, values.tensor, *([bias] if bias else [])]
    panels = -(-e // (2 * low.isa.lanes))
    kernel = attention.kernel(rows, block, panels, bias is not None, op.softcap > 0)
    words = record_words(AttentionRecord, fields)
    macs = b * h * length * total * (d + e)
    low.emit(Step(kernel, words, [t.buffer for t in reads], [out.buffer], nodes, macs))
    if out is not result:
        low.copy(out, result, nodes)
    return True


@lowers("scaled_attention")
def of_bytes(low: Lowering, node: Node) -> bool:
    """The same walk over u8 rows."""
    op: Any = node.op
    operands = [*low.graph.operands(node), None][:7]
    shapes = [low.shape(v) for v in operands[:3] if v is not None]
    if low.isa.signed or node.type.size == 0 or any(0 in s for s in shapes):
        return False
    nodes = (node.name,)
    q, k, v, row_scale, key_scale, value_scale, mask = (
        None if t is None else low.tensor(t) for t in operands
    )
    assert q and k and v and row_scale and key_scale and value_scale and operands[6:]
    x = Heads(*(t.permute((0, 2, 1, 3)) for t in (q, k, v)))
    b, h, length, d = x.q.shape
    _, _, total, e = x.values.shape
    if e > WIDEST:
        return False
    bias = None if mask is None else _mask(low, operands[6], (b, h, length, total), nodes)
    out = low.result(node[0], exact=True, rows=True)
    seen = out.permute((0, 2, 1, 3))
    queries = dense_rows(low, x.q, nodes, slack=d % low.isa.group)
    keys = packed(low, turned(x.keys), 2, nodes, 128)
    values = packed(low, x.values, 2, nodes, 128)
    scales = row_scale.permute((0, 2, 1, 3))
    key_scale, value_scale = (t.permute((0, 2, 1, 3)) for t in (key_scale, value_scale))
    facts, units = _facts(low, x, key_scale, value_scale, nodes)
    spots = _spots(x, queries, keys, values, seen, bias)
    spots[:, 5] = offsets((b, h), scales.strides[:2])
    spots[:, 6] = _shared(x, facts.strides[:2])
    spots[:, 7] = _shared(x, units.strides[:2])
    rows = _height(length, low.isa.tiles)
    fields: dict[str, Word] = {
        **_shares(low, b * h, length, rows),
        **_places(x, queries, keys, values, seen, bias),
        "spots": low.constant(spots),
        "ahead": 1 if op.is_causal else SINCE,
        "scale": float(op.factor(d)),
        "row_scale": scales.ref,
        "row_scale_step": scales.strides[2],
        "facts": facts.ref,
        "fact_row": facts.strides[2],
        "units": units.ref,
    }
    block, panels = law.BLOCK // low.isa.lanes, -(-e // (2 * low.isa.lanes))
    kernel = attention.kernel(rows, block, panels, bias is not None, real=False)
    reads = [queries, keys.tensor, values.tensor, scales, facts, units, *([bias] if bias else [])]
    macs = b * h * length * total * (d + e)
    words = record_words(AttentionRecord, fields)
    low.emit(Step(kernel, words, [t.buffer for t in reads], [out.buffer], nodes, macs))
    return True


def _tile(low: Lowering, length: int, total: int) -> tuple[int, int]:
    """Rows of a tile and vectors of a block of keys."""
    rows = _height(length, low.isa.float_tiles)
    vectors = -(-total // low.isa.lanes)
    return rows, min(BLOCK, 2 if vectors <= 2 else 4 if vectors <= 4 else BLOCK)


def _height(length: int, tiles: Sequence[tuple[int, int]]) -> int:
    """Rows of a tile: few beyond the last row, and few loads of keys and values for each row."""
    heights = [t[0] for t in tiles if t[1] == 2]
    return min(heights, key=lambda t: -(-length // t) * (t + 2))


def _shares(low: Lowering, heads: int, length: int, rows: int) -> dict[str, Word]:
    tiles = -(-length // rows)
    wanted = -(-TILES * low.threads // heads) if low.threads > 1 else 1
    per = max(1, tiles // min(tiles, wanted))
    chunks = -(-tiles // per)
    return {"chunks": heads * chunks, "chunk_rows": per * rows, "row_chunks": chunks}


def _places(
    x: Heads, queries: Tensor, keys: Columns, values: Columns, out: Tensor, bias: Tensor | None
) -> dict[str, Word]:
    """Where operands and the result (b, h, l, e) are, and their sizes."""
    fields: dict[str, Word] = {
        "queries": queries.ref,
        "queries_row": queries.strides[2],
        "depth": x.q.shape[3],
        "keys": keys.tensor.ref,
        "key_panel": keys.panel_bytes,
        "values": values.tensor.ref,
        "value_panel": values.panel_bytes,
        "target": out.ref,
        "target_row": out.strides[2],
        "columns": x.values.shape[3],
        "rows": x.q.shape[2],
        "length": x.values.shape[2],
    }
    return fields if bias is None else fields | {"mask": bias.ref, "mask_row": bias.strides[2]}


def _spots(
    x: Heads, queries: Tensor, keys: Columns, values: Columns, out: Tensor, bias: Tensor | None
) -> Array:
    """A row of SPOT words for each query head."""
    heads = x.q.shape[:2]
    spots = np.zeros((math.prod(heads), SPOT), np.int64)
    spots[:, 0] = offsets(heads, queries.strides[:2])
    spots[:, 1] = _shared(x, keys.strides)
    spots[:, 2] = _shared(x, values.strides)
    spots[:, 3] = offsets(heads, out.strides[:2])
    if bias is not None:
        spots[:, 4] = offsets(heads, bias.strides[:2])
    return spots


def _shared(x: Heads, strides: Sequence[int]) -> Array:
    """Offsets of what query heads share, a number for each query head."""
    (b, h), g = x.q.shape[:2], x.keys.shape[1]
    return np.repeat(offsets((b, g), strides), h // g)


def _facts(
    low: Lowering, x: Heads, key_scale: Tensor, value_scale: Tensor, nodes: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """What the kernel needs to know of keys, (b, g, 3, keys), and units (b, g)."""
    b, g, total, d = x.keys.shape
    facts = low.new(DType.f32, (b, g, 3, round_up(total, law.BLOCK)))
    units = low.new(DType.f32, (b, g))
    tensors = (x.keys, key_scale, value_scale, facts, units)
    spots = np.stack([offsets((b, g), t.strides[:2]) for t in tensors], axis=-1)
    words = record_words(KeysRecord, {
        "chunks": b * g, "spots": low.constant(spots), "keys": x.keys.ref,
        "keys_row": x.keys.strides[2], "depth": d, "scale": key_scale.ref,
        "scale_row": key_scale.strides[2], "value": value_scale.ref,
        "value_row": value_scale.strides[2], "facts": facts.ref, "fact_row": facts.strides[2],
        "units": units.ref, "length": total,
    })  # fmt: skip
    reads = [t.buffer for t in tensors[:3]]
    low.emit(Step(keys_kernel(), words, reads, [facts.buffer, units.buffer], nodes))
    return facts, units


# ---- operands ----------------------------------------------------------------------------------


def _split(t: Tensor, heads: int) -> Tensor:
    """(b, l, h * d) as (b, h, l, d)."""
    b, length, width = t.shape
    made = t.reshape((b, length, heads, width // heads))
    assert made is not None
    return made.permute((0, 2, 1, 3))


def _heads(low: Lowering, value: Value, heads: int | None) -> Tensor:
    t = low.tensor(value)
    if len(t.shape) == 4:
        return t
    assert heads is not None
    return _split(t, heads)


def _with_past(low: Lowering, node: Node, operands: list[Value | None]) -> Heads:
    """The operands by heads; a past is copied before the new keys and values, into the results
    that show both, if they are asked for."""
    op: Any = node.op
    q, k, v, _, *past = operands[:6]
    assert q is not None and k is not None and v is not None
    made = []
    for i, (value, before) in enumerate(zip((k, v), past)):
        new = _heads(low, value, op.kv_num_heads)
        shown = len(node.results) > i + 1
        if before is None and not shown:
            made.append(new)
            continue
        old = None if before is None else low.tensor(before)
        length = 0 if old is None else old.shape[2]
        shape = (*new.shape[:2], length + new.shape[2], new.shape[3])
        whole = low.result(node[i + 1], exact=True) if shown else low.new(DType.f32, shape)
        if old is not None:
            low.copy(old, whole.slice(2, 0, length), (node.name,))
        low.copy(new, whole.slice(2, length, new.shape[2]), (node.name,))
        made.append(whole)
    return Heads(_heads(low, q, op.q_num_heads), *made)


def _mask(low: Lowering, value: Value, shape: tuple[int, ...], nodes: tuple[str, ...]) -> Tensor:
    """What is added to the scores, f32 that broadcasts to (b, h, l, t), the last axis in full and
    readable past its end."""
    t = low.tensor(value)
    *front, last = t.shape
    total = shape[3]
    lies = t.dtype is DType.f32 and last == total and t.buffer.space in ("arena", "constant")
    if not lies or t.strides[-1] != 4:
        made = low.new(DType.f32, (*front, total))
        part = made
        if last < total:  # the keys beyond a short mask do not take part
            low.fill(made.slice(len(front), last, total - last), -math.inf, nodes)
            part = made.slice(len(front), 0, last)
        leaves = [Leaf(t)]
        text = "a0"
        if t.dtype is DType.bool:
            leaves += [low.scalar(0.0, DType.f32), low.scalar(-math.inf, DType.f32)]
            text = "(a1 if a0 else a2)"
        low.emit(generic.map_step(text, "mask", part, leaves, low.threads, nodes))
        t = made
    return t.broadcast(shape)

"""Attention and rotary embedding as nodes of other ops: what their gradients go through."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NotDifferentiableError
from ..op import implements
from ..types import DType
from .adjoint import filled, in_type_of, ints, known_shape, places, rank_of, size_of, swap_last
from .attention import Attention, RotaryEmbedding

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


@implements(Attention, "definition")
def attention_nodes(op: Attention, b: Builder, *operands: Value | None) -> Any:
    """The results of `op.reference`, step by step."""
    q, k, v, mask, past_key, past_value, lengths = operands
    assert q is not None and k is not None and v is not None
    flat = rank_of(q) == 3
    if flat:
        q = split_heads(b, q, op.q_num_heads)
        k, v = (split_heads(b, x, op.kv_num_heads) for x in (k, v))
    keys = k if past_key is None else b.concat(past_key, k, axis=2)
    values = v if past_value is None else b.concat(past_value, v, axis=2)
    bias = _bias(op, b, q, keys, mask, past_key, lengths)
    scores, weights = _weights(op, b, q, _shared(b, keys, q), bias)
    y = b.mat_mul(weights, _shared(b, values, q))
    if flat:
        y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), ints(b, 0, 0, -1))
    return (y, keys, values, scores)[: op.outputs]


def split_heads(b: Builder, x: Value, heads: int | None) -> Value:
    """[b,l,h*d] as [b,h,l,d]"""
    assert heads is not None
    return b.transpose(b.reshape(x, ints(b, 0, 0, heads, -1)), perm=(0, 2, 1, 3))


def _shared(b: Builder, x: Value, q: Value) -> Value:
    """Each head of x as many times as query heads share it."""
    heads, groups = known_shape(q)[1], known_shape(x)[1]
    if not isinstance(heads, int) or not isinstance(groups, int):
        raise NotDifferentiableError("its numbers of heads are not known",
                                     hint="bind their symbols first")  # fmt: skip
    if heads == groups:
        return x
    sizes = [size_of(b, x, i) for i in range(4)]
    apart = b.concat(*sizes[:2], ints(b, heads // groups), *sizes[2:], axis=0)
    joined = b.concat(sizes[0], ints(b, heads), *sizes[2:], axis=0)
    return b.reshape(b.expand(b.unsqueeze(x, ints(b, 2)), apart), joined)


def _weights(op: Attention, b: Builder, q: Value, keys: Value, bias: Value) -> tuple[Value, Value]:
    """What `Attention._weights` computes."""
    size = known_shape(q)[3]
    if op.scale is None and not isinstance(size, int):
        raise NotDifferentiableError("the size of its heads is not known",
                                     hint="bind its symbol first")  # fmt: skip
    scale = 1 / math.sqrt(max(size, 1)) if op.scale is None else op.scale  # type: ignore[type-var]
    root = b.number(math.sqrt(scale), q)
    raw = capped = b.mat_mul(b.mul(q, root), swap_last(b, b.mul(keys, root)))
    if op.softcap > 0:
        cap = b.number(op.softcap, q)
        capped = b.mul(b.tanh(b.div(raw, cap)), cap)
    biased = b.add(capped, bias)
    # A row that is masked everywhere goes through softmax without its mask, then counts as 0.
    masked = b.equal(b.reduce_max(bias, ints(b, -1)), b.number(-np.inf, q))
    open_ = b.add(capped, b.where(masked, b.number(0, q), bias))
    wide = op.softmax_precision or q.type.dtype
    same = wide is q.type.dtype
    weights = b.softmax(open_ if same else b.cast(open_, to=wide), axis=-1)
    weights = b.where(masked, b.number(0, q), in_type_of(b, weights, q))
    return (raw, capped, biased, weights)[op.qk_matmul_output_mode], weights


def _bias(
    op: Attention, b: Builder, q: Value, keys: Value, mask: Value | None, past: Value | None,
    lengths: Value | None,
) -> Value:  # fmt: skip
    """What `Attention._bias` computes: added to the scores, and broadcasts to them."""
    zero, never = b.number(0, q), b.number(-np.inf, q)
    length, total = size_of(b, q, 2), size_of(b, keys, 2)
    bias = filled(b, b.concat(ints(b, 1, 1), length, total, axis=0), 0, q)
    if mask is not None:
        bias = b.add(bias, _mask(b, mask, total, zero, never))
    offset = ints(b, 0) if past is None else size_of(b, past, 2)
    place = b.unsqueeze(places(b, q, 2), ints(b, 1))
    key = places(b, keys, 2)
    if lengths is not None:
        lengths = b.reshape(b.cast(lengths, to=DType.i64), ints(b, -1, 1, 1, 1))
        offset = b.sub(lengths, length)
        bias = b.add(bias, b.where(b.less(key, lengths), zero, never))
    ahead = b.sub(key, b.add(place, offset))
    left, right = op.left_window_size, op.right_window_size
    if op.is_causal:
        bias = b.add(bias, b.where(b.less_or_equal(ahead, np.int64(0)), zero, never))
    if left >= 0:
        bias = b.add(bias, b.where(b.greater_or_equal(ahead, np.int64(-left)), zero, never))
    if right >= 0:
        bias = b.add(bias, b.where(b.less_or_equal(ahead, np.int64(right)), zero, never))
    return bias


def _mask(b: Builder, mask: Value, total: Value, zero: Value, never: Value) -> Value:
    """The mask as numbers; keys beyond its end are masked."""
    if mask.type.dtype is DType.bool:
        mask = b.where(mask, zero, never)
    mask = in_type_of(b, mask, zero)
    if total.array is not None and known_shape(mask)[-1] == int(total.array[0]):
        return mask
    missing = b.sub(total, size_of(b, mask, -1))
    return b.pad(mask, b.concat(ints(b, 0), missing, axis=0), never, ints(b, -1))


@implements(RotaryEmbedding, "definition")
def rotary_nodes(op: RotaryEmbedding, b: Builder, *operands: Value | None) -> Value:
    """The result of `op.reference`, step by step."""
    x, cos, sin, ids = operands
    assert x is not None and cos is not None and sin is not None
    square = rank_of(x) == 4
    heads = b.transpose(x, perm=(0, 2, 1, 3)) if square else \
        b.reshape(x, ints(b, 0, 0, op.num_heads, -1))  # fmt: skip
    size = known_shape(heads)[3]
    turned = op.rotary_embedding_dim or size
    if not isinstance(turned, int):
        raise NotDifferentiableError("the size of its heads is not known",
                                     hint="bind its symbol first")  # fmt: skip
    cos, sin = (b.unsqueeze(c if ids is None else b.gather(c, ids), ints(b, 2)) for c in (cos, sin))
    last = ints(b, -1)
    first = b.slice(heads, ints(b, 0), ints(b, turned), last)
    if op.interleaved:
        pairs = b.reshape(first, ints(b, 0, 0, 0, -1, 2))
        halves = [b.gather(pairs, b.constant(np.int64(i)), axis=-1) for i in range(2)]
    else:
        half = turned // 2
        halves = b.split(first, ints(b, half, half), axis=-1, num_outputs=2)
    p, q = halves
    pair = b.sub(b.mul(cos, p), b.mul(sin, q)), b.add(b.mul(sin, p), b.mul(cos, q))
    if op.interleaved:
        made = b.reshape(b.concat(*(b.unsqueeze(v, last) for v in pair), axis=-1),
                         ints(b, 0, 0, 0, -1))  # fmt: skip
    else:
        made = b.concat(*pair, axis=-1)
    if turned != size:
        made = b.concat(made, b.slice(heads, ints(b, turned), ints(b, 1 << 40), last), axis=-1)
    return b.transpose(made, perm=(0, 2, 1, 3)) if square else b.reshape(made, ints(b, 0, 0, -1))

"""Scaled dot-product attention, and rotary position embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..dependence import ANY, Dependences, Table
from ..errors import FeedError, VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..relate import Space, everything, is_given, shape_at
from ..types import Dim, DType, Shape, TensorType, unify
from .attention_relations import AttentionRelations, Sizes
from .common import check_float, check_integer, check_rank, check_same, differs, in_wide

if TYPE_CHECKING:
    pass


@register
@dataclass(frozen=True)
class Attention(Op):
    """softmax(softcap(scale * q @ k^T) + bias) @ v for each head; a row that is masked
    everywhere gives zeros

    q [b,h,l,d], k [b,g,s,d], v [b,g,s,e], where g divides h and h / g query heads in a row share
    a key's; or q [b,l,h*d], k [b,s,g*d], v [b,s,g*e] with q_num_heads = h and kv_num_heads = g.
    past_key [b,g,p,d] and past_value [b,g,p,e] stand before k and v: there are t = p + s keys.
    attn_mask broadcasts to [b,h,l,t], true or added where a key takes part; one that ends
    early masks the rest. With is_causal query i sees key j <= i + offset, with window sizes that
    are not -1 only i + offset - left <= j <= i + offset + right. offset is p, or where
    nonpad_kv_seqlen[b] says how many keys count, that less l.

    scale is 1 / sqrt(d) by default; both q and k are multiplied by its root. softcap c > 0 is
    c * tanh(x / c). With outputs = 4: y, present_key and present_value (all keys and values,
    4-D), and the scores [b,h,l,t] as qk_matmul_output_mode says: 0 before and 1 after softcap, 2
    with the bias, 3 after softmax. softmax_precision is the type in which softmax is done.
    """

    numerics = SUMS.but(
        nan="stays NaN; that of keys which is_causal or a window hides from a query (in k, v or "
        "the mask) may reach it",
        infinity="a mask of -inf gives a place no weight; see mat_mul and softmax",
    )
    results = ("y", "present_key", "present_value", "qk_matmul_output")
    is_causal: bool = False
    scale: float | None = None
    softcap: float = 0.0
    q_num_heads: int | None = None
    kv_num_heads: int | None = None
    qk_matmul_output_mode: int = 0
    softmax_precision: DType | None = None
    left_window_size: int = -1
    right_window_size: int = -1
    outputs: int = 1

    # ---- inference -----------------------------------------------------------------------------

    def infer(
        self,
        q: Abstract,
        k: Abstract,
        v: Abstract,
        attn_mask: Abstract | None = None,
        past_key: Abstract | None = None,
        past_value: Abstract | None = None,
        nonpad_kv_seqlen: Abstract | None = None,
    ) -> Inferred:
        check_float(q, "q")
        dtype = check_same(q, k, v, past_key, past_value)
        self._check_attributes()
        if (past_key is None) != (past_value is None):
            raise VerifyError("past_key and past_value go together")
        if past_key is not None and nonpad_kv_seqlen is not None:
            raise VerifyError("nonpad_kv_seqlen does not go with a past")
        if nonpad_kv_seqlen is not None:
            check_integer(nonpad_kv_seqlen, "nonpad_kv_seqlen")
        if attn_mask is not None and not (
            attn_mask.dtype is DType.bool or attn_mask.dtype.is_float
        ):
            raise VerifyError(f"the mask is {attn_mask.type}, neither bool nor float")
        if len({x.shape and len(x.shape) for x in (q, k, v) if x.shape is not None}) > 1:
            raise VerifyError(f"q, k and v are {q.type}, {k.type}, {v.type}, of different rank")
        b, h, length, d = self._heads(q.shape, self.q_num_heads, "q")
        kb, g, s, kd = self._heads(k.shape, self.kv_num_heads, "k")
        vb, vg, vs, e = self._heads(v.shape, self.kv_num_heads, "v")
        g, s = _joined(g, vg, "heads of k and v"), _joined(s, vs, "lengths of k and v")
        _joined(d, kd, "sizes of q and k")
        b = _joined(_joined(b, kb, "batches of q and k"), vb, "batches of q and v")
        if isinstance(h, int) and isinstance(g, int) and (g < 1 or h % g):
            raise VerifyError(f"{h} query heads do not share {g} key heads evenly")
        past = self._past(past_key, past_value, (b, g, d, e))
        total = s if past == 0 else past + s if isinstance(s, int) and isinstance(past, int) \
            else None  # fmt: skip
        if attn_mask is not None:
            _check_mask(attn_mask, (b, h, length, total))
        y = self._flat((b, h, length, e)) if self._is_flat(q, k, v) else (b, h, length, e)
        unknown = q.shape is None and k.shape is None and v.shape is None
        made = (
            TensorType(dtype, None if unknown else y),
            TensorType(dtype, (b, g, total, d)),
            TensorType(dtype, (b, g, total, e)),
            TensorType(dtype, (b, h, length, total)),
        )
        return made[: self.outputs]

    def _check_attributes(self) -> None:
        if not 1 <= self.outputs <= 4:
            raise VerifyError(f"outputs is {self.outputs}, which should be 1 to 4")
        if not 0 <= self.qk_matmul_output_mode <= 3:
            raise VerifyError(f"qk_matmul_output_mode is {self.qk_matmul_output_mode}, not 0 to 3")
        if self.softmax_precision is not None and not self.softmax_precision.is_float:
            raise VerifyError(f"softmax_precision is {self.softmax_precision}, no float type")
        if self.scale is not None and not 0 <= self.scale < math.inf:
            raise VerifyError(f"scale is {self.scale}, which should be a number of 0 or more")
        if min(self.left_window_size, self.right_window_size) < -1:
            raise VerifyError("a window size is below -1")
        for name in ("q_num_heads", "kv_num_heads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise VerifyError(f"{name} is {count}, which should be 1 or more")

    def _is_flat(self, *operands: Abstract) -> bool:
        return any(x.shape is not None and len(x.shape) == 3 for x in operands)

    def _heads(self, shape: Shape | None, heads: int | None, what: str) -> Shape:
        """(batch, heads, length, size) of an operand in either form."""
        if shape is None:
            return (None,) * 4
        if len(shape) == 4:
            if heads is not None and differs(shape[1], heads):
                raise VerifyError(f"{what} has {shape[1]} heads where {heads} are named")
            return shape
        if len(shape) != 3:
            raise VerifyError(f"{what} has rank {len(shape)}, not 3 or 4")
        if heads is None:
            raise VerifyError(f"{what} has rank 3, which needs q_num_heads and kv_num_heads")
        b, length, width = shape
        if isinstance(width, int) and width % heads:
            raise VerifyError(f"the last axis of {what}, {width}, is not {heads} heads")
        return b, heads, length, width // heads if isinstance(width, int) else None

    def _flat(self, shape: Shape) -> Shape:
        b, h, length, e = shape
        return b, length, h * e if isinstance(h, int) and isinstance(e, int) else None

    def _past(self, key: Abstract | None, value: Abstract | None, dims: Shape) -> Dim:
        """The past's length: 0 without one."""
        length: Dim = 0 if key is None else None
        b, g, d, e = dims
        for x, size, what in ((key, d, "past_key"), (value, e, "past_value")):
            if x is None or x.shape is None:
                continue
            if len(x.shape) != 4:
                raise VerifyError(f"{what} is {x.type}, which should have rank 4")
            length = _joined(length, x.shape[2], "lengths of past_key and past_value")
            if any(differs(u, w) for u, w in zip(x.shape, (b, g, None, size))):
                raise VerifyError(f"{what} is {x.type}, where batch, heads and size are "
                                  f"{b}, {g}, {size}")  # fmt: skip
        return length

    # ---- reference -----------------------------------------------------------------------------

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        q, k, v = (shape_at(operands, o) for o in range(3))
        b, h, length, d = self._heads(q, self.q_num_heads, "q")
        _, g, s, _ = self._heads(k, self.kv_num_heads, "k")
        e = self._heads(v, self.kv_num_heads, "v")[3]
        past = self._past_length(operands)
        if not all(isinstance(n, int) for n in (h, g, d, e, past)):
            return everything(operands, results, "the sizes of heads or of the past are not known")
        sizes = Sizes(b, cast(int, h), cast(int, g), length, s, cast(int, d), cast(int, e),
                      cast(int, past))  # fmt: skip
        mode = self.qk_matmul_output_mode
        return AttentionRelations(operands, results, sizes, mode).relations()

    def _past_length(self, operands: Operands) -> Dim:
        return shape_at(operands, 4)[2] if is_given(operands, 4) else 0

    def reference(
        self,
        q: Array,
        k: Array,
        v: Array,
        attn_mask: Array | None = None,
        past_key: Array | None = None,
        past_value: Array | None = None,
        nonpad_kv_seqlen: Array | None = None,
    ) -> Any:
        flat = q.ndim == 3
        q = _split_heads(q, self.q_num_heads)
        k, v = (_split_heads(x, self.kv_num_heads) for x in (k, v))
        past = 0 if past_key is None else past_key.shape[2]
        keys = k if past_key is None else np.concatenate((past_key, k), axis=2)
        values = v if past_value is None else np.concatenate((past_value, v), axis=2)
        bias = self._bias(q, keys.shape[2], past, attn_mask, nonpad_kv_seqlen)
        share = q.shape[1] // keys.shape[1]
        with np.errstate(all="ignore"):
            scores, weights = self._weights(q, np.repeat(keys, share, axis=1), bias)
        y = in_wide(np.matmul, weights, np.repeat(values, share, axis=1))
        if flat:
            y = y.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], q.shape[1] * y.shape[3])
        made = (y, keys, values, scores)[: self.outputs]
        return made[0] if self.outputs == 1 else made

    def _weights(self, q: Array, keys: Array, bias: Array) -> tuple[Array, Array]:
        """The scores that are shown, and the weights, both [b,h,l,t] in q's type."""
        kind = q.dtype.type
        scale = 1 / math.sqrt(max(q.shape[3], 1)) if self.scale is None else self.scale
        root = kind(math.sqrt(scale))
        raw = in_wide(np.matmul, q * root, keys.swapaxes(2, 3) * root)
        capped = raw
        if self.softcap > 0:
            cap = kind(self.softcap)
            capped = np.tanh(raw / cap) * cap
        biased = np.broadcast_to(capped + bias, raw.shape)
        wide = self.softmax_precision.numpy if self.softmax_precision else q.dtype
        weights = _softmax(biased.astype(wide)).astype(q.dtype)
        masked = np.max(bias, axis=-1, keepdims=True, initial=-np.inf) == -np.inf
        weights = np.where(masked, kind(0), weights)
        return (raw, capped, biased, weights)[self.qk_matmul_output_mode], weights

    def _bias(
        self, q: Array, total: int, past: int, mask: Array | None, lengths: Array | None
    ) -> Array:
        """What is added to the scores: 0 or -inf and the mask's numbers, [b or 1, h or 1, l, t]."""
        kind = q.dtype.type
        bias = np.zeros((1, 1, q.shape[2], total), q.dtype)
        never = kind(-np.inf)
        if mask is not None:
            if mask.shape[-1] < total:
                pads = [(0, 0)] * (mask.ndim - 1) + [(0, total - mask.shape[-1])]
                low = False if mask.dtype == np.bool_ else -np.inf
                mask = np.pad(mask, pads, constant_values=low)
            added = np.where(mask, kind(0), never) if mask.dtype == np.bool_ else mask
            bias = bias + added.astype(q.dtype)
        keys = np.arange(total)
        offset = np.array(past).reshape(1, 1, 1, 1)
        if lengths is not None:
            if lengths.shape != q.shape[:1]:
                raise FeedError(f"nonpad_kv_seqlen is {list(lengths.shape)}, not one a batch item")
            offset = lengths.astype(np.int64).reshape(-1, 1, 1, 1) - q.shape[2]
            bias = bias + np.where(keys < lengths.reshape(-1, 1, 1, 1), kind(0), never)
        ahead = keys - (np.arange(q.shape[2])[:, None] + offset)  # how far a key is ahead
        if self.is_causal:
            bias = bias + np.where(ahead <= 0, kind(0), never)
        if self.left_window_size >= 0:
            bias = bias + np.where(-ahead <= self.left_window_size, kind(0), never)
        if self.right_window_size >= 0:
            bias = bias + np.where(ahead <= self.right_window_size, kind(0), never)
        return bias

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        q, k, v = operands[:3]
        assert q is not None and k is not None and v is not None
        b, h, length, d = _ints(self._heads(q.shape, self.q_num_heads, "q"))
        _, _, s, _ = _ints(self._heads(k.shape, self.kv_num_heads, "k"))
        _, _, _, e = _ints(self._heads(v.shape, self.kv_num_heads, "v"))
        past = operands[4] if len(operands) > 4 else None
        total = s + (past.type.static_shape[2] if past is not None else 0)
        return Cost(b * h * length * total * (d + e), memory_bytes(operands, results))


def _ints(shape: Shape) -> tuple[int, ...]:
    return TensorType(DType.f32, shape).static_shape


def _joined(a: Dim, b: Dim, what: str) -> Dim:
    if differs(a, b):
        raise VerifyError(f"the {what}, {a} and {b}, do not agree")
    return unify(a, b)


def _check_mask(mask: Abstract, scores: Sequence[Dim]) -> None:
    """It broadcasts to the scores, but for a last axis that may be shorter."""
    if mask.shape is None:
        return
    if not 1 <= len(mask.shape) <= 4:
        raise VerifyError(f"the mask is {mask.type}, which should have rank 1 to 4")
    *front, last = mask.shape
    if isinstance(last, int) and isinstance(scores[-1], int) and last > scores[-1]:
        raise VerifyError(f"the mask {mask.type} is longer than the {scores[-1]} keys")
    for m, d in zip(front, scores[4 - len(mask.shape) : 3]):
        if m != 1 and differs(m, d):
            raise VerifyError(f"the mask {mask.type} does not broadcast to the scores "
                              f"{list(scores)}")  # fmt: skip


def _split_heads(x: Array, heads: int | None) -> Array:
    if x.ndim == 4:
        return x
    assert heads is not None
    b, length, width = x.shape
    return x.reshape(b, length, heads, width // heads).transpose(0, 2, 1, 3)


def _softmax(x: Array) -> Array:
    """Over the last axis, each step in x's own type; a row of only -inf gives zeros."""
    top = np.max(x, axis=-1, keepdims=True, initial=-np.inf).astype(x.dtype)
    e = np.exp(x - np.where(np.isneginf(top), x.dtype.type(0), top))
    total = np.sum(e, axis=-1, keepdims=True)
    return (e / np.where(total == 0, x.dtype.type(1), total)).astype(x.dtype)


@register
@dataclass(frozen=True)
class RotaryEmbedding(Op):
    """Pairs (x1, x2) of each head turned by its position's angle:
    (cos * x1 - sin * x2, sin * x1 + cos * x2)

    x [b,h,l,d], or [b,l,h*d] with num_heads = h. A pair is elements i and i + r/2 of the first r
    of a head, or 2i and 2i + 1 where interleaved; r is rotary_embedding_dim, all of d by default,
    and the rest stays. cos_cache and sin_cache are [b,l,r/2], or, with position_ids [b,l] that
    index them, [positions,r/2].
    """

    numerics = SUMS
    settings = ("cos_cache", "sin_cache")
    interleaved: bool = False
    num_heads: int = 0
    rotary_embedding_dim: int = 0

    def infer(
        self,
        x: Abstract,
        cos_cache: Abstract,
        sin_cache: Abstract,
        position_ids: Abstract | None = None,
    ) -> Inferred:
        check_float(x)
        check_same(x, cos_cache, sin_cache)
        if position_ids is not None:
            check_integer(position_ids, "position_ids")
            check_rank(position_ids, 2, "position_ids")
            self._check_places(position_ids, "position_ids", x)
        size = self._head_size(x)
        turned = self.rotary_embedding_dim or size
        if isinstance(turned, int) and (turned < 0 or turned % 2):
            raise VerifyError(f"{turned} elements of a head do not make pairs")
        if isinstance(turned, int) and isinstance(size, int) and turned > size:
            raise VerifyError(f"rotary_embedding_dim {turned} is more than a head's {size}")
        for cache, what in ((cos_cache, "cos_cache"), (sin_cache, "sin_cache")):
            self._check_cache(cache, what, x, turned, position_ids)
        return x.type

    def _check_cache(
        self, cache: Abstract, what: str, x: Abstract, turned: Dim, ids: Abstract | None
    ) -> None:
        if cache.shape is None:
            return
        rank = 3 if ids is None else 2
        if len(cache.shape) != rank:
            raise VerifyError(f"{what} is {cache.type}, which should have rank {rank}")
        if isinstance(turned, int) and differs(cache.shape[-1], turned // 2):
            raise VerifyError(f"{what} is {cache.type}, where pairs are {turned // 2}")
        if ids is None:
            self._check_places(cache, what, x)

    def _check_places(self, v: Abstract, what: str, x: Abstract) -> None:
        """`v` is given for each of x's batch items and positions."""
        if x.shape is None or v.shape is None or len(x.shape) not in (3, 4):
            return
        here = x.shape[0], x.shape[1 if len(x.shape) == 3 else 2]
        if any(differs(a, b) for a, b in zip(v.shape, here)):
            raise VerifyError(f"{what} is {v.type}, which does not fit {x.type}")

    def _head_size(self, x: Abstract) -> Dim:
        if x.shape is None:
            return None
        if len(x.shape) == 4:
            return x.shape[3]
        if len(x.shape) != 3:
            raise VerifyError(f"x is {x.type}, which should have rank 3 or 4")
        if self.num_heads < 1:
            raise VerifyError(f"x is {x.type}, which needs num_heads")
        width = x.shape[2]
        if not isinstance(width, int):
            return None
        if width % self.num_heads:
            raise VerifyError(f"{width} elements are not {self.num_heads} heads")
        return width // self.num_heads

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, shape = Space(operands, results), shape_at(operands, 0)
        size = self._head_size(Abstract(TensorType(DType.f32, shape)))
        if not isinstance(size, int):
            return everything(operands, results, "the size of a head is not known")
        b, d = s.loop("b", shape[0]), s.loop("d", size)
        if len(shape) == 4:
            at, place = s.loop("l", shape[2]), d
            own = (b, s.loop("h", shape[1]), at, d)
        else:
            at, place = s.loop("l", shape[1]), s.loop("h", self.num_heads).scaled(size) + d
            own = (b, at, place)
        pair, partner = self._pairs(size)
        heads = shape[2] if len(shape) == 3 else size
        assert isinstance(heads, int)
        others = tuple(i - i % size + partner[i % size] if partner[i % size] >= 0 else -1
                       for i in range(heads))  # fmt: skip
        s.relate(0, 0, own, own)
        s.relate(0, 0, (*own[:-1], Table(others, place)), own)
        angle = Table(pair, d)
        for o in (1, 2):
            if is_given(operands, 3):
                s.relate(o, 0, (s.loop("position", shape_at(operands, o)[0], ANY), angle), own,
                         "the positions are computed")  # fmt: skip
            else:
                s.relate(o, 0, (b, at, angle), own)
        if is_given(operands, 3):
            s.relate(3, 0, (b, at), own)
        return s.made()

    def _pairs(self, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """For each element of a head its pair, and the other element of it; -1 for the rest."""
        turned = self.rotary_embedding_dim or size
        rest = (-1,) * (size - turned)
        if self.interleaved:
            pair = tuple(i // 2 for i in range(turned))
            partner = tuple(i ^ 1 for i in range(turned))
        else:
            half = turned // 2
            pair = tuple(i % half for i in range(turned))
            partner = tuple((i + half) % turned for i in range(turned))
        return pair + rest, partner + rest

    def reference(
        self, x: Array, cos_cache: Array, sin_cache: Array, position_ids: Array | None = None
    ) -> Array:
        heads = x.transpose(0, 2, 1, 3) if x.ndim == 4 else \
            x.reshape(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)  # fmt: skip
        turned = self.rotary_embedding_dim or heads.shape[3]
        cos, sin = (self._rows(c, position_ids)[:, :, None] for c in (cos_cache, sin_cache))
        first, rest = heads[..., :turned], heads[..., turned:]
        if self.interleaved:
            a, b = first[..., 0::2], first[..., 1::2]
        else:
            a, b = first[..., : turned // 2], first[..., turned // 2 :]
        pair = (cos * a - sin * b, sin * a + cos * b)
        if self.interleaved:
            made = np.stack(pair, axis=-1).reshape(first.shape)
        else:
            made = np.concatenate(pair, axis=-1)
        made = np.concatenate((made, rest), axis=-1).astype(x.dtype)
        return made.transpose(0, 2, 1, 3) if x.ndim == 4 else made.reshape(x.shape)

    def _rows(self, cache: Array, ids: Array | None) -> Array:
        if ids is None:
            return cache
        if ids.size and not (-len(cache) <= ids.min() and ids.max() < len(cache)):
            raise FeedError(f"a position is not below the {len(cache)} that the caches hold")
        return cache[ids]

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        return Cost(2 * results[0].size, memory_bytes(operands, results))

"""Attention on bytes: queries, keys and values with a scale for each row.

docs/quantization.md defines the arithmetic; a backend has these very bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..affine import ZERO
from ..dependence import ANY, Dependences
from ..errors import VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..relate import Space, everything, is_given, shape_at
from ..types import Dim, DType, Shape, TensorType
from .common import differs

BLOCK = 128
"""Keys whose weights share a largest score. It is part of the op's meaning."""
LOWEST = np.float32(-3.4028234663852886e38)
LOG2E = np.float32(1.4426950408889634)
LEAST = np.float32(-125 / LOG2E)
"""Powers are taken of no less than this."""
EXP2 = tuple(np.float32(c) for c in (0.05500896, 0.24221103, 0.69328293))
"""2^f = 1 + f * (c2 + f * (c1 + f * c0)) for |f| <= 1/2; relative error 1.1e-4 (minimax)."""
UNIT = 2.0**16  # what a weight of 1 counts in sums
TOP = np.float32(255 / UNIT)
SMALLEST = np.float32(2.0**-107)
"""The largest scale of values counts as at least this."""
PER_TOP = np.float32(UNIT / 255)


@register
@dataclass(frozen=True)
class ScaledAttention(Op):
    """softmax(scale * q @ k^T + attn_mask) @ v for each head, of u8 rows with zero point 128 and
    float32 scales, in single precision; a row that is masked everywhere gives zeros

    q [b,l,h,d], k [b,t,g,d], v [b,t,g,e], where g divides h and h / g query heads in a row share a
    key's; scales as `quantize_rows` gives them, with 1 in place of d and e. attn_mask, float32,
    broadcasts to [b,h,l,t] and is added to the scores. With is_causal query i sees key j <= i.
    scale is 1 / sqrt(d) by default. y is [b,l,h,e].

    Products are added to the mask, and powers are made, by fused multiply-adds. Weights are
    rounded to 255ths of the largest so far, block of keys by block of keys. Scales are
    not negative; one that is not finite makes NaN of its query's row (q) or its head (k, v).
    """

    numerics = SUMS
    onnx = None
    not_differentiable = "its operands are integers: differentiate before lowering"
    scale: float | None = None
    is_causal: bool = False

    def infer(
        self,
        q: Abstract,
        k: Abstract,
        v: Abstract,
        q_scale: Abstract,
        k_scale: Abstract,
        v_scale: Abstract,
        attn_mask: Abstract | None = None,
    ) -> Inferred:
        b, length, h, d = _rows(q, q_scale, "q")
        kb, t, g, kd = _rows(k, k_scale, "k")
        vb, vt, vg, e = _rows(v, v_scale, "v")
        pairs = (("batches", b, kb), ("batches", b, vb), ("sizes of q and k", d, kd),
                 ("heads of k and v", g, vg), ("lengths of k and v", t, vt))  # fmt: skip
        for what, one, two in pairs:
            if differs(one, two):
                raise VerifyError(f"the {what}, {one} and {two}, do not agree")
        if isinstance(h, int) and isinstance(g, int) and (g < 1 or h % g):
            raise VerifyError(f"{h} query heads do not share {g} key heads evenly")
        if isinstance(d, int) and d > 1 << 16:
            raise VerifyError(f"rows of {d} elements could overflow the sums; 65536 are the most")
        if self.scale is not None and not 0 <= self.scale < float("inf"):
            raise VerifyError(f"scale is {self.scale}, which should be a number of 0 or more")
        if attn_mask is not None:
            _check_mask(attn_mask, (b, h, length, t))
        return TensorType(DType.f32, (b, length, h, e))

    def factor(self, d: int) -> np.float32:
        """What scores are multiplied by."""
        return np.float32(1 / np.sqrt(max(d, 1)) if self.scale is None else self.scale)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        (b, length, h, d), (_, t, g, _) = shape_at(operands, 0), shape_at(operands, 1)
        if not isinstance(h, int) or not isinstance(g, int):
            return everything(operands, results, "the number of heads is not known")
        batch, at, group = s.loop("b", b), s.loop("l", length), s.loop("g", g)
        head = group.scaled(h // g) + s.digit("r", h // g)
        e = s.loop("e", s.results[0][3])
        inner, keys = s.loop("d", d, ANY), s.loop("keys", t, ANY)
        out = (batch, at, head, e)
        row, key = (batch, at, head), (batch, keys, group)
        reads = ((*row, inner), (*key, inner), (*key, e), (*row, ZERO), (*key, ZERO), (*key, ZERO))
        for o, read in enumerate(reads):
            s.relate(o, 0, read, out)
        if is_given(operands, 6):
            shape = shape_at(operands, 6)
            own = (batch, head, at, keys)[4 - len(shape) :]
            s.relate(6, 0, [ZERO if n == 1 else p for n, p in zip(shape, own)], out)
        return s.made()

    def reference(
        self,
        q: Array,
        k: Array,
        v: Array,
        q_scale: Array,
        k_scale: Array,
        v_scale: Array,
        attn_mask: Array | None = None,
    ) -> Array:
        share = q.shape[2] // k.shape[2]
        q, q_scale = _by_heads(q, 1), _by_heads(q_scale, 1)
        k, v, k_scale, v_scale = (_by_heads(x, share) for x in (k, v, k_scale, v_scale))
        with np.errstate(all="ignore"):
            row = q_scale * self.factor(q.shape[3])
            # Integers below 2^53 are exact in double precision.
            sums = (_signed(q) @ _signed(k).swapaxes(2, 3)).astype(np.float32)
            scores = sums * k_scale.swapaxes(2, 3)
            scores = scores * row if attn_mask is None else fma(scores, row, attn_mask)
            if self.is_causal:
                seen = np.tri(q.shape[2], k.shape[2], dtype=bool)
                scores = np.where(seen, scores, np.float32(-np.inf))
            largest = v_scale.max(2, keepdims=True, initial=SMALLEST)
            ratio = (v_scale * (TOP / largest)).swapaxes(2, 3)
            total, output = self._stream(scores, ratio, _signed(v))
            zero = np.float32(0)  # what is not finite makes NaN of it
            nothing = (zero * k_scale + zero * v_scale).sum(2, keepdims=True)
            unit = largest * PER_TOP + nothing + zero * row
            y = output * np.where(total < 1, zero * unit, unit / total)
        return np.ascontiguousarray(y.transpose(0, 2, 1, 3))

    def _stream(self, scores: Array, ratio: Array, v: Array) -> tuple[Array, Array]:
        """The sums of weights [b,h,l,1] in 1 / UNIT, and of weighted values [b,h,l,e]."""
        one = np.float32
        top = np.full((*scores.shape[:3], 1), LOWEST)
        total = np.zeros(top.shape, one)
        output = np.zeros((*scores.shape[:3], v.shape[3]), one)
        for start in range(0, scores.shape[3], BLOCK):
            block = slice(start, start + BLOCK)
            new = np.maximum(top, scores[..., block].max(3, keepdims=True))
            decay = power(top - new)
            weights = power(scores[..., block] - new) * one(UNIT)
            counts = np.rint(weights).sum(3, keepdims=True, dtype=np.float64).astype(one)
            steps = np.rint(weights.astype(np.float64) * ratio[..., block])
            total = total * decay + counts
            output = output * decay + (steps @ v[:, :, block]).astype(one)
            top = new
        return total, output

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        q, v = operands[0], operands[2]
        assert q is not None and v is not None
        (b, length, h, d), (_, t, _, e) = q.type.static_shape, v.type.static_shape
        return Cost(b * h * length * t * (d + e), memory_bytes(operands, results))


def power(x: Array) -> Array:
    """e^x for x <= 0, no less than 2^-126."""
    x = np.where(x < LEAST, LEAST, x)
    exact = x.astype(np.float64) * LOG2E  # of 48 bits
    whole = np.rint(exact)
    f = (exact - whole).astype(np.float32)
    high, middle, low = EXP2
    made = fma(fma(fma(high, f, middle), f, low), f, np.float32(1))
    return made * np.exp2(whole).astype(np.float32)


def fma(a: Array | np.float32, b: Array, c: Array | np.float32) -> Array:
    """a * b + c of float32 numbers, rounded once.

    The product is exact in double precision; the sum is rounded to odd there (Boldo and Melquiond,
    2008), after which a second rounding does no harm.
    """
    product, wide = np.float64(a) * b, np.float64(c)
    total = product + wide
    part = total - product
    error = (product - (total - part)) + (wide - part)
    bits = total.view(np.int64)
    even = (bits & 1 == 0) & np.isfinite(error) & (error != 0)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(even, bits + step, bits).view(np.float64).astype(np.float32)


def _signed(x: Array) -> Array:
    return x.astype(np.float64) - 128


def _by_heads(x: Array, share: int) -> Array:
    """[b,t,g,k] as [b,g * share,t,k]."""
    return np.repeat(x.transpose(0, 2, 1, 3), share, axis=1)


def _rows(x: Abstract, scale: Abstract, name: str) -> Shape:
    """The shape of an operand, with what its scale knows of it."""
    if x.dtype is not DType.u8:
        raise VerifyError(f"{name} is {x.type}, which is not u8")
    if scale.dtype is not DType.f32:
        raise VerifyError(f"the scale of {name} is {scale.type}, which is not f32")
    for what, shape in ((name, x.shape), (f"the scale of {name}", scale.shape)):
        if shape is not None and len(shape) != 4:
            raise VerifyError(f"{what} has rank {len(shape)}, not 4")
    if x.shape is None:
        return (None,) * 4
    if scale.shape is not None and any(
        differs(a, b) for a, b in zip(scale.shape, (*x.shape[:3], 1))
    ):
        raise VerifyError(f"the scale of {name}, {scale.type}, is not one number a row of {x.type}")
    return x.shape


def _check_mask(mask: Abstract, shape: tuple[Dim, ...]) -> None:
    if mask.dtype is not DType.f32:
        raise VerifyError(f"the mask is {mask.type}, which is not f32")
    if mask.shape is None:
        return
    fits = len(mask.shape) <= 4 and all(
        m == 1 or not differs(m, n) for m, n in zip(mask.shape[::-1], shape[::-1])
    )
    if not fits or (mask.shape and differs(mask.shape[-1], shape[-1])):
        raise VerifyError(f"the mask {mask.type} does not broadcast to {list(shape)}, "
                          "its last axis in full")  # fmt: skip

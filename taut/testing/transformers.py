"""Transformer blocks as people write and export them: attention in its many spellings, linear
layers, normalizations, residuals and masks, over a batch and a sequence of any size.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from taut.ir import DType, Graph, Value

from .families import Net

ENDS = ("relu", "gelu", "tanh", "swish", "sigmoid")


class Block(Net):
    """Layers onto a value [batch, sequence, width]."""

    width: int
    heads: int
    mask: Value | None = None  # i64[batch,sequence], not 0 where there is a token

    def linear(self, x: Value, wide: int, out: int) -> Value:
        """A matrix product, with or without a bias."""
        y = self.b.mat_mul(x, self.floats(wide, out, scale=wide**-0.5))
        return self.b.add(y, self.floats(out)) if self.pick(True, False) else y

    def mlp(self, x: Value) -> Value:
        """Two linear layers, most often with an activation between."""
        inner = self.pick(1, self.width, 3 * self.width)
        y = self.linear(x, self.width, inner)
        end = self.pick(*ENDS, "gelu_tanh", "")
        if end == "gelu_tanh":
            y = self.b.gelu(y, approximate="tanh")
        elif end:
            y = getattr(self.b, end)(y)
        return self.linear(y, inner, self.width)

    def gated(self, x: Value) -> Value:
        """silu(x @ A) * (x @ B) @ C"""
        gate = self.b.swish(self.linear(x, self.width, self.width))
        y = self.b.mul(gate, self.linear(x, self.width, self.width))
        return self.linear(y, self.width, self.width)

    def norm(self, x: Value) -> Value:
        kind = self.pick("layer_normalization", "rms_normalization", "written out")
        scale = self.positive(self.width)
        if kind == "layer_normalization":
            return self.b.layer_normalization(x, scale, self.floats(self.width))
        if kind == "rms_normalization":
            return self.b.rms_normalization(x, scale)
        mean = self.b.reduce_mean(self.b.mul(x, x), np.array([-1]))
        root = self.b.sqrt(self.b.add(mean, np.float32(1e-5)))
        return self.b.mul(self.b.div(x, root), scale)

    # ---- attention -----------------------------------------------------------------------------

    def keep(self) -> Value | None:
        """The mask as booleans that broadcast to the scores."""
        if self.mask is None or self.pick(True, False):
            return None
        wide = self.b.unsqueeze(self.mask, np.array([1, 2]))
        return self.b.cast(wide, to=DType.bool)

    def attention(self, x: Value) -> Value:
        """As one op, on operands with their heads split or not; or written out."""
        width, heads = self.width, self.heads
        kind = self.pick("written out", "flat", "split")
        shared = 1 if kind == "flat" and self.pick(True, False) else heads
        q = self.linear(x, width, width)
        k, v = (self.linear(x, width, width // heads * shared) for _ in range(2))
        if kind == "written out":
            y = self.written_out(q, k, v)
        elif kind == "flat":
            y = self.b.attention(q, k, v, self.keep(), q_num_heads=heads, kv_num_heads=shared,
                                 is_causal=self.pick(True, False))  # fmt: skip
        else:
            split = [self.split(t, (0, 2, 1, 3)) for t in (q, k, v)]
            y = self.join(self.b.attention(*split, self.keep()))
        return self.linear(y, width, width)

    def split(self, x: Value, perm: tuple[int, ...]) -> Value:
        shape = np.array([0, 0, self.heads, self.width // self.heads])
        return self.b.transpose(self.b.reshape(x, shape), perm=perm)

    def join(self, y: Value) -> Value:
        turned = self.b.transpose(y, perm=(0, 2, 1, 3))
        return self.b.reshape(turned, np.array([0, 0, self.width]))

    def written_out(self, q: Value, k: Value, v: Value) -> Value:
        """softmax(scale * q @ k^T + mask) @ v, the scale in one of four places."""
        b, scale = self.b, np.float32((self.width // self.heads) ** -0.5)
        place = self.pick("after", "queries", "both", "none")
        q, v = self.split(q, (0, 2, 1, 3)), self.split(v, (0, 2, 1, 3))
        if self.pick(True, False):
            k = self.split(k, (0, 2, 3, 1))
        else:
            k = b.transpose(self.split(k, (0, 2, 1, 3)), perm=(0, 1, 3, 2))
        if place == "queries":
            q = b.mul(q, scale)
        elif place == "both":
            q, k = b.mul(q, np.sqrt(scale)), b.mul(k, np.sqrt(scale))
        scores = b.mat_mul(q, k)
        if place == "after":
            scores = b.div(scores, np.float32(1 / scale))
        return self.join(b.mat_mul(b.softmax(self.masked(scores), axis=-1), v))

    def masked(self, scores: Value) -> Value:
        """With the mask added, or selected by it."""
        keep, low = self.keep(), np.float32(-3e38)
        if keep is None:
            return scores
        if self.pick(True, False):
            return self.b.where(keep, scores, low)
        return self.b.add(scores, self.b.where(keep, np.float32(0), low))


@st.composite
def transformers(draw: st.DrawFn, awkward: Iterable[str] = (), max_layers: int = 4) -> Graph:
    """Stacks of attention, linear layers, normalizations and residuals, f32, of any batch and
    sequence; some with a mask of tokens.
    """
    net = Block(draw, awkward)
    net.heads = net.pick(1, 2)
    net.width = net.heads * net.pick(2, 3)
    shape = (net.pick("batch", 1), net.pick("sequence", 3))
    x = net.b.input("x", "f32", (*shape, net.width))
    if net.pick(True, False):
        net.mask = net.b.input("mask", "i64", shape)
    kinds = st.sampled_from(["attention", "mlp", "norm", "gated"])
    for kind in draw(st.lists(kinds, min_size=1, max_size=max_layers)):
        y = getattr(net, kind)(x)
        x = net.b.add(x, y) if kind != "norm" and net.pick(True, False) else y
    return net.b.outputs(y=x)

"""Decoder blocks of the Llama kind (Touvron et al., 2023) with a cache of keys and values:

    x = x + attention(rms_norm(x)),  x = x + (silu(y @ gate) * (y @ up)) @ down,  y = rms_norm(x)

with rotary positions (Su et al., 2021), grouped queries (Ainslie et al., 2023) and causal masking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir import Builder, Graph, ModelError, Value


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder. Raises ModelError for ones that do not fit together."""

    vocab_size: int = 256
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 128
    positions: int = 128
    theta: float = 10_000.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.layers, self.heads, self.kv_heads, self.positions) < 1:
            raise ModelError("a size of the decoder is below 1")
        if self.hidden_size % (2 * self.heads):
            raise ModelError(f"hidden_size {self.hidden_size} is not {self.heads} heads of an even "
                             "size")  # fmt: skip
        if self.heads % self.kv_heads:
            raise ModelError(f"{self.heads} heads do not share {self.kv_heads} key heads evenly")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.heads


def build_decoder(c: DecoderConfig, seed: int = 0) -> Graph:
    """A decoder with seeded random weights and its cache as inputs and outputs.

    Inputs: input_ids i64[batch,length], position_ids i64[batch,length] (where each stands in its
    text, counted with the past), and for each layer past_key_i and past_value_i
    f32[batch,kv_heads,past,size]; past may be 0. Outputs: logits f32[batch,length,vocab], and the
    cache to go on with, present_key_i and present_value_i f32[batch,kv_heads,past+length,size].
    """
    return _Decoder(c, seed).build()


class _Decoder:
    def __init__(self, c: DecoderConfig, seed: int) -> None:
        self.c, self.b = c, Builder()
        self.random = np.random.default_rng(seed)

    def build(self) -> Graph:
        c, b = self.c, self.b
        ids, places = (b.input(n, "i64", ("batch", "length")) for n in
                       ("input_ids", "position_ids"))  # fmt: skip
        shape = ("batch", c.kv_heads, "past", c.head_size)
        pasts = [tuple(b.input(f"past_{kind}_{i}", "f32", shape) for kind in ("key", "value"))
                 for i in range(c.layers)]  # fmt: skip
        angles = np.outer(np.arange(c.positions),
                          c.theta ** (-np.arange(0, c.head_size, 2) / c.head_size))  # fmt: skip
        self.cos, self.sin = (
            b.constant(f(angles).astype(np.float32), name)
            for f, name in ((np.cos, "cos"), (np.sin, "sin"))
        )
        x = b.gather(self.weight("words", c.vocab_size, c.hidden_size, scale=1.0), ids, axis=0)
        outputs: dict[str, Value] = {}
        for i, past in enumerate(pasts):
            x, *present = self.block(x, places, past, f"layer.{i}")
            outputs |= {f"present_{k}_{i}": v for k, v in zip(("key", "value"), present)}
        x = self.norm(x, "norm")
        logits = b.mat_mul(x, self.weight("head", c.hidden_size, c.vocab_size), name="logits")
        graph = b.outputs(logits=logits, **outputs)
        graph.name = "decoder"
        for size in ("length", "past"):
            graph.require(f"{size} <= {c.positions}")
        return graph

    def weight(self, name: str, *shape: int, scale: float = 0.0) -> Value:
        """Random numbers of this size, by default so that a product keeps its input's."""
        made = self.random.normal(0, scale or shape[0] ** -0.5, shape)
        return self.b.constant(made.astype(np.float32), name)

    def norm(self, x: Value, at: str) -> Value:
        scale = np.abs(self.random.normal(1, 0.1, self.c.hidden_size)).astype(np.float32)
        return self.b.rms_normalization(x, self.b.constant(scale, f"{at}.weight"),
                                        epsilon=self.c.epsilon, name=at)  # fmt: skip

    def block(
        self, x: Value, places: Value, past: tuple[Value, ...], at: str
    ) -> tuple[Value, Value, Value]:
        """The block's result, and the keys and values with these ones."""
        c, b = self.c, self.b
        h, narrow = c.hidden_size, c.kv_heads * c.head_size
        y = self.norm(x, f"{at}.norm1")
        q = b.mat_mul(y, self.weight(f"{at}.query", h, h))
        k, v = (b.mat_mul(y, self.weight(f"{at}.{n}", h, narrow)) for n in ("key", "value"))
        q, k = (
            b.rotary_embedding(t, self.cos, self.sin, places, num_heads=n)
            for t, n in ((q, c.heads), (k, c.kv_heads))
        )
        seen, *present = b.attention(q, k, v, None, *past, q_num_heads=c.heads,
                                     kv_num_heads=c.kv_heads, is_causal=True, outputs=3,
                                     name=f"{at}.attention")  # fmt: skip
        x = b.add(x, b.mat_mul(seen, self.weight(f"{at}.out", h, h)))
        y = self.norm(x, f"{at}.norm2")
        gate = b.swish(b.mat_mul(y, self.weight(f"{at}.gate", h, c.intermediate_size)))
        up = b.mat_mul(y, self.weight(f"{at}.up", h, c.intermediate_size))
        y = b.mat_mul(b.mul(gate, up), self.weight(f"{at}.down", c.intermediate_size, h))
        return b.add(x, y), present[0], present[1]

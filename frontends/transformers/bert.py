"""BERT-like encoders (Devlin et al., 2019) and the sentence embedding taken from them (Reimers and
Gurevych, "Sentence-BERT", 2019), as a graph of any batch and sequence size.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...ir import DEFAULT_LIMITS, Array, Builder, DType, Graph, Limits, TautError, Value, verify
from .config import BertConfig, read_config
from .weights import Weights, read_safetensors

PathLike = str | os.PathLike[str]


def load_bert(
    config: PathLike, weights: PathLike | None = None, *, token_types: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Graph:  # fmt: skip
    """A BERT encoder out of its folder, or its `config.json` and `model.safetensors`.

    Inputs: input_ids and attention_mask (1 where there is a token), i64[batch,sequence], and with
    `token_types` token_type_ids (otherwise all are of type 0). Outputs: last_hidden_state
    f32[batch,sequence,hidden] and sentence_embedding f32[batch,hidden], the mean over the tokens
    scaled to length 1. Dropout and the pooling layer have no part in either.

    Raises StorageError, LimitError; ModelError for damaged or lying files, with the file and the
    tensor; UnsupportedError for another kind of model.
    """
    where = Path(config)
    if where.is_dir():
        where = where / "config.json"
    weights = where.with_name("model.safetensors") if weights is None else weights
    sizes = read_config(where)
    tensors = read_safetensors(weights, limits)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors else ""
    try:
        graph = build_bert(sizes, Weights(tensors, prefix), token_types=token_types)
        verify(graph, limits)
    except TautError as error:
        raise error.with_context(file=weights)
    return graph


def build_bert(c: BertConfig, weights: Weights, *, token_types: bool = False) -> Graph:
    """The graph of `load_bert` from weights by name."""
    encoder = _Encoder(c, weights)
    b = encoder.b
    ids = b.input("input_ids", "i64", ("batch", "sequence"))
    mask = b.input("attention_mask", "i64", ("batch", "sequence"))
    types = b.input("token_type_ids", "i64", ("batch", "sequence")) if token_types else None
    x = encoder.embed(ids, types)
    keep = b.unsqueeze(b.cast(mask, to=DType.bool), np.array([1, 2]), name="mask")
    for i in range(c.num_hidden_layers):
        x = encoder.layer(x, keep, f"encoder.layer.{i}")
    graph = b.outputs(last_hidden_state=x, sentence_embedding=encoder.pool(x, mask))
    graph.name = "bert"
    graph.require(f"sequence <= {c.max_position_embeddings}")
    return graph


class _Encoder:
    """Builds the parts; names follow the checkpoint's."""

    def __init__(self, c: BertConfig, weights: Weights) -> None:
        self.c, self.weights, self.b = c, weights, Builder()

    def embed(self, ids: Value, types: Value | None) -> Value:
        c, b, w, at = self.c, self.b, self.weights, "embeddings"
        h = c.hidden_size
        words = w(f"{at}.word_embeddings.weight", c.vocab_size, h)
        places = w(f"{at}.position_embeddings.weight", c.max_position_embeddings, h)
        kinds = w(f"{at}.token_type_embeddings.weight", c.type_vocab_size, h)
        length = b.shape(ids, start=1, end=2, name=f"{at}.length")
        # Without token types all are of type 0, which then goes into the positions' table. The
        # reshape changes nothing, but says that there is a row for each token.
        table = places if types is not None else places + kinds[0]
        rows = b.slice(b.constant(table, f"{at}.positions"), np.array([0]), length, np.array([0]),
                       name=f"{at}.slice")  # fmt: skip
        rows = b.reshape(rows, b.concat(length, np.array([h]), axis=0), name=f"{at}.position")
        x = b.gather(b.constant(words, f"{at}.words"), ids, axis=0, name=f"{at}.word")
        if types is not None:
            x = b.add(x, b.gather(b.constant(kinds, f"{at}.types"), types, axis=0))
        return self.norm(b.add(x, rows, name=f"{at}.sum"), f"{at}.LayerNorm")

    def layer(self, x: Value, keep: Value, at: str) -> Value:
        """Attention and a two-layer network, each summed with its input and normalized."""
        c, b = self.c, self.b
        h, n, inner = c.hidden_size, c.num_attention_heads, c.intermediate_size
        inside = f"{at}.attention.self"
        q, k, v = (self.linear(x, f"{inside}.{name}", h, h) for name in ("query", "key", "value"))
        seen = b.attention(q, k, v, keep, q_num_heads=n, kv_num_heads=n, name=f"{at}.attention")
        y = self.linear(seen, f"{at}.attention.output.dense", h, h)
        x = self.norm(b.add(y, x, name=f"{at}.attention.sum"), f"{at}.attention.output.LayerNorm")
        y = self.linear(x, f"{at}.intermediate.dense", h, inner)
        op, attributes = c.activation
        y = getattr(b, op)(y, name=f"{at}.intermediate", **attributes)
        y = self.linear(y, f"{at}.output.dense", inner, h)
        return self.norm(b.add(y, x, name=f"{at}.sum"), f"{at}.output.LayerNorm")

    def linear(self, x: Value, at: str, wide: int, out: int) -> Value:
        """x @ weight^T + bias, the weight stored transposed: as a matrix product reads it."""
        b = self.b
        weight: Array = np.ascontiguousarray(self.weights(f"{at}.weight", out, wide).T)
        product = b.mat_mul(x, b.constant(weight, f"{at}.weight"), name=f"{at}.product")
        return b.add(product, b.constant(self.weights(f"{at}.bias", out), f"{at}.bias"), name=at)

    def norm(self, x: Value, at: str) -> Value:
        scale, bias = (
            self.b.constant(self.weights(f"{at}.{k}", self.c.hidden_size), f"{at}.{k}")
            for k in ("weight", "bias")
        )
        return self.b.layer_normalization(x, scale, bias, epsilon=self.c.layer_norm_eps, name=at)

    def pool(self, x: Value, mask: Value) -> Value:
        """The mean of the rows that count, scaled to length 1."""
        b = self.b
        weight = b.cast(b.unsqueeze(mask, np.array([2])), to=DType.f32, name="pool.weight")
        axes = np.array([1])
        total = b.reduce_sum(b.mul(x, weight), axes, keepdims=False, name="pool.sum")
        count = b.reduce_sum(weight, axes, keepdims=False, name="pool.count")
        mean = b.div(total, b.max(count, np.float32(1e-9)), name="pool.mean")
        length = b.reduce_l2(mean, np.array([1]), name="pool.length")
        return b.div(mean, b.max(length, np.float32(1e-12)), name="sentence")

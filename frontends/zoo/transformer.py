"""Transformers over tokens: an encoder that classifies, decoders that predict the next token."""

from __future__ import annotations

import numpy as np

from ...ir import DType, Graph, Value
from ..builder import SMALL_NORMAL, Network
from ..transformers import DecoderConfig, build_decoder
from .registry import entry


@entry("transformer-encoder")
def transformer_encoder(
    classes: int = 2, size: int = 128, vocabulary: int = 1000, hidden: int = 64, layers: int = 2,
    heads: int = 4, width: float = 1.0, dropout: float = 0.0, seed: int = 0,
) -> Graph:  # fmt: skip
    """An encoder as BERT's (Devlin et al., 2019) without token types, and a linear layer over its
    first token.

    input_ids, attention_mask (1 where there is a token) i64[batch,sequence] -> scores
    f32[batch,classes]; a sequence has at most `size` tokens. The two-layer networks are 4 * `width`
    times `hidden` wide. `dropout` puts dropout where BERT has it, but for the attention's weights.
    """
    net = Network(seed=seed)
    ids, mask = (net.input(n, ("sequence",), "i64") for n in ("input_ids", "attention_mask"))
    keep = net.b.cast(mask, to=DType.bool, name="mask.bool")
    keep = net.b.unsqueeze(keep, np.array([1, 2]), name="mask")
    with net.scope("embeddings"):
        x = _embed(net, ids, vocabulary, size, hidden)
        x = _drop(net, net.layer_norm(x, epsilon=1e-12, name="norm"), dropout)
    inner = max(1, round(4 * width * hidden))
    for i in range(layers):
        with net.scope("layer"), net.scope(str(i)):
            y = net.multi_head_attention(x, heads, mask=keep, init=SMALL_NORMAL)
            x = net.b.add(x, _drop(net, y, dropout), name=net.path("sum1", "sum1"))
            x = net.layer_norm(x, epsilon=1e-12, name="norm1")
            y = _drop(net, _mlp(net, x, inner, "none"), dropout)
            x = net.b.add(x, y, name=net.path("sum2", "sum2"))
            x = net.layer_norm(x, epsilon=1e-12, name="norm2")
    first = net.b.gather(x, np.int64(0), axis=1, name="first")
    return net.outputs(scores=net.classifier(first, classes))


@entry("transformer-decoder")
def transformer_decoder(
    vocabulary: int = 1000, size: int = 128, hidden: int = 64, layers: int = 2, heads: int = 4,
    width: float = 1.0, dropout: float = 0.0, seed: int = 0,
) -> Graph:  # fmt: skip
    """A decoder as GPT-2 (Radford et al., 2019): causal attention, layer norms before each part,
    and the embedding's table again for the scores.

    input_ids i64[batch,sequence] -> logits f32[batch,sequence,vocabulary]; `size`, `width` and
    `dropout` as in the encoder.
    """
    net = Network(seed=seed)
    ids = net.input("input_ids", ("sequence",), "i64")
    with net.scope("embeddings"):
        x = _drop(net, _embed(net, ids, vocabulary, size, hidden), dropout)
    inner = max(1, round(4 * width * hidden))
    for i in range(layers):
        with net.scope("layer"), net.scope(str(i)):
            y = net.layer_norm(x, name="norm1")
            y = net.multi_head_attention(y, heads, causal=True, init=SMALL_NORMAL)
            x = net.b.add(x, _drop(net, y, dropout), name=net.path("sum1", "sum1"))
            y = _mlp(net, net.layer_norm(x, name="norm2"), inner, "tanh")
            x = net.b.add(x, _drop(net, y, dropout), name=net.path("sum2", "sum2"))
    x = net.layer_norm(x, name="norm")
    words = net.b.graph["embeddings.word.weight"][0]
    head = net.b.transpose(words, perm=(1, 0), name="head")
    return net.outputs(logits=net.b.mat_mul(x, head, name="logits"))


def _embed(net: Network, ids: Value, vocabulary: int, size: int, hidden: int) -> Value:
    words = net.embedding(ids, vocabulary, hidden, name="word")
    return net.b.add(words, net.positions(ids, size, hidden), name=net.path("sum", "sum"))


def _mlp(net: Network, x: Value, inner: int, approximate: str) -> Value:
    y = net.linear(x, inner, init=SMALL_NORMAL, name="up")
    y = net.activation(y, "gelu", name="gelu", approximate=approximate)
    return net.linear(y, net.size(x, 2), init=SMALL_NORMAL, name="down")


def _drop(net: Network, x: Value, ratio: float) -> Value:
    return net.dropout(x, ratio) if ratio else x


@entry("llama-decoder")
def llama_decoder(
    vocabulary: int = 256, size: int = 128, hidden: int = 64, layers: int = 2, heads: int = 4,
    kv_heads: int = 2, width: float = 1.0, seed: int = 0,
) -> Graph:  # fmt: skip
    """A decoder of the Llama kind (Touvron et al., 2023) with its cache of keys and values as
    inputs and outputs: see `taut.frontends.transformers.build_decoder`.

    The gated networks are 2 * `width` times `hidden` wide.
    """
    inner = max(1, round(2 * width * hidden))
    return build_decoder(
        DecoderConfig(vocab_size=vocabulary, hidden_size=hidden, layers=layers, heads=heads,
                      kv_heads=kv_heads, intermediate_size=inner, positions=size), seed
    )  # fmt: skip

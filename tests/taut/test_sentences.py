"""Sentences, their tokens, and what an encoder makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from taut.frontends.transformers import load_bert

import taut
from taut.sentences import WordPiece, sentences, token_rows


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    try:
        return WordPiece(taut.samples.fetch("minilm-vocabulary"))
    except taut.samples.SampleError as error:
        pytest.skip(f"the vocabulary cannot be had: {error}")


def test_tokens_are_berts(tokenizer: WordPiece) -> None:
    assert tokenizer.tokens("Hello, world!") == [7592, 1010, 2088, 999]
    assert tokenizer.tokens("Caf\u00e9 unaffable") == [7668, 14477, 20961, 3468]
    assert tokenizer.tokens("\u16a0\u16a1") == [tokenizer.unknown]


def test_rows_are_cut_and_padded(tokenizer: WordPiece) -> None:
    ids, mask = tokenizer.batch(["one two", "one two three four five"], 5)
    assert ids[0].tolist() == [101, 2028, 2048, 102, 0] and mask[0].tolist() == [1, 1, 1, 1, 0]
    assert ids[1, -1] == 102 and mask[1].all()


def test_rows_of_text_are_long_enough_and_repeatable(tokenizer: WordPiece) -> None:
    assert len(sentences()) > 500
    ids, mask = token_rows(tokenizer, 6, 32, seed=1)
    assert ids.shape == mask.shape == (6, 32) and (mask.sum(1) >= 16).all()
    np.testing.assert_array_equal(ids, token_rows(tokenizer, 6, 32, seed=1)[0])


def test_like_sentences_embed_near_each_other(tokenizer: WordPiece) -> None:
    graph = load_bert(taut.samples.fetch("minilm-config"), taut.samples.fetch("minilm"))
    texts = ["A man is playing a guitar.", "Someone plays music on a guitar.",
             "The stock market fell sharply today."]  # fmt: skip
    made = taut.reference(graph, *tokenizer.batch(texts, 16))["sentence_embedding"]
    near, far = made[0] @ made[1], made[0] @ made[2]
    assert near > 0.7 and far < 0.2

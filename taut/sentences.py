"""Sentences and their tokens, to run text encoders on: for tests and benchmarks.

The sentences are those of Python's own documentation strings: English, and at hand everywhere.
The tokenizer is BERT's (Devlin et al., 2019): lower case without accents, split at spaces and
punctuation, then the longest known pieces from the left ("WordPiece", Schuster and Nakajima, 2012).
"""

from __future__ import annotations

import functools
import importlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MODULES = (
    "argparse", "asyncio.events", "bisect", "collections", "concurrent.futures._base", "contextlib",
    "csv", "datetime", "decimal", "difflib", "email.message", "fractions", "functools", "gettext",
    "heapq", "http.client", "inspect", "json", "logging", "mailbox", "os", "pathlib", "pickle",
    "random", "shutil", "smtplib", "socket", "statistics", "string", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "unittest.case", "urllib.request", "zipfile",
)  # fmt: skip
_LONGEST_WORD = 100


@functools.cache
def sentences() -> tuple[str, ...]:
    """English sentences of five words or more, each once, in a fixed order."""
    found: dict[str, None] = {}
    for name in _MODULES:
        module = importlib.import_module(name)
        things = [module, *(getattr(module, n) for n in sorted(vars(module)))]
        parts = [m for c in things if isinstance(c, type) for _, m in sorted(vars(c).items(),
                                                                             key=lambda p: p[0])]
        for thing in [*things, *parts]:
            text = getattr(thing, "__doc__", None)
            for paragraph in re.split(r"\n\s*\n", text if isinstance(text, str) else ""):
                plain = " ".join(paragraph.split())
                for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", plain):
                    if re.match(r"[A-Z][a-z]* .*[a-z][.!?]$", sentence) and sentence.count(" ") > 3:
                        found[sentence] = None
    return tuple(found)


class WordPiece:
    """Text to token numbers by a `vocab.txt`, one piece a line, the line's number its token."""

    def __init__(self, vocabulary: str | Path) -> None:
        lines = Path(vocabulary).read_text(encoding="utf-8").splitlines()
        self.numbers = {piece: i for i, piece in enumerate(lines)}
        self.start, self.end, self.unknown, self.padding = (
            self.numbers[p] for p in ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
        )

    def tokens(self, text: str) -> list[int]:
        """The text's own tokens, without start and end."""
        return [t for word in self.words(text) for t in self.pieces(word)]

    def words(self, text: str) -> list[str]:
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        return re.findall(r"\w+|[^\w\s]", plain.replace("_", " _ "))

    def pieces(self, word: str) -> list[int]:
        """The longest known piece from the left, again and again; unknown if one fails."""
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(min(len(word), start + _LONGEST_WORD), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.numbers), 0)
            if not end:
                return [self.unknown]
            found.append(self.numbers[prefix + word[start:end]])
            start = end
        return found

    def batch(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """input_ids and attention_mask i64[texts, length]; longer texts are cut, shorter padded."""
        ids = np.full((len(texts), length), self.padding, np.int64)
        mask = np.zeros_like(ids)
        for k, text in enumerate(texts):
            row = [self.start, *self.tokens(text)[: length - 2], self.end]
            ids[k, : len(row)], mask[k, : len(row)] = row, 1
        return ids, mask


def token_rows(
    tokenizer: WordPiece, n: int, length: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`n` rows of running text for an encoder, half to all of `length` tokens each."""
    random = np.random.default_rng([seed, 9])
    known, texts = sentences(), []
    for _ in range(n):
        want, text = int(random.integers(length // 2, length + 1)), ""
        while len(text.split()) < want:  # a word is a token or more
            text += " " + known[random.integers(len(known))]
        texts.append(" ".join(text.split()[:want]))
    return tokenizer.batch(texts, length)

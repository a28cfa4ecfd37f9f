"""The text files of the "Optical Recognition of Handwritten Digits" data set (Alpaydin and Kaynak,
1998): a line has 64 pixels of 0 to 16, row by row, and the digit, separated by commas.
"""

from __future__ import annotations

import os

import numpy as np

from taut.ir import DEFAULT_LIMITS, FeedError, Limits, ModelError
from taut.ir.files import read_bounded

from .dataset import Dataset

MAX_FILE = 64 << 20
_PIXELS, _LARGEST, _DIGITS = 64, 16, 10


def from_optdigits(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> Dataset:
    """A data set f32[n,1,8,8] from 0 to 1, with 10 classes.

    Raises StorageError, LimitError, ModelError that names the line, FeedError for no lines.
    """
    text = read_bounded(path, MAX_FILE)
    rows = [_row(line, number, path) for number, line in enumerate(text.splitlines(), 1)
            if line.strip()]  # fmt: skip
    if not rows:
        raise FeedError("holds no digits", file=path)
    table = np.array(rows, np.uint8)
    images = table[:, :_PIXELS].reshape(-1, 1, 8, 8).astype(np.float32) / _LARGEST
    return Dataset.of(images, table[:, _PIXELS], _DIGITS, limits=limits)


def _row(line: bytes, number: int, path: object) -> list[int]:
    fields = line.split(b",")
    if len(fields) != _PIXELS + 1:
        raise ModelError(f"line {number} has {len(fields)} numbers, not {_PIXELS + 1}", file=path)
    # isdigit before int: no signs, underscores or endless digits.
    values = [int(f) if len(f) < 4 and f.isdigit() else -1 for f in (f.strip() for f in fields)]
    *pixels, digit = values
    if min(values) < 0 or max(pixels) > _LARGEST or digit >= _DIGITS:
        raise ModelError(f"line {number} is not pixels of 0 to {_LARGEST} and a digit", file=path)
    return values

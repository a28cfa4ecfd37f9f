"""Labelled images in memory, and mini-batches of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from taut.ir import DEFAULT_LIMITS, DType, FeedError, Limits, TensorType
from taut.ir.op import Array

MAX_CLASSES = 1 << 20  # a label far above any real one must not size anything

_PIECE = 1024  # images looked at together

Layout = Literal["NCHW", "NHWC"]
Augment = Callable[[Array, np.random.Generator], Array]
"""From images f32[b,c,h,w] and a generator to new images f32[b,c,h',w']."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images f32[n,channels,height,width] with labels i64[n], each from 0 to below `classes`.

    `names` are those of the classes, where they have any. Raises FeedError for arrays that are not
    so: other types, ranks or lengths, a NaN or an infinity, a label out of range.
    """

    images: Array
    labels: Array
    classes: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.float32 or images.ndim != 4:
            raise FeedError(f"images are {_kind(images)}, not f32[n,c,h,w]",
                            hint="Dataset.of converts other forms")  # fmt: skip
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise FeedError(f"labels are {_kind(labels)}, not i64[{len(images)}]")
        if not 1 <= self.classes <= MAX_CLASSES:
            raise FeedError(f"{self.classes} classes are not from 1 to {MAX_CLASSES}")
        if self.names and len(self.names) != self.classes:
            raise FeedError(f"{len(self.names)} names are given for {self.classes} classes")
        outside = (labels < 0) | (labels >= self.classes)
        if outside.any():
            at = int(outside.argmax())
            raise FeedError(f"label {at} is {labels[at]}, not from 0 to below {self.classes}")
        pieces = (images[i : i + _PIECE] for i in range(0, len(images), _PIECE))
        if not all(np.isfinite(piece).all() for piece in pieces):
            raise FeedError("an image holds NaN or an infinity")

    @classmethod
    def of(
        cls, images: Array, labels: Array, classes: int | None = None,
        names: Sequence[str] = (), layout: Layout = "NCHW", limits: Limits = DEFAULT_LIMITS,
    ) -> Dataset:  # fmt: skip
        """A data set of arrays in other forms.

        Images may be f32, f64 or f16, or u8 from 0 to 255, which become 0 to 1; of rank 4, or 3
        without channels. Labels may be of any integer type, i64[n] or i64[n,1]. `classes` is one
        more than the largest label by default. Raises FeedError, LimitError.
        """
        pixels, marks = _images(images, layout, limits), _labels(labels)
        if classes is None:
            classes = len(names) or int(marks.max(initial=0)) + 1
        return cls(pixels, marks, classes, tuple(names))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return self.images.shape[1:]

    def __getitem__(self, which: slice | Array) -> Dataset:
        """Some of the images: a slice, indices i64[k] or a mask bool[n]."""
        return replace(self, images=self.images[which], labels=self.labels[which])

    def split(self, validation: float | int, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(training, validation): a share below 1 or a number of images goes to validation, drawn
        by the seed. Raises FeedError where either would be empty.
        """
        count = validation if isinstance(validation, int) else round(validation * len(self))
        if not 0 < count < len(self):
            raise FeedError(f"a validation part of {validation} leaves {count} of {len(self)} "
                            "images", hint="give a share below 1 or a number")  # fmt: skip
        order = np.random.default_rng(seed).permutation(len(self))
        return self[np.sort(order[count:])], self[np.sort(order[:count])]

    def normalized(self, mean: Sequence[float], deviation: Sequence[float]) -> Dataset:
        """(x - mean) / deviation, one number for each channel (or one for all)."""
        c = self.shape[0]
        shift, scale = (np.asarray(v, np.float32).reshape(-1) for v in (mean, deviation))
        if not {len(shift), len(scale)} <= {1, c} or not (scale > 0).all():
            raise FeedError(f"mean and deviation are not numbers for {c} channels, deviation > 0")
        made = (self.images - shift.reshape(-1, 1, 1)) / scale.reshape(-1, 1, 1)
        return replace(self, images=made)

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, drop_last: bool = False,
        augment: Augment | None = None,
    ) -> Batches:  # fmt: skip
        """Mini-batches (images, labels), in order, or shuffled where a seed is given.

        Seed and epoch fix order and augmentation; `augment` without a seed takes seed 0.
        """
        return Batches(self, size, seed, epoch, drop_last, augment)

    def inputs(self, size: int) -> Batches:
        """Mini-batches of images alone, as `taut.quantize` and `taut.compare` take them."""
        return Batches(self, size, with_labels=False)


@dataclass(frozen=True)
class Batches:
    """An iterable over mini-batches that gives the same ones each time; `len()` counts them."""

    data: Dataset
    size: int
    seed: int | None = None
    epoch: int = 0
    drop_last: bool = False
    augment: Augment | None = None
    with_labels: bool = True

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise FeedError(f"a batch of {self.size!r} images is not of 1 or more")
        if min(self.epoch, self.seed or 0) < 0:
            raise FeedError("seed and epoch are 0 or more")

    def __len__(self) -> int:
        count = len(self.data)
        return count // self.size if self.drop_last else math.ceil(count / self.size)

    def __iter__(self) -> Iterator[Any]:
        order = np.arange(len(self.data))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.data))
        for i in range(len(self)):
            which = order[i * self.size : (i + 1) * self.size]
            images = self._augmented(self.data.images[which], i)
            yield (images, self.data.labels[which]) if self.with_labels else images

    def _augmented(self, images: Array, index: int) -> Array:
        """Each batch has a generator of its own, so that batches can be made in any order."""
        if self.augment is None:
            return images
        random = np.random.default_rng([self.seed or 0, self.epoch, index])
        made = self.augment(images, random)
        fits = isinstance(made, np.ndarray) and made.dtype == np.float32 and made.ndim == 4
        if not fits or made.shape[:2] != images.shape[:2]:
            got = _kind(made) if isinstance(made, np.ndarray) else type(made).__name__
            raise FeedError(f"augmentation made {got} of {_kind(images)}",
                            hint="keep f32, the number of images and the channels")  # fmt: skip
        return made


def _images(images: Array, layout: Layout, limits: Limits) -> Array:
    images = np.asarray(images)
    if layout not in ("NCHW", "NHWC"):
        raise FeedError(f"layout is {layout!a}, not NCHW or NHWC")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise FeedError(f"images are {_kind(images)}, not floats or u8")
    if images.ndim == 3:
        images = images[:, None] if layout == "NCHW" else images[..., None]
    if images.ndim != 4:
        raise FeedError(f"images are {_kind(images)}, not of rank 3 or 4")
    limits.check(TensorType(DType.f32, images.shape), "the images")
    if layout == "NHWC":
        images = images.transpose(0, 3, 1, 2)
    with np.errstate(over="ignore"):  # an infinity is refused by the data set
        made = np.ascontiguousarray(images, np.float32)
    if images.dtype == np.uint8:
        made /= 255
    return made


def _labels(labels: Array) -> Array:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise FeedError(f"labels are {_kind(labels)}, not integers of rank 1")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < MAX_CLASSES:
        raise FeedError(f"labels from {labels.min()} to {labels.max()} are not from 0 to below "
                        f"{MAX_CLASSES}")  # fmt: skip
    return labels.astype(np.int64)


def _kind(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"

"""IDX, the format of the MNIST files, gzipped or not.

Two zero bytes, the element type, the rank; each dimension as 4 bytes, big endian; the elements, row
major, big endian (Y. LeCun, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

import numpy as np

from taut.ir import (
    DEFAULT_LIMITS,
    DType,
    FeedError,
    Limits,
    ModelError,
    StorageError,
    TautError,
    TensorType,
)
from taut.ir.files import read_bounded
from taut.ir.op import Array

from .dataset import Dataset

PathLike = str | os.PathLike[str]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_RANK = 8
_PIECE = 1 << 20


def read_idx(path: PathLike, limits: Limits = DEFAULT_LIMITS) -> Array:
    """The array of an IDX file, in the machine's byte order.

    Raises StorageError (cannot be read), LimitError (too large), ModelError: another magic number,
    a size that is not the file's, damaged compression. Sizes are checked before anything is
    allocated, and a gzipped file is unpacked no further than its header says.
    """
    data = read_bounded(path, limits.model_bytes)
    try:
        packed = data[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data)
        dtype, shape = _header(stream)
        type = TensorType(DType.of(dtype.newbyteorder("=")), shape)
        limits.check(type, "the array")
        body = _body(stream, type.nbytes)
    except TautError as error:
        raise error.with_context(file=path)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"is damaged: its gzip stream ends or breaks ({error})",
                         file=path) from error  # fmt: skip
    array = np.frombuffer(body, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _header(stream: io.BytesIO | gzip.GzipFile) -> tuple[np.dtype, tuple[int, ...]]:
    magic = stream.read(4)
    kind = _TYPES.get(magic[2]) if len(magic) == 4 and magic[:2] == b"\0\0" else None
    if kind is None or not 1 <= magic[3] <= _MAX_RANK:
        raise ModelError(f"is no IDX file: it begins with {magic.hex() or 'nothing'}",
                         hint="images begin with 00000803, labels with 00000801")  # fmt: skip
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ModelError("is cut off within its header")
    return np.dtype(kind), tuple(int(n) for n in np.frombuffer(sizes, ">u4"))


def _body(stream: io.BytesIO | gzip.GzipFile, size: int) -> bytearray:
    """Exactly the rest. Grows with what is there, so that a lying header allocates nothing."""
    found = bytearray()
    while len(found) <= size:
        piece = stream.read(min(_PIECE, size + 1 - len(found)))
        if not piece:
            break
        found += piece
    if len(found) != size:
        has = f"only {len(found)}" if len(found) < size else "more"
        raise ModelError(f"wants {size} bytes by its header and has {has}")
    return found


def from_idx(
    images: PathLike, labels: PathLike | None = None, *, classes: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Dataset:  # fmt: skip
    """A data set of two IDX files: u8[n,h,w] and u8[n]. Pixels become 0 to 1.

    The file of labels is by default the one named as the images' with `labels-idx1` in place of
    `images-idx3`. Raises as `read_idx` does, and FeedError where the two do not fit.
    """
    labels = labels_beside(images) if labels is None else labels
    pixels, marks = read_idx(images, limits), read_idx(labels, limits)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise FeedError(f"holds {pixels.dtype}{list(pixels.shape)}, not images u8[n,h,w]",
                        file=images)  # fmt: skip
    if marks.shape != pixels.shape[:1]:
        raise FeedError(f"holds {marks.dtype}{list(marks.shape)}, not labels for {len(pixels)} "
                        "images", file=labels)  # fmt: skip
    try:
        return Dataset.of(pixels, marks, classes, limits=limits)
    except TautError as error:
        raise error.with_context(file=labels)


def labels_beside(images: PathLike) -> Path:
    """The labels' file of an images' file. Raises StorageError where the name does not tell."""
    path = Path(images)
    name = path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1")
    if name == path.name:
        raise StorageError("does not say where its labels are", file=images,
                           hint="name them, or call the files ...images-idx3... and "
                           "...labels-idx1...")  # fmt: skip
    return path.with_name(name)

"""Arrays in files: `.npy`, `.npz` and `.safetensors`, read without ever unpickling, written whole
or not at all.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

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
)
from taut.ir.container import writing_zip
from taut.ir.files import read_bounded, write_atomic
from taut.ir.op import Array

SUFFIXES = (".npy", ".npz", ".safetensors")


def read_arrays(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> dict[str, Array]:
    """Arrays by name; a `.npy` file's one array has the name "". Raises TautError."""
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            return _read_npz(path, limits)
        if suffix == ".safetensors":
            return dict(load_tensors(read_bounded(path, limits.model_bytes)))
    except TautError as error:
        raise error.with_context(file=path)
    except OSError as error:
        raise StorageError(f"cannot be read ({error.strerror or error})", file=path) from error
    except (ValueError, KeyError, EOFError, TypeError, SyntaxError, OverflowError, zlib.error,
            zipfile.BadZipFile, NotImplementedError, RuntimeError, SafetensorError,
            tokenize.TokenError) as error:  # fmt: skip
        raise ModelError(f"is not a sound {suffix} file ({error})", file=path) from error
    raise FeedError("is no data file", file=path, hint="use .npy, .npz or .safetensors")


def _read_npz(path: str | os.PathLike[str], limits: Limits) -> dict[str, Array]:
    """Each member's header is held against the archive's directory before it is allocated."""
    found: dict[str, Array] = {}
    total = 0
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                _check_member(info, *_header(member), limits)
            total += info.file_size
            if total > limits.model_bytes:
                raise LimitError(f"holds over {limits.model_bytes} bytes", file=path)
            with archive.open(info) as member:
                name = info.filename.removesuffix(".npy")
                found[name] = np.lib.format.read_array(member, allow_pickle=False)
    return found


def _header(member: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype that a `.npy` stream states."""
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}[version]  # fmt: skip
    shape, _, dtype = read(member)
    return shape, dtype


def _check_member(
    info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: Any, limits: Limits
) -> None:
    name = ascii(info.filename)
    if dtype.hasobject:
        raise ModelError(f"{name} holds Python objects, which are never unpickled",
                         hint="store numbers: array.astype(np.float32)")  # fmt: skip
    limits.check(TensorType(DType.of(dtype), shape), name)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ModelError(f"{name} has {info.file_size} bytes, too few for {dtype}{list(shape)}")


def write_arrays(arrays: Mapping[str, Array], path: str | os.PathLike[str]) -> None:
    """Write `.npz`, `.safetensors`, or `.npy` (one array only), whole or not at all."""
    buffer, suffix = io.BytesIO(), Path(path).suffix.lower()
    if suffix == ".npy" and len(arrays) == 1:
        np.save(buffer, next(iter(arrays.values())), allow_pickle=False)
    elif suffix == ".npz":
        with writing_zip(buffer) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    elif suffix == ".safetensors":
        buffer.write(save_tensors({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    else:
        hint = "use .npz or .safetensors (.npy for one array)"
        raise StorageError("cannot hold these arrays", file=path, hint=hint)
    write_atomic(path, buffer.getvalue())

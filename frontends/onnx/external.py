"""Tensor bytes that lie in files beside the model, and nowhere else.

A model says `location`, `offset` and `length`. The location must be a plain relative path inside
the model's folder; symbolic links anywhere on the way, files with several hard links and anything
but regular files are refused, so that a model from a stranger cannot read other files of the user.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from ...ir import ModelError, StorageError

_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def read_external(entries: dict[str, str], folder: Path | None, nbytes: int) -> bytes:
    """The `nbytes` bytes of one tensor. Raises ModelError (StorageError where the disk fails)."""
    strange = set(entries) - {"location", "offset", "length", "checksum", "basepath"}
    if strange or "location" not in entries:
        raise ModelError("its external data has no location or unknown keys")
    if folder is None:
        raise ModelError(
            "its data lie in another file, and the model was not read from a folder",
            hint="load the model by its path",
        )
    offset = _number(entries.get("offset", "0"), "offset")
    length = _number(entries["length"], "length") if "length" in entries else nbytes
    if length != nbytes:
        raise ModelError(f"its external data have {length} bytes, its type needs {nbytes}")
    with _open(entries["location"], folder) as file:
        size = os.fstat(file.fileno()).st_size
        if offset + length > size:
            raise ModelError(
                f"its external data end at byte {offset + length} of a file of {size} bytes",
                hint="copy the data file again",
            )
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise StorageError("the external data could not be read to the end", file=folder)
    return data


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ModelError(f"the {what} of its external data is no number")
    return int(text)


def _open(location: str, folder: Path) -> BinaryIO:
    """Open a file below `folder`, checked component by component."""
    windows = PureWindowsPath(location)
    parts = PurePosixPath(location).parts
    if (
        not parts or "\0" in location or ".." in parts or ".." in windows.parts
        or location.startswith(("/", "\\")) or windows.drive
    ):  # fmt: skip
        raise ModelError(f"its external data leave the model's folder ({location[:80]!a})")
    path = folder
    try:
        for part in parts:
            path = path / part
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise ModelError(f"its external data go through a link ({location[:80]!a})",
                                 hint="copy the file instead of linking it")  # fmt: skip
        handle = os.open(path, os.O_RDONLY | _NO_WAIT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"its external data {location[:80]!a} cannot be read ({reason})"
        raise ModelError(what) from error
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        os.close(handle)
        raise ModelError(
            f"its external data {location[:80]!a} are not a plain file with one name",
            hint="copy the file instead of linking it",
        )
    return os.fdopen(handle, "rb")

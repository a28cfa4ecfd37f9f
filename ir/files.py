"""Reading and writing files so that nothing is ever half-written or read without a bound."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from .errors import LimitError, StorageError


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write through a temporary file in the same folder, fsync, rename. Raises StorageError.

    A link is followed. A device or a pipe is written to as it stands: it must not be replaced.
    """
    target = Path(os.path.realpath(path))
    temporary: str | None = None
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise StorageError(
            f"cannot be written ({_reason(error)})",
            file=path,
            hint="check the folder and its space",
        ) from error


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises StorageError, LimitError."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise StorageError("is not a regular file", file=path)
            if info.st_size > limit:
                raise LimitError(f"has {info.st_size} bytes, over the limit of {limit}", file=path)
            return file.read(info.st_size + 1)  # read() allocates what it is asked for
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot be read ({_reason(error)})", file=path) from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe without a writer would never come back."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

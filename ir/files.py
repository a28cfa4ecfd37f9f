"""Reading and writing files so that nothing is ever half-written or read without a bound.

A file is written as a *draft* beside it (`.NAME.HEX.draft`), synced and renamed. Its writer holds a
lock on the draft for as long as it is at work, so that the next save can tell a draft that somebody
writes from one that a killed process left, and clears the latter away.

Where a model is two files, the second one's name holds a digest of its contents, which the first
one holds too (`companion`): whoever reads the first finds what belongs to it or nothing, whenever a
save was killed and however many save at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import secrets
import stat
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO, cast

from .errors import LimitError, StorageError

try:
    import fcntl
except ImportError:  # there an open file cannot be removed, which serves as well
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]

_DIGEST = 8  # bytes of the digest that binds two files


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write a file whole or not at all. Raises StorageError.

    A link is followed. A device or a pipe is written to as it stands: it must not be replaced.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
    """A file to write into that takes the place of `path` when the block ends well.

    Raises StorageError; whatever is raised, the old file then stays as it was.
    """
    with _reported(path):
        target = _real(path)
        if target.exists() and not target.is_file() and not target.is_dir():
            with open(target, "wb") as file:
                yield file
            return
        with _Draft(target) as draft:
            yield draft.file
            draft.put(target)


class Companion:
    """The second file of a model that is two, as it is written.

    Write into `file`, then `seal()`, then write the first file with what that returned in it.
    """

    def __init__(self, draft: _Draft, first: Path, suffix: str) -> None:
        self.file = draft.file
        self._draft, self._first, self._suffix = draft, first, suffix

    def seal(self) -> str:
        """The digest, when the file stands where `companion_path(first, digest, suffix)` says."""
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, _hash).hexdigest()
        self._draft.put(companion_path(self._first, digest, self._suffix))
        return digest


@contextlib.contextmanager
def companion(path: PathLike, suffix: str) -> Iterator[Companion]:
    """Write `path` and a file beside it that belongs to it. Raises StorageError.

    At the end, companions to which `path` does not refer are removed.
    """
    with _reported(path):
        first = _real(path)
        try:
            with _Draft(first) as draft:
                yield Companion(draft, first, suffix)
        finally:
            remove_companions(first, suffix)


def companion_path(path: PathLike, digest: str, suffix: str) -> Path:
    """Where the companion of `path` with these contents is. Raises StorageError."""
    with _reported(path):
        return Path(f"{_real(path)}.{digest}{suffix}")


def digest_of(data: bytes) -> str:
    """What binds a companion with these contents to its first file."""
    return _hash(data).hexdigest()


def remove_companions(path: PathLike, suffix: str) -> None:
    """Remove companions to which the first file does not refer, unless somebody is saving them."""
    first = _real(path)
    name = re.compile(rf"{re.escape(first.name)}\.([0-9a-f]{{{2 * _DIGEST}}}){re.escape(suffix)}")
    for entry in _entries(first.parent):
        found = name.fullmatch(entry)
        # Asked under the lock: a save holds it until its first file refers to the second.
        if found:
            _remove_if_left(first.parent / entry, lambda d=found[1]: not _holds(first, d))


def remove_drafts(path: PathLike) -> None:
    """Remove drafts of `path` that nobody writes any more."""
    target = Path(os.path.realpath(path))
    name = re.compile(rf"{re.escape(_draft_prefix(target))}[0-9a-f]{{16}}\.draft")
    for entry in _entries(target.parent):
        if name.fullmatch(entry):
            _remove_if_left(target.parent / entry, lambda: True)


def read_bounded(path: PathLike, limit: int) -> bytes:
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


class _Draft:
    """A file beside `target` that is removed at the end unless it was put somewhere."""

    def __init__(self, target: Path) -> None:
        remove_drafts(target)
        self._path: Path | None = None
        while True:
            path = target.parent / f"{_draft_prefix(target)}{secrets.token_hex(8)}.draft"
            self._path = path
            self.file = cast(BufferedRandom, open(path, "x+b", opener=_create))  # noqa: SIM115
            _lock(self.file, wait=True)
            if os.path.exists(path):
                return
            self.file.close()  # somebody took it for one that was left, before it was locked

    def put(self, place: Path) -> None:
        """Sync it and rename it to `place`, where it stays locked until the end."""
        assert self._path is not None
        self.file.flush()
        os.fsync(self.file.fileno())
        if fcntl is None:
            self.file.close()  # an open file cannot be renamed there
        os.replace(self._path, place)
        self._path = None

    def __enter__(self) -> _Draft:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def _real(path: PathLike) -> Path:
    """Where a path leads. Raises OSError for what cannot be one."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise OSError(str(error)) from error


def _draft_prefix(target: Path) -> str:
    return f".{target.name[:64]}."


def _create(path: str, flags: int) -> int:
    """Created with what the process's mask allows, as any new file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Whether the lock was had. Where files cannot be locked, who waits goes on without."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove_if_left(path: Path, unused: object) -> None:
    """Remove a file that no process has locked and that is `unused()`, asked under the lock."""
    with contextlib.suppress(OSError), open(path, "r+b", opener=_open_at_once) as file:
        if not _lock(file, wait=False) or not unused():  # type: ignore[operator]
            return
        if fcntl is None:
            file.close()
        os.unlink(path)


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _holds(path: Path, digest: str) -> bool:
    """Whether a file holds these characters. One that cannot be read may."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return data.find(digest.encode()) >= 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def _hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=_DIGEST)


@contextlib.contextmanager
def _reported(path: PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot be written ({_reason(error)})", file=path,
                           hint="check the folder and its space") from error  # fmt: skip


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe without a writer would never come back."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

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
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO, cast

from .errors import LimitError, StorageError

try:
    import fcntl
except ImportError:  # there an open file cannot be removed, which serves as well
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]

_SMALL = 1 << 26  # bytes; of larger files only those named alike are searched for a digest
_OPEN = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
_PATIENCE = 1.0  # seconds; who only looks at a file has it locked for a moment
_DIGEST = 8  # bytes of the digest that binds two files


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write a file whole or not at all. Raises StorageError.

    A link is followed. A device or a pipe is written to as it stands, as is what /dev/stdout leads
    to: it must not be replaced.
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
        if _is_stream(path, target):
            with open(path, "ab") as file:
                yield file
            return
        with _Draft(target) as draft:
            yield draft.file
            draft.put(target)


class Companion:
    """The second file of a model that is two, as it is written.

    Write into `file`, then `seal()`, then write the first file with what that returned in it.
    """

    def __init__(self, claims: _Claims, stack: contextlib.ExitStack) -> None:
        self._claims, self._stack = claims, stack

    @cached_property
    def _draft(self) -> _Draft:
        self._claims.add()
        return self._stack.enter_context(_Draft(self._claims.first))

    @property
    def file(self) -> BufferedRandom:
        return self._draft.file

    def seal(self) -> str:
        """The digest, when the file stands where `companion_path(first, digest, suffix)` says."""
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, _hash).hexdigest()
        self._claims.add(digest)
        place = companion_path(self._claims.first, digest, self._claims.suffix)
        if not self._there(place, digest):
            self._draft.put(place)
        return digest

    def _there(self, place: Path, digest: str) -> bool:
        """Whether the file stands there already; it is then locked, so that nobody removes it."""
        with contextlib.suppress(OSError):
            file = open(place, "r+b", opener=_open_at_once)  # noqa: SIM115
            self._stack.callback(file.close)
            return (_lock(file, _PATIENCE) and _is_at(file, place)
                    and hashlib.file_digest(file, _hash).hexdigest() == digest)  # fmt: skip
        return False


@contextlib.contextmanager
def companion(path: PathLike, suffix: str) -> Iterator[Companion]:
    """Write `path` and, where it needs one, a file beside it that belongs to it.

    At the end the companion that `path` had before is removed, unless a file beside it that may
    be a copy of it still refers to it. Raises StorageError.
    """
    with _reported(path):
        first = _real(path)
        with contextlib.ExitStack() as stack:
            claims = _Claims(first, suffix)
            if not _is_stream(path, first):
                stack.enter_context(claims)
            yield Companion(claims, stack)


def companion_path(path: PathLike, digest: str, suffix: str) -> Path:
    """Where the companion of `path` with these contents is. Raises StorageError."""
    with _reported(path):
        return Path(f"{_real(path)}.{digest}{suffix}")


def digest_of(data: bytes) -> str:
    """What binds a companion with these contents to its first file."""
    return _hash(data).hexdigest()


def remove_drafts(path: PathLike) -> None:
    """Remove drafts of `path` that nobody writes any more."""
    for draft in _locks(Path(os.path.realpath(path)), "draft"):
        _under_lock(draft, os.unlink)


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
        mode = _mode(target)
        made, file = _locked(target, "draft")
        self._path: Path | None = made
        self.file = file
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(self.file.fileno(), mode)

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


class _Claims:
    """The companions of `first` that a save may leave without a use: the one that it replaces and
    the one that it writes. They are removed at its end where nothing refers to them, and no others:
    who has renamed or moved a model finds its second file where it was.

    The digests stand in a file (`.NAME.HEX.claims`) that is locked meanwhile, so that the next save
    does for a killed one what that could not.
    """

    def __init__(self, first: Path, suffix: str) -> None:
        self.first, self.suffix = first, suffix
        self._path: Path | None = None

    def __enter__(self) -> _Claims:
        for path in _locks(self.first, "claims"):
            _under_lock(path, self._settle)
        self._path, self._file = _locked(self.first, "claims")
        found = re.compile(
            rf"{re.escape(self.first.name)}\.([0-9a-f]{{{2 * _DIGEST}}}){re.escape(self.suffix)}"
        )
        there = [m[1] for e in os.listdir(self.first.parent) if (m := found.fullmatch(e))]
        self.add(*(d for d in there if _holds(self.first, d)))
        return self

    def add(self, *digests: str) -> None:
        if self._path is None:
            raise OSError("a device has no place for a second file")
        _append(self._path, "".join(f"{d}\n" for d in digests))

    def __exit__(self, *_: object) -> None:
        # Another save may replace, after this one has looked, what this one has written: it is told
        # first. Had it looked already, then it had replaced it already.
        assert self._path is not None
        mine = self._path.read_text(errors="replace")
        for path in _locks(self.first, "claims") - {self._path}:
            _append(path, mine)
        self._settle(self._path)
        self._file.close()

    def _settle(self, claims: Path) -> None:
        """Remove what is claimed there and nothing refers to, then the claims."""
        for digest in set(re.findall(r"(?m)^[0-9a-f]{16}$", claims.read_text(errors="replace"))):
            path = Path(f"{self.first}.{digest}{self.suffix}")
            # Asked under the lock: a save holds it until its first file refers to the second.
            _under_lock(path, lambda path, d=digest: self._in_use(d) or os.unlink(path), _PATIENCE)
        with contextlib.suppress(OSError):
            os.unlink(claims)

    def _in_use(self, digest: str) -> bool:
        """Whether the first file refers to it, or one beside it that may be a copy. Raises OSError
        where that cannot be looked up."""
        if _holds(self.first, digest):
            return True
        for entry in os.scandir(self.first.parent):
            if not entry.is_file() or entry.name.endswith((self.suffix, ".claims")):
                continue
            alike = entry.name.startswith(self.first.name) \
                or entry.name.endswith(self.first.suffix or "/")  # fmt: skip
            with contextlib.suppress(FileNotFoundError):  # another save's, which has gone meanwhile
                if (alike or entry.stat().st_size <= _SMALL) and _holds(Path(entry.path), digest):
                    return True
        return False


def _real(path: PathLike) -> Path:
    """Where a path leads. Raises OSError for what cannot be one."""
    try:
        return Path(os.fsdecode(os.path.realpath(path)))
    except ValueError as error:
        raise OSError(str(error)) from error


def _is_stream(path: PathLike, target: Path) -> bool:
    """A device, a pipe, or a file that the process has open already (/dev/stdout)."""
    device = target.exists() and not target.is_file() and not target.is_dir()
    return device or os.path.abspath(os.fsdecode(path)).startswith(_OPEN)


def _prefix(target: Path) -> str:
    return f".{target.name[:64]}."


def _locks(target: Path, kind: str) -> set[Path]:
    """The files of this kind (see `_locked`) beside `target`."""
    name = re.compile(rf"{re.escape(_prefix(target))}[0-9a-f]{{16}}\.{kind}")
    return {target.parent / e for e in _entries(target.parent) if name.fullmatch(e)}


def _locked(target: Path, kind: str) -> tuple[Path, BufferedRandom]:
    """A new file beside `target`, there while it is saved and locked as long."""
    while True:
        path = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}.{kind}"
        file = cast(BufferedRandom, open(path, "x+b", opener=_create))  # noqa: SIM115
        _lock(file, _PATIENCE)
        if os.path.exists(path):
            return path, file
        file.close()  # somebody took it for one that was left, before it was locked


def _create(path: str, flags: int) -> int:
    """Created with what the process's mask allows, as any new file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _mode(path: Path) -> int | None:
    """What the owner, the group and others may do with a file; a save leaves it as it was."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except OSError:
        return None


def _lock(file: BinaryIO, seconds: float) -> bool:
    """Whether the lock was had in that time. Where files cannot be locked there is none."""
    if fcntl is None:
        return True
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.001)
        except OSError:
            return False


def _under_lock(path: Path, act: Callable[[Path], object], seconds: float = 0) -> None:
    """Do it, unless the file is not there or somebody has it locked for longer than that."""
    with contextlib.suppress(OSError), open(path, "r+b", opener=_open_at_once) as file:
        if _lock(file, seconds) and _is_at(file, path):
            if fcntl is None:
                file.close()  # an open file cannot be removed there
            act(path)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))


def _append(path: Path, text: str) -> None:
    """Add to a file that is there, whoever else adds to it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)


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

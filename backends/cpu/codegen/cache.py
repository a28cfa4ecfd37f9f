"""The disk cache of object code: private, authenticated, bounded, and never a reason to fail.

One file an entry: `MAGIC, HMAC-SHA256(user key, entry key + code), code`. An entry is used only if
its directory is a real directory of ours with mode 0700, its file is ours with mode 0600 and one
link, and the code authenticates under our key for the very name that was asked for. Anything else
means that the caller compiles again. Writes go to a temporary file, are synced and renamed, so a
reader sees a whole entry or none; trouble in writing (no home, no space, no rights) is silence.

`TAUT_CACHE_DIR` moves the cache, `TAUT_CACHE=0` turns it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs

MAGIC = b"taut-object-1\n"
LIMIT = 256 << 20
_ENTRY_LIMIT = 64 << 20


@dataclass(frozen=True)
class Cache:
    """A cache in `folder` (None: off) that keeps at most `limit` bytes."""

    folder: Path | None
    limit: int = LIMIT

    def get(self, key: str) -> bytes | None:
        """The code stored under `key`, or None when there is none that can be trusted."""
        try:
            secret = self._secret(create=False)
            if secret is None or self.folder is None:
                return None
            path = self.folder / f"{key}.o"
            data = _read_private(path, _ENTRY_LIMIT)
            head = len(MAGIC) + 32
            if len(data) <= head or data[: len(MAGIC)] != MAGIC:
                return None
            code = data[head:]
            if not hmac.compare_digest(data[len(MAGIC) : head], _mac(secret, key, code)):
                return None
            with contextlib.suppress(OSError):
                os.utime(path)
            return code
        except (OSError, ValueError):
            return None

    def put(self, key: str, code: bytes) -> None:
        """Store `code` under `key` if that can be done; otherwise do nothing."""
        try:
            secret = self._secret(create=True)
            if secret is None or self.folder is None or len(code) > _ENTRY_LIMIT:
                return
            _write(self.folder, f"{key}.o", MAGIC + _mac(secret, key, code) + code)
            self._evict()
        except (OSError, ValueError):
            return

    def _secret(self, *, create: bool) -> bytes | None:
        """The user's key, after checking the folder."""
        if self.folder is None:
            return None
        if create:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(os.lstat(self.folder), stat.S_ISDIR, 0o700)
        path = self.folder / "key"
        if create and not path.exists():
            # Two processes may both make one: what was kept under the first is made again.
            _write(self.folder, "key", secrets.token_bytes(32))
        secret = _read_private(path, 64)
        return secret if len(secret) == 32 else None

    def _evict(self) -> None:
        """Drop the entries used least recently until the cache fits."""
        if self.folder is None:
            return
        for path in self.folder.glob(".new-*"):  # left by a process that died while writing
            with contextlib.suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > 3600:
                    path.unlink()
        entries = []
        for path in self.folder.glob("*.o"):
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def default() -> Cache:
    """The cache that the environment asks for."""
    if os.environ.get("TAUT_CACHE", "1").strip().lower() in ("0", "off", "no", "false"):
        return Cache(None)
    given = os.environ.get("TAUT_CACHE_DIR")
    if given:
        return Cache(Path(given))
    # A folder of its own: others keep things in taut/, whose mode is not ours to say. Where there
    # is no home, the path is not absolute.
    folder = platformdirs.user_cache_path("taut", appauthor=False) / "objects"
    return Cache(folder if folder.is_absolute() else None)


def _mac(secret: bytes, key: str, code: bytes) -> bytes:
    return hmac.new(secret, key.encode() + b"\0" + code, hashlib.sha256).digest()


def _check(status: os.stat_result, kind: object, mode: int) -> None:
    """OSError unless the thing is of the right kind, ours, and closed to everybody else."""
    if not kind(status.st_mode):  # type: ignore[operator]
        raise OSError("not what it should be")
    if hasattr(os, "getuid") and (
        status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != mode
    ):
        raise OSError("not private")


def _read_private(path: Path, limit: int) -> bytes:
    """The bytes of a private regular file. No links are followed; at most `limit` bytes."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        _check(status, stat.S_ISREG, 0o600)
        if status.st_nlink != 1 or status.st_size > limit:
            raise OSError("not private")
        return file.read(limit)


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write a 0600 file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, folder / name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

"""Saves that are cut short, that race, and what they leave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from taut.ir import StorageError
from taut.ir.files import (
    companion,
    companion_path,
    digest_of,
    remove_drafts,
    replacing,
    write_atomic,
)

WRITER = """
import sys, time
from taut.ir.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    print("at work", flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of a save."""
    made = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert made.stdout is not None and made.stdout.readline() == "at work\n"
    return made


def test_the_draft_of_a_killed_save_is_cleared_by_the_next_and_that_of_a_live_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.bin"
    live, killed = writer(path), writer(path)
    try:
        assert len(list(tmp_path.iterdir())) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        write_atomic(path, b"whole")
        assert path.read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 2
    finally:
        live.kill()
        live.wait()
    remove_drafts(path)
    assert list(tmp_path.iterdir()) == [path]


def test_whatever_is_raised_the_old_file_stays_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    write_atomic(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "absent/m.bin", "nul\0", "folder"])
def test_what_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(tmp_path / name if name else tmp_path, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_new_file_has_the_mode_that_the_process_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "m.bin", b"x")
        assert os.umask(0o027) == 0o027  # and the save has not touched it
    finally:
        os.umask(before)
    assert (tmp_path / "m.bin").stat().st_mode & 0o777 == 0o640


def save_pair(path: Path, data: bytes) -> None:
    with companion(path, ".data") as beside:
        beside.file.write(data)
        write_atomic(path, beside.seal().encode())


def test_a_failing_pair_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_pair(path, b"old")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), companion(path, ".data") as beside:
        beside.file.write(b"new")
        beside.seal()
        raise KeyboardInterrupt
    assert sorted(tmp_path.iterdir()) == before
    assert companion_path(path, path.read_text(), ".data").read_bytes() == b"old"


def test_pairs_saved_at_once_always_match(tmp_path: Path) -> None:
    path = tmp_path / "m"
    over = threading.Event()

    def keep_saving(k: int) -> None:
        i = 0
        while not over.is_set():
            save_pair(path, b"%d" % (10 * i + k))
            i += 1

    savers = [threading.Thread(target=keep_saving, args=(k,)) for k in range(3)]
    for saver in savers:
        saver.start()
    wrong, read, end = 0, 0, time.monotonic() + 1
    while time.monotonic() < end:
        try:
            digest = path.read_text()
            data = companion_path(path, digest, ".data").read_bytes()
        except FileNotFoundError:
            continue  # replaced between the two reads
        wrong += digest_of(data) != digest
        read += 1
    over.set()
    for saver in savers:
        saver.join()
    assert read and not wrong
    assert sorted(tmp_path.iterdir()) == [path, companion_path(path, path.read_text(), ".data")]


def test_a_save_removes_only_what_the_file_that_it_replaces_referred_to(tmp_path: Path) -> None:
    path = tmp_path / "m.ir"
    foreign = tmp_path / "m.ir.0123456789abcdef.data"
    foreign.write_bytes(b"not ours")
    ways = [(Path.rename, "old.ir"), (shutil.copy, "old.ir"), (shutil.copy, "copy"),
            (shutil.copy, "m_old.onnx~"), (os.link, "linked")]  # fmt: skip
    for away, name in ways:
        save_pair(path, b"one")
        digest = path.read_text()
        old = tmp_path / name
        away(path, old)
        save_pair(path, b"two")
        assert companion_path(path, old.read_text(), ".data").read_bytes() == b"one"
        old.unlink()
        save_pair(path, b"one")
        save_pair(path, b"three")  # the copy is gone: nothing refers to it any more
        assert not companion_path(path, digest, ".data").exists()
    assert foreign.read_bytes() == b"not ours"
    assert len(list(tmp_path.iterdir())) == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from taut.ir.files import companion, write_atomic
path, when = Path(sys.argv[1]), sys.argv[2]
with companion(path, ".data") as beside:
    beside.file.write(b"new")
    digest = beside.seal()
    if when == "after":
        write_atomic(path, digest.encode())
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_save_left_beside_the_model_is_removed_by_the_next(
    tmp_path: Path, when: str
) -> None:
    path = tmp_path / "m.ir"
    save_pair(path, b"old")
    subprocess.run([sys.executable, "-c", KILLED, str(path), when], check=False)
    want = b"old" if when == "before" else b"new"
    assert companion_path(path, path.read_text(), ".data").read_bytes() == want
    assert len(list(tmp_path.iterdir())) > 2
    save_pair(path, b"next")
    assert sorted(tmp_path.iterdir()) == [path, companion_path(path, path.read_text(), ".data")]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_save_leaves_the_mode_of_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m.ir"
    save_pair(path, b"secret")
    path.chmod(0o600)
    save_pair(path, b"other")
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_what_stands_in_the_way_of_a_save_neither_stops_nor_breaks_it(tmp_path: Path) -> None:
    path = tmp_path / "m.ir"
    save_pair(path, b"one")
    os.mkfifo(tmp_path / ".m.ir.0123456789abcdef.claims")
    (tmp_path / ".m.ir.0000456789abcdef.claims").write_bytes(b"\xff\xfe")
    save_pair(path, b"two")
    assert companion_path(path, path.read_text(), ".data").read_bytes() == b"two"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="no place for a second file"):
        save_pair(tmp_path / "pipe", b"three")


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="there is no /dev/stdout")
def test_what_stdout_leads_to_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = ("from taut.ir.files import write_atomic; print('before', flush=True);"
            "write_atomic('/dev/stdout', b'model\\n'); print('after')")  # fmt: skip
    with open(log, "ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert log.read_text() == "before\nmodel\nafter\n"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout == b"before\nmodel\nafter\n"

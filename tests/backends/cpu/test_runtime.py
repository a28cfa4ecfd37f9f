"""The compile cache under attack, the team under load, and code for machines that are not here."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import ISAS, Arena
from taut.backends.cpu.codegen import cache, isa, jit, objects, sync, syncblock
from taut.backends.cpu.codegen.isa import TABLES, Target
from taut.backends.cpu.kernels import conv, depthwise, maps
from taut.backends.cpu.runtime import team
from taut.backends.schedule.memory import aligned

KEY = "a" * 64
CODE = bytes(range(256)) * 20


@pytest.fixture
def store(tmp_path):
    made = cache.Cache(tmp_path / "cache")
    made.put(KEY, CODE)
    assert made.get(KEY) == CODE
    return made


def entry(store) -> Path:
    return store.folder / f"{KEY}.o"


def test_cache_is_private(store):
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    for path in store.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_cache_refuses_every_flipped_bit_and_every_truncation(store):
    data = entry(store).read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 8 * len(data), 200):
        bad = bytearray(data)
        bad[at // 8] ^= 1 << (at % 8)
        entry(store).write_bytes(bad)
        assert store.get(KEY) is None
    for length in (0, 1, 10, len(cache.MAGIC), len(cache.MAGIC) + 32, len(data) - 1):
        entry(store).write_bytes(data[:length])
        assert store.get(KEY) is None
    entry(store).write_bytes(data)
    assert store.get(KEY) == CODE


def test_cache_refuses_an_entry_under_another_name(store):
    other = "b" * 64
    (store.folder / f"{other}.o").write_bytes(entry(store).read_bytes())
    (store.folder / f"{other}.o").chmod(0o600)
    assert store.get(other) is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX modes")
def test_cache_refuses_open_doors(store, tmp_path):
    for path, mode, closed in (
        (store.folder, 0o755, 0o700),
        (entry(store), 0o644, 0o600),
        (store.folder / "key", 0o640, 0o600),
    ):
        path.chmod(mode)
        assert store.get(KEY) is None, path
        path.chmod(closed)
        assert store.get(KEY) == CODE
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    assert cache.Cache(link).get(KEY) is None
    real = tmp_path / "elsewhere.o"
    entry(store).rename(real)
    entry(store).symlink_to(real)
    assert store.get(KEY) is None
    entry(store).unlink()
    os.link(real, entry(store))
    assert store.get(KEY) is None  # a second name: somebody else can write it
    real.unlink()
    assert store.get(KEY) == CODE
    entry(store).unlink()
    os.mkfifo(entry(store), 0o600)
    assert store.get(KEY) is None


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
def test_cache_refuses_foreign_owners(store):
    for path in (entry(store), store.folder / "key", store.folder):
        os.chown(path, 12345, -1)
        assert store.get(KEY) is None
        os.chown(path, 0, -1)
    assert store.get(KEY) == CODE


def test_cache_that_cannot_be_written_is_silent(tmp_path):
    (tmp_path / "file").write_text("in the way")
    blocked = cache.Cache(tmp_path / "file" / "cache")
    blocked.put(KEY, CODE)
    assert blocked.get(KEY) is None
    off = cache.Cache(None)
    off.put(KEY, CODE)
    assert off.get(KEY) is None


def test_cache_survives_a_full_disk(tmp_path, monkeypatch):
    store = cache.Cache(tmp_path / "cache")
    store.put(KEY, CODE)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store.put("c" * 64, CODE)
    assert store.get("c" * 64) is None
    assert store.get(KEY) == CODE
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {"key", f"{KEY}.o"}


def test_cache_drops_what_was_used_least_recently(tmp_path):
    store = cache.Cache(tmp_path / "cache", limit=5 * len(CODE))
    for i in range(8):
        store.put(f"{i}" * 64, CODE)
        os.utime(tmp_path / "cache" / f"{str(i) * 64}.o", (i + 1, i + 1))
    store.put(KEY, CODE)
    kept = {p.name[0] for p in (tmp_path / "cache").glob("*.o")}
    assert kept <= {"5", "6", "7", "a"} and "a" in kept and len(kept) >= 3


def test_cache_obeys_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TAUT_CACHE_DIR", str(tmp_path / "here"))
    assert cache.default().folder == tmp_path / "here"
    monkeypatch.setenv("TAUT_CACHE", "0")
    assert cache.default().folder is None


def test_code_from_the_cache_needs_no_numba(tmp_path):
    """A second process loads the kernel from disk, and compiles another entry that calls it,
    without importing Numba; and it computes."""
    script = """
import sys, numpy as np
from taut.backends.cpu.codegen import isa, jit, syncblock
from taut.backends.schedule.memory import aligned
from taut.backends.cpu.kernels import maps, grid
a, out = aligned(64), aligned(64)
a[:] = np.arange(64)
block, table = aligned(syncblock.sync_bytes(1)), np.arange(255, -1, -1, dtype=np.uint8)
record = maps.MapRecord(sync=block.ctypes.data, row_chunks=1, chunk_rows=1, rows=1, width=1,
    channels=64, a=a.ctypes.data, target=out.ctypes.data, table=table.ctypes.data).pack()
code = jit.load(maps.LOOKUP, isa.find())
source = f"def entry(tid, nt, base):\\n    lookup(tid, nt, base + {sys.argv[1]})\\n"
entry = jit.build_entry(source, {"lookup": maps.LOOKUP}, isa.find())
entry(0, 1, record.ctypes.data - int(sys.argv[1]))
assert (out == 255 - a).all()
print(code.cached, entry.cached, "numba" in sys.modules)
"""
    environment = {**os.environ, "TAUT_CACHE_DIR": str(tmp_path / "cache"), "TAUT_CACHE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    def run(offset: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, str(offset)], env=environment, capture_output=True,
            text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(8) == "False False True"
    assert run(8) == "True True False"
    assert run(16) == "True False False"
    for path in (tmp_path / "cache").glob("*.o"):
        path.write_bytes(path.read_bytes()[:-7])
    assert run(8) == "False False True"


def test_missing_symbols_are_an_error_and_not_the_end_of_the_process():
    import llvmlite.binding as llvm

    table = ISAS[0]
    machine = Target.native(table).machine()
    source = "declare void @not_there()\ndefine void @f() {\n call void @not_there()\n ret void\n}"
    code = machine.emit_object(llvm.parse_assembly(source))
    assert "not_there" in objects.undefined(code)
    with pytest.raises(RuntimeError, match="not_there"):
        jit._link(code, "f", {}, table)
    for length in (0, 3, 40, 64, 200):
        with pytest.raises((ValueError, RuntimeError)):
            jit._link(code[:length], "f", {}, table)


@pytest.mark.parametrize("triple", ["x86_64-apple-darwin", "x86_64-pc-windows-msvc"])
def test_undefined_symbols_in_other_formats(triple):
    import llvmlite.binding as llvm

    source = "declare void @elsewhere()\ndefine void @f() {\n call void @elsewhere()\n ret void\n}"
    machine = llvm.Target.from_triple(triple).create_target_machine()
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{source}')
    assert "elsewhere" in objects.undefined(machine.emit_object(module))


@pytest.mark.parametrize(
    "name, dot", [("i8mm", "usdot"), ("dotprod", "sdot"), ("portable", "mla")], ids=str
)
def test_arm_assembly(name, dot):
    """Code for Arm cannot run here, but LLVM makes the instructions that it should."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    table = TABLES[name]
    target = Target("aarch64-unknown-linux-gnu", "generic", table.features or "+neon")
    kernels = [conv.kernel(*table.tiles[0]), conv.kernel(*table.float_tiles[0], "float")]
    texts = [jit.assembly(kernel, table, target) for kernel in kernels]
    assert dot in texts[0] and "fmla" in texts[1]
    jit.assembly(depthwise.kernel((3, 3)), table, target)
    jit.assembly(maps.requantize_kernel("u8_u8"), table, target)


def test_wrong_tables_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="runnable"):
        isa.find("z80")
    monkeypatch.setenv("TAUT_ISA", "portable")
    assert isa.find().name == "portable"


# The team.

SIZE, CHUNKS = 4096, 16


class Chain:
    """a -> b -> a ... by table lookups that add 1, each op split into many chunks."""

    def __init__(self, nt: int):
        self.nt, self.total = nt, 0
        self.arena = Arena(nt)
        self.a, self.b = (self.arena.empty(SIZE, np.uint8) for _ in range(2))
        table = self.arena.place(((np.arange(256) + 1) % 256).astype(np.uint8))
        records = []
        for source, target in ((self.a, self.b), (self.b, self.a)):
            record = maps.MapRecord(
                sync=self.arena.sync, chunks=CHUNKS, row_chunks=CHUNKS, chunk_rows=1, rows=CHUNKS,
                width=1, channels=SIZE // CHUNKS, a=source.ctypes.data, a_row=SIZE // CHUNKS,
                target=target.ctypes.data, target_row=SIZE // CHUNKS, table=table,
            )  # fmt: skip
            records.append(self.arena.place(record.pack()))
        self.records = records
        source = """
def entry(tid, nt, base):
    for i in range(load_i64(base + 24)):
        lookup(tid, nt, load_i64(base + 8))
        barrier(tid, nt, load_i64(base))
        lookup(tid, nt, load_i64(base + 16))
        barrier(tid, nt, load_i64(base))
"""
        kernels = {"barrier": sync.BARRIER, "lookup": maps.LOOKUP}
        self.code = jit.build_entry(source, kernels, ISAS[0])
        self.lease = team.team(nt).lend(self.arena.kept)

    def base(self, rounds: int) -> int:
        """A table for one call: a thread that is late may still read the last one's rounds."""
        return self.arena.place(np.array([self.arena.sync, *self.records, rounds], np.int64))

    def run(self, rounds: int, keep: bool = True) -> bool:
        """Add 2 `rounds` to every byte; did it?"""
        lease = self.lease if keep else None
        team.team(self.nt).run(self.code.address, self.base(rounds), lease)
        self.total += 2 * rounds
        return bool((self.a == self.total % 256).all())


@pytest.mark.parametrize("nt", [1, 2, 4])
@pytest.mark.parametrize("keep", [True, False])
def test_ops_follow_one_another(nt, keep):
    chain = Chain(nt)
    for rounds in [0, 1, 5, 50] * 15:
        assert chain.run(rounds, keep)


def test_op_numbers_begin_again():
    chain = Chain(2)
    block = np.ctypeslib.as_array((ctypes.c_int64 * 16).from_address(chain.arena.sync))
    for _ in range(3):
        block[8] = 2**38 - 3  # the epoch
        for _ in range(5):
            assert chain.run(3)
        assert block[8] < 2**20


def test_programs_take_turns_and_are_let_go():
    chains = [Chain(2) for _ in range(3)]
    for i in range(60):
        assert chains[i % 3].run(3, keep=i % 2 == 0)
    import gc
    import weakref

    seen = [weakref.ref(chain.arena.kept[0].base) for chain in chains]
    del chains
    gc.collect()
    team.team(2).lend(None)
    assert all(ref() is not None for ref in seen)  # a thread that wakes up now may look there
    last = Chain(2)
    for _ in range(50):
        assert last.run(3)
        time.sleep(0.001)
    assert last.run(3, keep=False)
    team.team(2).lend(None)
    assert not any(ref() is not None for ref in seen)


def test_calls_after_a_pause_and_after_stop():
    chain = Chain(2)
    assert chain.run(3)
    time.sleep(0.2)  # the thread has gone to sleep
    assert chain.run(3)
    team.team(2).stop()
    assert chain.run(3)


def test_concurrent_callers_queue():
    chains = [Chain(2) for _ in range(4)]
    errors = []

    def work(chain) -> None:
        errors.extend(i for i in range(100) if not chain.run(2))

    threads = [threading.Thread(target=work, args=(chain,)) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own_threads():
    chain = Chain(2)
    assert chain.run(5)
    child = os.fork()
    if child == 0:
        os._exit(0 if chain.run(5) and chain.run(5, keep=False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert chain.run(5)


SCRIPT = """
import sys, threading, time
sys.path[:0] = {path!r}
from taut.backends.cpu.codegen import sync, syncblock
from taut.backends.cpu.runtime import team
{change}
from test_runtime import Chain
chain = Chain(3)
assert all(chain.run(10) for _ in range(20))
time.sleep(0.1)
assert chain.run(10) and chain.run(10, keep=False)
assert sum(t.name.startswith("taut-") for t in threading.enumerate()) == 2
team.team(3).stop()
assert sum(t.name.startswith("taut-") for t in threading.enumerate()) == 0
assert chain.run(10)
"""


@pytest.mark.parametrize("change", ["", "syncblock.FUTEX = 0"], ids=["native", "without futexes"])
def test_a_process_ends_with_its_threads(change):
    script = SCRIPT.format(path=sys.path, change=change)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True,
        timeout=120, env={**os.environ, "TAUT_CACHE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def begin(chain, op: int) -> None:
    """Put the sync block where a call that begins at op `op` puts it."""
    words = np.ctypeslib.as_array((ctypes.c_int64 * 40).from_address(chain.arena.sync))
    words[8] = words[24 + 4] = op


def test_a_call_ends_without_the_other_threads_and_ignores_them_when_they_come():
    chain = Chain(3)
    begin(chain, 1)
    base = chain.base(4)
    chain.code(0, 3, base)  # threads 1 and 2 do not come: all chunks are taken
    assert (chain.a == 8).all()
    chain.a[:], chain.b[:] = 77, 88
    words = np.ctypeslib.as_array((ctypes.c_int64 * 40).from_address(chain.arena.sync))
    words[32 + 4] = 1
    chain.code(1, 3, base)  # now thread 1 comes: there is nothing left to do
    assert (chain.a == 77).all() and (chain.b == 88).all()


def test_a_thread_takes_its_first_op_number_from_its_job():
    """Not from the program, where the next call may have put its own: with two entries over one
    sync block, a thread would then run the old entry under the new one's numbers."""
    chain = Chain(2)
    block = aligned(syncblock.LINES + 2 * 64).view(np.int64)
    seen = aligned(64).view(np.int64)
    source = """
def entry(tid, nt, base):
    store_i64(load_i64(base + 8), load_i64(load_i64(base) + 192 + 64 * tid + 32))
"""
    code = jit.build_entry(source, {}, ISAS[0])
    base = np.array([chain.arena.sync, seen.ctypes.data], np.int64)
    begin(chain, 777)
    job = syncblock.JOBS // 8 + 3  # generation 5 is odd
    block[0], block[job : job + 3] = 5, (code.address, base.ctypes.data, 41)
    block[syncblock.THREADS // 8] = 2
    worker = jit.load(sync.TEAM_WORKER, TABLES["portable"])
    thread = threading.Thread(target=worker, args=(1, 2, block.ctypes.data))
    thread.start()
    while not seen[0]:
        time.sleep(0.001)
    block[syncblock.STOP // 8], block[0] = 1, 6
    libc = ctypes.CDLL(None)
    while thread.is_alive():  # it may be asleep on the generation
        if syncblock.FUTEX:
            libc.syscall(syncblock.FUTEX, ctypes.c_void_p(block.ctypes.data), 129, 1, None, None, 0)
        thread.join(0.01)
    assert seen[0] == 41


def test_entries_of_one_program_may_follow_one_another_at_once():
    """Two entries over one sync block, as a program with a step in Python between them."""
    chain = Chain(2)
    once = """
def entry(tid, nt, base):
    lookup(tid, nt, load_i64(base + {}))
    barrier(tid, nt, load_i64(base))
"""
    kernels = {"barrier": sync.BARRIER, "lookup": maps.LOOKUP}
    there, back = (jit.build_entry(once.format(k), kernels, ISAS[0]) for k in (8, 16))
    run, base = team.team(2).run, chain.base(0)
    for i in range(1, 2000):
        run(there.address, base, chain.lease)
        run(back.address, base, chain.lease)
        assert (chain.a == 2 * i % 256).all()

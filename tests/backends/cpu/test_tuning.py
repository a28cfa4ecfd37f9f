"""Tilings: any gives the same bits, and a bad record is never a reason for a wrong answer."""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict
from functools import cache as once

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ISAS
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import cache
from taut.backends.cpu.kernels.tiling import HEURISTIC, Case, Tiling, Tilings
from taut.backends.cpu.lower.lowering import Lowering, Setting
from taut.backends.cpu.runtime import search, tuning
from taut.backends.cpu.runtime.program import Program
from taut.backends.cpu.runtime.team import team
from taut.backends.schedule.schedule import schedule
from taut.ir import Builder, CompileError, Graph, StorageError

ISA = ISAS[0]
RNG = np.random.default_rng(3)


def network(real: bool, groups: int = 1) -> Graph:
    """A convolution, integer or float, and a product behind it."""
    b = Builder()
    x = b.input("x", "f32" if real else "u8", (2, 32, 9, 11))
    if real:
        weight = RNG.standard_normal((48, 32 // groups, 3, 3)).astype(np.float32)
        return b.outputs(y=b.relu(b.conv(x, weight, pads=(1, 1, 1, 1), group=groups)))
    weight = RNG.integers(-128, 128, (48, 32 // groups, 3, 3), dtype=np.int8)
    return b.outputs(y=b.conv_integer(x, weight, pads=(1, 1, 1, 1), group=groups))


GRAPHS = [network(False), network(True), network(False, 2)]


@once
def program_of(which: int) -> Program:
    """Untuned; compiled when a test first asks for it."""
    return compile(GRAPHS[which], threads=2)


@pytest.fixture
def store(tmp_path, monkeypatch) -> cache.Cache:
    """The user's cache, elsewhere."""
    made = cache.Cache(tmp_path / "cache")
    monkeypatch.setattr(cache, "default", lambda: made)
    return made


def given_for(graph: Graph) -> np.ndarray:
    kind = graph.inputs[0].type
    if kind.dtype.numpy == np.uint8:
        return RNG.integers(0, 256, kind.static_shape, dtype=np.uint8)
    return RNG.standard_normal(kind.static_shape).astype(np.float32)


def case_of(which: int) -> Case:
    """The layer that a program asked for."""
    tilings = Tilings()
    setting = Setting(ISA, tilings=tilings)
    Lowering(schedule(GRAPHS[which], ISA.machine(2)), setting).run()
    (case,) = tilings.asked
    return case


CASES = [case_of(which) for which in range(len(GRAPHS))]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_tiling_gives_the_same_bits(data):
    which = data.draw(st.integers(0, len(GRAPHS) - 1))
    case, threads = CASES[which], data.draw(st.sampled_from([1, 2, 3]))
    tiles = ISA.float_tiles if case.out == "float" else ISA.tiles
    number = st.sampled_from([1, 2, 3, 7, 1 << 30])
    tiling = Tiling(data.draw(st.sampled_from(tiles)), data.draw(number), data.draw(number))
    x = given_for(GRAPHS[which])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "read", lambda *_: {case.name: tiling})
        program = compile(GRAPHS[which], threads=threads, tuning="record")
    assert program.tilings
    assert np.array_equal(program(x)["y"], program_of(which)(x)["y"])


def test_a_tuned_program_starts_from_the_cache(store, monkeypatch):
    """The second program measures nothing and has the first one's tilings."""
    best = Tiling(ISA.tiles[0], 1, 1)
    monkeypatch.setattr(search, "_best", lambda *_: best)
    monkeypatch.setattr(search, "is_faster", lambda *_: True)
    seen: list[tuple[int, int]] = []
    first = compile(GRAPHS[0], threads=2, tune=5, progress=lambda *at: seen.append(at))
    assert first.tilings == {CASES[0].name: best} and seen == [(1, 1)]

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(search, "_best", refuse)
    monkeypatch.setattr(search, "is_faster", refuse)
    assert compile(GRAPHS[0], threads=2, tune=5).tilings == first.tilings
    assert compile(GRAPHS[0], threads=2, tune=0).tilings == first.tilings
    assert compile(GRAPHS[0], threads=2).tilings == {}  # not asked to


def test_tilings_that_do_not_help_the_whole_program_are_dropped(store, monkeypatch):
    monkeypatch.setattr(search, "_best", lambda *_: Tiling(ISA.tiles[0], 1, 1))
    monkeypatch.setattr(search, "is_faster", lambda *_: False)
    assert compile(GRAPHS[0], threads=2, tune=5).tilings == {}
    assert tuning.recall(CASES[0], ISA, 2) == HEURISTIC


def test_measuring_ends_with_the_budget_and_changes_no_result(store):
    program = compile(GRAPHS[1], threads=2, tune=0.3)
    x = given_for(GRAPHS[1])
    assert np.array_equal(program(x)["y"], program_of(1)(x)["y"])
    assert tuning.recall(CASES[1], ISA, 2) is not None
    tuner = search.Tuner(ISA, 2, 0.0)
    assert tuner.find(CASES[:1]) == ({}, {})


@pytest.mark.parametrize("case", CASES, ids=["int8", "float", "groups"])
def test_a_layer_of_its_own_runs_under_every_candidate(case):
    layer = search.Layer(case, ISA, 2)
    for stage in (search._tiles, search._chunks):
        for tiling in stage(case, ISA, 2, HEURISTIC):
            assert layer.seconds(tiling) > 0


def test_a_late_thread_finds_the_rounds_of_its_own_call(monkeypatch):
    """Else it walks through more barriers than the others, and takes chunks of the next call's."""
    calls = []

    class Watched:
        def lend(self, memory):
            self.memory = memory
            return team(2).lend(memory)

        def run(self, function, base, lease) -> None:
            rounds = ctypes.c_int64.from_address(base + 8)
            calls.append((rounds, rounds.value, self.memory))
            team(2).run(function, base, lease)

    monkeypatch.setattr(search, "team", lambda threads: Watched())
    search.Layer(CASES[0], ISA, 2).seconds(Tiling(ISA.tiles[0], 1, 1))
    assert {1, 2} < {given for _, given, _ in calls}
    assert all(rounds.value == given for rounds, given, _ in calls)


def test_a_damaged_record_in_the_cache_is_ignored(store):
    tiling = Tiling(ISA.tiles[0], 3, 1)
    tuning.remember({CASES[0].name: tiling}, ISA, 2)
    assert tuning.recall(CASES[0], ISA, 2) == tiling
    (path,) = store.folder.glob("*.o")
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert tuning.recall(CASES[0], ISA, 2) is None
        path.write_bytes(whole[:at])
        assert tuning.recall(CASES[0], ISA, 2) is None
    assert compile(GRAPHS[0], threads=2, tune=0).tilings == {}


@pytest.mark.parametrize(
    "data", [b"{}", b"null", b"\xff", b'{"tile": [1, 0], "tiles": 1, "panels": 1}']
)
def test_an_authentic_record_of_another_form_is_ignored(store, data):
    store.put(tuning._key(CASES[0].name, ISA, 2), data)
    assert tuning.recall(CASES[0], ISA, 2) is None


@pytest.mark.parametrize("what", ["processor", "isa", "threads", "kernels"])
def test_a_record_of_another_machine_or_version_is_not_found(store, tmp_path, what, monkeypatch):
    tiling = Tiling(ISA.tiles[0], 3, 1)
    tuning.remember({CASES[0].name: tiling}, ISA, 2)
    path = tmp_path / "record.json"
    tuning.write({CASES[0].name: tiling}, ISA, 2, path)
    assert tuning.read(path, ISA, 2) == {CASES[0].name: tiling}
    here = tuning.machine(ISA, 2)
    monkeypatch.setattr(tuning, "machine", lambda *_: here | {what: "other"})
    assert tuning.recall(CASES[0], ISA, 2) is None
    with pytest.raises(CompileError, match=rf"record\.json.*its {what} is"):
        compile(GRAPHS[0], threads=2, tuning=path)


def test_a_record_goes_out_and_comes_back(tmp_path, monkeypatch):
    tiling = Tiling(ISA.tiles[0], 2, 1)
    path = tmp_path / "record.json"
    tuning.write({CASES[0].name: tiling}, ISA, 2, path)
    program = compile(GRAPHS[0], threads=2, tuning=path)
    again = tmp_path / "again.json"
    program.save_tuning(again)
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(StorageError, match="cannot be written"):
        program.save_tuning(tmp_path / "no" / "folder.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.json", "record.json"]


def _record(**changes: object) -> dict[str, object]:
    good = {"format": tuning.FORMAT, "machine": tuning.machine(ISA, 2),
            "layers": {CASES[0].name: asdict(Tiling(ISA.tiles[0], 1, 1))}}  # fmt: skip
    return good | changes


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"format": "taut-tuning-1"}',
        json.dumps(_record(format="taut-tuning-2")).encode(),
        json.dumps(_record(layers=[1])).encode(),
        json.dumps(_record(machine=3)).encode(),
        *(
            json.dumps(_record(layers={"a": value})).encode()
            for value in (
                None, {}, {"tile": [14, 2], "tiles": 1}, {"tile": "ab", "tiles": 1, "panels": 1},
                {"tile": [14, 2], "tiles": -1, "panels": 1},
                {"tile": [14, 2], "tiles": True, "panels": 1},
                {"tile": [14, 2], "tiles": 1.5, "panels": 1},
                {"tile": [14, 2], "tiles": 0, "panels": 1},
                {"tile": [14, 2], "tiles": 1 << 70, "panels": 1},
            )
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_record_is_an_error(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=r"record\.json.*not a tuning record"):
        tuning.read(path, ISA, 2)


def test_other_bad_requests(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        compile(GRAPHS[0], tuning=tmp_path / "missing.json")
    for tune in (-1, float("nan"), float("inf"), "soon"):
        with pytest.raises(CompileError, match="seconds"):
            compile(GRAPHS[0], tune=tune)  # pyright: ignore[reportArgumentType]

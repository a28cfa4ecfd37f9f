"""Runs that are cut off and go on: the same bits, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import FeedError, Graph, ModelError, StorageError, TautError

import taut
from taut.data import Dataset
from taut.training.checkpoint import FILE, _read

OPTIONS: dict[str, Any] = {
    "target": "reference", "epochs": 3, "batch_size": 64, "learning_rate": 0.05,
    "schedule": "cosine", "optimizer": "adam",
}  # fmt: skip


def weights(made: Any) -> dict[str, bytes]:
    return {k: a.tobytes() for k, a in made.trainer.state.items()}


class Cut(Exception):
    pass


def cut_after(data: Dataset, count: int) -> Any:
    """The data set's batches as a list that breaks after so many in all."""
    left = [count]

    class Batches(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                if left[0] == 0:
                    raise Cut
                left[0] -= 1
                yield item

    return Batches(data.batches(64))


@pytest.mark.parametrize("steps", [1, 3, 5])  # within the first epoch, at its end, later
def test_a_resumed_run_gives_the_same_bits(
    steps: int, cnn: Graph, data: Dataset, validation: Dataset, tmp_path: Path
) -> None:
    data, validation = data[:180], validation[:50]
    whole = taut.train(cnn, list(data.batches(64)), validation=validation, patience=3, **OPTIONS)
    options = {**OPTIONS, "validation": validation, "patience": 3, "checkpoint": tmp_path / "run",
               "checkpoint_steps": 1}  # fmt: skip
    with pytest.raises(Cut):
        taut.train(cnn, cut_after(data, steps), **options)
    again = taut.train(cnn, list(data.batches(64)), resume=True, **options)
    assert weights(whole) == weights(again) and whole.epoch == again.epoch
    for a, b in zip(whole.history.rows, again.history.rows, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_finished_run_may_be_made_longer(mlp: Graph, data: Dataset, tmp_path: Path) -> None:
    options = {**OPTIONS, "schedule": "constant", "checkpoint": tmp_path}
    whole = taut.train(mlp, data, **{**options, "checkpoint": None, "epochs": 5})
    taut.train(mlp, data, **options)
    assert taut.train(mlp, data, resume=True, **options).trainer.steps == 3 * 6
    longer = taut.train(mlp, data, resume=True, **{**options, "epochs": 5})
    assert weights(whole) == weights(longer) and len(longer.history) == 5


SCRIPT = """
import hashlib, time
import numpy as np
import taut
from taut.data import Dataset

random = np.random.default_rng(0)
data = Dataset(random.random((320, 1, 8, 8), np.float32), random.integers(0, 10, 320), 10)

def slowly(epoch):
    for batch in data.batches(16, seed=0, epoch=epoch):
        time.sleep(0.004)
        yield batch

made = taut.train(taut.load({model!r}), slowly, resume=True, checkpoint={run!r}, epochs=4,
                  checkpoint_steps=1, target="reference", batch_size=16, learning_rate=0.05,
                  optimizer="adam")
text = hashlib.sha256(b"".join(a.tobytes() for a in made.trainer.state.values())).hexdigest()
print(text, made.trainer.steps)
"""


def test_killed_at_any_moment_it_goes_on(mlp: Graph, tmp_path: Path) -> None:
    taut.save(mlp, tmp_path / "m.taut")

    def start(run: str) -> subprocess.Popen[str]:
        script = SCRIPT.format(model=str(tmp_path / "m.taut"), run=str(tmp_path / run))
        return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)

    def finish(process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return out

    whole = finish(start("whole"))
    random, steps = np.random.default_rng(), []
    for _ in range(3):
        process = start("cut")
        deadline = time.monotonic() + 300
        seen = at(tmp_path / "cut")
        while at(tmp_path / "cut") == seen and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        steps.append(at(tmp_path / "cut"))
    assert steps[0] > 0 and steps == sorted(steps)
    assert finish(start("cut")) == whole
    assert [p.name for p in (tmp_path / "cut").iterdir()] == [FILE]


def at(folder: Path) -> int:
    """Steps of the checkpoint in a folder, which is sound at any moment."""
    return _read(folder / FILE)[0]["steps"] if (folder / FILE).exists() else 0


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow past so many bytes: what a full disk looks like to a process."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_leaves_the_last_checkpoint(mlp: Graph, data: Dataset, tmp_path: Path) -> None:
    taut.train(mlp, data, checkpoint=tmp_path, **{**OPTIONS, "epochs": 1})
    before = (tmp_path / FILE).read_bytes()
    with small_files(len(before) // 2), pytest.raises(StorageError, match="cannot be written"):
        taut.train(mlp, data, checkpoint=tmp_path, resume=True, **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == before


def test_a_diverged_run_leaves_the_last_checkpoint(
    mlp: Graph, data: Dataset, tmp_path: Path
) -> None:
    taut.train(mlp, data, checkpoint=tmp_path, **{**OPTIONS, "epochs": 1})
    before = (tmp_path / FILE).read_bytes()
    bad = {**OPTIONS, "learning_rate": 1e30, "schedule": "constant"}
    with pytest.raises(TautError, match="epoch 2, batch"):
        taut.train(mlp, data, checkpoint=tmp_path, resume=True, **bad)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_checkpoint_is_not_overwritten_by_chance(
    mlp: Graph, data: Dataset, tmp_path: Path
) -> None:
    taut.train(mlp, data, checkpoint=tmp_path, **OPTIONS)
    with pytest.raises(StorageError, match="holds a checkpoint already"):
        taut.train(mlp, data, checkpoint=tmp_path, **OPTIONS)


# ---- checkpoints that are not sound, or not of this run ------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    b = taut.ir.Builder()
    w = b.constant(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    y = b.mat_mul(b.input("x", "f32", ("n", 2)), w)
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    batch = random.random((4, 2), np.float32), random.random((4, 3), np.float32)
    taut.train(b.outputs(y=y), [batch], checkpoint=folder, epochs=2, target="reference",
               loss="mean-squared-error", metrics=(), keep_best=True)  # fmt: skip
    return (folder / FILE).read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_byte_that_changed_is_found(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(sound)
    facts, tensors = _read(path)
    damaged = bytearray(sound)
    damaged[data.draw(st.integers(0, len(sound) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        other, arrays = _read(path)
    except ModelError:
        return
    assert other == facts and {k: a.tobytes() for k, a in arrays.items()} == {  # only white space
        k: a.tobytes() for k, a in tensors.items()
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, b"\xff" * 64, pickle.dumps({"a": 1}), b"\x02" + bytes(7) + b"{}"],
)
def test_what_is_no_checkpoint_is_refused(
    content: bytes, mlp: Graph, data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match=f"{FILE}.*is no sound checkpoint"):
        taut.train(mlp, data, checkpoint=tmp_path, resume=True, **OPTIONS)


def test_a_truncated_one_is_refused(sound: bytes, tmp_path: Path) -> None:
    for length in range(0, len(sound), 97):
        (tmp_path / FILE).write_bytes(sound[:length])
        with pytest.raises(ModelError):
            _read(tmp_path / FILE)


def test_the_checkpoint_of_another_run_is_refused(
    mlp: Graph, cnn: Graph, data: Dataset, tmp_path: Path
) -> None:
    taut.train(mlp, data, checkpoint=tmp_path, **OPTIONS)
    before = (tmp_path / FILE).read_bytes()

    def refused(message: str, graph: Graph = mlp, **changed: Any) -> None:
        with pytest.raises(FeedError, match=message):
            taut.train(graph, data, checkpoint=tmp_path, resume=True, **{**OPTIONS, **changed})

    refused("parameters: 'conv1.weight' is missing there, float32.4, 1, 3, 3. here", cnn)
    refused("optimizer: adam there, sgd here", optimizer="sgd")
    refused("optimizer: adam there, adam{beta1=0.8} here", optimizer="adam{beta1=0.8}")
    refused("loss: cross-entropy there", loss="soft-cross-entropy")
    refused("seed: 0 there, 1 here", seed=1)
    refused("batch size: 64 there, 32 here", batch_size=32)
    refused("graph: ", smoothing=0.1)
    refused("masks: 'fc2.weight'", masks={"fc2.weight": np.ones((10, 16), bool)})
    assert (tmp_path / FILE).read_bytes() == before


def test_metadata_is_json_that_people_can_read(mlp: Graph, data: Dataset, tmp_path: Path) -> None:
    taut.train(mlp, data, checkpoint=tmp_path, **OPTIONS)
    raw = (tmp_path / FILE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    facts = json.loads(header["__metadata__"]["taut"])
    assert facts["epoch"] == 3 and facts["about"]["optimizer"] == "adam"
    assert header["state:fc1.weight"]["shape"] == [16, 64]

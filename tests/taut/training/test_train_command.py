"""`taut train` and `taut finetune`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taut.ir import Graph

import taut
from taut.cli import main
from taut.data import Dataset, write_arrays

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    mlp: Graph, data: Dataset, validation: Dataset,
) -> Run:  # fmt: skip
    """Runs a command in a folder with mlp.taut, train.npz and test.npz."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAUT_DEBUG", raising=False)
    taut.save(mlp, "mlp.taut")
    for name, part in (("train", data), ("test", validation)):
        write_arrays({"images": part.images, "labels": part.labels}, f"{name}.npz")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--target", "reference"])
        return code, *capsys.readouterr()

    return run


TRAIN = ("train", "mlp.taut", "--data", "train.npz", "-o", "out.taut", "--epochs", "3")


def constant(graph: Graph, name: str) -> np.ndarray[Any, Any]:
    return graph[name].op.value  # type: ignore[attr-defined]


def test_train_writes_a_better_model_and_tells(run: Run, validation: Dataset) -> None:
    code, out, error = run(*TRAIN, "--validation", "test.npz", "--history", "h.csv", "--top", "3")
    assert code == 0 and "validation accuracy" in out and "out.taut: the weights" in out
    assert [line.split()[1] for line in error.splitlines()] == ["1", "2", "3"]
    assert len(Path("h.csv").read_text().splitlines()) == 4
    scores = taut.reference(taut.load("out.taut"), validation.images)["scores"]
    assert (scores.argmax(1) == validation.labels).mean() > 0.8


def test_json_has_stdout_to_itself(run: Run) -> None:
    code, out, error = run(*TRAIN, "--validation", "0.25", "--json", "--patience", "2")
    facts = json.loads(out)
    assert code == 0 and not error
    assert facts["epochs"] == 3 == len(facts["history"]) and facts["output"] == "out.taut"
    assert facts["history"][0]["validation loss"] > 0


def test_text_goes_through_pipes(run: Run) -> None:
    code, out, error = run("train", "mlp.taut", "--data", "train.npz", "-o", "-", "--epochs", "1")
    assert code == 0 and taut.ir.parse(out).output_names == ("scores",)
    assert "the weights after epoch 1" in error


def test_the_options_arrive(run: Run, mlp: Graph) -> None:
    code, _, error = run(*TRAIN, "--optimizer", "adamw{beta1=0.8}", "--lr", "0", "--weight-decay",
                         "0.5", "--schedule", "one-cycle", "--batch-size", "50", "--clip", "1",
                         "--label-smoothing", "0.1", "--augment", "flip", "--augment", "shift=1",
                         "--seed", "3", "--checkpoint", "run",
                         "--checkpoint-steps", "2")  # fmt: skip
    assert code == 0, error
    about = read_about(Path("run"))
    assert about["optimizer"] == "adamw{decay=0.5 beta1=0.8}"
    assert about["seed"] == 3 and about["batch size"] == 50
    made = taut.load("out.taut")  # at rate 0 nothing moves
    assert np.array_equal(constant(made, "fc1.weight"), constant(mlp, "fc1.weight"))


def read_about(folder: Path) -> dict[str, Any]:
    from taut.training.checkpoint import FILE, _read

    return _read(folder / FILE)[0]["about"]


def test_resume_goes_on(run: Run) -> None:
    saved = (*TRAIN, "--checkpoint", "run", "--schedule", "constant")
    assert run(*saved)[0] == 0
    code, _, error = run(*saved)
    assert code == 2 and "holds a checkpoint already" in error
    code, out, _ = run(*saved, "--epochs", "5", "--resume", "--json")
    assert code == 0 and [r["epoch"] for r in json.loads(out)["history"]] == [1, 2, 3, 4, 5]
    code, _, error = run(*saved, "--resume", "--optimizer", "adam")
    assert code == 2 and "differs in optimizer" in error


def test_finetune_keeps_zeros_and_what_is_frozen(run: Run, mlp: Graph) -> None:
    pruned = np.where(np.arange(16 * 64).reshape(16, 64) % 4, 0, constant(mlp, "fc1.weight"))
    trainer = taut.training.Trainer(mlp)
    trainer.load_state({"fc1.weight": pruned.astype(np.float32)})
    taut.save(trainer.graph, "pruned.taut")
    options = ("finetune", "pruned.taut", "--data", "train.npz", "-o", "out.taut")
    assert run(*options, "--keep-zeros", "--freeze", "fc2.*")[0] == 0
    made = taut.load("out.taut")
    weight = constant(made, "fc1.weight")
    assert not weight[pruned == 0].any() and not np.array_equal(weight, pruned)
    assert np.array_equal(constant(made, "fc2.weight"), constant(mlp, "fc2.weight"))
    assert run(*options)[0] == 0
    assert constant(taut.load("out.taut"), "fc1.weight")[pruned == 0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--optimizer", "sgdm"), "sgd"), (("--schedule", "sine"), "no schedule"),
        (("--augment", "turn"), "--augment"), (("--loss", "far"), "'far'"),
        (("--validation", "none.npz"), "none.npz"), (("--validation", "1.0"), "validation"),
        (("--freeze", "conv*"), "conv*"), (("--resume",), "resume"),
        (("--lr", "1e30"), "epoch 1, batch"), (("--data", "missing"), "missing"),
        (("--epochs", "0"), "epochs"), (("--lr", "nan"), "--lr"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(run: Run, options: tuple[str, ...], message: str) -> None:
    code, out, error = run(*TRAIN, *options)
    assert code == 2 and not out and message in error
    assert error.startswith("taut: error: ") and error.count("\n") == 1
    assert not Path("out.taut").exists()


def test_images_of_another_size_are_refused(run: Run) -> None:
    code, _, error = run("train", "zoo:lenet-5", "--data", "train.npz", "-o", "out.taut")
    assert code == 2
    assert 'node "image": epoch 1, batch 1: wants f32[batch,1,28,28], not shape [64, 1, 8, 8]' in \
        error  # fmt: skip


QAT = ("finetune", "mlp.taut", "--data", "train.npz", "--epochs", "1", "--qat",
       "--weight-bits", "4")  # fmt: skip


def test_quantization_aware(run: Run) -> None:
    """An integer program comes of it, or pairs that other runtimes read."""
    assert run(*QAT, "-o", "q.taut", "--activation-bits", "4", "--option", "edge_bits=0")[0] == 0
    graph = taut.load("q.taut")
    assert [n.op.name for n in graph.nodes()].count("mat_mul_integer") == 2
    arrays = [n.op.value for n in graph.nodes() if n.op.name == "constant"]  # type: ignore[attr-defined]
    weights = [a for a in arrays if a.dtype == np.int8 and a.ndim == 2]
    assert len(weights) == 2 and all(np.abs(w).max() <= 7 for w in weights)
    assert run(*QAT, "-o", "q.onnx")[0] == 0
    assert "quantize_linear" in [n.op.name for n in taut.load("q.onnx").nodes()]


@pytest.mark.parametrize(
    "given", [("--option", "colour=1"), ("--option", "edge_bits"), ("--activation-bits", "9")]
)
def test_bad_options_of_quantization(run: Run, given: tuple[str, ...]) -> None:
    assert run(*QAT, "-o", "q.taut", *given)[0] == 2 and not Path("q.taut").exists()

"""`taut.distill`: recorded teachers, training, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taut.frontends.builder import Network
from taut.frontends.zoo import zoo
from taut.ir import (
    FeedError,
    Graph,
    LimitError,
    Limits,
    ModelError,
    ParseError,
    StorageError,
    interpret,
    print_graph,
)
from taut.passes.gradient import trainable

import taut
from taut.data import Dataset
from taut.distillation import Cache, passes_of

FAST: dict[str, Any] = {"epochs": 2, "batch_size": 32, "threads": 1, "learning_rate": 0.05}


def digits(count: int = 160, seed: int = 0) -> Dataset:
    """Images whose brightest quarter is their class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    images = random.standard_normal((count, 1, 8, 8)).astype(np.float32) * 0.3
    for i, label in enumerate(labels):
        y, x = divmod(int(label), 2)
        images[i, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 1
    return Dataset(images, labels, 4)


def network(width: int, seed: int = 0, dropout: bool = False) -> Graph:
    """Convolution, batch norm, pooling, two linear layers."""
    net = Network(seed=seed)
    x = net.conv_bn(net.input("image", (1, 8, 8)), width, 3, name="block")
    x = net.flatten(net.max_pool(x, 2, name="pool"))
    x = net.relu(net.linear(x, 2 * width, name="fc"), name="act")
    x = net.dropout(x, 0.5, name="drop") if dropout else x
    return net.outputs(scores=net.classifier(x, 4))


DATA, TEACHER, STUDENT = digits(), network(6, seed=1, dropout=True), network(3)


def text(graph: Graph) -> str:
    return print_graph(graph, resources="inline")


# ---- recordings --------------------------------------------------------------------------------


def test_a_recording_holds_what_the_teacher_gives(tmp_path: Path):
    made = taut.distill.cache(TEACHER, DATA, tmp_path, ["pool", "act"], batch_size=48, threads=1)
    assert set(made.arrays) == {"output.scores", "feature.pool", "feature.act"}
    assert len(made) == len(DATA)
    work = TEACHER.copy()
    work.set_outputs({"output.scores": work.outputs[0], "feature.pool": work["pool"],
                      "feature.act": work["act"]})  # fmt: skip
    for key, want in interpret(work, {"image": DATA.images}).items():
        np.testing.assert_allclose(made.arrays[key], want, rtol=1e-4, atol=1e-5)


def test_it_is_made_once_for_each_teacher_data_and_choice(tmp_path: Path):
    def files() -> set[str]:
        return {p.name for p in tmp_path.iterdir()}

    taut.distill.cache(TEACHER, DATA, tmp_path, threads=1)
    first = files()
    assert len(first) == 2 and {Path(n).suffix for n in first} == {".json", ".safetensors"}
    times = {n: (tmp_path / n).stat().st_mtime_ns for n in first}
    taut.distill.cache(TEACHER, DATA, tmp_path, threads=1)
    assert times == {n: (tmp_path / n).stat().st_mtime_ns for n in files()}
    taut.distill.cache(network(6, seed=2), DATA, tmp_path, threads=1)
    taut.distill.cache(TEACHER, DATA[:100], tmp_path, threads=1)
    taut.distill.cache(TEACHER, DATA, tmp_path, ["act"], threads=1)
    assert len(files()) == 8


def test_attention_is_recorded_as_probabilities(tmp_path: Path):
    teacher = zoo("transformer-encoder", hidden=16)
    ids = np.random.default_rng(0).integers(0, 9, (6, 5))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    made = taut.distill.cache(teacher, [batch, batch], tmp_path, ["layer.0.attention.heads"])
    heads = made.arrays["attention.layer.0.attention.heads"]
    assert heads.shape == (12, 4, 5, 5)
    np.testing.assert_allclose(heads.sum(-1), 1, rtol=1e-5)
    student = zoo("transformer-encoder", hidden=8, layers=1)
    joined = taut.distill.join(student, made, "attention")
    assert str(joined.signature.inputs["teacher.attention.layer.0.attention.heads"]) == \
        "f32[batch,4,sequence,sequence]"  # fmt: skip
    assert text(taut.distill.take_out(joined)) == text(student)


@pytest.mark.parametrize("kind", [
    "response", "relation", "attention", "hint{layers=[pool]}", "hint{layers=[act]}",
])  # fmt: skip
def test_a_recorded_teacher_teaches_the_same(tmp_path: Path, kind: str):
    made = taut.distill.cache(TEACHER, DATA, tmp_path, ["block.relu", "pool", "act"], threads=1)
    with_teacher = taut.distill.join(STUDENT, TEACHER, kind)
    recorded = taut.distill.join(STUDENT, made, kind)
    feeds = {"image": DATA.images[:20], "target": DATA.labels[:20]}
    given = {n: made.arrays[n.removeprefix("teacher.")][:20] for n in recorded.signature.inputs
             if n.startswith("teacher.")}  # fmt: skip
    assert len(given) == (1 if kind != "attention" else 2)
    want = interpret(with_teacher, feeds)["loss"]
    np.testing.assert_allclose(interpret(recorded, {**feeds, **given})["loss"], want, rtol=1e-5)
    assert text(taut.distill.take_out(recorded)) == text(STUDENT)


def test_damaged_recordings_are_refused(tmp_path: Path):
    taut.distill.cache(TEACHER, DATA, tmp_path, threads=1)
    index, arrays = next(tmp_path.glob("*.json")), next(tmp_path.glob("*.safetensors"))
    whole, good = arrays.read_bytes(), index.read_text()
    arrays.write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="is not what was recorded"):
        taut.distill.cache(TEACHER, DATA, tmp_path)
    arrays.write_bytes(whole[:50])
    with pytest.raises(ModelError):
        taut.distill.load_cache(index)
    arrays.write_bytes(whole)
    taut.distill.load_cache(index)
    for wrong in ("{", "[]", "{}", good.replace('"format": 1', '"format": 2'),
                  good.replace('"f32"', '"f7"')):  # fmt: skip
        index.write_text(wrong)
        with pytest.raises(ModelError):
            taut.distill.load_cache(index)
    index.write_text(good.replace('"output"', '"feature"'))
    with pytest.raises(ModelError, match="is a recording of something else"):
        taut.distill.cache(TEACHER, DATA, tmp_path)
    index.unlink()
    with pytest.raises(StorageError):
        taut.distill.load_cache(index)
    taut.distill.cache(TEACHER, DATA, tmp_path, threads=1)  # without its index there is none


def test_what_cannot_be_recorded(tmp_path: Path):
    with pytest.raises(FeedError, match="no such node"):
        taut.distill.cache(TEACHER, DATA, tmp_path, ["nothing"])
    with pytest.raises(FeedError, match="gone through only once"):
        taut.distill.cache(TEACHER, iter([DATA.images]), tmp_path)
    with pytest.raises(FeedError, match="there are no data"):
        taut.distill.cache(TEACHER, [], tmp_path)
    with pytest.raises(LimitError, match="record fewer layers"):
        taut.distill.cache(TEACHER, DATA, tmp_path, limits=Limits(model_bytes=1000))
    with pytest.raises(FeedError, match="whose first axis is not"):
        taut.distill.cache(TEACHER, DATA, tmp_path, ["fc.weight"])
    assert not list(tmp_path.iterdir())


# ---- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["response", "response{alpha=0.0}", "hint"])
def test_a_student_learns(kind: str, tmp_path: Path):
    held = digits(80, seed=9)
    teacher = taut.train(TEACHER, DATA, **{**FAST, "epochs": 4}).graph
    joined = []
    made = taut.distill(STUDENT, teacher, DATA, kind, validation=held, on_join=joined.append,
                        **{**FAST, "epochs": 6})  # fmt: skip
    rows = made.history.rows
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["validation accuracy"] > 0.7
    assert joined[0].outcome.remarks
    graph = made.graph
    assert list(graph.signature.outputs) == ["scores"] and len(graph) == len(STUDENT)
    got = interpret(graph, {"image": held.images})["scores"].argmax(1)
    np.testing.assert_allclose(np.mean(got == held.labels), rows[-1]["validation accuracy"])
    with_record = taut.distill(STUDENT, teacher, DATA, kind, validation=held, folder=tmp_path,
                               **{**FAST, "epochs": 6})  # fmt: skip
    for a, b in zip(rows, with_record.history.rows):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-3)


def test_the_teacher_stays_as_it_is():
    """Weights, running statistics and dropout: it answers in training as at inference."""
    before = text(TEACHER)
    made = taut.distill(STUDENT, TEACHER, DATA, "response", **FAST)
    assert text(TEACHER) == before
    model = made.trainer.model
    for name, array in trainable(TEACHER).items():
        np.testing.assert_array_equal(model[f"teacher.{name}"].op.value, array)  # type: ignore[attr-defined]
    names = set(made.trainer.parameters) | set(made.trainer.statistics)
    assert names and not [n for n in names if n.startswith("teacher.")]
    inputs = made.trainer.step_graph.signature.inputs
    assert not [n for n in inputs if "teacher." in n]  # no mask of dropout either


def test_the_same_seed_gives_the_same_student():
    a, b = (taut.distill(STUDENT, TEACHER, DATA, "hint", seed=3, **FAST).graph for _ in range(2))
    assert text(a) == text(b)


def test_unlabelled_batches_teach_too():
    batches = [DATA.images[i : i + 32] for i in range(0, 160, 32)]
    made = taut.distill(STUDENT, TEACHER, batches, "response{alpha=0.0}", **FAST)
    assert made.history.rows[-1]["loss"] < made.history.rows[0]["loss"]


def test_several_kinds_add_up(tmp_path: Path):
    kinds = ["response{alpha=0.5}", "hint{weight=0.1}"]
    made = taut.distill(STUDENT, TEACHER, DATA, kinds, labels=0.5, folder=tmp_path, **FAST)
    assert [p.name for p in passes_of(kinds, 0.5)] == [
        "distill-labels", "distill-response", "distill-hint",
    ]  # fmt: skip
    assert made.history.rows[-1]["loss"] < made.history.rows[0]["loss"]


@pytest.mark.parametrize(("kind", "options", "error", "words"), [
    ("respons", {}, ParseError, "did you mean"),
    ([], {}, FeedError, "no kind of distillation"),
    ("distill-hint,fold", {}, FeedError, "fold is no pass of distillation"),
    ("response", {"loss": "cross-entropy", "smoothing": 0.1}, FeedError, "takes no loss"),
    ("response", {"metrics": ("top",)}, FeedError, "no metric is named"),
    ("response", {"augment": lambda x, r: x}, FeedError, "does not know augmented"),
    ("response", {"validation": [1]}, FeedError, "needs the data as a Dataset"),
])  # fmt: skip
def test_refusals(kind: Any, options: Any, error: type, words: str, tmp_path: Path):
    with pytest.raises(error, match=words):
        taut.distill(STUDENT, TEACHER, DATA, kind, folder=tmp_path, **{**FAST, **options})


def test_a_recording_of_other_data_is_refused(tmp_path: Path):
    made = taut.distill.cache(TEACHER, DATA, tmp_path, threads=1)
    assert isinstance(made, Cache)
    with pytest.raises(FeedError, match="are not those 160 that"):
        taut.distill(STUDENT, made, digits(160, seed=4), **FAST)
    with pytest.raises(FeedError, match="give the teacher itself"):
        taut.distill(STUDENT, made, DATA, validation=digits(20), **FAST)
    taut.distill(STUDENT, made, DATA, **{**FAST, "epochs": 1})


def test_what_was_not_recorded_is_refused_by_name(tmp_path: Path):
    made = taut.distill.cache(TEACHER, DATA, tmp_path, ["act"], threads=1)
    with pytest.raises(FeedError, match='no feature "pool" was recorded; recorded are act'):
        taut.distill.join(STUDENT, made, "hint{layers=[pool]}")
    with pytest.raises(FeedError, match='input "image" is f32\\[batch,1,8,8\\], the student'):
        taut.distill.join(zoo("lenet-300-100", classes=4), made, "response")


# ---- the command -------------------------------------------------------------------------------


def test_the_command_writes_the_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from taut.cli import main

    np.savez(tmp_path / "data.npz", images=DATA.images, labels=DATA.labels)
    taut.save(TEACHER, tmp_path / "teacher.onnx")
    taut.save(STUDENT, tmp_path / "student.taut")
    command = ["distill", "--teacher", tmp_path / "teacher.onnx", "--student",
               tmp_path / "student.taut", "--kind", "response{alpha=0.5}", "--kind", "hint",
               "--data", tmp_path / "data.npz", "--validation", "0.25", "--epochs", "2",
               "--top", "2", "--record", tmp_path / "answers", "--threads", "1", "--json",
               "-o", tmp_path / "out.taut"]  # fmt: skip
    assert main([str(c) for c in command]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"validation accuracy", "validation top-2"} < set(facts["history"][-1])
    out = taut.load(tmp_path / "out.taut")
    assert out.signature == STUDENT.signature and len(out) == len(STUDENT)
    assert len(list((tmp_path / "answers").glob("*.json"))) == 2


def test_opt_joins_and_takes_out(tmp_path: Path):
    from taut.cli import main

    for name, graph in (("teacher", TEACHER), ("student", STUDENT)):
        taut.save(graph, tmp_path / f"{name}.taut")
    there = [str(tmp_path / f"{n}.taut") for n in ("student", "joined", "again", "teacher")]
    assert main(["opt", there[0], "-p", "distill-hint", "--teacher", there[3], "-o", there[1]]) == 0
    assert "loss" in taut.load(there[1]).signature.outputs
    assert main(["opt", there[1], "-p", "take-student", "-o", there[2]]) == 0
    assert text(taut.load(there[2])) == text(STUDENT)
    assert main(["opt", there[0], "-p", "distill-hint", "-o", there[1]]) == 2

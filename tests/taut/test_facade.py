"""The public API: load, save, optimize, compile, reference, compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from taut.ir import Graph, assert_equal

import taut


@pytest.fixture
def small() -> Graph:
    b = taut.ir.Builder()
    x = b.input("x", "f32", ("batch", 3, 6, 6))
    w = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return b.outputs(y=b.relu(b.conv(x, w, pads=(1, 1, 1, 1), name="first")))


IMAGE = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".taut", ".ir", ".TAUT"])
def test_saved_graphs_load_again(small: Graph, tmp_path: Path, suffix: str):
    path = tmp_path / f"model{suffix}"
    taut.save(small, path)
    assert_equal(taut.load(path), small, names=True)


@pytest.mark.parametrize("name", ["model.pt", "model", "model.onnx.zip"])
def test_other_suffixes_are_refused(small: Graph, tmp_path: Path, name: str):
    with pytest.raises(taut.TautError, match=r"use \.onnx, \.taut, \.ir"):
        taut.save(small, tmp_path / name)
    with pytest.raises(taut.TautError, match="suffix"):
        taut.load(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".taut", ".ir", ".onnx"])
def test_unreadable_files_are_one_line(tmp_path: Path, suffix: str):
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    for path in (folder, tmp_path / f"absent{suffix}"):
        with pytest.raises(taut.TautError) as caught:
            taut.load(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".taut", ".ir", ".onnx"])
def test_junk_is_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"junk{suffix}"
    for data in (b"", b"\0" * 100, bytes(range(256)), b"graph @a(", b"PK\x03\x04" + b"x" * 50):
        path.write_bytes(data)
        with pytest.raises(taut.TautError):
            taut.load(path)


def test_reference_takes_positions_and_names(small: Graph):
    by_position = taut.reference(small, IMAGE)["y"]
    assert by_position.shape == (2, 4, 6, 6)
    np.testing.assert_array_equal(by_position, taut.reference(small, x=IMAGE)["y"])


@pytest.mark.parametrize(
    ("feeds", "named", "message"),
    [
        ((), {}, "not given"),
        ((IMAGE, IMAGE), {}, "2 inputs are given"),
        ((IMAGE.astype(np.float64),), {}, "float64"),
        ((IMAGE[0],), {}, "shape"),
        ((IMAGE[:, :2],), {}, "shape"),
        ((), {"z": IMAGE}, "no input is named"),
        ((IMAGE,), {"x": IMAGE}, "given twice"),
    ],
)
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_wrong_feeds_are_named(small: Graph, target: str, feeds, named, message: str):
    program = taut.compile(small, target)
    with pytest.raises(taut.ir.FeedError, match=message):
        program(*feeds, **named)


def test_programs_agree_with_the_reference(small: Graph):
    want = taut.reference(small, IMAGE)["y"]
    program = taut.compile(small, threads=1)
    np.testing.assert_allclose(program(IMAGE)["y"], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(x=IMAGE)["y"], want, rtol=1e-4, atol=1e-5)


def test_unknown_targets_and_options_are_refused(small: Graph):
    with pytest.raises(taut.ir.CompileError, match="abacus"):
        taut.compile(small, "abacus")
    with pytest.raises(taut.ir.CompileError, match="speed"):
        taut.compile(small, speed=11)
    with pytest.raises(taut.TautError, match="threads"):
        taut.compile(small, threads=0)


def noisy(graph: Graph, sigma: float) -> Graph:
    twin = graph.copy()
    first = twin["first"]
    weight = twin.operand(first, 1)
    assert weight is not None and weight.array is not None
    noise = np.random.default_rng(2).normal(size=weight.array.shape) * sigma
    twin.set_operand(first, 1, twin.constant(weight.array + noise.astype(np.float32),
                                             before=first))  # fmt: skip
    return twin


def test_compare_measures_each_layer(small: Graph):
    found = taut.compare(small, noisy(small, 0.01), [IMAGE, {"x": IMAGE}, (IMAGE,)])
    assert [x.name for x in found.layers] == ["first", "relu", "y"]
    assert found.items == 3
    # Weights of variance 1 with noise of variance 1e-4 in a linear layer: 40 dB.
    assert found["first"].sqnr_db == pytest.approx(40, abs=2)
    assert 0.5 < found["y"].agreement <= 1
    assert found["first"].max_error > 0
    text = str(found)
    assert "first" in text and "SQNR" in text
    loaded = json.loads(found.to_json())
    assert loaded["layers"][0]["name"] == "first"
    with pytest.raises(KeyError):
        found["nothing"]


def test_compare_sees_equal_graphs_and_programs(small: Graph):
    same = taut.compare(small, small.copy(), [IMAGE])
    assert all(x.sqnr_db == np.inf and x.agreement == 1 and x.max_error == 0 for x in same.layers)
    outputs = taut.compare(small, taut.compile(small, threads=1), [IMAGE])
    assert [x.name for x in outputs.layers] == ["y"]
    assert outputs["y"].sqnr_db > 90
    assert json.loads(same.to_json())["layers"][0]["sqnr_db"] == "inf"


def test_compare_refuses_what_it_cannot_do(small: Graph):
    with pytest.raises(taut.TautError, match="no data"):
        taut.compare(small, small, [])
    other = small.copy()
    other.set_outputs({"z": other["first"]})
    with pytest.raises(taut.TautError, match="outputs"):
        taut.compare(small, other, [IMAGE])


def test_names_are_documented():
    assert {"load", "save", "optimize", "quantize", "compile", "reference", "compare"} <= set(
        dir(taut)
    )
    for name in taut.__all__:
        assert getattr(taut, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = taut.nonsense  # type: ignore[attr-defined]

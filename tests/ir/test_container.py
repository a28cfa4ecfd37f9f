"""Files: whole or refused, equal graphs in equal bytes, nothing in them trusted."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save
from taut.ir import (
    Builder,
    Graph,
    LimitError,
    Limits,
    ModelError,
    ParseError,
    StorageError,
    TautError,
    equal,
    load_container,
    load_text,
    parse,
    print_graph,
    save_container,
    save_text,
)
from taut.ir.container import pack_tensors, unpack_tensors
from taut.ir.printer import constants


def model() -> Graph:
    b = Builder(Graph('na"me\n'))
    x = b.input("x", "f32", ("n", 20))
    w = b.constant(np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32), "../w")
    low = b.constant(np.arange(-8, 8).astype(ml_dtypes.int4).repeat(3), "int4\x00")
    half = b.constant(np.arange(30).astype(ml_dtypes.bfloat16), "bf")
    y = b.add(b.mat_mul(x, w), b.cast(half, to=x.type.dtype))
    graph = b.outputs(y=y, low=low)
    graph.metadata = {"producer": "é", "": "x"}
    return graph


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.taut"


def test_round_trip(path: Path) -> None:
    graph = model()
    save_container(graph, path)
    again = load_container(path)
    assert equal(graph, again, names=True)
    assert print_graph(again) == print_graph(graph)
    assert again.metadata == graph.metadata
    first = path.read_bytes()
    save_container(again, path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["model.taut"]


def beside(folder: Path) -> Path:
    """The tensors of m.ir."""
    [found] = folder.glob("m.ir.*.safetensors")
    return found


def test_text_with_tensors_beside_it(tmp_path: Path) -> None:
    graph = model()
    save_text(graph, tmp_path / "m.ir")
    assert len(list(tmp_path.iterdir())) == 2
    assert equal(graph, load_text(tmp_path / "m.ir"), names=True)
    beside(tmp_path).unlink()
    with pytest.raises(ModelError, match="belongs beside it"):
        load_text(tmp_path / "m.ir")


def test_tensors_written_by_hand_are_found_by_their_plain_name(tmp_path: Path) -> None:
    graph = model()
    (tmp_path / "m.ir").write_text(print_graph(graph, resources="none"))
    with pytest.raises(ParseError, match="nowhere"):
        load_text(tmp_path / "m.ir")
    (tmp_path / "m.ir.safetensors").write_bytes(pack_tensors(dict(constants(graph))))
    assert equal(graph, load_text(tmp_path / "m.ir"), names=True)


def test_a_text_is_never_read_with_the_tensors_of_another_save(tmp_path: Path) -> None:
    first, second = tmp_path / "m.ir", tmp_path / "other" / "m.ir"
    second.parent.mkdir()
    save_text(model(), first)
    b = Builder(Graph("g"))
    w = b.constant(np.zeros((20, 30), np.float32), "../w")
    save_text(b.outputs(y=b.mat_mul(b.input("x", "f32", ("n", 20)), w)), second)
    beside(tmp_path).write_bytes(beside(second.parent).read_bytes())
    with pytest.raises(ModelError, match="does not hold what was saved"):
        load_text(first)


def test_a_save_leaves_nothing_of_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "m.ir"
    save_text(model(), path)
    old = beside(tmp_path)
    b = Builder(Graph("small"))
    save_text(b.outputs(y=b.relu(b.input("x", "f32", ("n", 20)))), path)
    assert list(tmp_path.iterdir()) == [path]
    save_text(model(), path)
    assert beside(tmp_path) == old  # the name tells the contents


def test_a_link_beside_the_text_is_not_followed(tmp_path: Path) -> None:
    save_text(model(), tmp_path / "m.ir")
    place = beside(tmp_path)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TautError):
        load_text(tmp_path / "m.ir")


def rebuilt(path: Path, **members: bytes | None) -> None:
    """The archive with members replaced (or left out)."""
    with zipfile.ZipFile(path) as archive:
        data = {n: archive.read(n) for n in archive.namelist()}
    files = {"graph": "graph.ir", "tensors": "tensors.safetensors", "meta": "metadata.json"}
    for key, value in members.items():
        data.pop(files[key])
        if value is not None:
            data[files[key]] = value
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in data.items():
            archive.writestr(name, value)
    path.write_bytes(buffer.getvalue())


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "members",
    [
        {"graph": None}, {"tensors": None}, {"meta": None}, {"graph": b"\xff\xfe"}, {"graph": b""},
        {"meta": b"[]"}, {"meta": b"{"}, {"meta": json.dumps({"format": 99}).encode()},
        {"tensors": b""}, {"tensors": b"\xff" * 100}, {"tensors": pickle.dumps(Bomb())},
        {"graph": pickle.dumps(Bomb())}, {"meta": b"[" * 100_000},
    ],
)  # fmt: skip
def test_damaged_members_are_refused(path: Path, members: dict[str, bytes | None]) -> None:
    save_container(model(), path)
    rebuilt(path, **members)
    with pytest.raises((ModelError, ParseError)) as caught:
        load_container(path)
    assert "model.taut" in str(caught.value)


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_files_give_our_errors(path: Path, data: st.DataObject) -> None:
    if not path.exists():
        save_container(model(), path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    broken = path.with_name("broken.taut")
    broken.write_bytes(bytes(raw))
    try:
        graph = load_container(broken)
    except TautError as error:
        assert "broken.taut" in str(error)
    else:
        print_graph(graph)


def test_limits(path: Path) -> None:
    save_container(model(), path)
    with pytest.raises(LimitError):
        load_container(path, Limits(model_bytes=100))
    with pytest.raises(LimitError):
        load_container(path, Limits(tensor_bytes=100))
    with pytest.raises(LimitError):
        load_container(path, Limits(nodes=3))


def test_a_bomb_is_not_inflated(path: Path) -> None:
    save_container(model(), path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(buffer, "w") as out:
        out.writestr("metadata.json", archive.read("metadata.json"))
        out.writestr("tensors.safetensors", archive.read("tensors.safetensors"))
        out.writestr("graph.ir", b" " * 50_000_000, compress_type=zipfile.ZIP_DEFLATED)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(LimitError, match=r"graph\.ir takes"):
        load_container(path, Limits(model_bytes=1_000_000))


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    for bad in (tmp_path / "none.taut", tmp_path, Path("/dev/null/x"), Path("a\0b")):
        with pytest.raises(StorageError):
            load_container(bad)
    with pytest.raises(StorageError):
        save_container(model(), tmp_path / "no" / "model.taut")
    with pytest.raises(StorageError):
        save_container(model(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- element types that NumPy has not ----------------------------------------------------------


def entries(data: bytes) -> dict[str, tuple[str, list[int], int]]:
    """(safetensors' name of the type, shape, bytes) of each tensor."""
    return {k: (v["dtype"], v["shape"], len(v["data"])) for k, v in deserialize(data)}


def test_small_elements_are_packed_and_eight_bit_floats_have_their_names() -> None:
    tensors = {
        "four": np.arange(-8, 7).astype(ml_dtypes.int4).reshape(3, 5),
        "float": np.arange(6).astype(ml_dtypes.float4_e2m1fn).reshape(2, 3),
        "two": np.arange(9).astype(np.uint8).astype(ml_dtypes.uint2),
        "e4": np.arange(4).astype(ml_dtypes.float8_e4m3fn).reshape(2, 2),
        "e5": np.arange(4).astype(ml_dtypes.float8_e5m2),
        "e8": np.arange(1, 5).astype(ml_dtypes.float8_e8m0fnu),
        "half": np.array(3, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), ml_dtypes.int4),
    }
    data = pack_tensors(tensors)
    assert entries(data) == {
        "i4[3,5]:four": ("U8", [8], 8), "f4e2m1fn[2,3]:float": ("U8", [3], 3),
        "u2[9]:two": ("U8", [3], 3), "i4[0,3]:empty": ("U8", [0], 0),
        "f8e4m3fn:e4": ("F8_E4M3", [2, 2], 4), "f8e5m2:e5": ("F8_E5M2", [4], 4),
        "f8e8m0fnu:e8": ("U8", [4], 4), "bf16:half": ("BF16", [], 2),
    }  # fmt: skip
    again = unpack_tensors(data)
    assert again.keys() == tensors.keys()
    for k, v in tensors.items():
        made = again[k]
        assert (made.dtype, made.shape, made.tobytes()) == (v.dtype, v.shape, v.tobytes()), k
        assert not made.flags.writeable


def test_older_files_are_read_and_bits_above_an_element_are_dropped() -> None:
    """They had a byte for each small element, and all odd types as bytes."""
    data = save({
        "i4:four": np.array([[7, 0x0F], [0xF8, 0x31]], np.uint8),
        "f4e2m1fn:float": np.array([0xF1], np.uint8),
        "bf16:half": np.array([[1, 2, 3]], ml_dtypes.bfloat16).view(np.uint8),
    })  # fmt: skip
    made = unpack_tensors(data)
    np.testing.assert_array_equal(made["four"].astype(int), [[7, -1], [-8, 1]])
    assert made["four"].view(np.uint8).max() < 16
    assert made["float"].tolist() == [0.5]
    assert made["half"].astype(float).tolist() == [[1, 2, 3]]
    b = Builder()
    y = b.constant(np.arange(20).astype(ml_dtypes.int4), "w")
    text = print_graph(b.outputs(y=y))
    packed = re.search(r'"([^"]+)"', text.split("resources")[1])
    assert packed is not None and len(base64.b64decode(packed[1])) == 10
    plain = base64.b64encode(np.arange(20, dtype=np.uint8).tobytes()).decode()
    assert equal(parse(text.replace(packed[1], plain)), b.graph, names=True)


@pytest.mark.parametrize("key, array", [
    ("i4[3]:x", np.zeros(3, np.uint8)), ("i4[99999999999999999999]:x", np.zeros(1, np.uint8)),
    ("i4[3]:x", np.zeros(2, np.float32)), ("f8e4m3fn:x", np.zeros(2, np.int8)),
    ("f9[3]:x", np.zeros(2, np.uint8)), ("f32:x", np.zeros(2, np.float64)),
    ("i4[9999999999999999999]:x", np.zeros(1, np.uint8)), ("i4[-1]:x", np.zeros(1, np.uint8)),
])  # fmt: skip
def test_a_key_that_does_not_fit_its_tensor_is_refused(key: str, array: np.ndarray) -> None:
    with pytest.raises(TautError):
        unpack_tensors(save({key: array}))


def test_a_number_that_a_small_float_has_not_is_no_constant() -> None:
    text = "graph @g() -> (%y: f8e4m3fn[1]) {{\n  %y = constant [{}] : {}[1]\n  return %y\n}}\n"
    for token, kind in (("0.3", "f8e4m3fn"), ("500", "f8e4m3fn"), ("inf", "f8e4m3fn"),
                        ("nan", "f4e2m1fn"), ("7", "f4e2m1fn"), ("0", "f8e8m0fnu"),
                        ("3.0", "f8e8m0fnu"), ("-1.0", "f8e8m0fnu")):  # fmt: skip
        with pytest.raises(ParseError, match=f"is no {kind}, which has .* near it"):
            parse(text.format(token, kind).replace("f8e4m3fn[1])", f"{kind}[1])"))

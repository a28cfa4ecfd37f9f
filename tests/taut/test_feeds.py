"""Inputs out of files: cut into calls, never unpickled, refused with one line."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Builder, FeedError, Graph

import taut
from taut.data import FileFeeds, RandomFeeds, check_finite, read_arrays, write_arrays
from taut.data.feeds import check_dims


def graph(*shape: int | str, dtype: str = "f32") -> Graph:
    b = taut.ir.Builder()
    return b.outputs(y=b.relu(b.input("x", dtype, shape)))


def stored(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("shape", "rows", "batch", "calls"),
    [
        (("n", 3), (10, 3), None, [10]),
        (("n", 3), (10, 3), 4, [4, 4, 2]),
        ((2, 3), (10, 3), None, [2] * 5),
        ((2, 3), (5, 2, 3), None, [2] * 5),
        (("n", 3), (5, 2, 3), None, [2] * 5),
        ((3,), (4, 3), None, [3] * 4),
    ],
)
def test_files_are_cut_into_calls(tmp_path: Path, shape, rows, batch, calls):
    data = np.arange(np.prod(rows), dtype=np.float32).reshape(rows)
    items = FileFeeds(stored(tmp_path / "x.npy", data), graph(*shape), batch)
    assert len(items) == len(calls)
    for _ in range(2):  # again and again
        found = [f["x"] for f in items]
        assert [len(f) for f in found] == calls
        np.testing.assert_array_equal(np.concatenate([f.reshape(-1) for f in found]),
                                      data.reshape(-1))  # fmt: skip


@pytest.mark.parametrize("rows", [(5, 3), (2, 3, 1, 1), (3,), (0, 2, 3)])
def test_unfit_shapes_are_refused(tmp_path: Path, rows):
    path = stored(tmp_path / "x.npy", np.zeros(rows, np.float32))
    with pytest.raises(taut.ir.FeedError, match=r"x\.npy"):
        FileFeeds(path, graph(2, 3))


def test_names_must_fit(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3, np.float32), z=np.zeros(3, np.float32))
    with pytest.raises(taut.ir.FeedError, match="'z'"):
        FileFeeds(tmp_path / "a.npz", graph(3))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy"])
def test_written_arrays_read_again(tmp_path: Path, suffix: str):
    arrays = {"a/b": np.arange(6, dtype=np.int64).reshape(2, 3), "file": np.ones(2, np.float16)}
    if suffix == ".npy":
        arrays = {"": arrays["file"]}
    write_arrays(arrays, tmp_path / f"out{suffix}")
    found = read_arrays(tmp_path / f"out{suffix}")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_pickles_are_never_read(tmp_path: Path):
    objects = np.array([Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("x.npy", "x.npz", "bare.npy", "bare.npz"):
        with pytest.raises(taut.TautError, match=name):
            read_arrays(tmp_path / name)


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(-1,)", "(4, 99999999999999999999999)"])
def test_lying_headers_allocate_nothing(tmp_path: Path, shape: str):
    (tmp_path / "x.npy").write_bytes(header(shape) + b"\0" * 16)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header(shape) + b"\0" * 16)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(taut.TautError, match=name):
            read_arrays(tmp_path / name)


@pytest.mark.parametrize("name", ["absent.npy", "absent.npz", "absent.safetensors", "folder.npy",
                                  "folder.npz", "folder.safetensors", "x.csv"])  # fmt: skip
def test_what_is_no_data_file(tmp_path: Path, name: str):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(taut.TautError, match=name):
        read_arrays(tmp_path / name)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([".npy", ".npz", ".safetensors"]), st.data())
def test_damaged_files_give_one_line(tmp_path_factory, suffix: str, data: st.DataObject):
    folder = tmp_path_factory.mktemp("damaged")
    good = folder / f"good{suffix}"
    write_arrays({"x": np.arange(12, dtype=np.float32)}, good)
    content = bytearray(good.read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    flips = data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)),
                               max_size=4))  # fmt: skip
    for place, mask in flips:
        content[place] ^= mask
    bad = folder / f"bad{suffix}"
    bad.write_bytes(bytes(content[:cut] if cut % 2 else content))
    try:
        arrays = read_arrays(bad)
    except taut.TautError as error:
        assert "\n" not in str(error)
    else:
        for array in arrays.values():
            array.sum() if array.dtype.kind in "fiu" else None


def test_random_feeds_repeat_and_fit():
    b = taut.ir.Builder()
    x, i, m = (b.input(n, d, ("batch", 3)) for n, d in [("x", "f32"), ("i", "i64"), ("m", "bool")])
    g = b.outputs(x=b.relu(x), i=b.add(i, i), m=getattr(b, "not")(m))
    feeds = RandomFeeds(g, 3, seed=7, dims={"batch": 5})
    first, again = list(feeds), list(feeds)
    assert len(first) == 3
    for a, c in zip(first, again):
        assert {k: v.shape for k, v in a.items()} == {"x": (5, 3), "i": (5, 3), "m": (5, 3)}
        for name, value in a.items():
            np.testing.assert_array_equal(value, c[name])
    assert not np.array_equal(first[0]["x"], first[1]["x"])
    with pytest.raises(taut.ir.LimitError):
        list(RandomFeeds(g, 1, dims={"batch": 1 << 40}))
    shaped = next(iter(RandomFeeds(g, 1, dims={"x": (7, 3), "*": 2})))
    assert {k: v.shape for k, v in shaped.items()} == {"x": (7, 3), "i": (2, 3), "m": (2, 3)}
    with pytest.raises(taut.ir.FeedError, match="x"):
        list(RandomFeeds(g, 1, dims={"x": (7, 4)}))


def test_check_finite_names_the_input():
    check_finite({"x": np.zeros(3, np.float32), "i": np.arange(3)})
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(taut.ir.FeedError, match="x"):
            check_finite({"x": np.array([0, bad], np.float32)})


def test_writing_is_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(taut.TautError):
        write_arrays({"a": np.zeros(2)}, tmp_path / "absent" / "out.npz")
    with pytest.raises(taut.TautError, match="npz"):
        write_arrays({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path / "out.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dims", "what"), [
    ({"batch": 4}, "no open size of the graph is named 'batch'; it has 'n'"),
    ({"image": 3}, "no open size"), ({"n": (2, 3)}, "no input of the graph"),
    ({"img": (2, 3)}, "'image'"),
])  # fmt: skip
def test_sizes_of_what_is_not_there_are_refused(dims: dict[str, Any], what: str) -> None:
    b = Builder()
    graph = b.outputs(y=b.relu(b.input("image", "f32", ("n", 3))))
    with pytest.raises(FeedError) as refused:
        check_dims(graph, dims)
    assert what in str(refused.value)
    fixed = Builder()
    with pytest.raises(FeedError, match="fixed"):
        check_dims(fixed.outputs(y=fixed.relu(fixed.input("x", "f32", (3,)))), {"*": 2})
    check_dims(graph, {"n": 4, "image": (2, 3), "*": 1})

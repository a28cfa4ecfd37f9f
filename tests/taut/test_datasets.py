"""Labelled images: every source read as it is, every broken one refused with one typed line."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import (
    FeedError,
    LimitError,
    Limits,
    ModelError,
    StorageError,
    TautError,
    UnsupportedError,
)

import taut
from taut import samples
from taut.data import (
    Dataset,
    FileFeeds,
    chain,
    flip,
    from_folder,
    from_idx,
    from_npz,
    from_optdigits,
    load_dataset,
    mnist,
    optdigits,
    read_idx,
    shift,
)


def digits(n: int = 10, classes: int = 3) -> Dataset:
    """Images whose first pixel is their number."""
    images = np.zeros((n, 1, 4, 5), np.float32)
    images[:, 0, 0, 0] = np.arange(n)
    return Dataset.of(images, np.arange(n) % classes)


def numbers(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].astype(int).tolist()


# ---- the data set ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "made"),
    [
        ((5, 3, 4, 6), "NCHW", (5, 3, 4, 6)), ((5, 4, 6, 3), "NHWC", (5, 3, 4, 6)),
        ((5, 4, 6), "NCHW", (5, 1, 4, 6)), ((5, 4, 6), "NHWC", (5, 1, 4, 6)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8"])
def test_arrays_become_f32_nchw(shape, layout, made, dtype: str):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    data = Dataset.of(images, np.array([[0], [1], [2], [0], [1]], np.uint8), layout=layout)
    assert data.images.shape == made and data.images.dtype == np.float32
    assert data.labels.tolist() == [0, 1, 2, 0, 1] and data.labels.dtype == np.int64
    assert (data.classes, len(data), data.shape) == (3, 5, made[1:])
    want = images.astype(np.float32) / (255 if dtype == "u1" else 1)
    want = want.reshape(made) if len(shape) == 3 or layout == "NCHW" else want.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.images, want)
    assert data.images.max() <= (1 if dtype == "u1" else 255)


PIXELS = np.zeros((3, 1, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("images", "labels", "options", "said"),
    [
        (PIXELS.astype("i4"), [0, 1, 2], {}, "not floats or u8"),
        (PIXELS[0, 0], [0, 1], {}, "rank 3 or 4"),
        (PIXELS, [0, 1], {}, r"labels are int64\[2\], not i64\[3\]"),
        (PIXELS, [0.0, 1.0, 2.0], {}, "not integers"),
        (PIXELS, [0, -1, 2], {}, "labels from -1 to 2"),
        (PIXELS, [0, 1, 1 << 40], {}, "1048576"),
        (PIXELS, np.array([0, 1, 2**63 + 5], np.uint64), {}, "1048576"),
        (PIXELS, [0, 1, 2], {"classes": 2}, "label 2 is 2, not from 0 to below 2"),
        (PIXELS, [0, 1, 2], {"classes": 0}, "0 classes"),
        (PIXELS, [0, 1, 2], {"classes": 1 << 30}, "classes"),
        (PIXELS, [0, 1, 2], {"names": ["a", "b"]}, "not from 0 to below 2"),
        (PIXELS, [0, 1, 2], {"names": ["a"], "classes": 3}, "1 names"),
        (PIXELS, [0, 1, 2], {"layout": "CHWN"}, "CHWN"),
        (np.full((1, 1, 1, 1), np.nan, "f4"), [0], {}, "NaN"),
        (np.full((1, 1, 1, 1), 1e300), [0], {}, "infinity"),
    ],
)  # fmt: skip
def test_unfit_arrays_are_refused(images, labels, options, said: str):
    with pytest.raises(FeedError, match=said):
        Dataset.of(images, np.asarray(labels), **options)


def test_images_beyond_the_limit_are_refused():
    with pytest.raises(LimitError, match="the images"):
        Dataset.of(np.zeros((9, 8, 8), np.uint8), np.zeros(9, int), limits=Limits(tensor_bytes=999))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 30), size=st.integers(1, 12), seed=st.none() | st.integers(0, 5),
    drop=st.booleans(),
)  # fmt: skip
def test_batches_hold_every_image_once(n: int, size: int, seed: int | None, drop: bool):
    data = digits(n)
    batches = data.batches(size, seed=seed, drop_last=drop)
    found = list(batches)
    assert len(found) == len(batches)
    sizes = [len(labels) for _, labels in found]
    assert sizes == [size] * (n // size) + ([n % size] if n % size and not drop else [])
    seen = [i for images, _ in found for i in numbers(images)]
    for images, labels in found:
        assert [i % 3 for i in numbers(images)] == labels.tolist()
    assert len(set(seen)) == len(seen) and (drop or sorted(seen) == list(range(n)))
    assert seen == [i for images, _ in batches for i in numbers(images)]  # the same again
    if seed is None:
        assert seen == sorted(seen)


def test_seed_and_epoch_fix_the_order():
    data = digits(50)
    orders = [
        [i for images, _ in data.batches(7, seed=s, epoch=e) for i in numbers(images)]
        for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in [*orders, list(range(50))]}) == 4


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 2.5}, {"size": 2, "seed": -1},
                                     {"size": 2, "epoch": -1}])  # fmt: skip
def test_batches_that_make_no_sense(options):
    with pytest.raises(FeedError):
        digits().batches(**options)


@given(st.integers(2, 40), st.floats(0.05, 0.95), st.integers(0, 3))
def test_a_split_shares_the_images_out(n: int, share: float, seed: int):
    data = digits(n)
    if not 0 < round(share * n) < n:
        return
    train, validation = data.split(share, seed)
    assert len(validation) == round(share * n)
    assert sorted(numbers(train.images) + numbers(validation.images)) == list(range(n))
    assert numbers(train.images) == numbers(data.split(share, seed)[0].images)
    assert numbers(data.split(1, seed)[0].images) != list(range(n))


@pytest.mark.parametrize("part", [0, 10, 0.0, 1.0, -1, 0.01])
def test_a_split_leaves_no_part_empty(part):
    with pytest.raises(FeedError, match="validation"):
        digits(10).split(part)


def test_a_split_differs_by_seed_and_keeps_the_classes():
    data = Dataset.of(np.zeros((40, 2, 2), "u1"), np.zeros(40, int), names=["a", "b"])
    train, _ = data.split(0.5)
    assert (train.classes, train.names) == (2, ("a", "b"))
    first, other = (numbers(digits(40).split(0.5, s)[1].images) for s in (0, 1))
    assert first != other


def test_normalized_and_inputs():
    images = np.random.default_rng(0).normal(size=(6, 2, 3, 3)).astype("f4") * 4 + 7
    data = Dataset.of(images, np.zeros(6, int))
    mean, deviation = images.mean((0, 2, 3)), images.std((0, 2, 3))
    made = data.normalized(mean, deviation).images
    np.testing.assert_allclose(made.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(made.std((0, 2, 3)), 1, rtol=1e-5)
    assert [b.shape for b in data.inputs(4)] == [(4, 2, 3, 3), (2, 2, 3, 3)]
    for bad in (([0.0] * 3, [1.0]), ([0.0], [0.0])):
        with pytest.raises(FeedError, match="2 channels"):
            data.normalized(*bad)


# ---- augmentation ------------------------------------------------------------------------------


def test_augmentation_is_seeded_and_leaves_the_data_alone():
    data = Dataset.of(np.random.default_rng(0).random((12, 3, 6, 6)), np.zeros(12, int))
    before = data.images.copy()
    steps = chain(flip, shift(2))
    made = [
        np.concatenate([x for x, _ in data.batches(5, seed=1, epoch=e, augment=steps)])
        for e in (0, 0, 1)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    np.testing.assert_array_equal(data.images, before)


def test_flip_mirrors_about_half():
    images = np.random.default_rng(0).random((200, 1, 2, 3)).astype("f4")
    made = flip(images, np.random.default_rng(1))
    kept = (made == images).all((1, 2, 3))
    assert 60 < kept.sum() < 140
    np.testing.assert_array_equal(made[~kept], images[~kept][..., ::-1])


def test_shift_moves_whole_images():
    images = np.random.default_rng(0).random((50, 2, 5, 5)).astype("f4")
    made = shift(1)(images, np.random.default_rng(1))
    seen = set()
    for image, moved in zip(images, made):
        wide = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        places = [(t, u) for t in range(3) for u in range(3)
                  if np.array_equal(wide[:, t : t + 5, u : u + 5], moved)]  # fmt: skip
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9


@pytest.mark.parametrize(
    "augment",
    [lambda x, r: x.astype("f8"), lambda x, r: x[1:], lambda x, r: x[:, :, 0], lambda x, r: None],
)
def test_augmentation_must_keep_the_form(augment):
    with pytest.raises(FeedError, match="augmentation made"):
        list(digits().batches(4, augment=augment))


# ---- IDX ---------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    head = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim])
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(
        array.dtype.newbyteorder(">")).tobytes()  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans(),
)  # fmt: skip
def test_idx_files_read_as_written(tmp_path_factory, dtype: str, shape: list[int], packed: bool):
    array = (np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    found = read_idx(path)
    assert found.dtype == array.dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def pair(folder: Path, images: np.ndarray, labels: np.ndarray, suffix: str = "") -> Path:
    pack = gzip.compress if suffix else bytes
    (folder / f"t-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    path = folder / f"t-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx(images)))
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_pair_of_idx_files_is_a_data_set(tmp_path: Path, suffix: str):
    images = np.arange(2 * 3 * 4, dtype="u1").reshape(2, 3, 4) * 10
    path = pair(tmp_path, images, np.array([7, 2], "u1"), suffix)
    for data in (from_idx(path), load_dataset(path), load_dataset(str(path))):
        np.testing.assert_array_equal(data.images[:, 0], images.astype("f4") / 255)
        assert data.labels.tolist() == [7, 2] and data.classes == 8


GOOD = idx(np.arange(12, dtype="u1").reshape(3, 2, 2))
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no IDX file.*nothing"), (b"\0\0\x08", "no IDX file"),
        (b"\0\1\x08\x03" + GOOD[4:], "00010803"),
        (b"\0\0\x07\x03" + GOOD[4:], "00000703"), (b"\0\0\x08\0", "no IDX file"),
        (b"\0\0\x08\xff" + b"\0" * 2000, "no IDX file"), (GOOD[:9], "within its header"),
        (GOOD[:-1], "wants 12 bytes.*only 11"), (GOOD + b"\0", "wants 12 bytes.*more"),
        # Without the time, which the names of tests would have.
        (GOOD[:16], "only 0"), (gzip.compress(GOOD[:-2], mtime=0), "only 10"),
        (PACKED[:-9], "gzip"), (PACKED[:-8] + b"\0" * 8, "gzip"),
        (b"\x1f\x8b" + b"junk" * 9, "gzip"),
        (pickle.dumps([1, 2]), "no IDX file"),
    ],
)  # fmt: skip
def test_broken_idx_files_are_refused(tmp_path: Path, content: bytes, said: str):
    (tmp_path / "bad.idx").write_bytes(content)
    with pytest.raises(ModelError, match=rf"bad\.idx.*{said}"):
        read_idx(tmp_path / "bad.idx")


def held(call) -> int:
    """Peak bytes that a call, which fails, has allocated."""
    import tracemalloc

    with pytest.raises(TautError):
        call()  # what the first call imports does not count
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    with pytest.raises(TautError):
        call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 4, (1 << 30,), (1 << 15, 1 << 10, 60)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lying_idx_sizes_allocate_nothing(tmp_path: Path, shape, pack):
    head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    path = tmp_path / "lie"
    path.write_bytes(pack(head + b"\0" * 64))
    assert held(lambda: read_idx(path)) < 8 << 20


def test_a_gzip_bomb_unpacks_no_further_than_its_header_says(tmp_path: Path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + b"\0" * (100 << 20)))
    assert held(lambda: read_idx(path)) < 8 << 20


def test_idx_files_that_do_not_fit_each_other(tmp_path: Path):
    images, labels = np.zeros((3, 2, 2), "u1"), np.zeros(3, "u1")
    for bad in ((images[0], labels), (images.astype("i4"), labels), (images, labels[1:]),
                (images, images), (images, labels - np.uint8(1))):  # fmt: skip
        path = pair(tmp_path, *bad)
        with pytest.raises(FeedError, match=r"t-(images|labels)"):
            from_idx(path, classes=10)
    with pytest.raises(StorageError, match="labels"):
        from_idx(tmp_path / "images")
    path = pair(tmp_path, images, labels)
    (tmp_path / "t-labels-idx1-ubyte").unlink()
    with pytest.raises(StorageError, match="t-labels-idx1"):
        from_idx(path)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans())
def test_damaged_idx_files_are_read_or_refused(tmp_path_factory, data: st.DataObject, packed: bool):
    content = bytearray(PACKED if packed else GOOD)
    for place, mask in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1),
                                                    st.integers(1, 255)), max_size=4)):  # fmt: skip
        content[place] ^= mask
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_idx(path)
    except TautError as error:
        assert "\n" not in str(error) and "/a" in str(error)
    else:
        assert found.nbytes == 12


# ---- NPZ ---------------------------------------------------------------------------------------


def test_npz_files_by_their_usual_names_or_others(tmp_path: Path):
    images, labels = np.ones((4, 3, 2, 2), "f4"), np.array([0, 1, 1, 3])
    for names in (("images", "labels"), ("x", "y")):
        np.savez(tmp_path / "d.npz", **dict(zip(names, (images, labels))), other=np.zeros(2))
        data = load_dataset(tmp_path / "d.npz")
        assert data.classes == 4 and data.images.shape == (4, 3, 2, 2)
    np.savez_compressed(tmp_path / "d.npz", a=images.transpose(0, 2, 3, 1), b=labels)
    data = from_npz(tmp_path / "d.npz", "a", "b", layout="NHWC", classes=9)
    assert data.classes == 9 and data.images.shape == (4, 3, 2, 2)
    with pytest.raises(FeedError, match=r"d\.npz.*'a', 'b'.*images or x"):
        from_npz(tmp_path / "d.npz")
    with pytest.raises(FeedError, match=r"d\.npz.*called c"):
        from_npz(tmp_path / "d.npz", "a", "c")
    np.savez(tmp_path / "d.npz", x=images, y=labels - 1)
    with pytest.raises(FeedError, match=r"d\.npz.*labels from -1"):
        from_npz(tmp_path / "d.npz")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_object_arrays_are_refused_unread(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=np.array([Bomb()], dtype=object), y=np.zeros(1, int))
    with pytest.raises(ModelError, match=r"d\.npz.*never unpickled"):
        from_npz(tmp_path / "d.npz")


def test_npz_headers_are_held_against_the_archive(tmp_path: Path):
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000,)}\n"
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", member + b"\0" * 16)
    with pytest.raises(ModelError, match=r"d\.npz.*too few"):
        from_npz(tmp_path / "d.npz")
    assert held(lambda: from_npz(tmp_path / "d.npz")) < 8 << 20


# ---- folders of images -------------------------------------------------------------------------


def stored(path: Path, pixels: np.ndarray, **options) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; what is no image is left out."""
    random = np.random.default_rng(0)
    for name in ("dog/b.png", "dog/a.png", "cat/1.bmp"):
        stored(tmp_path / "set" / name, random.integers(0, 256, (5, 7, 3), dtype="u1"))
    for name in ("dog/notes.txt", "cat/.hidden.png", "readme.png"):
        (tmp_path / "set" / name).write_text("not an image")
    (tmp_path / "set/.git").mkdir()
    return tmp_path / "set"


def test_folders_are_classes(folder: Path):
    data = load_dataset(folder)
    assert data.names == ("cat", "dog") and data.labels.tolist() == [0, 1, 1]
    assert data.images.shape == (3, 3, 5, 7)
    image = pytest.importorskip("PIL.Image")
    for k, name in enumerate(("cat/1.bmp", "dog/a.png", "dog/b.png")):
        want = np.asarray(image.open(folder / name), "f4").transpose(2, 0, 1) / 255
        np.testing.assert_array_equal(data.images[k], want)


def test_sizes_are_made_equal_where_asked(folder: Path):
    stored(folder / "cat/2.png", np.full((9, 4), 128, "u1"))
    with pytest.raises(FeedError, match=r"2\.png.*\[9, 4\].*size="):
        from_folder(folder)
    for size, shape in ((6, (6, 6)), ((3, 8), (3, 8))):
        data = from_folder(folder, size=size, channels=1)
        assert data.images.shape == (4, 1, *shape)
        np.testing.assert_allclose(data.images[1], 128 / 255, rtol=1e-6)
    with pytest.raises(LimitError, match="all the images"):
        from_folder(folder, size=100, limits=Limits(tensor_bytes=100_000))
    for size in (0, -3, (4, 1 << 20)):
        with pytest.raises(FeedError, match="size is"):
            from_folder(folder, size=size)
    with pytest.raises(FeedError, match="channels is 4"):
        from_folder(folder, channels=4)


@pytest.mark.parametrize("name", ["cat/broken.png", "dog/broken.jpg", "dog/broken.gif"])
def test_broken_images_are_named(folder: Path, name: str):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    cut = (folder / "dog/a.png").read_bytes()[:-30]
    for content in (b"", b"\x89PNG\r\n\x1a\n", cut, script, pickle.dumps(1)):
        (folder / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            from_folder(folder, size=4)


def png(width: int, height: int) -> bytes:
    """A black PNG that says it is of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = zlib.compress(b"\0" * min((width + 1) * height, 1 << 20))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1 << 14, 1 << 13), (1 << 16, 1 << 16), (2**31 - 1, 2**31 - 1)])
def test_image_bombs_are_not_unpacked(folder: Path, size: tuple[int, int]):
    (folder / "cat/0.png").write_bytes(png(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LimitError, match=r"0\.png.*pixels"):
            from_folder(folder, size=4)
    assert held(lambda: from_folder(folder, size=4)) < 8 << 20


def test_deep_pixels_are_not_clipped_silently(folder: Path):
    stored(folder / "cat/0.png", np.full((5, 7), 40_000, "u2"))
    with pytest.raises(UnsupportedError, match=r"0\.png.*8 bits"):
        from_folder(folder)


def test_folders_without_images(tmp_path: Path):
    with pytest.raises(StorageError, match="absent"):
        from_folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeedError, match="one folder a class"):
        load_dataset(tmp_path)


def test_without_pillow_the_message_says_what_to_install(folder: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'taut\[samples\]'"):
        from_folder(folder)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
def test_damaged_images_are_read_or_refused(tmp_path_factory, data: st.DataObject, kind: str):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    buffer = io.BytesIO()
    image.fromarray(np.arange(75, dtype="u1").reshape(5, 5, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for place, mask in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1),
                                                    st.integers(1, 255)), max_size=5)):  # fmt: skip
        content[place] ^= mask
    folder = tmp_path_factory.mktemp("images")
    (folder / "a").mkdir()
    (folder / f"a/x.{kind.lower()}").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = from_folder(folder, size=5)
    except TautError as error:
        assert "\n" not in str(error)
    else:
        assert found.images.shape == (1, 3, 5, 5)


def test_a_folders_images_are_feeds(folder: Path):
    b = taut.ir.Builder()
    graph = b.outputs(y=b.relu(b.input("image", "f32", ("n", 3, 5, 7))))
    calls = [feeds["image"] for feeds in FileFeeds(folder, graph, 2)]
    np.testing.assert_array_equal(np.concatenate(calls), from_folder(folder).images)
    assert [len(c) for c in calls] == [2, 1]


# ---- optdigits ---------------------------------------------------------------------------------

LINE = ",".join(str(i % 17) for i in range(64)).encode()


def test_optdigits_lines(tmp_path: Path):
    path = tmp_path / "a.tra"
    path.write_bytes(LINE + b",3\r\n\n" + LINE.replace(b"0,1,2", b" 0,16,2") + b",9\n")
    data = load_dataset(path)
    assert data.labels.tolist() == [3, 9] and data.classes == 10
    np.testing.assert_array_equal(data.images[0, 0].reshape(-1) * 16, [i % 17 for i in range(64)])
    assert data.images[1, 0, 0, 1] == 1.0


@pytest.mark.parametrize(
    "line",
    [LINE, LINE + b",3,4", LINE + b",10", LINE + b",-1", LINE.replace(b"16", b"17") + b",3",
     LINE + b",x", LINE + b",1_0", LINE + b"," + b"9" * 5000, b"\xff" * 9, b"," * 64],
)  # fmt: skip
def test_bad_optdigits_lines_are_named(tmp_path: Path, line: bytes):
    (tmp_path / "a.tes").write_bytes(LINE + b",3\n" + line + b"\n")
    with pytest.raises(ModelError, match=r"a\.tes.*line 2"):
        from_optdigits(tmp_path / "a.tes")
    (tmp_path / "b.tes").write_bytes(b"\n\n")
    with pytest.raises(FeedError, match="no digits"):
        from_optdigits(tmp_path / "b.tes")


# ---- sources and samples -----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["mnist", "mnist:all", "data.csv", "cifar:train", "a\x1b.txt"])
def test_what_is_no_source(tmp_path: Path, source: str):
    with pytest.raises(UnsupportedError, match="mnist:train") as caught:
        load_dataset(source)
    assert str(caught.value).isprintable()


def fetched(call, *arguments: str) -> Dataset:
    try:
        return call(*arguments)
    except samples.SampleError as error:
        pytest.skip(f"the data set cannot be had: {error}")


@pytest.mark.sample
@pytest.mark.parametrize(("part", "count"), [("train", 60_000), ("test", 10_000)])
def test_mnist_is_whole(part: str, count: int):
    data = fetched(mnist, part)
    assert data.images.shape == (count, 1, 28, 28) and data.classes == 10
    assert data.images.min() == 0 and data.images.max() == 1
    share = np.bincount(data.labels) / count
    assert len(share) == 10 and share.min() > 0.08 and share.max() < 0.12
    if part == "test":
        assert data.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]


@pytest.mark.sample
def test_optdigits_can_be_told_apart():
    train, test = fetched(load_dataset, "optdigits:train"), fetched(optdigits, "test")
    assert (len(train), len(test), train.shape) == (3823, 1797, (1, 8, 8))
    centres = np.stack([train.images[train.labels == k].mean(0) for k in range(10)])
    distance = np.square(test.images[:, None] - centres).sum((2, 3, 4))
    assert (distance.argmin(1) == test.labels).mean() > 0.85

"""Shape arithmetic: sizes flow through integer ops as numbers and symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
from taut.ir import Builder, DType, Shape, TensorType, Value, verify

import taut


def start(*shape: int | str | None) -> tuple[Builder, Value]:
    b = Builder()
    return b, b.input("x", "f32", shape)


def dims(v: Any) -> Shape | None:
    return v.abstract.dims


def i(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def test_flatten_by_shape_gather_concat_reshape() -> None:
    b, x = start("batch", 3, 4, 5)
    batch = b.gather(b.shape(x), np.int64(0))
    target = b.concat(b.unsqueeze(batch, i(0)), i(-1), axis=0)
    assert dims(target) == ("batch", -1)
    y = b.reshape(x, target)
    assert y.shape == ("batch", 60)
    verify(b.outputs(y=y))


def test_sizes_of_an_interpolation() -> None:
    b, x = start(1, 8, 20, "w")
    tail = b.slice(b.shape(x), i(2), i(4), i(0))
    assert dims(tail) == (20, "w")
    doubled = b.mul(tail, i(2, 1))
    assert dims(doubled) == (40, "w")
    sizes = b.concat(b.slice(b.shape(x), i(0), i(2)), doubled, axis=0)
    assert b.resize(x, None, None, sizes).shape == (1, 8, 40, "w")


def test_integer_division_and_products() -> None:
    b, x = start(2, 9, "n")
    shape = b.shape(x)
    assert dims(b.div(shape, i(2, -2, 1))) == (1, -4, "n")
    assert dims(b.mod(shape, i(2, 2, 2))) == (0, 1, None)
    assert dims(b.sub(shape, i(2, 1, 0))) == (0, 8, "n")
    assert dims(b.reduce_prod(b.slice(shape, i(0), i(2)), keepdims=False)) == (18,)
    assert dims(b.reduce_prod(shape)) is None
    assert dims(b.neg(shape)) == (-2, -9, None)


def test_numbers_beyond_their_type_are_not_shape_arithmetic() -> None:
    b = Builder()
    narrow = b.constant(np.array([-128, 1], np.int8), "narrow")
    assert dims(b.neg(narrow)) is None
    assert dims(b.add(narrow, narrow)) is None
    large = b.constant(i(1 << 40), "large")
    assert dims(b.cast(large, to=DType.i32)) is None
    y = b.outputs(y=b.neg(narrow), z=b.cast(b.mul(large, large), to=DType.i32))
    got, want = taut.compile(y, threads=1)(), taut.reference(y)
    assert got["y"].tolist() == want["y"].tolist() == [-128, -1]
    assert got["z"].tolist() == want["z"].tolist() == [0]


def test_expand_as_torch_exports_it() -> None:
    b, x = start("n", 1, 4)
    want = i(-1, 3, -1)
    ones = b.constant_of_shape(i(3), value=np.array([1]))
    assert dims(ones) == (1, 1, 1)
    target = b.where(b.equal(want, i(-1, -1, -1)), ones, want)
    assert dims(target) == (1, 3, 1)
    assert b.expand(x, target).shape == ("n", 3, 4)


def test_ranges_splits_and_casts() -> None:
    b, x = start(4, "n")
    n = b.gather(b.shape(x), np.int64(1))
    assert b.range(np.int64(0), n, np.int64(1)).shape == ("n",)
    assert dims(b.range(np.int64(1), np.int64(7), np.int64(3))) == (1, 4)
    rows, columns = b.split(b.shape(x), num_outputs=2)
    assert (dims(rows), dims(columns)) == ((4,), ("n",))
    assert dims(b.cast(b.cast(n, to=DType.i32), to=DType.i64)) == ("n",)
    assert dims(b.cast(n, to=DType.f32)) is None
    assert dims(b.size(b.constant(np.zeros((3, 5))))) == (15,)


def test_a_window_that_keeps_the_size_keeps_the_symbol() -> None:
    b, x = start("n", 2, "h", "w")
    weight = np.zeros((4, 2, 3, 3), np.float32)
    assert b.conv(x, weight, pads=(1, 1, 1, 1)).shape == ("n", 4, "h", "w")
    assert b.conv(x, weight, auto_pad="SAME_UPPER").shape == ("n", 4, "h", "w")
    assert b.conv(x, weight, strides=(2, 1), pads=(1, 1, 1, 1)).shape == ("n", 4, None, "w")
    assert b.conv(x, weight).shape == ("n", 4, None, None)


def test_reshape_cancels_symbols() -> None:
    b, x = start("n", "h", 6)
    for target, shape in [
        (("n", -1), ("n", None)),
        (("n", "h", -1, 3), ("n", "h", 2, 3)),
        (("n", -1, 6), ("n", "h", 6)),
        ((0, 0, -1), ("n", "h", 6)),
    ]:
        values = [b.gather(b.shape(x), i({"n": 0, "h": 1}[d])) if isinstance(d, str) else i(d)
                  for d in target]  # fmt: skip
        y = b.reshape(x, b.concat(*values, axis=0))
        assert y.type == TensorType(DType.f32, shape)

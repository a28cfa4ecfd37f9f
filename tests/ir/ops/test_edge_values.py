"""Right values at the edges of what ops take, each once found to be another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, VerifyError
from taut.ir.ops.activation import Shrink
from taut.ir.ops.elementwise import Mean, Pow
from taut.ir.ops.resize import Resize
from taut.ir.ops.shape import Reshape

import taut


@pytest.mark.parametrize(
    "base, exponent",
    [
        (np.array([2**64 - 1, 2, 3], np.uint64), np.array([1, 63, 2], np.uint64)),
        (np.array([2, 3, -1, 2], np.int8), np.array([256, 300, 2**40, 128], np.int64)),
        (np.array([2, -3], np.int32), np.array([2**32, 2**33 + 1], np.int64)),
        (np.array([-(2**63), 7], np.int64), np.array([1, 255], np.uint8)),
    ],
)
def test_integer_powers_wrap_whatever_the_exponent_has_of_bits(base, exponent) -> None:
    made, size = Pow().reference(base, exponent), 2 ** (8 * base.itemsize)
    assert made.dtype == base.dtype
    want = [pow(int(b), int(e), size) for b, e in zip(base, exponent)]
    assert [int(v) % size for v in made] == want


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_one_pixel_of_pytorch_half_pixel_is_the_first(mode: str) -> None:
    """ONNX: x_original = length_resized > 1 ? (x_resized + 0.5) / scale - 0.5 : 0"""
    x = np.array([[[3, -1, 4, 1, 5]]], np.float32)
    op = Resize(mode, "pytorch_half_pixel")
    assert op.reference(x, None, None, np.array([1, 1, 1])).tolist() == [[[3]]]


@pytest.mark.parametrize(
    "shape, want, made",
    [
        ((0, 2, 3), (0, 3), (0, 3)),
        ((0, 3), (0, 0, 3), (0, 3, 3)),
        ((2, 0), (5, 0, 3), (5, 0, 3)),
        ((0, 5), (0, -1), (0, 5)),
    ],
)
def test_nothing_takes_any_shape_of_nothing(shape, want, made) -> None:
    assert Reshape().reference(np.zeros(shape), np.array(want)).shape == made


def test_nothing_takes_no_shape_of_something() -> None:
    with pytest.raises(VerifyError, match="cannot take the shape"):
        Reshape().reference(np.zeros((0, 2)), np.array((1, 2)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32])
def test_shrink_keeps_every_bit_of_integers(dtype: Any) -> None:
    """In double precision the largest 64-bit integers lost their last bits."""
    most = np.iinfo(dtype).max
    x = np.array([most, most - 1, 3, 0], dtype)
    want = np.array([most - 2, most - 3, 1, 0], dtype)
    assert Shrink(bias=2.0).reference(x).tolist() == want.tolist()
    assert Shrink(lambd=3.0).reference(x).tolist() == [most, most - 1, 0, 0]
    assert Shrink(bias=2.0).reference(x).dtype == dtype


def test_the_mean_of_one_operand_is_that_operand() -> None:
    x = np.array([2**63 - 1, -(2**63), 2**53 + 1], np.int64)
    assert (Mean().reference(x) == x).all()
    b = Builder()
    graph = b.outputs(y=b.mean(b.input("x", "i64", (3,))))
    assert (taut.compile(graph)(x)["y"] == x).all()

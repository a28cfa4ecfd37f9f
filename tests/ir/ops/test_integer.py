"""The integer ops against arithmetic in Python's own integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taut.ir import Abstract, DType, TensorType, VerifyError
from taut.ir.ops.integer import (
    ConvInteger,
    Lookup,
    MatMulInteger,
    MulInteger,
    Requantize,
    SumPoolInteger,
)

INT32 = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), 2**31 - 1, 0, 1, -1])
)


def rounded(value: Fraction, rounding: str) -> int:
    floor = value.numerator // value.denominator
    rest = value - floor
    if rounding == "floor":
        return floor
    if rounding == "half_up":
        return floor + (rest >= Fraction(1, 2))
    return round(value)  # Python rounds fractions half to even


@given(
    x=st.lists(INT32, min_size=1, max_size=8),
    m=st.integers(0, 2**31 - 1),
    r=st.lists(st.integers(0, 255), min_size=8, max_size=8),
    mr=st.integers(-(2**31) + 1, 2**31 - 1),
    shift=st.integers(0, 44),
    zero=st.integers(0, 255),
    rounding=st.sampled_from(["half_even", "half_up", "floor"]),
)
def test_requantize_is_exact(
    x: list[int], m: int, r: list[int], mr: int, shift: int, zero: int, rounding: str
) -> None:
    op = Requantize(
        zero_points=(0, 7), zero_point=zero, shift=shift, lo=3, hi=250, rounding=rounding
    )
    r = r[: len(x)]
    y = op.reference(
        np.array(x, np.int32), np.array(m, np.int32), np.array(r, np.uint8), np.array(mr, np.int32)
    )
    for a, b, got in zip(x, r, y):
        t = Fraction(a * m + (b - 7) * mr, 2**shift)
        assert got == min(max(rounded(t, rounding) + zero, 3), 250)


def test_requantize_ties_go_to_even() -> None:
    op = Requantize(shift=1, dtype=DType.i8)
    y = op.reference(np.array([-5, -3, -1, 1, 3, 5], np.int32), np.array(1, np.int32))
    assert y.tolist() == [-2, -2, 0, 0, 2, 2]


def test_requantize_per_channel_broadcasts() -> None:
    x = np.arange(24, dtype=np.int32).reshape(1, 3, 2, 4)
    y = Requantize().reference(x, np.array([1, 2, 3], np.int32))
    assert (y == x * np.array([1, 2, 3]).reshape(1, 3, 1, 1)).all()


@given(
    k=st.integers(1, 5), n=st.integers(1, 3), group=st.sampled_from([1, 2]), seed=st.integers(0, 99)
)
def test_conv_integer(k: int, n: int, group: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (n, 4, 6, 5)).astype(np.uint8)
    w = random.integers(-128, 128, (6, 4 // group, k, 1)).astype(np.int8)
    wz = random.integers(-128, 128, 6).astype(np.int8)
    bias = random.integers(-(2**31), 2**31, 6).astype(np.int32)
    op = ConvInteger(group=group, pads=(k // 2, 0, k // 2, 0))
    y = op.reference(x, w, np.array(9, np.uint8), wz, bias)
    padded = np.full((n, 4, 6 + 2 * (k // 2), 5), 9, np.int64)
    padded[:, :, k // 2 : k // 2 + 6] = x
    padded -= 9
    for o in range(6):
        first = o // (6 // group) * (4 // group)
        part = padded[:, first : first + 4 // group]
        kernel = w[o, :, :, 0].astype(np.int64) - wz[o]
        for row in range(y.shape[2]):
            window = part[:, :, row : row + k]
            total = np.einsum("nckw,ck->nw", window, kernel) + bias[o]
            assert (y[:, o, row] == total.astype(np.int32)).all()


def test_accumulators_wrap() -> None:
    a = np.full((1, 40000), 255, np.uint8)
    b = np.full((40000, 1), 127, np.int8)
    bias = np.array([2**31 - 1], np.int32)
    exact = 255 * 127 * 40000 + 2**31 - 1
    wrapped = (exact + 2**31) % 2**32 - 2**31
    assert MatMulInteger().reference(a, b, None, None, bias).item() == wrapped


def test_lookup_index_starts_at_low_and_stays_inside() -> None:
    table = np.arange(10, 15, dtype=np.uint8)
    y = Lookup(low=-2).reference(np.array([-300, -2, 0, 2, 300], np.int16), table)
    assert y.tolist() == [10, 10, 12, 14, 14]
    full = np.arange(256, dtype=np.uint8)[::-1]
    assert Lookup().reference(np.array([-128, 127], np.int8), full).tolist() == [255, 0]


def test_products_and_sums() -> None:
    a, b = np.array([[0, 255], [3, 4]], np.uint8), np.array([[-128], [127]], np.int8)
    y = MulInteger(a_zero_point=255, b_zero_point=127).reference(a, b)
    assert y.tolist() == [[-255 * -255, 0], [0, 0]]
    x = np.array([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]], np.uint8)
    op = SumPoolInteger(kernel_shape=(2, 2), pads=(1, 1, 0, 0), x_zero_point=1)
    assert op.reference(x).tolist() == [[[[0, 1, 3], [3, 8, 12], [9, 20, 24]]]]


@pytest.mark.parametrize(
    "op",
    [
        Requantize(shift=45),
        Requantize(lo=5, hi=4),
        Requantize(zero_point=256),
        Requantize(zero_points=(1,)),
        Requantize(rounding="nearest"),
        Requantize(dtype=DType.i32),
    ],
)
def test_requantize_refuses(op: Requantize) -> None:
    x, m = (Abstract(TensorType(DType.i32, s)) for s in ((1, 3, 2), ()))
    with pytest.raises(VerifyError):
        op.infer(x, m)

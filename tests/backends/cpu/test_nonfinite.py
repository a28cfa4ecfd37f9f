"""NaN, infinities, signed zeros and denormals: compiled kernels put them where the reference does.

Seeded slices of the searches in `nonfinite`, and the cases that were found wrong once.
"""

from __future__ import annotations

import numpy as np
import pytest
from nonfinite import NAMES, check, differences
from taut.backends.cpu import compile
from taut.ir import Builder, interpret

SEEDS = {
    "max_pool": 5, "pool_gradient": 5, "average_pool": 3, "global_pool": 3, "grouped_conv": 4,
    "shuffled_conv": 4, "computed_conv": 4, "depthwise_conv": 3, "plain_conv": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_drawn_geometries(name: str) -> None:
    found = [check(name, seed) for seed in range(SEEDS[name])]
    assert [f for f in found if f is not None] == []


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("window", [(2, 2), (3, 3), (6, 5)])
def test_max_pool_keeps_nan_at_any_place_of_a_window(isa: str, window: tuple[int, int]) -> None:
    """At its first tap, its last, and in between; the integers behind it follow."""
    b, (height, width) = Builder(), window
    x = b.input("x", "f32", (height * width, 17, height, width))
    y = b.max_pool(x, kernel_shape=window)
    graph = b.outputs(y=y, q=b.quantize_linear(y, np.float32(0.02), np.uint8(90)))
    data = np.random.default_rng(0).standard_normal((height * width, 17, height, width))
    data = data.astype(np.float32)
    for k in range(height * width):
        data[k, k % 17, k // width, k % width] = np.nan
    want, got = interpret(graph, {"x": data}), compile(graph, isa=isa, threads=1)(data)
    assert np.isnan(want["y"]).sum() == height * width
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


def test_the_gradient_of_max_pool_goes_to_nan_and_never_to_the_border() -> None:
    """Windows of -inf next to a border, which is as large; and NaN twice in a window."""
    from taut.ir.ops.pooling import MaxPoolGradient

    b = Builder()
    x, dy = b.input("x", "f32", (1, 1, 3, 3)), b.input("dy", "f32", (1, 1, 4, 4))
    op = MaxPoolGradient(kernel_shape=(2, 2), pads=(1, 1, 1, 1))
    graph = b.outputs(y=b.add_op(op, x, dy))
    data = np.full((1, 1, 3, 3), -np.inf, np.float32)
    data[0, 0, 1, 1] = data[0, 0, 2, 1] = np.nan
    feeds = {"x": data, "dy": np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)}
    np.testing.assert_array_equal(
        compile(graph, threads=1)(**feeds)["y"], interpret(graph, feeds)["y"]
    )


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_groups_of_a_convolution_keep_to_themselves(isa: str, value: float) -> None:
    """Joined groups share registers; a zero among a group's own weights makes NaN of infinity."""
    b, rng = Builder(), np.random.default_rng(0)
    w = rng.standard_normal((12, 2, 3, 3)).astype(np.float32)
    w[0, 0] = 0
    w[7, 1, 1, 1] = np.nan
    y = b.conv(b.input("x", "f32", (1, 12, 7, 5)), w, group=6, pads=(1, 1, 1, 1))
    graph = b.outputs(y=b.relu(y))
    data = rng.standard_normal((1, 12, 7, 5)).astype(np.float32)
    data[0, 0, 3, 2] = data[0, 11, 6, 4] = value
    want = interpret(graph, {"x": data})["y"]
    assert not np.isnan(want[:, 2:7]).any()
    assert differences(want, compile(graph, isa=isa, threads=1)(data)["y"]) is None

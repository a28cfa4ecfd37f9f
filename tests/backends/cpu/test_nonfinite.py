"""NaN, infinities, signed zeros and denormals: compiled kernels put them where the reference does.

Seeded slices of the searches in `nonfinite`, and the cases that were found wrong once.
"""

from __future__ import annotations

import numpy as np
import pytest
from nonfinite import FAMILIES, NAMES, check, differences
from taut.backends.cpu import compile
from taut.ir import Builder, interpret
from taut.passes import optimize

SEEDS = {"max_pool": 2, "pool_gradient": 2, "grouped_conv": 2, "shuffled_conv": 2, "moved": 4}
"""How many of each family; others have one."""


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_drawn_geometries(name: str) -> None:
    found = [check(name, seed) for seed in range(SEEDS.get(name, 1))]
    assert [f for f in found if f is not None] == []


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("window", [(3, 3), (6, 5)])
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


def test_a_row_that_is_masked_everywhere_gives_zeros_though_its_scores_are_nan() -> None:
    """Of weights of 0: an infinity among the values of its column still makes NaN."""
    rng, b = np.random.default_rng(0), Builder()
    feeds = {key: rng.standard_normal((1, 1, n, 24)).astype(np.float32)
             for key, n in (("q", 5), ("k", 40), ("v", 40))}  # fmt: skip
    feeds["q"][0, 0, 1, 3] = feeds["q"][0, 0, 2, 0] = np.nan
    feeds["v"][0, 0, 7, 20] = np.inf
    mask = np.zeros((5, 40), np.float32)
    mask[2:4], mask[4, 7] = -np.inf, -np.inf
    inputs = [b.input(key, "f32", value.shape) for key, value in feeds.items()]
    graph = b.outputs(y=b.attention(*inputs, mask))
    want, got = interpret(graph, feeds)["y"], compile(graph, threads=1)(**feeds)["y"]
    assert np.isnan(want[0, 0]).sum(1).tolist() == [0, 24, 1, 1, 1] and np.isinf(want[0, 0, 0, 20])
    assert differences(want, got) is None


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resizing_to_the_same_places_leaves_nan_where_it_is(mode: str) -> None:
    b = Builder()
    y = b.resize(b.input("x", "f32", (1, 1, 4, 4)), None, None, np.array([1, 1, 7, 7]), mode=mode,
                 coordinate_transformation_mode="align_corners")  # fmt: skip
    graph, data = b.outputs(y=y), np.ones((1, 1, 4, 4), np.float32)
    data[0, 0, 1, 1] = np.nan
    want, got = interpret(graph, {"x": data})["y"], compile(graph, threads=1)(data)["y"]
    assert np.isnan(want[0, 0, 2, 2]) and not np.isnan(want[0, 0, ::2, ::2]).sum() > 1
    assert differences(want, got) is None


@pytest.mark.parametrize("pipeline", ["", "fuse-auto"])
def test_batch_normalization_with_an_infinite_factor(pipeline: str) -> None:
    b, c = Builder(), np.ones(4, np.float32)
    variance = np.array([0, 1, 0, 1], np.float32)
    x = b.input("x", "f32", (1, 4, 2, 2))
    graph = b.outputs(y=b.relu(b.batch_normalization(x, c, c, c, variance, epsilon=0.0)))
    graph = optimize(graph, pipeline) if pipeline else graph
    data = np.linspace(-1, 3, 16, dtype=np.float32).reshape(1, 4, 2, 2)
    with np.errstate(all="ignore"):
        want = interpret(graph, {"x": data})["y"]
    assert np.isinf(want).any()
    assert differences(want, compile(graph, threads=1)(data)["y"]) is None

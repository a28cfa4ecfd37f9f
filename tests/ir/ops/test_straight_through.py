"""Gradients through rounding: straight-through estimates, and LSQ's for the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, DType, Graph, Value, differentiate, interpret

Array = np.ndarray[Any, Any]
rng = np.random.default_rng(1)


def fake(b: Builder, x: Value, scale: Value, zero: Any, **at: Any) -> Value:
    q = b.quantize_linear(x, scale, zero, **at)
    return b.dequantize_linear(q, scale, zero, **at)


def gradients(graph: Graph, y: Value, g: Array, feeds: dict[str, Array]) -> dict[str, Array]:
    b = Builder(graph)
    sought = {n.name: n[0] for n in graph.inputs}
    found = differentiate(graph, {y: b.constant(g)}, list(sought.values()), b=b)
    graph.set_outputs({k: v for k, x in sought.items() if (v := found[x]) is not None})
    return interpret(graph, feeds)


def lsq(x: Array, scale: Array, zero: Array, g: Array, low: int, high: int) -> tuple[Array, Array]:
    """Gradients of x, and of the scale element by element, as Esser and others write them."""
    steps = x / scale
    bottom, top = low - zero.astype(np.float64), high - zero.astype(np.float64)
    place = np.rint(steps)
    inside = (place >= bottom) & (place <= top)
    each = np.where(inside, np.rint(steps) - steps, np.where(place < bottom, bottom, top))
    return g * inside, g * each


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_one_scale(dtype: Any) -> None:
    b = Builder()
    x, s = b.input("x", "f64", (40,)), b.input("s", "f64", ())
    zero = np.array(3 if dtype is np.int8 else 120, dtype)
    y = fake(b, x, s, zero)
    at, scale, g = rng.standard_normal(40) * 20, np.array(0.1), rng.standard_normal(40)
    made = gradients(b.graph, y, g, {"x": at, "s": scale})
    low, high = DType.of(dtype).bounds
    dx, each = lsq(at, scale, zero, g, low, high)
    assert 0 < np.count_nonzero(dx) < 40  # some are clipped
    np.testing.assert_allclose(made["x"], dx, rtol=1e-12)
    np.testing.assert_allclose(made["s"], each.sum(), rtol=1e-9)


@pytest.mark.parametrize("block", [0, 2])
def test_a_scale_for_each_channel_or_block(block: int) -> None:
    shape = (6, 3) if not block else (3, 3)
    b = Builder()
    x = b.input("x", "f64", (6, 3))
    s = b.input("s", "f64", shape if block else (6,))
    zero = np.zeros(shape if block else (6,), np.int8)
    y = fake(b, x, s, zero, axis=0, block_size=block)
    at, g = rng.standard_normal((6, 3)) * 9, rng.standard_normal((6, 3))
    scale = np.abs(rng.standard_normal(shape if block else (6,))) * 0.1 + 0.02
    made = gradients(b.graph, y, g, {"x": at, "s": scale})
    wide = np.repeat(scale, 2, 0) if block else scale[:, None] * np.ones((6, 3))
    dx, each = lsq(at, wide, np.zeros((6, 3)), g, -128, 127)
    want = each.reshape(3, 2, 3).sum(1) if block else each.sum(1)
    np.testing.assert_allclose(made["x"], dx, rtol=1e-12)
    np.testing.assert_allclose(made["s"], want, rtol=1e-9)


def test_integers_may_move_between_the_two() -> None:
    b = Builder()
    x = b.input("x", "f64", (2, 6))
    s, zero = b.constant(np.float64(0.05)), np.array(0, np.int8)
    q = b.quantize_linear(x, s, zero)
    moved = b.transpose(b.reshape(q, np.array([3, 4])), perm=(1, 0))
    y = b.dequantize_linear(moved, s, zero)
    g = rng.standard_normal((4, 3))
    made = gradients(b.graph, y, g, {"x": rng.standard_normal((2, 6))})
    np.testing.assert_allclose(made["x"], g.T.reshape(2, 6))


@pytest.mark.parametrize("op", ["dynamic_quantize_linear", "quantize_rows"])
def test_scales_of_the_moment_are_held(op: str) -> None:
    b = Builder()
    x = b.input("x", "f32", (3, 4))
    q, s, zero = getattr(b, op)(x)
    steps = b.sub(b.cast(q, to=DType.f32), b.cast(zero, to=DType.f32))
    g = rng.standard_normal((3, 4)).astype(np.float32)
    if op == "dynamic_quantize_linear":
        y = b.dequantize_linear(q, s, zero)
    else:
        y = b.mul(steps, s)
    made = gradients(b.graph, y, g, {"x": rng.standard_normal((3, 4)).astype(np.float32)})
    np.testing.assert_allclose(made["x"], g, rtol=1e-5)


def test_places_found_by_values_stop_the_gradient() -> None:
    b = Builder()
    x = b.input("x", "f32", (3, 4))
    y = b.gather(x, b.arg_max(b.mul(x, x), axis=0, keepdims=False))
    g = np.ones((4, 4), np.float32)
    at = rng.standard_normal((3, 4)).astype(np.float32)
    made = gradients(b.graph, y, g, {"x": at})
    picked = np.argmax(at * at, axis=0)
    np.testing.assert_array_equal(made["x"], [[np.sum(picked == i)] * 4 for i in range(3)])

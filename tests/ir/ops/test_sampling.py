"""Sampling at the border, by a second way of writing it: each neighbour is asked for by itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, Graph

import taut

Array = np.ndarray[Any, Any]


def element(x: Array, at: tuple[int, ...], padding: str, corners: bool) -> float:
    """x at whole places of any kind: zeros outside, the nearest one, or x mirrored."""
    place = []
    for i, n in zip(at, x.shape):
        if padding == "zeros" and not 0 <= i < n:
            return 0.0
        if padding == "reflection":  # walk until inside
            low, high = (0, 2 * (n - 1)) if corners else (-1, 2 * n - 1)
            while not 0 <= i < n and n > 1 - (not corners):
                i = low - i if i < 0 else high - i
            i = min(max(i, 0), n - 1)
        place.append(min(max(i, 0), n - 1))
    return float(x[tuple(place)])


def keys(d: float) -> float:
    a, d = -0.75, abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


KERNELS = {"linear": (lambda d: max(0.0, 1 - abs(d)), 1), "cubic": (keys, 2)}


def sampled(x: Array, places: Array, mode: str, padding: str, corners: bool) -> Array:
    """One image x[h,w,...] at places[k,d] of -1 to 1, the last axis of x first."""
    made = []
    for place in places.astype(np.float64):
        u = [(p + 1) / 2 * (n - 1) if corners else ((p + 1) * n - 1) / 2
             for p, n in zip(place[::-1], x.shape)]  # fmt: skip
        kernel, reach = KERNELS[mode]
        near = [range(int(np.floor(c)) - reach + 1, int(np.floor(c)) + reach + 1) for c in u]
        made.append(sum(
            element(x, at, padding, corners) * np.prod([kernel(c - i) for c, i in zip(u, at)])
            for at in itertools.product(*near)
        ))  # fmt: skip
    return np.array(made)


def graph_of(x: Array, grid: Array, **how: Any) -> Graph:
    b = Builder()
    values = b.input("x", "f32", x.shape), b.input("grid", "f32", grid.shape)
    return b.outputs(y=b.grid_sample(*values, **how))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [(4, 5), (2, 1), (3, 2, 4)])
def test_places_far_outside(mode: str, padding: str, corners: bool, sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 1, *sizes)).astype(np.float32)
    count = 12 if len(sizes) == 2 else 5
    grid = random.uniform(-2.5, 2.5, (1, count, *[1] * (len(sizes) - 1), len(sizes)))
    grid[0, :3].reshape(3, -1)[:] = [[-1] * len(sizes), [1] * len(sizes), [0] * len(sizes)]
    grid = grid.astype(np.float32)
    want = sampled(x[0, 0], grid.reshape(count, -1), mode, padding, corners)
    graph = graph_of(x, grid, mode=mode, padding_mode=padding, align_corners=corners)
    for got in (taut.reference(graph, x, grid), taut.compile(graph, threads=1)(x, grid)):
        np.testing.assert_allclose(got["y"].reshape(-1), want, rtol=1e-4, atol=1e-4)

"""Gradients held against finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taut.ir import Builder, DType, Graph, Value, differentiate, interpret, verify
from taut.ir.op import Array

STEP = 1e-6
"""How far inputs are moved, in double precision: the difference's own error is about STEP^2 for
curvature and 1e-16 / STEP for rounding."""


def check_gradient(
    graph: Graph,
    feeds: Mapping[str, Array],
    *,
    wrt: Sequence[str] | None = None,
    directions: int = 2,
    rtol: float = 1e-5,
    seed: int = 0,
) -> None:
    """Require that the graph's gradient is the slope of its outputs.

    A random weighting of all float outputs is differentiated with respect to the float inputs
    (those in `wrt`). For each input, the gradient times random directions has to equal the central
    difference along them, within `rtol` of its size. For trustworthy differences the graph should
    be one of f64 and its functions smooth where it is evaluated. Raises AssertionError.
    """
    rng = np.random.default_rng(seed)
    names = [n.name for n in graph.inputs if n.type.dtype.is_float] if wrt is None else list(wrt)
    floats = {k: v for k, v in zip(graph.output_names, graph.outputs) if v.type.dtype.is_float}
    values = interpret(graph, feeds)
    weights = {k: _draw(rng, values[k]) for k in floats}
    gradients = _gradients(graph, floats, weights, names, feeds)

    def weighted(changed: Mapping[str, Array]) -> float:
        made = interpret(graph, changed)
        return float(sum(np.sum(weights[k] * made[k].astype(np.float64)) for k in floats))

    for name in names:
        x, got = feeds[name], gradients[name]
        assert got.shape == x.shape, f"the gradient of {name} has shape {list(got.shape)}"
        for _ in range(directions):
            way = _draw(rng, x)
            ends = (weighted({**feeds, name: x + s * STEP * way}) for s in (1, -1))
            difference = (next(ends) - next(ends)) / (2 * STEP)
            slope = float(np.sum(got * way))
            size = max(abs(difference), float(np.sqrt(np.sum(np.square(got)))), 1e-3)
            assert abs(slope - difference) <= rtol * size, (
                f"the slope of input {name} is {difference:.9g}, its gradient says {slope:.9g}"
            )


def _draw(rng: np.random.Generator, like: Array) -> Array:
    return np.asarray(rng.standard_normal(like.shape), like.dtype)


def _gradients(
    graph: Graph, floats: Mapping[str, Value], weights: Mapping[str, Array],
    names: Sequence[str], feeds: Mapping[str, Array],
) -> dict[str, Array]:  # fmt: skip
    twin = graph.copy()
    b = Builder(twin)
    sought = {name: twin[name][0] for name in names}
    there = dict(zip(twin.output_names, twin.outputs))
    seeds: dict[Value, Value] = {}
    for k in floats:
        weight = b.constant(weights[k])
        seeds[there[k]] = b.add(seeds[there[k]], weight) if there[k] in seeds else weight
    found = differentiate(twin, seeds, list(sought.values()))
    made = {k: found[v] for k, v in sought.items()}
    twin.set_outputs({k: v for k, v in made.items() if v is not None})
    verify(twin)
    arrays = interpret(twin, feeds)
    return {k: arrays.get(k, np.zeros_like(feeds[k])) for k in names}


def in_double(array: Any) -> Array:
    """A float array as f64, others as they are."""
    return array.astype(np.float64) if DType.of(array).is_float else array

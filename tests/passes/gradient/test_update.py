"""Optimizers, clipping and held weights against formulas written by hand, and PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, FeedError, Graph, VerifyError, interpret, parse, print_graph
from taut.passes import optimize

Array = np.ndarray[Any, Any]

RATE = 0.1
START = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
GRADIENTS = [np.random.default_rng(k).standard_normal((5, 3)).astype(np.float32) for k in (1, 2, 3)]


def update_graph(pipeline: str, shape: tuple[int, ...] = (5, 3)) -> Graph:
    """A parameter `w` whose gradient is an input."""
    b = Builder()
    b.input("w", "f32", shape)
    g = b.input("g", "f32", shape)
    return optimize(b.outputs(**{"grad.w": b.identity(g)}), pipeline)


def run(pipeline: str, start: Array = START, **more: Array) -> list[Array]:
    """w after each gradient."""
    graph = update_graph(pipeline, start.shape)
    feeds: dict[str, Array] = {"w": start, **more}
    for node in graph.inputs:
        if node.name.startswith("optimizer."):
            feeds[node.name] = np.zeros(node.type.static_shape, np.float32)
    found = []
    for t, g in enumerate(GRADIENTS, 1):
        given = {**feeds, "g": g.reshape(-1)[: start.size].reshape(start.shape),
                 "learning_rate": np.float32(RATE), "step": np.int64(t)}  # fmt: skip
        made = interpret(graph, {n.name: np.asarray(given[n.name]) for n in graph.inputs})
        feeds.update({k.removeprefix("next."): v for k, v in made.items()})
        found.append(feeds["w"])
    return found


def sgd(momentum: float, nesterov: bool, decay: float) -> list[Array]:
    w, v, found = START.astype(np.float64), np.zeros_like(START, np.float64), []
    for g in GRADIENTS:
        g = g + decay * w
        v = momentum * v + g
        w = w - RATE * (g + momentum * v if nesterov else v)
        found.append(w)
    return found


def adam(decay: float, decoupled: bool) -> list[Array]:
    w = START.astype(np.float64)
    m, v, found = np.zeros_like(w), np.zeros_like(w), []
    for t, g in enumerate(GRADIENTS, 1):
        g = g.astype(np.float64) if decoupled else g + decay * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - RATE * decay * w if decoupled else w
        w = w - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        found.append(w)
    return found


CASES = {
    "sgd": lambda: sgd(0, False, 0),
    "sgd{momentum=0.9}": lambda: sgd(0.9, False, 0),
    "sgd{momentum=0.9 decay=0.1}": lambda: sgd(0.9, False, 0.1),
    "sgd{momentum=0.9 nesterov=true decay=0.1}": lambda: sgd(0.9, True, 0.1),
    "adam": lambda: adam(0, False),
    "adam{decay=0.1}": lambda: adam(0.1, False),
    "adamw{decay=0.1}": lambda: adam(0.1, True),
}


@pytest.mark.parametrize("pipeline", CASES)
def test_optimizers_are_their_formulas(pipeline: str) -> None:
    for got, want in zip(run(pipeline), CASES[pipeline](), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


TORCH = {
    "sgd{momentum=0.9 nesterov=true decay=0.1}": (
        "SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam{decay=0.1}": ("Adam", {"weight_decay": 0.1}),
    "adamw{decay=0.1}": ("AdamW", {"weight_decay": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("pipeline", TORCH)
def test_optimizers_are_those_of_torch(pipeline: str) -> None:
    torch = pytest.importorskip("torch")
    kind, options = TORCH[pipeline]
    w = torch.tensor(START.copy(), requires_grad=True)
    optimizer = getattr(torch.optim, kind)([w], lr=RATE, **options)
    for got, g in zip(run(pipeline), GRADIENTS, strict=True):
        w.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(got, w.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_vectors_go_without_decay_where_asked() -> None:
    vector = START[:, 0].copy()
    plain = run("sgd", vector)
    assert np.array_equal(run("sgd{decay=0.1 decay_vectors=false}", vector)[-1], plain[-1])
    assert not np.array_equal(run("sgd{decay=0.1}", vector)[-1], plain[-1])
    matrix = run("sgd{decay=0.1 decay_vectors=false}")
    np.testing.assert_allclose(matrix[-1], sgd(0, False, 0.1)[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd{momentum=0.9 decay=0.1}", "adam", "adamw{decay=0.1}"])
def test_held_weights_stay_bit_for_bit(optimizer: str) -> None:
    mask = np.arange(START.size).reshape(START.shape) % 3 > 0
    start = START.copy()
    start[0, 0] = -0.0
    held, free = (run(p, start, **m) for p, m in (
        (f"hold-weights{{names=[w]}},{optimizer}", {"mask.w": mask}), (optimizer, {})))  # fmt: skip
    for a, b in zip(held, free):
        assert a[~mask].tobytes() == start[~mask].tobytes()
        assert np.array_equal(a[mask], b[mask])


def test_the_state_of_held_weights_stays_zero() -> None:
    graph = update_graph("hold-weights{names=[w]},sgd{momentum=0.9 decay=0.1}")
    feeds = {"w": START, "g": GRADIENTS[0], "mask.w": np.zeros(START.shape, bool),
             "learning_rate": np.float32(1),
             "optimizer.momentum.w": np.zeros_like(START)}  # fmt: skip
    made = interpret(graph, {n.name: np.asarray(feeds[n.name]) for n in graph.inputs})
    assert not made["next.optimizer.momentum.w"].any()


def clipped(pipeline: str, *gradients: Array) -> list[Array]:
    b = Builder()
    names = [f"w{i}" for i in range(len(gradients))]
    for name, g in zip(names, gradients):
        b.input(name, "f32", g.shape)
    values = [b.identity(b.input(f"g{i}", "f32", g.shape)) for i, g in enumerate(gradients)]
    b.outputs(**{f"grad.{n}": v for n, v in zip(names, values)})
    graph = optimize(b.graph, pipeline)
    feeds = {n.name: gradients[int(n.name[1:])] for n in graph.inputs}
    return list(interpret(graph, feeds).values())


def test_clipping_by_norm_scales_all_alike() -> None:
    a, b = np.float32([3, 0]), np.float32([[0, 4]])
    got = clipped("clip-gradients{norm=1.0}", a, b)
    np.testing.assert_allclose(got[0], a / 5, rtol=1e-6)
    np.testing.assert_allclose(got[1], b / 5, rtol=1e-6)
    got = clipped("clip-gradients{norm=6.0}", a, b)
    assert np.array_equal(got[0], a) and np.array_equal(got[1], b)
    zeros = clipped("clip-gradients{norm=1.0}", 0 * a, 0 * b)
    assert not zeros[0].any() and not zeros[1].any()


def test_clipping_by_value_bounds_each_element() -> None:
    (got,) = clipped("clip-gradients{value=1.5}", np.float32([-3, 1, 2]))
    assert got.tolist() == [-1.5, 1, 1.5]


def test_other_outputs_stay_and_nothing_happens_without_gradients() -> None:
    text = "graph @main(%x: f32[3]) -> (%y: f32[3]) {\n  %y = relu(%x) : f32[3]\n  return %y\n}\n"
    for pipeline in (
        "sgd",
        "adam",
        "clip-gradients{norm=1.0}",
        "hold-weights",
        "batch-statistics",
        "dropout-masks",
    ):
        assert print_graph(optimize(parse(text), pipeline)) == print_graph(parse(text))


@pytest.mark.parametrize(
    "pipeline",
    ["sgd{momentum=1.0}", "sgd{nesterov=true}", "sgd{decay=-1.0}", "adam{beta1=1.0}",
     "adam{epsilon=0.0}", "clip-gradients{norm=-1.0}"],
)  # fmt: skip
def test_bad_options_are_refused(pipeline: str) -> None:
    with pytest.raises(VerifyError):
        update_graph(pipeline)


def test_a_mask_for_nothing_is_refused() -> None:
    with pytest.raises(FeedError, match="'v'"):
        update_graph("hold-weights{names=[v]}")

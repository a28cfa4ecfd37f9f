"""What a quantizer may give next to a tie: and that wrong quantizers are still found."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase
from taut.ir import Builder, Graph, Value, interpret
from taut.ir.envelope import envelope, explained
from taut.ir.ops.quantization import QuantizeLinear, saturated

import taut
from taut import testing


def averaged(values: list[float], finer: float) -> tuple[Graph, dict[str, np.ndarray]]:
    """The mean of a window, quantized with step `finer`."""
    b = Builder()
    x = b.input("x", "f32", (1, 1, 1, len(values)))
    y = b.average_pool(x, kernel_shape=(1, len(values)))
    graph = b.outputs(y=b.quantize_linear(y, np.float32(finer), np.uint8(0)))
    return graph, {"x": np.asarray(values, np.float32).reshape(1, 1, 1, -1)}


def test_a_sum_next_to_a_tie_has_two_integers() -> None:
    graph, feeds = averaged([0.1, 0.2], 0.1)  # 0.15 / 0.1
    ((low, high),) = envelope(graph, feeds).values()
    assert (low.item(), high.item()) == (1, 2)
    want = interpret(graph, feeds)["y"]
    for off, right in ((0, True), (1, True), (2, False)):
        got = {"y": (3 - want.astype(int)) if off == 1 else want + 2 * (off == 2)}
        assert bool(explained(graph, feeds, {"y": got["y"].astype(np.uint8)}, 0, 0)) is right


def test_a_sum_away_from_ties_has_one() -> None:
    graph, feeds = averaged([0.1, 0.21], 0.1)
    ((low, high),) = envelope(graph, feeds).values()
    assert low.item() == high.item() == 2


def test_defined_arithmetic_does_not_move() -> None:
    """x + x, movement of data and another quantization have one right answer at a tie."""
    b = Builder()
    x = b.input("x", "f32", (1, 4))
    y = b.transpose(b.relu(b.add(x, x)), perm=(1, 0))
    graph = b.outputs(y=b.quantize_linear(y, np.float32(1), np.int8(0)))
    feeds = {"x": np.array([[0.25, 0.75, 1.25, -3]], np.float32)}
    ((low, high),) = envelope(graph, feeds).values()
    assert (low == high).all() and (low == [[0], [2], [2], [0]]).all()
    ((low, high),) = envelope(graph, feeds, steps=1).values()
    assert (high - low == 2).all()


def half_away(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))


Rounding = Callable[[np.ndarray], np.ndarray]
WRONG: dict[str, Rounding] = {
    "half away from zero": half_away,
    "one more in places": lambda x: np.rint(x) + (np.arange(x.size).reshape(x.shape) % 5 == 0),
}  # fmt: skip


def check(monkeypatch: pytest.MonkeyPatch, rounding: Rounding, noise: float, examples: int) -> None:
    """Hold a backend to the reference that rounds so, and whose sums are off by `noise`."""

    def quantized(op: QuantizeLinear, x: Any, scale: Any, zero: Any = None) -> np.ndarray:
        dtype = op.result_dtype(None if zero is None else taut.DType.of(zero))
        steps = rounding(x / op.spread(scale, x.shape))
        return saturated(steps, None if zero is None else op.spread(zero, x.shape), dtype)

    def compile(graph: Graph, target: str) -> Any:
        rng = np.random.default_rng(0)

        def another(value: Value, array: np.ndarray) -> np.ndarray | None:
            sums = value.node.op.name in ("conv", "gemm")
            factor = 1 + noise * rng.choice([-1, 1], array.shape)
            return (array * factor).astype(array.dtype) if sums else None

        def run(*arrays: np.ndarray) -> Any:
            feeds = dict(zip([n.name for n in graph.inputs], arrays))
            with monkeypatch.context() as patched:
                patched.setattr(QuantizeLinear, "reference", quantized)
                return interpret(graph, feeds, watch=another)

        return run

    monkeypatch.setattr("taut.testing.checks.compile", compile)
    found = SimpleNamespace(generate=Phase.generate, shrink=Phase.generate)  # need not be small
    monkeypatch.setattr("taut.testing.search.Phase", found)
    testing.check_backend("cpu", families=("quantized",), examples=examples, seed=1)


@pytest.mark.parametrize("name", WRONG)
def test_a_quantizer_that_rounds_wrongly_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(testing.CheckFailure):
        check(monkeypatch, WRONG[name], 0.0, 200)


def test_sums_of_another_order_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, np.rint, 2.0**-21, 60)


def divided(b: Any, x: Any, how: str) -> Any:
    zero = b.relu(b.max(x, np.float32(0)))
    if how == "reciprocal":
        return b.reciprocal(zero)
    return b.clip(b.div(np.float32(1), zero), np.float32(-6), np.float32(6))


@pytest.mark.parametrize("how", ["reciprocal", "div, clip"])
def test_a_zero_of_either_sign_makes_either_infinity(how: str) -> None:
    """The larger of 0 and -0 is either; behind it there is another infinity, and nothing else."""
    b: Any = Builder()
    graph = b.outputs(y=divided(b, b.input("x", "f32", (3,)), how))
    feeds = {"x": np.array([-1, 0.25, -0.0], np.float32)}
    want = interpret(graph, feeds)["y"]

    def right(*numbers: float) -> bool:
        got = {"y": np.array(numbers, np.float32)}
        return bool(explained(graph, feeds, got, 0, 0, rounding=False))

    a, c, d = want.tolist()
    assert right(a, c, d) and right(-a, c, d) and right(a, c, -d) and right(-a, c, -d)
    assert not right(a, -c, d) and not right(a, c + 0.01, d) and not right(np.nan, c, d)
    assert not right(7, c, d)


def test_a_zero_that_is_defined_has_one_infinity() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (2,))
    graph = b.outputs(y=b.reciprocal(b.mul(x, np.float32(0))))
    feeds = {"x": np.array([-1, 1], np.float32)}
    got = {"y": np.array([np.inf, np.inf], np.float32)}
    assert not explained(graph, feeds, got, 0, 0, rounding=False)


def test_infinities_of_open_signs_may_meet() -> None:
    """1/0 - 1/0 of two zeros is NaN or infinite."""
    b: Any = Builder()
    x, y = b.input("x", "f32", (1,)), b.input("y", "f32", (1,))
    graph = b.outputs(y=b.sub(b.reciprocal(b.relu(x)), b.reciprocal(b.relu(y))))
    feeds = {"x": np.zeros(1, np.float32), "y": np.zeros(1, np.float32)}
    for number, right in ((np.nan, True), (np.inf, True), (-np.inf, True), (0, False)):
        got = {"y": np.array([number], np.float32)}
        assert bool(explained(graph, feeds, got, 0, 0, rounding=False)) is right


def test_between_the_ends_of_what_is_periodic() -> None:
    """The remainder of 437.0001 by 1 may be any where the number may be half of one off."""
    b: Any = Builder()
    x = b.input("x", "f32", (2,))
    one = np.float32(1)
    graph = b.outputs(y=b.mod(b.reciprocal(b.sigmoid(x)), one, fmod=1))
    feeds = {"x": np.array([-6.080244, 1], np.float32)}
    want = interpret(graph, feeds)["y"]
    near = want - np.array([0.003, 0], np.float32)
    assert explained(graph, feeds, {"y": near}, 0, 1e-5)
    assert not explained(graph, feeds, {"y": want + np.array([0, 0.003], np.float32)}, 0, 1e-5)

"""Fused groups on the CPU: the reference's numbers, in one step, with no tensor in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen.isa import find
from taut.backends.cpu.lower.lowering import Lowering, Setting
from taut.backends.schedule.schedule import schedule
from taut.backends.schedule.steps import Step
from taut.ir import Builder, Graph, Value, interpret
from taut.ir.ops.fusion import Fusion
from taut.passes import PassManager

from taut import testing
from taut.testing.fusible import fusibles

Make = Callable[..., Value | dict[str, Value]]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def numbers(*shape: int, kind: Any = np.float32) -> Any:
    return rng().standard_normal(shape).astype(kind)


def graph_of(make: Make, *shapes: tuple[Any, ...], dtype: str = "f32") -> Graph:
    b = Builder()
    made = make(b, *(b.input(f"x{i}", dtype, s) for i, s in enumerate(shapes)))
    return b.outputs(**(made if isinstance(made, dict) else {"y": made}))


def fused(graph: Graph) -> Graph:
    return PassManager("fuse-auto").run(graph).graph


def check(graph: Graph, feeds: dict[str, Any], threads: int = 1, steps: int | None = None) -> None:
    """The fused graph on the CPU gives the reference's numbers, in so many steps."""
    want = interpret(graph, feeds)
    program = compile(fused(graph), threads=threads)
    got = program(**feeds)
    for name, array in want.items():
        bound = 1e-12 if array.dtype == np.float64 else 1e-5
        assert testing.difference(array, got[name], bound, bound) is None, name
    assert program.fallbacks == []
    if steps is not None:
        assert len(program.profile(**feeds)) == steps


def feeds_of(graph: Graph, **symbols: int) -> dict[str, Any]:
    draw = rng()
    return {
        n.name: draw.standard_normal(
            [d if isinstance(d, int) else symbols[str(d)] for d in n.type.shape or ()]
        ).astype(n.type.dtype.numpy)
        for n in graph.inputs
    }


def layer_norm(b: Builder, x: Value, r: Value) -> Value:
    scale, bias = numbers(24, kind=x.type.dtype.numpy), numbers(24, kind=x.type.dtype.numpy)
    return b.layer_normalization(b.add(x, r), scale, bias)


def masked_softmax(b: Builder, x: Value, mask: Value) -> Value:
    return b.softmax(b.add(b.mul(x, b.constant(x.type.dtype.numpy.type(0.125))), mask))


def rotate(b: Builder, x: Value, c: Value, s: Value) -> Value:
    """x * cos + (the halves of x the other way round, one negated) * sin."""
    axis = np.array([3])
    low = b.slice(x, np.array([0]), np.array([8]), axis)
    high = b.slice(x, np.array([8]), np.array([16]), axis)
    return b.add(b.mul(x, c), b.mul(b.concat(b.neg(high), low, axis=3), s))


CASES: dict[str, tuple[Make, list[tuple[Any, ...]], int]] = {
    "residual and layer norm": (layer_norm, [("n", 5, 24), ("n", 5, 24)], 1),
    "masked softmax": (masked_softmax, [("n", 3, 6, 37), ("n", 1, 1, 37)], 1),
    "rotary embedding": (rotate, [("n", 3, 5, 16), (5, 16), (5, 16)], 2),
    "bias and gelu": (lambda b, x: b.gelu(b.add(x, numbers(70))), [("n", 70)], 1),
    "rms norm": (
        lambda b, x: b.rms_normalization(b.neg(x), numbers(33)), [("n", 33)], 1,
    ),
    "softmax over a middle axis": (
        lambda b, x: b.softmax(b.tanh(x), axis=1), [("n", 21, 19)], 1,
    ),
    "a mean of columns": (
        lambda b, x: b.sqrt(b.reduce_mean(b.mul(x, x), np.array([0, 1]))), [(6, 7, 200)], 1,
    ),
    "heads put together": (
        lambda b, x, r: b.add(
            b.reshape(b.transpose(b.neg(x), perm=(0, 2, 1, 3)), np.array([0, 5, 24])), r
        ),
        [("n", 3, 5, 8), ("n", 5, 24)], 1,
    ),
    "a gate for each channel": (
        lambda b, x, g: b.mul(x, b.hard_sigmoid(g)), [("n", 6, 4, 5), ("n", 6, 1, 1)], 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups_are_one_nest_for_any_size(name: str):
    make, shapes, steps = CASES[name]
    graph = graph_of(make, *shapes)
    program = compile(fused(graph), threads=2)
    for n in (1, 3):
        feeds = feeds_of(graph, n=n)
        want = interpret(graph, feeds)["y"]
        assert testing.difference(want, program(**feeds)["y"], 1e-5, 1e-5) is None
        assert len(program.profile(**feeds)) == steps
    assert program.fallbacks == []


@pytest.mark.parametrize("make", [layer_norm, masked_softmax])
def test_doubles_are_tight(make: Make):
    graph = graph_of(make, (2, 7, 24), (2, 7, 24), dtype="f64")
    check(graph, feeds_of(graph), steps=1)


@pytest.mark.parametrize("axes", [[-1], [0], [1, 2], [0, 2], [0, 1, 2]])
@pytest.mark.parametrize("how", ["sum", "max", "min", "mean", "l2"])
def test_reductions_over_any_axes(how: str, axes: list[int]):
    graph = graph_of(
        lambda b, x: getattr(b, f"reduce_{how}")(x, np.array(axes), keepdims=False), (9, 11, 40)
    )
    check(graph, feeds_of(graph), steps=1)


@pytest.mark.parametrize("how", ["sum", "prod", "max", "min", "sum_square"])
def test_integer_reductions_wrap_as_the_reference(how: str):
    graph = graph_of(lambda b, x: getattr(b, f"reduce_{how}")(x, np.array([1])), (7, 50),
                     dtype="i32")  # fmt: skip
    x = rng().integers(-(1 << 30), 1 << 30, (7, 50)).astype(np.int32)
    want = interpret(graph, {"x0": x})["y"]
    assert np.array_equal(compile(graph, threads=1)(x0=x)["y"], want)


def test_what_is_not_a_number_stays_so():
    graph = graph_of(lambda b, x: {"m": b.reduce_max(x, np.array([1])), "s": b.softmax(x)}, (4, 70))
    x = numbers(4, 70)
    x[1, 3], x[2, 60], x[3] = np.nan, np.inf, -np.inf
    want, got = interpret(graph, {"x0": x}), compile(fused(graph), threads=1)(x0=x)
    for name in want:
        assert testing.difference(want[name], got[name], 1e-5, 1e-6) is None


def test_rows_quantized_by_their_own_range_are_one_step():
    def make(b: Builder, x: Value) -> dict[str, Value]:
        top = b.reduce_max(b.abs(b.add(x, numbers(48))), np.array([1]))
        scale = b.div(top, np.float32(127))
        y = b.round(b.div(b.add(x, numbers(48)), scale))
        return {"q": b.clip(y, np.float32(-127), np.float32(127)), "scale": scale}

    graph = PassManager("cse").run(graph_of(make, (10, 48))).graph
    check(graph, feeds_of(graph), steps=1)


def test_normalized_rows_are_quantized_in_the_same_step():
    graph = graph_of(
        lambda b, x, r: b.quantize_linear(layer_norm(b, x, r), np.float32(0.5), np.uint8(100)),
        (64, 24), (64, 24),
    )  # fmt: skip
    feeds = feeds_of(graph)
    program = compile(fused(graph), threads=2)
    want, got = interpret(graph, feeds)["y"], program(**feeds)["y"]
    assert np.abs(want.astype(int) - got).max() <= 1 and np.mean(want != got) < 0.01
    assert len(program.profile(**feeds)) == 1


def test_no_intermediate_tensor_is_in_memory():
    graph = fused(graph_of(layer_norm, (64, 24), (64, 24)))
    isa = find(None)
    (step,) = Lowering(schedule(graph, isa.machine(1)), Setting(isa)).run().steps
    assert isinstance(step, Step)
    assert {b.space for b in (*step.reads, *step.writes)} == {"input", "constant", "output"}


def test_a_group_that_is_no_nest_is_taken_apart():
    b = Builder()
    x = b.input("x", "f32", (4, 6))
    inner = Builder()
    y = inner.input("x", "f32", (4, 6))
    body = inner.outputs(
        y=inner.sub(inner.reduce_sum(y, np.array([0])), inner.reduce_sum(y, np.array([1])))
    )
    node = b.graph.add(Fusion(body=body), x)
    graph = b.outputs(y=node)
    data = numbers(4, 6)
    program = compile(graph, threads=1)
    want = interpret(graph, {"x": data})["y"]
    assert testing.difference(want, program(data)["y"], 1e-5, 1e-5) is None
    assert program.fallbacks == []
    assert [n.op.name for n in graph.nodes()] == ["input", "fusion", "return"]


def test_halves_of_floats_run_by_their_ops():
    graph = graph_of(lambda b, x: b.softmax(b.neg(x)), (3, 8), dtype="f16")
    x = numbers(3, 8).astype(np.float16)
    want = interpret(graph, {"x0": x})["y"]
    assert np.array_equal(compile(fused(graph), threads=1)(x)["y"], want)


def test_an_image_keeps_its_channels_last():
    def make(b: Builder, x: Value) -> dict[str, Value]:
        w = numbers(20, 4, 1, 1)
        y = b.conv(x, w)
        z = b.mul(b.add(y, numbers(20, 1, 1)), b.hard_sigmoid(y))
        return {"y": b.conv(z, numbers(3, 20, 1, 1)), "mean": b.global_average_pool(z)}

    graph = graph_of(make, (2, 4, 9, 7))
    check(graph, feeds_of(graph), threads=2)


@settings(max_examples=5, deadline=None)
@given(fusibles(max_steps=6), st.data())
def test_drawn_groups_equal_the_reference(graph: Graph, data: st.DataObject):
    inputs = data.draw(testing.feeds(graph))
    want = interpret(graph, inputs)
    program = compile(fused(graph), threads=2)
    got = program(**inputs)
    for name, array in want.items():
        bound = 1e-11 if array.dtype == np.float64 else 2e-5
        assert testing.difference(array, got[name], bound, bound) is None
    assert all(graph.find(n) is not None for n in program.fallbacks)


def test_many_operands_of_a_nest_do_not_take_names_of_types():
    """The ninth operand's strides were called u8, which a quantizer in the nest wanted to call."""

    def make(b: Builder, *xs: Value) -> Value:
        total = xs[0]
        for x in xs[1:]:
            total = b.add(total, x)
        step, zero = np.float32(0.5), np.uint8(3)
        real = b.dequantize_linear(b.quantize_linear(total, step, zero), step, zero)
        return b.reduce_sum(real, np.array([0, 2, 3]), keepdims=False)

    graph = graph_of(make, *[(2, 6, 5, 7)] * 18)
    check(graph, feeds_of(graph))

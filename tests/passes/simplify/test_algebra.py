"""Identities over every awkward value, each found to fire, and none that is not one."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import DEFAULT_LIMITS, Builder, DType, Graph, Value, interpret, parse, verify
from taut.ir.ops.common import cast
from taut.passes import Context, Exact, PassManager, Pipeline
from taut.passes.instrument import error_between, tolerable
from taut.passes.simplify.algebra import lossless

AWKWARD = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 6.0, 3.0, -3.0, math.inf, -math.inf, math.nan,
           1e-45, 1.5e-38, 3e38, -3e38, 255.0, 1 / 3]  # fmt: skip
WHOLE = [0, 1, -1, 2, 3, 127, -128]

BINARY = ["add", "sub", "mul", "div", "max", "min", "pow"]
UNARY = ["relu", "neg", "abs", "floor", "ceil", "round", "sign", "sigmoid", "exp", "identity",
         "reciprocal", "sqrt"]  # fmt: skip


def scalar(value: float, dtype: DType) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return np.array(value).astype(dtype.numpy)


@st.composite
def chains(draw: st.DrawFn, dtype: DType = DType.f32) -> Graph:
    """Chains of element-wise ops with awkward constants, now and then read twice."""
    b = Builder()
    values: list[Value] = [b.input("x", dtype, ("n", 3))]
    pool = AWKWARD if dtype.is_float else WHOLE
    unary = UNARY if dtype.is_float else ["relu", "neg", "abs", "sign", "identity"]
    binary = BINARY if dtype.is_float else BINARY[:6]
    for _ in range(draw(st.integers(1, 8))):
        x = values[-1] if draw(st.integers(0, 4)) else draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["unary", "binary", "binary", "clip", "pair", "cast"]))
        if kind == "unary":
            made = getattr(b, draw(st.sampled_from(unary)))(x)
        elif kind == "pair":
            made = getattr(b, draw(st.sampled_from(binary[:6])))(x, draw(st.sampled_from(values)))
        elif kind == "cast" and dtype is DType.f32:
            to = draw(st.sampled_from([DType.f64, DType.f32, DType.f16]))
            made = b.cast(b.cast(x, to=to), to=dtype)
        else:
            numbers = [scalar(draw(st.sampled_from(pool)), dtype) for _ in range(2)]
            if kind == "clip":
                made = b.clip(x, *[n if draw(st.booleans()) else None for n in numbers])
            else:
                shape = draw(st.sampled_from([(), (1,), (3,), (1, 3), (1, 1)]))
                c = np.full(shape, numbers[0])
                pair = (x, c) if draw(st.booleans()) else (c, x)
                made = getattr(b, draw(st.sampled_from(binary)))(*pair)
        values.append(made)
    return b.outputs(y=values[-1], z=draw(st.sampled_from(values)))


def columns(dtype: DType) -> np.ndarray[Any, Any]:
    pool = AWKWARD if dtype.is_float else WHOLE
    flat = np.array(pool + pool[: -len(pool) % 3], np.float64)
    with np.errstate(all="ignore"):
        return flat.astype(dtype.numpy).reshape(-1, 3)


def check(graph: Graph, pipeline: str, dtype: DType, slack: float = 0.0) -> None:
    feeds = {"x": columns(dtype)}
    want = interpret(graph, feeds)
    made = PassManager(pipeline).run(graph).graph
    verify(made)
    got = interpret(made, feeds)
    wrong = {k: a for k, a in got.items() if not error_between(want[k], a) <= slack}
    # 1 / 0 is infinite of the zero's sign, which the larger of 0 and -0 does not have.
    assert not set(wrong) - set(tolerable(Exact(), graph, feeds, wrong, DEFAULT_LIMITS)), wrong


@settings(deadline=None, max_examples=150)
@given(chains())
def test_exact_on_awkward_floats(graph: Graph) -> None:
    check(graph, "simplify", DType.f32)
    check(graph, "O1", DType.f32)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([DType.i8, DType.u8, DType.i64, DType.f16, DType.bf16, DType.f64]),
       st.data())  # fmt: skip
def test_exact_in_every_type(dtype: DType, data: st.DataObject) -> None:
    check(data.draw(chains(dtype)), "simplify,fold,cse,dce", dtype)


def test_lossless_means_every_value_comes_back() -> None:
    for a in DType:
        for b in DType:
            if a is b or a.bits > 16 or a.bits < 8 or b.bits < 8:
                continue
            every = np.arange(1 << a.bits, dtype=f"u{a.bits // 8}").view(a.numpy) \
                if a is not DType.bool else np.array([False, True])  # fmt: skip
            with np.errstate(all="ignore"):
                back = cast(cast(every, b, False), a, False)
                same = (back == every) | (every != every)
            wide = np.issubdtype(b.numpy, np.floating) or b.numpy == ml_dtypes.bfloat16
            if lossless(a, b):
                assert same.all(), (a, b)
            elif wide:  # integers come back by wrapping too, so only floats can show a loss
                assert not same.all() or a.is_float, (a, b)


def rewritten(make: Any, rule: str, **options: Any) -> int:
    """How often a rule fires on what `make(b, x)` builds, checked against the reference."""
    b = Builder()
    dtype = options.pop("dtype", DType.f32)
    x = b.input("x", dtype, (7, 3))
    graph = b.outputs(y=make(b, x))
    report = PassManager(options.pop("passes", "simplify"), check=True).run(
        graph, Context(data=[np.resize(columns(dtype), (7, 3))])
    )
    return report.passes[0].counts[rule]


F = np.float32


@pytest.mark.parametrize("make, rule, count", [
    (lambda b, x: b.add(x, F(0.0)), "neutral", 0),  # not for x = -0.0
    (lambda b, x: b.add(x, F(-0.0)), "neutral", 1),
    (lambda b, x: b.sub(x, F(0.0)), "neutral", 1),
    (lambda b, x: b.sub(x, F(-0.0)), "neutral", 0),
    (lambda b, x: b.mul(F(1), x), "neutral-left", 1),
    (lambda b, x: b.div(F(1), x), "neutral", 0),
    (lambda b, x: b.mul(x, F(0)), "mul-zero", 0),  # NaN * 0 is NaN
    (lambda b, x: b.sub(x, x), "sub-self", 0),
    (lambda b, x: b.div(x, F(4)), "div-to-mul", 1),
    (lambda b, x: b.div(x, F(3)), "div-to-mul", 0),
    (lambda b, x: b.div(x, F(np.inf)), "div-to-mul", 0),
    (lambda b, x: b.div(x, F(2.0**-130)), "div-to-mul", 0),  # its inverse overflows
    (lambda b, x: b.add(b.add(x, F(1)), F(2)), "twice", 0),
    (lambda b, x: b.max(b.max(x, np.arange(3, dtype=F)), np.eye(1, 3, dtype=F)), "twice", 1),
    (lambda b, x: b.or_(b.or_(b.less(x, F(1)), np.array([True, False, False])), b.constant(False)),
     "twice", 1),
    (lambda b, x: b.relu(b.exp(x)), "known-positive", 1),
    (lambda b, x: b.abs(b.cosh(x)), "known-positive", 1),
    (lambda b, x: b.abs(b.sqrt(x)), "known-positive", 0),  # sqrt(-0) is -0
    (lambda b, x: b.floor(b.floor(x)), "idempotent", 1),
    (lambda b, x: b.thresholded_relu(b.thresholded_relu(x)), "idempotent", 1),
    (lambda b, x: b.thresholded_relu(b.thresholded_relu(x, alpha=1.0), alpha=2.0), "idempotent", 0),
    (lambda b, x: b.clip(b.clip(x, F(0), F(1)), F(5), F(6)), "clamp-chain", 1),
    (lambda b, x: b.clip(x, F(np.nan), F(1)), "to-clamp", 0),
    (lambda b, x: b.clip(x, F(np.inf), None), "to-clamp", 0),
    (lambda b, x: b.where(b.constant(True), x, b.neg(x)), "where-constant", 1),
    (lambda b, x: b.dropout(x, F(0.3)), "remove-identity", 1),
    (lambda b, x: b.dropout(x, F(0.3), outputs=2)[0], "remove-identity", 1),
    (lambda b, x: b.cast(b.cast(x, to=DType.f16), to=DType.f32), "cast-twice", 0),
    (lambda b, x: b.upsample(b.reshape(x, np.array([1, 1, 7, 3])), np.array([1, 1, 2, 2], F)),
     "upsample-to-resize", 1),
    (lambda b, x: b.add(b.mat_mul(x, np.ones((3, 2), F)), np.ones((7, 1), F)),
     "mat-mul-to-gemm", 1),
    (lambda b, x: b.add(b.mat_mul(x, np.ones((3, 1), F)), np.ones((1, 4), F)),
     "mat-mul-to-gemm", 0),  # the sum is wider than the product
])  # fmt: skip
def test_a_rule_fires_where_it_is_right(make: Any, rule: str, count: int) -> None:
    assert rewritten(make, rule) == count


@pytest.mark.parametrize("make, rule", [
    (lambda b, x: b.sub(x, x), "sub-self"),
    (lambda b, x: b.mul(x, np.int8(0)), "mul-zero-integer"),
    (lambda b, x: b.add(b.add(x, np.int8(100)), np.int8(100)), "twice"),
    (lambda b, x: b.bitwise_and(x, np.int8(-1)), "neutral"),
    (lambda b, x: b.relu(b.abs(x)), "known-positive"),
])  # fmt: skip
def test_integers_wrap(make: Any, rule: str) -> None:
    fires = rule != "known-positive"  # |-128| is -128
    assert rewritten(make, rule, dtype=DType.i8) == fires


def test_fast_rules_wait_for_their_option() -> None:
    def make(b: Builder, x: Value) -> Value:
        return b.add(b.add(b.mul(b.sigmoid(x), F(0)), F(1)), F(2))

    assert rewritten(make, "mul-zero") == 0
    b = Builder()
    graph = b.outputs(y=make(b, b.input("x", "f32", (7, 3))))
    counts = PassManager("simplify{fast=true}", check=True).run(graph).passes[0].counts
    assert counts["mul-zero"] == 1
    assert str(Pipeline.parse("simplify")[0].promise) == "exact"


@pytest.mark.parametrize("f, dtype, folds", [
    (lambda b, x: b.abs(x), "f32", True),
    (lambda b, x: b.abs(x), "i8", False),  # |-128| is -128, which zeros beat
    (lambda b, x: b.relu(x), "i8", True),
    (lambda b, x: b.flatten(b.sigmoid(x), axis=3), "f32", True),  # whatever moves it on
    (lambda b, x: b.elu(x, alpha=-1.0), "f32", True),
    (lambda b, x: b.elu(x, alpha=1.0), "f32", False),
])  # fmt: skip
def test_zeros_pad_a_maximum_of_what_is_never_negative(f: Any, dtype: str, folds: bool) -> None:
    b = Builder()
    x = b.input("x", dtype, (1, 2, 3, 3))
    y = b.reshape(f(b, x), np.array([1, 2, 3, 3]))
    padded = b.pad(y, np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    graph = b.outputs(y=b.max_pool(padded, kernel_shape=(2, 2)))
    feeds = {"x": np.full((1, 2, 3, 3), -128 if dtype == "i8" else -1.5, DType(dtype).numpy)}
    made = PassManager("simplify").run(graph)
    assert made.passes[0].counts["pad-into-window"] == folds
    assert np.array_equal(interpret(made.graph, feeds)["y"], interpret(graph, feeds)["y"])


def test_a_pad_stays_before_a_window_in_ceil_mode_whose_sizes_are_open() -> None:
    """A last window that lies in padding alone is none, but one over a pad's zeros is."""
    graph = parse("""
graph @main(%x: f32[?,?,?,?]) -> (%y: f32[?,?,?,?]) {
  %r = sigmoid(%x) : f32[?,?,?,?]
  %around = constant [0, 0, 1, 0, 0, 0, 2, 0] : i64[8]
  %zero = constant 0.0 : f32[]
  %p = pad(%r, %around, %zero) : f32[?,?,?,?]
  %y = max_pool(%p) {strides=[3,3] kernel_shape=[3,2] ceil_mode=true} : f32[?,?,?,?]
  return %y
}
""")
    x = np.random.default_rng(0).standard_normal((5, 5, 4, 3)).astype(np.float32)
    want = interpret(graph, {"x": x})["y"]
    made = PassManager("simplify").run(graph).graph
    np.testing.assert_array_equal(interpret(made, {"x": x})["y"], want)


def test_an_infinity_of_f8e5m2_saturates_in_a_cast_to_itself() -> None:
    x = np.array([np.inf, -np.inf, 1, np.nan], DType.f8e5m2.numpy)
    for saturate, twice in ((True, False), (True, True), (False, False), (False, True)):
        b = Builder()
        given = b.input("x", DType.f8e5m2, (4,))
        inner = b.cast(given, to=DType.f32) if twice else given
        graph = b.outputs(y=b.cast(inner, to=DType.f8e5m2, saturate=saturate))
        want = interpret(graph, {"x": x})["y"].astype(np.float32)
        np.testing.assert_array_equal(want[0], 57344 if saturate else np.inf)
        graph = PassManager("simplify,dce").run(graph, Context()).graph
        graph = PassManager("simplify,dce").run(graph, Context()).graph
        np.testing.assert_array_equal(interpret(graph, {"x": x})["y"].astype(np.float32), want)
        assert [n.op.name for n in graph.nodes()].count("cast") == int(saturate)

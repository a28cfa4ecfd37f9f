"""Fusion of matrix products and attention: drawn transformers keep their numbers, remarks say why
something stayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, DType, Graph, Value, interpret, parse
from taut.passes import PassManager

import taut
from taut import testing

PASSES = ("fuse-attention", "fuse-matmul", "merge-matmuls", "fuse-linear")
ALL = "fuse-attention,simplify,motion,fuse-linear,fuse-matmul,merge-matmuls,cse,dce"
_random = np.random.default_rng(0)


def f(*shape: int) -> Any:
    return np.asarray(_random.standard_normal(shape), np.float32)


@pytest.mark.parametrize("name", [*PASSES, ALL])
def test_transformers_keep_their_numbers(name: str) -> None:
    testing.check_pipeline(name, families=["transformer", "grown"], examples=25)


@pytest.mark.slow
@pytest.mark.parametrize("names", [PASSES, [ALL]], ids=["one by one", "all"])
def test_transformers_keep_their_numbers_at_length(names: list[str]) -> None:
    testing.check_pipelines(names, families=["transformer", "mlp"], examples=300, seed=1)


def run(pipeline: str, graph: Graph) -> tuple[list[str], list[str]]:
    """Names of the ops that are left, and the reasons of what was missed."""
    report = PassManager(pipeline, check=True).run(graph)
    ops = [n.op.name for n in report.graph.nodes()]
    return ops, [r.reason for _, r in report.remarks("missed")]


# ---- attention ---------------------------------------------------------------------------------


def attention(
    change: Callable[[Builder, Value], Value] = lambda b, scores: scores,
    axis: int = -1,
    after: Callable[[Builder, Value], Value] = lambda b, weights: weights,
    keys: tuple[Any, ...] = ("n", 2, "s", 4),
) -> Graph:
    b = Builder()
    q, k, v = (b.input(x, "f32", s) for x, s in
               (("q", ("n", 2, "l", 4)), ("k", keys), ("v", ("n", 2, "s", 5))))  # fmt: skip
    scores = change(b, b.mat_mul(q, b.transpose(k, perm=(0, 1, 3, 2))))
    weights = after(b, b.softmax(scores, axis=axis))
    return b.outputs(y=b.mat_mul(weights, v))


def _add_input(shape: tuple[Any, ...]) -> Callable[[Builder, Value], Value]:
    return lambda b, scores: b.add(scores, b.input("m", "f32", shape))


NEARLY: list[tuple[Graph, str]] = [
    (attention(lambda b, x: b.relu(x)), "relu stands between"),
    (attention(lambda b, x: b.mul(b.add(x, b.input("m", "f32", ("s",))), np.float32(2))),
     "the mask is scaled"),
    (attention(_add_input((1,))), "may not be as long as the keys"),
    (attention(_add_input(("other",))), "broadcasts the scores, or may"),
    (attention(_add_input((1, "n", 2, "l", "s"))), "broadcasts the scores"),
    (attention(_add_input(("n", 1, 2, "s"))), "add broadcasts the scores, or may"),  # l may be 1
    (attention(lambda b, x: b.where(b.input("m", "bool", (2, 1)), x, np.float32(-3e38))),
     "where broadcasts the scores, or may"),
    (attention(after=lambda b, p: b.where(b.is_nan(p), np.zeros((2, 1), np.float32), p)),
     "softmax's result is selected from"),
    (attention(lambda b, x: b.mul(x, f(1, 2, 1, 1))), "not by one constant number"),
    (attention(lambda b, x: b.mul(x, np.float32(-1))), "below 0"),
    (attention(lambda b, x: b.where(b.input("m", "bool", ("s",)), x, np.float32(-9))),
     "do not become a number below"),
    (attention(axis=1), "does not go over the last axis"),
    (attention(keys=("n", 1, "s", 4)), "broadcast or may differ"),
    (attention(after=lambda b, p: b.where(b.input("m", "bool", ("l", "s")), np.float32(0), p)),
     "is selected from"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "reason"), NEARLY, ids=[r for _, r in NEARLY])
def test_what_is_nearly_attention_stays_and_says_why(graph: Graph, reason: str) -> None:
    ops, missed = run("fuse-attention", graph)
    assert "attention" not in ops
    assert any(reason in m for m in missed), missed


def test_weights_that_are_read_elsewhere_stay() -> None:
    graph = attention()
    weights = next(n for n in graph.nodes() if n.op.name == "softmax")
    graph.set_outputs({"y": graph.outputs[0], "p": weights})
    ops, missed = run("fuse-attention", graph)
    assert "softmax" in ops and "fuse-attention: softmax has 2 uses" in missed


def _additive(b: Builder, x: Value) -> Value:
    return b.add(b.div(x, np.float32(2)), b.input("m", "f32", ("n", 1, 1, "s")))


FORMS = {
    "added": attention(_additive),
    "selected": attention(lambda b, x: b.where(b.input("m", "bool", ("n", 1, 1, "s")), x,
                                               np.float32(-1e9))),
    "dropped": attention(lambda b, x: b.where(b.input("m", "bool", ("l", "s")),
                                              np.float32(-3e38), x)),
    "guarded": attention(after=lambda b, p: b.where(b.is_nan(p), np.float32(0), p)),
    "scaled": attention(lambda b, x: b.mul(np.float32(0.5), b.mul(x, np.float32(3)))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_attention(form: str) -> None:
    ops, _ = run("fuse-attention", FORMS[form])
    assert "attention" in ops and "softmax" not in ops


def test_a_constant_triangle_is_causal() -> None:
    b = Builder()
    q, k, v = (b.input(x, "f32", (2, 5, 4)) for x in "qkv")
    mask = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32)
    scores = b.add(b.mat_mul(q, b.transpose(k, perm=(0, 2, 1))), mask)
    graph = b.outputs(y=b.mat_mul(b.softmax(scores), v))
    report = PassManager("fuse-attention", check=True).run(graph)
    (node,) = (n for n in report.graph.nodes() if n.op.name == "attention")
    assert node.op.is_causal and len(report.graph.operands(node)) == 3  # type: ignore[attr-defined]


def test_half_precision_keeps_the_type_of_its_softmax() -> None:
    b = Builder()
    q, k, v = (b.input(x, "f16", (2, 3, 5, 4)) for x in "qkv")
    wide = b.cast(b.mat_mul(q, b.transpose(k, perm=(0, 1, 3, 2))), to=DType.f32)
    weights = b.cast(b.softmax(wide), to=DType.f16)
    graph = b.outputs(y=b.mat_mul(weights, v))
    made = PassManager("fuse-attention", check=True).run(graph).graph
    (node,) = (n for n in made.nodes() if n.op.name == "attention")
    assert node.op.softmax_precision is DType.f32  # type: ignore[attr-defined]


# ---- products ----------------------------------------------------------------------------------


def test_a_product_read_twice_takes_up_nothing() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", 3, 4))
    y = b.mat_mul(x, f(4, 5))
    ops, missed = run("fuse-matmul", b.outputs(y=b.relu(y), z=y))
    assert "relu" in ops and "fuse-end: mat_mul has 2 uses" in missed


SIBLINGS: list[tuple[Callable[[Builder, Value], Any], str]] = [
    (lambda b, x: {"y": b.mat_mul(x, f(4, 5)), "z": b.mat_mul(x, f(4, 5))}, "it would copy 10"),
    (lambda b, x: {"y": b.relu(b.fused_mat_mul(x, f(4, 2), None, b.input("r", "f32", ("n", 3, 2)))),
                   "z": b.relu(b.mat_mul(x, f(4, 2)))}, "it has a residual"),
    (lambda b, x: {"y": b.relu(b.fused_mat_mul(x, f(4, 2), b.input("c", "f32", (2,)))),
                   "z": b.relu(b.mat_mul(x, f(4, 2)))}, "its bias is not constant"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), SIBLINGS, ids=[r for _, r in SIBLINGS])
def test_siblings_that_stay_say_why(make: Callable[..., Any], reason: str) -> None:
    b = Builder()
    graph = b.outputs(**make(b, b.input("x", "f32", ("n", 3, 4))))
    _, missed = run("merge-matmuls", graph)
    assert any(reason in m for m in missed), missed


def test_a_shared_weight_is_not_merged() -> None:
    b = Builder()
    x, w = b.input("x", "f32", ("n", 3, 4)), b.constant(f(4, 2))
    graph = b.outputs(y=b.add(b.relu(b.mat_mul(x, w)), b.relu(b.mat_mul(x, w))))
    ops, missed = run("merge-matmuls", graph)
    assert ops.count("mat_mul") == 2
    assert "not merged with its siblings: its weight is shared" in missed


def test_attention_of_merged_products_reads_slices() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", "s", 8))
    q, k, v = (b.add(b.mat_mul(x, f(8, 8)), f(8)) for _ in range(3))
    graph = b.outputs(y=b.relu(b.attention(q, k, v, q_num_heads=2, kv_num_heads=2)))
    ops, _ = run(ALL, graph)
    assert [o for o in ops if o not in ("input", "constant", "return")] == [
        "fused_mat_mul", "slice", "slice", "slice", "attention", "relu",
    ]  # fmt: skip
    program = taut.compile(taut.optimize(graph, ALL), threads=1)
    x_ = f(2, 3, 8)
    np.testing.assert_allclose(program(x_)["y"], taut.reference(graph, x_)["y"], atol=1e-4)


LAYERS: list[tuple[Callable[[Builder, Value], Value], str]] = [
    (lambda b, x: b.mat_mul(b.relu(b.mat_mul(x, f(4, 6))), f(6, 2)), "activation relu stands"),
    (lambda b, x: b.mat_mul(b.mat_mul(x, f(4, 2)), f(2, 9)), "is no smaller than 4 x 2 and 2 x 9"),
    (lambda b, x: b.mat_mul(b.add(b.mat_mul(x, f(4, 6)), f(3, 6)), f(6, 2)),
     "is not one number a column"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), LAYERS, ids=[r for _, r in LAYERS])
def test_layers_that_are_not_multiplied_say_why(make: Callable[..., Value], reason: str) -> None:
    b = Builder()
    graph = b.outputs(y=make(b, b.input("x", "f32", ("n", 3, 4))))
    _, missed = run("fuse-linear", graph)
    assert any(reason in m for m in missed), missed


def test_layers_between_which_something_reads_or_whose_weight_is_shared_stay() -> None:
    b = Builder()
    x, w = b.input("x", "f32", ("n", 4)), b.constant(f(4, 4))
    first = b.mat_mul(x, f(4, 6))
    graph = b.outputs(y=b.mat_mul(first, f(6, 2)), z=first,
                      w=b.mat_mul(b.mat_mul(x, w), w))  # fmt: skip
    _, missed = run("fuse-linear", graph)
    assert "multiply-weights: what is between has 2 uses" in missed
    assert "multiply-weights: a weight is shared" in missed


def test_heads_of_which_one_tensor_knows_no_number_stay() -> None:
    graph = parse("""
graph @main(%x: f32[?,3,4,3], %v: f32[2,3,?,2]) -> (%y: f32[2,3,8]) {
  %s = constant [2, 3, 8] : i64[3]
  %1 = transpose(%x) {perm=[0,2,1,3]} : f32[?,4,3,3]
  %2 = transpose(%v) {perm=[0,2,1,3]} : f32[2,?,3,2]
  %3 = attention(%1, %1, %2) {scale=0.5} : f32[2,4,3,2]
  %4 = transpose(%3) {perm=[0,2,1,3]} : f32[2,3,4,2]
  %y = reshape(%4, %s) : f32[2,3,8]
  return %y
}
""")
    made = PassManager("fuse-attention").run(graph)
    assert [n.op.q_num_heads for n in made.graph.nodes() if n.op.name == "attention"] == [None]
    assert any("not known" in r.reason for _, r in made.remarks("missed"))


@pytest.mark.parametrize(("order", "fill", "fused"), [
    ("added", -1e9, True), ("selected", -1e9, False), ("selected", -3e38, True),
])  # fmt: skip
def test_rows_with_every_key_masked_weigh_them_as_softmax_does(
    order: str, fill: float, fused: bool
) -> None:
    b = Builder()
    q, k, v = (b.input(n, "f32", (1, 1, 4, 8)) for n in "qkv")
    keep, bias = b.input("keep", "bool", (4, 4)), b.input("bias", "f32", (4, 4))
    scores = b.mat_mul(q, b.transpose(k, perm=(0, 1, 3, 2)))
    low = np.float32(fill)
    if order == "added":  # before the fill takes the place of both
        scores = b.where(keep, b.add(scores, bias), low)
    else:
        scores = b.add(b.where(keep, scores, low), bias)
    graph = b.outputs(y=b.mat_mul(b.softmax(scores, axis=-1), v))
    r = np.random.default_rng(0)
    feeds = {n: (8 * r.standard_normal((1, 1, 4, 8))).astype(np.float32) for n in "qkv"}
    feeds["keep"] = np.array([[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    feeds["bias"] = r.standard_normal((4, 4)).astype(np.float32)
    made = PassManager("fuse-matmul,fuse-attention").run(graph).graph
    assert ("attention" in [n.op.name for n in made.nodes()]) == fused
    want, got = interpret(graph, feeds)["y"], interpret(made, feeds)["y"]
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-4)

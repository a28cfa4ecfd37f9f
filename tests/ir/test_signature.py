"""Axis signatures: what can be read, what is refused when an op is registered, and the queries on
the relations that follow."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any

import numpy as np
import pytest
from taut.ir import Abstract, Op, TensorType, op_class, parse, register
from taut.ir.analysis.dependence import dependence
from taut.ir.dependence import Relation, own_axes
from taut.ir.op import _REGISTRY
from taut.ir.signature import layer_axes, read_signature

import taut


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x[m] y[m]", "no result"),
        ("x[m] ->", "no result"),
        ("x[m -> y[m]", "cannot be read"),
        ("x[m,] -> y[m]", "cannot be read"),
        ("x[m**k] -> y[m]", "cannot be read"),
        ("x[m/2] -> y[m]", "cannot be read"),
        ("x[...,k...] -> y[...]", "two runs"),
        ("x[m]~turned -> y[m]", "two axes"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_signature(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a[m] -> y[m]", "the op"),
        ("x[m] b[m] -> y[m]", "the op"),
        ("x[m] -> z[m]", "the op"),
        ("x[m] -> y[m] z[m]", "the op"),
        ("x[m,k]~turned -> y[m,k]", "true or not"),
        ("x[parts*m] -> y[m]", "counts blocks"),
        ("x[m,...@k] -> y[m,...]", "taps"),
        ("x[m] -> y[n]", "no operand has"),
    ],
)
def test_what_does_not_fit_the_op_is_refused(text: str, reason: str) -> None:
    def infer(self: Any, x: Abstract) -> TensorType:
        return x.type

    made = make_dataclass(
        "Misfit", [("factor", float, field(default=1.0))], bases=(Op,), frozen=True,
        namespace={"__doc__": "x", "axes": text, "infer": infer, "onnx": None},
    )  # fmt: skip
    try:
        with pytest.raises(ValueError, match=reason):
            register(made)
    finally:
        _REGISTRY.pop("misfit", None)


def relations(text: str, node: str = "y") -> list[Relation]:
    graph = parse(text)
    found = dependence(graph, graph[node])
    assert all(isinstance(d, Relation) for d in found)
    return [d for d in found if isinstance(d, Relation)]


def conv(group: int, inputs: int, outputs: int, **attributes: Any) -> list[Any]:
    b = taut.ir.Builder()
    x = b.input("x", "f32", ("n", inputs, 8, 8))
    w = b.input("w", "f32", (outputs, inputs // group, 3, 3))
    y = b.conv(x, w, group=group, **attributes)
    return list(dependence(b.graph, y.node))


@pytest.mark.parametrize(("group", "outputs"), [(1, 8), (2, 8), (4, 8), (4, 4), (1, 1)])
def test_a_weight_has_the_output_channels(group: int, outputs: int) -> None:
    found = conv(group, 4, outputs)
    assert own_axes(found, 1) == (1,)
    assert found[1].index_of(1).reshape(-1).tolist() == list(range(outputs))
    assert found[1].index_of(1).shape == (outputs, 1, 1, 1)


def test_a_transposed_convolution_counts_them_over_two_axes() -> None:
    b = taut.ir.Builder()
    x, w = b.input("x", "f32", (1, 4, 5)), b.input("w", "f32", (4, 3, 2))
    y = b.conv_transpose(x, w, group=2)
    found = dependence(b.graph, y.node)
    assert own_axes(found, 1) == (1,)
    assert isinstance(found[1], Relation)
    assert found[1].index_of(1)[..., 0].tolist() == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2


@pytest.mark.parametrize("turned", [False, True])
def test_columns_of_a_gemm(turned: bool) -> None:
    b = taut.ir.Builder()
    x, w = b.input("x", "f32", ("n", 4)), b.input("w", "f32", (6, 4) if turned else (4, 6))
    found = dependence(b.graph, b.gemm(x, w, transB=turned).node)
    assert own_axes(found, 1) == (1,)
    assert isinstance(found[1], Relation)
    assert found[1].pairs() == ((0 if turned else 1, 1),)
    assert found[1].index_of(1).shape == ((6, 1) if turned else (1, 6))


def test_sets_of_indices() -> None:
    image = conv(2, 4, 8, strides=(2, 1), pads=(1, 1, 1, 1))[0]
    channels, rows = image.reads({1: [5, 6], 2: [1]})[1:3]
    assert channels.tolist() == [2, 3]
    assert rows.tolist() == [1, 2, 3]
    reached = image.reached({2: [7], 3: [0]})
    assert [v.tolist() for v in reached[1:]] == [list(range(8)), [3], [0, 1]]
    assert reached[0] is None  # of a size that is not known
    assert image.reads({0: [3]})[0].tolist() == [3]


def test_a_slice_of_a_concatenation() -> None:
    b = taut.ir.Builder()
    x, y = b.input("x", "f32", ("n", 2)), b.input("y", "f32", ("n", 3))
    first, second = dependence(b.graph, b.concat(x, y, axis=1).node)
    assert isinstance(first, Relation)
    assert isinstance(second, Relation)
    assert [d.kind(1) for d in (first, second)] == ["segment", "segment"]
    shown = second.reads({1: [1, 2]})[1]
    assert shown is not None
    assert shown.tolist() == [0]
    none = first.reads({1: [4]})
    assert all(v is not None and not v.size for v in none)


def test_a_flattened_image_keeps_its_channels_apart() -> None:
    b = taut.ir.Builder()
    y = b.flatten(b.input("x", "f32", ("n", 3, 2, 2)))
    (found,) = dependence(b.graph, y.node)
    assert isinstance(found, Relation)
    reached = found.reached({1: [1]})[1]
    assert reached is not None
    assert reached.tolist() == [4, 5, 6, 7]
    assert [found.kind(k) for k in range(4)] == ["same", *["mixed radix"] * 3]


def test_a_shuffle_of_channels_goes_through_a_fusion() -> None:
    b = taut.ir.Builder()
    x = b.input("x", "f32", (1, 6, 4))
    apart = b.reshape(x, np.array([1, 2, 3, 4]))
    y = b.reshape(b.transpose(apart, perm=(0, 2, 1, 3)), np.array([1, 6, 4]))
    from taut.ir.analysis.dependence import graph_dependence

    (found,) = graph_dependence(b.outputs(y=y))
    assert isinstance(found, Relation)
    reads = found.reads({1: [1, 2]})[1]
    assert reads is not None
    assert reads.tolist() == [1, 3]
    assert found.kind(2) == "same"


def test_a_signature_is_read_once() -> None:
    assert op_class("add").signature is read_signature(op_class("add").axes)


@dataclass(frozen=True)
class Silent(Op):
    """An op that does not say what it depends on."""

    onnx = None

    def infer(self, x: Abstract) -> TensorType:
        return x.type


def test_an_op_that_says_nothing_reads_everything() -> None:
    x = TensorType.of(np.zeros((2, 3), np.float32))
    (found,) = Silent().dependence([Abstract(x)], [x])
    assert isinstance(found, Relation)
    assert [found.kind(k) for k in range(2)] == ["everything"] * 2
    assert found.reason == "the op does not say"


def test_where_a_weights_channels_are() -> None:
    read = read_signature
    plain = read("x[n,group*i,...@k] w[group*o,i,k...] -> y[n,group*o,...]")
    assert layer_axes(plain, "x", "w") == (0, 1, 1, "inputs", "")
    turned = read("x[n,group*i,p...] w[group*i,o,k...] -> y[n,group*o,p...@k]")
    assert layer_axes(turned, "x", "w") == (1, 0, 1, "outputs", "")
    assert layer_axes(read("x[...,k] w[n,k]~t -> y[...,n]"), "x", "w") == (-2, -1, -1, "", "t")
    with pytest.raises(ValueError, match="do not tell"):
        layer_axes(read("x[...] w[...] -> y[...]"), "x", "w")

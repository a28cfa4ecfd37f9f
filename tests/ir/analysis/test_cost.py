"""Costs counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from taut.ir import Builder, Graph, VerifyError, verify
from taut.ir.analysis.cost import bind_symbols, graph_cost


def network(batch: int | str) -> Graph:
    b = Builder()
    x = b.input("x", "f32", (batch, 3, 8, 8))
    weight = b.constant(np.ones((4, 3, 3, 3), np.float32), "w")
    y = b.conv(x, weight, pads=(1, 1, 1, 1), name="c1")
    y = b.relu(y, name="r")
    y = b.conv(y, np.ones((4, 1, 3, 3), np.float32), group=4, strides=(2, 2), name="dw")
    y = b.flatten(b.global_average_pool(y, name="p"), name="f")
    y = b.gemm(y, np.ones((4, 10), np.float32), np.ones(10, np.float32), name="fc")
    return b.outputs(y=y)


def test_by_hand() -> None:
    table = graph_cost(network(2))
    rows = {r.node: r for r in table}
    assert rows["c1"].macs == 2 * 4 * 8 * 8 * 3 * 3 * 3
    assert rows["c1"].parameters == 4 * 27
    assert rows["c1"].bytes == 4 * (2 * 3 * 64 + 108 + 2 * 4 * 64)
    assert rows["dw"].macs == 2 * 4 * 3 * 3 * 9
    assert rows["fc"].macs == 2 * 4 * 10
    assert rows["r"].macs == 0
    assert table.macs == rows["c1"].macs + rows["dw"].macs + rows["fc"].macs
    assert table.parameters == 108 + 36 + 40 + 10
    assert table.bytes == sum(r.bytes for r in table)
    assert table.unknown == ()
    conv = table.by_op()["conv"]
    assert (conv.node, conv.macs) == ("2", rows["c1"].macs + rows["dw"].macs)


def test_symbols_are_bound_by_argument() -> None:
    graph = network("n")
    assert set(graph_cost(graph).unknown) == {"c1", "r", "dw", "p", "f", "fc"}
    assert graph_cost(graph).parameters == 194
    assert list(graph_cost(graph, {"n": 2})) == list(graph_cost(network(2)))
    assert graph["x"].type.shape == ("n", 3, 8, 8)
    bound = bind_symbols(graph, {"n": 5})
    verify(bound)
    assert bound["fc"].type.shape == (5, 10)


def test_a_symbol_that_is_not_there_is_refused() -> None:
    with pytest.raises(VerifyError, match="no input has a dimension"):
        graph_cost(network("n"), {"batch": 2})
    with pytest.raises(VerifyError, match="or is named"):
        graph_cost(network("n"), {"n": (2, 3, 8, 8)})
    with pytest.raises(VerifyError, match="does not fit"):
        graph_cost(network("n"), {"x": (2, 4, 8, 8)})


def test_an_input_takes_a_whole_shape() -> None:
    assert list(graph_cost(network("n"), {"x": (2, 3, 8, 8)})) == list(graph_cost(network(2)))


def test_a_shared_weight_counts_once() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 4))
    w = b.constant(np.ones((4, 4), np.float32), "w")
    graph = b.outputs(y=b.mat_mul(b.mat_mul(x, w), w))
    assert graph_cost(graph).parameters == 16
    assert graph_cost(graph).macs == 2 * 2 * 4 * 4

"""fuse-auto: what it joins, what it leaves and why, and that the graph stays the same function."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import Builder, Graph, Value, interpret, parse, print_graph
from taut.ir.equality import equal
from taut.passes import PRESETS, PassManager, Pipeline, Report
from taut.passes.fuse.clusters import Clusters

from taut import testing


def run(graph: Graph, pipeline: str = "fuse-auto") -> Report:
    return PassManager(pipeline, check=True).run(graph)


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes() if n.op.name not in ("input", "constant", "return")]


def reasons(report: Report, kind: Any = "missed") -> list[str]:
    return [f"{r.node}: {r.reason}" for _, r in report.remarks(kind)]


def text(lines: str, result: str = "%y: f32[n,64]", inputs: str = "%x: f32[n,64]") -> Graph:
    return parse(f"graph @main({inputs}) -> ({result}) {{\n{lines}\n}}\n")


def test_a_layer_norm_written_out_is_one_group():
    b = Builder()
    x = b.input("x", "f32", ("n", 8, 64))
    axes = np.array([-1])
    c = b.sub(x, b.reduce_mean(x, axes))
    spread = b.sqrt(b.add(b.reduce_mean(b.mul(c, c), axes), np.float32(1e-5)))
    report = run(b.outputs(y=b.mul(b.div(c, spread), np.ones(64, np.float32), name="y")))
    assert ops(report.graph) == ["fusion"]
    assert reasons(report, "applied") == [
        "y: 8 ops, 1064960 bytes less through memory: "
        "reduce_mean, sub, mul, reduce_mean_0, add, sqrt, div, y"
    ]


def test_what_is_read_twice_is_a_further_result():
    report = run(text("""
      %a = tanh(%x) : f32[n,64]
      %b = exp(%a) : f32[n,64]
      return %b, %a
    """, "%y: f32[n,64], %a: f32[n,64]"))  # fmt: skip
    (node,) = [n for n in report.graph.nodes() if n.op.name == "fusion"]
    assert node.name == "a" and len(node.results) == 2


def test_reductions_over_other_axes_are_groups_of_their_own():
    report = run(
        parse("""
    graph @main(%x: f32[64,64]) -> (%y: f32[64,64]) {
      %a = softmax(%x) {axis=0} : f32[64,64]
      %b = softmax(%a) {axis=1} : f32[64,64]
      %y = tanh(%b) : f32[64,64]
      return %y
    }
    """)
    )
    assert ops(report.graph) == ["softmax", "fusion"]
    assert reasons(report) == ["b: not fused with a: it reduces over other axes"]


def test_a_path_through_other_ops_forbids_a_group():
    report = run(
        parse("""
    graph @main(%x: f32[128,128]) -> (%y: f32[128,128]) {
      %a = tanh(%x) : f32[128,128]
      %p = mat_mul(%a, %a) : f32[128,128]
      %y = add(%a, %p) : f32[128,128]
      return %y
    }
    """)
    )
    assert ops(report.graph) == ["tanh", "mat_mul", "add"]
    assert reasons(report) == ["y: not fused with a: a path leads out of the group and back in"]


def test_long_rows_are_not_walked_twice():
    report = run(
        parse("""
    graph @main(%x: f32[8,1000000]) -> (%y: f32[8,1000000]) {
      %a = tanh(%x) : f32[8,1000000]
      %y = softmax(%a) : f32[8,1000000]
      return %y
    }
    """)
    )
    assert reasons(report) == ["y: not fused with a: a row of 3.8 MB does not stay in the cache"]


def test_few_rows_are_not_worth_losing_threads():
    report = run(
        parse("""
    graph @main(%x: f32[1,100000]) -> (%y: f32[1,1]) {
      %axes = constant [1] : i64[1]
      %a = tanh(%x) : f32[1,100000]
      %y = reduce_sum(%a, %axes) : f32[1,1]
      return %y
    }
    """)
    )
    assert reasons(report) == ["y: not fused with a: threads could not share 1 rows"]


def test_a_dear_gate_is_not_computed_for_every_row():
    report = run(
        parse("""
    graph @main(%x: f32[4096,256], %g: f32[256]) -> (%y: f32[4096,256]) {
      %a = exp(%g) : f32[256]
      %y = mul(%x, %a) : f32[4096,256]
      return %y
    }
    """)
    )
    assert ops(report.graph) == ["exp", "mul"]


def test_shapes_that_may_differ_are_left():
    report = run(
        parse("""
    graph @main(%x: f32[n,64], %z: f32[m,64]) -> (%y: f32[?,64]) {
      %a = tanh(%x) : f32[n,64]
      %y = add(%a, %z) : f32[?,64]
      return %y
    }
    """)
    )
    assert ops(report.graph) == ["tanh", "add"]
    assert reasons(report) == ["y: not fused with a: shapes are not proven equal"]


def test_the_epilogue_of_an_integer_product_is_not_taken():
    b = Builder()
    x = b.input("x", "u8", ("n", 16))
    acc = b.mat_mul_integer(x, np.ones((16, 8), np.int8), np.uint8(3), np.int8(0))
    y = b.dequantize_linear(acc, np.float32(0.01), np.int32(0))
    report = run(b.outputs(y=b.gelu(b.tanh(y))))
    assert ops(report.graph) == ["mat_mul_integer", "dequantize_linear", "fusion"]


def test_groups_stay_acyclic_together():
    """{a, d} and {b, c} would each be convex, and read from each other."""
    graph = parse("""
    graph @main(%x: f32[64,64]) -> (%d: f32[64,64], %c: f32[64,64]) {
      %a = tanh(%x) : f32[64,64]
      %b = exp(%x) : f32[64,64]
      %p = mat_mul(%a, %a) : f32[64,64]
      %q = mat_mul(%b, %b) : f32[64,64]
      %c = add(%b, %p) : f32[64,64]
      %d = add(%a, %q) : f32[64,64]
      return %d, %c
    }
    """)
    clusters = Clusters(graph)
    of = {n.name: clusters.of[n] for n in graph.nodes()}
    assert not clusters.closes_cycle([of["b"], of["c"]])
    clusters.join([of["b"], of["c"]])
    assert clusters.closes_cycle([of["a"], of["d"]])
    assert ops(run(graph).graph).count("fusion") <= 1


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_clusters_of_any_graph_stay_acyclic(data: st.DataObject):
    count = data.draw(st.integers(4, 14))
    b = Builder()
    values = [b.input("x", "f32", (4,))]
    for i in range(count):
        left, right = (data.draw(st.integers(0, i)) for _ in range(2))
        values.append(b.add(values[left], values[right]))
    graph = b.outputs(y=values[-1])
    clusters = Clusters(graph)
    nodes = [v.node for v in values]
    for _ in range(count):
        parts = {clusters.of[n] for n in data.draw(st.lists(st.sampled_from(nodes), min_size=2))}
        part = {n: min(parts) if c in parts else c for n, c in clusters.of.items()}
        joined = nx.DiGraph((part[m], part[n]) for m, n in graph.nx.edges() if part[m] != part[n])
        assert clusters.closes_cycle(parts) != nx.is_directed_acyclic_graph(joined)
        if not clusters.closes_cycle(parts):
            clusters.join(parts)
            assert all(clusters.level[c] > clusters.level[p]
                       for c in clusters.level for p in clusters.before(c))  # fmt: skip


def test_names_types_and_the_text_survive():
    graph = text("""
      %a = tanh(%x) : f32[n,64]
      %b = softmax(%a) : f32[n,64]
      %y = relu(%b) : f32[n,64]
      return %y
    """)
    after = run(graph).graph
    assert after["y"].op.name == "fusion" and print_graph(parse(print_graph(after))) == \
        print_graph(after)  # fmt: skip
    assert equal(run(after, "inline-fusions").graph, graph)


def test_export_takes_groups_apart():
    b = Builder()
    x = b.input("x", "f32", (4, 8))
    graph = b.outputs(y=b.softmax(b.tanh(x)))
    after = run(graph).graph
    assert ops(after) == ["fusion"]
    back = load_onnx(export_onnx(after))
    data = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    assert np.array_equal(interpret(back, {"x": data})["y"], interpret(graph, {"x": data})["y"])
    assert ops(after) == ["fusion"]


@pytest.mark.parametrize("name", ["O2", "int8"])
def test_presets_end_in_it(name: str):
    passes = [p.name for p in Pipeline.parse(PRESETS[name])]
    assert passes[0] == "inline-fusions" and passes[-1] == "fuse-auto"
    assert passes.count("fuse-auto") == 1


def test_drawn_graphs_stay_the_same_function():
    testing.check_pass("fuse-auto", families=["fusible", "dag"], examples=60)


def test_drawn_groups_come_apart_again():
    testing.check_pipeline("fuse-auto,inline-fusions", families=["fusible"], examples=30)


def test_a_long_chain_is_cut_into_groups():
    b = Builder()
    v: Value = b.input("x", "f32", (64, 64))
    for _ in range(3000):
        v = b.tanh(v)
    after = PassManager("fuse-auto", verify_each=False).run(b.outputs(y=v)).graph
    assert set(ops(after)) == {"fusion"} and len(ops(after)) == 75

"""Drawn branches and loops: text, export, passes and compiled programs."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import interpret, parse, print_graph, verify

from taut import testing


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_text_and_export_come_back(data: st.DataObject) -> None:
    graph = data.draw(testing.controls())
    verify(graph)
    assert print_graph(parse(print_graph(graph))) == print_graph(graph)
    feeds = data.draw(testing.feeds(graph))
    again = load_onnx(export_onnx(graph))
    for name, want in interpret(graph, feeds).items():
        assert testing.difference(want, interpret(again, feeds)[name]) is None


def test_passes_keep_branches_and_loops() -> None:
    testing.check_pipeline("O1,unroll,O1", families=["control"], examples=20)


def test_the_cpu_runs_branches_and_loops() -> None:
    testing.check_backend("cpu", families=["control"], examples=15, threads=1)

"""Every model of ONNX's suite that imports also exports, prints and parses to the same graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx.backend.test.loader import load_model_tests
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import Graph, TautError, UnsupportedError, difference, parse, print_graph


def models(kind: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind=kind)
    for case in cases:
        yield case.name, case.model or onnx.load(Path(str(case.model_dir)) / "model.onnx")


def imported(kind: str) -> Iterator[tuple[str, Graph]]:
    for name, model in models(kind):
        try:
            yield name, load_onnx(model)
        except TautError:
            continue  # test_onnx_suite says which must import


@pytest.mark.parametrize("kind, least", [
    ("node", 1500), ("simple", 5), ("pytorch-converted", 82), ("pytorch-operator", 35),
])  # fmt: skip
def test_export_and_text_keep_the_graph(kind, least):
    newest = onnx.defs.onnx_opset_version()
    wrong: list[str] = []
    count = 0
    for name, graph in imported(kind):
        count += 1
        if all(v.type.shape is not None for v in graph.outputs):
            again = load_onnx(export_onnx(graph, opset=newest))
            found = difference(graph, again, names=True)
            if found is not None:
                wrong.append(f"{name}: exported: {found}")
        else:  # whose rank a branch or loop decides
            with pytest.raises(UnsupportedError, match="rank"):
                export_onnx(graph, opset=newest)
        text = print_graph(graph)
        if print_graph(parse(text)) != text:
            wrong.append(f"{name}: its text does not come back")
    assert not wrong, "\n".join(wrong)
    assert count >= least

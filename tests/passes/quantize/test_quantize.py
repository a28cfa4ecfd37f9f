"""The passes on drawn graphs of every family, and what they promise by option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, Graph, ParseError, PassError, Value, interpret, print_graph
from taut.ir.interpret import Watch
from taut.passes import Context, PassManager

from taut import testing


@pytest.mark.parametrize("family", ["mlp", "cnn", "dag", "quantized"])
@pytest.mark.parametrize("pipeline", ["quantize", "quantize,lower-integer", "calibrate"])
def test_drawn_graphs(pipeline: str, family: str) -> None:
    if (pipeline, family) == ("quantize", "quantized"):
        with pytest.raises(testing.NeverApplied):  # what is quantized stays as it is
            testing.check_pipeline(pipeline, families=[family], examples=25)
        return
    testing.check_pipeline(pipeline, families=[family], examples=25)


def perceptron(seed: int = 0) -> Graph:
    r, b = np.random.default_rng(seed), Builder()
    x = b.input("x", "f32", (4, 32))
    for i, (n, m) in enumerate(((32, 64), (64, 64), (64, 10))):
        w = (r.normal(size=(n, m)) / np.sqrt(n)).astype(np.float32)
        x = b.gemm(x, w, r.normal(size=m).astype(np.float32), name=f"layer{i}")
        x = b.relu(x) if i < 2 else x
    return b.outputs(y=x)


def batches(seed: int, count: int = 8) -> list[np.ndarray]:
    r = np.random.default_rng(seed)
    return [r.normal(size=(4, 32)).astype(np.float32) for _ in range(count)]


def quality(graph: Graph) -> float:
    signal = noise = 0.0
    for x in batches(9):
        want, got = (interpret(g, {"x": x})["y"] for g in (perceptron(), graph))
        signal, noise = signal + float((want**2).sum()), noise + float(((want - got) ** 2).sum())
    return float(10 * np.log10(signal / noise))


@pytest.mark.parametrize("calibrate", ["min-max", "moving-average", "percentile", "mse"])
@pytest.mark.parametrize(
    "options",
    [
        "",
        "bits=6",
        "per_channel=false",
        "weight_scales=max",
        "weights=asymmetric",
        "scheme=symmetric",
        "bias_correction=expected",
        "bias_correction=none",
    ],
)
def test_options(calibrate: str, options: str) -> None:
    text = f"quantize{{calibrate={calibrate} {options}}},lower-integer"
    report = PassManager(text).run(perceptron(), Context(data=batches(1)))
    assert report.passes[0].counts["quantized"] == 3
    assert quality(report.graph) > (24 if "bits" in options else 28)


def test_entropy_clips_and_still_works() -> None:
    report = PassManager("quantize{calibrate=entropy}").run(perceptron(), Context(data=batches(1)))
    assert quality(report.graph) > 15


def test_calibrate_then_quantize_without_data() -> None:
    data = batches(1)
    calibrated = PassManager("calibrate").run(perceptron(), Context(data=data)).graph
    later = PassManager("quantize").run(calibrated, Context()).graph
    assert quality(later) > 28
    at_once = PassManager("quantize{bias_correction=none weight_scales=max}")
    one = print_graph(at_once.run(perceptron(), Context(data=data)).graph)
    two = print_graph(at_once.run(calibrated, Context()).graph)
    assert one == two


def test_a_runner_handed_in_is_used() -> None:
    calls = []

    def runner(graph: Graph, feeds: Mapping[str, Any], watch: Watch) -> None:
        calls.append(1)
        interpret(graph, feeds, watch=watch)

    context = Context(data=batches(1))
    context.runner = runner
    quick = PassManager("quantize").run(perceptron(), context).graph
    assert len(calls) == 8
    slow = PassManager("quantize").run(perceptron(), Context(data=batches(1))).graph
    assert print_graph(quick) == print_graph(slow)


def levels(options: str) -> list[tuple[int, int]]:
    """For each layer, how many steps what it reads and its weights span at the most."""
    text = f"quantize{{bias_correction=none calibrate=min-max {options}}}"
    graph = PassManager(text).run(perceptron(), Context(data=batches(1))).graph
    seen: dict[str, np.ndarray] = {}

    def watch(value: Value, array: np.ndarray) -> None:
        seen[value.node.name] = np.append(seen.get(value.node.name, []), array)

    for x in batches(2, 16):
        interpret(graph, {"x": 10 * x}, watch=watch)
    found = []
    for i in range(3):
        read = graph.operands(graph[f"layer{i}"])[:2]
        pairs = [graph.operand(v.node, 0) for v in read if v is not None]
        spans = [v.array if v.array is not None else seen[v.node.name] for v in pairs if v]
        found.append(tuple(int(s.astype(int).max()) - int(s.astype(int).min()) for s in spans))
    return found


def test_bits_of_weights_activations_and_edges() -> None:
    all_8 = levels("")
    assert all(x == 255 and 250 <= w <= 254 for x, w in all_8)
    assert levels("bits=4") == [(255, 14)] * 3
    assert [x for x, _ in levels("activation_bits=4")] == [15] * 3
    # What the last product reads is at the edge too; the middle one's weights are not.
    edges = levels("bits=4 activation_bits=3 edge_bits=8")
    assert [x for x, _ in edges] == [255, 7, 255] and edges[1][1] == 14
    assert edges[0][1] >= 250 <= edges[2][1]


def test_bias_correction_restores_means() -> None:
    def shift(options: str) -> float:
        text = f"quantize{{weight_scales=max bits=3 {options}}}"
        graph = PassManager(text).run(perceptron(), Context(data=batches(1, 32))).graph
        gaps = [
            interpret(graph, {"x": x})["y"] - interpret(perceptron(), {"x": x})["y"]
            for x in batches(9, 64)
        ]
        return float(np.abs(np.concatenate(gaps).mean(0)).mean())

    plain = shift("bias_correction=none")
    assert shift("bias_correction=expected") < 0.5 * plain
    assert shift("") < 0.5 * plain


def test_skipped_nodes_stay_float() -> None:
    report = PassManager("quantize{skip=layer1}").run(perceptron(), Context(data=batches(1)))
    assert report.passes[0].counts["quantized"] == 2
    assert any(r.node == "layer1" and "skip" in r.reason for r in report.passes[0].remarks)


@pytest.mark.parametrize("options", ["bits=9", "percentile=20", "samples=0"])
def test_bad_options(options: str) -> None:
    with pytest.raises(PassError):
        PassManager(f"quantize{{{options}}}")
    with pytest.raises(ParseError):
        PassManager("quantize{calibrate=best}")


@pytest.mark.parametrize("move, arguments", [
    ("reverse_sequence", (np.array([2, 1, 4, 3]),)),
    ("gather", (np.array([3, 1, 1, 0]),)),
    ("gather_elements", (np.arange(128).reshape(4, 32) % 4,)),
    ("gather_nd", (np.array([[1], [3], [0], [2]]),)),
    ("transpose", ()), ("compress", (np.array([True, False, True, True]),)),
])  # fmt: skip
def test_whatever_moves_data_stays_on_its_grid(move: str, arguments: tuple[Any, ...]) -> None:
    r, b = np.random.default_rng(0), Builder()
    w = (r.normal(size=(32, 32)) / 5).astype(np.float32)
    options: dict[str, Any] = {"axis": 0} if move in ("compress", "gather_elements") else {}
    options |= {"batch_axis": 1, "time_axis": 0} if move == "reverse_sequence" else {}
    if move == "reverse_sequence":
        arguments = (np.resize(arguments[0], 32),)
    x = b.gemm(b.input("x", "f32", (4, 32)), w, name="first")
    x = getattr(b, move)(x, *arguments, **options, name="moved")
    real = b.outputs(y=b.gemm(x, w if x.shape != (32, 4) else w[:4], name="second"))
    report = PassManager("quantize,lower-integer").run(real, Context(data=batches(1)))
    moved = [n for n in report.graph.nodes() if n.op.name == move]
    assert [n.type.dtype.value for n in moved] == ["u8"]
    feeds = {"x": batches(2)[0]}
    want, got = (interpret(g, feeds)["y"] for g in (real, report.graph))
    assert np.abs(want - got).max() < 0.05 * np.abs(want).max()

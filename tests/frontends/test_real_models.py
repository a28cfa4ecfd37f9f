"""Real models against onnxruntime: run by the reference, and exported again and run there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from taut.backends.base import compile
from taut.frontends.onnx import export_onnx, load_onnx

from taut.samples import SampleError, fetch, light_model

ort = pytest.importorskip("onnxruntime")
TOLERANCE = 1e-4


def session(source: str | bytes):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check(source: str | onnx.ModelProto, x: np.ndarray) -> None:
    graph = load_onnx(source)
    name = graph.inputs[0].name
    given = source if isinstance(source, str) else source.SerializeToString()
    wanted = session(given).run(None, {name: x})
    ours = list(compile(graph, "reference")(x).values())
    exported = session(export_onnx(graph).SerializeToString()).run(None, {name: x})
    for want, got, again in zip(wanted, ours, exported):
        largest = np.abs(want).max()
        assert np.abs(got - want).max() <= TOLERANCE * largest
        assert np.abs(again - want).max() <= TOLERANCE * largest


@pytest.mark.sample
@pytest.mark.parametrize("name, shape", [
    ("orientation", (2, 3, 48, 192)), ("ocr-det", (1, 3, 160, 224)), ("ocr-rec", (2, 3, 48, 160)),
    ("magika", (3, 2048)),
])  # fmt: skip
def test_a_trained_model(name, shape):
    try:
        path = fetch(name)
    except SampleError as error:
        pytest.skip(str(error))
    random = np.random.default_rng(0)
    if name == "magika":
        x = random.integers(0, 256, shape).astype(np.int32)
    else:
        x = random.normal(size=shape).astype(np.float32)
    check(str(path), x)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50"])
def test_a_light_model_with_random_weights(name):
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    check(light_model(name), x)

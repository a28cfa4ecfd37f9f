"""The adapter that ONNX's own tools call."""

from __future__ import annotations

import numpy as np
import onnx.backend.base
import pytest
from hostile import model, sound
from onnx import helper
from taut.frontends.onnx import backend
from taut.ir import CompileError, FeedError, UnsupportedError

X = np.linspace(-2, 2, 256, dtype=np.float32).reshape(1, 4, 8, 8)


def test_run_model_by_position_and_by_name():
    assert issubclass(backend.TautBackend, onnx.backend.base.Backend)
    rep = backend.prepare(sound(), "CPU", target="reference")
    (by_position,) = rep.run([X])
    (by_name,) = rep.run({"x": X})
    np.testing.assert_array_equal(by_position, by_name)
    (again,) = backend.run_model(sound(), [X], target="reference")
    np.testing.assert_array_equal(by_position, again)


def test_run_node():
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    (made,) = backend.TautBackend.run_node(node, [X, np.float32(0.5)], target="reference")
    np.testing.assert_array_equal(made, np.minimum(X, np.float32(0.5)))
    old = helper.make_node("Clip", ["x"], ["y"], max=0.5)
    (made,) = backend.TautBackend.run_node(old, [X], target="reference", opset_version=6)
    np.testing.assert_array_equal(made, np.minimum(X, np.float32(0.5)))


def test_devices_and_feeds_are_checked():
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA")
    with pytest.raises(UnsupportedError, match="use CPU"):
        backend.prepare(sound(), "CUDA")
    rep = backend.prepare(sound(), "CPU", target="reference")
    for wrong in ([], [X, X], [X.astype(np.float64)], [np.array(["a"])]):
        with pytest.raises(FeedError):
            rep.run(wrong)


def test_what_cpu_refuses_runs_by_the_reference_and_is_counted(monkeypatch):
    def refuse(graph, target="cpu", **options):
        if target == "cpu":
            raise CompileError("no such processor")
        return compile_program(graph, target, **options)

    compile_program = backend.compile
    monkeypatch.setattr(backend, "compile", refuse)
    monkeypatch.delenv(backend.TARGET, raising=False)
    before = backend.TautBackend.fallbacks.total()
    (made,) = backend.run_model(model([helper.make_node("Relu", ["x"], ["y"])]), [X])
    np.testing.assert_array_equal(made, np.maximum(X, 0))
    assert backend.TautBackend.fallbacks.total() == before + 1
    monkeypatch.setenv(backend.TARGET, "cpu")
    with pytest.raises(CompileError):
        backend.prepare(sound())

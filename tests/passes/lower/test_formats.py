"""Quantize/dequantize graphs as other tools write them: what becomes integers, and what is said of
the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, DType, Graph, Value, interpret, verify
from taut.ir.envelope import explained
from taut.passes import Context, PassManager

import taut

FLOAT = {"conv", "fused_conv", "gemm", "mat_mul", "fused_mat_mul", "conv_transpose",
         "fused_conv_transpose", "average_pool", "add", "mul", "batch_normalization"}  # fmt: skip
Array = np.ndarray


class Net:
    """Builds a graph with the pairs of one tool; draws weights and the input."""

    def __init__(self, kind: str = "u8", zero: int = 120, real: str = "f32") -> None:
        self.b, self.r = Builder(), np.random.default_rng(0)
        self.kind, self.zero, self.real = DType(kind).numpy, zero, DType(real).numpy

    def input(self, *shape: int) -> Value:
        self.shape = shape
        return self.b.input("x", DType.of(np.zeros((), self.real)).value, shape)

    def pair(self, x: Value, scale: float = 0.05) -> Value:
        s, z = np.asarray(scale, self.real), np.asarray(self.zero, self.kind)
        return self.b.dequantize_linear(self.b.quantize_linear(x, s, z), s, z)

    def weight(
        self, *shape: int, axis: int | None = 0, kind: str = "i8", zero: int = 0,
        scale: float = 0.01,
    ) -> Value:  # fmt: skip
        dtype = DType(kind)
        low, high = dtype.bounds
        w = self.r.integers(low, high + 1, shape).astype(dtype.numpy)
        n = () if axis is None else (shape[axis],)
        s = np.asarray(scale * self.r.uniform(0.5, 1, n), self.real)
        z = np.full(n, zero).astype(dtype.numpy)
        return self.b.dequantize_linear(w, s, z, axis=axis or 0)

    def finish(self, y: Value) -> tuple[Graph, dict[str, Array]]:
        graph = self.b.outputs(y=y)
        verify(graph)
        return graph, {"x": self.r.standard_normal(self.shape).astype(self.real)}


def conv_with(**weight: Any) -> Callable[[], Any]:
    def make() -> Any:
        n = Net()
        x = n.pair(n.input(1, 6, 9, 9))
        y = n.b.relu(n.b.conv(x, n.weight(8, 6, 3, 3, **weight), pads=(1, 1, 1, 1)))
        return n.finish(n.pair(y))

    return make


def grouped(zero: int) -> Any:
    n = Net()
    x = n.pair(n.input(1, 6, 9, 9))
    y = n.b.conv(x, n.weight(12, 2, 3, 3, kind="u8", zero=zero), group=3)
    y = n.b.conv(n.pair(y), n.weight(12, 1, 3, 3, kind="u8", zero=zero), group=12)
    return n.finish(n.pair(y))


def signed() -> Any:
    n = Net("i8", 0)
    x = n.pair(n.input(1, 6, 9, 9))
    y = n.pair(n.b.relu(n.b.conv(x, n.weight(8, 6, 3, 3))))
    y = n.b.max_pool(y, kernel_shape=(3, 3))
    return n.finish(n.pair(n.b.conv(y, n.weight(4, 8, 1, 1))))


def weights_only_and_inputs() -> Any:
    """TensorRT: no pair behind a layer, a float residual, a float bias."""
    n = Net("i8", 0)
    x = n.input(1, 6, 9, 9)
    y = n.b.conv(n.pair(x), n.weight(6, 6, 3, 3), np.ones(6, np.float32), pads=(1, 1, 1, 1))
    y = n.b.relu(n.b.add(y, x))
    return n.finish(n.b.conv(n.pair(y), n.weight(4, 6, 1, 1), np.ones(4, np.float32)))


def moved_weights() -> Any:
    """Behind transpose and reshape, with scales along an axis that moves."""
    n = Net()
    x = n.pair(n.input(5, 12))
    w = n.b.transpose(n.weight(7, 12, axis=0), perm=(1, 0))
    y = n.pair(n.b.mat_mul(x, w))
    u = n.b.reshape(n.weight(1, 7, 6, axis=2), np.array([7, 6]))
    return n.finish(n.pair(n.b.mat_mul(y, u)))


def moved_values() -> Any:
    """Data movement, relu and maxima between a dequantization and a layer."""
    n = Net()
    x = n.pair(n.input(1, 4, 8, 8))
    y = n.b.relu(n.b.concat(x, x, axis=1))
    y = n.b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2))
    y = n.pair(n.b.conv(y, n.weight(6, 8, 3, 3)))
    y = n.b.reshape(n.b.transpose(y, perm=(0, 2, 3, 1)), np.array([1, 24]))
    return n.finish(n.pair(n.b.mat_mul(y, n.weight(24, 5, axis=1))))


def narrow() -> Any:
    """NNCF: a clip holds values and weights to fewer integers than their type has."""
    n = Net("u8", 0)
    x = n.b.clip(n.input(1, 4, 8, 8), np.float32(0), np.float32(127 * 0.05))
    y = n.b.conv(n.pair(x), n.weight(4, 4, 3, 3, kind="i4"))
    y = n.b.clip(y, np.float32(0), np.float32(100 * 0.05))
    return n.finish(n.pair(n.b.conv(n.pair(y), n.weight(4, 4, 3, 3))))


def normalized() -> Any:
    """A batch normalization that training left behind its convolution; a factor is negative."""
    n = Net()
    x = n.pair(n.input(1, 4, 8, 8))
    y = n.b.conv(x, n.weight(6, 4, 3, 3), np.ones(6, np.float32))
    gamma = np.array([1, -2, 0.5, 1, -1, 3], np.float32)
    rest = n.r.uniform(0.5, 2, (3, 6)).astype(np.float32)
    y = n.b.relu(n.b.batch_normalization(y, gamma, *rest))
    return n.finish(n.pair(y))


def with_constants() -> Any:
    """Additions of quantized and float constants, a product with one."""
    n = Net()
    x = n.pair(n.input(2, 5, 12))
    y = n.pair(n.b.add(n.pair(n.b.mat_mul(x, n.weight(12, 12, axis=1))),
                       n.weight(12, axis=None, scale=0.03)))  # fmt: skip
    y = n.pair(n.b.add(y, n.r.standard_normal((5, 12)).astype(np.float32)))
    y = n.pair(n.b.mul(y, n.weight(5, 12, axis=None)))
    return n.finish(n.pair(n.b.mul(y, n.weight(axis=None, scale=0.3))))


def attention() -> Any:
    """Products of two computed tensors."""
    n = Net()
    x = n.pair(n.input(2, 6, 8))
    k = n.pair(n.b.transpose(x, perm=(0, 2, 1)))
    p = n.b.softmax(n.pair(n.b.mat_mul(x, k)))
    return n.finish(n.pair(n.b.mat_mul(n.pair(p, 1 / 256), x)))


def transposed(kernel: int, stride: int, group: int = 1, **attributes: Any) -> Callable[[], Any]:
    def make() -> Any:
        n = Net()
        x = n.pair(n.input(1, 4, 5, 6))
        w = n.weight(4, 6 // group, kernel, kernel, axis=1, kind="u8", zero=100, scale=0.003)
        bias = n.r.standard_normal(6).astype(np.float32)
        y = n.b.conv_transpose(x, w, bias, strides=(stride,) * 2, group=group, **attributes)
        return n.finish(n.pair(n.b.relu(y)))

    return make


def open_batch() -> Any:
    n = Net()
    x = n.pair(n.b.input("x", "f32", ("batch", 4, 5, 6)))
    n.shape = (2, 4, 5, 6)
    w = n.weight(4, 6, 4, 4, axis=1, scale=0.003)
    y = n.b.conv_transpose(x, w, strides=(2, 2), pads=(1,) * 4)
    return n.finish(n.pair(n.b.global_average_pool(n.pair(y))))


def half() -> Any:
    n = Net(real="f16")
    x = n.pair(n.input(1, 4, 8, 8))
    y = n.pair(n.b.relu(n.b.conv(x, n.weight(6, 4, 3, 3, scale=0.003))))
    y = n.b.cast(n.b.cast(y, to=DType.f32), to=DType.f16)
    return n.finish(n.b.conv(y, n.weight(3, 6, 1, 1)))


WHOLE: dict[str, Callable[[], Any]] = {
    "per tensor": conv_with(axis=None), "per channel": conv_with(),
    "asymmetric s8": conv_with(zero=9), "u8": conv_with(kind="u8", zero=128),
    "asymmetric u8": conv_with(kind="u8", zero=77, axis=None), "i4": conv_with(kind="i4"),
    "u4": conv_with(kind="u4", zero=7), "u8 without zero": conv_with(kind="u8"),
    "groups": lambda: grouped(9), "signed": signed, "inputs and weights": weights_only_and_inputs,
    "moved weights": moved_weights, "moved values": moved_values, "narrow": narrow,
    "batch normalization": normalized, "constants": with_constants, "attention": attention,
    "transposed 2/2": transposed(2, 2), "transposed 4/2": transposed(4, 2, pads=(1, 1, 1, 1)),
    "transposed 3/2": transposed(3, 2, group=2, pads=(1, 1, 1, 1), output_padding=(1, 1)),
    "transposed 3/1": transposed(3, 1, pads=(2, 1, 0, 1)), "open batch": open_batch,
    "f16": half,
}  # fmt: skip


COMPILED = ("asymmetric u8", "groups", "transposed 4/2", "attention")
"""Those whose nodes might lack a kernel."""


@pytest.mark.parametrize("name", WHOLE)
def test_becomes_integers(name: str) -> None:
    graph, feeds = WHOLE[name]()
    report = PassManager("O2").run(graph, Context())
    left = [n for n in report.graph.nodes() if n.op.name in FLOAT
            and any(r.type.dtype in (DType.f32, DType.f16) for r in n.results)]  # fmt: skip
    kept = ("add", "mul") if name in ("inputs and weights", "f16") else ()
    assert [n.op.name for n in left if n.op.name not in kept] == []
    got = interpret(report.graph, feeds)
    if name == "f16":
        want = interpret(graph, feeds)["y"].astype(float)
        assert np.abs(got["y"] - want).max() < 0.02 * np.abs(want).max()
    else:
        assert explained(graph, feeds, got, 1e-5, 1e-6, steps=1.0) == ["y"]
    if name not in COMPILED:
        return
    program: Any = taut.compile(report.graph, threads=1)
    np.testing.assert_allclose(program(**feeds)["y"], got["y"], rtol=1e-5, atol=1e-5)
    fallbacks = [n for n in program.fallbacks if "integer" in n or "accumulator" in n]
    assert fallbacks == []


def blocks(n: Net, x: Value) -> Value:
    w = n.r.integers(-8, 8, (8, 4)).astype(DType.i4.numpy)
    scale = n.r.uniform(0.01, 0.02, (2, 4)).astype(np.float32)
    return n.b.mat_mul(x, n.b.dequantize_linear(w, scale, axis=0, block_size=4))


REST: dict[str, tuple[Callable[[Net, Value], Value], str]] = {
    "blocks": (lambda n, x: blocks(n, n.pair(x)), "scales for blocks of 4"),
    "weights only": (lambda n, x: n.b.mat_mul(x, n.weight(8, 4, axis=1)),
                     "only its weights are quantized"),
    "16 bits": (lambda n, x: n.b.mat_mul(n.pair(x), n.weight(8, 4, axis=1)), "it reads u16"),
    "inputs' scales": (lambda n, x: n.b.mat_mul(n.pair(x), n.weight(8, 4, axis=0)),
                       "scales along axis 0"),
    "float weight": (lambda n, x: n.b.mat_mul(n.pair(x), np.ones((8, 4), np.float32)),
                     "its weight is a float constant"),
    "softmax": (lambda n, x: n.b.softmax(n.pair(x)), "softmax of these operands"),
    "no pairs": (lambda n, x: n.b.relu(x), "nothing to lower: the graph has no quantize_linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", REST)
def test_says_why_not(name: str) -> None:
    make, reason = REST[name]
    n = Net("u16" if name == "16 bits" else "u8")
    graph, _ = n.finish(make(n, n.input(3, 8)))
    record = PassManager("lower-integer").run(graph, Context()).passes[0]
    assert any(reason in r.reason for r in record.remarks), record.remarks
    assert not any(n.op.name.endswith("_integer") for n in graph.nodes())


def test_pairs_inside_fusions_are_told_of() -> None:
    graph, _ = conv_with()()
    fused = PassManager("fuse-auto").run(graph).graph
    remarks = PassManager("lower-integer").run(fused).passes[0].remarks
    assert any("run inline-fusions before" in r.reason for r in remarks)
    inlined = PassManager("inline-fusions,lower-integer").run(fused).graph
    assert any(n.op.name == "conv_integer" for n in inlined.nodes())


@pytest.mark.parametrize("order", [
    "O2,O2", "O2,lower-integer", "lower-integer,O2", "int8,O2", "O2,int8", "int8,int8",
    "lower-integer,lower-integer", "O1,O2", "int8-dynamic",
])  # fmt: skip
def test_orders_of_pipelines(order: str) -> None:
    """Whatever comes first, the layers are integers once and give the same."""
    graph, feeds = signed()
    data = [feeds]
    want = interpret(PassManager("O2").run(graph, Context(data=data)).graph, feeds)["y"]
    made = PassManager(order).run(graph, Context(data=data)).graph
    verify(made)
    assert sum(n.op.name == "conv_integer" for n in made.nodes()) == 2
    np.testing.assert_array_equal(interpret(made, feeds)["y"], want)


def test_a_file_of_onnxruntime(tmp_path: Any) -> None:
    """Numbers of its own quantizer's file, run without its optimizations: equal up to a step of the
    result's grid, and mostly equal.
    """
    runtime = pytest.importorskip("onnxruntime")
    tools = pytest.importorskip("onnxruntime.quantization")
    n = Net()
    x = n.input(1, 3, 12, 12)
    y = n.b.relu(n.b.conv(x, n.r.standard_normal((8, 3, 3, 3)).astype(np.float32)))
    z = n.b.conv(y, n.r.standard_normal((8, 8, 1, 1)).astype(np.float32) / 3)
    y = n.b.max_pool(n.b.add(z, y), kernel_shape=(2, 2), strides=(2, 2))  # means lie on ties
    w = n.r.standard_normal((200, 10)).astype(np.float32) / 9
    graph, feeds = n.finish(n.b.gemm(n.b.flatten(y), w, np.ones(10, np.float32)))
    taut.save(graph, tmp_path / "float.onnx")
    samples = [{"x": n.r.standard_normal(n.shape).astype(np.float32)} for _ in range(4)]

    class Samples(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> Any:
            return next(self.rest, None)

    u8, s8 = tools.QuantType.QUInt8, tools.QuantType.QInt8
    for kind, per_channel in ((u8, False), (s8, True)):
        path = tmp_path / f"{kind}.onnx"
        tools.quantize_static(
            tmp_path / "float.onnx", path, Samples(), activation_type=kind, weight_type=kind,
            per_channel=per_channel,
        )  # fmt: skip
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        want = session.run(None, feeds)[0]
        made = taut.optimize(taut.load(path), "O2")
        layers = [m.op.name for m in made.nodes() if m.op.name in FLOAT and m.type.dtype.is_float]
        assert layers == []
        got = interpret(made, feeds)["y"]
        last = [m for m in made.nodes() if m.op.name == "dequantize_linear"][-1]
        step = made.operand(last, 1)
        assert step is not None and step.array is not None
        assert np.abs(got - want).max() <= 1.01 * step.array and (got == want).mean() >= 0.7


@pytest.mark.parametrize("pipeline", [
    "quantize-dynamic", "quantize-attention", "finalize-quantization", "fuse-attention",
    "fuse-lookup", "fuse-scaled", "fuse-matmul", "fuse-conv", "lower-integer", "quantize",
])  # fmt: skip
def test_who_does_nothing_says_so(pipeline: str) -> None:
    b = Builder()
    graph = b.outputs(y=b.relu(b.input("x", "f32", (2, 3))))
    data = Context(data=[np.ones((2, 3), np.float32)])
    record = PassManager(pipeline).run(graph, data).passes[0]
    assert not record.changed and {r.kind for r in record.remarks} == {"note"}


@pytest.mark.parametrize(("before", "reason"), [
    ("O1", "it is quantized already"), ("O2", "it is on integers already"),
])  # fmt: skip
def test_what_is_quantized_stays_as_it_is(before: str, reason: str) -> None:
    graph, feeds = signed()
    data = Context(data=[feeds])
    report = PassManager(f"{before},quantize").run(graph, data)
    assert any(reason in r.reason for _, r in report.remarks("missed"))
    want = interpret(PassManager(before).run(graph).graph, feeds)["y"]
    np.testing.assert_array_equal(interpret(report.graph, feeds)["y"], want)


@pytest.mark.parametrize("options", ["", "{bits=4 activation_bits=4}", "{weights=asymmetric}",
                                     "{scheme=power-of-two}"])  # fmt: skip
def test_own_files_give_the_same_integers(options: str, tmp_path: Any) -> None:
    """Quantized here, exported as ONNX, read again and lowered: bit for bit what it was."""
    n = Net()
    x = n.input(1, 3, 10, 10)
    y = n.b.relu(n.b.conv(x, n.r.standard_normal((8, 3, 3, 3)).astype(np.float32)))
    y = n.b.hard_swish(n.b.conv(y, n.r.standard_normal((8, 1, 3, 3)).astype(np.float32), group=8))
    y = n.b.add(n.b.conv(y, n.r.standard_normal((8, 8, 1, 1)).astype(np.float32)), y)
    y = n.b.average_pool(y, kernel_shape=(2, 2), strides=(2, 2))
    w = n.r.standard_normal((72, 5)).astype(np.float32)
    graph, feeds = n.finish(n.b.gemm(n.b.flatten(y), w))
    made = PassManager(f"O1,quantize{options}").run(graph, Context(data=[feeds])).graph
    taut.save(made, tmp_path / "qdq.onnx")
    want = interpret(PassManager("lower-integer").run(made).graph, feeds)["y"]
    again = taut.load(tmp_path / "qdq.onnx")
    for pipeline in ("lower-integer", "O2"):
        lowered = PassManager(pipeline).run(again).graph
        assert not any(m.op.name == "conv" for m in lowered.nodes())
        np.testing.assert_array_equal(interpret(lowered, feeds)["y"], want)

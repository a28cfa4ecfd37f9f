"""Generated QDQ and QLinear models against onnxruntime without its optimizer.

Both sum in float, in other orders, so a value may fall to the other side of a rounding tie: single
steps of the output's scale are allowed on few elements, and no more.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hostile import model
from onnx import TensorProto, helper
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import assert_equal, interpret

ort = pytest.importorskip("onnxruntime")
make, info = helper.make_node, helper.make_tensor_value_info
SIGNED = (np.int8, np.uint8)


class Net:
    """Grows a QDQ model node by node; `at` is the current (dequantized) value."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels, self.step, self.at = 4, np.float32(1), "x"
        self.pair("x")

    def constant(self, value: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def node(self, op: str, *operands: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(make(op, list(operands), [name], **attributes))
        return name

    def pair(self, value: str) -> str:
        """quantize and dequantize with a scale and a zero point of either type."""
        dtype = SIGNED[self.random.integers(2)]
        middle = 128 if dtype is np.uint8 else 0
        self.step = np.float32(self.random.uniform(0.01, 0.05))
        zero = dtype(np.clip(middle + self.random.integers(-20, 20), *_bounds(dtype)))
        parameters = self.constant(self.step), self.constant(np.asarray(zero))
        self.at = self.node(
            "DequantizeLinear", self.node("QuantizeLinear", value, *parameters), *parameters
        )
        return self.at

    def weight(self, *shape: int, axis: int) -> tuple[str, np.ndarray]:
        """An int8 weight dequantized per channel, and its scales."""
        values = self.random.integers(-127, 128, shape).astype(np.int8)
        spread = np.sqrt(np.prod(shape) / shape[axis])
        scales = (self.random.uniform(0.5, 2, shape[axis]) / 73 / spread).astype(np.float32)
        zeros = self.constant(np.zeros(shape[axis], np.int8))
        name = self.node("DequantizeLinear", self.constant(values), self.constant(scales), zeros,
                         axis=axis)  # fmt: skip
        return name, scales

    def conv(self) -> None:
        group = int(self.random.choice([1, self.channels, 2]))
        out = self.channels if group > 1 else int(self.random.integers(3, 9)) * 2
        kernel = int(self.random.choice([1, 3]))
        w, scales = self.weight(out, self.channels // group, kernel, kernel, axis=0)
        bias_scale = (self.step * scales).astype(np.float32)
        bias = self.constant(self.random.integers(-2000, 2000, out).astype(np.int32))
        b = self.node("DequantizeLinear", bias, self.constant(bias_scale), axis=0)
        stride = int(self.random.integers(1, 3)) if kernel == 3 else 1
        y = self.node("Conv", self.at, w, b, group=group, strides=[stride] * 2,
                      pads=[kernel // 2] * 4)  # fmt: skip
        self.channels = out
        self.pair(self.node("Relu", y) if self.random.random() < 0.5 else y)

    def residual(self) -> None:
        start = self.at
        w, _ = self.weight(self.channels, self.channels, 1, 1, axis=0)
        self.pair(self.node("Conv", start, w))
        self.pair(self.node("Add", self.at, start))

    def pool(self) -> None:
        op = str(self.random.choice(["MaxPool", "AveragePool"]))
        y = self.node(op, self.at, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
        self.pair(y)

    def curve(self) -> None:
        op = str(self.random.choice(["Sigmoid", "HardSwish", "Tanh", "Clip"]))
        self.pair(self.node(op, self.at))

    def finish(self, head: bool) -> onnx.ModelProto:
        if head:
            flat = self.node("Flatten", self.node("GlobalAveragePool", self.at))
            self.pair(flat)
            w, _ = self.weight(self.channels, 5, axis=1)
            self.pair(self.node("MatMul", self.at, w))
        self.nodes[-1].output[0] = "y"
        return model(self.nodes, self.constants, inputs=[info("x", TensorProto.FLOAT,
                                                              ["n", 4, 9, 7])])  # fmt: skip


def _bounds(dtype: type) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def run_ort(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("seed", range(40))
def test_a_qdq_network(seed):
    net = Net(seed)
    for _ in range(int(net.random.integers(1, 4))):
        getattr(net, str(net.random.choice(["conv", "residual", "pool", "curve"])))()
    proto = net.finish(head=seed % 2 == 0)
    graph = load_onnx(proto)
    x = net.random.normal(size=(2, 4, 9, 7)).astype(np.float32)
    steps = (interpret(graph, {"x": x})["y"] - run_ort(proto, x)) / net.step
    assert np.abs(steps).max() < 2.1
    assert (np.abs(steps) > 0.5).mean() <= 0.02
    exported = export_onnx(graph)
    assert_equal(load_onnx(exported), graph, names=True)
    np.testing.assert_array_equal(run_ort(exported, x), run_ort(proto, x))


@pytest.mark.parametrize("seed", range(20))
def test_a_qlinear_convolution(seed):
    random = np.random.default_rng(seed)
    xt = yt = SIGNED[seed % 2]  # onnxruntime has no kernel for mixed ones
    wt = np.uint8 if xt is np.uint8 and seed % 4 == 1 else np.int8
    per_channel = wt is np.int8 and seed % 3 > 0
    w = random.integers(*_bounds(wt), (6, 2, 3, 3)).astype(wt)
    ws = random.uniform(0.001, 0.01, 6 if per_channel else ()).astype(np.float32)
    wz = np.zeros(6, wt) if per_channel else np.asarray(wt(0 if wt is np.int8 else 120))
    xz, yz = xt(random.integers(*_bounds(xt))), yt(random.integers(*_bounds(yt)))
    xs, ys = np.float32(0.02), np.float32(0.05)
    constants = {"xs": xs, "xz": xz, "w": w, "ws": ws, "wz": wz, "ys": ys, "yz": yz,
                 "b": random.integers(-3000, 3000, 6).astype(np.int32)}  # fmt: skip
    nodes = [make("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
             make("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["c"],
                  group=2, pads=[1, 0, 1, 2], strides=[1, 2]),
             make("DequantizeLinear", ["c", "ys", "yz"], ["y"])]  # fmt: skip
    proto = model(nodes, constants)
    x = random.normal(size=(1, 4, 8, 8)).astype(np.float32)
    steps = (interpret(load_onnx(proto), {"x": x})["y"] - run_ort(proto, x)) / ys
    assert np.abs(steps).max() < 1.1
    assert (np.abs(steps) > 0.5).mean() <= 0.01

from __future__ import annotations

import numpy as np
import onnx
import pytest
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import (
    Builder,
    Graph,
    LimitError,
    UnsupportedError,
    assert_equal,
    interpret,
)
from taut.ir.ops.structure import Constant

ort = pytest.importorskip("onnxruntime")


def run_ort(model: onnx.ModelProto | str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cnn() -> Graph:
    b = Builder()
    x = b.input("image", "f32", ("batch", 3, 8, 8))
    y = b.conv(x, random(4, 3, 3, 3), random(4), pads=(1, 1, 1, 1), strides=(2, 2), name="conv1")
    y = b.batch_normalization(y, *(np.abs(random(4, seed=k)) for k in range(4)), name="norm")
    y = b.max_pool(b.relu(y), kernel_shape=(2, 2), name="pool")
    y = b.global_average_pool(b.leaky_relu(y, alpha=0.1))
    graph = b.outputs(features=y)
    graph.metadata["character"] = "a\nb"
    return graph


def replaced(graph: Graph) -> Graph:
    """The same network with other weights."""
    for node in graph.nodes():
        if node.op.name == "constant" and node.op.value.size > 16:
            other = graph.add(Constant(node.op.value + 1), before=node)
            graph.replace_all_uses(node, other)
    return graph


def test_a_float_graph_runs_in_onnxruntime_with_equal_outputs():
    graph = cnn()
    model = export_onnx(graph)
    x = random(2, 3, 8, 8, seed=9)
    ours = interpret(graph, {"image": x})["features"]
    theirs = run_ort(model, {"image": x})["features"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_names_metadata_and_symbols_are_kept():
    model = export_onnx(cnn())
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["features"]
    assert {"conv1", "norm", "pool"} <= {n.output[0] for n in model.graph.node}
    assert {p.key: p.value for p in model.metadata_props} == {"character": "a\nb"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.ir_version <= 10  # what onnxruntime 1.20 reads


def test_exporting_and_importing_gives_the_same_graph():
    graph = cnn()
    again = load_onnx(export_onnx(graph))
    assert_equal(graph, again)
    assert again.metadata == graph.metadata


@pytest.mark.parametrize("activation, params", [
    ("", ()), ("relu", ()), ("leaky_relu", (0.3,)), ("clip", (0.0, 0.5)),
    ("hard_sigmoid", (0.25, 0.4)),
])  # fmt: skip
@pytest.mark.parametrize("residual", [False, True])
def test_a_fused_convolution_is_taken_apart(activation, params, residual):
    b = Builder()
    x = b.input("x", "f32", (1, 3, 5, 5))
    rest = [random(1, 4, 3, 3, seed=5)] if residual else []
    y = b.fused_conv(x, random(4, 3, 3, 3), random(4), *rest,
                     activation=activation, params=params, name="fused")  # fmt: skip
    graph = b.outputs(y=y)
    value = random(1, 3, 5, 5, seed=2)
    model = export_onnx(graph)
    assert {n.op_type for n in model.graph.node} >= {"Conv"}
    made = run_ort(model, {"x": value})["y"]
    np.testing.assert_allclose(made, interpret(graph, {"x": value})["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op, weight", [
    ("fused_conv", (4, 3, 3, 3)), ("fused_conv_transpose", (3, 4, 3, 3)),
])  # fmt: skip
@pytest.mark.parametrize("activation, last", [("prelu", False), ("prelu", True), ("sigmoid", True)])
def test_endings_keep_their_order(op, weight, activation, last):
    b = Builder()
    x = b.input("x", "f32", (1, 3, 5, 5))
    slope = random(4) if activation == "prelu" else None
    y = getattr(b, op)(x, random(*weight), None, random(1, 4, *((3, 3) if op == "fused_conv" else
                                                                (7, 7)), seed=5), slope,
                       activation=activation, residual_last=last)  # fmt: skip
    graph = b.outputs(y=y)
    value = random(1, 3, 5, 5, seed=2)
    made = run_ort(export_onnx(graph), {"x": value})["y"]
    np.testing.assert_allclose(made, interpret(graph, {"x": value})["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["conv_transpose", "fused_conv_transpose"])
def test_transposed_convolutions_with_gaps_keep_their_size(op, mode):
    b = Builder()
    x = b.input("x", "f32", (1, 3, 4, 5))
    more = {"activation": "relu"} if op.startswith("fused") else {}
    y = getattr(b, op)(x, random(3, 4, 2, 1), strides=(3, 4), auto_pad=mode, **more)
    assert y.type.static_shape[2:] == (12, 20)
    graph = b.outputs(y=y)
    value = random(1, 3, 4, 5, seed=2)
    made = run_ort(export_onnx(graph), {"x": value})["y"]
    np.testing.assert_allclose(made, interpret(graph, {"x": value})["y"], rtol=1e-5, atol=1e-6)


def test_outputs_that_are_inputs_constants_or_given_twice():
    b = Builder()
    x = b.input("x", "f32", (2,))
    y = b.relu(x, name="r")
    k = b.constant(np.ones(2, np.float32), "k")
    graph = b.outputs(x=x, copy=x, one=y, two=y, c=k, d=k)
    value = np.array([-1, 2], np.float32)
    made = run_ort(export_onnx(graph), {"x": value})
    for name, want in interpret(graph, {"x": value}).items():
        np.testing.assert_array_equal(made[name], want)


def test_names_that_clash_with_outputs_are_changed_inside_only():
    b = Builder()
    x = b.input("x", "f32", (2,))
    inner = b.relu(x, name="y")
    graph = b.outputs(y=b.neg(inner, name="last"))
    made = run_ort(export_onnx(graph), {"x": np.array([-1, 2], np.float32)})
    np.testing.assert_array_equal(made["y"], [0, -2])


def test_an_output_named_like_another_input_is_refused():
    b = Builder()
    x = b.input("x", "f32", (2,))
    with pytest.raises(UnsupportedError, match="rename the output"):
        export_onnx(b.outputs(x=b.relu(x)))


@pytest.mark.parametrize("dtype, opset", [
    ("i4", 21), ("u4", 21), ("i8", 21), ("bf16", 21), ("f16", 21), ("bool", 21), ("u64", 21),
    ("i2", 25), ("u2", 25),
])  # fmt: skip
def test_constants_of_every_type_survive(dtype, opset):
    from taut.ir import DType

    b = Builder()
    b.input("x", "f32", (1,))
    kind = DType(dtype)
    numbers = np.arange(-3, 4) if kind.is_signed or kind.is_float else np.arange(7) % 2
    values = numbers.clip(*kind.bounds) if kind.is_integer else numbers
    k = b.constant(values.astype(np.int8).astype(kind.numpy), "k")
    graph = b.outputs(k=k, c=b.identity(k, name="c"))
    assert_equal(load_onnx(export_onnx(graph, opset=opset)), graph, names=True)
    if opset > 21:
        with pytest.raises(UnsupportedError, match="opset 25"):
            export_onnx(graph, opset=21)


def test_large_constants_go_into_a_file_beside_the_model(tmp_path):
    graph = cnn()
    path = tmp_path / "model.onnx"
    export_onnx(graph, path, external_bytes=100)
    [data] = tmp_path.glob("model.onnx.*.data")
    assert set(tmp_path.iterdir()) == {path, data}
    assert_equal(load_onnx(path), graph)
    x = random(1, 3, 8, 8)
    made = run_ort(str(path), {"image": x})["features"]
    np.testing.assert_allclose(made, interpret(graph, {"image": x})["features"], rtol=1e-5)
    export_onnx(replaced(graph), path, external_bytes=100)
    assert not data.exists() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(LimitError, match="give a path"):
        export_onnx(graph, external_bytes=100)


def test_an_export_that_fails_leaves_the_model_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    export_onnx(cnn(), path, external_bytes=100)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}

    def refuse(model):
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(UnsupportedError, match="refuses"):
        export_onnx(replaced(cnn()), path, external_bytes=100)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_writing_to_a_path_gives_the_model_returned(tmp_path):
    model = export_onnx(cnn(), tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx") == model


def test_ops_that_the_opset_lacks_name_one_that_has_them():
    b = Builder()
    x = b.input("x", "f32", (2,))
    graph = b.outputs(y=b.swish(x))
    with pytest.raises(UnsupportedError, match="export with opset 24"):
        export_onnx(graph)
    export_onnx(graph, opset=24)
    with pytest.raises(UnsupportedError, match="opset 7"):
        export_onnx(graph, opset=7)


def test_a_qdq_graph_runs_in_onnxruntime_with_equal_outputs():
    b = Builder()
    x = b.input("x", "f32", (1, 3, 6, 6))
    scale, zero = np.float32(0.03), np.uint8(120)
    q = b.dequantize_linear(b.quantize_linear(x, scale, zero), scale, zero)
    w = np.random.default_rng(1).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scales = np.array([0.01, 0.02, 0.005, 0.03], np.float32)
    dw = b.dequantize_linear(w, scales, np.zeros(4, np.int8), axis=0)
    y = b.conv(q, dw, pads=(1, 1, 1, 1))
    s2, z2 = np.float32(0.1), np.int8(-3)
    graph = b.outputs(y=b.dequantize_linear(b.quantize_linear(y, s2, z2), s2, z2))
    value = random(1, 3, 6, 6)
    made = run_ort(export_onnx(graph), {"x": value})["y"]
    ours = interpret(graph, {"x": value})["y"]
    # A sum in another order may fall on the other side of a tie: one step, rarely.
    assert np.abs(made - ours).max() <= 0.1001
    assert (made != ours).mean() < 0.01
    assert_equal(graph, load_onnx(export_onnx(graph)))


def test_integer_products_export_and_requantize_is_refused_with_a_hint():
    b = Builder()
    x = b.input("x", "u8", (1, 2, 5, 5))
    w = np.random.default_rng(1).integers(-127, 128, (3, 2, 3, 3)).astype(np.int8)
    bias = np.array([5, -7, 100000], np.int32)
    acc = b.conv_integer(x, w, np.uint8(128), np.int8(0), bias, pads=(1, 1, 1, 1), name="conv")
    value = np.random.default_rng(2).integers(0, 256, (1, 2, 5, 5)).astype(np.uint8)
    graph = b.outputs(y=acc)
    made = run_ort(export_onnx(graph), {"x": value})["y"]
    np.testing.assert_array_equal(made, interpret(graph, {"x": value})["y"])
    b.outputs(y=b.requantize(acc, np.int32(77), shift=14, name="out"))
    with pytest.raises(UnsupportedError, match="before lower-integer") as refused:
        export_onnx(graph)
    assert refused.value.node == "out"

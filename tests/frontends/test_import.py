"""What the importer makes of sound models, old and new, and what it says of those it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hostile import model, sound, weights
from onnx import TensorProto, helper, numpy_helper
from taut.frontends.onnx import UnsupportedOps, export_onnx, load_onnx, unsupported_ops
from taut.ir import (
    DEFAULT_LIMITS,
    DType,
    Graph,
    LimitError,
    Limits,
    ModelError,
    UnsupportedError,
    VerifyError,
    interpret,
)

import taut

ort = pytest.importorskip("onnxruntime")
make, info = helper.make_node, helper.make_tensor_value_info
F32 = TensorProto.FLOAT


def value(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compare(proto: onnx.ModelProto, **feeds: np.ndarray) -> Graph:
    """Import, run by the reference, and hold every output to onnxruntime's."""
    graph = load_onnx(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    theirs = session.run(None, feeds)
    ours = interpret(graph, feeds)
    assert list(ours) == [o.name for o in session.get_outputs()]
    for want, got in zip(theirs, ours.values()):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
        assert got.dtype == want.dtype
    return graph


def compare_op(op: str, opset: int, *more: np.ndarray, x: np.ndarray, **attributes) -> Graph:
    """One node of an old opset against onnxruntime; `more` are its other operands, constant."""
    names = {f"k{i}": v for i, v in enumerate(more)}
    inputs = [info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    proto = model([make(op, ["x", *names], ["y"], **attributes)], names, opset, inputs=inputs)
    proto.graph.output[0].ClearField("type")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    proto.graph.output[0].CopyFrom(inferred.graph.output[0])
    return compare(proto, x=x)


# ---- names and types -----------------------------------------------------------------------------


def test_names_types_and_metadata():
    graph = load_onnx(sound())
    assert {"x", "w", "c", "r", "p", "k", "y"} <= {n.name for n in graph.nx}
    assert graph["c"].op.name == "conv" and str(graph["c"].type) == "f32[1,4,4,4]"
    assert graph.metadata == {"key": "value"}
    assert list(graph.signature.outputs) == ["y"]


def test_named_dimensions_become_symbols_and_others_unknown():
    relu = [make("Relu", ["x"], ["y"])]
    dims = ["batch size", "batch size", "batch_size", None, -1, "?", "?", 3]
    graph = load_onnx(model(relu, inputs=[info("x", F32, dims)]))
    shape = graph["x"].type.shape
    assert shape is not None
    assert shape[0] == shape[1] == "batch_size" and shape[2] not in ("batch_size", None)
    assert shape[3:] == (None, None, None, None, 3)


def test_an_input_with_an_initializer_is_a_constant():
    proto = model([make("Add", ["x", "w"], ["y"])], {"w": weights(1)})
    proto.graph.input.append(info("w", F32, [1]))
    assert [n.name for n in load_onnx(proto).inputs] == ["x"]


def test_unused_initializers_are_not_even_read():
    proto = model([make("Relu", ["x"], ["y"])])
    proto.graph.initializer.add(name="t", data_type=TensorProto.STRING, dims=[1 << 50])
    assert len(load_onnx(proto)) == 3


def test_nodes_may_come_in_any_order():
    proto = sound()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    x = value(1, 4, 8, 8)
    want = interpret(load_onnx(sound()), {"x": x})["y"]
    np.testing.assert_array_equal(interpret(load_onnx(proto), {"x": x})["y"], want)


def test_outputs_may_be_inputs_and_initializers():
    outputs = [info("x", F32, None), info("w", F32, None)]
    proto = model([make("Relu", ["x"], ["z"])], {"w": weights(2)}, outputs=outputs)
    made = interpret(load_onnx(proto), {"x": value(1, 4, 8, 8)})
    np.testing.assert_array_equal(made["w"], weights(2))


@pytest.mark.parametrize("form, want", [
    ({"value": numpy_helper.from_array(np.array([[1, 2]], np.int8))}, np.array([[1, 2]], np.int8)),
    ({"value_float": 0.1}, np.float32(0.1)), ({"value_int": 1 << 60}, np.int64(1 << 60)),
    ({"value_floats": [0.1, 2.0]}, np.array([0.1, 2], np.float32)),
    ({"value_ints": [1, -2]}, np.array([1, -2])),
])  # fmt: skip
def test_every_form_of_constant(form, want):
    outputs = [info("y", helper.np_dtype_to_tensor_dtype(want.dtype), None)]
    graph = load_onnx(model([make("Constant", [], ["y"], **form)], outputs=outputs))
    got = graph["y"].op.value
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_every_type_raw_and_typed(dtype, raw):
    numbers = np.arange(-4, 3).astype(np.float32) if not dtype.is_integer else np.arange(7)
    array = (numbers - 2 * dtype.is_signed).clip(-2, 3).astype(dtype.numpy).reshape(7)
    tensor = numpy_helper.from_array(array, "t")
    if not raw:
        if dtype.bits < 8:
            pytest.skip("the onnx package packs these only as raw data")
        coded = dtype in (DType.f16, DType.bf16) or dtype.is_minifloat
        flat = array.view(f"u{dtype.bits // 8}") if coded else array
        tensor = TensorProto(name="t", dims=[7], data_type=tensor.data_type)
        fields = {"f32": "float_data", "f64": "double_data", "i64": "int64_data"}
        fields |= {"u64": "uint64_data", "u32": "uint64_data"}
        numbers = flat.tolist() if dtype is not DType.bool else flat.astype(int).tolist()
        getattr(tensor, fields.get(dtype.value, "int32_data")).extend(numbers)
    outputs = [info("t", tensor.data_type, [7])]
    proto = model([make("Relu", ["x"], ["z"])], outputs=outputs)
    proto.graph.initializer.append(tensor)
    got = load_onnx(proto)["t"].op.value
    assert got.dtype == array.dtype and not got.flags.writeable
    assert got.tobytes() == array.tobytes()


# ---- older opsets, against onnxruntime -----------------------------------------------------------


@pytest.mark.parametrize("op, opset, attributes", [
    ("Clip", 6, {"min": -0.5, "max": 0.25}), ("Clip", 9, {"min": 0.0}), ("Clip", 10, {}),
    ("Squeeze", 11, {"axes": [0]}), ("Squeeze", 12, {}), ("Unsqueeze", 9, {"axes": [0, 3]}),
    ("ReduceSum", 11, {"axes": [1], "keepdims": 0}), ("ReduceSum", 7, {}),
    ("ReduceMean", 13, {"axes": [2, 3]}), ("ReduceMax", 17, {"axes": [-1], "keepdims": 0}),
    ("ReduceL2", 12, {"axes": [1]}), ("ReduceMin", 8, {}),
    ("Slice", 9, {"starts": [1, -3], "ends": [3, 1000], "axes": [1, 2]}),
    ("Slice", 7, {"starts": [0, 1], "ends": [1, 3]}),
    ("Pad", 9, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}),
    ("Pad", 10, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}),
    ("Softmax", 9, {}), ("Softmax", 11, {"axis": 2}), ("Softmax", 12, {"axis": -1}),
    ("LogSoftmax", 8, {"axis": 3}), ("Hardmax", 11, {"axis": 1}),
    ("Upsample", 7, {"scales": [1.0, 1.0, 2.0, 3.0]}),
    ("Flatten", 6, {"axis": 2}), ("Dropout", 7, {"ratio": 0.3}), ("Dropout", 10, {}),
    ("AveragePool", 7, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("MaxPool", 8, {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    ("MaxPool", 10, {"kernel_shape": [2, 2], "ceil_mode": 1, "strides": [2, 2]}),
    ("MaxPool", 12, {"kernel_shape": [2, 2], "auto_pad": "VALID"}),
    ("ArgMax", 11, {"axis": 1}), ("Cast", 6, {"to": TensorProto.INT32}),
    ("LRN", 7, {"size": 3}), ("DepthToSpace", 10, {"blocksize": 2}),
])  # fmt: skip
def test_an_older_opset(op, opset, attributes):
    compare_op(op, opset, x=value(1, 4, 7, 6), **attributes)


@pytest.mark.parametrize("op, opset, more, attributes", [
    ("Upsample", 9, [np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    ("Resize", 10, [np.array([1, 1, 2, 2.5], np.float32)], {"mode": "nearest"}),
    ("Resize", 10, [np.array([1, 1, 0.6, 1.7], np.float32)], {"mode": "linear"}),
    ("Resize", 11, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", 11, [np.zeros(0, np.float32), np.zeros(0, np.float32), np.array([1, 4, 9, 11])],
     {"mode": "cubic"}),
    ("Reshape", 7, [np.array([0, -1, 2])], {}), ("Tile", 6, [np.array([1, 2, 1, 3])], {}),
    ("PRelu", 7, [value(4, 1, 1)], {}), ("Gather", 6, [np.array([[0, 2]])], {"axis": 1}),
    ("Scatter", 9, [np.zeros((1, 1, 2, 2), np.int64), value(1, 1, 2, 2)], {"axis": 2}),
    ("BatchNormalization", 7, [value(4), value(4), value(4), np.abs(value(4)) + 1], {}),
    ("BatchNormalization", 9, [value(4), value(4), value(4), np.abs(value(4)) + 1], {}),
    ("Conv", 6, [value(2, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", 8, [value(2, 4, 3, 2)], {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("ConvTranspose", 7, [value(4, 2, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
])  # fmt: skip
def test_an_older_opset_with_operands(op, opset, more, attributes):
    compare_op(op, opset, *more, x=value(1, 4, 7, 6), **attributes)


def test_topk_of_opset_9():
    outputs = [info("y", F32, None), info("i", TensorProto.INT64, None)]
    node = make("TopK", ["x"], ["y", "i"], k=3, axis=3)
    compare(model([node], opset=9, outputs=outputs), x=value(1, 4, 8, 8))


def test_split_by_the_number_of_outputs_and_by_sizes():
    outputs = [info(n, F32, None) for n in "abcde"]
    nodes = [make("Split", ["x"], ["a", "b"], axis=2),
             make("Split", ["x"], ["c", "d", "e"], axis=1, split=[1, 2, 1])]  # fmt: skip
    compare(model(nodes, opset=11, outputs=outputs), x=value(1, 4, 8, 8))


def test_broadcasting_of_opset_6():
    """onnxruntime no longer runs it, so against NumPy."""
    constants = {"b": value(4), "c": value(8)}
    nodes = [make("Add", ["x", "b"], ["a"], broadcast=1, axis=1),
             make("Mul", ["a", "c"], ["y"], broadcast=1)]  # fmt: skip
    x = value(1, 4, 8, 8, seed=3)
    made = interpret(load_onnx(model(nodes, constants, 6)), {"x": x})["y"]
    np.testing.assert_array_equal(made, (x + constants["b"][:, None, None]) * constants["c"])


def test_group_normalization_of_opset_18_has_vectors_of_groups():
    constants = {"s": value(2), "b": value(2)}
    node = make("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    compare(model([node], constants, 18), x=value(1, 4, 8, 8))


def test_same_padding_becomes_explicit_where_sizes_are_known():
    graph = compare_op("Conv", 11, value(2, 4, 3, 3), x=value(1, 4, 7, 6), auto_pad="SAME_UPPER")
    op = graph["y"].op
    assert op.auto_pad == "NOTSET" and op.pads == (1, 1, 1, 1)
    node = make("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")
    dynamic = model([node], {"w": value(2, 4, 3, 3)}, inputs=[info("x", F32, [1, 4, "h", "w"])])
    assert load_onnx(dynamic)["y"].op.auto_pad == "SAME_UPPER"
    compare(dynamic, x=value(1, 4, 5, 9))


def test_a_quantized_model_imports_and_runs():
    constants = {"s": np.float32(0.02), "z": np.uint8(128), "w": np.arange(-54, 54, dtype=np.int8)
                 .reshape(3, 4, 3, 3), "ws": np.array([0.1, 0.2, 0.05], np.float32),
                 "wz": np.zeros(3, np.int8), "b": np.array([9, -5, 700], np.int32)}  # fmt: skip
    nodes = [make("QuantizeLinear", ["x", "s", "z"], ["q"]),
             make("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["c"]),
             make("DequantizeLinear", ["c", "s", "z"], ["y"])]  # fmt: skip
    graph = load_onnx(model(nodes, constants))
    assert graph["c"].op.name == "qlinear_conv"
    proto = model(nodes, constants)
    x = value(1, 4, 8, 8)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    steps = (interpret(graph, {"x": x})["y"] - session.run(None, {"x": x})[0]) / 0.02
    assert np.abs(steps).max() < 1.01 and (np.abs(steps) > 0.5).mean() < 0.01


# ---- functions -----------------------------------------------------------------------------------


def with_functions(*functions: onnx.FunctionProto, nodes: list) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return model(nodes, functions=list(functions), opset_imports=imports)


def body(name: str, inputs: list, outputs: list, nodes: list, *attributes: str, **more):
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, inputs, outputs, nodes, imports, attributes, **more)


def test_nested_functions_with_attributes_defaults_and_optional_operands():
    leaky = make("LeakyRelu", ["a"], ["m"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    clip = make("Clip", ["m", "low"], ["b"])
    default = helper.make_attribute("slope", 0.5)
    inner = body("inner", ["a", "low"], ["b"], [leaky, clip], attribute_protos=[default])
    again = make("inner", ["p"], ["q"], domain="f")
    again.attribute.add(name="slope", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    outer = body("outer", ["p"], ["q", "r"], [again, make("Neg", ["q"], ["r"])], "slope")
    proto = with_functions(inner, outer, nodes=[
        make("inner", ["x", ""], ["i"], domain="f"),
        make("outer", ["i"], ["o", "n"], domain="f", slope=0.25),
        make("Add", ["o", "n"], ["s"]), make("Sub", ["o", "s"], ["y"]),
    ])  # fmt: skip
    graph = compare(proto, x=value(1, 4, 8, 8))
    assert graph["i/m"].op.alpha == 0.5 and graph["o/m"].op.alpha == 0.25
    assert {"i", "o", "n"} <= {n.name for n in graph.nx}


def test_onnx_defines_some_operators_by_others():
    """HannWindow's kind of op, expanded where Taut has no declaration of its own."""
    from taut.ir import op_for_onnx

    assert op_for_onnx("HannWindow") is None
    constants = {"size": np.array(7)}
    nodes = [make("HannWindow", ["size"], ["w"]), make("Mul", ["x", "w"], ["y"])]
    proto = model(nodes, constants, 17, inputs=[info("x", F32, [2, 7])])
    compare(proto, x=value(2, 7))


# ---- external data -------------------------------------------------------------------------------


def test_external_data_in_the_models_folder_and_below(tmp_path):
    proto = sound()
    onnx.external_data_helper.convert_model_to_external_data(
        proto, all_tensors_to_one_file=False, size_threshold=0
    )
    onnx.save(proto, tmp_path / "m.onnx")
    assert len(list(tmp_path.iterdir())) > 2
    x = value(1, 4, 8, 8)
    want = interpret(load_onnx(sound()), {"x": x})["y"]
    np.testing.assert_array_equal(interpret(load_onnx(tmp_path / "m.onnx"), {"x": x})["y"], want)
    with pytest.raises(ModelError, match="by its path"):
        load_onnx((tmp_path / "m.onnx").read_bytes())


# ---- refusals ------------------------------------------------------------------------------------


def test_every_unsupported_op_is_listed_with_its_nodes():
    nodes = [make("Levitate", ["x"], [f"v{k}"]) for k in range(20)]
    nodes += [make("QLinearAdd", ["x"], ["q"], domain="com.microsoft"), make("Relu", ["x"], ["y"]),
              make("StringNormalizer", ["x"], ["s"])]  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto = model(nodes, opset_imports=imports)
    with pytest.raises(UnsupportedOps) as refused:
        load_onnx(proto)
    found = refused.value.found
    assert len(found) == 22 and found == unsupported_ops(proto)
    assert {f.op for f in found} == {"Levitate", "com.microsoft.QLinearAdd", "StringNormalizer"}
    text = str(refused.value)
    assert '"v0"' in text and "and 12 more" in text and '"q"' in text
    assert unsupported_ops(sound()) == []


def test_unsupported_ops_inside_functions_are_listed_too():
    bad = body("bad", ["a"], ["b"], [make("Levitate", ["a"], ["b"])])
    proto = with_functions(bad, nodes=[make("bad", ["x"], ["y"], domain="f")])
    assert [(f.node, f.op) for f in unsupported_ops(proto)] == [("bad/b", "Levitate")]


@pytest.mark.parametrize("opset", [5, 1000])
def test_opsets_out_of_range_name_the_range(opset):
    with pytest.raises(UnsupportedError, match="6 to"):
        load_onnx(model([make("Relu", ["x"], ["y"])], opset=opset))


def test_a_lying_value_info_names_its_node():
    proto = sound()
    proto.graph.value_info[0].CopyFrom(info("c", F32, [1, 4, 9, 9]))
    with pytest.raises(VerifyError) as lie:
        load_onnx(proto)
    assert lie.value.node == "c" and "9,9" in str(lie.value)


def test_errors_name_file_node_op_and_mend(tmp_path):
    proto = sound()
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 0))
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(VerifyError) as error:
        load_onnx(tmp_path / "bad.onnx")
    text = str(error.value)
    assert "bad.onnx" in text and 'node "c"' in text and "conv" in text and "group" in text


def test_limits_can_be_set():
    with pytest.raises(LimitError, match="tensor_bytes"):
        load_onnx(sound(), limits=Limits(tensor_bytes=100))
    with pytest.raises(LimitError, match="model_bytes"):
        load_onnx(sound(), limits=Limits(model_bytes=600))
    with pytest.raises(LimitError, match="nodes"):
        load_onnx(sound(), limits=Limits(nodes=3))
    assert load_onnx(sound(), limits=DEFAULT_LIMITS)


# ---- size ----------------------------------------------------------------------------------------


# ru_maxrss would count the process that started this one: a child keeps that peak through exec.
CHAIN = """
import pathlib, re, resource, sys, time
from taut.frontends.onnx import load_onnx
start = time.process_time()
assert len(load_onnx(sys.argv[1])) == 100_002
status = pathlib.Path("/proc/self/status")
peak = re.search(r"VmHWM:\\s*(\\d+)", status.read_text()) if status.exists() else None
print(time.process_time() - start,
      peak[1] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_chain_of_100_000_nodes(tmp_path):
    n = 100_000
    nodes = [make("Relu" if k % 2 else "Neg", [f"v{k}"], [f"v{k + 1}"]) for k in range(n)]
    graph = helper.make_graph(nodes, "g", [info("v0", F32, ["n", 3])], [info(f"v{n}", F32, None)])
    path = tmp_path / "chain.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", CHAIN, str(path)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, kilobytes = done.stdout.split()
    assert float(seconds) < 10 and int(kilobytes) < 1 << 20


@pytest.mark.parametrize("layout", ["tensor", "axis", "blocks"])
@pytest.mark.parametrize(("opset", "precision"), [(23, None), (23, F32), (24, TensorProto.FLOAT16),
                                                  (21, None)])  # fmt: skip
def test_a_quantizer_divides_in_the_type_that_the_opset_says(
    opset: int, precision: int | None, layout: str
) -> None:
    half = precision in (None, TensorProto.FLOAT16) and opset >= 23
    x = (np.random.default_rng(1).uniform(-3, 3, (64, 6))).astype(np.float16)
    shape = {"tensor": (), "axis": (6,), "blocks": (64, 3)}[layout]
    scale = np.random.default_rng(2).uniform(0.01, 0.02, shape).astype(np.float16)
    more = {} if precision is None else {"precision": precision}
    more |= {"block_size": 2} if layout == "blocks" else {}
    node = make("QuantizeLinear", ["x", "s", "z"], ["y"], axis=1, **more)
    names = {"s": np.asarray(scale), "z": np.zeros(np.shape(scale), np.int8)}
    proto = model([node], names, opset, inputs=[info("x", TensorProto.FLOAT16, x.shape)],
                  outputs=[info("y", TensorProto.INT8, x.shape)])  # fmt: skip
    spread = np.repeat(scale, 2, axis=1) if layout == "blocks" else scale
    kind = np.float16 if half else np.float32
    want = np.clip(np.rint(x.astype(kind) / spread.astype(kind)), -128, 127).astype(np.int8)
    other = np.rint(x.astype(np.float32) / spread.astype(np.float32))
    assert not half or (np.clip(other, -128, 127) != want).any()  # which it is shows
    graph = load_onnx(proto)
    for again in (graph, load_onnx(export_onnx(graph, opset=24))):
        assert (interpret(again, {"x": x})["y"] == want).all()
        assert (taut.compile(again)(x)["y"] == want).all()


def quantizer(x: tuple[int, ...], kind: int, scale: np.ndarray, **attributes) -> onnx.ModelProto:
    node = make("QuantizeLinear", ["x", "s"], ["y"], output_dtype=TensorProto.INT8, **attributes)
    return model([node], {"s": scale}, 23, inputs=[info("x", kind, x)],
                 outputs=[info("y", TensorProto.INT8, None)])  # fmt: skip


def test_a_quantizer_that_divides_otherwise_is_checked_all_the_same() -> None:
    half = np.float16
    with pytest.raises(VerifyError):
        load_onnx(quantizer((3, 1, 4), TensorProto.FLOAT16, np.ones(6, half), axis=1))
    with pytest.raises(VerifyError, match="positive"):
        load_onnx(quantizer((3,), TensorProto.FLOAT16, half(0)))
    with pytest.raises(VerifyError, match="positive"):  # 0 in half precision
        load_onnx(quantizer((3,), F32, np.float32(1e-9), precision=TensorProto.FLOAT16))
    with pytest.raises(ModelError, match="none of floats"):
        load_onnx(quantizer((3,), F32, np.float32(1), precision=TensorProto.INT8))
    double = load_onnx(quantizer((1,), F32, np.float32(0.1), precision=TensorProto.DOUBLE))
    x = np.array([0.45], np.float32)
    want = np.rint(x.astype(np.float64) / np.float64(np.float32(0.1)))
    assert interpret(double, {"x": x})["y"] == want

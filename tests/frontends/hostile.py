"""Malformed ONNX files of our own making: each a name and a function that writes it into a folder.

`onnx_files` yields (name, write); write(folder) returns the path to load. All are built from small
sound models, so that what is wrong is wrong by one thing. `hostile_ir` has Taut's own formats.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Write = Callable[[Path], Path]
Case = tuple[str, Write]
F32 = TensorProto.FLOAT
make = helper.make_node
HUGE = 1 << 40


def model(
    nodes: Sequence[NodeProto],
    initializers: Sequence[Any] = (),
    opset: int = 21,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    **more: Any,
) -> ModelProto:
    """x: f32[1,4,8,8] in, y out."""
    inputs = inputs or [helper.make_tensor_value_info("x", F32, [1, 4, 8, 8])]
    outputs = outputs or [helper.make_tensor_value_info("y", F32, None)]
    tensors = [
        numpy_helper.from_array(np.asarray(v), k) for k, v in dict(initializers or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, tensors)
    imports = more.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **more)


def weights(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def sound() -> ModelProto:
    """A small CNN that loads."""
    nodes = [
        make("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        make("Relu", ["c"], ["r"]),
        make("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        make("Clip", ["p", "low"], ["k"]),
        make("Add", ["k", "s"], ["y"]),
    ]
    made = model(nodes, {
        "w": weights(4, 4, 3, 3), "b": weights(4), "low": np.float32(-1), "s": weights(1, 4, 1, 1),
    })  # fmt: skip
    made.graph.value_info.append(helper.make_tensor_value_info("c", F32, [1, 4, 4, 4]))
    helper.set_model_props(made, {"key": "value"})
    return made


def stored(data: bytes | ModelProto, name: str = "model.onnx") -> Write:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
        return path

    return write


def changed(change: Callable[[ModelProto], object]) -> Write:
    made = sound()
    change(made)
    return stored(made)


def damaged(data: bytes, name: str, cuts: int, flips: int, seed: int = 1) -> Iterator[Case]:
    """Truncations at even distances and seeded bit flips."""
    for k in range(cuts):
        at = len(data) * k // cuts
        yield f"cut at {at}", stored(data[:at], name)
    rng = random.Random(seed)
    for k in range(flips):
        flipped = bytearray(data)
        for _ in range(1 + k % 3):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield f"flip {k}", stored(bytes(flipped), name)


# ---- ONNX ----------------------------------------------------------------------------------------


def onnx_files() -> Iterator[Case]:
    yield from damaged(sound().SerializeToString(), "model.onnx", 32, 64)
    yield "empty", stored(b"")
    yield "zeros", stored(bytes(1000))
    yield "text", stored(b"this is no model\n" * 20)
    yield "noise", stored(random.Random(2).randbytes(5000))
    yield "nested lengths", stored(b"\x3a\xff\xff\xff\xff\x0f" * 50)
    yield "deep groups", stored(b"\x0b" * 10000)
    yield "a folder", lambda folder: folder
    yield "missing", lambda folder: folder / "nowhere.onnx"
    yield "a pipe", _pipe
    for cases in (_tensors, _external, _structure, _opsets, _types, _attributes, _sizes, _scales,
                  _functions):  # fmt: skip
        yield from cases()


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.onnx")
    return folder / "pipe.onnx"


def _tensor_case(**fields: Any) -> Write:
    tensor = TensorProto(name="t", data_type=F32)
    for key, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, key).extend(value)
        else:
            setattr(tensor, key, value)
    made = model([make("Add", ["x", "t"], ["y"])])
    made.graph.initializer.append(tensor)
    return stored(made)


def _tensors() -> Iterator[Case]:
    f = _tensor_case
    yield "negative dim", f(dims=[-1], raw_data=b"")
    yield "terabyte raw", f(dims=[HUGE], raw_data=b"1234")
    yield "terabyte without data", f(dims=[HUGE])
    yield "overflowing dims", f(dims=[1 << 32, 1 << 32, 1 << 32], raw_data=b"1234")
    yield "dims to int64's end", f(dims=[(1 << 63) - 1], raw_data=b"")
    yield "product 2^64 plus 4", f(dims=[1 << 62, 4, 1], raw_data=b"1234")
    yield "zero times huge", f(dims=[0, HUGE, HUGE], raw_data=b"1")
    yield "short raw", f(dims=[5], raw_data=b"1234")
    yield "long raw", f(dims=[1], raw_data=bytes(100))
    yield "odd raw", f(dims=[1], raw_data=b"123")
    yield "too few floats", f(dims=[3], float_data=[1.0])
    yield "too many floats", f(dims=[1], float_data=[1.0, 2.0])
    yield "wrong field", f(dims=[1], int64_data=[1])
    yield "two fields", f(dims=[1], float_data=[1.0], raw_data=b"1234")
    yield "rank 1000", f(dims=[1] * 1000, raw_data=b"1234")
    yield "no type", f(dims=[1], data_type=0, raw_data=b"1234")
    yield "type 99", f(dims=[1], data_type=99, raw_data=b"1234")
    yield "type -5", f(dims=[1], data_type=-5, raw_data=b"1234")
    yield "strings", f(dims=[1], data_type=TensorProto.STRING, string_data=[b"a"])
    yield "complex", f(dims=[1], data_type=TensorProto.COMPLEX64, raw_data=bytes(8))
    yield "float8", f(dims=[1], data_type=TensorProto.FLOAT8E4M3FN, raw_data=b"1")
    yield "int8 of 300", f(dims=[1], data_type=TensorProto.INT8, int32_data=[300])
    yield "uint8 of -1", f(dims=[1], data_type=TensorProto.UINT8, int32_data=[-1])
    yield "bool of 7", f(dims=[1], data_type=TensorProto.BOOL, int32_data=[7])
    yield "float16 of 2^20", f(dims=[1], data_type=TensorProto.FLOAT16, int32_data=[1 << 20])
    yield "uint32 of 2^40", f(dims=[1], data_type=TensorProto.UINT32, uint64_data=[HUGE])
    yield "int4 of 3 bytes", f(dims=[3], data_type=TensorProto.INT4, raw_data=b"123")
    yield "int4 without end", f(dims=[1 << 45], data_type=TensorProto.INT4, raw_data=b"1")
    yield "segment", changed(lambda m: setattr(m.graph.initializer[0].segment, "begin", 1))
    yield "sparse", changed(lambda m: m.graph.sparse_initializer.add(dims=[4]))
    yield "non-UTF-8 initializer", stored(sound().SerializeToString().replace(b"low", b"l\xffw"))
    total = model([make("Add", ["x", "t0"], ["a0"])] + [
        make("Add", [f"a{k}", f"t{k + 1}"], [f"a{k + 1}" if k < 40 else "y"]) for k in range(41)
    ])  # fmt: skip
    for k in range(42):  # each below the limit, together far above it
        total.graph.initializer.add(name=f"t{k}", data_type=F32, dims=[1 << 28], raw_data=b"1")
    yield "many large tensors", stored(total)


def _external_case(prepare: Callable[[Path], object] | None = None, /, **entries: str) -> Write:
    def write(folder: Path) -> Path:
        inner = folder / "model"
        inner.mkdir()
        (folder / "secret.bin").write_bytes(bytes(64))
        (inner / "data.bin").write_bytes(bytes(64))
        if prepare is not None:
            prepare(inner)
        made = model([make("Add", ["x", "t"], ["y"])])
        tensor = made.graph.initializer.add(name="t", data_type=F32, dims=[1, 4, 1, 1])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        return stored(made)(inner)

    return write


def _external() -> Iterator[Case]:
    f = _external_case
    yield "external parent", f(location="../secret.bin")
    yield "external parent inside", f(location="a/../../secret.bin")
    yield "external parent of a file", f(location="data.bin/../../secret.bin")
    yield "external absolute", f(location="/etc/passwd")
    yield "external device", f(location="/dev/zero")
    yield "external memory", f(location="/proc/self/mem")
    yield "external NUL", f(location="data.bin\0.txt")
    yield "external empty", f(location="")
    yield "external dot", f(location=".")
    yield "external backslashes", f(location="..\\secret.bin")
    yield "external drive", f(location="C:\\secret.bin")
    yield "external share", f(location="\\\\host\\share\\secret.bin")
    yield "external long name", f(location="a" * 5000)
    yield "external surrogate", f(location="\U0010ffff\u202e.bin")
    yield "external no location", f(offset="0")
    yield "external unknown key", f(location="data.bin", mode="rw")
    yield "external missing", f(location="nowhere.bin")
    yield "external short", f(location="data.bin", offset="60")
    yield "external past the end", f(location="data.bin", offset=str(HUGE))
    yield "external offset overflow", f(location="data.bin", offset="9" * 30)
    yield "external offset negative", f(location="data.bin", offset="-16")
    yield "external offset word", f(location="data.bin", offset="ten")
    yield "external offset Arabic", f(location="data.bin", offset="\u0661")
    yield "external length lies", f(location="data.bin", length="8")
    yield "external length huge", f(location="data.bin", length=str(HUGE))
    yield "external folder", f(lambda d: (d / "sub").mkdir(), location="sub")
    yield "external pipe", f(lambda d: os.mkfifo(d / "pipe"), location="pipe")
    yield (
        "external link",
        f(lambda d: (d / "link.bin").symlink_to("../secret.bin"), location="link.bin"),
    )
    yield (
        "external link inside",
        f(lambda d: (d / "link.bin").symlink_to("data.bin"), location="link.bin"),
    )
    yield (
        "external linked folder",
        f(lambda d: (d / "up").symlink_to(".."), location="up/secret.bin"),
    )
    yield "external link loop", f(lambda d: (d / "loop").symlink_to("loop"), location="loop")
    yield (
        "external hard link",
        f(lambda d: os.link(d.parent / "secret.bin", d / "hard.bin"), location="hard.bin"),
    )
    yield "external unreadable", f(lambda d: (d / "data.bin").unlink(), location="data.bin")


def _structure() -> Iterator[Case]:
    relu = lambda a, b: make("Relu", [a], [b])  # noqa: E731
    yield "cycle of one", stored(model([relu("y", "y")]))
    yield "cycle of two", stored(model([relu("a", "b"), relu("b", "a"), relu("b", "y")]))
    ring = [relu(f"r{k}", f"r{(k + 1) % 5000}") for k in range(5000)]
    yield "cycle of many", stored(model([*ring, relu("r7", "y")]))
    yield "undefined input", stored(model([relu("nothing", "y")]))
    yield "undefined output", stored(model([relu("x", "z")]))
    yield "value twice", stored(model([relu("x", "y"), relu("x", "y")]))
    yield "value named as input", stored(model([relu("x", "x"), relu("x", "y")]))
    yield (
        "value named as initializer",
        stored(model([relu("x", "w"), relu("w", "y")], {"w": weights(2)})),
    )
    yield "initializer twice", changed(lambda m: m.graph.initializer.append(m.graph.initializer[0]))
    yield (
        "initializer without a name",
        changed(lambda m: setattr(m.graph.initializer[0], "name", "")),
    )
    yield "input twice", changed(lambda m: m.graph.input.append(m.graph.input[0]))
    yield "output twice", changed(lambda m: m.graph.output.append(m.graph.output[0]))
    yield "no outputs", changed(lambda m: m.graph.ClearField("output"))
    yield "no inputs", changed(lambda m: m.graph.ClearField("input"))
    yield "no graph", changed(lambda m: m.ClearField("graph"))
    yield "no nodes", changed(lambda m: m.graph.ClearField("node"))
    yield "node without outputs", changed(lambda m: m.graph.node[0].ClearField("output"))
    yield "node without inputs", changed(lambda m: m.graph.node[0].ClearField("input"))
    yield "empty output names", changed(lambda m: m.graph.node[0].output.append(""))
    yield "too many inputs", changed(lambda m: m.graph.node[1].input.extend(["x"] * 9))
    yield "too many outputs", changed(lambda m: m.graph.node[1].output.extend(["z1", "z2"]))
    yield "no op", changed(lambda m: setattr(m.graph.node[0], "op_type", ""))
    yield "unknown op", changed(lambda m: setattr(m.graph.node[0], "op_type", "Levitate"))
    yield (
        "hostile op",
        changed(lambda m: setattr(m.graph.node[0], "op_type", "\x1b]0;evil\x07'; import os #")),
    )
    yield "unknown domain", changed(lambda m: setattr(m.graph.node[0], "domain", "evil.example"))
    yield "missing operand", changed(lambda m: m.graph.node[0].input.__setitem__(1, ""))
    yield "long name", changed(lambda m: setattr(m.graph, "name", "n" * 1_000_000))
    for where in (b"Relu", b"MaxPool", b"key", b"value", b"kernel_shape"):
        data = sound().SerializeToString()
        yield f"non-UTF-8 {where.decode()}", stored(data.replace(where, b"\xff" * len(where)))
    for old in ("x", "c", "y"):
        made = sound()
        _rename(made, old, f"{old}\0\n\x1b[31m%s{{}}' \"")
        yield f"strange name of {old}", stored(made)
    loop = make("Loop", ["", ""], ["y"], body=sound().graph)
    yield "loop", stored(model([loop]))
    deep = sound().graph
    for _ in range(30):
        node = make("If", ["x"], ["y"], then_branch=deep, else_branch=sound().graph)
        deep = helper.make_graph([node], "d", [], list(deep.output))
    yield "deep bodies", stored(model(deep.node))


def _rename(made: ModelProto, old: str, new: str) -> None:
    for node in made.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name == old:
                    names[k] = new
    for info in [*made.graph.input, *made.graph.output, *made.graph.value_info]:
        if info.name == old:
            info.name = new


def _opsets() -> Iterator[Case]:
    def with_opsets(*pairs: tuple[str, int]) -> Write:
        return stored(model([make("Relu", ["x"], ["y"])],
                            opset_imports=[helper.make_opsetid(*p) for p in pairs]))  # fmt: skip

    yield "two opsets", with_opsets(("", 13), ("", 21))
    yield "two opsets by two names", with_opsets(("", 13), ("ai.onnx", 21))
    yield "the same opset twice", with_opsets(("", 21), ("", 21))
    yield "no opset", with_opsets()
    yield "only another opset", with_opsets(("ai.onnx.ml", 3))
    for version in (-1, 0, 1, 5, 1000, (1 << 62)):
        yield f"opset {version}", with_opsets(("", version))
    for version in (0, -3, 99, 1 << 40):
        yield f"IR version {version}", changed(lambda m, v=version: setattr(m, "ir_version", v))


def _types() -> Iterator[Case]:
    info = helper.make_tensor_value_info
    relu = [make("Relu", ["x"], ["y"])]
    for dims in ([-1, 4], [-2, 4], [HUGE, HUGE], [1 << 62], [HUGE], [(1 << 63) - 1, 2], [1] * 200):
        yield f"input {str(dims)[:40]}", stored(model(relu, inputs=[info("x", F32, dims)]))
    for code in (0, 99, -1, TensorProto.STRING, TensorProto.COMPLEX128, TensorProto.FLOAT8E5M2):
        made = model(relu)
        made.graph.input[0].type.tensor_type.elem_type = code
        yield f"input of type {code}", stored(made)
    yield "input without a type", changed(lambda m: m.graph.input[0].ClearField("type"))
    sequence = helper.make_tensor_sequence_value_info("x", F32, [1])
    yield "sequence input", stored(model(relu, inputs=[sequence]))
    optional = helper.make_value_info("x", helper.make_optional_type_proto(sequence.type))
    yield "optional input", stored(model(relu, inputs=[optional]))
    for dims in ([1, 4, 4, 5], [1], [], [2, 4, 4, 4]):
        lie = info("c", F32, dims)
        yield f"value_info {dims}", changed(lambda m, i=lie: m.graph.value_info[0].CopyFrom(i))
    lie = info("c", TensorProto.INT8, [1, 4, 4, 4])
    yield "value_info of another type", changed(lambda m: m.graph.value_info[0].CopyFrom(lie))
    yield (
        "two value_infos",
        changed(lambda m: m.graph.value_info.append(info("c", F32, [1, 4, 9, 9]))),
    )
    yield "output lies", changed(lambda m: m.graph.output[0].CopyFrom(info("y", F32, [3])))


def _attribute_case(op: str, inputs: Sequence[str] = ("x",), **attributes: Any) -> Write:
    return stored(model([make(op, list(inputs), ["y"], **attributes)], {"w": weights(4, 4, 3, 3)}))


def _attributes() -> Iterator[Case]:
    f, xw = _attribute_case, ("x", "w")
    for group in (0, -1, 3, 5, HUGE):
        yield f"group {group}", f("Conv", xw, group=group)
    for key, bad in (
        ("pads", [HUGE] * 4), ("pads", [-9] * 4), ("pads", [1]), ("pads", [1] * 100),
        ("strides", [0, 0]), ("strides", [-1, 1]), ("strides", [HUGE, 1]), ("strides", [1]),
        ("dilations", [0, 1]), ("dilations", [HUGE, HUGE]), ("dilations", [-2, 1]),
        ("kernel_shape", [2, 2]), ("kernel_shape", [0, 0]), ("auto_pad", "SIDEWAYS"),
        ("auto_pad", b"\xff\xfe"), ("group", 1.5), ("strides", "two"), ("unknown", 1),
    ):  # fmt: skip
        yield f"Conv {key} {str(bad)[:30]}", f("Conv", xw, **{key: bad})
    for kernel in ([0, 0], [-1, -1], [HUGE, 1], [100, 100], [2]):
        yield f"MaxPool {kernel}", f("MaxPool", kernel_shape=kernel)
    yield "MaxPool without kernel_shape", f("MaxPool")
    yield "AveragePool padded beyond", f("AveragePool", kernel_shape=[1, 1], pads=[5, 5, 5, 5])
    yield "Softmax axis", f("Softmax", axis=99)
    yield "Flatten axis", f("Flatten", axis=-99)
    yield "Concat axis", f("Concat", ("x", "x"), axis=HUGE)
    yield "Transpose twice", f("Transpose", perm=[0, 0, 1, 2])
    yield "Transpose beyond", f("Transpose", perm=[0, 1, 2, 9])
    yield "LRN size", f("LRN", size=HUGE)
    yield "LRN size 0", f("LRN", size=0)
    yield "Cast to 99", f("Cast", to=99)
    yield "Cast to strings", f("Cast", to=TensorProto.STRING)
    yield "Einsum", f("Einsum", equation="a" * 100000 + "->")
    yield "Einsum dots", f("Einsum", equation="......->...")
    yield "DepthToSpace 0", f("DepthToSpace", blocksize=0)
    yield "DepthToSpace huge", f("DepthToSpace", blocksize=HUGE)
    yield "LpPool p", f("LpPool", kernel_shape=[2, 2], p=0)
    yield "Selu NaN", f("Selu", alpha=float("nan"))
    yield "Constant without value", stored(model([make("Constant", [], ["y"])]))
    two = make("Constant", [], ["y"], value_int=1, value_float=2.0)
    yield "Constant with two values", stored(model([two]))
    node = make("LeakyRelu", ["x"], ["y"], alpha=0.1)
    node.attribute.append(node.attribute[0])
    yield "attribute twice", stored(model([node]))
    for field, value in (("type", 0), ("ref_attr_name", "a"), ("name", "")):
        node = make("LeakyRelu", ["x"], ["y"], alpha=0.1)
        setattr(node.attribute[0], field, value)
        yield f"attribute {field}", stored(model([node]))
    node = make("LeakyRelu", ["x"], ["y"])
    node.attribute.add(name="alpha", type=AttributeProto.GRAPH).g.CopyFrom(sound().graph)
    yield "attribute is a graph", stored(model([node]))


def _operand_case(op: str, *operands: Any, **attributes: Any) -> Write:
    """op(x, *operands), the operands as constants."""
    constants = {f"k{i}": np.asarray(v) for i, v in enumerate(operands) if v is not None}
    names = ["x", *("" if v is None else f"k{i}" for i, v in enumerate(operands))]
    return stored(model([make(op, names, ["y"], **attributes)], constants))


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _sizes() -> Iterator[Case]:
    f = _operand_case
    yield "Reshape huge", f("Reshape", _ints(HUGE, -1))
    yield "Reshape two unknowns", f("Reshape", _ints(-1, -1))
    yield "Reshape negative", f("Reshape", _ints(-7, 4))
    yield "Reshape elsewhere", f("Reshape", _ints(7))
    yield "Expand to terabytes", f("Expand", _ints(HUGE, 4, 8, 8))
    yield "Expand negative", f("Expand", _ints(-2, 1, 1, 1))
    yield "Tile to terabytes", f("Tile", _ints(HUGE, 1, 1, 1))
    yield "Tile overflow", f("Tile", _ints(HUGE, HUGE, HUGE, 1))
    yield "Tile negative", f("Tile", _ints(-1, 1, 1, 1))
    yield "Pad to terabytes", f("Pad", _ints(0, 0, HUGE, 0, 0, 0, 0, 0))
    yield "Pad overflow", f("Pad", _ints(0, 0, *[(1 << 62)] * 2, 0, 0, *[(1 << 62)] * 2))
    yield "Pad below nothing", f("Pad", _ints(0, 0, -9, 0, 0, 0, -9, 0))
    yield "Pad wrong length", f("Pad", _ints(1, 2, 3))
    yield "Slice by 0", f("Slice", _ints(0), _ints(9), _ints(0), _ints(0))
    yield "Slice axis", f("Slice", _ints(0), _ints(9), _ints(77))
    yield "TopK", f("TopK", _ints(-5))
    yield "TopK more", f("TopK", _ints(HUGE))
    yield "Gather beyond", f("Gather", _ints(1000))
    yield "Split", f("Split", _ints(-1, 2), axis=1)
    yield "Unsqueeze far", f("Unsqueeze", _ints(HUGE))
    yield "Squeeze what is not 1", f("Squeeze", _ints(1))
    yield "ReduceSum axis", f("ReduceSum", _ints(44))
    yield "ReduceSum axis twice", f("ReduceSum", _ints(1, 1))
    for scale in (np.inf, np.nan, -1.0, 0.0, 1e30, 1e9):
        scales = np.array([1, 1, scale, 1], np.float32)
        yield f"Resize by {scale}", f("Resize", None, scales)
    yield "Resize to terabytes", f("Resize", None, None, _ints(1, 4, HUGE, HUGE))
    yield "Clip with a vector", f("Clip", weights(3))
    yield "MatMul of strangers", f("MatMul", weights(3, 5))
    yield "Add of strangers", f("Add", weights(3, 5))
    yield "Add of other types", f("Add", np.ones(1, np.int8))
    fill = [make("ConstantOfShape", ["k"], ["c"]), make("Add", ["x", "c"], ["y"])]
    for shape in ((HUGE, HUGE), (-1,), (1,) * 100, (1 << 34,)):
        yield f"ConstantOfShape {str(shape)[:30]}", stored(model(fill, {"k": _ints(*shape)}))
    for limits in ((0, HUGE, 1), (0, 10, 0), (0, -(1 << 63), -1), (0, (1 << 63) - 1, 1)):
        made = model([make("Range", ["a", "b", "c"], ["r"]), make("Cast", ["r"], ["y"], to=F32)],
                     dict(zip("abc", (np.int64(v) for v in limits))))  # fmt: skip
        yield f"Range {limits}", stored(made)
    hot = make("OneHot", ["i", "d", "v"], ["y"])
    yield "OneHot", stored(model([hot], {
        "i": _ints(1, 2), "d": np.int64(HUGE), "v": weights(2),
    }))  # fmt: skip
    growing = [make("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0) for k in range(60)]
    growing[0].input[:] = ["x", "x"]
    growing[-1].output[0] = "y"
    yield "doubling", stored(model(growing))


def _scales() -> Iterator[Case]:
    """Quantization parameters that are no numbers to divide by."""
    for bad in (np.nan, np.inf, -np.inf, 0.0, -1.0):
        scale = np.float32(bad)
        nodes = [make("QuantizeLinear", ["x", "s", "z"], ["q"]),
                 make("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
        yield f"scale {bad}", stored(model(nodes, {"s": scale, "z": np.uint8(3)}))
        vector = np.array([1, 1, bad, 1], np.float32)
        nodes = [make("DequantizeLinear", ["w", "s"], ["d"], axis=0),
                 make("Add", ["x", "d"], ["y"])]  # fmt: skip
        constants = {"w": np.ones((4, 1, 1), np.int8), "s": vector}
        yield f"a channel's scale {bad}", stored(model(nodes, constants))
        operands = ["q", "s", "z", "w", "s", "zw", "s", "z"]
        nodes = [make("QuantizeLinear", ["x", "one", "z"], ["q"]),
                 make("QLinearConv", operands, ["a"]),
                 make("DequantizeLinear", ["a", "one", "z"], ["y"])]  # fmt: skip
        constants = {"s": scale, "one": np.float32(1), "z": np.uint8(0), "zw": np.int8(0),
                     "w": np.ones((4, 4, 1, 1), np.int8)}  # fmt: skip
        yield f"QLinearConv scale {bad}", stored(model(nodes, constants))
    nodes = [make("QuantizeLinear", ["x", "s", "z"], ["q"]),
             make("DequantizeLinear", ["q", "s", "z8"], ["y"])]  # fmt: skip
    constants = {"s": np.float32(1), "z": np.uint8(3), "z8": np.int8(3)}
    yield "zero points of two types", stored(model(nodes, constants))
    yield "zero point of floats", _operand_case("QuantizeLinear", np.float32(1), np.float32(0))
    yield (
        "scale of another length",
        _operand_case("QuantizeLinear", weights(7) + 2, np.zeros(7, np.uint8)),
    )
    yield "block of 0", _operand_case("QuantizeLinear", weights(1, 4, 8, 8) + 2, block_size=-3)


def _function(name: str, nodes: Sequence[NodeProto], **more: Any) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], list(nodes), imports, **more)


def _function_case(*functions: onnx.FunctionProto, call: str = "f0", **attributes: Any) -> Write:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    node = make(call, ["x"], ["y"], domain="f", **attributes)
    return stored(model([node], functions=list(functions), opset_imports=imports))


def _call(name: str, a: str, b: str) -> NodeProto:
    return make(name, [a], [b], domain="f")


def _functions() -> Iterator[Case]:
    def doubling(levels: int) -> list[onnx.FunctionProto]:
        last = _function(f"f{levels}", [make("Relu", ["a"], ["b"])])
        return [_function(f"f{k}", [_call(f"f{k + 1}", "a", "m"), _call(f"f{k + 1}", "m", "b")])
                for k in range(levels)] + [last]  # fmt: skip

    yield "functions a billionfold", _function_case(*doubling(30))
    yield "functions 2^60-fold", _function_case(*doubling(60))
    yield "functions 2^2000-fold", _function_case(*doubling(2000))
    wide = [_call("f1", "a", f"m{k}") for k in range(3000)] + [make("Relu", ["m0"], ["b"])]
    inner = [make("Relu", ["a"], [f"m{k}"]) for k in range(3000)] + [make("Relu", ["m0"], ["b"])]
    yield "functions 3000 by 3000", _function_case(_function("f0", wide), _function("f1", inner))
    yield "function of itself", _function_case(_function("f0", [_call("f0", "a", "b")]))
    yield (
        "functions of each other",
        _function_case(
            _function("f0", [_call("f1", "a", "b")]), _function("f1", [_call("f0", "a", "b")])
        ),
    )
    yield "function twice", _function_case(*[_function("f0", [make("Relu", ["a"], ["b"])])] * 2)
    yield "function without result", _function_case(_function("f0", [make("Relu", ["a"], ["c"])]))
    yield (
        "function with a cycle",
        _function_case(_function("f0", [make("Relu", ["b"], ["m"]), make("Relu", ["m"], ["b"])])),
    )
    yield (
        "function reads the graph's",
        _function_case(_function("f0", [make("Add", ["a", "x"], ["b"])])),
    )
    yield "function is not there", _function_case(call="f9")
    yield (
        "function with an unknown op",
        _function_case(_function("f0", [make("Levitate", ["a"], ["b"])])),
    )
    long = "n" * 1_000_000
    names = [make("Relu", ["a"], [long]), make("Relu", [long], ["b"])]
    yield "function with long names", _function_case(_function("f0", names))
    twice = _function("f0", [make("Relu", ["a"], ["b"])])
    twice.input.append("a")
    yield "function with parameters of one name", _function_case(twice)
    leaky = make("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    yield (
        "function attribute of another type",
        _function_case(_function("f0", [leaky], attributes=["slope"]), slope="steep"),
    )
    yield (
        "function attribute missing",
        _function_case(_function("f0", [leaky], attributes=["slope"])),
    )
    many = make("f0", ["x"] * 5, ["y"], domain="f")
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    yield "function with too many operands", stored(model(
        [many], functions=[_function("f0", [make("Relu", ["a"], ["b"])])], opset_imports=imports
    ))  # fmt: skip

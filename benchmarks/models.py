"""The models that are measured: one file each for every runtime, and their inputs.

All shapes are fixed and every runtime gets the same file, so that nobody pays for another's
dynamic shapes. Calibration and test inputs never share a seed.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import efficientnet
import minilm
import numpy as np
import onnx
import onnxruntime
import sentences
from onnx import numpy_helper, shape_inference

from taut import samples

Shape = tuple[int, ...]
Feed = dict[str, np.ndarray]  # what one run gets, by the names of the file's inputs
Arrays = tuple[np.ndarray, ...]  # the same for many samples, an array an input


@dataclass(frozen=True)
class Data:
    """What a model eats: the shapes of one sample's inputs, and how to draw `n` samples.

    `draw(n, seed)` gives each input an axis more, which counts the samples. Samples join along it
    to make a batch, unless `batched` is false: then a run takes one sample as it is.
    """

    shapes: tuple[Shape, ...]
    calibration_size: int
    draw: Callable[[int, int], Arrays]
    batched: bool = True
    transformer: bool = False  # quantizers of other projects want to be told


@dataclass(frozen=True)
class Model:
    """A benchmark: its file, its inputs, how to draw data for them."""

    name: str
    path: Path
    inputs: tuple[str, ...]
    batch: int
    data: Data

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one run. The first look runs the model."""
        return sum(macs for _, macs in mac_table(onnx.load(self.path), self.feeds(1, seed=0)[0]))

    def feeds(self, count: int, seed: int) -> list[Feed]:
        """What `count` runs get, at the model's own batch size."""
        arrays = self.data.draw(count * self.batch, seed)
        if not self.data.batched:
            return [{name: a[k] for name, a in zip(self.inputs, arrays)} for k in range(count)]
        starts = range(0, count * self.batch, self.batch)
        return [
            {name: a[k : k + self.batch] for name, a in zip(self.inputs, arrays)} for k in starts
        ]

    def calibration(self) -> list[Feed]:
        """The same number of samples, whatever the batch size."""
        count = self.data.calibration_size
        if self.data.batched:
            count = max(1, count // self.batch)
        return self.feeds(count, seed=1)

    def test(self, count: int) -> list[Feed]:
        return self.feeds(count, seed=2)


NAMES = (
    "resnet50",
    "squeezenet",
    "shufflenet",
    "efficientnet-lite0",
    "ocr-det",
    "densenet121",
    "ocr-rec",
    "orientation",
    "inception_v1",
    "inception_v2",
    "bvlc_alexnet",
    "vgg19",
    "zfnet512",
    "magika",
    "silero-vad",
    "silero-vad-32",
    "minilm-16",
    "minilm-128",
    "minilm-512",
)
DEFAULT = NAMES[:5]
TRAINED = ("efficientnet-lite0", "orientation", "ocr-det", "ocr-rec", "minilm-128")


def model(name: str, batch: int = 1, logits: bool = False) -> Model:
    """The benchmark called `name` for this batch.

    With `logits` a softmax or sigmoid at the end is cut off: errors are measured before it, since
    saturated probabilities hide them.
    """
    if name in samples.LIGHT:
        data = Data(((3, 224, 224),), 64, _noise)
    elif name in _OWN:
        data = _OWN[name]
    else:
        raise SystemExit(f"no model is called {name!r}; there are: {', '.join(NAMES)}")
    path = folder() / f"{name}-{batch}{'-logits' if logits else ''}.onnx"
    if not path.exists():
        source = _without_last_activation(_source(name)) if logits else _source(name)
        front = (batch,) if data.batched else ()
        _write(_fixed(source, [(*front, *shape) for shape in data.shapes]), path)
    inputs = tuple(v.name for v in onnx.load(path).graph.input)
    return Model(name, path, inputs, batch, data)


def _first(draw: Callable[[int, int], tuple[np.ndarray, object]]) -> Callable[[int, int], Arrays]:
    """Of samples and their labels, the samples."""
    return lambda n, seed: draw(n, seed)[:1]


def _speech(windows: int) -> Data:
    """Windows of 32 ms at once (a live stream has one), and the two states of the LSTM."""
    state = (1, 1, 128)

    def draw(n: int, seed: int) -> Arrays:
        states = np.random.default_rng([seed, 8]).normal(0, 0.3, (2, n, *state))
        return (samples.speech(n, windows, seed), *states.astype(np.float32))

    return Data(((windows, 576), state, state), 100, draw, batched=False)


def _text(length: int) -> Data:
    """Token ids of texts that about fill the sequence."""
    return Data(((length,),), 100, lambda n, seed: sentences.batch(n, length, seed)[:1],
                transformer=True)  # fmt: skip


_OWN: dict[str, Data] = {
    "efficientnet-lite0": Data(((3, 224, 224),), 200, _first(samples.pictures)),
    "orientation": Data(((3, 48, 192),), 300, _first(samples.orientation_lines)),
    "ocr-rec": Data(((3, 48, 320),), 200, _first(samples.ocr_strings)),
    "ocr-det": Data(((3, 640, 640),), 40, _first(samples.ocr_pages)),
    "magika": Data(((2048,),), 200, lambda n, seed: (samples.file_bytes(n, seed),)),
    "silero-vad": _speech(1),
    "silero-vad-32": _speech(32),
    "minilm-16": _text(16),
    "minilm-128": _text(128),
    "minilm-512": _text(512),
}


def _source(name: str) -> onnx.ModelProto:
    if name in samples.LIGHT:
        return _any_batch(samples.light_model(name))
    if name == "efficientnet-lite0":
        return onnx.load(efficientnet.onnx_path(None))
    if name.startswith("minilm"):
        return minilm.proto(int(name.partition("-")[2]))
    return onnx.load(samples.fetch("silero-vad" if name.startswith("silero-vad") else name))


def _any_batch(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Reshapes with batch 1 written into them take the batch that comes."""
    shapes = {n.input[1] for n in proto.graph.node if n.op_type == "Reshape"}
    for tensor in proto.graph.initializer:
        dims = numpy_helper.to_array(tensor)
        if tensor.name in shapes and dims.ndim == 1 and dims.size > 1 and dims[0] == 1:
            tensor.CopyFrom(numpy_helper.from_array(np.array([0, *dims[1:]]), tensor.name))
    del proto.graph.value_info[:]
    return proto


def _without_last_activation(proto: onnx.ModelProto) -> onnx.ModelProto:
    graph, (output,) = proto.graph, proto.graph.output
    makers = {name: node for node in graph.node for name in node.output}
    name = output.name
    while makers[name].op_type in ("Identity", "Softmax", "Sigmoid"):
        node = makers[name]
        graph.node.remove(node)
        name = node.input[0]
    output.name = name
    return proto


def folder() -> Path:
    """Where prepared and quantized models are kept between runs."""
    path = samples.cache_folder() / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _noise(n: int, seed: int) -> Arrays:
    """Random weights deserve random pictures: smooth noise, as strong at each of three scales."""
    random = np.random.default_rng([seed, 5])
    total = np.zeros((n, 3, 224, 224), np.float32)
    for side in (14, 56, 224):
        coarse = random.normal(size=(n, 3, side, side)).astype(np.float32)
        total += coarse.repeat(224 // side, 2).repeat(224 // side, 3)
    return (total / np.float32(np.sqrt(3)),)


def _fixed(proto: onnx.ModelProto, shapes: list[Shape]) -> onnx.ModelProto:
    """Opset 13 or later, with the inputs' shapes written in and all others inferred from them."""
    for value, shape in zip(proto.graph.input, shapes, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dim.Clear()
            dim.dim_value = size
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    version = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if version < 13:
        # onnxruntime's quantizer needs 13 for weights per channel.
        proto = onnx.version_converter.convert_version(proto, 13)
    return shape_inference.infer_shapes(proto, data_prop=True)


def _write(proto: onnx.ModelProto, path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        stream.write(proto.SerializeToString())
    os.replace(stream.name, path)


def mac_table(proto: onnx.ModelProto, feed: Feed) -> list[tuple[onnx.NodeProto, int]]:
    """Each convolution or matrix product with its multiply-accumulates, by the shapes of a run."""
    products = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM")
    nodes = [n for n in proto.graph.node if n.op_type in products]
    shapes = _run_shapes(proto, {name for n in nodes for name in [*n.input, *n.output]}, feed)
    table = []
    for node in nodes:
        first, weight, result = (shapes[v] for v in (*node.input[:2], node.output[0]))
        if node.op_type == "Conv":
            macs = math.prod(result) * math.prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            macs = math.prod(first) * math.prod(weight[1:])
        elif node.op_type == "LSTM":
            macs = math.prod(first[:2]) * (math.prod(weight) + math.prod(shapes[node.input[2]]))
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            macs = math.prod(result) * first[0 if transposed else -1]
        table.append((node, macs))
    return table


def _run_shapes(proto: onnx.ModelProto, names: set[str], feed: Feed) -> dict[str, Shape]:
    shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    shapes |= {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input
    }
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    wanted = sorted(names - set(shapes) - {o.name for o in proto.graph.output} - {""})
    exposed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options)
    values = session.run(None, feed)
    found = [np.asarray(v).shape for v in values]
    return shapes | dict(zip([o.name for o in session.get_outputs()], found))

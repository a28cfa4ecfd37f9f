"""The runtimes that we measure ourselves against, each at what we found to be its best.

Every runner is made from a benchmark model, prepares its own files (quantized ones are cached) and
then answers `run(x) -> outputs`. Needs the `bench` extra; the product imports none of this.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("NNCF_CI", "1")  # no usage statistics leave this machine

import models
import numpy as np
import onnx
import onnxruntime as ort


class Runner(ABC):
    """One runtime with one precision, ready to be timed."""

    name: str

    def file(self, model: models.Model) -> Path:
        """The file that it loads; made, which may take minutes, when it is first asked for."""
        return model.path

    @abstractmethod
    def prepare(self, model: models.Model, threads: int) -> None:
        """Load `file(model)`, compile, be ready to run."""

    @abstractmethod
    def run(self, feed: models.Feed) -> list[np.ndarray]:
        """All outputs for one feed."""


class OnnxRuntime(Runner):
    """onnxruntime, float32: all graph optimisations, threads that spin while it is its turn."""

    name = "ort-f32"

    def prepare(self, model: models.Model, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning is its default and its fastest; see README.md on why it cannot hurt others here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        self.session = ort.InferenceSession(
            str(self.file(model)), options, providers=["CPUExecutionProvider"]
        )

    def run(self, feed: models.Feed) -> list[np.ndarray]:
        return [np.asarray(v) for v in self.session.run(None, feed)]


class OnnxRuntimeInt8(OnnxRuntime):
    """onnxruntime, static QDQ: u8 activations, s8 weights per channel, min-max calibration.

    Transformers are quantized dynamically, as its documentation advises, with weights per channel.

    Its own pre-processing (symbolic shapes, fusion of batch norms) runs first. `reduce_range` is
    off: it is for machines without VNNI.
    """

    name = "ort-int8"

    def file(self, model: models.Model) -> Path:
        return cached(model, f"ort{ort.__version__}", ".onnx", self.quantize)

    def quantize(self, model: models.Model, path: Path) -> None:
        from onnxruntime.quantization import (
            QuantFormat,
            QuantType,
            quantize_dynamic,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        ready = path.with_name("pre.onnx")
        source = path.with_name("source.onnx")
        onnx.save(_with_initializers(model.path), source)
        logging.getLogger().setLevel(logging.ERROR)
        if model.data.transformer:
            quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)
            return
        try:
            quant_pre_process(str(source), str(ready), auto_merge=True)
        except AssertionError:  # its symbolic inference gives up on some graphs
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(path),
            _reader(model),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=False,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _reader(model: models.Model) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[models.Feed] = iter(model.calibration())

        def get_next(self) -> models.Feed | None:  # type: ignore[override]
            return next(self.feeds, None)

    return Reader()


def _with_initializers(path: Path) -> onnx.ModelProto:
    """Constant nodes as initializers, which is where the quantizer looks for weights."""
    proto = onnx.load(path)
    kept = []
    for node in proto.graph.node:
        value = node.attribute[0] if node.op_type == "Constant" else None
        if value is not None and value.name == "value":
            tensor = proto.graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return proto


def fuse(model: models.Model, path: Path) -> None:
    """Constants and batch norms folded by onnxruntime, in plain ONNX."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])


class OpenVino(Runner):
    """OpenVINO for latency on one stream, float32 (no silent bf16)."""

    name = "ov-f32"
    precision: str | None = "f32"

    def prepare(self, model: models.Model, threads: int) -> None:
        import openvino as ov

        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        if self.precision:
            config["INFERENCE_PRECISION_HINT"] = self.precision
        core = ov.Core()
        self.compiled = core.compile_model(core.read_model(str(self.file(model))), "CPU", config)
        self.request = self.compiled.create_infer_request()

    def run(self, feed: models.Feed) -> list[np.ndarray]:
        inputs = list(feed.values())
        results = self.request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[k] for k in range(len(results))]


class OpenVinoInt8(OpenVino):
    """OpenVINO on a model from `nncf.quantize` with NNCF's own defaults.

    Batch norms are folded first: NNCF would quantize between a convolution and its batch norm.
    """

    name = "ov-int8"
    preset: str | None = None

    def file(self, model: models.Model) -> Path:
        import nncf

        label = f"nncf{nncf.__version__}-{self.preset or 'default'}-fused"
        return cached(model, label, ".xml", self.quantize)

    def quantize(self, model: models.Model, path: Path) -> None:
        import nncf
        import openvino as ov

        logging.getLogger("nncf").setLevel(logging.ERROR)
        rows = [list(feed.values()) for feed in model.calibration()]
        quantized = nncf.quantize(
            ov.Core().read_model(str(cached(model, f"fused{ort.__version__}", ".onnx", fuse))),
            nncf.Dataset(rows),
            preset=nncf.QuantizationPreset(self.preset) if self.preset else None,
            model_type=nncf.ModelType.TRANSFORMER if model.data.transformer else None,
            subset_size=len(rows),
        )
        ov.save_model(quantized, str(path), compress_to_fp16=False)


class OpenVinoInt8Mixed(OpenVinoInt8):
    """The same with NNCF's mixed preset: activations asymmetric where they are signed."""

    name = "ov-int8-mixed"
    preset = "mixed"


class OpenVinoBf16(OpenVino):
    """OpenVINO left to choose: bf16 on machines that have it. For the record, not for ratios."""

    name = "ov-auto"
    precision = None


PEERS: dict[str, type[Runner]] = {
    r.name: r
    for r in (
        OnnxRuntime,
        OnnxRuntimeInt8,
        OpenVino,
        OpenVinoInt8,
        OpenVinoInt8Mixed,
        OpenVinoBf16,
    )
}
DEFAULT = ("ort-f32", "ort-int8", "ov-f32", "ov-int8")


def cached(model: models.Model, label: str, suffix: str, make: Any) -> Path:
    """The file that `make(model, path)` writes, kept by the model's content and `label`."""
    content = hashlib.sha256(model.path.read_bytes()).hexdigest()[:12]
    folder = models.folder() / f"{model.path.stem}-{label}-{content}"
    path = folder / f"model{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=models.folder()) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            make(model, made / f"model{suffix}")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(made, folder)
    return path

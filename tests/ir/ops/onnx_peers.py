"""One-node ONNX models from declarations, and their results by other runtimes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from op_samples import Sample
from taut.ir import DType

Array = np.ndarray[Any, Any]
OURS = ("outputs", "num_outputs")  # fields that ONNX's node says by its outputs


def model(sample: Sample, results: int, opset: int) -> onnx.ModelProto:
    """The sample as a model of one node, operands as inputs x0, x1, ..."""
    op = sample.op
    back = {field: name for name, field in op.renamed}
    attributes = {back.get(k, k): _value(v) for k, v in op.given() if k not in OURS}
    names = ["" if x is None else f"x{n}" for n, x in enumerate(sample.operands)]
    if op.name == "split" and len(names) == 1 and opset >= 18:
        attributes["num_outputs"] = results
    outputs = [f"y{n}" for n in range(results)]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in zip(names, sample.operands)
        if x is not None
    ]
    assert op.onnx is not None
    graph = helper.make_graph(
        [helper.make_node(op.onnx, names, outputs, **attributes)],
        "sample", inputs, [helper.make_empty_tensor_value_info(o) for o in outputs],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _value(v: Any) -> Any:
    if isinstance(v, bool):
        return int(v)
    if isinstance(v, DType):
        return helper.np_dtype_to_tensor_dtype(v.numpy)
    if isinstance(v, np.ndarray):
        return numpy_helper.from_array(v)
    return list(v) if isinstance(v, tuple) else v


def run(sample: Sample, results: int) -> list[Any]:
    """The peer's results."""
    feeds = {f"x{n}": x for n, x in enumerate(sample.operands) if x is not None}
    if sample.peer == "ref":
        newest = min(onnx.defs.onnx_opset_version(), 25)
        if sample.op.name in ("mod", "bit_shift", "cum_prod"):
            newest = onnx.defs.onnx_opset_version()
        return list(ReferenceEvaluator(model(sample, results, newest)).run(None, feeds))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model(sample, results, opset_of(sample.op.onnx or "")).SerializeToString(),
        options, providers=["CPUExecutionProvider"],
    )  # fmt: skip
    return list(session.run(None, feeds))


@functools.cache
def opset_of(op_type: str) -> int:
    """The newest opset under which onnxruntime surely has the op's newest form."""
    return {"Resize": 19, "Swish": 24, "RMSNormalization": 23}.get(op_type, 22)

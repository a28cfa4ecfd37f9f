"""Who else can run a drawn model: onnxruntime, PyTorch, and ONNX's reference evaluator.

An oracle takes a model and inputs by name and gives its outputs, or raises Refused where it does
not take the model; that says nothing about the model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, shape_inference

from taut.ir import UnsupportedError
from taut.ir.op import Array
from taut.ir.standard import DTYPES

from .refused import Refused

Feeds = Mapping[str, Array]
Oracle = Callable[[ModelProto, Feeds], list[Array]]


def onnxruntime(model: ModelProto, feeds: Feeds) -> list[Array]:
    """All optimisations off: each op as the peer itself understands it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    try:
        session = ort.InferenceSession(model.SerializeToString(), options,
                                       providers=["CPUExecutionProvider"])  # fmt: skip
        wanted = {i.name for i in session.get_inputs()}
        made = session.run(None, {k: v for k, v in feeds.items() if k in wanted})
    except Exception as error:  # its own exception types share no base
        raise Refused(" ".join(str(error).split())[:200]) from error
    return _arrays(made)


def evaluator(model: ModelProto, feeds: Feeds) -> list[Array]:
    """ONNX's own reference evaluator: NumPy, one op after the other."""
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"):
            made = ReferenceEvaluator(model).run(None, dict(feeds))
    except Exception as error:  # whatever its ops raise
        raise Refused(f"{type(error).__name__}: {error}"[:200]) from error
    arrays = _arrays(made)
    for info, array in zip(_inferred(model).graph.output, arrays):
        stated = DTYPES.get(info.type.tensor_type.elem_type)
        if stated is not None and array.dtype != stated.numpy:
            raise Refused(f"breaks its own schema: {array.dtype} where {stated} is stated")
    return arrays


def _inferred(model: ModelProto) -> ModelProto:
    """The model with the types that its outputs have by ONNX's schemas."""
    try:
        return shape_inference.infer_shapes(model)
    except Exception:  # shapes that the evaluator computes all the same
        return model


def torch(model: ModelProto, feeds: Feeds) -> list[Array]:
    """PyTorch, for the ops that its table has."""
    from .torch_oracle import run

    return _arrays(run(model, feeds))


def _arrays(made: Any) -> list[Array]:
    found = []
    for value in made:
        if not isinstance(value, np.ndarray | np.generic | float | int):
            raise Refused(f"gives a {type(value).__name__}")
        found.append(np.asarray(value))
    return found


ORACLES: dict[str, tuple[Oracle, ...]] = {
    "onnxruntime": (onnxruntime, evaluator), "torch": (torch,), "reference": (evaluator,),
}  # fmt: skip
"""By the name that the command takes: who is asked, the next one where one refuses."""

_EXTRAS = {"onnxruntime": "test", "torch": "torch"}


def oracles(name: str) -> tuple[Oracle, ...]:
    """Raises UnsupportedError where there is no such peer or it is not installed."""
    if name not in ORACLES:
        raise UnsupportedError(f"there is no peer {name!a}", hint=f"use one of {sorted(ORACLES)}")
    if name in _EXTRAS and importlib.util.find_spec(name) is None:
        extra = _EXTRAS[name]
        raise UnsupportedError(f"{name} is not installed",
                               hint=f"install it with: pip install 'taut[{extra}]'")  # fmt: skip
    return ORACLES[name]

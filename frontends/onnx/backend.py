"""Taut as an `onnx.backend.base.Backend`, so that ONNX's own test suite runs on it.

The device is "CPU". The target is `cpu` where that backend can compile the model and `reference`
where it refuses (`fallbacks` counts those); `target=` or the environment variable
`TAUT_ONNX_TARGET` names one for all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnx.backend.base import Backend, BackendRep

from ...backends.base import Program, compile
from ...ir import Array, CompileError, DType, FeedError, Graph, UnsupportedError
from ...ir.standard import ONNX_TYPES
from . import load_onnx

TARGET = "TAUT_ONNX_TARGET"


class TautRep(BackendRep):
    """A compiled model."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph, self.program = graph, program
        self.names = list(graph.signature.inputs)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Array, ...]:
        """Outputs in the model's order; inputs likewise, or by name. Raises FeedError."""
        if isinstance(inputs, dict):
            return tuple(self.program(**inputs).values())
        arrays = inputs if isinstance(inputs, Sequence) else (inputs,)
        feeds = [_plain(a, n) for a, n in zip(arrays, self.names)]
        made = self.program(*feeds, *arrays[len(feeds) :])
        return tuple(made[name] for name in self.graph.output_names)


class TautBackend(Backend):
    """See the module. `prepared` counts programs by target, `fallbacks` why cpu refused."""

    target: str | None = None
    prepared: ClassVar[Counter[str]] = Counter()
    fallbacks: ClassVar[Counter[str]] = Counter()

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        from . import unsupported_ops

        return cls.supports_device(device) and not unsupported_ops(model)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> TautRep:
        """Import and compile. Raises TautErrors."""
        if not cls.supports_device(device):
            raise UnsupportedError(f"device {device!a} is not supported", hint="use CPU")
        graph = load_onnx(model)
        target = kwargs.get("target") or cls.target or os.environ.get(TARGET)
        program, target = cls._compile(graph, target)
        cls.prepared[target] += 1
        return TautRep(graph, program)

    @classmethod
    def _compile(cls, graph: Graph, target: str | None) -> tuple[Program, str]:
        if target is not None:
            return compile(graph, target), target
        try:
            return compile(graph, "cpu"), "cpu"
        except (CompileError, UnsupportedError) as error:
            cls.fallbacks[str(error)] += 1
            return compile(graph, "reference"), "reference"

    @classmethod
    def run_model(
        cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Array, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Array, ...]:
        """One node over arrays, one for each operand given. `opset_version` is its opset."""
        names = [i for i in dict.fromkeys(node.input) if i]
        arrays = [_plain(a, n) for a, n in zip(inputs, names)]
        types = [helper.make_tensor_value_info(n, ONNX_TYPES[DType.of(a)], a.shape)
                 for n, a in zip(names, arrays)]  # fmt: skip
        outputs = [ValueInfoProto(name=o) for o in node.output if o]
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        imports = [helper.make_opsetid(node.domain, opset)]
        graph = helper.make_graph([node], "node", types, outputs)
        return cls.run_model(helper.make_model(graph, opset_imports=imports), arrays, device,
                             **kwargs)  # fmt: skip

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


def _plain(value: Any, name: str) -> Array:
    """An input as an array of one of Taut's element types."""
    array = np.asarray(value)
    try:
        DType.of(array)
    except Exception as error:
        raise FeedError(f"holds {array.dtype}, which is no tensor", node=name) from error
    return array


prepare = TautBackend.prepare
run_model = TautBackend.run_model
supports_device = TautBackend.supports_device

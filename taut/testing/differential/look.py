"""What a row of known differences may look at: the drawn model, its numbers, and both results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from taut.ir import DType, Graph, Value, interpret
from taut.ir.op import Array

from .draw import Case


@dataclass(frozen=True)
class Seen:
    """One ONNX node, with what the reference computes before and behind it."""

    proto: onnx.NodeProto
    values: Mapping[str, Array]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        for a in self.proto.attribute:
            if a.name == name:
                value = onnx.helper.get_attribute_value(a)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def texts(self, name: str) -> list[str]:
        return [text.decode() for text in self.get(name, ())]

    def given(self, place: int) -> bool:
        """Whether the node has an operand there."""
        return place < len(self.proto.input) and bool(self.proto.input[place])

    def operand(self, place: int) -> Array | None:
        """Its contents; None where it is left out, or where the reference does not get so far."""
        return self.values.get(self.proto.input[place]) if self.given(place) else None

    def wide(self, place: int = 0) -> Array:
        """The operand in double precision; empty where it is not known."""
        found = self.operand(place)
        return np.zeros(0) if found is None else found.astype(np.float64)

    @property
    def result(self) -> Array | None:
        return self.values.get(self.proto.output[0])

    def of(self, kinds: str, place: int = 0) -> bool:
        """Whether the operand's element type is one of these kinds, "f" for every float."""
        found = self.operand(place)
        if found is None:
            return False
        kind = "f" if DType.of(found).is_float else found.dtype.kind
        return kind in kinds

    def is_f64(self) -> bool:
        found = self.operand(0)
        return found is not None and found.dtype == np.float64

    def halves(self, place: int) -> bool:
        found = self.operand(place)
        return found is not None and DType.of(found) in (DType.f16, DType.bf16)

    def same(self) -> bool:
        """Whether it pads to the size of its image."""
        return self.get("auto_pad", "NOTSET").startswith("SAME")

    def holed(self) -> bool:
        return any(d > 1 for d in self.get("dilations", ()))


@dataclass(frozen=True)
class Look:
    """The case, its graph as Taut reads it, and one output (or several) in both results."""

    case: Case
    graph: Graph
    reason: str
    want: Sequence[Array]
    got: Sequence[Array]
    outputs: Sequence[str]  # names of what differs

    def nodes(self, op: str) -> list[onnx.NodeProto]:
        """Nodes of an ONNX op on which what differs depends."""
        return [n for n in self._above if n.op_type == op]

    @cached_property
    def _above(self) -> list[onnx.NodeProto]:
        if self.case.model is None:
            return []
        wanted, found = set(self.outputs), []
        for node in reversed(self.case.model.graph.node):
            if wanted & set(node.output):
                wanted |= {*node.input, *_captured(node)}
                found.append(node)
        return found[::-1]

    def seen(self, *ops: str) -> list[Seen]:
        return [Seen(n, self.values) for op in ops for n in self.nodes(op)]

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Contents of inputs and initializers by name."""
        found = dict(self.case.feeds)
        if self.case.model is not None:
            for t in self.case.model.graph.initializer:
                found[t.name] = onnx.numpy_helper.to_array(t)
        return found

    @cached_property
    def values(self) -> dict[str, Array]:
        """`arrays`, and what the reference computes of them, by the names of the model."""
        found = dict(self.arrays)
        if self.case.model is None:
            return found
        names = {n.output[0]: list(n.output) for n in self.case.model.graph.node}

        def see(value: Value, array: Array) -> None:
            made = names.get(value.node.name, [value.node.name])
            if value.index < len(made):  # the model need not name all results
                found[made[value.index]] = array

        with np.errstate(all="ignore"):
            interpret(self.graph, self.case.feeds, watch=see)
        return found

    @property
    def opset(self) -> int:
        assert self.case.model is not None
        return next(o.version for o in self.case.model.opset_import if not o.domain)

    def is_constant(self, op: str, place: int) -> bool:
        """Whether the operand of the first such node is an initializer."""
        assert self.case.model is not None
        names = {t.name for t in self.case.model.graph.initializer}
        return any(n.input[place] in names for n in self.nodes(op)[:1])

    def pairs(self) -> list[tuple[Array, Array]]:
        """Outputs of one shape, in double precision."""
        return [(a.astype(np.float64), b.astype(np.float64))
                for a, b in zip(self.want, self.got) if a.shape == b.shape]  # fmt: skip

    def largest(self) -> float:
        """The largest finite magnitude among float operands."""
        found = [a.astype(np.float64) for a in self.arrays.values() if a.dtype.kind not in "iub"]
        each = [float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in found]
        return max(each, default=0.0)


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that a node's bodies read: their own among them, which does no harm."""
    return {name for a in node.attribute if a.HasField("g")
            for n in a.g.node for name in (*n.input, *_captured(n))}  # fmt: skip

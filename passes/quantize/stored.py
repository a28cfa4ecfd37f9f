"""Weights stored in a grid and read as floats; activations and arithmetic stay what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np

from ...ir import Builder, Graph, Node, Value
from ...ir.op import Array, positions
from ...ir.ops.convolution import Conv
from ...ir.ops.linear import Gemm, MatMul
from ..base import Outcome
from ..context import Context
from ..rewrite import erase_dead
from .grid import ScaledGrid
from .observe import Moments, Observer, moment_axis
from .schemes import grid_class
from .weights import importance


@dataclass
class Store:
    """Which weights are stored: constant floats of layers with weights (`Op.weighted`)."""

    graph: Graph
    scheme: str
    per_channel: bool = True
    least_error: bool = True
    skip: tuple[str, ...] = ()
    outcome: Outcome = field(default_factory=Outcome)

    def run(self, context: Context, samples: int) -> Outcome:
        """With samples, an error counts by the second moment of the input that it multiplies."""
        found = [n for n in self.graph.nodes() if self._fits(n)]
        moments = self._moments(found, context, samples)
        for node in found:
            if context.gate("quantize", node.name):
                self._store(node, moments.get(node))
        if not found:
            self.outcome.note("nothing is quantized: no layer has a weight that could be")
        erase_dead(self.graph, self.graph.nodes()[::-1])
        return self.outcome

    def _fits(self, node: Node) -> bool:
        layer = node.op.weighted
        if layer is None or layer.integer:
            return False
        weight = self.graph.operand(node, _place(node))
        why = ""
        if node.name in self.skip:
            why = "it is named in `skip`"
        elif weight is None or weight.array is None:
            why = "its weight is computed"
        elif not weight.type.dtype.is_float:
            why = f"its weight is {weight.type}"
        elif not np.isfinite(weight.array.astype(np.float32)).all():
            why = "its weight is not finite in f32"
        if why:
            self.outcome.missed(node, f"not quantized: {why}")
        return not why

    def _moments(self, nodes: list[Node], context: Context, samples: int) -> dict[Node, Moments]:
        """Of each layer's input, where there are samples and they would be of use."""
        if not self.least_error or context.data is None:
            return {}
        inputs = {
            n: self.graph.operand(n, 0) for n in nodes if isinstance(n.op, Conv | Gemm | MatMul)
        }
        axes = {x: moment_axis(n) for n, x in inputs.items() if x is not None}
        observer = Observer(axes, axes)
        observer.run(self.graph, context, samples, self.outcome)
        made = {n: observer.moments[x] for n, x in inputs.items() if x is not None}
        return {n: m for n, m in made.items() if m.count and m.axis == moment_axis(n)}

    def _store(self, node: Node, moments: Moments | None) -> None:
        place = _place(node)
        weight = cast(Value, self.graph.operand(node, place))
        array = cast(Array, weight.array).astype(np.float32)
        channels = _axis(node, array.ndim)
        rows = np.moveaxis(array, channels, 0).reshape(array.shape[channels], -1)
        matters = None
        if moments is not None:
            matters = importance(node, array, moments.variance + 1e-3 * moments.mean**2)
            matters = matters if matters is not None and matters.shape == rows.shape else None
        axis = channels if self.per_channel and array.ndim > 1 else None
        kind = cast(type[ScaledGrid], grid_class(self.scheme))
        grid = kind.search(rows.astype(np.float64), axis, self.least_error, matters)
        b, name = Builder(self.graph, before=node), weight.node.name
        codes = b.constant(grid.encode(array), f"{name}.{grid.dtype.value}")
        real = grid.read(b, codes, name)
        if weight.type.dtype is not real.type.dtype:
            real = b.cast(real, to=weight.type.dtype, name=f"{name}.cast")
        self.graph.set_operand(node, place, real)
        self.outcome.applied("quantized", node, f"its weight is stored in {grid.dtype.value}")


def _place(node: Node) -> int:
    """Which operand the weight is."""
    assert node.op.weighted is not None
    return positions(type(node.op))[node.op.weighted.weight]


def _axis(node: Node, rank: int) -> int:
    """The weight's axis of output channels (of a vector its only one)."""
    assert node.op.weighted is not None
    outputs, _ = node.op.weighted.axes(node.op)
    return outputs % rank

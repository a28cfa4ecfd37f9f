"""From trained quantizers to constants."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...ir import DType, Graph, Limits, Node, PassError, Value
from ...ir.interpret import run_node
from ...ir.op import Array
from ...ir.ops.activation import Clip
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ...ir.ops.rounded_bias import RoundBias
from ...ir.ops.scaled_gradient import ScaleGradient
from ...ir.ops.structure import Input
from ..base import Outcome
from ..rewrite import erase_dead
from .grids.affine import LARGEST, SMALLEST
from .insert import insert_bias, insert_weight
from .place import normalized_product, takes_bias
from .prepare import channel_affine
from .weights import Weights, weight_axis


class Finalizer:
    """One run over one graph."""

    def __init__(self, graph: Graph, limits: Limits, outcome: Outcome) -> None:
        self.graph, self.limits, self.outcome = graph, limits, outcome
        self.made: dict[Value, Value] = {}

    def run(self) -> None:
        known = self._evaluate()
        for node, position in list(self._settings()):
            self._settle(node, position, known)
        for node in list(self.graph.of(Clip)):
            self._drop(node)
        for node in list(self.graph.of(BatchNormalization)):
            self._fold(node)
        for node in self.graph.nodes():
            self._round_bias(node)
        erase_dead(self.graph, self.graph.nodes()[::-1])
        self._rename()

    # ---- constants -----------------------------------------------------------------------------

    def _settings(self) -> Iterator[tuple[Node, int]]:
        """What of quantizers is a constant in the end: scales, zero points, bounds of the clips
        before them, integers of weights, biases.
        """
        for node in self.graph.nodes():
            if isinstance(node.op, QuantizeLinear):
                yield from ((node, i) for i in (1, 2))
                source = self.graph.operand(node, 0)
                if source is not None and isinstance(source.node.op, Clip):
                    yield from ((source.node, i) for i in (1, 2))
            elif isinstance(node.op, DequantizeLinear):
                yield from ((node, i) for i in (0, 1, 2))
            elif isinstance(node.op, RoundBias):
                yield from ((u.node, u.position) for u in self.graph.uses(node[0]))

    def _evaluate(self) -> dict[Value, Array]:
        """What of these depends on constants only, computed by the reference."""
        graph, order, fixed = self.graph, self.graph.nodes(), set[Node]()
        for node in order:
            pure = node.op.pure or isinstance(node.op, ScaleGradient)
            if pure and not isinstance(node.op, Input) and fixed.issuperset(graph.nx.pred[node]):
                fixed.add(node)
        needed = {v.node for n, i in self._settings() if (v := _operand(graph, n, i)) is not None}
        needed &= fixed
        for node in reversed(order):
            if node in fixed and any(n in needed and n in fixed for n in graph.nx.succ[node]):
                needed.add(node)
        known: dict[Value, Array] = {}
        for node in order:
            if node in needed:
                operands = graph.operands(node)
                given = [None if v is None else known[v] for v in operands]
                if isinstance(node.op, QuantizeLinear | DequantizeLinear):
                    assert operands[1] is not None and given[1] is not None
                    check_scale(given[1], operands[1].node)
                made = run_node(node, given, self.limits)
                known.update({node[i]: a for i, a in enumerate(made)})
        return known

    def _settle(self, node: Node, position: int, known: dict[Value, Array]) -> None:
        value = _operand(self.graph, node, position)
        if value is None or value.array is not None or value not in known:
            return
        if position == 1 and isinstance(node.op, QuantizeLinear | DequantizeLinear):
            check_scale(known[value], value.node)
        if value not in self.made:
            name = f"{value.node.name}.final"
            self.made[value] = self.graph.constant(known[value], name, before=value.node)
            self.outcome.count("constants")
        self.graph.set_operand(node, position, self.made[value])

    def _rename(self) -> None:
        """Give constants the names of what they were computed by."""
        for value, constant in self.made.items():
            name = value.node.name
            if constant.type.dtype is DType.i8:
                name = f"{name.removesuffix('.quantized')}.int8"
            if constant.node in self.graph and self.graph.find(name) is None:
                self.graph.rename(constant.node, name)

    # ---- what is no longer needed ----------------------------------------------------------------

    def _drop(self, node: Node) -> None:
        """Take away a clip to all integers of its quantization, which saturates by itself."""
        graph, users = self.graph, self.graph.users(node)
        x, *bounds = [*graph.operands(node), None, None][:3]
        if not users or not all(isinstance(u.op, QuantizeLinear) for u in users) or x is None:
            return
        limits = [v.array for v in bounds if v is not None and v.array is not None]
        if len(limits) < 2 or not all(_saturates(graph, u, limits) for u in users):
            return
        graph.replace_all_uses(node[0], x)
        self.outcome.count("clips dropped")

    def _fold(self, node: Node) -> None:
        """Put a batch normalization into the scales and the bias of its product."""
        graph, product = self.graph, normalized_product(self.graph, node)
        affine = channel_affine(graph, node)
        weight = None if product is None else _integers(graph, graph.operand(product, 1))
        bias = None if product is None else graph.operand(product, 2)
        if product is None or affine is None or weight is None:
            return
        if bias is not None and bias.array is None:
            self.outcome.missed(node, "stays: the bias of its product is computed")
            return
        a, shift = affine[1]
        integers, scale = weight
        axis = weight_axis(product)
        scales = np.broadcast_to(scale.astype(np.float64), a.shape) * np.abs(a)
        lost = ~(scales > SMALLEST)  # such channels are their bias
        sign = np.where(lost, 0, np.sign(a)).astype(np.int8)
        spread = sign.reshape([-1 if i == axis else 1 for i in range(integers.ndim)])
        made = Weights(integers * spread, np.where(lost, 1, scales).astype(np.float32), None, axis)
        real = shift if bias is None or bias.array is None else bias.array.reshape(-1) * a + shift
        insert_weight(graph, product, made, _weight_name(graph, product))
        named = graph.constant(real.astype(np.float32), f"{product.name}.bias", before=product)
        graph.set_operand(product, 2, named)
        graph.replace_all_uses(node[0], product[0])
        self.outcome.applied("normalizations folded", node, "into scales and bias")

    def _round_bias(self, node: Node) -> None:
        """Write a float bias as int32 in steps of the accumulator."""
        graph = self.graph
        if not takes_bias(node):
            return
        bias, weight = graph.operand(node, 2), _integers(graph, graph.operand(node, 1))
        step = _scale_of(graph, graph.operand(node, 0))
        if bias is None or bias.array is None or weight is None or step is None:
            return
        scale = np.asarray(weight[1].astype(np.float64) * step.astype(np.float64))
        if scale.ndim > 1 or not np.abs(bias.array.reshape(-1) / scale).max(initial=0) < 2**31 - 1:
            self.outcome.missed(node, "its bias stays float: int32 does not hold it")
            return
        insert_bias(graph, node, bias.array, scale)
        self.outcome.count("biases")


def _operand(graph: Graph, node: Node, position: int) -> Value | None:
    operands = graph.operands(node)
    return operands[position] if position < len(operands) else None


def _weight_name(graph: Graph, product: Node) -> str:
    old = graph.operand(product, 1)
    return "" if old is None else old.node.name.removesuffix(".dequantized")


def check_scale(scale: Array, node: Node) -> None:
    """Raise PassError for a scale that training has lost."""
    if not np.isfinite(scale).all() or not ((scale > 0) & (scale <= LARGEST)).all():
        raise PassError("is no finite positive scale", node=node.name,
                        hint="train with a smaller learning rate or scale_rate")  # fmt: skip


def _scale_of(graph: Graph, value: Value | None) -> Array | None:
    """The one constant scale that a value is dequantized by."""
    if value is None or not isinstance(value.node.op, DequantizeLinear):
        return None
    scale = graph.operand(value.node, 1)
    found = None if scale is None else scale.array
    return found.reshape(()) if found is not None and found.size == 1 else None


def _integers(graph: Graph, value: Value | None) -> tuple[Array, Array] | None:
    """The constant i8 integers of a symmetric weight, and the scale: one or one a channel."""
    if value is None or not isinstance(value.node.op, DequantizeLinear):
        return None
    q, scale, zero = [*graph.operands(value.node), None][:3]
    if q is None or scale is None or q.array is None or scale.array is None:
        return None
    if q.type.dtype is not DType.i8 or value.node.op.block_size or zero is not None:
        return None
    array = scale.array.reshape(()) if scale.array.size == 1 else scale.array
    return q.array, array


def _saturates(graph: Graph, node: Node, limits: list[Array]) -> bool:
    """Whether a quantization's own bounds are these."""
    scale, zero = [*graph.operands(node), None][1:3]
    if scale is None or scale.array is None or scale.array.size != 1:
        return False
    if zero is None or zero.array is None:
        return False
    step, at = float(scale.array.reshape(())), int(zero.array.reshape(()))
    if not all(a.size == 1 and np.isfinite(a).all() for a in limits):
        return False
    ends = [round(float(a.reshape(())) / step) + at for a in limits]
    return ends == list(node.type.dtype.bounds)

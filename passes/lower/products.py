"""Convolutions and matrix products of integers: their accumulators."""

from __future__ import annotations

import numpy as np

from ...ir import Graph, Node, Op, Value
from ...ir.op import Array
from ...ir.ops.convolution import Conv
from ...ir.ops.elementwise import Add, Mul
from ...ir.ops.fused_convolution import SLOPED, FusedConv
from ...ir.ops.integer import ConvInteger, MatMulInteger
from ...ir.ops.linear import Gemm
from ...ir.ops.quantization import DequantizeLinear
from ..quantize.functions import Step, fused_step
from .match import Integers, WeightIntegers, integers_of, weight_of
from .scales import Refusal
from .terms import LARGEST, Sum, Term, bounded, farthest, operand_term


def fused(op: Op) -> FusedConv:
    """A convolution's settings as those of a fused one, of which a plain one has the defaults."""
    if isinstance(op, FusedConv):
        return op
    given = {a.name: getattr(op, a.name) for a in Conv.attributes} if isinstance(op, Conv) else {}
    return FusedConv(**given)


def gemm(op: Op) -> Gemm:
    """A matrix product's settings as those of a gemm, of which a plain one has the defaults."""
    return op if isinstance(op, Gemm) else Gemm()


def residual_of(graph: Graph, node: Node) -> Value | None:
    """What a fused convolution adds."""
    fused = isinstance(node.op, FusedConv)
    return graph.operands_of(node).get("residual") if fused else None


class Products:
    """Makes the integer nodes of products just before the float ones that they stand for, once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[Node, bytes], Term] = {}
        self.rounded = 0.0  # what rounding the last bias changed, in steps of its accumulator

    def _convolution(
        self, node: Node, factor: Array | None = None, shift: Array | None = None, name: str = ""
    ) -> Sum:
        """A convolution with its residual and activation, or with a factor and a shift of channels
        that follow it; `name` is then that of the result.
        """
        op, residual = fused(node.op), residual_of(self.graph, node)
        if op.residual_last and residual is not None:
            raise Refusal("its residual comes after the activation")
        if factor is not None and (residual is not None or op.activation):
            raise Refusal("what is added to it or its activation is scaled by channel")
        terms = [self.convolved(node, factor, shift, name)]
        if residual is not None:
            found = integers_of(self.graph, residual)
            if found is None:
                raise Refusal("its residual is not quantized")
            terms.append(operand_term(found))
        step = self.activation(node)
        return Sum(tuple(terms), () if step is None else (step,))

    def activation(self, node: Node) -> Step | None:
        """The activation of a fused convolution. Raises Refusal for one that differs by channel."""
        op = fused(node.op)
        if op.activation == SLOPED:
            raise Refusal("its activation has a slope for each channel")
        return fused_step(op.activation, op.params)

    def convolved(
        self, node: Node, factor: Array | None = None, shift: Array | None = None, name: str = ""
    ) -> Term:
        """The accumulator of a convolution, without what follows."""
        read = self.graph.operands_of(node)
        x, w = self._input(read.x), self._weight(read.weight, 0)
        op = ConvInteger(**{a.name: getattr(node.op, a.name) for a in ConvInteger.attributes})
        outputs = w.array.shape[0]
        scale = np.broadcast_to(w.scale * self._input_step(node, x, w), (outputs,))
        bias = self._bias(read.get("bias"), scale, outputs)
        if factor is not None and shift is not None:
            w, scale, real = scaled(w, scale, bias, factor, shift)
            bias = self._rounded(real)
        return self._accumulate(node, x, w, 0, scale, bias, op, name)

    def _input_step(self, node: Node, x: Integers, w: WeightIntegers) -> Array:
        """The input's step for each output channel."""
        if not x.grid.scales:
            return x.grid.step
        outputs, per_group = w.array.shape[:2]
        group = fused(node.op).group
        if per_group != 1 or group != len(x.grid.scales):
            raise Refusal("its input has scales by channel, which it mixes")
        return np.repeat(x.grid.step, outputs // group)

    def _matrix(self, node: Node, extra: Array | None, name: str = "") -> Term:
        """A matrix product, with an `extra` bias that a later addition, of this name, brings."""
        operands = [*self.graph.operands(node), None][:3]
        op = gemm(node.op)
        if op.transA:
            raise Refusal("its first operand is transposed")
        if node.type.shape is None:
            raise Refusal("its rank is not known")
        weight = weight_of(self.graph, operands[1])
        if weight is None or weight.array.ndim != 2:
            return self._matrices(node, operands, extra)
        transposed = op.transB
        x, w = self._input(operands[0]), self._weight(operands[1], 0 if transposed else 1)
        columns = w.array.shape[0 if transposed else 1]
        if x.grid.scales:
            raise Refusal("its input has scales by channel, which it mixes")
        alpha, beta = self._factors(node)
        scale = np.broadcast_to(w.scale * x.grid.scale * alpha, (columns,))
        bias = self._bias(operands[2] if beta else None, scale / (beta or 1.0), columns)
        if extra is not None:
            added = extra.astype(np.float64).reshape(-1) / scale
            bias = self._rounded(added if bias is None else bias + added)
        if transposed:
            w = w._replace(array=np.ascontiguousarray(w.array.T),
                           axis=None if w.axis is None else 1)  # fmt: skip
        return self._accumulate(node, x, w, 1, scale, bias, MatMulInteger(), name)

    def _factors(self, node: Node) -> tuple[float, float]:
        """alpha and beta of a gemm, 1 elsewhere."""
        op = gemm(node.op)
        if not op.alpha > 0:
            raise Refusal("alpha is not positive")
        return op.alpha, op.beta

    def _matrices(self, node: Node, operands: list[Value | None], extra: Array | None) -> Term:
        """A product of two tensors that are both computed, as in attention."""
        if integers_of(self.graph, operands[1], constants=True) is None:
            raise Refusal(missing_weight(self.graph, operands[1]))
        found = [self._matrix_operand(v) for v in operands[:2]]
        if gemm(node.op).transB or operands[2] is not None or extra is not None:
            raise Refusal("its second operand is computed, and transposed or with a bias")
        a, b = found
        shape = a.value.type.shape
        length = shape[-1] if shape else None
        if not isinstance(length, int):
            raise Refusal("the length of its sums is not known yet")
        largest = length * farthest(a) * farthest(b)
        if largest > LARGEST:
            raise Refusal(f"its accumulator could reach {largest:.3g} and overflow int32")
        if (node, b"") in self.made:
            return self.made[node, b""]
        zeros = [self.graph.constant(np.asarray(v.grid.zero, v.grid.dtype.numpy),
                                     f"{node.name}.{which}_zero_point", before=node)
                 for v, which in zip(found, "ab")]  # fmt: skip
        made = self.graph.add(MatMulInteger(), a.value, b.value, *zeros,
                              name=f"{node.name}.accumulator", before=node)  # fmt: skip
        scale = np.asarray(a.grid.scale * b.grid.scale * self._factors(node)[0])
        term = Term(made[0], 0, scale, 1, largest)
        self.made[node, b""] = term
        return term

    def _matrix_operand(self, value: Value | None) -> Integers:
        """Integers with one scale for the tensor, computed or constant."""
        found = integers_of(self.graph, value, constants=True)
        if found is None:
            raise Refusal("an operand is not quantized per tensor to 8 bits")
        if found.grid.scales:
            raise Refusal("an operand has scales by channel, which it mixes")
        return found

    def _accumulate(
        self, node: Node, x: Integers, w: WeightIntegers, axis: int, scale: Array,
        bias: Array | None, op: ConvInteger | MatMulInteger, name: str = "",
    ) -> Term:  # fmt: skip
        name = name or node.name
        key = (node, scale.tobytes() + (b"" if bias is None else bias.tobytes()))
        if key in self.made:
            return self.made[key]
        shifted = w.shifted()
        largest = self._largest(shifted, axis, bias)
        if largest > LARGEST:
            raise Refusal(f"its accumulator could reach {largest:.3g} and overflow int32")
        graph = self.graph
        integers, offset = centred(shifted, axis)
        same = np.array_equal(integers, w.array) and w.array is w.source.array
        weight = w.source if same and w.array.dtype == np.int8 else \
            graph.constant(integers, f"{w.source.node.name}.int8", before=node)  # fmt: skip
        zero = np.asarray(x.grid.zero, x.grid.dtype.numpy)
        start = graph.constant(zero, f"{name}.x_zero_point", before=node) \
            if x.grid.zero else None  # fmt: skip
        operands: list[Value | None] = [x.value, weight, start, None]
        if bias is not None:
            operands.append(graph.constant(bias, f"{name}.bias", before=node))
        what = "part" if offset.any() else "accumulator"
        made = graph.add(op, *operands, name=f"{name}.{what}", before=node)
        if offset.any():
            made = self._offset(name, node, made, operands[:3], integers, axis, offset, op)
        along = 1 if isinstance(op, ConvInteger) else made.type.rank - 1
        values = scale if scale.size > 1 and np.ptp(scale) else scale.reshape(-1)[0]
        term = Term(made[0], 0, np.asarray(values), along, largest, self.rounded)
        self.made[key] = term
        return term

    def _offset(
        self, name: str, node: Node, made: Node, operands: list[Value | None], w: Array, axis: int,
        offset: Array, op: ConvInteger | MatMulInteger,
    ) -> Node:  # fmt: skip
        """The accumulator of w + offset: offset times the sum of what each w multiplies is added.

        The intermediate sums may wrap; the result does not, and so is right.
        """
        graph, rank = self.graph, made.type.rank
        along = 1 if isinstance(op, ConvInteger) else rank - 1
        whole = isinstance(op, ConvInteger) and op.group > 1
        shape = list(w.shape)
        shape[axis] = shape[axis] if whole else 1  # one sum serves all the channels of a group
        ones = graph.constant(np.ones(shape, np.int8), f"{name}.ones", before=node)
        sums = graph.add(op, operands[0], ones, operands[2], name=f"{name}.sums", before=node)
        factor = offset.astype(np.int32).reshape([-1 if k == along else 1 for k in range(rank)])
        by = graph.constant(factor, f"{name}.offset", before=node)
        more = graph.add(Mul(), sums, by, name=f"{name}.shift", before=node)
        return graph.add(Add(), made, more, name=f"{name}.accumulator", before=node)

    def _largest(self, shifted: Array, axis: int, bias: Array | None) -> float:
        """The largest |accumulator|: sum |w| * 255 + |bias|, over channels."""
        rows = np.moveaxis(shifted, axis, 0).reshape(shifted.shape[axis], -1).astype(np.int64)
        total = np.abs(rows).sum(1) * 255
        if bias is not None:
            total = total + np.abs(bias.astype(np.int64))
        return float(total.max(initial=0))

    def _input(self, value: Value | None) -> Integers:
        found = integers_of(self.graph, value)
        if found is None:
            raise Refusal("its input is not quantized per tensor to 8 bits")
        return found

    def _weight(self, value: Value | None, axis: int) -> WeightIntegers:
        found = weight_of(self.graph, value)
        if found is None or found.array.dtype == np.int32:
            raise Refusal(missing_weight(self.graph, value))
        if found.axis not in (None, axis):
            raise Refusal(f"its weight has scales along axis {found.axis}")
        return found

    def _bias(self, value: Value | None, scale: Array, channels: int) -> Array | None:
        """An int32 bias in steps of the accumulator. Raises Refusal where it is not constant."""
        self.rounded = 0.0
        if value is None:
            return None
        found = weight_of(self.graph, value)
        if found is not None:
            same = np.allclose(found.scale, scale, rtol=1e-6, atol=0)
            integers = found.shifted().reshape(-1)
            if same and integers.size == channels:
                return bounded(integers.astype(np.float64))
            real = integers * found.scale
        elif value.array is not None:
            real = value.array.astype(np.float64).reshape(-1)
        else:
            raise Refusal("its bias is not constant")
        if real.size not in (1, channels) or not np.isfinite(real).all():
            raise Refusal("its bias is no finite vector of channels")
        return self._rounded(np.broadcast_to(real, (channels,)) / scale)

    def _rounded(self, steps: Array) -> Array:
        """The nearest int32, what that changes kept for the accumulator's term."""
        made = np.rint(steps)
        self.rounded = float(np.abs(made - steps).max(initial=0.0))
        return bounded(made)


def scaled(
    w: WeightIntegers, scale: Array, bias: Array | None, factor: Array, shift: Array
) -> tuple[WeightIntegers, Array, Array]:
    """Weight, scale and bias (in steps of the scale, not rounded) of

        factor * (sum w x scale + bias scale) + shift

    A negative factor turns the sign of a channel's weights, for scales are positive.

    Raises Refusal for a factor of 0, which leaves no scale.
    """
    factor, shift = (np.broadcast_to(v, scale.shape) for v in (factor, shift))
    made = scale * np.abs(factor)
    if not (made > 0).all():
        raise Refusal("a channel is multiplied by 0")
    signs = np.sign(factor).astype(np.int32)
    turned = w.shifted() * signs.reshape(-1, *(1,) * (w.array.ndim - 1))
    before = 0.0 if bias is None else bias * signs.astype(np.float64)
    return w._replace(array=turned, zero=None), made, before + shift / made


def centred(shifted: Array, axis: int) -> tuple[Array, Array]:
    """w as int8 and an offset for each channel along `axis`, 0 where it fits without:
    w = int8 + offset. Every w fits, for its range is that of 8 bits.
    """
    rows = np.moveaxis(shifted, axis, 0).reshape(shifted.shape[axis], -1)
    low, high = rows.min(1, initial=0), rows.max(1, initial=0)
    offset = np.maximum(high - 127, 0) + np.minimum(low + 128, 0)
    shape = [-1 if k == axis else 1 for k in range(shifted.ndim)]
    return (shifted - offset.reshape(shape)).astype(np.int8), offset


def missing_weight(graph: Graph, value: Value | None) -> str:
    """Why a weight is none of 8-bit integers."""
    node = None if value is None else value.node
    if value is not None and value.array is not None:
        return "its weight is a float constant"
    if node is None or not isinstance(node.op, DequantizeLinear):
        return f"its weight is computed in float (by {'' if node is None else node.name!a})"
    source = graph.operand(node, 0)
    if source is not None and source.array is None:
        return "its weight is computed, and not quantized per tensor to 8 bits"
    if node.op.block_size:
        return f"its weight has scales for blocks of {node.op.block_size}"
    stored = "" if source is None else source.type.dtype.value
    return f"its weight is not a constant of 8-bit integers ({stored} as {node.type.dtype.value})"

"""Accumulators: the integer form of products, sums and pools, before anything is rounded.

A node becomes a sum of terms, sum_k (x_k - zero_k) * scale_k with integer tensors x_k: int32
accumulators or 8-bit operands. One `requantize` (or one conversion to float) ends it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from ...ir import DType, Graph, Node, Value
from ...ir.op import Array
from ...ir.ops.elementwise import Mul
from ...ir.ops.fused_convolution import SLOPED
from ...ir.ops.integer import ConvInteger, MatMulInteger, MulInteger, SumPoolInteger
from ...ir.ops.pooling import AveragePool
from ..quantize.functions import Step, fused_step
from .match import Integers, WeightIntegers, integers_of, weight_of
from .scales import Refusal

LARGEST = 2**31 - 1


class Term(NamedTuple):
    """(x - zero) * scale; `scale` is a scalar or a vector along `axis`, |x - zero| <= largest."""

    x: Value
    zero: int
    scale: Array
    axis: int
    largest: float


@dataclass(frozen=True)
class Sum:
    """Terms and the functions of one element that follow them."""

    terms: tuple[Term, ...]
    steps: tuple[Step, ...] = ()

    @property
    def reach(self) -> float:
        """A bound of the real sum."""
        return float(sum(t.largest * np.abs(t.scale).max() for t in self.terms))


class Accumulators:
    """Makes integer nodes just before the float ones that they stand for, each once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[Node, bytes], Term] = {}

    def of(self, value: Value, depth: int = 0) -> Sum:
        """The sum that a float value is. Raises Refusal where it has no integer form."""
        integers = integers_of(self.graph, value)
        if integers is not None:
            return Sum((operand_term(integers),))
        node, name = value.node, value.node.op.name
        if name in ("conv", "fused_conv"):
            return self._convolution(node)
        if name in ("mat_mul", "gemm"):
            return Sum((self._matrix(node, None),))
        if name in ("add", "sub", "sum"):
            return self._addition(node, depth)
        if name == "mul":
            return Sum((self._product(node),))
        if name in ("average_pool", "global_average_pool"):
            return Sum((self._pool(node),))
        raise Refusal(f"{name} has no integer form")

    # ---- products ------------------------------------------------------------------------------

    def _convolution(self, node: Node) -> Sum:
        operands = [*self.graph.operands(node), None, None][:4]
        if getattr(node.op, "residual_last", False) and operands[3] is not None:
            raise Refusal("its residual comes after the activation")
        if getattr(node.op, "activation", "") == SLOPED:
            raise Refusal("its activation has a slope for each channel")
        x, w = self._input(operands[0]), self._weight(operands[1], 0)
        op = ConvInteger(**{a.name: getattr(node.op, a.name) for a in ConvInteger.attributes})
        per_input = cast(int, w.value.type.static_shape[0])
        scale = np.broadcast_to(w.scale * self._input_step(node, x, w), (per_input,))
        bias = self._bias(operands[2], scale, per_input)
        term = self._accumulate(node, x, w, 0, scale, bias, op)
        residual = operands[3]
        terms = [term]
        if residual is not None:
            found = integers_of(self.graph, residual)
            if found is None:
                raise Refusal("its residual is not quantized")
            terms.append(operand_term(found))
        step = fused_step(getattr(node.op, "activation", ""), getattr(node.op, "params", ()))
        return Sum(tuple(terms), () if step is None else (step,))

    def _input_step(self, node: Node, x: Integers, w: WeightIntegers) -> Array:
        """The input's step for each output channel."""
        if not x.grid.scales:
            return x.grid.step
        outputs, per_group = w.value.type.static_shape[:2]
        group = int(getattr(node.op, "group", 1))
        if per_group != 1 or group != len(x.grid.scales):
            raise Refusal("its input has scales by channel, which it mixes")
        return np.repeat(x.grid.step, outputs // group)

    def _matrix(self, node: Node, extra: Array | None) -> Term:
        """A matrix product, with an `extra` bias that a later addition brings."""
        operands = [*self.graph.operands(node), None][:3]
        transposed = bool(getattr(node.op, "transB", False))
        if getattr(node.op, "transA", False):
            raise Refusal("its first operand is transposed")
        x, w = self._input(operands[0]), self._weight(operands[1], 0 if transposed else 1)
        array = w.value.array
        assert array is not None
        if array.ndim != 2:
            raise Refusal("its weight is no matrix")
        columns = array.shape[0 if transposed else 1]
        if x.grid.scales:
            raise Refusal("its input has scales by channel, which it mixes")
        alpha, beta = (float(getattr(node.op, k, 1.0)) for k in ("alpha", "beta"))
        if not alpha > 0:
            raise Refusal("alpha is not positive")
        scale = np.broadcast_to(w.scale * x.grid.scale * alpha, (columns,))
        bias = self._bias(operands[2], scale / beta, columns) if operands[2] is not None and beta \
            else None  # fmt: skip
        if extra is not None:
            added = np.rint(extra.astype(np.float64).reshape(-1) / scale)
            bias = bounded(added if bias is None else bias + added)
        if transposed:
            turned = self.graph.constant(
                np.ascontiguousarray(array.T), w.value.node.name, before=node
            )
            w = w._replace(value=turned)
        return self._accumulate(node, x, w, 1, scale, bias, MatMulInteger())

    def _accumulate(
        self, node: Node, x: Integers, w: WeightIntegers, axis: int, scale: Array,
        bias: Array | None, op: ConvInteger | MatMulInteger,
    ) -> Term:  # fmt: skip
        key = (node, b"" if bias is None else bias.tobytes())
        if key in self.made:
            return self.made[key]
        array = w.value.array
        assert array is not None
        largest = self._largest(array, w, axis, bias)
        if largest > LARGEST:
            raise Refusal(f"its accumulator could reach {largest:.3g} and overflow int32")
        graph = self.graph
        operands: list[Value | None] = [x.value, w.value]
        zero = np.asarray(x.grid.zero, x.grid.dtype.numpy)
        operands.append(graph.constant(zero, f"{node.name}.x_zero_point", before=node)
                        if x.grid.zero else None)  # fmt: skip
        operands.append(graph.constant(w.zero, f"{node.name}.w_zero_point", before=node)
                        if w.zero is not None else None)  # fmt: skip
        if bias is not None:
            operands.append(graph.constant(bias, f"{node.name}.bias", before=node))
        made = graph.add(op, *operands, name=f"{node.name}.accumulator", before=node)
        along = 1 if isinstance(op, ConvInteger) else made.type.rank - 1
        values = scale if scale.size > 1 and np.ptp(scale) else scale.reshape(-1)[0]
        term = Term(made[0], 0, np.asarray(values), along, largest)
        self.made[key] = term
        return term

    def _largest(self, w: Array, weight: WeightIntegers, axis: int, bias: Array | None) -> float:
        """The largest |accumulator|: sum |w| * 255 + |bias|, over channels."""
        rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.int64)
        if weight.zero is not None:
            rows = rows - weight.zero.astype(np.int64).reshape(-1, 1)
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
        if found is None or found.value.type.dtype is DType.i32:
            raise Refusal("its weight is not a constant of 8-bit integers")
        if found.axis not in (None, axis):
            raise Refusal(f"its weight has scales along axis {found.axis}")
        return found

    def _bias(self, value: Value | None, scale: Array, channels: int) -> Array | None:
        """An int32 bias in steps of the accumulator. Raises Refusal where it is not constant."""
        if value is None:
            return None
        found = weight_of(self.graph, value)
        if found is not None and found.value.array is not None and found.zero is None:
            same = np.allclose(found.scale, scale, rtol=1e-6, atol=0)
            integers = found.value.array.reshape(-1)
            if same and integers.size == channels:
                return bounded(integers.astype(np.float64))
            real = integers * found.scale
        elif value.array is not None:
            real = value.array.astype(np.float64).reshape(-1)
        else:
            raise Refusal("its bias is not constant")
        if real.size not in (1, channels) or not np.isfinite(real).all():
            raise Refusal("its bias is no finite vector of channels")
        return bounded(np.rint(np.broadcast_to(real, (channels,)) / scale))

    # ---- sums, gates, pools --------------------------------------------------------------------

    def _addition(self, node: Node, depth: int) -> Sum:
        operands = [v for v in self.graph.operands(node) if v is not None]
        bias = self._bias_addition(node, operands)
        if bias is not None:
            return bias
        if depth > 2:
            raise Refusal("the sum has too many operands")
        terms: list[Term] = []
        for i, v in enumerate(operands):
            part = self.of(v, depth + 1)
            if part.steps:
                raise Refusal("an operand has an activation that is not quantized")
            if node.op.name == "sub" and i == 1:
                if any(t.x.type.dtype is DType.i32 for t in part.terms):
                    raise Refusal("an accumulator is subtracted")
                part = Sum(tuple(t._replace(scale=-t.scale) for t in part.terms))
            terms += part.terms
        if len(terms) > 3 or sum(t.x.type.dtype is DType.i32 for t in terms) > 2:
            raise Refusal("the sum has too many operands")
        return Sum(tuple(terms))

    def adds_bias(self, node: Node) -> bool:
        """Whether a node adds a constant, its bias, to a matrix product."""
        operands = [v for v in self.graph.operands(node) if v is not None]
        if node.op.name != "add" or len(operands) != 2:
            return False
        names = [v.node.op.name for v in operands if v.array is None]
        return len(names) == 1 and names[0] in ("mat_mul", "gemm")

    def _bias_addition(self, node: Node, operands: list[Value]) -> Sum | None:
        """mat_mul(x, w) + constant vector: the constant is the accumulator's bias."""
        if node.op.name != "add" or len(operands) != 2:
            return None
        for product, other in (operands, operands[::-1]):
            constant = other.array
            found = weight_of(self.graph, other)
            if constant is None and found is not None and found.value.array is not None:
                constant = found.value.array * found.scale
            if constant is None or product.node.op.name not in ("mat_mul", "gemm"):
                continue
            if constant.size not in (1, constant.shape[-1] if constant.ndim else 1):
                raise Refusal("it adds a constant that is no vector")
            columns = product.type.static_shape[-1] if product.type.is_static else \
                cast(int, (product.shape or (0,))[-1])  # fmt: skip
            vector = np.broadcast_to(constant.reshape(-1), (columns,))
            return Sum((self._matrix(product.node, vector),))
        return None

    def _product(self, node: Node) -> Term:
        if (node, b"") in self.made:
            return self.made[node, b""]
        pair = [integers_of(self.graph, v) for v in self.graph.operands(node)]
        a, b = pair if len(pair) == 2 else (None, None)
        if a is None or b is None:
            raise Refusal("an operand is not quantized")
        if a.grid.scales or b.grid.scales:
            raise Refusal("an operand has scales by channel")
        op = MulInteger(a_zero_point=a.grid.zero, b_zero_point=b.grid.zero)
        made = self.graph.add(op, a.value, b.value, name=f"{node.name}.accumulator", before=node)
        largest = farthest(a) * farthest(b)
        term = Term(made[0], 0, np.asarray(a.grid.scale * b.grid.scale), 1, largest)
        self.made[node, b""] = term
        return term

    def _pool(self, node: Node) -> Term:
        if (node, b"") in self.made:
            return self.made[node, b""]
        x = self._input(self.graph.operand(node, 0))
        weights = None
        if isinstance(node.op, AveragePool):
            op, count, weights = sum_pool(node.op, x)
        else:
            op = SumPoolInteger(x_zero_point=x.grid.zero)
            count = math.prod(image_size(x.value))
        # Fewer elements at the border get larger weights: each window's total weight is `count`.
        largest = count * farthest(x)
        if not 0 < largest <= LARGEST:
            raise Refusal("the sum over its window could overflow int32")
        made = self.graph.add(op, x.value, name=f"{node.name}.accumulator", before=node)
        if weights is not None:
            factors = self.graph.constant(weights, f"{node.name}.weights", before=node)
            made = self.graph.add(Mul(), made, factors, name=f"{node.name}.weighted", before=node)
        term = Term(made[0], 0, x.grid.step / count, 1, largest)
        self.made[node, b""] = term
        return term


def sum_pool(op: AveragePool, x: Integers) -> tuple[SumPoolInteger, int, Array | None]:
    """The sum that an average is made of, and what divides it. Raises Refusal.

    Where windows at the border hold fewer elements, the divisor is the least common multiple L of
    all the counts, and each window's sum is first multiplied by its L / count, an integer.
    """
    kept = {k: getattr(op, k) for k in ("strides", "pads", "dilations", "auto_pad")}
    made = SumPoolInteger(kernel_shape=op.kernel_shape, x_zero_point=x.grid.zero, **kept)
    full = math.prod(op.kernel_shape)
    padded = any(op.pads) or op.auto_pad.startswith("SAME") or op.ceil_mode
    if not padded or (op.count_include_pad and not op.ceil_mode):
        return made, full, None
    shape = image_size(x.value)
    out = cast(tuple[int, ...], op.window_dims(shape, op.kernel_shape, op.ceil_mode))
    if out != op.window_dims(shape, op.kernel_shape):
        raise Refusal("its last window hangs over the border")
    counts = op.counts(shape, op.window(shape, op.kernel_shape), out).astype(np.int64)
    if not counts.size or counts.min() < 1:
        raise Refusal("a window holds no element")
    common = math.lcm(*(int(c) for c in np.unique(counts)))
    if common == counts.min() == counts.max():
        return made, common, None
    if common > 1 << 16:
        raise Refusal("its windows hold too many different numbers of elements")
    return made, common, (common // counts).astype(np.int32)


def image_size(value: Value) -> tuple[int, ...]:
    """Spatial dimensions. Raises Refusal where one is not known."""
    sizes = (value.shape or (None,) * 3)[2:]
    if not all(isinstance(d, int) for d in sizes):
        raise Refusal("the size of the image is not known yet (bind the model's dimensions)")
    return cast(tuple[int, ...], sizes)


def operand_term(x: Integers) -> Term:
    return Term(x.value, x.grid.zero, x.grid.step, 1, farthest(x))


def farthest(x: Integers) -> float:
    """The largest |q - zero|."""
    low, high = x.grid.dtype.bounds
    return float(max(x.grid.zero - low, high - x.grid.zero))


def bounded(values: Array) -> Array:
    """As int32. Raises Refusal where one does not fit."""
    if values.size and not np.abs(values).max() <= LARGEST:
        raise Refusal("its bias does not fit int32 at the accumulator's scale")
    return values.astype(np.int32)

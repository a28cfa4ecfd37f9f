"""Accumulators: the integer form of products, sums, gates and pools."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from ...ir import DType, Node, Value
from ...ir.op import Array
from ...ir.ops.convolution import Conv
from ...ir.ops.elementwise import Add, Mul, Sub
from ...ir.ops.elementwise import Sum as Total
from ...ir.ops.integer import MulInteger, SumPoolInteger
from ...ir.ops.linear import Gemm, MatMul
from ...ir.ops.pooling import AveragePool, GlobalAveragePool
from ..quantize.prepare import channel_affine
from .match import REALS, Integers, integers_of, weight_of
from .products import Products
from .scales import Refusal
from .terms import LARGEST, Sum, Term, farthest, operand_term

CONSTANT_STEPS = float(1 << 20)
"""The largest integer that stands for a number of a float constant that is added."""


class Accumulators(Products):
    """Makes integer nodes just before the float ones that they stand for, each once."""

    def of(self, value: Value, depth: int = 0) -> Sum:
        """The sum that a float value is. Raises Refusal where it has no integer form."""
        integers = integers_of(self.graph, value, constants=depth > 0)
        if integers is not None:
            return Sum((operand_term(integers),))
        node, op = value.node, value.node.op
        affine = self._affine(node)
        if affine is not None:
            return affine
        if isinstance(op, Conv):
            return self._convolution(node)
        if isinstance(op, MatMul | Gemm):
            return Sum((self._matrix(node, None),))
        if isinstance(op, Add | Sub | Total):
            return self._addition(node, depth)
        if isinstance(op, Mul):
            return Sum((self._product(node),))
        if isinstance(op, AveragePool | GlobalAveragePool):
            return Sum((self._pool(node),))
        raise Refusal(f"{op.name} has no integer form")

    def _addition(self, node: Node, depth: int) -> Sum:
        operands = [v for v in self.graph.operands(node) if v is not None]
        bias = self._bias_addition(node, operands)
        if bias is not None:
            return bias
        if depth > 2:
            raise Refusal("the sum has too many operands")
        terms: list[Term] = []
        for i, v in enumerate(operands):
            part = self._constant(v, node) if v.array is not None else self.of(v, depth + 1)
            if part.steps:
                raise Refusal("an operand has an activation that is not quantized")
            if isinstance(node.op, Sub) and i == 1:
                if any(t.x.type.dtype is DType.i32 for t in part.terms):
                    raise Refusal("an accumulator is subtracted")
                part = Sum(tuple(t._replace(scale=-t.scale) for t in part.terms))
            terms += part.terms
        if len(terms) > 3 or sum(t.x.type.dtype is DType.i32 for t in terms) > 2:
            raise Refusal("the sum has too many operands")
        return Sum(tuple(terms))

    def _constant(self, value: Value, node: Node) -> Sum:
        """A float constant in steps so fine that they are lost in a result of 8 or 16 bits."""
        array = value.array
        assert array is not None
        largest = float(np.abs(array.astype(np.float64)).max(initial=0.0))
        if not np.isfinite(largest) or DType.of(array) not in REALS:
            raise Refusal("it adds a constant that is not finite")
        if not largest:
            return Sum(())
        scale = largest / CONSTANT_STEPS
        integers = np.rint(array.astype(np.float64) / scale).astype(np.int32)
        made = self.graph.constant(integers, f"{value.node.name}.int32", before=node)
        return Sum((Term(made, 0, np.asarray(scale), 1, CONSTANT_STEPS),))

    def _affine(self, node: Node) -> Sum | None:
        """Scale and shift of channels (a batch normalization, say): of a convolution, whose scales
        and bias take them up, or of 8-bit integers.
        """
        found = channel_affine(self.graph, node)
        if found is None:
            return None
        x, (factor, shift) = found
        if not np.isfinite(factor).all() or not np.isfinite(shift).all():
            raise Refusal("it scales by what is not finite")
        if node.type.shape is None:
            raise Refusal("its rank is not known")
        if isinstance(x.node.op, Conv):
            return self._convolution(x.node, factor, shift, node.name)
        source = integers_of(self.graph, x)
        if source is None or (factor == 1).all():
            return None
        scale = source.grid.step * (factor if factor.size > 1 else factor.reshape(()))
        term = operand_term(source)._replace(scale=scale)
        if not shift.any():
            return Sum((term,))
        shape = [-1 if k == 1 else 1 for k in range(node.type.rank)]
        vector = shift.astype(np.float32).reshape(shape if shift.size > 1 else ())
        constant = self.graph.constant(vector, f"{node.name}.shift", before=node)
        return Sum((term, *self._constant(constant, node).terms))

    def adds_bias(self, node: Node) -> bool:
        """Whether a node adds a constant, its bias, to a matrix product."""
        operands = [v for v in self.graph.operands(node) if v is not None]
        if not isinstance(node.op, Add) or len(operands) != 2:
            return False
        computed = [v.node.op for v in operands if v.array is None]
        return len(computed) == 1 and isinstance(computed[0], MatMul | Gemm)

    def _bias_addition(self, node: Node, operands: list[Value]) -> Sum | None:
        """mat_mul(x, w) + constant vector: the constant is the accumulator's bias."""
        if not isinstance(node.op, Add) or len(operands) != 2:
            return None
        for product, other in (operands, operands[::-1]):
            constant = other.array
            found = weight_of(self.graph, other)
            last = None if found is None else found.array.ndim - 1
            if constant is None and found is not None and found.axis in (None, last):
                constant = found.shifted() * found.scale
            if constant is None or not isinstance(product.node.op, MatMul | Gemm):
                continue
            if constant.size not in (1, constant.shape[-1] if constant.ndim else 1):
                raise Refusal("it adds a constant that is no vector")
            columns = (product.shape or (None,))[-1]
            if not isinstance(columns, int):
                raise Refusal("the number of its columns is not known")
            vector = np.broadcast_to(constant.reshape(-1), (columns,))
            return Sum((self._matrix(product.node, vector, node.name),))
        return None

    def _product(self, node: Node) -> Term:
        if (node, b"") in self.made:
            return self.made[node, b""]
        pair = [integers_of(self.graph, v, constants=True) for v in self.graph.operands(node)]
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
        what = "accumulator" if weights is None else "sums"
        made = self.graph.add(op, x.value, name=f"{node.name}.{what}", before=node)
        if weights is not None:
            factors = self.graph.constant(weights, f"{node.name}.weights", before=node)
            made = self.graph.add(Mul(), made, factors, name=f"{node.name}.accumulator",
                                  before=node)  # fmt: skip
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

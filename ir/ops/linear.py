"""Matrix products."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from ..errors import VerifyError
from ..op import Abstract, Array, Cost, Inferred, Op, memory_bytes, register
from ..types import Dim, Shape, TensorType, broadcast, unify
from .common import (
    check_float,
    check_number,
    check_rank,
    check_same,
    check_vector,
    differs,
    in_wide,
)
from .epilogue import activate, activation_op


def matmul_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    """NumPy's matmul over symbolic shapes. Raises VerifyError."""
    if a is None or b is None:
        return None
    if not a or not b:
        raise VerifyError("a matrix product has an operand without dimensions")
    (k,), inner = a[-1:], b[-2:][0]
    if differs(k, inner):
        raise VerifyError(f"the inner dimensions {k} and {inner} do not agree")
    batch = broadcast(a[:-2], b[:-2])
    assert batch is not None
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def matmul_cost(a: Abstract, operands: tuple[Abstract | None, ...], y: TensorType) -> Cost:
    return Cost(y.size * a.type.static_shape[-1], memory_bytes(operands, (y,)))


@register
@dataclass(frozen=True)
class MatMul(Op):
    """y[..., m, n] = sum over k of a[..., m, k] * b[..., k, n], as NumPy's matmul"""

    axes = "a[...,m,k] b[...,k,n] -> y[...,m,n]"

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_number(a)
        return TensorType(check_same(a, b), matmul_shape(a.shape, b.shape))

    def reference(self, a: Array, b: Array) -> Array:
        return in_wide(np.matmul, a, b)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        return matmul_cost(operands[0], operands, results[0])


@register
@dataclass(frozen=True)
class Gemm(Op):
    """alpha * a' @ b' + beta * c, where transA and transB transpose; c broadcasts"""

    axes = "a[m,k] b[k,n] c[n] -> y[m,n]"  # transA and transB swap an operand's axes
    alpha: float = 1.0
    beta: float = 1.0
    transA: bool = False
    transB: bool = False

    def infer(self, a: Abstract, b: Abstract, c: Abstract | None = None) -> Inferred:
        check_number(a)
        dtype = check_same(a, b, c)
        check_rank(a, 2, "a")
        check_rank(b, 2, "b")
        m, k = _matrix(a, self.transA)
        k2, n = _matrix(b, self.transB)
        if differs(k, k2):
            raise VerifyError(f"the inner dimensions {k} and {k2} do not agree")
        made = TensorType(dtype, (m, n))
        if c is not None:
            joint = broadcast(made.shape, c.shape)
            if joint is not None and not made.accepts(TensorType(dtype, joint)):
                raise VerifyError(f"c is {c.type}, which does not broadcast to {made}")
        return made

    def reference(self, a: Array, b: Array, c: Array | None = None) -> Array:
        return in_wide(self._run, a, b, c)

    def _run(self, a: Array, b: Array, c: Array | None) -> Array:
        y = (a.T if self.transA else a) @ (b.T if self.transB else b)
        if self.alpha != 1.0:
            y = (y * self.alpha).astype(a.dtype)
        if c is None or self.beta == 0.0:
            return y
        return y + (c if self.beta == 1.0 else (c * self.beta).astype(a.dtype))

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        inner = operands[0].type.static_shape[0 if self.transA else 1]
        return Cost(results[0].size * inner, memory_bytes(operands, results))


def _matrix(x: Abstract, transposed: bool) -> tuple[Dim, Dim]:
    if x.shape is None:
        return None, None
    a, b = x.shape
    return (b, a) if transposed else (a, b)


@register
@dataclass(frozen=True)
class FusedMatMul(Op):
    """activation(alpha * a' @ b' + bias + residual), where transA and transB swap the last two
    axes

    The axes before those broadcast, as in MatMul. bias is a vector of the result's last axis,
    residual broadcasts to the result. `activation` and `params` are as in FusedConv.
    """

    onnx = None
    axes = "a[...,m,k] b[...,k,n] bias[n] residual[...,m,n] -> y[...,m,n]"
    alpha: float = 1.0
    transA: bool = False
    transB: bool = False
    activation: str = ""
    params: tuple[float, ...] = ()

    def infer(
        self,
        a: Abstract,
        b: Abstract,
        bias: Abstract | None = None,
        residual: Abstract | None = None,
    ) -> Inferred:
        check_float(a)
        dtype = check_same(a, b, bias, residual)
        activation_op(self.activation, self.params)
        left, right = _turned(a, self.transA, "a"), _turned(b, self.transB, "b")
        made = TensorType(dtype, matmul_shape(left, right))
        check_vector(bias, None if right is None else right[-1], "the bias")
        if residual is not None:
            joint = broadcast(made.shape, residual.shape)
            if joint is not None and not made.accepts(TensorType(dtype, joint)):
                raise VerifyError(f"the residual {residual.type} does not fit the result {made}")
        return made

    def reference(
        self, a: Array, b: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        return in_wide(self._run, a, b, bias, residual)

    def _run(self, a: Array, b: Array, bias: Array | None, residual: Array | None) -> Array:
        y = np.matmul(
            a.swapaxes(-1, -2) if self.transA else a, b.swapaxes(-1, -2) if self.transB else b
        )
        if self.alpha != 1.0:
            y = y * y.dtype.type(self.alpha)
        for term in (bias, residual):
            y = y if term is None else y + term
        return activate(y, self.activation, self.params)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        inner = operands[0].type.static_shape[-2 if self.transA else -1]
        return Cost(results[0].size * inner, memory_bytes(operands, results))


def _turned(x: Abstract, transposed: bool, what: str) -> Shape | None:
    if x.shape is None:
        return None
    if len(x.shape) < 2:
        raise VerifyError(f"{what} is {x.type}, which should have rank 2 or more")
    return (*x.shape[:-2], x.shape[-1], x.shape[-2]) if transposed else x.shape


_EQUATION = re.compile(r"[A-Za-z.]*(,[A-Za-z.]*)*(->[A-Za-z.]*)?\Z")


@register
@dataclass(frozen=True)
class Einsum(Op):
    """Einstein summation, e.g. "bij,bjk->bik"; without an arrow the letters that occur once
    remain, in alphabetical order; `...` stands for axes that broadcast
    """

    equation: str

    def terms(self) -> tuple[list[str], str]:
        """Operands' subscripts and the result's."""
        text = self.equation.replace(" ", "")
        if not _EQUATION.match(text) or len(text) > 512:
            raise VerifyError(f"equation {self.equation[:80]!a} cannot be read")
        left, arrow, right = text.partition("->")
        inputs = left.split(",")
        if not arrow:
            letters = left.replace("...", "").replace(",", "")
            once = sorted(c for c in set(letters) if letters.count(c) == 1)
            right = ("..." if "..." in left else "") + "".join(once)
        for term in [*inputs, right]:
            if "." in term.replace("...", "", 1):
                raise VerifyError(f"term {term!a} of the equation cannot be read")
        known = set(left)
        if set(right) - known or len(set(right) - {"."}) < len(right.replace(".", "")):
            raise VerifyError(f"the result {right!a} of the equation does not fit its operands")
        return inputs, right

    def infer(self, *xs: Abstract) -> Inferred:
        inputs, right = self.terms()
        if len(inputs) != len(xs):
            raise VerifyError(f"the equation has {len(inputs)} operands, {len(xs)} are given")
        check_number(xs[0])
        dtype = check_same(*xs)
        sizes, shared = self.sizes(inputs, [x.shape for x in xs])
        if "..." in right and shared is None:
            return TensorType(dtype, None)
        head, dots, tail = right.partition("...")
        made = [sizes[c] for c in head] + list(shared or () if dots else ())
        return TensorType(dtype, (*made, *(sizes[c] for c in tail)))

    def sizes(
        self, inputs: list[str], shapes: list[Shape | None]
    ) -> tuple[dict[str, Dim], Shape | None]:
        """Dimension of each letter, and the shape that `...` stands for."""
        sizes: dict[str, Dim] = dict.fromkeys("".join(inputs).replace(".", ""))
        shared: Shape | None = ()
        for term, shape in zip(inputs, shapes):
            head, dots, tail = term.partition("...")
            if shape is None:
                shared = None if dots else shared
                continue
            free = len(shape) - len(head) - len(tail)
            if free < 0 or (free and not dots):
                raise VerifyError(f"term {term!a} does not fit a tensor of rank {len(shape)}")
            named = [*zip(head, shape), *zip(tail, shape[len(head) + free :])]
            for letter, dim in named:
                if sizes[letter] == 1 or dim == 1:
                    sizes[letter] = dim if sizes[letter] in (1, None) else sizes[letter]
                else:
                    sizes[letter] = unify(sizes[letter], dim)
            if dots:
                shared = broadcast(shared, shape[len(head) : len(head) + free])
        return sizes, shared

    def reference(self, *xs: Array) -> Array:
        text = self.equation.replace(" ", "")
        return in_wide(lambda *vs: np.einsum(text, *vs, optimize=len(vs) > 1), *xs)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        inputs, _ = self.terms()
        sizes, shared = self.sizes(inputs, [o.shape for o in operands if o is not None])
        dims = [d for d in (*sizes.values(), *(shared or ())) if isinstance(d, int)]
        macs = math.prod(dims) * max(len(inputs) - 1, 1)
        return Cost(macs, memory_bytes(operands, results))


@register
@dataclass(frozen=True)
class Det(Op):
    """The determinants of square matrices over the last two axes"""

    axes = "x[...,i,j] -> y[...]"

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if x.shape is None:
            return x.type
        if len(x.shape) < 2 or differs(*x.shape[-2:]):
            raise VerifyError(f"the operand is {x.type}, which holds no square matrices")
        return x.type.with_shape(x.shape[:-2])

    def reference(self, x: Array) -> Array:
        return np.asarray(in_wide(np.linalg.det, x))

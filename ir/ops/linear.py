"""Matrix products."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import Dependences
from ..errors import VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..relate import is_given, shape_at
from ..signature import derived, read_signature
from ..traits import MATRIX
from ..types import Dim, Shape, TensorType, broadcast, unify
from .adjoint import filled, ints, rank_of, scaled, shape_of, shaped, size_of, sum_to, swap_last
from .common import (
    check_float,
    check_number,
    check_rank,
    check_residual,
    check_same,
    check_vector,
    differs,
    in_wide,
)
from .epilogue import activate, activated, activation_op, ended

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


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


def product_gradients(b: Builder, g: Value, x: Value, w: Value) -> tuple[Value, Value]:
    """Gradients of matrices x and w, given that of x @ w: g @ w^T and x^T @ g, summed over the
    axes that were broadcast. A weight that all of x shares gets one product over all of its rows.
    """
    if rank_of(w) == rank_of(x) == 2:
        return b.gemm(g, w, transB=True), b.gemm(x, g, transA=True)
    dx = sum_to(b, b.mat_mul(g, swap_last(b, w)), x)
    if rank_of(w) == 2:
        return dx, b.gemm(_rows(b, x), _rows(b, g), transA=True)
    return dx, sum_to(b, b.mat_mul(swap_last(b, x), g), w)


def _rows(b: Builder, x: Value) -> Value:
    """x as a matrix of its last axis."""
    return b.reshape(x, b.concat(ints(b, -1), size_of(b, x, -1), axis=0))


def product_dependence(
    op: Op, operands: Operands, results: Results, places: tuple[int, int],
    rows: Sequence[int] = (), columns: Sequence[int] = (),
) -> Dependences:  # fmt: skip
    """Of a product of operands at `places`, either of which may be a vector. Operands `rows` and
    `columns` are scalars, vectors of rows or columns, or broadcast to a or b.
    """
    a, b = (len(shape_at(operands, k)) for k in places)
    text = op.axes
    for kept, turned in ((rows, "m?"), (columns, "n?")):
        for k in kept:
            if is_given(operands, k) and len(shape_at(operands, k)) > 1:
                name = op.operands[k].name
                text = re.sub(rf"\b{name}\[[^]]*\]", f"{name}[...,{WIDE[turned]}]", text)
    if a == 1:
        text = re.sub(r"\[m\?*\]", "[]", text).replace(",m", "").replace(",all", "")
    if b == 1:
        text = re.sub(r"\[n\?*\]", "[]", text).replace(",n", "")
    return derived(read_signature(text), op, operands, results)


WIDE = {"m?": "m?,k?", "n?": "k?,n?"}


@register
@dataclass(frozen=True)
class MatMul(Op):
    """y[..., m, n] = sum over k of a[..., m, k] * b[..., k, n], as NumPy's matmul"""

    weighted = MATRIX
    numerics = SUMS
    axes = "a[...,m,k] b[...,k,n] -> y[...,m,n]"

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_number(a)
        return TensorType(check_same(a, b), matmul_shape(a.shape, b.shape))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return product_dependence(self, operands, results, (0, 1))

    def reference(self, a: Array, b: Array) -> Array:
        return in_wide(np.matmul, a, b)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[0] is not None
        return matmul_cost(operands[0], operands, results[0])

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, w), (g,) = operands, gradients
        front, back = rank_of(x) == 1, rank_of(w) == 1
        g = b.unsqueeze(g, ints(b, -1)) if back else g
        g = b.unsqueeze(g, ints(b, -2)) if front else g
        row = b.unsqueeze(x, ints(b, 0)) if front else x
        column = b.unsqueeze(w, ints(b, 1)) if back else w
        return [shaped(b, d, v) for d, v in zip(product_gradients(b, g, row, column), (x, w))]


@register
@dataclass(frozen=True)
class Gemm(Op):
    """alpha * a' @ b' + beta * c, where transA and transB transpose; c broadcasts"""

    weighted = replace(MATRIX, bias="c")
    numerics = SUMS
    axes = "a[m,k]~transA b[k,n]~transB c[m?,n?] -> y[m,n]"
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

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, w, c), (g,) = operands, gradients
        alpha, ta, tb = self.alpha, self.transA, self.transB
        if ta:
            dx = b.gemm(w, g, alpha=alpha, transA=tb, transB=True)
        else:
            dx = b.gemm(g, w, alpha=alpha, transB=not tb)
        if tb:
            dw = b.gemm(g, x, alpha=alpha, transA=True, transB=ta)
        else:
            dw = b.gemm(x, g, alpha=alpha, transA=not ta)
        if c is None or self.beta == 0.0:
            return dx, dw, None
        return dx, dw, sum_to(b, scaled(b, g, self.beta), c)


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

    weighted = replace(MATRIX, bias="bias")
    numerics = SUMS
    onnx = None
    axes = "a[...,m,k]~transA b[...,k,n]~transB bias[n] residual[...,m?,n?] -> y[...,m,n]"
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
        check_residual(residual, made)
        return made

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return ended(self.activation, super().dependence(operands, results))

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

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        x, w, bias, residual = operands
        assert x is not None and w is not None
        y = b.mat_mul(swap_last(b, x) if self.transA else x, swap_last(b, w) if self.transB else w)
        y = scaled(b, y, self.alpha)
        for term in (bias, residual):
            y = y if term is None else b.add(y, term)
        return activated(b, y, self.activation, self.params)


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

    numerics = SUMS
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

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        inputs, right = self.terms()
        text = " ".join(f"x{k}[{_listed(t)}]" for k, t in enumerate(inputs))
        return derived(read_signature(f"{text} -> y[{_listed(right)}]"), self, operands, results)

    def reference(self, *xs: Array) -> Array:
        text = self.equation.replace(" ", "")
        return in_wide(lambda *vs: np.einsum(text, *vs, optimize=len(vs) > 1), *xs)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        inputs, _ = self.terms()
        sizes, shared = self.sizes(inputs, [o.shape for o in operands if o is not None])
        dims = [d for d in (*sizes.values(), *(shared or ())) if isinstance(d, int)]
        macs = math.prod(dims) * max(len(inputs) - 1, 1)
        return Cost(macs, memory_bytes(operands, results))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (g,) = gradients
        inputs, right = self.terms()
        return [
            self._gradient_of(b, k, g, operands, inputs, right) if b.wants(x) else None
            for k, x in enumerate(operands)
        ]

    def _gradient_of(
        self, b: Builder, k: int, g: Value, xs: Any, inputs: list[str], right: str
    ) -> Value:
        """The sum of g times the other operands, over what operand k has not.

        Ones of k's shape bring in the axes that only it has; an axis that its term names twice
        is one of its own, tied to the first by an identity matrix.
        """
        x, term = xs[k], inputs[k].replace("...", ".")
        spare = iter(c for c in string.ascii_letters if c not in self.equation)
        made, ties, eyes = "", [], []
        for axis, letter in enumerate(term):
            if letter != "." and letter in made:
                other = next(spare)
                ties.append(letter + other)
                size = size_of(b, x, axis if "." not in term[:axis] else axis - len(term))
                square = filled(b, b.concat(size, size, axis=0), 0, g)
                eyes.append(b.eye_like(square))
                letter = other
            made += letter
        made = made.replace(".", "...")
        ones = filled(b, shape_of(b, x), 1, g)
        terms = [right, *(t for i, t in enumerate(inputs) if i != k), made, *ties]
        values = [g, *(v for i, v in enumerate(xs) if i != k), ones, *eyes]
        return sum_to(b, b.einsum(*values, equation=f"{','.join(terms)}->{made}"), x)


def _listed(term: str) -> str:
    """The letters of a term as an axis signature has them; each may be of size 1."""
    parts = re.findall(r"\.\.\.|[A-Za-z]", term)
    return ",".join(p if p == "..." else f"{p}?" for p in parts)


@register
@dataclass(frozen=True)
class Det(Op):
    """The determinants of square matrices over the last two axes"""

    numerics = SUMS
    axes = "x[...,i!,j!] -> y[...]"
    not_differentiable = "it needs inverse matrices, for which there is no op"

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if x.shape is None:
            return x.type
        if len(x.shape) < 2 or differs(*x.shape[-2:]):
            raise VerifyError(f"the operand is {x.type}, which holds no square matrices")
        return x.type.with_shape(x.shape[:-2])

    def reference(self, x: Array) -> Array:
        return np.asarray(in_wide(np.linalg.det, x))

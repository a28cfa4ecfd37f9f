"""Arithmetic on sizes that depend on the inputs': vectors of one element in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ....ir import DType, UnsupportedError, Value
from ..call import ATEN, Call, Dimension, Real, Size, aten

Number = int | float | Size | Real


@aten("sym_size.int")
def sym_size(c: Call, x: Value, dim: int) -> Dimension:
    return c.size(x, dim)


def _real(c: Call, x: Number) -> Value:
    """A number as f64[1], which is what Python computes in."""
    if isinstance(x, Real):
        return x.vector
    if isinstance(x, Size):
        return c.b.cast(x.vector, to=DType.f64)
    return c.constant([x], DType.f64)


def _is_whole(*numbers: Number) -> bool:
    if any(not isinstance(x, int | float | Size | Real) for x in numbers):
        raise UnsupportedError("is no arithmetic on sizes")
    return all(isinstance(x, int | Size) for x in numbers)


def _binary(name: str, op: str) -> None:
    """`operator.add` and its like on two numbers, of which one depends on sizes."""

    def f(c: Call, a: Any, b: Any) -> Size | Real:
        if _is_whole(a, b):
            return Size(getattr(c.b, op)(c.vector([a]), c.vector([b])))
        return Real(getattr(c.b, op)(_real(c, a), _real(c, b)))

    ATEN[name] = f


for _name, _op in {
    "operator.add": "add", "operator.sub": "sub", "operator.mul": "mul", "operator.mod": "mod",
    "torch.sym_max": "max", "torch.sym_min": "min",
}.items():  # fmt: skip
    _binary(_name, _op)


def neg(c: Call, a: Any) -> Size | Real:
    return Size(c.b.neg(a.vector)) if _is_whole(a) else Real(c.b.neg(_real(c, a)))


def truediv(c: Call, a: Any, b: Any) -> Real:
    _is_whole(a, b)
    return Real(c.b.div(_real(c, a), _real(c, b)))


def floordiv(c: Call, a: Any, b: Any) -> Size:
    """Rounded down, where the IR's division goes toward zero."""
    if not _is_whole(a, b):
        raise UnsupportedError("a division of numbers that are not whole, rounded down")
    x, y = c.vector([a]), c.vector([b])
    if not all(_never_negative(m) for m in c.metas):
        x = c.b.sub(x, c.b.mod(x, y))
    return Size(c.b.div(x, y))


def _never_negative(x: Any) -> bool:
    """Whether the exporter knows that a size is 0 or more."""
    if isinstance(x, torch.SymInt):
        return bool(x.node.shape_env.bound_sympy(x.node.expr).lower >= 0)
    return x >= 0


def sym_float(c: Call, a: Any) -> Real:
    _is_whole(a)
    return Real(_real(c, a))


def _rounded(round: Callable[[Call, Value], Value]) -> Callable[[Call, Any], Dimension]:
    def f(c: Call, a: Any) -> Dimension:
        if _is_whole(a):
            return a
        return Size(c.b.cast(round(c, _real(c, a)), to=DType.i64))

    return f


ATEN["operator.neg"] = neg
ATEN["operator.truediv"] = truediv
ATEN["operator.floordiv"] = floordiv
ATEN["torch.sym_float"] = sym_float
ATEN["math.trunc"] = _rounded(lambda c, x: x)  # as a cast rounds
ATEN["math.floor"] = _rounded(lambda c, x: c.b.floor(x))
ATEN["math.ceil"] = _rounded(lambda c, x: c.b.ceil(x))


@aten("sym_numel")
def sym_numel(c: Call, x: Value) -> Size:
    return Size(c.b.unsqueeze(c.b.size(x), c.ints([0])))

"""Sizes as data: shapes as vectors, and what is made from sizes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VerifyError
from ..numerics import ARITHMETIC, MOVES, STRUCTURE
from ..op import Abstract, Array, Inferred, Op, register
from ..types import Dim, DType, Shape, TensorType
from .adjoint import places, shaped
from .common import check_integer, check_same, check_scalar, length, unknown

if TYPE_CHECKING:
    from ..build import Builder


@register
@dataclass(frozen=True)
class Shape_(Op):
    """The dimensions of x from `start` to before `end`, as a vector"""

    numerics = STRUCTURE
    name = "shape"
    onnx = "Shape"
    axes = "x[-] -> y[k]"
    start: int = 0
    end: int | None = None

    def infer(self, x: Abstract) -> Inferred:
        part = self.dims(x)
        return TensorType(DType.i64, (None if part is None else len(part),))

    def reference(self, x: Array) -> Array:
        return np.array(x.shape[self.start : self.end], np.int64)

    def dims(self, x: Abstract) -> Shape | None:
        return None if x.shape is None else x.shape[self.start : self.end]


@register
@dataclass(frozen=True)
class Size(Op):
    """The number of elements of x"""

    numerics = STRUCTURE
    axes = "x[-] -> y[]"

    def infer(self, x: Abstract) -> Inferred:
        return TensorType(DType.i64, ())

    def reference(self, x: Array) -> Array:
        return np.array(x.size, np.int64)

    def dims(self, x: Abstract) -> Shape | None:
        return (x.type.size,) if x.type.is_static else None


@register
@dataclass(frozen=True, eq=False)
class ConstantOfShape(Op):
    """A tensor of the given shape, filled with `value` (an array of one element; f32 0 if none)"""

    numerics = MOVES
    axes = "shape[!] -> y[...]"
    value: np.ndarray[Any, Any] | None = None

    def fill(self) -> Array:
        value = np.zeros(1, np.float32) if self.value is None else self.value
        if value.size != 1:
            raise VerifyError(f"value has {value.size} elements, not one")
        return value.reshape(())

    def infer(self, shape: Abstract) -> Inferred:
        check_integer(shape, "the shape")
        dtype = DType.of(self.fill())
        dims, size = shape.as_dims(), length(shape)
        if dims is None and size is not None:
            dims = unknown(size)
        return TensorType(dtype, dims)

    def reference(self, shape: Array) -> Array:
        return np.full(tuple(int(n) for n in shape), self.fill())

    def dims(self, shape: Abstract) -> Shape | None:
        counts = shape.as_ints()
        if counts is None or math.prod(counts) > 64:
            return None
        return (int(self.fill()),) * math.prod(counts)


@register
@dataclass(frozen=True)
class Range(Op):
    """start, start + delta, ... up to before `limit`"""

    settings = ("start", "limit", "delta")
    numerics = ARITHMETIC
    axes = "start[!] limit[!] delta[!] -> y[k]"

    def infer(self, start: Abstract, limit: Abstract, delta: Abstract) -> Inferred:
        dtype = check_same(start, limit, delta)
        for x in (start, limit, delta):
            check_scalar(x, "a bound")
        count = self.count(start, limit, delta)
        return TensorType(dtype, (count,))

    def count(self, start: Abstract, limit: Abstract, delta: Abstract) -> Dim:
        a, b, d = (_scalar(x) for x in (start, limit, delta))
        if d == 0:
            raise VerifyError("delta is 0")
        if a is None or b is None or d is None:
            if a == 0 and d == 1 and limit.dims and isinstance(limit.dims[0], str):
                return limit.dims[0]
            return None
        if not all(math.isfinite(v) for v in (a, b, d)):
            raise VerifyError("a bound is not finite")
        exact = all(isinstance(v, int) for v in (a, b, d))
        return max(-((a - b) // d) if exact else math.ceil((b - a) / d), 0)  # type: ignore[arg-type]

    def reference(self, start: Array, limit: Array, delta: Array) -> Array:
        a, d = start.reshape(()), delta.reshape(())
        known = [Abstract(TensorType.of(x), x) for x in (start, limit, delta)]
        count = self.count(*known)
        assert isinstance(count, int)
        return (a + np.arange(count).astype(a.dtype) * d).astype(a.dtype)

    def dims(self, start: Abstract, limit: Abstract, delta: Abstract) -> Shape | None:
        parts = [x.as_ints() for x in (start, limit, delta)]
        if any(p is None for p in parts):
            return None
        a, b, d = (p[0] for p in parts if p)
        made = range(a, b, d) if d else ()
        return tuple(made) if len(made) <= 64 else None

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (start, _, delta), (g,) = operands, gradients
        steps = b.cast(places(b, g, 0), to=g.type.dtype)
        return (
            shaped(b, b.reduce_sum(g, keepdims=False), start), None,
            shaped(b, b.reduce_sum(b.mul(g, steps), keepdims=False), delta),
        )  # fmt: skip


def _scalar(x: Abstract) -> int | float | None:
    if x.value is not None:
        return x.value.reshape(()).item() if x.dtype is not DType.bf16 else float(x.value)
    ints = x.as_ints()
    return ints[0] if ints else None

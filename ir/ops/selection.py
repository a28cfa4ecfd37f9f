"""Ops that find or choose elements, or make them by their place."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import ANY, Dependences
from ..errors import FeedError, VerifyError
from ..numerics import CHOICE, MOVES, STRUCTURE
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import Space, along, everything, shape_at
from ..traits import Moves
from ..types import Dim, DType, TensorType
from .adjoint import ints, put, rank_of, shaped, zeros
from .common import (
    check_axis,
    check_integer,
    check_number,
    check_rank,
    check_scalar,
    differs,
    wide,
)

if TYPE_CHECKING:
    from ..build import Builder


@register
@dataclass(frozen=True)
class OneHot(Op):
    """values[1] where an index equals the place along a new axis of size `depth`, else values[0]"""

    settings = ("values",)
    numerics = MOVES
    held = MappingProxyType({"indices": "they are places", "depth": "it is a size"})
    axis: int = -1

    def infer(self, indices: Abstract, depth: Abstract, values: Abstract) -> Inferred:
        check_number(indices, "the indices")
        if values.shape is not None and (len(values.shape) != 1 or differs(values.shape[0], 2)):
            raise VerifyError(f"values are {values.type}, which should be two")
        check_scalar(depth, "the depth")
        if indices.shape is None:
            return TensorType(values.dtype, None)
        axis = check_axis(self.axis, len(indices.shape) + 1)
        size = depth.as_dims()
        if depth.dtype.is_float and depth.value is not None:
            size = (int(depth.value.astype(np.float64).reshape(())),)
        dim = None if not size else size[0]
        return TensorType(values.dtype, (*indices.shape[:axis], dim, *indices.shape[axis:]))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, axis = Space(operands, results), self.axis % results[0].rank
        own = s.loops(s.results[0])
        s.relate(0, 0, [p for k, p in enumerate(own) if k != axis], own)
        s.rest("it says the size", 0)
        return s.made()

    def reference(self, indices: Array, depth: Array, values: Array) -> Array:
        n = int(depth.reshape(()))
        axis = check_axis(self.axis, indices.ndim + 1)
        at = indices.astype(np.int64)
        at = np.expand_dims(np.where((at < 0) & (at >= -n), at + n, at), axis)
        places = np.arange(n).reshape([-1 if i == axis else 1 for i in range(at.ndim)])
        return np.where(at == places, values[1], values[0])

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (at, depth, values), (g,) = operands, gradients
        kind = g.type.dtype.numpy
        hot = b.one_hot(at, depth, np.array([0, 1], kind), axis=self.axis)
        on = b.reduce_sum(b.mul(g, hot), keepdims=False)
        off = b.sub(b.reduce_sum(g, keepdims=False), on)
        both = b.concat(*(b.unsqueeze(v, ints(b, 0)) for v in (off, on)), axis=0)
        return None, None, shaped(b, both, values)


@register
@dataclass(frozen=True)
class NonZero(Op):
    """The indices of all elements that are not 0, one column each, in row-major order"""

    numerics = STRUCTURE.but(nan="is not 0")

    def infer(self, x: Abstract) -> Inferred:
        return TensorType(DType.i64, (None if x.shape is None else len(x.shape), None))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return everything(operands, results, "elements are chosen by their values")

    def reference(self, x: Array) -> Array:
        if x.ndim == 0:
            return np.zeros((0, int(x != 0)), np.int64)
        return np.stack(np.nonzero(x)).astype(np.int64)


@register
@dataclass(frozen=True)
class Compress(Op):
    """The slices along an axis (of flat x if there is none) where the condition holds"""

    moves = Moves()
    numerics = MOVES
    axis: int | None = None

    def infer(self, x: Abstract, condition: Abstract) -> Inferred:
        if condition.dtype is not DType.bool:
            raise VerifyError(f"the condition is {condition.type}, which is not bool")
        check_rank(condition, 1, "the condition")
        count: Dim = None
        if condition.value is not None:
            count = int(condition.value.sum())
        if self.axis is None or x.shape is None:
            return x.type.with_shape((count,) if self.axis is None else None)
        axis = check_axis(self.axis, len(x.shape))
        return x.type.with_shape((*x.shape[:axis], count, *x.shape[axis + 1 :]))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        if self.axis is None:
            return everything(operands, results, "elements are chosen by the condition")
        return along(operands, results, [self.axis % results[0].rank],
                     "slices are chosen by the condition", sized=False)  # fmt: skip

    def reference(self, x: Array, condition: Array) -> Array:
        size = x.size if self.axis is None else x.shape[self.axis]
        if condition[size:].any():
            raise FeedError(f"the condition chooses beyond {size} elements")
        return np.compress(condition[:size], x, axis=self.axis)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, condition), (g,) = operands, gradients
        at = b.reshape(b.non_zero(condition), ints(b, -1))
        if self.axis is not None:
            return shaped(b, put(b, g, at, x, check_axis(self.axis, rank_of(x))), x), None
        flat = b.reshape(x, ints(b, -1))
        return shaped(b, put(b, g, at, flat, 0), x), None


@register
@dataclass(frozen=True)
class Trilu(Op):
    """The upper (or lower) triangle of matrices, from the k-th diagonal on; the rest is 0"""

    numerics = MOVES
    upper: bool = True

    def infer(self, x: Abstract, k: Abstract | None = None) -> Inferred:
        if x.shape is not None and len(x.shape) < 2:
            raise VerifyError(f"the operand is {x.type}, which is no matrix")
        check_scalar(k, "k")
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return along(operands, results, ())

    def reference(self, x: Array, k: Array | None = None) -> Array:
        shift = 0 if k is None else int(k.reshape(()))
        i, j = np.indices(x.shape[-2:], sparse=True)
        keep = (j - i >= shift) if self.upper else (j - i <= shift)
        return np.where(keep, x, np.zeros((), x.dtype))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return b.trilu(gradients[0], operands[1], upper=self.upper), None


@register
@dataclass(frozen=True)
class EyeLike(Op):
    """1 on the k-th diagonal of a matrix of x's shape, else 0"""

    numerics = STRUCTURE
    axes = "x[-] -> y[i,j]"
    dtype: DType | None = None
    k: int = 0

    def infer(self, x: Abstract) -> Inferred:
        if x.shape is not None and len(x.shape) != 2:
            raise VerifyError(f"the operand is {x.type}, which is no matrix")
        return x.type.with_dtype(self.dtype or x.dtype)

    def reference(self, x: Array) -> Array:
        i, j = np.indices(x.shape, sparse=True)
        return (j - i == self.k).astype(x.dtype if self.dtype is None else self.dtype.numpy)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (None,)  # only the shape counts


@register
@dataclass(frozen=True)
class TopK(Op):
    """The k largest (or smallest) elements along an axis, in order, and their indices; of equal
    elements the first comes first
    """

    numerics = CHOICE.but(nan="counts as the largest", ties="the lower index")
    results = ("values", "indices")
    axis: int = -1
    largest: bool = True
    sorted: bool = True

    def infer(self, x: Abstract, k: Abstract) -> Inferred:
        check_number(x)
        check_integer(k, "k")
        check_scalar(k, "k")
        if x.shape is None:
            return x.type, x.type.with_dtype(DType.i64)
        axis = check_axis(self.axis, len(x.shape))
        count = k.as_dims()
        n, size = x.shape[axis], None if not count else count[0]
        if isinstance(size, int) and (size < 0 or (isinstance(n, int) and size > n)):
            raise VerifyError(f"k is {size} on an axis of {n}")
        made = x.type.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :]))
        return made, made.with_dtype(DType.i64)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return along(operands, results, [self.axis % results[0].rank], sized=False)

    def reference(self, x: Array, k: Array) -> Any:
        count, n = int(k.reshape(())), x.shape[self.axis]
        v = wide(x)
        if self.largest:
            flipped = np.argsort(np.flip(v, self.axis), axis=self.axis, kind="stable")
            order = n - 1 - np.flip(flipped, self.axis)
        else:
            order = np.argsort(v, axis=self.axis, kind="stable")
        at = np.take(order, np.arange(count), axis=self.axis).astype(np.int64)
        return np.take_along_axis(x, at, axis=self.axis), at

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        x, at, g = operands[0], results[1], gradients[0]
        if g is None:
            return (None,)
        return (b.scatter_elements(zeros(b, x), at, g, axis=self.axis, reduction="add"),)


@register
@dataclass(frozen=True)
class Unique(Op):
    """The elements (or slices along an axis) that differ, each once, in rising order or that of
    their first places; these places; for each element which one it is; and how often each occurs
    """

    numerics = CHOICE.but(nan="equal, and last")
    results = ("y", "indices", "inverse_indices", "counts")
    axis: int | None = None
    sorted: bool = True

    def infer(self, x: Abstract) -> Inferred:
        vector = TensorType(DType.i64, (None,))
        if self.axis is None:
            count = x.type.size if x.type.is_static else None
            return TensorType(x.dtype, (None,)), vector, vector.with_shape((count,)), vector
        if x.shape is None:
            return x.type, vector, vector, vector
        axis = check_axis(self.axis, len(x.shape))
        shape = [None if k == axis else d for k, d in enumerate(x.shape)]
        return x.type.with_shape(shape), vector, vector.with_shape((x.shape[axis],)), vector

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return everything(operands, results, "elements are chosen by their values")

    def reference(self, x: Array) -> tuple[Array, ...]:
        axis = 0 if self.axis is None else check_axis(self.axis, x.ndim)
        data = x.reshape(-1) if self.axis is None else x
        _, places, which, counts = np.unique(
            wide(data), True, True, True, axis=None if self.axis is None else axis
        )
        which = which.reshape(-1)
        if not self.sorted:
            order = np.argsort(places)
            places, counts = places[order], counts[order]
            which = np.argsort(order)[which]
        made = np.take(data, places, axis)
        return made, *(v.astype(np.int64) for v in (places, which, counts))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (_, at, *_), (g, *_) = operands, results, gradients
        if g is None:
            return (None,)
        if self.axis is not None:
            return (shaped(b, put(b, g, at, x, check_axis(self.axis, rank_of(x))), x),)
        return (shaped(b, put(b, g, at, b.reshape(x, ints(b, -1)), 0), x),)


@register
@dataclass(frozen=True)
class ReverseSequence(Op):
    """For each b of the batch axis, the first lens[b] slices of the time axis in reverse order"""

    moves = Moves()
    numerics = MOVES
    batch_axis: int = 1
    time_axis: int = 0

    def infer(self, x: Abstract, lens: Abstract) -> Inferred:
        if {self.batch_axis, self.time_axis} != {0, 1}:
            raise VerifyError("batch and time are axes 0 and 1, in some order")
        check_integer(lens, "the lengths")
        check_rank(lens, 1, "the lengths")
        if x.shape is None:
            return x.type
        if len(x.shape) < 2 or (lens.shape and differs(lens.shape[0], x.shape[self.batch_axis])):
            raise VerifyError(f"lengths of {lens.type} do not fit {x.type}")
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        own, shape = s.loops(s.results[0]), shape_at(operands, 0)
        whole = s.loop("all", shape[self.time_axis], ANY)
        s.relate(0, 0, [whole if k == self.time_axis else p for k, p in enumerate(own)], own,
                 "the lengths are computed")  # fmt: skip
        s.relate(1, 0, (own[self.batch_axis],), own)
        return s.made()

    def reference(self, x: Array, lens: Array) -> Array:
        data = np.moveaxis(x, self.time_axis, 1)
        count = data.shape[1]
        if ((lens < 0) | (lens > count)).any():
            raise FeedError(f"a length is not between 0 and {count}")
        places = np.arange(count)
        n = lens.reshape(-1, 1)
        order = np.where(places < n, n - 1 - places, places)
        made = np.take_along_axis(data, order.reshape(*order.shape, *[1] * (data.ndim - 2)), 1)
        return np.moveaxis(made, 1, self.time_axis)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (_, lens), (g,) = operands, gradients
        flags = {"batch_axis": self.batch_axis, "time_axis": self.time_axis}
        return b.reverse_sequence(g, lens, **flags), None

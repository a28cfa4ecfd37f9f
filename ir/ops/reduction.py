"""Reductions over axes, and running sums. No axes mean all (none with noop_with_empty_axes)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..dependence import ANY, Dependences
from ..errors import NotDifferentiableError, VerifyError
from ..numerics import CHOICE, SUMS
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import along, everything, ints_at, is_given, reduced, shape_at
from ..traits import NON_NEGATIVE
from ..types import DType, Shape, TensorType
from .adjoint import (
    extreme_gradient,
    ints,
    inverse,
    keep_axes,
    known_shape,
    mean_factor,
    move,
    rank_of,
    scaled,
    shape_of,
    shaped,
    size_of,
    spread,
)
from .common import (
    cast,
    check_axes,
    check_axis,
    check_integer,
    check_number,
    check_scalar,
    length,
    unknown,
    wide,
)
from .pooling import lowest

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


@dataclass(frozen=True)
class Reduction(Op):
    """Shape and axes of all reductions; `run(x, axes, keepdims)` does the work."""

    numerics = SUMS.but(infinity="IEEE 754 (inf - inf is NaN)")
    keepdims: bool = True
    noop_with_empty_axes: bool = False
    run: ClassVar[Callable[..., Any]]
    each: ClassVar[Callable[..., Any]] = staticmethod(lambda v: v)
    """What becomes of every element where there are no axes to reduce."""
    with_bool: ClassVar[bool] = False
    joins: ClassVar[str] = ""
    """How partial results are joined to the whole, if a sum, max, ... of them is it."""

    def infer(self, x: Abstract, axes: Abstract | None = None) -> Inferred:
        if not self.with_bool:
            check_number(x)
        if axes is not None:
            check_integer(axes, "the axes")
        which = () if axes is None else axes.as_ints()
        if x.shape is None:
            return x.type
        rank = len(x.shape)
        if which is None:
            assert axes is not None
            count = length(axes)
            if self.keepdims:
                return x.type.with_shape(unknown(rank))
            sure = count is not None and 0 < count <= rank
            return x.type.with_shape(unknown(rank - (count or 0)) if sure else None)
        gone = self.over(which, rank)
        kept = [1 if i in gone else d for i, d in enumerate(x.shape) if self.keepdims
                or i not in gone]  # fmt: skip
        return x.type.with_shape(kept)

    def over(self, axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
        """The axes that are reduced."""
        if not axes:
            return () if self.noop_with_empty_axes else tuple(range(rank))
        return check_axes(axes, rank)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        which = ints_at(operands, 1) if is_given(operands, 1) else ()
        if which is None:
            return everything(operands, results, "the axes are computed")
        gone = self.over(which, len(shape_at(operands, 0)))
        return reduced(operands, results, gone, self.joins or self.name.removeprefix("reduce_"))

    def reference(self, x: Array, axes: Array | None = None) -> Array:
        given = () if axes is None else tuple(int(a) for a in axes.reshape(-1))
        over = self.over(given, x.ndim)
        v = wide(x)
        if not over and self.noop_with_empty_axes:
            made = type(self).each(v)
        else:
            made = type(self).run(v, over, self.keepdims)
        return cast(np.asarray(made), DType.of(x))

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        """The gradient of x; g and y broadcast to x."""
        raise NotImplementedError

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, axes), (y,), (g,) = operands, results, gradients
        axes = None if _is_empty(axes) else axes
        kept = self.keepdims
        if axes is None and self.noop_with_empty_axes:
            axes, kept = ints(b), True
        g, y = (keep_axes(b, v, axes, kept) for v in (g, y))
        return shaped(b, self.derivative(b, g, x, y, axes), x), None


def _is_empty(axes: Value | None) -> bool:
    return axes is not None and known_shape(axes) == (0,)


def _known(x: Value | None, what: str) -> tuple[int, ...]:
    """The contents of a constant vector. Raises NotDifferentiableError."""
    found = () if x is None else x.abstract.as_ints()
    if found is None:
        raise NotDifferentiableError(f"{what} are computed", hint="fold constants first")
    return found


def _float(x: Array) -> Array:
    return x if x.dtype.kind == "f" else x.astype(np.float64)


@register
@dataclass(frozen=True)
class ReduceSum(Reduction):
    """sum of x; integers wrap"""

    joins = "sum"
    run = staticmethod(lambda v, a, k: np.sum(v, axis=a, keepdims=k, dtype=v.dtype))

    def dims(self, x: Abstract, axes: Abstract | None = None) -> Shape | None:
        return _joined_dims(x, sum)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return spread(b, g, x)


@register
@dataclass(frozen=True)
class ReduceProd(Reduction):
    """product of x; integers wrap"""

    joins = "prod"
    run = staticmethod(lambda v, a, k: np.prod(v, axis=a, keepdims=k, dtype=v.dtype))

    def dims(self, x: Abstract, axes: Abstract | None = None) -> Shape | None:
        return _joined_dims(x, math.prod)

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        # The product of all others, which holds where some are 0: those before times those after.
        rank = rank_of(x)
        gone = self.over(_known(axes, "the axes"), rank)
        last = [i for i in range(rank) if i not in gone] + list(gone)
        moved = move(b, x, last)
        rows = b.reshape(moved, b.concat(
            *(size_of(b, x, i) for i in last[: rank - len(gone)]), ints(b, -1), axis=0
        ))  # fmt: skip
        end = b.constant(np.int64(-1))
        before = b.cum_prod(rows, end, exclusive=True)
        after = b.cum_prod(rows, end, exclusive=True, reverse=True)
        others = b.reshape(b.mul(before, after), shape_of(b, moved), allowzero=True)
        return b.mul(g, move(b, others, inverse(last)))


def _joined_dims(x: Abstract, join: Callable[..., int]) -> Shape | None:
    ints = x.as_ints() if x.shape is not None and len(x.shape) == 1 else None
    return None if ints is None else (join(ints),)


@register
@dataclass(frozen=True)
class ReduceMean(Reduction):
    """mean of x; integers toward zero"""

    run = staticmethod(lambda v, a, k: np.mean(v, axis=a, keepdims=k))

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return spread(b, b.mul(g, mean_factor(b, x, y)), x)


def _maximum(v: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    first = False if v.dtype.kind == "b" else lowest(v)
    return np.max(v, axis=axes, keepdims=keepdims, initial=first)


def _minimum(v: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    kind = DType.of(v)
    first = True if kind is DType.bool else np.inf if kind.is_float else kind.bounds[1]
    return np.min(v, axis=axes, keepdims=keepdims, initial=first)


@register
@dataclass(frozen=True)
class ReduceMax(Reduction):
    """the largest x; of nothing, the type's smallest value"""

    run, with_bool, joins = _maximum, True, "max"

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return g if _is_empty(axes) else extreme_gradient(b, g, x, y, axes)


@register
@dataclass(frozen=True)
class ReduceMin(Reduction):
    """the smallest x; of nothing, the type's largest value"""

    run, with_bool, joins = _minimum, True, "min"

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return g if _is_empty(axes) else extreme_gradient(b, g, x, y, axes)


@register
@dataclass(frozen=True)
class ReduceL1(Reduction):
    """sum of |x|"""

    within = NON_NEGATIVE
    name = "reduce_l1"
    joins = "sum"
    each = np.abs
    run = staticmethod(lambda v, a, k: np.sum(np.abs(v), axis=a, keepdims=k, dtype=v.dtype))

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return b.mul(g, b.sign(x))


@register
@dataclass(frozen=True)
class ReduceL2(Reduction):
    """(sum of x^2)^(1/2)"""

    within = NON_NEGATIVE
    name = "reduce_l2"
    each = np.abs
    run = staticmethod(lambda v, a, k: np.sqrt(np.sum(_float(v) ** 2, axis=a, keepdims=k)))

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        norm = b.where(b.greater(y, b.number(0, y)), y, b.number(1, y))
        return b.mul(b.div(g, norm), x)


@register
@dataclass(frozen=True)
class ReduceSumSquare(Reduction):
    """sum of x^2"""

    within = NON_NEGATIVE
    each = np.square
    joins = "sum"
    run = staticmethod(lambda v, a, k: np.sum(np.square(v), axis=a, keepdims=k, dtype=v.dtype))

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return b.mul(scaled(b, g, 2.0), x)


@register
@dataclass(frozen=True)
class ReduceLogSum(Reduction):
    """ln(sum of x)"""

    each = np.log
    run = staticmethod(lambda v, a, k: np.log(np.sum(v, axis=a, keepdims=k)))

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return spread(b, b.div(g, b.exp(y)), x)


def _log_sum_exp(v: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    v = _float(v)
    top = np.max(v, axis=axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    total = np.log(np.sum(np.exp(v - top), axis=axes, keepdims=True)) + top
    return total if keepdims else np.squeeze(total, axis=axes)


@register
@dataclass(frozen=True)
class ReduceLogSumExp(Reduction):
    """ln(sum of e^x) without overflow"""

    run = _log_sum_exp

    def derivative(self, b: Builder, g: Value, x: Value, y: Value, axes: Value | None) -> Value:
        return b.mul(g, b.exp(b.sub(x, y)))


@dataclass(frozen=True)
class ArgReduction(Op):
    """The index of an extreme element along one axis: the first one, or the last."""

    numerics = CHOICE.but(ties="the first, or the last with `select_last_index`")
    axis: int = 0
    keepdims: bool = True
    select_last_index: bool = False
    find: ClassVar[Callable[..., Any]]

    def infer(self, x: Abstract) -> Inferred:
        check_number(x)
        if x.shape is None:
            return TensorType(DType.i64, None)
        axis = check_axis(self.axis, len(x.shape))
        if x.shape[axis] == 0:
            raise VerifyError(f"axis {axis} of {x.type} has no elements")
        kept = (1,) if self.keepdims else ()
        return TensorType(DType.i64, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return reduced(operands, results, [self.axis % len(shape_at(operands, 0))], ANY)

    def reference(self, x: Array) -> Array:
        v = np.flip(wide(x), self.axis) if self.select_last_index else wide(x)
        at = type(self).find(v, axis=self.axis, keepdims=self.keepdims)
        last = x.shape[self.axis] - 1
        return np.asarray(last - at if self.select_last_index else at, np.int64)


@register
@dataclass(frozen=True)
class ArgMax(ArgReduction):
    """The index of the largest element along an axis"""

    find = np.argmax


@register
@dataclass(frozen=True)
class ArgMin(ArgReduction):
    """The index of the smallest element along an axis"""

    find = np.argmin


@dataclass(frozen=True)
class Running(Op):
    """Every element joined with those before it along an axis (after it with `reverse`; without
    itself with `exclusive`).
    """

    numerics = SUMS
    exclusive: bool = False
    reverse: bool = False
    run: ClassVar[Callable[..., Any]]
    start: ClassVar[int] = 0

    def infer(self, x: Abstract, axis: Abstract) -> Inferred:
        check_number(x)
        check_integer(axis, "the axis")
        check_scalar(axis, "the axis")
        at = axis.as_ints()
        if x.shape is not None and at:
            check_axis(at[0], len(x.shape))
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        at = ints_at(operands, 1)
        if not at:
            return everything(operands, results, "the axis is computed")
        return along(operands, results, [at[0] % results[0].rank])

    def reference(self, x: Array, axis: Array) -> Array:
        a = check_axis(int(axis.reshape(())), x.ndim)
        v = np.flip(wide(x), a) if self.reverse else wide(x)
        made = type(self).run(v, axis=a, dtype=v.dtype)
        if self.exclusive:
            first = np.full([1 if i == a else n for i, n in enumerate(v.shape)], self.start)
            head = np.take(made, np.arange(max(v.shape[a] - 1, 0)), axis=a)
            made = np.concatenate([first[..., :], head], axis=a) if v.shape[a] else made
        return (np.flip(made, a) if self.reverse else made).astype(x.dtype)


@register
@dataclass(frozen=True)
class CumSum(Running):
    """Running sum along an axis"""

    run = np.cumsum

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        flags = {"exclusive": self.exclusive, "reverse": not self.reverse}
        return b.cum_sum(gradients[0], operands[1], **flags), None


@register
@dataclass(frozen=True)
class CumProd(Running):
    """Running product along an axis"""

    run, start = np.cumprod, 1

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, axis), (y,), (g,) = operands, results, gradients
        flags = {"exclusive": self.exclusive, "reverse": not self.reverse}
        return b.div(b.cum_sum(b.mul(g, y), axis, **flags), x), None  # where no x is 0

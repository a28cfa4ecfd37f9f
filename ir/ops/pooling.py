"""Pooling over spatial windows. All are separable: one axis is reduced after the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..dependence import ANY, Dependences
from ..errors import VerifyError
from ..numerics import EXTREMES, SUMS
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import rejoined
from ..traits import NON_NEGATIVE, Trait
from ..types import DType, TensorType
from .adjoint import extreme_gradient, ints, mean_factor, rank_of, shape_of, shaped, spread, where
from .common import check_float, check_integer, check_number, check_same, in_wide, unknown
from .windows import Window, Windowed, pad_spatial, spatial, tap

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


@dataclass(frozen=True, kw_only=True)
class Pool(Windowed):
    """Attributes of every pooling."""

    numerics = SUMS
    axes = "x[n,c,...@k] -> y[n,c,...]"
    kernel_shape: tuple[int, ...]
    ceil_mode: bool = False

    def pool_type(self, x: Abstract) -> TensorType:
        _, dilations, pads = self.check_window(self.kernel_shape)
        for i, (k, d) in enumerate(zip(self.kernel_shape, dilations)):
            if max(pads[i], pads[i + len(dilations)]) > (k - 1) * d:
                raise VerifyError(f"pads {list(pads)} are not smaller than the window")
        sizes = spatial(x)
        if x.shape is None or sizes is None:
            return TensorType(x.dtype, None)
        dims = self.window_dims(sizes, self.kernel_shape, self.ceil_mode)
        return TensorType(x.dtype, (*x.shape[:2], *dims))

    @staticmethod
    def attributes_of(op: Pool) -> dict[str, Any]:
        """The attributes that every pooling has."""
        return {f.name: getattr(op, f.name) for f in dataclasses.fields(Pool)}

    def geometry(self, x: Array) -> tuple[Window, tuple[int, ...]]:
        out = self.window_dims(x.shape[2:], self.kernel_shape, self.ceil_mode)
        return self.window(x.shape[2:], self.kernel_shape), cast(tuple[int, ...], out)


def axis_taps(w: Window, out: tuple[int, ...], axis: int, rank: int) -> list[tuple[slice, ...]]:
    """For each kernel position along one spatial axis, the slices of all windows' elements."""
    b, o, s = w.dilations[axis], out[axis], w.strides[axis]
    slices = (slice(i * b, i * b + (o - 1) * s + 1 if o else i * b, s)
              for i in range(w.kernel[axis]))  # fmt: skip
    whole = [slice(None)] * (rank + 2)
    return [(*whole[: axis + 2], s, *whole[axis + 3 :]) for s in slices]


def pool(x: Array, w: Window, out: tuple[int, ...], fill: Any, join: Callable[..., Array]) -> Array:
    """Reduce windows of `x`, padded with `fill`, by an associative ufunc, axis by axis."""
    y = pad_spatial(x, w, out, fill)
    for axis in reversed(range(len(out))):
        taps = axis_taps(w, out, axis, len(out))
        made = y[taps[0]].copy()
        for t in taps[1:]:
            join(made, y[t], out=made)
        y = made
    return y


def lowest(dtype: Any) -> Any:
    """The smallest value of an element type (minus infinity for floats)."""
    kind = DType.of(dtype)
    return -np.inf if kind.is_float else kind.bounds[0]


@register
@dataclass(frozen=True, kw_only=True)
class MaxPool(Pool):
    """The largest element of each window; with outputs=2 also its flat index in x

    Indices count over the whole of x, row-major, or column-major over the spatial axes where
    storage_order is 1. Of equal elements the first counts.
    """

    traits = Trait.AVERAGES
    numerics = EXTREMES.but(ties="the first, of places")
    axes = "x[n,c,...@k:max] -> y[n,c,...] indices[n,c,...]"
    results = ("y", "indices")
    storage_order: int = 0
    outputs: int = 1

    def infer(self, x: Abstract) -> Inferred:
        check_number(x)
        if self.outputs not in (1, 2) or self.storage_order not in (0, 1):
            raise VerifyError("outputs is 1 or 2, storage_order 0 or 1")
        made = self.pool_type(x)
        return made if self.outputs == 1 else (made, made.with_dtype(DType.i64))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        found = super().dependence(operands, results)
        return found if self.outputs == 1 else rejoined(found, ANY, "max")  # whole images are seen

    def reference(self, x: Array) -> Any:
        w, out = self.geometry(x)
        if self.outputs == 1:
            return in_wide(lambda v: pool(v, w, out, lowest(v), np.maximum), x)
        return self._with_indices(x, w, out)

    def _with_indices(self, x: Array, w: Window, out: tuple[int, ...]) -> tuple[Array, Array]:
        spatial_size = math.prod(x.shape[2:])
        order = "F" if self.storage_order else "C"
        inside = np.arange(spatial_size).reshape(x.shape[2:], order=order)
        images = np.arange(x.shape[0] * x.shape[1]) * spatial_size
        index = inside + images.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        best, at = pad_spatial(x, w, out, lowest(x)), pad_spatial(index, w, out, -1)
        for axis in reversed(range(len(out))):
            taps = axis_taps(w, out, axis, len(out))
            value, place = best[taps[0]].copy(), at[taps[0]].copy()
            for t in taps[1:]:
                v, i = best[t], at[t]
                # An element of x beats padding of the same value.
                better = (v > value) | ((v != v) & (value == value))
                better |= (place < 0) & (i >= 0) & (v == value)
                np.copyto(value, v, where=better)
                np.copyto(place, i, where=better)
            best, at = value, place
        return best, at

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), g = operands, gradients[0]
        if g is None:
            return (None,)
        return (b.add_op(MaxPoolGradient(**Pool.attributes_of(self)), x, g),)


@register
@dataclass(frozen=True, kw_only=True)
class AveragePool(Pool):
    """The mean of each window: over the elements of x in it, or with count_include_pad also over
    the padding (but never over what ceil_mode adds)
    """

    axes = "x[n,c,...@k:mean] -> y[n,c,...]"
    traits = Trait.AVERAGES
    count_include_pad: bool = False

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        return self.pool_type(x)

    def counts(self, sizes: tuple[int, ...], w: Window, out: tuple[int, ...]) -> Array:
        """How many elements each window averages, shaped as `out`."""
        total = np.ones((1,) * len(out))
        for axis, (n, b, e) in enumerate(zip(sizes, w.begin, w.end)):
            starts = np.arange(out[axis]) * w.strides[axis] - b
            at = starts[:, None] + np.arange(w.kernel[axis]) * w.dilations[axis]
            low, high = (-b, n + e) if self.count_include_pad else (0, n)
            count = ((at >= low) & (at < high)).sum(1)
            total = total * count.reshape([-1 if i == axis else 1 for i in range(len(out))])
        return total

    def reference(self, x: Array) -> Array:
        w, out = self.geometry(x)
        count = self.counts(x.shape[2:], w, out)
        return in_wide(lambda v: pool(v, w, out, 0, np.add) / count.astype(v.dtype), x)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        given = Pool.attributes_of(self)
        op = AveragePoolGradient(**given, count_include_pad=self.count_include_pad)
        return (shaped(b, b.add_op(op, gradients[0], shape_of(b, operands[0])), operands[0]),)


@register
@dataclass(frozen=True, kw_only=True)
class LpPool(Pool):
    """(sum of |x|^p over each window)^(1/p)"""

    axes = "x[n,c,...@k!] -> y[n,c,...]"
    within = NON_NEGATIVE
    p: int = 2

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        _check_p(self.p)
        return self.pool_type(x)

    def reference(self, x: Array) -> Array:
        w, out = self.geometry(x)
        p = self.p
        return in_wide(lambda v: pool(np.abs(v) ** p, w, out, 0, np.add) ** (1 / p), x)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (y,), (g,) = operands, results, gradients
        down = b.div(g, _power(b, y, self.p - 1)) if self.p > 1 else g
        # 0 / 0 where a window is all zeros, whose elements get 0
        down = where(b, b.greater(y, b.number(0, y)), down)
        op = AveragePoolGradient(**Pool.attributes_of(self), total=True)
        each = shaped(b, b.add_op(op, down, shape_of(b, x)), x)
        return (b.mul(each, signed_power(b, x, self.p - 1)),)


def _check_p(p: int) -> None:
    if not 1 <= p <= 64:
        raise VerifyError(f"p is {p}, which should lie within 1..64")


def _power(b: Builder, x: Value, p: float) -> Value:
    return x if p == 1 else b.pow(x, b.number(p, x))


def signed_power(b: Builder, x: Value, p: float) -> Value:
    """sign(x) * |x|^p"""
    if p == 1:
        return x
    return b.sign(x) if p == 0 else b.mul(b.sign(x), _power(b, b.abs(x), p))


@register
@dataclass(frozen=True, kw_only=True)
class MaxPoolGradient(Pool):
    """MaxPool's gradient: each element of dy added at the place of its window's largest element

    Of equal elements the first counts, as in MaxPool's indices.
    """

    onnx = None
    axes = "x[n,c,p...@j!] dy[n,c,p...] -> dx[n,c,p...@k]"
    results = ("dx",)

    def infer(self, x: Abstract, dy: Abstract) -> Inferred:
        check_float(x)
        check_same(x, dy)
        if not self.pool_type(x).accepts(dy.type):
            raise VerifyError(f"dy is {dy.type}, which is no pooling of {x.type}")
        return x.type

    def reference(self, x: Array, dy: Array) -> Array:
        return in_wide(self._run, x, dy)

    def _run(self, x: Array, dy: Array) -> Array:
        _, at = MaxPool(**Pool.attributes_of(self), outputs=2).reference(x)
        inside = at >= 0
        sums = np.bincount(at[inside], dy[inside], minlength=x.size)  # in double precision
        return sums.reshape(x.shape).astype(dy.dtype)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, dy), (g,) = operands, gradients  # linear in dy, whose places depend on x in jumps
        _, at = b.add_op(MaxPool(**Pool.attributes_of(self), outputs=2), x)
        picked = b.gather(b.reshape(g, ints(b, -1)), at)
        inside = b.greater_or_equal(at, b.number(0, at))
        return None, shaped(b, where(b, inside, picked), dy)


@register
@dataclass(frozen=True, kw_only=True)
class AveragePoolGradient(Pool):
    """AveragePool's gradient for an input of this shape: each element of dy, divided by its
    window's count (not with `total`), added to all elements of the window
    """

    onnx = None
    axes = "dy[n,c,p...] shape[!] -> dx[n,c,p...@k]"
    results = ("dx",)
    count_include_pad: bool = False
    total: bool = False

    def infer(self, dy: Abstract, shape: Abstract) -> Inferred:
        check_float(dy, "dy")
        check_integer(shape, "the shape")
        dims, rank = shape.as_dims(), len(self.kernel_shape) + 2
        made = TensorType(dy.dtype, unknown(rank) if dims is None else dims)
        if not self.pool_type(Abstract(made)).accepts(dy.type):
            raise VerifyError(f"dy is {dy.type}, which is no pooling of {made}")
        return made

    def reference(self, dy: Array, shape: Array) -> Array:
        return in_wide(lambda v: self._run(v, tuple(int(n) for n in shape)), dy)

    def _run(self, dy: Array, shape: tuple[int, ...]) -> Array:
        w, out = self.window(shape[2:], self.kernel_shape), dy.shape[2:]
        if not self.total:
            dy = dy / self.forward().counts(shape[2:], w, out).astype(dy.dtype)
        made = pad_spatial(np.zeros(shape, dy.dtype), w, out, 0)
        made = made.copy() if made.base is not None else made
        for at in np.ndindex(*w.kernel):
            view = tap(made, w, out, at)
            view += dy
        inside = [slice(b, b + n) for b, n in zip(w.begin, shape[2:])]
        return made[(slice(None), slice(None), *inside)]

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        given, (g,) = Pool.attributes_of(self), gradients
        if self.total:  # sums are those of positive elements less those of negative ones
            zero, sums = b.number(0, g), LpPool(**given, p=1)
            parts = (b.max(g, zero), b.max(b.neg(g), zero))
            return b.sub(*(b.add_op(sums, v) for v in parts)), None
        return b.add_op(self.forward(), g), None

    def forward(self) -> AveragePool:
        """The pooling whose gradient this is."""
        return AveragePool(**Pool.attributes_of(self), count_include_pad=self.count_include_pad)


@dataclass(frozen=True)
class GlobalPool(Op):
    """One window over all spatial axes."""

    numerics = SUMS
    axes = "x[n,c,k...:mean] -> y[n,c,1...]"

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        sizes = spatial(x)
        if x.shape is None or sizes is None:
            return x.type
        return TensorType(x.dtype, (*x.shape[:2], *(1 for _ in sizes)))


def _over(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@register
@dataclass(frozen=True)
class GlobalAveragePool(GlobalPool):
    """The mean over all spatial axes, which become 1"""

    traits = Trait.AVERAGES

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: np.mean(v, axis=_over(v), keepdims=True), x)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (g,) = operands, gradients
        return (spread(b, b.mul(g, mean_factor(b, x, g)), x),)


@register
@dataclass(frozen=True)
class GlobalMaxPool(GlobalPool):
    """The largest element over all spatial axes, which become 1"""

    traits = Trait.AVERAGES
    numerics = EXTREMES
    axes = "x[n,c,k...:max] -> y[n,c,1...]"

    def reference(self, x: Array) -> Array:
        return in_wide(lambda v: np.max(v, axis=_over(v), keepdims=True, initial=-np.inf), x)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (y,), (g,) = operands, results, gradients
        over = ints(b, *range(2, rank_of(x)))
        return (extreme_gradient(b, g, x, y, over),)


@register
@dataclass(frozen=True)
class GlobalLpPool(GlobalPool):
    """(sum of |x|^p over all spatial axes)^(1/p)"""

    axes = "x[n,c,k...!] -> y[n,c,1...]"
    within = NON_NEGATIVE
    p: int = 2

    def infer(self, x: Abstract) -> Inferred:
        _check_p(self.p)
        return super().infer(x)

    def reference(self, x: Array) -> Array:
        f = lambda v: np.sum(np.abs(v) ** self.p, axis=_over(v), keepdims=True)  # noqa: E731
        return in_wide(lambda v: f(v) ** (1 / self.p), x)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (y,), (g,) = operands, results, gradients
        down = b.div(g, _power(b, y, self.p - 1)) if self.p > 1 else g
        down = where(b, b.greater(y, b.number(0, y)), down)
        return (b.mul(down, signed_power(b, x, self.p - 1)),)

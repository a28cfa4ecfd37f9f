"""Normalizations. Statistics of f16 and bf16 are computed in f32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..affine import ZERO
from ..dependence import ANY, Dependences
from ..errors import VerifyError
from ..numerics import NORMALIZATION, SUMS
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import Space, along, is_given, shape_at
from ..signature import derived, read_signature
from ..types import DType, Shape, TensorType, broadcast
from .adjoint import in_type_of, ints, mean_factor, rank_of, scaled, shaped, size_of, sum_to
from .common import check_axes, check_axis, check_float, check_same, check_vector, in_wide, wide
from .convolution import along_channels

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


def _channels(x: Abstract) -> Any:
    if x.shape is None:
        return None
    if len(x.shape) < 2:
        raise VerifyError(f"the operand is {x.type}, which has no channel axis")
    return x.shape[1]


def normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon) over these axes."""
    mean = np.mean(x, axis=axes, keepdims=True)
    variance = np.mean(np.square(x - mean), axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + x.dtype.type(epsilon))


def channels_of(b: Builder, v: Value, rank: int) -> Value:
    """A vector of channels as it broadcasts over (n, c, *spatial)."""
    return b.reshape(v, ints(b, -1, *[1] * (rank - 2)))


def affine(b: Builder, x: Value, scale: Value, bias: Value) -> Value:
    """x * scale[c] + bias[c]"""
    rank = rank_of(x)
    return b.add(b.mul(x, channels_of(b, scale, rank)), channels_of(b, bias, rank))


def centred(b: Builder, x: Value, axes: Iterable[int], epsilon: float) -> Value:
    """What `normalized` computes, as nodes."""
    over = ints(b, *axes)
    off = b.sub(x, b.reduce_mean(x, over))
    var = b.reduce_mean(b.mul(off, off), over)
    return b.div(off, b.sqrt(b.add(var, b.number(epsilon, var))))


@register
@dataclass(frozen=True)
class BatchNormalization(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, each a vector of channels

    With training_mode the statistics are x's own and there are three results: y and the running
    mean and variance, running * momentum + own * (1 - momentum).
    """

    numerics = SUMS
    axes = "x[n,c,...] scale[c] bias[c] mean[c] var[c] -> y[n,c,...] running_mean[c] running_var[c]"
    settings = ("mean", "var")
    results = ("y", "running_mean", "running_var")
    epsilon: float = 1e-5
    momentum: float = 0.9
    training_mode: bool = False

    def infer(
        self, x: Abstract, scale: Abstract, bias: Abstract, mean: Abstract, var: Abstract
    ) -> Inferred:
        check_float(x)
        for v in (scale, bias, mean, var):
            check_float(v)
            check_vector(v, _channels(x), "a vector of channels")
        if self.training_mode:
            return x.type, mean.type, var.type
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        own = self.axes.replace("x[n,c,...]", "x[n!,c,...!]")
        text = own if self.training_mode else self.axes
        return derived(read_signature(text), self, operands, results)

    def reference(self, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Any:
        if not self.training_mode:
            return in_wide(self._run, x, scale, bias, mean, var)
        over = (0, *range(2, x.ndim))
        own_mean, own_var = np.mean(wide(x), axis=over), np.var(wide(x), axis=over)
        y = in_wide(self._run, x, scale, bias, own_mean, own_var)
        m = self.momentum
        return (
            y,
            (wide(mean) * m + own_mean * (1 - m)).astype(mean.dtype),
            (wide(var) * m + own_var * (1 - m)).astype(var.dtype),
        )

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
        factor = scale / np.sqrt(var + var.dtype.type(self.epsilon))
        centred = x - along_channels(mean, max(x.ndim, 2))
        return centred * along_channels(factor, x.ndim) + along_channels(bias, x.ndim)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        g, *rest = gradients
        x, scale, bias, mean, var = operands
        if g is None or any(r is not None for r in rest):
            return super().gradient(b, operands, results, gradients)
        over, rank = [0, *range(2, rank_of(x))], rank_of(x)
        own = self.training_mode
        at = in_type_of(b, x, scale)
        if own:
            mean = b.reduce_mean(at, ints(b, *over), keepdims=False)
            off = b.sub(at, channels_of(b, mean, rank))
            var = b.reduce_mean(b.mul(off, off), ints(b, *over), keepdims=False)
        else:
            off = b.sub(at, channels_of(b, in_type_of(b, mean, scale), rank))
        var = in_type_of(b, var, scale)
        inverse = b.reciprocal(b.sqrt(b.add(var, b.number(self.epsilon, var))))
        g = in_type_of(b, g, scale)
        dbias = b.reduce_sum(g, ints(b, *over), keepdims=False)
        dscale = b.mul(inverse, b.reduce_sum(b.mul(g, off), ints(b, *over), keepdims=False))
        factor = b.mul(scale, inverse)
        made = in_type_of(b, dscale, scale), in_type_of(b, dbias, bias)
        if not own:
            dx = b.mul(g, channels_of(b, factor, rank))
            # d inverse / d var = -inverse^3 / 2
            dvar = scaled(b, b.mul(b.mul(dscale, scale), b.mul(inverse, inverse)), -0.5)
            dmean = b.neg(b.mul(dbias, factor))
            return (in_type_of(b, dx, x), *made, in_type_of(b, dmean, operands[3]),
                    in_type_of(b, dvar, operands[4]))  # fmt: skip
        share = mean_factor(b, x, dbias)
        level = b.mul(dbias, share)
        tilt = b.mul(b.mul(dscale, inverse), share)
        slope = b.add(channels_of(b, level, rank), b.mul(off, channels_of(b, tilt, rank)))
        dx = b.mul(channels_of(b, factor, rank), b.sub(g, slope))
        return in_type_of(b, dx, x), *made, None, None

    def definition(self, b: Builder, *operands: Value | None) -> Any:
        x, scale, bias, mean, var = cast("tuple[Value, ...]", operands)
        rank, m = rank_of(x), self.momentum
        over = ints(b, 0, *range(2, rank))
        own_mean, own_var = mean, var
        if self.training_mode:
            own_mean = in_type_of(b, b.reduce_mean(x, over, keepdims=False), mean)
            off = b.sub(x, channels_of(b, in_type_of(b, own_mean, x), rank))
            own_var = in_type_of(b, b.reduce_mean(b.mul(off, off), over, keepdims=False), var)
        inverse = b.reciprocal(b.sqrt(b.add(own_var, b.number(self.epsilon, own_var))))
        off = b.sub(in_type_of(b, x, scale), channels_of(b, in_type_of(b, own_mean, scale), rank))
        y = affine(b, off, b.mul(scale, in_type_of(b, inverse, scale)), in_type_of(b, bias, scale))
        y = in_type_of(b, y, x)
        if not self.training_mode:
            return y
        moved = (b.add(scaled(b, v, m), scaled(b, own, 1 - m))
                 for v, own in ((mean, own_mean), (var, own_var)))  # fmt: skip
        return y, *moved


@register
@dataclass(frozen=True)
class InstanceNormalization(Op):
    """Each image's channel normalized over its spatial axes, times scale[c], plus bias[c]"""

    numerics = NORMALIZATION
    axes = "x[n,c,...!] scale[c] bias[c] -> y[n,c,...]"
    epsilon: float = 1e-5

    def infer(self, x: Abstract, scale: Abstract, bias: Abstract) -> Inferred:
        check_float(x)
        check_same(x, scale, bias)
        check_vector(scale, _channels(x), "the scale")
        check_vector(bias, _channels(x), "the bias")
        return x.type

    def reference(self, x: Array, scale: Array, bias: Array) -> Array:
        return in_wide(self._run, x, scale, bias)

    def _run(self, x: Array, scale: Array, bias: Array) -> Array:
        y = normalized(x, tuple(range(2, x.ndim)), self.epsilon)
        return y * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        x, scale, bias = cast("tuple[Value, ...]", operands)
        y = centred(b, x, range(2, rank_of(x)), self.epsilon)
        return affine(b, y, scale, bias)


@register
@dataclass(frozen=True, kw_only=True)
class GroupNormalization(Op):
    """Each image's group of channels normalized over them and all spatial axes, times scale[c],
    plus bias[c]
    """

    numerics = NORMALIZATION
    axes = "x[n,num_groups*c!,...!] scale[num_groups*c] bias[num_groups*c] -> y[n,num_groups*c,...]"
    num_groups: int
    epsilon: float = 1e-5
    stash_type: int = 1

    def infer(self, x: Abstract, scale: Abstract, bias: Abstract) -> Inferred:
        check_float(x)
        check_same(x, scale, bias)
        channels = _channels(x)
        check_vector(scale, channels, "the scale")
        check_vector(bias, channels, "the bias")
        if self.num_groups < 1 or (isinstance(channels, int) and channels % self.num_groups):
            raise VerifyError(f"{channels} channels do not divide into {self.num_groups} groups")
        return x.type

    def reference(self, x: Array, scale: Array, bias: Array) -> Array:
        return in_wide(self._run, x, scale, bias)

    def _run(self, x: Array, scale: Array, bias: Array) -> Array:
        n, c = x.shape[:2]
        grouped = x.reshape(n, self.num_groups, c // self.num_groups, *x.shape[2:])
        y = normalized(grouped, tuple(range(2, grouped.ndim)), self.epsilon).reshape(x.shape)
        return y * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        x, scale, bias = cast("tuple[Value, ...]", operands)
        grouped = b.reshape(x, ints(b, 0, self.num_groups, -1))
        y = centred(b, grouped, (2,), self.epsilon)
        return affine(b, shaped(b, y, x), scale, bias)


@register
@dataclass(frozen=True)
class LayerNormalization(Op):
    """x normalized over the axes from `axis` on, times scale, plus bias

    With outputs=2 or 3 also the mean and 1 / sqrt(variance + epsilon), in f32 (stash_type 1) for x
    of any type.
    """

    numerics = NORMALIZATION
    results = ("y", "mean", "inv_std_dev")
    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1
    outputs: int = 1

    def infer(self, x: Abstract, scale: Abstract, bias: Abstract | None = None) -> Inferred:
        check_float(x)
        check_same(x, scale, bias)
        if not 1 <= self.outputs <= 3:
            raise VerifyError(f"outputs is {self.outputs}, which should be 1, 2 or 3")
        stats = TensorType(DType.f32, None)
        if x.shape is not None:
            axis = check_axis(self.axis, len(x.shape))
            _fits_tail(scale, x, axis)
            _fits_tail(bias, x, axis)
            stats = stats.with_shape((*x.shape[:axis], *(1 for _ in x.shape[axis:])))
        made: tuple[TensorType, ...] = (x.type, stats, stats)
        return made[: self.outputs]

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, shape = Space(operands, results), shape_at(operands, 0)
        own, whole = s.loops(shape), _tail(shape, self.axis)
        read = [s.loop(f"all{k}", n, ANY) if k in whole else own[k] for k, n in enumerate(shape)]
        s.relate(0, 0, read, own)
        for o in (1, 2):
            if is_given(operands, o):
                s.broadcast(o, own)
        for r in range(1, len(results)):
            s.relate(0, r, read, [ZERO if k in whole else p for k, p in enumerate(own)])
        return s.made()

    def reference(self, x: Array, scale: Array, bias: Array | None = None) -> Any:
        v = wide(x)
        axes = tuple(range(check_axis(self.axis, x.ndim), x.ndim))
        mean = np.mean(v, axis=axes, keepdims=True)
        variance = np.mean(np.square(v - mean), axis=axes, keepdims=True)
        inverse = 1 / np.sqrt(variance + v.dtype.type(self.epsilon))
        y = (v - mean) * inverse * wide(scale)
        y = y if bias is None else y + wide(bias)
        stats = mean.astype(np.float32), inverse.astype(np.float32)
        return (y.astype(x.dtype), *stats)[: self.outputs]

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, scale, bias), g = operands, gradients[0]
        if any(r is not None for r in gradients[1:]):
            return super().gradient(b, operands, results, gradients)
        axis = check_axis(self.axis, rank_of(x))
        over = ints(b, *range(axis, rank_of(x)))
        off = b.sub(x, b.reduce_mean(x, over))
        var = b.reduce_mean(b.mul(off, off), over)
        inverse = b.reciprocal(b.sqrt(b.add(var, b.number(self.epsilon, var))))
        y = b.mul(off, inverse)
        part = b.mul(g, scale)
        level = b.reduce_mean(part, over)
        tilt = b.mul(y, b.reduce_mean(b.mul(part, y), over))
        dx = b.mul(inverse, b.sub(b.sub(part, level), tilt))
        dbias = None if bias is None else sum_to(b, g, bias)
        return dx, sum_to(b, b.mul(g, y), scale), dbias

    def definition(self, b: Builder, *operands: Value | None) -> tuple[Value, ...]:
        x, scale, bias = operands
        assert x is not None and scale is not None
        over = ints(b, *range(check_axis(self.axis, rank_of(x)), rank_of(x)))
        mean = b.reduce_mean(x, over)
        off = b.sub(x, mean)
        var = b.reduce_mean(b.mul(off, off), over)
        inverse = b.reciprocal(b.sqrt(b.add(var, b.number(self.epsilon, var))))
        y = b.mul(b.mul(off, inverse), scale)
        y = y if bias is None else b.add(y, bias)
        wide = DType.f64 if x.type.dtype is DType.f64 else DType.f32
        return tuple(v if v is y or v.type.dtype is wide else b.cast(v, to=wide)
                     for v in (y, mean, inverse))[: self.outputs]  # fmt: skip


def _tail(shape: Shape, axis: int) -> range:
    return range(axis % len(shape), len(shape))


def _fits_tail(vector: Abstract | None, x: Abstract, axis: int) -> None:
    """Scale and bias broadcast to the normalized part of x."""
    if vector is None or vector.shape is None or x.shape is None:
        return
    joint = broadcast(x.shape, vector.shape)
    if joint is not None and not x.type.accepts(TensorType(x.dtype, joint)):
        raise VerifyError(f"{vector.type} does not broadcast to {x.type}")


@register
@dataclass(frozen=True)
class RMSNormalization(Op):
    """x / sqrt(mean(x^2) + epsilon) * scale, over the axes from `axis` on"""

    numerics = NORMALIZATION.but(infinity="is NaN, the rest of its group 0")
    name = "rms_normalization"
    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1

    def infer(self, x: Abstract, scale: Abstract) -> Inferred:
        check_float(x)
        if x.shape is not None:
            _fits_tail(scale, x, check_axis(self.axis, len(x.shape)))
        return x.type.with_dtype(scale.dtype)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, shape = Space(operands, results), shape_at(operands, 0)
        own, whole = s.loops(shape), _tail(shape, self.axis)
        s.relate(0, 0, [s.loop(f"all{k}", n, ANY) if k in whole else own[k]
                        for k, n in enumerate(shape)], own)  # fmt: skip
        s.broadcast(1, own)
        return s.made()

    def reference(self, x: Array, scale: Array) -> Array:
        v = wide(x)
        axes = tuple(range(check_axis(self.axis, x.ndim), x.ndim))
        mean = np.mean(np.square(v), axis=axes, keepdims=True)
        return (v / np.sqrt(mean + v.dtype.type(self.epsilon)) * wide(scale)).astype(scale.dtype)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        x, scale = cast("tuple[Value, Value]", operands)
        over = ints(b, *range(check_axis(self.axis, rank_of(x)), rank_of(x)))
        root = b.sqrt(b.add(b.reduce_mean(b.mul(x, x), over), b.number(self.epsilon, x)))
        return b.mul(in_type_of(b, b.div(x, root), scale), scale)


@register
@dataclass(frozen=True)
class LpNormalization(Op):
    """x / (sum |x|^p)^(1/p) along an axis, p 1 or 2; 0 where the norm is 0"""

    numerics = NORMALIZATION.but(infinity="is NaN, the rest of its group 0")
    axis: int = -1
    p: int = 2

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if self.p not in (1, 2):
            raise VerifyError(f"p is {self.p}, which should be 1 or 2")
        if x.shape is not None:
            check_axis(self.axis, len(x.shape))
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return along(operands, results, [self.axis % results[0].rank])

    def reference(self, x: Array) -> Array:
        def run(v: Array) -> Array:
            norm = np.sum(np.abs(v) ** self.p, axis=self.axis, keepdims=True) ** (1 / self.p)
            return np.where(norm == 0, 0, v / np.where(norm == 0, 1, norm))

        return in_wide(run, x)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        (x,) = cast("tuple[Value]", operands)
        reduce = b.reduce_l1 if self.p == 1 else b.reduce_l2
        norm = reduce(x, ints(b, self.axis))
        none = b.equal(norm, b.number(0, norm))
        return b.where(none, b.number(0, x), b.div(x, b.where(none, b.number(1, norm), norm)))


@register
@dataclass(frozen=True)
class MeanVarianceNormalization(Op):
    """(x - mean) / (sqrt(variance) + 1e-9) over these axes"""

    numerics = NORMALIZATION
    renamed = (("axes", "over"),)
    over: tuple[int, ...] = (0, 2, 3)

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if x.shape is not None:
            check_axes(self.over, len(x.shape))
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return along(operands, results, check_axes(self.over, results[0].rank))

    def reference(self, x: Array) -> Array:
        def run(v: Array) -> Array:
            mean = np.mean(v, axis=self.over, keepdims=True)
            variance = np.mean(np.square(v - mean), axis=self.over, keepdims=True)
            return (v - mean) / (np.sqrt(variance) + v.dtype.type(1e-9))

        return in_wide(run, x)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        (x,) = cast("tuple[Value]", operands)
        over = ints(b, *self.over)
        off = b.sub(x, b.reduce_mean(x, over))
        root = b.sqrt(b.reduce_mean(b.mul(off, off), over))
        return b.div(off, b.add(root, b.number(1e-9, root)))


@register
@dataclass(frozen=True, kw_only=True)
class LRN(Op):
    """x / (bias + alpha / size * sum of x^2 over the `size` nearest channels)^beta"""

    numerics = SUMS
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        _channels(x)
        if not 1 <= self.size <= 1 << 20:
            raise VerifyError(f"size is {self.size}, which should be positive")
        return x.type

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        own, k = s.loops(s.results[0]), s.loop("k", self.size, ANY)
        n, c, *rest = own
        s.relate(0, 0, (n, c.scaled(1, -((self.size - 1) // 2)) + k, *rest), own)
        return s.made()

    def reference(self, x: Array) -> Array:
        return in_wide(self._run, x)

    def _run(self, x: Array) -> Array:
        before, after = (self.size - 1) // 2, self.size // 2
        channels = x.shape[1]
        # Running sums: the window's sum is a difference of two of them, in double precision.
        sums = np.zeros((x.shape[0], channels + 1, *x.shape[2:]))
        np.cumsum(np.square(x, dtype=np.float64), axis=1, out=sums[:, 1:])
        at = np.arange(channels)
        high, low = np.minimum(at + after + 1, channels), np.maximum(at - before, 0)
        total = sums[:, high] - sums[:, low]
        return x / (self.bias + self.alpha / self.size * total) ** self.beta

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        (x,) = cast("tuple[Value]", operands)
        # A mean over channels is a pooling over the first of two spatial axes.
        flat = b.reshape(b.mul(x, x), b.concat(size_of(b, x, 0), ints(b, 1), size_of(b, x, 1),
                                               ints(b, -1), axis=0))  # fmt: skip
        pads = ((self.size - 1) // 2, 0, self.size // 2, 0)
        means = b.average_pool(flat, kernel_shape=(self.size, 1), pads=pads,
                               count_include_pad=True)  # fmt: skip
        base = b.add(scaled(b, shaped(b, means, x), self.alpha), b.number(self.bias, x))
        return b.div(x, b.pow(base, b.number(self.beta, x)))

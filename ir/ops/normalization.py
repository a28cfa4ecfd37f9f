"""Normalizations. Statistics of f16 and bf16 are computed in f32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import VerifyError
from ..op import Abstract, Array, Inferred, Op, register
from ..types import DType, TensorType, broadcast
from .common import check_axes, check_axis, check_float, check_same, check_vector, in_wide, wide
from .convolution import along_channels


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


@register
@dataclass(frozen=True)
class BatchNormalization(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, each a vector of channels

    With training_mode the statistics are x's own and there are three results: y and the running
    mean and variance, running * momentum + own * (1 - momentum).
    """

    axes = "x[n,c,...] scale[c] bias[c] mean[c] var[c] -> y[n,c,...]"
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


@register
@dataclass(frozen=True)
class InstanceNormalization(Op):
    """Each image's channel normalized over its spatial axes, times scale[c], plus bias[c]"""

    axes = "x[n,c,...] scale[c] bias[c] -> y[n,c,...]"
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


@register
@dataclass(frozen=True, kw_only=True)
class GroupNormalization(Op):
    """Each image's group of channels normalized over them and all spatial axes, times scale[c],
    plus bias[c]
    """

    axes = "x[n,c,...] scale[c] bias[c] -> y[n,c,...]"
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


@register
@dataclass(frozen=True)
class LayerNormalization(Op):
    """x normalized over the axes from `axis` on, times scale, plus bias

    With outputs=2 or 3 also the mean and 1 / sqrt(variance + epsilon), in f32 (stash_type 1).
    """

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
        stats = TensorType(DType.f64 if x.dtype is DType.f64 else DType.f32, None)
        if x.shape is not None:
            axis = check_axis(self.axis, len(x.shape))
            _fits_tail(scale, x, axis)
            _fits_tail(bias, x, axis)
            stats = stats.with_shape((*x.shape[:axis], *(1 for _ in x.shape[axis:])))
        made: tuple[TensorType, ...] = (x.type, stats, stats)
        return made[: self.outputs]

    def reference(self, x: Array, scale: Array, bias: Array | None = None) -> Any:
        v = wide(x)
        axes = tuple(range(check_axis(self.axis, x.ndim), x.ndim))
        mean = np.mean(v, axis=axes, keepdims=True)
        variance = np.mean(np.square(v - mean), axis=axes, keepdims=True)
        inverse = 1 / np.sqrt(variance + v.dtype.type(self.epsilon))
        y = (v - mean) * inverse * wide(scale)
        y = y if bias is None else y + wide(bias)
        return (y.astype(x.dtype), mean, inverse)[: self.outputs]


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

    name = "rms_normalization"
    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1

    def infer(self, x: Abstract, scale: Abstract) -> Inferred:
        check_float(x)
        if x.shape is not None:
            _fits_tail(scale, x, check_axis(self.axis, len(x.shape)))
        return x.type.with_dtype(scale.dtype)

    def reference(self, x: Array, scale: Array) -> Array:
        v = wide(x)
        axes = tuple(range(check_axis(self.axis, x.ndim), x.ndim))
        mean = np.mean(np.square(v), axis=axes, keepdims=True)
        return (v / np.sqrt(mean + v.dtype.type(self.epsilon)) * wide(scale)).astype(scale.dtype)


@register
@dataclass(frozen=True)
class LpNormalization(Op):
    """x / (sum |x|^p)^(1/p) along an axis, p 1 or 2; 0 where the norm is 0"""

    axis: int = -1
    p: int = 2

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if self.p not in (1, 2):
            raise VerifyError(f"p is {self.p}, which should be 1 or 2")
        if x.shape is not None:
            check_axis(self.axis, len(x.shape))
        return x.type

    def reference(self, x: Array) -> Array:
        def run(v: Array) -> Array:
            norm = np.sum(np.abs(v) ** self.p, axis=self.axis, keepdims=True) ** (1 / self.p)
            return np.where(norm == 0, 0, v / np.where(norm == 0, 1, norm))

        return in_wide(run, x)


@register
@dataclass(frozen=True)
class MeanVarianceNormalization(Op):
    """(x - mean) / (sqrt(variance) + 1e-9) over these axes"""

    renamed = (("axes", "over"),)
    over: tuple[int, ...] = (0, 2, 3)

    def infer(self, x: Abstract) -> Inferred:
        check_float(x)
        if x.shape is not None:
            check_axes(self.over, len(x.shape))
        return x.type

    def reference(self, x: Array) -> Array:
        def run(v: Array) -> Array:
            mean = np.mean(v, axis=self.over, keepdims=True)
            variance = np.mean(np.square(v - mean), axis=self.over, keepdims=True)
            return (v - mean) / (np.sqrt(variance) + v.dtype.type(1e-9))

        return in_wide(run, x)


@register
@dataclass(frozen=True, kw_only=True)
class LRN(Op):
    """x / (bias + alpha / size * sum of x^2 over the `size` nearest channels)^beta"""

    axes = "x[n,c,...] -> y[n,c,...]"
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

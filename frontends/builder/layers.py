"""Layers with parameters, and those without: a value in, a value out.

Layer `name` at path `stage1.block0` makes the node `stage1.block0.name` and the constants
`stage1.block0.name.weight`, `.bias`, `.gamma`, ... Images are f32[batch,channels,height,width].
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ...ir import Value, VerifyError
from .initializers import SMALL_NORMAL, glorot_uniform, he_normal, ones, zeros
from .scopes import Init, Scopes, size_of, sizes

Pair = int | tuple[int, int]
Padding = Pair | Literal["same"]

ACTIVATIONS = (
    "elu", "gelu", "hard_sigmoid", "hard_swish", "leaky_relu", "mish", "relu", "relu6", "selu",
    "sigmoid", "softmax", "softplus", "swish", "tanh",
)  # fmt: skip


class Layers(Scopes):
    """Single layers. All raise VerifyError, with the layer's path, where sizes do not fit."""

    # ---- linear ----------------------------------------------------------------------------------

    def conv(
        self, x: Value, channels: int, kernel: Pair, *, stride: Pair = 1, padding: Padding = 0,
        dilation: Pair = 1, groups: int = 1, bias: bool = True, init: Init = he_normal,
        bias_init: Init = zeros, name: str | None = None,
    ) -> Value:  # fmt: skip
        """Convolution: weight f32[channels, c / groups, *kernel], bias f32[channels].

        Padding "same" keeps the size where the stride is 1 (kernels of odd size only).
        """
        at = self.path(name, "conv")
        c = size_of(x, 1, at)
        kernel, dilation = pair(kernel), pair(dilation)
        if groups < 1 or c % groups or channels % groups:
            raise VerifyError(f"{c} and {channels} channels do not divide into {groups} groups",
                              node=at)  # fmt: skip
        pads = _padding(padding, kernel, dilation, at)
        shape = (channels, c // groups, *kernel)
        fans = (shape[1] * kernel[0] * kernel[1], channels // groups * kernel[0] * kernel[1])
        operands = [x, self.parameter(at, "weight", shape, init, fans)]
        if bias:
            operands.append(self.parameter(at, "bias", (channels,), bias_init))
        return self.node("conv", at, *operands, strides=pair(stride), pads=pads * 2,
                         dilations=dilation, group=groups)  # fmt: skip

    def linear(
        self, x: Value, units: int, *, bias: bool = True, init: Init = he_normal,
        bias_init: Init = zeros, name: str | None = None,
    ) -> Value:  # fmt: skip
        """x @ weight + bias over the last axis.

        On a matrix the weight is f32[units, c] (a gemm with transB, as PyTorch and ONNX keep it),
        on more axes f32[c, units] (a mat_mul).
        """
        at = self.path(name, "linear")
        c, flat = size_of(x, -1, at), len(sizes(x, None, at)) == 2
        shape = (units, c) if flat else (c, units)
        weight = self.parameter(at, "weight", shape, init, (c, units))
        added = self.parameter(at, "bias", (units,), bias_init) if bias else None
        if flat:
            return self.node("gemm", at, x, weight, added, transB=True)
        if added is None:
            return self.node("mat_mul", at, x, weight)
        return self.node("add", at, self.node("mat_mul", f"{at}.product", x, weight), added)

    def embedding(
        self, indices: Value, count: int, width: int, *, init: Init = SMALL_NORMAL,
        name: str | None = None,
    ) -> Value:  # fmt: skip
        """Row `indices[...]` of weight f32[count, width]: i64[...] -> f32[..., width]."""
        at = self.path(name, "embedding")
        table = self.parameter(at, "weight", (count, width), init)
        return self.node("gather", at, table, indices, axis=0)

    # ---- normalizations --------------------------------------------------------------------------

    def batch_norm(
        self, x: Value, *, epsilon: float = 1e-5, momentum: float = 0.9, gamma: Init = ones,
        beta: Init = zeros, mean: Init = zeros, var: Init = ones, name: str | None = None,
    ) -> Value:  # fmt: skip
        """Batch normalization (Ioffe and Szegedy, 2015) in its form for inference: gamma, beta and
        the running mean and var, each f32[channels], are constants. Training switches the node's
        `training_mode`; `momentum` is the share that the running statistics keep, as in ONNX.
        """
        at = self.path(name, "batch_norm")
        shape = (size_of(x, 1, at),)
        given = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
        vectors = [self.parameter(at, k, shape, init) for k, init in given.items()]
        return self.node("batch_normalization", at, x, *vectors, epsilon=epsilon,
                         momentum=momentum)  # fmt: skip

    def layer_norm(
        self, x: Value, *, epsilon: float = 1e-5, gamma: Init = ones, beta: Init = zeros,
        name: str | None = None,
    ) -> Value:  # fmt: skip
        """Layer normalization (Ba, Kiros and Hinton, 2016) over the last axis."""
        at = self.path(name, "layer_norm")
        shape = (size_of(x, -1, at),)
        vectors = [self.parameter(at, k, shape, v) for k, v in (("gamma", gamma), ("beta", beta))]
        return self.node("layer_normalization", at, x, *vectors, epsilon=epsilon)

    # ---- pooling ---------------------------------------------------------------------------------

    def max_pool(
        self, x: Value, kernel: Pair, *, stride: Pair | None = None, padding: Padding = 0,
        name: str | None = None,
    ) -> Value:  # fmt: skip
        """The largest element of each window; the stride is the kernel's size by default."""
        return self._pool("max_pool", x, kernel, stride, padding, name)

    def average_pool(
        self, x: Value, kernel: Pair, *, stride: Pair | None = None, padding: Padding = 0,
        count_padding: bool = False, name: str | None = None,
    ) -> Value:  # fmt: skip
        """The mean of each window, over the padding too with `count_padding`."""
        return self._pool("average_pool", x, kernel, stride, padding, name,
                          count_include_pad=count_padding)  # fmt: skip

    def _pool(
        self, op: str, x: Value, kernel: Pair, stride: Pair | None, padding: Padding,
        name: str | None, **attributes: Any,
    ) -> Value:  # fmt: skip
        at = self.path(name, op)
        kernel = pair(kernel)
        strides = kernel if stride is None else pair(stride)
        pads = _padding(padding, kernel, (1, 1), at) * 2
        return self.node(op, at, x, kernel_shape=kernel, pads=pads, strides=strides, **attributes)

    def global_average_pool(self, x: Value, *, name: str | None = None) -> Value:
        """The mean over height and width, flattened: f32[n,c,h,w] -> f32[n,c]."""
        at = self.path(name, "global_average_pool")
        return self.node("flatten", at, self.node("global_average_pool", f"{at}.mean", x))

    # ---- without parameters ----------------------------------------------------------------------

    def activation(
        self, x: Value, kind: str, *, name: str | None = None, **attributes: Any
    ) -> Value:
        """One of ACTIVATIONS, element by element (softmax over the last axis)."""
        at = self.path(name, kind)
        if kind not in ACTIVATIONS:
            raise VerifyError(f"no activation is called {kind!r}", node=at,
                              hint=f"there are: {', '.join(ACTIVATIONS)}")  # fmt: skip
        if kind == "relu6":
            low, high = (self.b.constant(np.float32(v), f"{at}.{k}")
                         for k, v in (("low", 0), ("high", 6)))  # fmt: skip
            return self.node("clip", at, x, low, high)
        return self.node(kind, at, x, **attributes)

    def relu(self, x: Value, *, name: str | None = None) -> Value:
        """max(x, 0)"""
        return self.activation(x, "relu", name=name)

    def relu6(self, x: Value, *, name: str | None = None) -> Value:
        """min(max(x, 0), 6)"""
        return self.activation(x, "relu6", name=name)

    def flatten(self, x: Value, *, name: str | None = None) -> Value:
        """All axes but the first as one: f32[n,c,h,w] -> f32[n,c*h*w]."""
        return self.node("flatten", self.path(name, "flatten"), x)

    def dropout(
        self, x: Value, ratio: float, *, training: bool = False, name: str | None = None
    ) -> Value:
        """Dropout (Srivastava et al., 2014): x unless `training`, which is the constant
        `name.training` that a training pass switches. Where nothing can run dropout in training,
        UnsupportedError says so.
        """
        at = self.path(name, "dropout")
        if not 0 <= ratio < 1:
            raise VerifyError(f"ratio is {ratio}, which should be 0 or more and below 1", node=at)
        share = self.b.constant(np.float32(ratio), f"{at}.ratio")
        flag = self.b.constant(np.bool_(training), f"{at}.training")
        return self.node("dropout", at, x, share, flag)

    def classifier(self, x: Value, classes: int, *, name: str = "classifier") -> Value:
        """A linear layer to scores, its weight drawn by Glorot's rule: no ReLU comes after."""
        return self.linear(x, classes, init=glorot_uniform, name=name)


def pair(value: Pair) -> tuple[int, int]:
    """One number stands for both axes."""
    return (value, value) if isinstance(value, int) else value


def _padding(
    padding: Padding, kernel: tuple[int, int], dilation: tuple[int, int], at: str
) -> tuple[int, int]:
    if padding != "same":
        return pair(padding)
    if any(k % 2 == 0 for k in kernel):
        raise VerifyError(f"padding 'same' wants a kernel of odd size, not {list(kernel)}", node=at)
    return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)

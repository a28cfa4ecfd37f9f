"""Strategies for graphs as people train them: CNNs, MLPs, QDQ and integer programs.

A graph is a list of drawn layers, each built on the value before it, so that dropping a layer from
the list gives a smaller graph of the same kind: shrinking needs no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from taut.ir import Builder, DType, Graph, TensorType, Value

from .values import arrays

ACTIVATIONS = ("relu", "clip", "sigmoid", "hard_swish", "leaky_relu", "tanh", "hard_sigmoid",
               "prelu")  # fmt: skip


def _dims(value: Value) -> tuple[Any, ...]:
    shape = value.shape
    assert shape is not None
    return shape


class Net:
    """Draws layers onto a value and keeps the earlier ones for residuals."""

    def __init__(self, draw: st.DrawFn, awkward: Iterable[str] = ()) -> None:
        self.draw, self.awkward, self.b = draw, tuple(awkward), Builder()

    def floats(self, *shape: int, scale: float = 1.0) -> Any:
        kind = TensorType(DType.f32, shape)
        return self.draw(arrays(kind, self.awkward, scale=scale))

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def positive(self, *shape: int) -> Any:
        """Scales and variances: 0.5 to about 4, never awkward."""
        kind = TensorType(DType.f32, shape)
        return np.float32(0.5) + np.abs(self.draw(arrays(kind)))

    def activate(self, x: Value) -> Value:
        kind = self.pick(*ACTIVATIONS)
        if kind == "prelu":
            dims = _dims(x)
            channels = dims[1] if len(dims) > 2 else 1
            return self.b.prelu(x, self.floats(channels, *(1,) * max(0, len(dims) - 2)))
        if kind == "clip":
            return self.b.clip(x, np.float32(self.pick(0.0, -1.0)), np.float32(self.pick(6.0, 1.0)))
        return getattr(self.b, kind)(x)

    # ---- convolutional -------------------------------------------------------------------------

    def conv(self, x: Value) -> Value:
        """Plain, pointwise, grouped or depthwise; strides, dilations and uneven pads."""
        _, channels, height, width = _dims(x)
        group = self.pick(*sorted({1, channels, *([2] if channels % 2 == 0 else [])}))
        out = group * self.draw(st.integers(1, max(1, 8 // group)))
        kernel = [min(self.pick(1, 3, 2), size) for size in (height, width)]
        pads = tuple(self.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel))
        dilation = self.pick(1, 2) if all(2 * k - 1 <= s for k, s in zip(kernel, (height, width))) \
            else 1  # fmt: skip
        fan_in = channels // group * kernel[0] * kernel[1]
        weight = self.floats(out, channels // group, *kernel, scale=fan_in**-0.5)
        bias = self.floats(out) if self.draw(st.booleans()) else None
        stride = self.pick(1, 2)
        return self.b.conv(x, weight, bias, pads=pads, strides=(stride, stride), group=group,
                           dilations=(dilation, dilation))  # fmt: skip

    def conv_transpose(self, x: Value) -> Value:
        """Windows side by side or overlapping, at most twice as large."""
        channels = _dims(x)[1]
        out, kernel = self.draw(st.integers(1, 6)), self.pick(1, 2, 3)
        weight = self.floats(channels, out, kernel, kernel, scale=channels**-0.5)
        stride = self.pick(1, 2)
        return self.b.conv_transpose(x, weight, strides=(stride, stride))

    def scale(self, x: Value) -> Value:
        """A factor or a term, one for each channel or one for all."""
        c = _dims(x)[1]
        shape = self.pick((), (c, *(1,) * (len(_dims(x)) - 2)))
        kind = self.pick("mul", "add", "sub", "div")
        v = self.positive(*shape) if kind in ("mul", "div") else self.floats(*shape)
        return getattr(self.b, kind)(x, v)

    def batch_norm(self, x: Value) -> Value:
        c = _dims(x)[1]
        return self.b.batch_normalization(
            x, self.floats(c), self.floats(c), self.floats(c), self.positive(c)
        )

    def pool(self, x: Value) -> Value:
        _, _, height, width = _dims(x)
        kernel = (min(2, height), min(self.pick(2, 3), width))
        stride = self.pick(1, 2)
        op = self.pick("max_pool", "average_pool")
        return getattr(self.b, op)(x, kernel_shape=kernel, strides=(stride, stride))

    def residual(self, x: Value, earlier: list[Value]) -> Value:
        """Add or concatenate an earlier value of fitting shape, if there is one."""
        n, c, *space = _dims(x)
        fits = [v for v in earlier if _dims(v)[0] == n and list(_dims(v)[2:]) == space]
        if not fits:
            return self.activate(x)
        other = self.draw(st.sampled_from(fits))
        same = _dims(other)[1] == c
        kind = self.pick("add", "concat", "mul") if same else "concat"
        if kind == "concat":
            return self.b.concat(x, other, axis=1)
        return getattr(self.b, kind)(x, other)

    def head(self, x: Value) -> Value:
        """Average over space, then a linear classifier."""
        classes, channels = self.draw(st.integers(1, 5)), _dims(x)[1]
        y = self.b.flatten(self.b.global_average_pool(x))
        y = self.b.gemm(y, self.floats(classes, channels), self.floats(classes), transB=True)
        return self.b.softmax(y) if self.draw(st.booleans()) else y


@st.composite
def cnns(draw: st.DrawFn, awkward: Iterable[str] = (), max_layers: int = 5) -> Graph:
    """Image networks, f32 NCHW: convolutions, batch norms, activations, pools, residuals."""
    net = Net(draw, awkward)
    batch = draw(st.sampled_from([1, "batch", 2]))
    size = [draw(st.integers(1, 9)) for _ in range(2)]
    x = net.b.input("x", "f32", (batch, draw(st.integers(1, 4)), *size))
    earlier = [x]
    kinds = st.sampled_from(
        ["conv", "activate", "batch_norm", "residual", "pool", "block", "scale", "conv_transpose"]
    )
    for kind in draw(st.lists(kinds, min_size=1, max_size=max_layers)):
        if kind == "residual":
            x = net.residual(x, earlier)
        elif kind == "block":
            x = net.activate(net.batch_norm(net.conv(x)))
        else:
            x = getattr(net, kind)(x)
        earlier.append(x)
    if draw(st.booleans()):
        x = net.head(x)
    return net.b.outputs(y=x)


@st.composite
def mlps(draw: st.DrawFn, awkward: Iterable[str] = (), max_layers: int = 4) -> Graph:
    """Stacks of gemm or mat_mul + add, with activations and skips, f32."""
    net = Net(draw, awkward)
    width = draw(st.integers(1, 8))
    x = net.b.input("x", "f32", (draw(st.sampled_from([1, "batch", 3])), width))
    for kind in draw(st.lists(st.sampled_from(["gemm", "mat_mul"]), max_size=max_layers)):
        before, out = x, draw(st.integers(1, 8))
        if kind == "gemm":
            flip = draw(st.booleans())
            shape = (out, width) if flip else (width, out)
            weight = net.floats(*shape, scale=width**-0.5)
            x = net.b.gemm(x, weight, net.floats(out), transB=flip)
        else:
            x = net.b.add(net.b.mat_mul(x, net.floats(width, out, scale=width**-0.5)),
                          net.floats(out))  # fmt: skip
        if draw(st.booleans()):
            x = net.activate(x)
        if out == width and draw(st.booleans()):
            x = net.b.add(x, before)
        width = out
    return net.b.outputs(y=net.activate(x))


# ---- quantized ---------------------------------------------------------------------------------


class QuantizedNet(Net):
    """Layers with quantize/dequantize pairs around them, as QDQ models have."""

    def pair(self, x: Value) -> Value:
        scale = np.float32(self.pick(0.05, 0.1, 0.007, 1.0))
        kind = self.pick("u8", "i8")
        low, high = DType(kind).bounds
        zero = np.asarray(self.draw(st.sampled_from([0, low, high, 3])), DType(kind).numpy)
        zero = np.maximum(zero, np.asarray(low, zero.dtype))
        q = self.b.quantize_linear(x, scale, zero)
        return self.b.dequantize_linear(q, scale, zero)

    def weight(self, *shape: int) -> Value:
        w = self.draw(arrays(TensorType(DType.i8, shape), low=-127))
        if self.draw(st.booleans()):
            scale = 0.01 * self.positive(shape[0])
            return self.b.dequantize_linear(w, scale, np.zeros(shape[0], np.int8), axis=0)
        return self.b.dequantize_linear(w, np.float32(0.02), np.int8(0))

    def conv_q(self, x: Value) -> Value:
        _, channels, *size = _dims(x)
        group = self.pick(*sorted({1, channels}))
        out = group * self.draw(st.integers(1, max(1, 8 // group)))
        kernel = min(self.pick(1, 3), *size)
        pads = (self.pick(0, kernel // 2),) * 4
        stride = self.pick(1, 2)
        bias = self.floats(out) if self.draw(st.booleans()) else None
        return self.b.conv(x, self.weight(out, channels // group, kernel, kernel), bias, pads=pads,
                           strides=(stride, stride), group=group)  # fmt: skip


@st.composite
def quantized(draw: st.DrawFn, max_layers: int = 4) -> Graph:
    """Convolutional graphs with QDQ pairs: per tensor and per channel, u8 and i8."""
    net = QuantizedNet(draw)
    batch = draw(st.sampled_from([1, "batch", 2]))
    size = [draw(st.integers(1, 7)) for _ in range(2)]
    x = net.b.input("x", "f32", (batch, draw(st.integers(1, 5)), *size))
    x = net.pair(x)
    earlier = [x]
    kinds = st.sampled_from(["conv", "activation", "pool", "residual"])
    for kind in draw(st.lists(kinds, min_size=1, max_size=max_layers)):
        if kind == "conv":
            x = net.conv_q(x)
            x = net.b.relu(x) if draw(st.booleans()) else x
        elif kind == "activation":
            x = net.activate(x)
        elif kind == "pool":
            x = net.pool(x)
        else:
            x = net.residual(x, earlier)
        x = net.pair(x)
        earlier.append(x)
    return net.b.outputs(y=x)


@st.composite
def integers(draw: st.DrawFn, max_layers: int = 3) -> Graph:
    """Integer programs: conv_integer and requantize, with residuals and lookups, 8 bits between."""
    net = Net(draw)
    b, kind = net.b, net.pick("u8", "i8")
    size = [draw(st.integers(1, 7)) for _ in range(2)]
    shape = (draw(st.sampled_from([1, "batch", 2])), draw(st.integers(1, 9)), *size)
    x = b.input("x", kind, shape)
    for layer in draw(st.lists(st.sampled_from(["conv", "residual", "lookup"]), min_size=1,
                               max_size=max_layers)):  # fmt: skip
        dtype = x.type.dtype
        if layer == "lookup":
            x = b.lookup(x, draw(arrays(TensorType(dtype, (256,)))))
            continue
        _, channels, *space = _dims(x)
        out = channels if layer == "residual" else draw(st.integers(1, 9))
        kernel = 1 if layer == "residual" else min(net.pick(1, 3), *space)
        weight = draw(arrays(TensorType(DType.i8, (out, channels, kernel, kernel)), low=-127))
        bias = draw(arrays(TensorType(DType.i32, (out,)), low=-5000, high=5000))
        zero = draw(arrays(TensorType(dtype, ())))
        acc = b.conv_integer(x, weight, zero, np.int8(0), bias)
        x = requantized(net, acc, x if layer == "residual" else None)
    return b.outputs(y=x)


def requantized(net: Net, acc: Value, residual: Value | None) -> Value:
    """acc (+ residual) rescaled to 8 bits, one multiplier or one per channel."""
    dtype = net.pick("u8", "i8")
    low, high = DType(dtype).bounds
    shift = net.draw(st.integers(20, 44))
    channels = _dims(acc)[1]
    per_channel = net.draw(st.booleans())
    top = min((1 << 31) - 1, max(1, 1 << max(shift - 4, 0)))
    count = (channels,) if per_channel else ()
    kind = TensorType(DType.i32, count)
    multiplier = net.draw(arrays(kind, low=1, high=top))
    operands: list[Any] = [acc, multiplier]
    if residual is not None:
        operands += [residual, np.int32(net.draw(st.integers(-top, top)))]
    return net.b.requantize(
        *operands, zero_points=(0, *([3] if residual is not None else [])), shift=shift,
        zero_point=net.draw(st.integers(low, high)), dtype=DType(dtype),
    )  # fmt: skip

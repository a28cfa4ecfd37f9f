"""Convolutions over 1, 2, 3 or more spatial axes: (n, c, *spatial) by (o, c / group, *kernel)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import NotDifferentiableError, VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Cost, Inferred, memory_bytes, register
from ..signature import Tap
from ..traits import CONVOLUTION
from ..types import Dim, Shape, TensorType
from .adjoint import ints, known_shape, rank_of, shaped
from .common import check_float, check_same, check_vector, differs, in_wide
from .windows import (
    Window,
    Windowed,
    bounded,
    check_bytes,
    full,
    pad_spatial,
    patches,
    spatial,
    tap,
)

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

CHUNK = 1 << 24  # elements of unfolded input at a time


@dataclass(frozen=True)
class Convolution(Windowed):
    """What Conv, its fused and its integer forms share."""

    numerics = SUMS
    group: int = 1
    kernel_shape: tuple[int, ...] = ()  # only checked: the weight has the kernel's shape

    def conv_dims(self, x: Abstract, weight: Abstract) -> Shape | None:
        """Shape of the result. Raises VerifyError where operands or attributes do not fit."""
        if self.group < 1:
            raise VerifyError(f"group is {self.group}, which should be 1 or more")
        sizes, kernel = spatial(x), spatial(weight)
        if kernel is None:
            if sizes is not None:
                self.check_window(self.kernel_shape or (None,) * len(sizes))
                return (cast(Shape, x.shape)[0], None, *(None for _ in sizes))
            return None
        if self.kernel_shape and (
            len(self.kernel_shape) != len(kernel)
            or any(differs(a, b) for a, b in zip(self.kernel_shape, kernel))
        ):
            raise VerifyError(f"kernel_shape {list(self.kernel_shape)} is not that of the weight "
                              f"{weight.type}")  # fmt: skip
        out, per_group = cast(Shape, weight.shape)[:2]
        if isinstance(out, int) and out % self.group:
            raise VerifyError(f"{out} output channels do not divide into {self.group} groups")
        if x.shape is None or sizes is None:
            self.check_window(kernel)
            return (None, out, *(None for _ in kernel))
        if isinstance(per_group, int) and differs(x.shape[1], per_group * self.group):
            raise VerifyError(
                f"{x.type} has {x.shape[1]} channels where the weight {weight.type} and group "
                f"{self.group} want {per_group * self.group}"
            )
        return (x.shape[0], out, *self.window_dims(sizes, kernel))

    def conv_window(self, x: tuple[int, ...], weight: tuple[int, ...]) -> Window:
        """The window in numbers for operands of these shapes."""
        return self.window(x[2:], weight[2:])

    def conv_cost(
        self, operands: tuple[Abstract | None, ...], y: TensorType, weight: Abstract
    ) -> Cost:
        """One multiply-accumulate for each result element and weight of its channel."""
        return Cost(y.size * math.prod(weight.type.static_shape[1:]), memory_bytes(operands, (y,)))


def convolve(x: Array, weight: Array, w: Window, out: tuple[int, ...], group: int) -> Array:
    """Cross-correlation without bias, padding with zeros, in the operands' own element type.

    Unfolds the input in pieces of bounded size and multiplies by the weight as a matrix; depthwise
    convolutions add up shifted slices instead.
    """
    n, o = x.shape[0], weight.shape[0]
    y = np.zeros((n, o, *out), np.result_type(x, weight))
    if y.size == 0 or weight.size == 0:
        return y
    x = pad_spatial(x, w, out, 0)
    if weight.shape[1] == 1 and group == o == x.shape[1]:
        shape = (o,) + (1,) * len(out)
        for at in np.ndindex(*w.kernel):
            y += tap(x, w, out, at) * weight[(slice(None), 0, *at)].reshape(shape)
        return y
    matrix = weight.reshape(group, o // group, -1)
    row = math.prod(x.shape[1:2] + w.kernel + out[1:])
    check_bytes(row * x.dtype.itemsize, "one row of the unfolded input")
    rows = max(1, CHUNK // row)
    for image in range(n):
        for first in range(0, out[0], rows):
            count = min(rows, out[0] - first)
            part = (count, *out[1:])
            view = patches(x[image : image + 1, :, first * w.strides[0] :], w, part)
            columns = view.reshape(group, matrix.shape[2], -1)
            made = (matrix @ columns).reshape(o, *part)
            y[image, :, first : first + count] = made
    return y


def along_channels(v: Array, rank: int) -> Array:
    """A vector of channels as it broadcasts over (n, c, *spatial)."""
    return v.reshape(-1, *(1,) * (rank - 2))


@register
@dataclass(frozen=True)
class Conv(Convolution):
    """y[n,o,p] = sum over c, k of x[n,c,p * stride + k * dilation - pad] * weight[o,c,k] + bias[o]

    (cross-correlation; p and k stand for all spatial axes; c runs over o's group)
    """

    axes = "x[n,group*i,...@k] weight[group*o,i,k...] bias[group*o] -> y[n,group*o,...]"
    weighted = CONVOLUTION

    def infer(self, x: Abstract, weight: Abstract, bias: Abstract | None = None) -> Inferred:
        check_float(x)
        dtype = check_same(x, weight, bias)
        shape = self.conv_dims(x, weight)
        check_vector(bias, None if shape is None else shape[1], "the bias")
        return TensorType(dtype, shape)

    def reference(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return in_wide(self._run, x, weight, bias)

    def _run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        w = self.conv_window(x.shape, weight.shape)
        out = cast(tuple[int, ...], self.window_dims(x.shape[2:], w.kernel))
        y = convolve(x, weight, w, out, self.group)
        return y if bias is None else y + along_channels(bias, x.ndim)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[1] is not None
        return self.conv_cost(operands, results[0], operands[1])

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, weight, bias), (g,) = operands, gradients
        return (
            input_gradient(b, self, g, x, weight) if b.wants(x) else None,
            weight_gradient(b, self, x, g, weight) if b.wants(weight) else None,
            channel_sums(b, g, bias) if b.wants(bias) else None,
        )


@register
@dataclass(frozen=True)
class ConvTranspose(Windowed):
    """The transpose of Conv in its input: y[n,o,p * stride + k * dilation - pad] += x[n,c,p] *
    weight[c,o,k], plus bias[o]

    `output_padding` adds elements at the end; `output_shape` fixes the spatial sizes and lets the
    pads follow from them: `pads` then count for nothing. SAME makes size * stride elements (also
    where onnxruntime stops at the last window). A result larger than stride and kernel make has
    zeros, and the bias, at its end.
    """

    weighted = CONVOLUTION
    numerics = SUMS.but(spreads=("weight",))
    axes = "x[n,group*i,p...] weight[group*i,o,k...] bias[group*o] -> y[n,group*o,p...@k]"
    group: int = 1
    kernel_shape: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    def infer(self, x: Abstract, weight: Abstract, bias: Abstract | None = None) -> Inferred:
        check_float(x)
        dtype = check_same(x, weight, bias)
        if self.group < 1:
            raise VerifyError(f"group is {self.group}, which should be 1 or more")
        kernel = spatial(weight)
        if weight.shape is None or kernel is None:
            return TensorType(dtype, None)
        sizes = spatial(x) or (None,) * len(kernel)
        batch, inputs = (None, None) if x.shape is None else x.shape[:2]
        if len(sizes) != len(kernel):
            raise VerifyError(f"a kernel of rank {len(kernel)} on {len(sizes)} spatial axes")
        if self.kernel_shape and (
            len(self.kernel_shape) != len(kernel)
            or any(differs(a, b) for a, b in zip(self.kernel_shape, kernel))
        ):
            raise VerifyError(f"kernel_shape {list(self.kernel_shape)} is not that of the weight "
                              f"{weight.type}")  # fmt: skip
        channels, per_group = weight.shape[:2]
        if differs(inputs, channels):
            raise VerifyError(f"{x.type} and the weight {weight.type} differ in channels")
        if isinstance(channels, int) and channels % self.group:
            raise VerifyError(f"{channels} channels do not divide into {self.group} groups")
        out = per_group * self.group if isinstance(per_group, int) else None
        check_vector(bias, out, "the bias")
        return TensorType(dtype, (batch, out, *self.transposed_dims(sizes, kernel)))

    def transposed_dims(self, sizes: Shape, kernel: Shape) -> Shape:
        """Spatial dimensions of the result."""
        strides, dilations, pads = self.check_window(kernel)
        rank = len(kernel)
        extra = full(self.output_padding, rank, 0, "output_padding")
        bounded(extra, 0, "output_padding")
        for e, s, d in zip(extra, strides, dilations):
            if e and e >= max(s, d):
                raise VerifyError(f"output_padding {list(extra)} is not below stride or dilation")
        if self.output_shape:
            shape = self.output_shape[2:] if len(self.output_shape) == rank + 2 \
                else self.output_shape  # fmt: skip
            bounded(shape, 1, "output_shape")
            return full(shape, rank, 0, "output_shape")
        out: list[Dim] = []
        for i, (n, k) in enumerate(zip(sizes, kernel)):
            if self.auto_pad.startswith("SAME"):
                out.append(n * strides[i] if isinstance(n, int) else None)
            elif isinstance(n, int) and isinstance(k, int):
                total = (n - 1) * strides[i] + (k - 1) * dilations[i] + 1 + extra[i]
                total -= pads[i] + pads[i + rank]
                if total < 0:
                    raise VerifyError(f"pads {list(pads)} leave nothing of the result")
                out.append(total)
            else:
                out.append(None)
        return tuple(out)

    def taps(
        self, sizes: Sequence[Dim], places: Sequence[Dim], kernel: Sequence[Dim]
    ) -> list[Tap | None]:
        """As those of a window over the result, whose places are the input's elements."""
        known = all(isinstance(n, int) for n in (*places, *kernel))
        if not known and (self.output_shape or self.auto_pad.startswith("SAME")):
            return [None] * len(sizes)
        w = self.transposed_window(*(tuple(n if isinstance(n, int) else 1 for n in dims)
                                     for dims in (places, kernel)))  # fmt: skip
        return [Tap(*tap) for tap in zip(w.strides, w.dilations, w.begin)]

    def transposed_window(self, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
        """The window in numbers. Pads are never negative: where the result is larger than stride
        and kernel make, what is more lies at its end."""
        strides, dilations, pads = self.check_window(kernel)
        rank = len(kernel)
        begin, end = pads[:rank], pads[rank:]
        if self.output_shape or self.auto_pad.startswith("SAME"):
            out = cast(tuple[int, ...], self.transposed_dims(sizes, kernel))
            extra = self.output_padding or (0,) * rank
            total = [
                max((n - 1) * s + (k - 1) * d + 1 + e - o, 0)
                for n, s, k, d, e, o in zip(sizes, strides, kernel, dilations, extra, out)
            ]
            half, rest = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            begin, end = (half, rest) if self.auto_pad == "SAME_UPPER" else (rest, half)
        return Window(kernel, strides, dilations, begin, end)

    def reference(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return in_wide(self._run, x, weight, bias)

    def _run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        sizes, kernel = x.shape[2:], weight.shape[2:]
        w = self.transposed_window(sizes, kernel)
        out = cast(tuple[int, ...], self.transposed_dims(sizes, kernel))
        n, c, o = x.shape[0], x.shape[1], weight.shape[1] * self.group
        whole = [(s - 1) * t + e if s else 0 for s, t, e in zip(sizes, w.strides, w.extent)]
        check_bytes(math.prod((n, o, *whole)) * x.dtype.itemsize, "the result before cropping")
        y = np.zeros((n, o, *whole), x.dtype)
        images = x.reshape(n, self.group, c // self.group, math.prod(sizes))
        weights = weight.reshape(self.group, c // self.group, weight.shape[1], *kernel)
        for at in np.ndindex(*kernel):
            matrix = weights[(..., *at)].swapaxes(1, 2)
            view = tap(y, w, sizes, at)
            view += (matrix @ images).reshape(view.shape)
        made = np.zeros((n, o, *out), x.dtype)
        here, there = [slice(None)] * 2, [slice(None)] * 2
        for size, total, begin in zip(out, whole, w.begin):
            count = max(min(total - begin, size), 0)
            there.append(slice(begin, begin + count))
            here.append(slice(count))
        made[tuple(here)] = y[tuple(there)]
        return made if bias is None else made + along_channels(bias, x.ndim)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        x, weight = operands[:2]
        assert x is not None and weight is not None
        macs = x.type.size * math.prod(weight.type.static_shape[1:])
        return Cost(macs, memory_bytes(operands, results))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, weight, bias), (g,) = operands, gradients
        kernel = _numbers(weight, "the weight's")
        rank = len(kernel)
        if self.output_shape or self.auto_pad.startswith("SAME"):
            sizes = _numbers(x, "the input's")
            w, out = self.transposed_window(sizes, kernel), self.transposed_dims(sizes, kernel)
            end = tuple((n - 1) * s + e - b - cast(int, o) for n, s, e, b, o in
                        zip(sizes, w.strides, w.extent, w.begin, out))  # fmt: skip
        else:
            w = self.transposed_window((1,) * rank, kernel)
            end = tuple(e - more for e, more in zip(w.end, self.output_padding or (0,) * rank))
        pads = (*w.begin, *end)
        if min(pads) < 0:  # what no element of x reaches
            cut = ints(b, *(min(p, 0) for p in pads))
            g = b.pad(g, cut, None, ints(b, *range(2, 2 + rank)))
        conv = Conv(w.strides, tuple(max(p, 0) for p in pads), w.dilations, group=self.group)
        return (
            shaped(b, b.add_op(conv, g, weight), x) if b.wants(x) else None,
            weight_gradient(b, conv, g, x, weight) if b.wants(weight) else None,
            channel_sums(b, gradients[0], bias) if b.wants(bias) else None,
        )


@register
@dataclass(frozen=True)
class ConvWeightGradient(Convolution):
    """Conv's gradient for its weight: dw[o,c,k] = sum over n, p of dy[n,o,p] *
    x[n,c,p * stride + k * dilation - pad]

    The attributes are Conv's; kernel_shape says the kernel's size.
    """

    onnx = None
    axes = "x[n,group*i,p...@k] dy[n,group*o,p...] -> dw[group*o,i,k...]"
    results = ("dw",)

    def infer(self, x: Abstract, dy: Abstract) -> Inferred:
        check_float(x)
        dtype = check_same(x, dy)
        if not self.kernel_shape:
            raise VerifyError("kernel_shape is not given")
        sizes = spatial(x)
        if x.shape is None or sizes is None or dy.shape is None:
            return TensorType(dtype, (None, None, *self.kernel_shape))
        (n, channels), (m, out) = x.shape[:2], dy.shape[:2]
        made = self.window_dims(sizes, self.kernel_shape)
        if differs(n, m) or len(dy.shape) != len(x.shape) or any(map(differs, made, dy.shape[2:])):
            raise VerifyError(f"dy is {dy.type}, which is no result of a convolution of {x.type}")
        for count in (channels, out):
            if self.group < 1 or (isinstance(count, int) and count % self.group):
                raise VerifyError(f"{count} channels do not divide into {self.group} groups")
        per_group = channels // self.group if isinstance(channels, int) else None
        return TensorType(dtype, (out, per_group, *self.kernel_shape))

    def reference(self, x: Array, dy: Array) -> Array:
        return in_wide(self._run, x, dy)

    def _run(self, x: Array, dy: Array) -> Array:
        w = self.window(x.shape[2:], self.kernel_shape)
        out, g = dy.shape[2:], self.group
        padded = pad_spatial(x, w, out, 0)
        made = np.zeros((dy.shape[1], x.shape[1] // g, *w.kernel), x.dtype)
        left = dy.reshape(len(dy), g, dy.shape[1] // g, math.prod(out))
        for at in np.ndindex(*w.kernel):
            view = tap(padded, w, out, at).reshape(len(x), g, x.shape[1] // g, math.prod(out))
            sums = np.matmul(left, view.swapaxes(2, 3)).sum(0)
            made[(..., *at)] = sums.reshape(made.shape[:2])
        return made

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        assert operands[1] is not None
        macs = operands[1].type.size * math.prod(results[0].static_shape[1:])
        return Cost(macs, memory_bytes(operands, results))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, dy), (g,) = operands, gradients  # linear in both: g has the place of the weight
        given = (self.strides, self.pads, self.dilations, self.auto_pad, self.group)
        conv = Conv(*given)
        return (
            input_gradient(b, conv, dy, x, g) if b.wants(x) else None,
            shaped(b, b.add_op(conv, x, g), dy) if b.wants(dy) else None,
        )


def channel_sums(b: Builder, g: Value, bias: Value) -> Value:
    """g summed over all but the channels (axis 1)."""
    over = [i for i in range(rank_of(g)) if i != 1]
    return shaped(b, b.reduce_sum(g, ints(b, *over), keepdims=False), bias)


def weight_gradient(b: Builder, conv: Conv, x: Value, g: Value, weight: Value) -> Value:
    """The gradient of a convolution's weight."""
    op = ConvWeightGradient(
        conv.strides, conv.pads, conv.dilations, conv.auto_pad, conv.group,
        _numbers(weight, "the weight's"),
    )  # fmt: skip
    return shaped(b, b.add_op(op, x, g), weight)


def input_gradient(b: Builder, conv: Conv, g: Value, x: Value, weight: Value) -> Value:
    """The gradient of a convolution's input: the transposed convolution of g, with the elements at
    the end that no window reached.
    """
    kernel = _numbers(weight, "the weight's")
    known = x.type.with_shape(known_shape(x)[2:]).is_static
    strides, dilations, pads = conv.check_window(kernel)
    rank, same = len(kernel), conv.auto_pad.startswith("SAME")
    if known:
        window = conv.window(_numbers(x, "the input's"), kernel)
        pads, same = window.pads, False
    elif same and max(strides) > 1:
        raise NotDifferentiableError(
            f"auto_pad {conv.auto_pad} with strides needs the input's size",
            hint="bind its symbols first",
        )
    extra = tuple(s - 1 for s in strides)
    if known:
        out = conv.window_dims(_numbers(x, "the input's"), kernel)
        whole = [
            (cast(int, o) - 1) * s + (k - 1) * d + 1 - pads[i] - pads[i + rank]
            for i, (o, s, k, d) in enumerate(zip(out, strides, kernel, dilations))
        ]
        extra = tuple(n - m for n, m in zip(_numbers(x, "the input's"), whole))
    op = ConvTranspose(
        strides, () if same else pads, dilations, conv.auto_pad if same else "NOTSET", conv.group,
        output_padding=extra,
    )  # fmt: skip
    made = b.add_op(op, g, weight)
    if not known and max(strides) > 1:
        axes = ints(b, *range(2, 2 + rank))
        ends = b.shape(x, start=2)
        made = b.slice(made, ints(b, *[0] * rank), ends, axes)
    return shaped(b, made, x)


def _numbers(x: Value, what: str) -> tuple[int, ...]:
    """Spatial sizes, which are numbers. Raises NotDifferentiableError."""
    sizes = known_shape(x)[2:]
    if not all(isinstance(d, int) for d in sizes):
        raise NotDifferentiableError(f"{what} spatial sizes {list(sizes)} are not all numbers",
                                     hint="bind its symbols first")  # fmt: skip
    return cast(tuple[int, ...], sizes)

"""Convolutions. An image without a batch axis gets one for the op."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ....ir import UnsupportedError, Value
from ..call import Call, aten, rank, shape_of, spread, static

Ints = int | Sequence[int]


def batched(c: Call, x: Value, axes: int, f: Callable[[Value], Value]) -> Value:
    """`f` on (n, c, *axes): where `x` is (c, *axes), n is 1."""
    if rank(x) == axes + 2:
        return f(x)
    if rank(x) != axes + 1:
        raise UnsupportedError(f"an operand of rank {rank(x)} with {axes} spatial axes")
    first = c.ints([0])
    return c.b.squeeze(f(c.b.unsqueeze(x, first)), first)


@aten("conv1d", "conv2d", "conv3d")
def conv(c: Call, x: Value, weight: Value, bias: Value | None, stride: Ints, padding: Ints,
         dilation: Ints, groups: int) -> Value:  # fmt: skip
    axes = rank(weight) - 2
    pads = spread(padding, axes) * 2
    return batched(c, x, axes, lambda v: c.b.conv(
        v, weight, bias, strides=spread(stride, axes), pads=pads,
        dilations=spread(dilation, axes), group=groups,
    ))  # fmt: skip


@aten("conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv_by_name(c: Call, x: Value, weight: Value, bias: Value | None, stride: Ints, padding: str,
                 dilation: Ints, groups: int) -> Value:  # fmt: skip
    """padding is "valid" or "same"; what is odd of the latter goes to the end."""
    axes = rank(weight) - 2
    dilations, kernel = spread(dilation, axes), shape_of(weight)[2:]
    pads = [0] * (2 * axes)
    if padding == "same":
        if not static(kernel):
            raise UnsupportedError("padding 'same' of a kernel of varying size is not supported")
        for i, (d, k) in enumerate(zip(dilations, kernel)):
            total = d * (int(k or 1) - 1)
            pads[i], pads[i + axes] = total // 2, total - total // 2
    return batched(c, x, axes, lambda v: c.b.conv(
        v, weight, bias, strides=spread(stride, axes), pads=tuple(pads), dilations=dilations,
        group=groups,
    ))  # fmt: skip


@aten("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(c: Call, x: Value, weight: Value, bias: Value | None, stride: Ints,
                   padding: Ints, extra: Ints, groups: int, dilation: Ints) -> Value:  # fmt: skip
    axes = rank(weight) - 2
    return batched(c, x, axes, lambda v: c.b.conv_transpose(
        v, weight, bias, strides=spread(stride, axes), pads=spread(padding, axes) * 2,
        dilations=spread(dilation, axes), group=groups, output_padding=spread(extra, axes),
    ))  # fmt: skip


@aten("convolution")
def convolution(c: Call, x: Value, weight: Value, bias: Value | None, stride: Ints, padding: Ints,
                dilation: Ints, transposed: bool, extra: Ints, groups: int) -> Value:  # fmt: skip
    if transposed:
        return conv_transpose(c, x, weight, bias, stride, padding, extra, groups, dilation)
    return conv(c, x, weight, bias, stride, padding, dilation, groups)

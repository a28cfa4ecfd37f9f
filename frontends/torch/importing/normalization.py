"""Normalizations and dropout, as a trained module runs them."""

from __future__ import annotations

from typing import Any

import torch

from ....ir import DType, UnsupportedError, Value
from ..call import Call, aten, count, rank, shape_of


def vectors(c: Call, x: Value, weight: Value | None, bias: Value | None) -> tuple[Value, Value]:
    """Scale and shift of x's channels: 1 and 0 where the module has none."""
    scale = _channels(c, x, 1) if weight is None else weight
    return scale, _channels(c, x, 0) if bias is None else bias


def _channels(c: Call, x: Value, value: float) -> Value:
    """This number for each channel."""
    n, kind = c.size(x, 1), x.type.dtype
    if isinstance(n, int):
        return c.constant([value] * n, kind)
    return c.b.expand(c.constant(value, kind), n.vector)


@aten("batch_norm")
def batch_norm(c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value | None,
               var: Value | None, training: bool, momentum: float, eps: float,
               fast: bool) -> Value:  # fmt: skip
    if training or mean is None or var is None:
        raise UnsupportedError(
            "a batch norm by the batch's own statistics is not supported",
            hint="export in evaluation mode, with running statistics",
        )
    scale, shift = vectors(c, x, weight, bias)
    if momentum == 0:
        c.left_out("its running statistics stay in training (momentum is 0, or None, which takes "
                   "the mean over all batches)")  # fmt: skip
    # PyTorch's momentum is the new statistics' share, the IR's (as ONNX's) the old ones'.
    return c.b.batch_normalization(
        x, scale, shift, mean, var, epsilon=float(eps), momentum=1 - float(momentum)
    )


@aten("_native_batch_norm_legit_no_training")
def native_batch_norm(c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value,
                      var: Value, momentum: float, eps: float) -> tuple[Any, ...]:  # fmt: skip
    return batch_norm(c, x, weight, bias, mean, var, False, momentum, eps, False), None, None


@aten("_native_batch_norm_legit.no_stats")
def own_statistics(c: Call, x: Value, weight: Value | None, bias: Value | None, training: bool,
                   momentum: float, eps: float) -> tuple[Any, ...]:  # fmt: skip
    """By x's own statistics over all axes but the channels'."""
    axes = c.ints([0, *range(2, rank(x))])
    column = c.ints([-1] + [1] * (rank(x) - 2))
    centred = c.b.sub(x, c.b.reduce_mean(x, axes))
    variance = c.b.reduce_mean(c.b.mul(centred, centred), axes)
    y = c.b.div(centred, c.b.sqrt(c.b.add(variance, c.constant(eps, x.type.dtype))))
    y = y if weight is None else c.b.mul(y, c.b.reshape(weight, column))
    return y if bias is None else c.b.add(y, c.b.reshape(bias, column)), None, None


@aten("layer_norm")
def layer_norm(c: Call, x: Value, shape: list[int], weight: Value | None, bias: Value | None,
               eps: float, *_: Any) -> Value:  # fmt: skip
    if weight is None:
        count(shape_of(x)[rank(x) - len(shape) :], "a normalization")
        weight = c.constant(torch.ones(shape).numpy(), x.type.dtype)
    return c.b.layer_normalization(x, weight, bias, axis=-len(shape), epsilon=float(eps))


@aten("native_layer_norm")
def native_layer_norm(c: Call, *args: Any) -> tuple[Any, ...]:
    return layer_norm(c, *args), None, None


@aten("rms_norm")
def rms_norm(c: Call, x: Value, shape: list[int], weight: Value | None, eps: float | None) -> Value:
    if weight is None:
        weight = c.constant(torch.ones(shape).numpy(), x.type.dtype)
    eps = torch.finfo(c.result.dtype).eps if eps is None else eps
    return c.b.rms_normalization(x, weight, axis=-len(shape), epsilon=float(eps))


@aten("group_norm")
def group_norm(c: Call, x: Value, groups: int, weight: Value | None, bias: Value | None,
               eps: float, *_: Any) -> Value:  # fmt: skip
    scale, shift = vectors(c, x, weight, bias)
    return c.b.group_normalization(x, scale, shift, num_groups=groups, epsilon=float(eps))


@aten("native_group_norm")
def native_group_norm(c: Call, x: Value, weight: Value | None, bias: Value | None, n: Any, ch: Any,
                      size: Any, groups: int, eps: float) -> tuple[Any, ...]:  # fmt: skip
    return group_norm(c, x, groups, weight, bias, eps), None, None


@aten("instance_norm")
def instance_norm(c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value | None,
                  var: Value | None, by_input: bool, momentum: float, eps: float,
                  fast: bool) -> Value:  # fmt: skip
    if not by_input and mean is not None and var is not None:
        c.left_out("in training it goes by the running statistics as well, which stay")
        column = c.ints([-1] + [1] * (rank(x) - 2))
        inverse = c.b.reciprocal(c.b.sqrt(c.b.add(var, c.constant(eps, var.type.dtype))))
        factor = inverse if weight is None else c.b.mul(weight, inverse)
        y = c.b.mul(c.b.sub(x, c.b.reshape(mean, column)), c.b.reshape(factor, column))
        return y if bias is None else c.b.add(y, c.b.reshape(bias, column))
    scale, shift = vectors(c, x, weight, bias)
    return c.b.instance_normalization(x, scale, shift, epsilon=float(eps))


@aten("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout_",
      "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_")  # fmt: skip
def dropout(c: Call, x: Value, p: float, train: bool) -> Value:
    """Does nothing, but keeps its ratio, and what is dropped together, for a training to come."""
    c.no(train, "dropout in training mode")
    name = str(c.node.target)
    shared = tuple(range(2, rank(x))) if "feature" in name else ()
    if name.split(".")[1].endswith("_") and len(c.node.all_input_nodes[0].users) > 1:
        c.left_out("in training it drops in place, which others that read its operand do not see")
    return c.b.dropout(x, c.constant(p, DType.f32), shared=shared, alpha="alpha" in name)

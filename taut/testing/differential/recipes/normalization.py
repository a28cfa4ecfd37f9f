"""Normalizations and losses."""

from __future__ import annotations

import numpy as np

from taut.ir import DType

from ..sketch import Misfit, Ref, Sketch
from .base import EPSILONS, FLAG, axis_of, recipe
from .windows import batch, image


@recipe("BatchNormalization")
def batch_normalization(d: Sketch) -> None:
    if d.maybe(30):
        x = d.data(0, (2, 3, 4), "tame", zeros=False)
    else:
        x, *_ = image(d, "mild")
    if not x.shape[1]:
        raise Misfit("no channels")
    c = (x.shape[1],)
    scale, bias, mean, var = (d.operand(i, c, "tame", constant=85) for i in (1, 2, 3, 4))
    assert var.array is not None
    var.array = np.abs(var.array) + var.array.dtype.type(0.1)
    given = d.attributes(epsilon=EPSILONS, momentum=(0.9, 0.5))
    results = 1
    if d.has("training_mode") and d.maybe(20):
        given["training_mode"] = 1
        results = 3
    d.emit([x, scale, bias, mean, var], given, results)


@recipe("InstanceNormalization")
def instance_normalization(d: Sketch) -> None:
    x, *_ = image(d, "tame")
    c = (x.shape[1],)
    d.emit([x, d.operand(1, c, "tame", 80), d.operand(2, c, "tame", 80)],
           d.attributes(epsilon=EPSILONS))  # fmt: skip


@recipe("GroupNormalization")
def group_normalization(d: Sketch) -> None:
    groups, each = d.choices.one((2, 1, 3)), d.choices.one((2, 1, 3))
    space = tuple(d.choices.one((3, 4, 1)) for _ in range(d.choices.one((2, 1, 3))))
    x = d.operand(0, (batch(d), groups * each, *space), "tame", constant=5)
    c = (groups if d.opset < 21 else groups * each,)
    given = d.attributes(epsilon=EPSILONS, stash_type=(1,)) | {"num_groups": groups}
    d.emit([x, d.operand(1, c, "tame", 80), d.operand(2, c, "tame", 80)], given)


@recipe("LayerNormalization", "RMSNormalization")
def layer_normalization(d: Sketch) -> None:
    x = d.data(0, (3, 2, 1, 4), "tame", zeros=d.maybe(10))
    axis = axis_of(d, x.rank) if d.maybe(60) else -1
    given = d.attributes(epsilon=EPSILONS, stash_type=(1,))
    if axis != -1 or d.maybe(50):
        given["axis"] = axis
    shape = x.shape[axis:]
    shape = d.broadcasts(shape) if d.maybe(15) else shape
    scale = d.operand(1, shape, "tame", 80)
    if d.op == "RMSNormalization":
        d.emit([x, scale], given)
        return
    bias = d.operand(2, shape, "tame", 80) if d.maybe(60) else None
    d.emit([x, scale, bias], given, d.choices.one((1, 1, 1, 3)))


@recipe("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(d: Sketch) -> None:
    n, classes = d.choices.one((2, 1, 4)), d.choices.one((3, 1, 5))
    space = tuple(d.choices.one((2, 3, 1)) for _ in range(d.choices.one((0, 0, 1, 2))))
    x = d.operand(0, (n, classes, *space), "tame", constant=5)
    kind = d.index_dtype(1)
    given = d.attributes(reduction=("mean", "sum", "none"), ignore_index=(1, 0, -1, 255))
    labels = np.random.default_rng(d.choices.below(999)).integers(0, classes, (n, *space))
    if "ignore_index" in given and d.maybe(60):
        labels.reshape(-1)[:: d.choices.one((2, 3, 1))] = given["ignore_index"]
    weight: Ref | None = d.operand(2, (classes,), "tame", 50) if d.maybe(40) else None
    results = 2 if d.op == "SoftmaxCrossEntropyLoss" and d.maybe(30) else 1
    d.emit([x, d.put(labels.astype(kind.numpy), 10), weight], given, results)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@recipe(*(f"Reduce{r}" for r in _REDUCTIONS))
def reduction(d: Sketch) -> None:
    from .base import axes_of, numbers

    x = d.data(0, (2, 3, 1, 0, 4), "wild" if d.op in ("ReduceMax", "ReduceMin") else "mild")
    axes = axes_of(d, range(x.rank), x.rank) if d.maybe(75) else None
    given = d.attributes(keepdims=FLAG, noop_with_empty_axes=FLAG)
    if axes == [] and d.has("axes"):
        axes = None
    d.emit([x, numbers(d, "axes", axes, given)], given)


@recipe("ArgMax", "ArgMin")
def arg_extreme(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3, 4), "mild")
    d.emit([x], d.attributes(axis=(axis_of(d, x.rank),), keepdims=FLAG, select_last_index=FLAG))


@recipe("DynamicQuantizeLinear")
def dynamic_quantize(d: Sketch) -> None:
    d.emit([d.data(0, level="tame", among=(DType.f32,))], {}, 3)

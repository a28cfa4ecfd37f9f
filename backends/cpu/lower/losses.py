"""Losses of classes and one-hot labels, as loop nests beside a check of the labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import Builder, DType, Node, Value
from ...schedule.layout import KERNEL_TYPES, Tensor
from ...schedule.steps import Step, Word
from ..nests.loops import within_kernel
from . import generic
from .fusion import emit_body
from .lowering import Lowering
from .registry import lowers

INTEGERS = (DType.i32, DType.i64)


@lowers("one_hot")
def one_hot(low: Lowering, node: Node) -> bool:
    """Labels against the places of the axis, where the depth is known."""
    at, depth, values = low.graph.operands(node)
    assert at is not None and values is not None
    if low.array(depth) is None or at.type.dtype not in INTEGERS:
        return False
    if node.type.size == 0 or node.type.dtype not in KERNEL_TYPES:
        return False
    op: Any = node.op
    axis = op.axis % node.type.rank
    count = node.type.static_shape[axis]
    kind = at.type.dtype.numpy.type

    def hot(b: Builder, at: Value, values: Value) -> Value:
        at = b.unsqueeze(at, np.array([axis]))
        at = b.where(b.less(at, kind(0)), b.add(at, kind(count)), at)
        off, on = (b.slice(values, np.array([i]), np.array([i + 1])) for i in range(2))
        return b.where(b.equal(at, _places(node.type.rank, axis, count, kind)), on, off)

    out = low.result(node[0], exact=True)
    emit_body(low, hot, [low.tensor(at), low.tensor(values)], out, "one_hot", (node.name,))
    return True


@lowers("softmax_cross_entropy_loss", "negative_log_likelihood_loss")
def class_loss(low: Lowering, node: Node) -> bool:
    """In f32, with or without weights of classes, reduced or not."""
    x, labels, weight = [*low.graph.operands(node), None][:3]
    assert x is not None and labels is not None
    if x.type.dtype is not DType.f32 or labels.type.dtype not in INTEGERS or x.type.size == 0:
        return False
    op: Any = node.op
    nodes, scores, at = (node.name,), low.tensor(x), low.tensor(labels)
    shape, softmax = low.shape(x), node.op.name.startswith("softmax")
    _check(low, node, at, shape[1])
    logs = scores
    if softmax:
        logs = low.result(node[1], exact=True) if op.outputs == 2 else low.new(DType.f32, shape)
        emit_body(low, lambda b, v: b.log_softmax(v, axis=1), [scores], logs, "log_softmax", nodes)
    given = [logs, at, *([low.tensor(weight)] if weight is not None else [])]
    kind = labels.type.dtype.numpy.type
    places = _places(len(shape), 1, shape[1], kind)

    def each(b: Builder, labels: Value, *weight: Value) -> Value:
        """What a class of a place counts."""
        hot = b.equal(b.unsqueeze(labels, np.array([1])), places)
        ones: Any = np.float32(1)
        if weight:
            ones = b.reshape(weight[0], np.array([-1, *[1] * (len(shape) - 2)]))
        made = b.where(hot, ones, np.float32(0))
        if op.ignore_index is None:
            return made
        used = b.equal(b.unsqueeze(labels, np.array([1])), kind(op.ignore_index))
        return b.where(used, np.float32(0), made)

    def losses(b: Builder, logs: Value, labels: Value, *weight: Value) -> Value:
        # A log-probability of -inf counts for its own class only: -inf * 0 is no number.
        counts = each(b, labels, *weight)
        none = b.equal(counts, np.float32(0))
        picked = b.where(none, np.float32(0), b.mul(logs, counts))
        return b.neg(b.reduce_sum(picked, np.array([1]), keepdims=False))

    out = low.result(node[0], exact=True)
    if op.reduction == "none":
        emit_body(low, losses, given, out, "loss", nodes)
        return True
    by_place = low.new(DType.f32, (shape[0], *shape[2:]))
    emit_body(low, losses, given, by_place, "loss", nodes)
    if op.reduction == "sum":
        emit_body(low, lambda b, v: b.reduce_sum(v, keepdims=False), [by_place], out, "sum", nodes)
        return True
    if weight is None and op.ignore_index is None:
        emit_body(low, lambda b, v: b.reduce_mean(v, keepdims=False), [by_place], out, "mean",
                  nodes)  # fmt: skip
        return True
    counts = low.new(DType.f32, by_place.shape)
    emit_body(
        low, lambda b, *v: b.reduce_sum(each(b, *v), np.array([1]), keepdims=False), given[1:],
        counts, "counts", nodes,
    )  # fmt: skip
    total, count = low.new(DType.f32, ()), low.new(DType.f32, ())
    for source, made in ((by_place, total), (counts, count)):
        emit_body(low, lambda b, v: b.reduce_sum(v, keepdims=False), [source], made, "sum", nodes)
    emit_body(low, lambda b, x, y: b.div(x, y), [total, count], out, "mean", nodes)
    return True


def _places(rank: int, axis: int, count: int, kind: Any) -> np.ndarray:
    """0 to count - 1 along an axis."""
    return np.arange(count, dtype=kind).reshape([-1 if i == axis else 1 for i in range(rank)])


def _check(low: Lowering, node: Node, labels: Tensor, classes: int) -> None:
    """A step that sets a fault where a label is no class."""
    op: Any = node.op
    flat = low.dense(labels, (node.name,))
    fault = low.fault(f"node {node.name!r}: a label is not below the {classes} classes")
    ignored = -1 if op.ignore_index is None else op.ignore_index
    words: list[Word] = [0, 0, 1, flat.ref, flat.size, classes, ignored,
                         int(op.ignore_index is not None), fault]  # fmt: skip
    kernel = generic.kernel_of(within_kernel, "within", kind=labels.dtype.value)
    low.emit(Step(kernel, words, [flat.buffer], [], (node.name,)))

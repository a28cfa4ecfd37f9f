"""Losses of classifiers, as ONNX has them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import Dependences
from ..errors import FeedError, VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..signature import derived, read_signature
from ..types import Shape, TensorType
from .activation import log_softmax
from .adjoint import filled, in_type_of, ints, places, rank_of, shape_of, shaped
from .common import (
    check_choice,
    check_float,
    check_integer,
    check_same,
    check_vector,
    differs,
    wide,
)

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

REDUCTIONS = ("none", "sum", "mean")


@dataclass(frozen=True)
class ClassLoss(Op):
    """What the losses of classes share: one label for each place, a weight for each class.

    `mean` divides by the sum of the weights of the labels. Places whose label is ignore_index
    count as nothing.
    """

    numerics = SUMS
    held = MappingProxyType(dict.fromkeys(("weight", "weights"), "it says what classes count"))
    ignore_index: int | None = None
    reduction: str = "mean"

    def check_classes(self, x: Abstract, labels: Abstract, weight: Abstract | None) -> Shape | None:
        """The loss's shape. Raises VerifyError where x[n,c,...] and labels[n,...] do not fit."""
        check_float(x)
        check_integer(labels, "the labels")
        check_choice(self.reduction, REDUCTIONS, "reduction")
        if weight is not None:
            check_same(x, weight)
        if x.shape is None:
            return None if self.reduction == "none" else ()
        if len(x.shape) < 2:
            raise VerifyError(f"{x.type} has no axis of classes")
        check_vector(weight, x.shape[1], "the weight")
        want = (x.shape[0], *x.shape[2:])
        if labels.shape is not None and (
            len(labels.shape) != len(want) or any(map(differs, want, labels.shape))
        ):
            raise VerifyError(f"labels are {labels.type}, which do not fit {x.type}")
        return want if self.reduction == "none" else ()

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        whole = "!" if self.reduction == "mean" else ""
        ends = " -> y[n,...]" if self.reduction == "none" else " -> y[]"
        text = f"x[n{whole},c!,...{whole}] labels[n{whole},...{whole}] weight[c!]{ends} p[n,c,...]"
        found = derived(read_signature(text), self, operands, results)
        return tuple(d for d in found if d.operand == 0 or d.result == 0)

    def loss(self, logs: Array, labels: Array, weight: Array | None) -> Array:
        """-log p of each label, weighted and reduced."""
        used = np.ones(labels.shape, bool) if self.ignore_index is None else \
            labels != self.ignore_index  # fmt: skip
        at = np.where(used, labels.astype(np.int64), 0)
        classes = logs.shape[1]
        if at.size and (at.min() < 0 or at.max() >= classes):
            raise FeedError(f"a label is not below the {classes} classes")
        each = np.ones(classes, logs.dtype) if weight is None else weight.astype(logs.dtype)
        factor = np.where(used, each[at], logs.dtype.type(0))
        picked = np.take_along_axis(logs, np.expand_dims(at, 1), 1)[:, 0]
        losses = np.where(used, -picked * factor, logs.dtype.type(0))
        if self.reduction == "none":
            return losses
        total = np.sum(losses)
        return np.asarray(total / np.sum(factor) if self.reduction == "mean" else total)

    def label_gradient(
        self, b: Builder, g: Value, x: Value, labels: Value, weight: Value | None
    ) -> tuple[Value, Value]:
        """(one-hot labels, -g * the factor of each place); the latter broadcasts to the former."""
        labels = b.unsqueeze(labels, ints(b, 1))
        classes = b.reshape(places(b, x, 1), ints(b, -1, *[1] * (rank_of(x) - 2)))
        hot = b.cast(b.equal(labels, in_type_of(b, classes, labels)), to=x.type.dtype)
        factor = self._factor(b, labels, hot, weight)
        if self.reduction == "none":
            g = b.unsqueeze(g, ints(b, 1))
        elif self.reduction == "mean":
            count = b.cast(b.size(labels), to=g.type.dtype) if factor is None else \
                b.reduce_sum(factor, keepdims=False)  # fmt: skip
            g = b.div(g, count)
        return hot, b.neg(g if factor is None else b.mul(factor, g))

    def _factor(self, b: Builder, labels: Value, hot: Value, weight: Value | None) -> Value | None:
        """Each place's weight, 0 where it is ignored; None where all are 1."""
        if weight is not None:
            spread = b.reshape(weight, ints(b, -1, *[1] * (rank_of(hot) - 2)))
            factor = b.reduce_sum(b.mul(hot, spread), ints(b, 1))
        elif self.ignore_index is not None:
            factor = filled(b, shape_of(b, labels), 1, hot)
        else:
            return None
        if self.ignore_index is None:
            return factor
        ignored = np.asarray(self.ignore_index, labels.type.dtype.numpy)
        return b.where(b.equal(labels, ignored), b.number(0, factor), factor)


@register
@dataclass(frozen=True)
class NegativeLogLikelihoodLoss(ClassLoss):
    """-weight[label] * x[n, label, ...] for log-probabilities x[n,c,...] and labels[n,...]

    Reduced as `reduction` says: none, sum, or mean (over the labels' weights). Places whose label
    is ignore_index count as nothing.
    """

    def infer(self, x: Abstract, labels: Abstract, weight: Abstract | None = None) -> Inferred:
        return TensorType(x.dtype, self.check_classes(x, labels, weight))

    def reference(self, x: Array, labels: Array, weight: Array | None = None) -> Array:
        return self.loss(wide(x), labels, weight).astype(x.dtype)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, labels, weight), (g,) = operands, gradients
        hot, factor = self.label_gradient(b, g, x, labels, weight)
        return shaped(b, b.mul(hot, factor), x), None, None


@register
@dataclass(frozen=True)
class SoftmaxCrossEntropyLoss(ClassLoss):
    """negative_log_likelihood_loss of log_softmax(scores) over axis 1; with outputs=2 also that
    log_softmax
    """

    results = ("y", "log_prob")
    outputs: int = 1

    def infer(
        self, scores: Abstract, labels: Abstract, weights: Abstract | None = None
    ) -> Inferred:
        if self.outputs not in (1, 2):
            raise VerifyError(f"outputs is {self.outputs}, which should be 1 or 2")
        made = TensorType(scores.dtype, self.check_classes(scores, labels, weights))
        return made if self.outputs == 1 else (made, scores.type)

    def reference(self, scores: Array, labels: Array, weights: Array | None = None) -> Any:
        logs = log_softmax(wide(scores), 1)
        y = self.loss(logs, labels, weights).astype(scores.dtype)
        return y if self.outputs == 1 else (y, logs.astype(scores.dtype))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, labels, weights), (g, *rest) = operands, gradients
        made = None
        if g is not None:
            hot, factor = self.label_gradient(b, g, x, labels, weights)
            made = b.mul(b.sub(hot, b.softmax(x, axis=1)), factor)
        if rest and rest[0] is not None:
            total = b.reduce_sum(rest[0], ints(b, 1))
            other = b.sub(rest[0], b.mul(b.softmax(x, axis=1), total))
            made = other if made is None else b.add(made, other)
        return None if made is None else shaped(b, made, x), None, None

"""Losses joined to a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir import Builder, DType, FeedError, Graph, TensorType, Value
from ...ir.ops.adjoint import in_type_of, ints, known_shape, rank_of, scaled
from ..base import Exact, Outcome, Pass, near, register_pass
from ..context import Context


@register_pass
@dataclass(frozen=True)
class Loss(Pass):
    """Join a scalar output that says how far an output is from a target, a new input:

        cross-entropy        softmax cross entropy with labels i64, one a place
        soft-cross-entropy   mean of -t^2 * sum(softmax(target / t) * log_softmax(y / t))
        mean-squared-error   mean((y - target)^2)

    `axis` is that of the classes, t the temperature. soft-cross-entropy with a teacher's logits as
    the target is the loss of G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a
    neural network" (2015). `smoothing` s blends cross-entropy with an equal share for every class,
    (1 - s) * loss + s * mean(-log_softmax(y)): label smoothing of C. Szegedy and others,
    "Rethinking the inception architecture for computer vision" (2016). Exact: the other outputs
    stay.
    """

    name = "loss"
    bound = Exact()
    keeps_signature = False
    kind: str = "cross-entropy"
    output: str = ""
    target: str = "target"
    result: str = "loss"
    axis: int = 1
    temperature: float = 1.0
    smoothing: float = 0.0

    def run(self, graph: Graph, context: Context) -> Outcome:
        if self.kind not in KINDS:
            raise FeedError(f"no loss is named {self.kind!a}{near(self.kind, list(KINDS))}",
                            hint=f"the losses are {', '.join(KINDS)}")  # fmt: skip
        outputs = dict(zip(graph.output_names, graph.outputs))
        if not outputs:
            raise FeedError("the graph has no output")
        name = self.output or next(iter(outputs))
        if name not in outputs:
            raise FeedError(f"no output is named {name!a}{near(name, list(outputs))}")
        if self.result in outputs:
            raise FeedError(f"an output is named {self.result!a} already")
        type = outputs[name].type
        if not type.dtype.is_float or type.shape is None or not type.shape:
            raise FeedError(f"output {name!a} is {type}, no tensor of floats of a known rank")
        if self.kind == "cross-entropy" and not -type.rank <= self.axis < type.rank != 1:
            raise FeedError(f"output {name!a} is {type}, which has no axis {self.axis} of classes "
                            "beside places")  # fmt: skip
        if self.temperature <= 0:
            raise FeedError(f"temperature is {self.temperature}, which should be positive")
        if not 0 <= self.smoothing < 1 or (self.smoothing and self.kind != "cross-entropy"):
            raise FeedError(f"smoothing of {self.kind} is {self.smoothing}",
                            hint="it is from 0 to below 1, and of cross-entropy only")  # fmt: skip
        made = KINDS[self.kind](self, Builder(graph, prefix="loss."), outputs[name])
        graph.rename(made.node, graph.fresh(self.result))
        graph.set_outputs({**outputs, self.result: made})
        outcome = Outcome()
        outcome.applied("losses", made.node, f"{self.kind} of {name} and {self.target}")
        return outcome

    def cross_entropy(self, b: Builder, y: Value) -> Value:
        y = classes_second(b, y, self.axis)
        n, _, *rest = known_shape(y)
        labels = b.input(self.target, DType.i64, (n, *rest))
        loss = b.softmax_cross_entropy_loss(y, labels)
        if not self.smoothing:
            return loss
        even = b.reduce_mean(b.log_softmax(y, axis=1), keepdims=False)
        return b.sub(scaled(b, loss, 1 - self.smoothing), scaled(b, even, self.smoothing))

    def soft_cross_entropy(self, b: Builder, y: Value) -> Value:
        return soft_cross_entropy(b, y, self._target(b, y), self.axis, self.temperature)

    def mean_squared_error(self, b: Builder, y: Value) -> Value:
        off = b.sub(y, in_type_of(b, self._target(b, y), y))
        return b.reduce_mean(b.mul(off, off), keepdims=False)

    def _target(self, b: Builder, y: Value) -> Value:
        return b.graph.add_input(self.target, TensorType(y.type.dtype, y.shape))[0]


def classes_second(b: Builder, y: Value, axis: int) -> Value:
    """y with its axis of classes as axis 1."""
    rank, axis = rank_of(y), axis % rank_of(y)
    rest = [i for i in range(rank) if i != axis]
    return y if axis == 1 else b.transpose(y, perm=(rest[0], axis, *rest[1:]))


def soft_cross_entropy(b: Builder, y: Value, target: Value, axis: int, t: float) -> Value:
    """-t^2 * sum over axis of softmax(target / t) * log_softmax(y / t), mean of the places"""
    logs = b.log_softmax(scaled(b, y, 1 / t), axis=axis)
    shares = b.softmax(scaled(b, target, 1 / t), axis=axis)
    each = b.reduce_sum(b.mul(logs, shares), ints(b, axis), keepdims=False)
    return scaled(b, b.reduce_mean(each, keepdims=False), -t * t)


KINDS: dict[str, Callable[[Loss, Builder, Value], Value]] = {
    "cross-entropy": Loss.cross_entropy,
    "soft-cross-entropy": Loss.soft_cross_entropy,
    "mean-squared-error": Loss.mean_squared_error,
}

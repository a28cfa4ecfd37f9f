"""Learning what a teacher answers."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import DType, FeedError, TensorType, Value
from ...ir.errors import show_name
from ...ir.ops.adjoint import known_shape
from ..base import Outcome, register_pass
from ..context import Context
from ..gradient.loss import classes_second, soft_cross_entropy
from .base import Distill
from .joint import Joint


@register_pass
@dataclass(frozen=True)
class DistillLabels(Distill):
    """Join the teacher of the context and add the cross entropy with labels, i64 in a new input
    `target`, to the output `loss`: weight * cross_entropy(softmax(output), target).

    Other `distill-*` passes add what the teacher says. `axis` is that of the classes. Exact: the
    other outputs stay.
    """

    name = "distill-labels"
    output: str = ""
    target: str = "target"
    axis: int = 1

    def terms(self, joint: Joint, context: Context, outcome: Outcome) -> None:
        layer, y = joint.output(self.output)
        check_classes(layer.name, y, self.axis)
        joint.add(cross_entropy(joint, y, self.target, self.axis), self.weight, self.result)
        outcome.applied("terms", layer.name, "learns from labels")


@register_pass
@dataclass(frozen=True)
class DistillResponse(Distill):
    """Join the teacher of the context and add the loss of G. Hinton, O. Vinyals and J. Dean,
    "Distilling the knowledge in a neural network" (2015), to the output `loss`:

        (1 - alpha) * -t^2 * sum(softmax(teacher / t) * log_softmax(student / t))
            + alpha * cross_entropy(softmax(student), target)

    as means over places, times `weight`. Both outputs are logits (the first ones unless `output`
    and `teacher_output` name others), t is the `temperature`, t^2 keeps the gradient's size, and
    `target` an input of labels i64, which alpha = 0 leaves out. `axis` is that of the classes.
    Exact: the other outputs stay.
    """

    name = "distill-response"
    temperature: float = 4.0
    alpha: float = 0.1
    output: str = ""
    teacher_output: str = ""
    target: str = "target"
    axis: int = 1

    def terms(self, joint: Joint, context: Context, outcome: Outcome) -> None:
        if self.temperature <= 0:
            raise FeedError(f"temperature is {self.temperature}, which should be positive")
        if not 0 <= self.alpha <= 1:
            raise FeedError(f"alpha is {self.alpha}, which should be from 0 to 1")
        layer, y = joint.output(self.output)
        check_classes(layer.name, y, self.axis)
        theirs = joint.teacher_output(self.teacher_output)
        if theirs.type.shape != y.shape:
            raise FeedError(f"output {show_name(layer.name)} of the student is {y.type}, "
                            f"{show_name(theirs.name)} of the teacher {theirs.type}",
                            hint="response needs the same classes")  # fmt: skip
        target = joint.teacher_value(theirs, y)
        soft = soft_cross_entropy(joint.b, y, target, self.axis, self.temperature)
        joint.add(soft, self.weight * (1 - self.alpha), self.result)
        if self.alpha:
            hard = cross_entropy(joint, y, self.target, self.axis)
            joint.add(hard, self.weight * self.alpha, self.result)
        outcome.applied("terms", layer.name, f"learns from the teacher's {theirs.name}")


def check_classes(name: str, y: Value, axis: int) -> None:
    """Raise FeedError unless y has an axis of classes beside another one."""
    rank = -1 if y.shape is None else len(y.shape)
    if not y.type.dtype.is_float or rank < 2 or not -rank <= axis < rank:
        raise FeedError(f"output {show_name(name)} of the student is {y.type}, which has no axis "
                        f"{axis} of classes beside places")  # fmt: skip


def cross_entropy(joint: Joint, y: Value, target: str, axis: int) -> Value:
    y = classes_second(joint.b, y, axis)
    n, _, *rest = known_shape(y)
    labels = joint.labels(target, TensorType(DType.i64, (n, *rest)))
    return joint.b.softmax_cross_entropy_loss(y, labels)

"""How many answers of a classifier are right, as nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir import Builder, DType, FeedError, Graph, Value
from ...ir.ops.adjoint import known_shape, places
from ..base import Exact, Outcome, Pass, near, register_pass
from ..context import Context


@register_pass
@dataclass(frozen=True)
class CountCorrect(Pass):
    """Add an output, f32[], that counts the places whose label in the input `target` is among the
    k classes of the largest scores in `output` (the first output by default): `correct` for k 1,
    `correct.5` for k 5.

    Of equal scores the class of the smaller number comes first, as argmax has it; a NaN is no
    answer. `axis` is that of the classes. Exact: the other outputs stay.
    """

    name = "count-correct"
    bound = Exact()
    keeps_signature = False
    k: int = 1
    output: str = ""
    target: str = "target"
    axis: int = 1

    def run(self, graph: Graph, context: Context) -> Outcome:
        outputs = dict(zip(graph.output_names, graph.outputs))
        name = self.output or next(iter(outputs), "")
        inputs = {n.name: n[0] for n in graph.inputs}
        if name not in outputs:
            raise FeedError(f"no output is named {name!a}{near(name, list(outputs))}")
        if self.target not in inputs or not inputs[self.target].type.dtype.is_integer:
            raise FeedError(f"no input of labels is named {self.target!a}")
        if self.k < 1:
            raise FeedError(f"k is {self.k}, which should be 1 or more")
        made = self._count(Builder(graph, prefix="correct."), outputs[name], inputs[self.target])
        outputs["correct" if self.k == 1 else f"correct.{self.k}"] = made
        graph.set_outputs(outputs)
        outcome = Outcome()
        outcome.count("counts")
        return outcome

    def _count(self, b: Builder, scores: Value, labels: Value) -> Value:
        shape = known_shape(scores)
        if not -len(shape) <= self.axis < len(shape):
            raise FeedError(f"the scores are {scores.type}, which have no axis {self.axis}")
        axis = self.axis % len(shape)
        ends = b.constant([-1, *[1] * (len(shape) - axis - 1)])
        classes = b.reshape(places(b, scores, axis), ends)
        label = b.unsqueeze(b.cast(labels, to=DType.i64), b.constant([axis]))
        chosen = b.where(b.equal(classes, label), scores, b.number(0, scores))
        own = b.reduce_sum(chosen, b.constant([axis]))
        # What does not come before the label's class: so that a NaN counts as coming before it.
        after = b.or_(b.less(scores, own),
                      b.and_(b.equal(scores, own), b.greater_or_equal(classes, label)))  # fmt: skip
        before = b.cast(b.not_(after), to=DType.f32)
        rank = b.reduce_sum(before, b.constant([axis]), keepdims=False)
        own = b.squeeze(own, b.constant([axis]))
        right = b.and_(b.less(rank, b.number(self.k, rank)),
                       b.less_or_equal(own, b.number(math.inf, own)))  # fmt: skip
        return b.reduce_sum(b.cast(right, to=DType.f32), keepdims=False)

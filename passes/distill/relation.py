"""Learning how a teacher sees the items of a batch next to each other."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import FeedError, Value
from ...ir.ops.adjoint import scaled
from ..base import Outcome, register_pass
from ..context import Context
from .base import Distill
from .functions import Geometry, huber, mean_square, rows, similarity
from .joint import Joint
from .layers import Layer
from .pairs import Pair, Pairing, report


@register_pass
@dataclass(frozen=True)
class DistillRelation(Distill):
    """Join the teacher of the context and add to the output `loss`, times `weight` and as a mean
    over pairs of layers, where huber is of delta 1 and i, j, k are items of the batch:

        distance   * mean huber(|x_i - x_j| / m), m the mean of the distances that are not 0
        angle      * mean huber(cos of the angle between x_i - x_j and x_k - x_j)
        similarity * mean (g - g')^2, g = x x^T with rows of norm 1

    between student and teacher, the features of an item as one vector x. Their sizes may differ.
    The first two are of W. Park, D. Kim, Y. Lu and M. Cho, "Relational knowledge distillation"
    (2019), the third of F. Tung and G. Mori, "Similarity-preserving knowledge distillation" (2019).

    Layers are the last features, before the classifier, unless `layers` and `teacher_layers` name
    nodes. Angles take memory of the cube of the batch. Exact: the other outputs stay.
    """

    name = "distill-relation"
    distance: float = 1.0
    angle: float = 2.0
    similarity: float = 0.0
    layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def terms(self, joint: Joint, context: Context, outcome: Outcome) -> None:
        if min(self.distance, self.angle, self.similarity) < 0:
            raise FeedError("the weights of distance, angle and similarity should be 0 or more")
        pairing = Pairing(joint, "feature", self.layers, self.teacher_layers)
        found = pairing.named() if self.layers or self.teacher_layers else [_last(joint)]
        for student, teacher in found:
            pair = pairing.pair(self, student, teacher)
            if pair.x.shape is None or pair.x.shape[0] != joint.batch:
                raise FeedError(f"{pair}: the first axis is not the batch", node=student.name)
            for term, weight in self._parts(joint, pair):
                joint.add(term, self.weight * weight / len(found), self.result)
            report(outcome, pair)

    def _parts(self, joint: Joint, pair: Pair) -> list[tuple[Value, float]]:
        b, x, t = joint.b, rows(joint.b, pair.x), rows(joint.b, pair.t)
        made: list[tuple[Value, float]] = []
        if self.distance or self.angle:
            ours, theirs = Geometry(b, x), Geometry(b, t)
            if self.distance:
                term = huber(b, ours.relative_distances(), theirs.relative_distances())
                made.append((term, self.distance))
            if self.angle:
                made.append((huber(b, ours.cosines(), theirs.cosines()), self.angle))
        if self.similarity:
            term = mean_square(b, similarity(b, x), similarity(b, t))
            made.append((term, self.similarity))
        return made or [(scaled(b, b.reduce_mean(x, keepdims=False), 0.0), 0.0)]


def _last(joint: Joint) -> tuple[Layer, Layer]:
    """The last features of both, whatever their sizes."""
    ours, theirs = joint.layers("feature"), joint.teacher_layers("feature")
    for layers, whose in ((ours, "the student"), (theirs, "the teacher")):
        if not layers:
            raise FeedError(f"{whose} has no layer whose features could be compared",
                            hint="name nodes: layers= and teacher_layers=")  # fmt: skip
    return ours[-1], theirs[-1]

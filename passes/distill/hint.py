"""Learning a teacher's features through a regressor that is thrown away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir import FeedError, Value
from ...ir.ops.adjoint import scaled
from ..base import Outcome, register_pass
from ..context import Context
from .base import Distill
from .functions import mean_square
from .joint import Joint
from .layers import DISTILL, place_of
from .pairs import Pair, Pairing, report


@register_pass
@dataclass(frozen=True)
class DistillHint(Distill):
    """Join the teacher of the context and add mean((r(x) - t)^2) / 2 to the output `loss`, times
    `weight` and as a mean over pairs of layers: hints of A. Romero and others, "FitNets" (2015).

    The regressor r is trained with the student and goes when the student is taken out: a
    convolution for maps, whose kernel is what takes the student's height and width to the teacher's
    (1x1 where they are the same), otherwise a linear layer over the last axis. Its weights are
    constants `distill.hint.NODE.weight`, drawn from the context's seed.

    Without `layers` and `teacher_layers` the middle one of the pairs at the same relative depth is
    taken. Exact: the other outputs stay.
    """

    name = "distill-hint"
    layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def terms(self, joint: Joint, context: Context, outcome: Outcome) -> None:
        pairing = Pairing(joint, "feature", self.layers, self.teacher_layers)
        if self.layers or self.teacher_layers:
            found = pairing.named()
        else:
            known = pairing.automatic()
            found = [known[(len(known) - 1) // 2]]
        for student, teacher in found:
            pair = pairing.pair(self, student, teacher)
            made = _regressor(joint, pair, context.rng)
            term = scaled(joint.b, mean_square(joint.b, made, pair.t), 0.5)
            joint.add(term, self.weight / len(found), self.result)
            report(outcome, pair)


def _regressor(joint: Joint, pair: Pair, random: np.random.Generator) -> Value:
    """r(x), of the teacher's shape."""
    b, x, t = joint.b, pair.x, pair.t
    assert x.shape is not None and t.shape is not None
    maps = len(x.shape) == len(t.shape) == 4
    inner, outer = (x.shape[1], t.shape[1]) if maps else (x.shape[-1], t.shape[-1])
    kernel = _kernel(pair) if maps else ()
    fits = maps or place_of(x.type) == place_of(t.type)
    if not isinstance(inner, int) or not isinstance(outer, int) or not fits:
        raise FeedError(f"{pair} are not joined by a linear layer",
                        hint="pair layers of one size, with known channels")  # fmt: skip
    shape = (outer, inner, *kernel) if maps else (inner, outer)
    deviation = (inner * int(np.prod(kernel))) ** -0.5
    kind = x.type.dtype.numpy
    name = f"{DISTILL}hint.{pair.student.name}"
    weight = b.constant((random.standard_normal(shape) * deviation).astype(kind), f"{name}.weight")
    bias = b.constant(np.zeros(outer, kind), f"{name}.bias")
    if maps:
        return b.conv(x, weight, bias)
    return b.add(b.mat_mul(x, weight), bias)


def _kernel(pair: Pair) -> tuple[int, ...]:
    """What makes maps of the teacher's size out of the student's. Raises FeedError."""
    assert pair.x.shape is not None and pair.t.shape is not None
    found = []
    for ours, theirs in zip(pair.x.shape[2:], pair.t.shape[2:]):
        if ours == theirs and ours is not None:
            found.append(1)
        elif isinstance(ours, int) and isinstance(theirs, int) and ours > theirs:
            found.append(ours - theirs + 1)
        else:
            raise FeedError(f"{pair} are of different size, and the student's is not the larger")
    return tuple(found)

"""Learning where a teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...ir import Builder, FeedError, Value
from ...ir.ops.adjoint import ints
from ..base import Outcome, register_pass
from ..context import Context
from .base import Distill
from .functions import attention_map, divergence, mean_square, row_distance
from .joint import Joint
from .layers import Layer, place_of
from .pairs import Pair, Pairing, report

Of = Literal["auto", "maps", "heads"]
Compare = Literal["divergence", "square"]
Heads = Literal["each", "mean"]


@register_pass
@dataclass(frozen=True)
class DistillAttention(Distill):
    """Join the teacher of the context and add to the output `loss`, times `weight` and as a mean
    over pairs of layers:

        of=maps    mean over items of |q - q'|^2, q = f / |f|, f the sum of squares over channels of
                   a convolutional network's features (S. Zagoruyko and N. Komodakis, "Paying more
                   attention to attention", 2017; the square of the distance, as in their code)
        of=heads   over the rows of a transformer's attention probabilities p: `compare=divergence`
                   mean KL(teacher | student) (W. Wang and others, "MiniLM", 2020), `square` mean
                   (p - p')^2 (X. Jiao and others, "TinyBERT", 2020)

    `auto` takes heads where both networks have attention. Maps are the last ones of each size, with
    `every` all of them; heads are those of all layers. They pair at the same relative depth unless
    `layers` and `teacher_layers` name nodes (of an `attention`, or of its softmax where that is
    written out). `heads=mean` compares the means over heads, so that their numbers may differ.
    Exact: the other outputs stay.
    """

    name = "distill-attention"
    of: Of = "auto"
    compare: Compare = "divergence"
    heads: Heads = "each"
    every: bool = False
    layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def terms(self, joint: Joint, context: Context, outcome: Outcome) -> None:
        kind = "attention" if self._takes_heads(joint) else "feature"
        pairing = Pairing(joint, kind, self.layers, self.teacher_layers)
        if self.layers or self.teacher_layers:
            found = pairing.named()
        else:
            found = pairing.automatic()
            if kind == "feature":
                found = _maps(found, self.every)
        for student, teacher in found:
            pair = pairing.pair(self, student, teacher)
            term = self._heads(joint.b, pair) if kind == "attention" else _map(joint.b, pair)
            joint.add(term, self.weight / len(found), self.result)
            report(outcome, pair)

    def _takes_heads(self, joint: Joint) -> bool:
        if self.of != "auto":
            return self.of == "heads"
        return bool(joint.layers("attention") and joint.teacher_layers("attention"))

    def _heads(self, b: Builder, pair: Pair) -> Value:
        x, t = pair.x, pair.t
        if self.heads == "mean":
            x, t = (b.reduce_mean(p, ints(b, 1)) for p in (x, t))
        if x.shape != t.shape:
            raise FeedError(f"{pair} differ in heads or lengths",
                            hint="heads=mean compares the means over heads")  # fmt: skip
        return divergence(b, x, t) if self.compare == "divergence" else mean_square(b, x, t)


def _maps(pairs: list[tuple[Layer, Layer]], every: bool) -> list[tuple[Layer, Layer]]:
    """Pairs of maps with more than one pixel; without `every` the last of each size."""
    maps = [p for p in pairs if len(p[0].type.shape or ()) == 4]
    if not maps:
        raise FeedError("student and teacher have no maps of one height and width",
                        hint="name some: layers= and teacher_layers=")  # fmt: skip
    return maps if every else list({place_of(s.type): (s, t) for s, t in maps}.values())


def _map(b: Builder, pair: Pair) -> Value:
    shapes = pair.x.shape, pair.t.shape
    if any(s is None or len(s) != 4 for s in shapes) or place_of(pair.x.type) != place_of(
        pair.t.type
    ):
        raise FeedError(f"{pair} are no maps [n,c,h,w] of one height and width")
    return row_distance(b, attention_map(b, pair.x), attention_map(b, pair.t))

"""Which layer of the student learns from which of the teacher."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from ...ir import FeedError, Graph, Value
from ...ir.errors import show_name
from ..base import Outcome, Pass
from .joint import Joint, pairs_of
from .layers import Kind, Layer, place_of

P = TypeVar("P", bound=Pass)


class Pair(NamedTuple):
    """A layer of each, and what they give, in the student's element type."""

    student: Layer
    teacher: Layer
    x: Value
    t: Value

    def __str__(self) -> str:
        return f"{show_name(self.student.name)} {self.student.type} and the teacher's " \
               f"{show_name(self.teacher.name)} {self.teacher.type}"  # fmt: skip


@dataclass(frozen=True)
class Pairing:
    """`layers` names the student's nodes and `teacher_layers` the teacher's, one for one; where
    they are left out, layers are paired automatically: those that have the same place (see
    `layers.place_of`) at the same relative depth among these.
    """

    joint: Joint
    kind: Kind
    layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def named(self) -> list[tuple[Layer, Layer]]:
        """The pairs that the options name; the teacher's names are the student's by default."""
        theirs = self.teacher_layers or self.layers
        if len(theirs) != len(self.layers):
            raise FeedError(f"{len(self.layers)} layers of the student and {len(theirs)} of the "
                            "teacher are named", hint="name as many of each")  # fmt: skip
        return [(self.joint.named(s, self.kind), self.joint.teacher_named(t, self.kind))
                for s, t in zip(self.layers, theirs)]  # fmt: skip

    def automatic(self) -> list[tuple[Layer, Layer]]:
        """Pairs at the same relative depth, in the student's order. Raises FeedError where no layer
        has one.
        """
        ours, theirs = self.joint.layers(self.kind), self.joint.teacher_layers(self.kind)
        found: list[tuple[Layer, Layer]] = []
        for place in dict.fromkeys(self._place(n) for n in ours):
            students = [n for n in ours if self._place(n) == place]
            teachers = [n for n in theirs if self._place(n) == place]
            found += list(zip(students, self._same_depth(teachers, len(students))))
        if not found:
            raise FeedError(
                f"no {self.kind} of the student ({_listed(ours)}) goes with one of the teacher "
                f"({_listed(theirs)})", hint="name layers that do: layers= and teacher_layers="
            )  # fmt: skip
        order = {n.name: i for i, n in enumerate(ours)}
        return sorted(found, key=lambda pair: order[pair[0].name])

    def _place(self, layer: Layer) -> object:
        return None if self.kind == "attention" else place_of(layer.type)

    def _same_depth(self, layers: list[Layer], count: int) -> list[Layer]:
        """`count` of the layers at equal steps of depth. The last goes with the last; of features
        the first with the first, since stems and embeddings are among them.
        """
        last = len(layers) - 1
        if last < 0:
            return []
        if self.kind == "attention":  # k -> k * n / count, counted from 1, as TinyBERT has it
            return [layers[-(-(i + 1) * len(layers) // count) - 1] for i in range(count)]
        return [layers[(i * last + (count - 1) // 2) // (count - 1) if count > 1 else last]
                for i in range(count)]  # fmt: skip

    def pair(self, asker: Pass, student: Layer, teacher: Layer) -> Pair:
        """What two layers give; the joined graph notes for which pass."""
        x = self.joint.value(student)
        self.joint.note_pair(str(asker), student, teacher)
        return Pair(student, teacher, x, self.joint.teacher_value(teacher, x))


def pinned(graph: Graph, passes: Iterable[P]) -> list[P]:
    """The passes that joined a graph, naming the layers that they paired: so they pair the same
    where a teacher has these layers alone, as one that was recorded.
    """
    made = []
    for p in passes:
        found = pairs_of(graph, str(p))
        names: dict[str, Any] = {
            "layers": tuple(s for _, s, _ in found),
            "teacher_layers": tuple(t for _, _, t in found),
        }
        made.append(replace(p, **names) if found else p)
    return made


def report(outcome: Outcome, pair: Pair) -> None:
    outcome.applied("pairs", pair.student.name, f"learns from the teacher's {pair.teacher.name}")


def _listed(layers: list[Layer]) -> str:
    shown = [f"{show_name(n.name)} {n.type}" for n in layers[:8]]
    return ", ".join(shown + ["..."] * (len(layers) > 8)) or "none"

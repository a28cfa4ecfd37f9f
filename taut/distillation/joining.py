"""From names of kinds to passes, and from student and teacher to their training graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taut.formats import load
from taut.ir import FeedError, Graph
from taut.passes import Context, Outcome, Pass, PassManager, Pipeline
from taut.passes.distill.base import Distill
from taut.passes.distill.response import DistillLabels, DistillResponse
from taut.passes.distill.take import take_out as take_out_in_place

from .cache import Cache

KINDS = ("response", "relation", "attention", "hint", "labels")

Kind = str | Pass | Sequence[str | Pass]
"""`response`, `attention{weight=100}`: a pass `distill-KIND`, with its options; or several."""

Teacher = Graph | Cache | str | os.PathLike[str]


@dataclass(frozen=True)
class Joined:
    """A training graph, whose output `loss` is to be made small, and what was paired."""

    graph: Graph
    passes: tuple[Distill, ...]
    outcome: Outcome


def join(
    student: Graph, teacher: Teacher, kind: Kind = "response", *, labels: float | None = None,
    seed: int = 0,
) -> Graph:  # fmt: skip
    """One graph of student and frozen teacher, with a scalar output `loss` more.

    teacher   a Graph, a file's name, or a `Cache`, whose arrays become inputs `teacher.KIND.NAME`
    kind      what the student learns: `response`, `relation`, `attention`, `hint`, with options of
              the pass `distill-KIND` (`taut passes` lists them) as in `hint{weight=10}`; or several
    labels    weight of the cross entropy with an input `target` of labels: 1 by default, but 0 with
              `response`, whose `alpha` says it
    seed      of a hint's regressor

    `take_out` gives the student back. Raises FeedError, which names layers of both, for what does
    not fit; ParseError for a kind or option that is none.
    """
    return joined(student, teacher, passes_of(kind, labels), seed).graph


def joined(student: Graph, teacher: Teacher, passes: Sequence[Distill], seed: int = 0) -> Joined:
    """`join` by passes, with what they say."""
    context = Context(teacher=resolve(teacher), seed=seed)
    report = PassManager(passes).run(student, context)
    outcome = Outcome()
    for record in report.passes:
        outcome.merge(Outcome(record.counts, list(record.remarks)))
    return Joined(report.graph, tuple(passes), outcome)


def take_out(graph: Graph) -> Graph:
    """The student of a joined graph, as it was before but for its weights. Raises FeedError."""
    twin = graph.copy()
    take_out_in_place(twin)
    return twin


def passes_of(kind: Kind, labels: float | None = None) -> tuple[Distill, ...]:
    """The passes that kinds stand for, the one for labels first. Raises ParseError."""
    kinds = [kind] if isinstance(kind, str | Pass) else list(kind)
    found = [p for k in kinds for p in _passes(k)]
    if not found:
        raise FeedError("no kind of distillation is given", hint=f"there are {', '.join(KINDS)}")
    if labels is None:
        labels = 0.0 if any(isinstance(p, DistillResponse | DistillLabels) for p in found) else 1.0
    return (*([DistillLabels(weight=labels)] if labels else []), *found)


def _passes(kind: str | Pass) -> tuple[Distill, ...]:
    if isinstance(kind, str) and not kind.startswith("distill-"):
        kind = f"distill-{kind}"
    found: list[Distill] = []
    for p in Pipeline.of(kind):
        if not isinstance(p, Distill):
            raise FeedError(f"{p.name} is no pass of distillation",
                            hint=f"there are {', '.join(KINDS)}")  # fmt: skip
        found.append(p)
    return tuple(found)


def resolve(teacher: Teacher) -> Any:
    """What passes take as `Context.teacher`."""
    if isinstance(teacher, Cache):
        return teacher.recorded
    return teacher if isinstance(teacher, Graph) else load(teacher)

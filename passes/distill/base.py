"""What the passes that compare a student with its teacher share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir import FeedError, Graph
from ..base import Exact, Outcome, Pass
from ..context import Context
from .joint import Joint


@dataclass(frozen=True)
class Distill(Pass):
    """A pass that adds `weight` times a term to the scalar output `result`.

    A subclass says in `terms` what is added to `joint`, and to `outcome` which layers were paired.
    """

    bound = Exact()
    weight: float = 1.0
    result: str = "loss"

    def run(self, graph: Graph, context: Context) -> Outcome:
        if not 0 <= self.weight < math.inf:
            raise FeedError(f"weight is {self.weight}, which should be a number of 0 or more")
        outcome = Outcome()
        self.terms(Joint(graph, context), context, outcome)
        return outcome

    def terms(self, joint: Joint, context: Context, outcome: Outcome) -> None:
        raise NotImplementedError

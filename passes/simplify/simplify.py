"""The passes that apply the rules of this folder."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph
from ..base import Bound, Exact, Outcome, Pass, Within, register_pass
from ..context import Context
from ..rewrite import apply_rewrites
from . import algebra, bodies, clips, reshaping, seeds, windows
from .layout import move_transposes

ROUNDS = 8
"""A region that moved may let the next one move; each move takes a transpose away."""


@register_pass
@dataclass(frozen=True)
class Simplify(Pass):
    """Algebraic identities, to a fixed point: neutral elements, involutions, clamps in a row, casts
    in a row, identities and dropout, padding into the window after it, x @ w + c as one op,
    branches on what is known.

    Each holds for every number, NaN and both zeros included; with `fast` also such as hold for
    finite numbers up to rounding (x * 0, x / c, (x + c) + d, x ^ 2).
    """

    name = "simplify"
    bound = Exact()
    exact_seeds = (seeds.LIMITS,)
    seeds = (seeds.BRANCH, seeds.PADDED)
    nested = True
    fast: bool = False

    @property
    def promise(self) -> Bound:
        return Within(rtol=1e-5, atol=1e-6) if self.fast else Exact()

    def run(self, graph: Graph, context: Context) -> Outcome:
        every = (*algebra.RULES, *clips.RULES, *windows.RULES, *bodies.RULES)
        rules = [r() for r in every if self.fast or not r.fast]
        return apply_rewrites(graph, rules, context, who=self.name)


@register_pass
@dataclass(frozen=True)
class Motion(Pass):
    """Cancel, merge and move transposes and reshapes: the reshape family becomes `reshape` with a
    constant shape, what does nothing goes, and transposes move through element-wise regions where
    that leaves fewer of them. Elements only change places.
    """

    name = "motion"
    bound = Exact()
    seeds = (seeds.TURNED, seeds.TURNED_TWICE, seeds.TURNED_ROWS)
    nested = True
    regions: bool = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules = [r() for r in reshaping.RULES]
        outcome = apply_rewrites(graph, rules, context, who=self.name)
        for _ in range(ROUNDS if self.regions else 0):
            moved = move_transposes(graph, context)
            if not moved.counts:
                break
            outcome.merge(moved)
            outcome.merge(apply_rewrites(graph, rules, context, who=self.name))
        return outcome

"""What is decided of a program before any code is made: pure functions from a graph to frozen
results. Backends emit their steps over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph
from ...ir.machine import Machine
from .facts import Facts, facts_of
from .groups import Groups, groups_of
from .layouts import Layouts, layouts_of


@dataclass(frozen=True)
class Schedule:
    """A graph whose sizes are known, for one machine."""

    machine: Machine
    facts: Facts
    groups: Groups
    layouts: Layouts

    @property
    def graph(self) -> Graph:
        return self.facts.graph


def schedule(graph: Graph, machine: Machine) -> Schedule:
    """The schedule of a bound graph (see `sizes.bind`), all of whose sizes are known."""
    facts = facts_of(graph)
    groups = groups_of(facts, machine)
    return Schedule(machine, facts, groups, layouts_of(facts, groups, machine))

"""What a check has to show: how many graphs a pass really changed, and by which rewrites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FuzzReport:
    """A check that found nothing wrong: to how many of the graphs the pass applied.

    `examples` counts the graphs that were checked (what the reference or the pass refused is not
    among them), `grown` those grown from the pass's own patterns and seeds. `rewrites` tells for
    each rule, by `pass/rule`, in how many graphs it applied.
    """

    checked: str
    examples: int
    applied: int
    grown: int = 0
    rewrites: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def unexercised(self) -> list[str]:
        """Rules that applied to no graph: about these the check says nothing."""
        return [name for name, count in self.rewrites.items() if not count]

    def __str__(self) -> str:
        return f"{self.checked}: applied to {self.applied} of {self.examples} graphs"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "rewrites": dict(self.rewrites), "unexercised": self.unexercised}


class NeverApplied(AssertionError):
    """The pass changed none of the graphs, so the check says nothing about it. `.report` counts."""

    def __init__(self, report: FuzzReport) -> None:
        self.report = report
        super().__init__(
            f"{report}, so nothing is known of it: check it over families whose graphs it changes, "
            "or give the pass `seeds`, graphs in text form to which it applies "
            "(docs/testing.md)"
        )


class Tally:
    """Counts while a check goes on."""

    def __init__(self, checked: str) -> None:
        self.checked = checked
        self.examples = self.applied = self.grown = 0
        self.rewrites: Counter[str] = Counter()

    def offered(self, names: Iterable[str]) -> None:
        """Rules of the pass, so that those that never apply are known too."""
        for name in names:
            self.rewrites.setdefault(name, 0)

    def add(self, applied: bool, rewrites: Iterable[str], grown: bool) -> None:
        """One graph that was checked."""
        self.examples += 1
        self.applied += applied
        self.grown += grown
        self.rewrites.update(set(rewrites))

    def report(self, seconds: float) -> FuzzReport:
        """What was counted. Raises NeverApplied where the pass changed nothing."""
        made = FuzzReport(self.checked, self.examples, self.applied, self.grown,
                          dict(sorted(self.rewrites.items())), seconds)  # fmt: skip
        if not self.applied:
            raise NeverApplied(made)
        return made

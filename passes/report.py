"""What a run of the pass manager tells: times, memory, counts, remarks, numeric checks."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..ir import Graph
from ..ir.errors import show_name
from .base import Remark


@dataclass
class CheckResult:
    """Largest difference of an output over the samples, beside what the bound allows."""

    error: float
    allowed: float | None  # None: the pass promises nothing
    samples: int
    note: str = ""


@dataclass
class PassRecord:
    """One pass of a run."""

    name: str
    text: str
    seconds: float = 0.0
    peak_bytes: int = 0  # growth of the process's peak, or of traced memory where that is asked for
    nodes_before: int = 0
    nodes_after: int = 0
    changed: bool = False
    skipped: bool = False  # by the bisect limit
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[Remark] = field(default_factory=list)
    dropped_remarks: int = 0
    kept_analyses: list[str] = field(default_factory=list)
    steps: tuple[int, int] = (0, 0)  # first and last bisect step in it
    check: CheckResult | None = None

    def to_json(self) -> dict[str, Any]:
        check = None if self.check is None else vars(self.check)
        out = {k: v for k, v in vars(self).items() if k not in ("counts", "remarks", "check")}
        remarks = [r._asdict() for r in self.remarks]
        return out | {"counts": dict(self.counts), "remarks": remarks, "check": check}


@dataclass
class Report:
    """Everything about a run; `graph` is its result."""

    graph: Graph
    pipeline: str
    seed: int
    passes: list[PassRecord] = field(default_factory=list)
    steps: int = 0  # pass applications and rewrites, for --bisect-limit
    last_step: str = ""  # the last one that was let through

    @property
    def seconds(self) -> float:
        return sum(p.seconds for p in self.passes)

    def remarks(self, *kinds: str) -> Iterator[tuple[str, Remark]]:
        """(pass, remark) of these kinds ("applied", "missed", "note"), all by default."""
        for p in self.passes:
            for r in p.remarks:
                if not kinds or r.kind in kinds:
                    yield p.name, r

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, for `json.dumps`."""
        return {
            "pipeline": self.pipeline,
            "seed": self.seed,
            "seconds": self.seconds,
            "steps": self.steps,
            "last_step": self.last_step,
            "passes": [p.to_json() for p in self.passes],
        }

    def tables(self, *, remarks: bool = True) -> list[Any]:
        """Rich tables: one of passes, one of remarks."""
        from rich.table import Table
        from rich.text import Text

        passes = Table(title="Passes", title_justify="left")
        for head in ("pass", "ms", "peak MB", "nodes", "done", "error / allowed"):
            passes.add_column(head, justify="left" if head in ("pass", "done") else "right")
        for p in self.passes:
            done = ", ".join(f"{k} {v}" for k, v in sorted(p.counts.items())) or "-"
            nodes = f"{p.nodes_before} -> {p.nodes_after}" if p.changed else str(p.nodes_after)
            passes.add_row(
                Text(p.text), f"{p.seconds * 1e3:.1f}", f"{p.peak_bytes / 1e6:.1f}", nodes,
                Text("skipped" if p.skipped else done), Text(_check_text(p.check)),
            )  # fmt: skip
        out = [passes]
        found = list(self.remarks())
        if remarks and found:
            table = Table(title="Remarks", title_justify="left")
            for head in ("pass", "kind", "node", "reason"):
                table.add_column(head)
            for name, r in found:
                node = show_name(r.node)[1:-1] if r.node else ""
                table.add_row(name, r.kind, Text(node), Text(" ".join(r.reason.split())))
            out.append(table)
        return out

    def __str__(self) -> str:
        from rich.console import Console

        buffer = io.StringIO()
        console = Console(file=buffer, width=120, color_system=None)
        for table in self.tables():
            console.print(table)
        return buffer.getvalue()


def _check_text(check: CheckResult | None) -> str:
    if check is None:
        return ""
    if check.note:
        return check.note
    allowed = "-" if check.allowed is None else f"{check.allowed:.2g}"
    return f"{check.error:.2g} / {allowed}"

"""A reproducer, run again."""

from __future__ import annotations

import os
from typing import Any

from .context import Context
from .manager import PassManager
from .report import Report
from .reproduce import read_reproducer


def replay(path: str | os.PathLike[str], **options: Any) -> Report:
    """Run what a reproducer holds; raises what it raised then, or returns the report.

    `options` are the PassManager's.
    """
    graph, pipeline, rest = read_reproducer(path)
    options.setdefault("check", rest["check"])
    context = Context(data=rest["samples"] or None, seed=rest["seed"])
    return PassManager(pipeline, first=rest["place"], **options).run(graph, context)

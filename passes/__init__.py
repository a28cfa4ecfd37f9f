"""Passes over the IR, the manager that runs them, and pattern rewriting.

Importing this package registers every pass of its sub-packages.
"""

import importlib
import pkgutil

from . import presets as presets
from .analysis import Analyses, all_analyses, analysis
from .base import (
    Bound,
    Changes,
    Exact,
    Outcome,
    Pass,
    Remark,
    Within,
    WithinSteps,
    all_passes,
    pass_class,
    register_pass,
)
from .context import Context, Samples, random_feeds
from .instrument import bisect
from .manager import PassManager, optimize
from .pipeline import PRESETS, Pipeline, parse_pipeline, register_preset
from .replay import replay
from .report import PassRecord, Report
from .reproduce import read_reproducer, write_reproducer
from .rewrite import Match, Rewrite, RewriteBuilder, apply_rewrites

for _module in pkgutil.iter_modules(__path__):
    if _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "PRESETS", "Analyses", "Bound", "Changes", "Context", "Exact", "Match", "Outcome", "Pass",
    "PassManager", "PassRecord", "Pipeline", "Remark", "Report", "Rewrite", "RewriteBuilder",
    "Samples", "Within", "WithinSteps", "all_analyses", "all_passes", "analysis",
    "apply_rewrites", "bisect", "optimize", "parse_pipeline", "pass_class", "random_feeds",
    "read_reproducer", "register_pass", "register_preset", "replay", "write_reproducer",
]  # fmt: skip

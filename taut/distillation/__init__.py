"""Distillation: a student learns from a teacher. `taut.distill` is all of it."""

from __future__ import annotations

from . import cache as _cache
from . import joining as _joining
from . import train as _train
from .cache import Cache
from .joining import KINDS, Joined, passes_of


class Distill:
    """`taut.distill(student, teacher, data, kind=...)` trains a student; its attributes are the
    steps: `join` and `take_out` for a loop of one's own, `cache` and `load_cache` for a teacher
    that runs once.
    """

    __call__ = staticmethod(_train.distill)
    join = staticmethod(_joining.join)
    take_out = staticmethod(_joining.take_out)
    cache = staticmethod(_cache.cache)
    load_cache = staticmethod(_cache.load_cache)


distill = Distill()

__all__ = ["KINDS", "Cache", "Distill", "Joined", "distill", "passes_of"]

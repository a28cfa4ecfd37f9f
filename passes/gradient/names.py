"""Names at the boundary of a training step's graph.

An output `next.X` is what the input X takes at the next step: parameters, running statistics and
the optimizer's state alike, so that whoever runs the steps need not know what they are.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

NEXT = "next."
STATE = "optimizer."  # inputs that hold the optimizer's state: optimizer.momentum.fc1.weight
MASK = "mask."  # inputs bool that say which elements of a parameter are trained
KEEP = "keep."  # inputs bool that say what a dropout keeps
RATE = "learning_rate"  # input f32[]
STEP = "step"  # input i64[]: 1 at the first step


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name matches one of these patterns, in which `*` and `?` are wild."""
    return any(fnmatchcase(name, p) for p in patterns)

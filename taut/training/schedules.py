"""Learning-rate schedules: the share of the base rate at each step.

schedule := name [ "{" (option "=" number)* "}" ]      separated by spaces or commas
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from taut.ir import FeedError, ParseError


@dataclass(frozen=True)
class Schedule:
    """What the schedules share: over the first `warmup` steps the rate rises linearly to the base
    rate (P. Goyal and others, "Accurate, large minibatch SGD", 2017); the rest is the schedule's.
    """

    name: ClassVar[str] = ""
    warmup: int = 0

    def __call__(self, step: int, total: int, epoch_steps: int) -> float:
        """The factor for step 0 <= step < total, of which `epoch_steps` make an epoch."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.factor(step - self.warmup, max(total - self.warmup, 1), epoch_steps)

    def factor(self, step: int, total: int, epoch_steps: int) -> float:
        raise NotImplementedError

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if not math.isfinite(value) or value < 0 or (f.name in ("floor", "rise") and value > 1):
                raise FeedError(f"{self.name} has no {f.name} of {value}")

    def __str__(self) -> str:
        given = " ".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)
                         if getattr(self, f.name) != f.default)  # fmt: skip
        return f"{self.name}{{{given}}}" if given else self.name


@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    name = "constant"

    def factor(self, step: int, total: int, epoch_steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """factor^k after every k * `every` epochs."""

    name = "step"
    every: int = 10
    by: float = 0.1

    def factor(self, step: int, total: int, epoch_steps: int) -> float:
        return self.by ** (step // (max(self.every, 1) * max(epoch_steps, 1)))


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `floor` along half a cosine (I. Loshchilov and F. Hutter, "SGDR", 2017)."""

    name = "cosine"
    floor: float = 0.0

    def factor(self, step: int, total: int, epoch_steps: int) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * step / total)) / 2


@dataclass(frozen=True)
class Linear(Schedule):
    """From 1 to `floor` along a line."""

    name = "linear"
    floor: float = 0.0

    def factor(self, step: int, total: int, epoch_steps: int) -> float:
        return 1 - (1 - self.floor) * step / total


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From 1 / `start` up to 1 over the share `rise` of the steps, then down to 1 / `end`, both
    along half a cosine (L. Smith and N. Topin, "Super-convergence", 2019, in the form of PyTorch).
    """

    name = "one-cycle"
    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def factor(self, step: int, total: int, epoch_steps: int) -> float:
        top = self.rise * total
        low, share = (1 / self.start, step / top) if step < top else (
            1 / self.end, 1 - (step - top) / max(total - top, 1e-9)
        )  # fmt: skip
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    s.name: s for s in (Constant, Step, Cosine, Linear, OneCycle)
}

_TEXT = re.compile(r"([a-z-]{1,40})(?:\{([^{}]{0,400})\})?\Z")


def schedule(what: str | Schedule) -> Schedule:
    """The schedule of this text, `cosine{floor=0.01 warmup=100}`. Raises ParseError, FeedError."""
    if isinstance(what, Schedule):
        return what
    found = _TEXT.match(what.strip())
    if found is None or found[1] not in SCHEDULES:
        raise ParseError(f"{what[:80]!a} is no schedule",
                         hint=f"there are {', '.join(SCHEDULES)}")  # fmt: skip
    cls = SCHEDULES[found[1]]
    kinds = {f.name: type(f.default) for f in dataclasses.fields(cls)}
    given: dict[str, Any] = {}
    for item in (found[2] or "").replace(",", " ").split():
        name, _, value = item.partition("=")
        try:
            given[name] = kinds[name](value)
        except (KeyError, ValueError) as error:
            hint = f"it takes {', '.join(kinds)}, all numbers"
            raise ParseError(f"{item[:80]!a} is no option of {cls.name}", hint=hint) from error
    return cls(**given)

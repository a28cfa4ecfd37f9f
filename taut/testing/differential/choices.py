"""Decisions of a draw as a list of small numbers, so that a draw can be replayed and made smaller.

Everything random asks a `Choices`. What it answered is `.made`: handed in again as `replay` it
gives the same model, and with numbers lowered or left out a simpler one. 0 is always the simplest
answer, and what lies beyond the end of a replay is 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    def __init__(self, seed: int = 0, replay: Sequence[int] | None = None) -> None:
        self.random = random.Random(seed)
        self.replay = replay
        self.made: list[int] = []

    def below(self, n: int) -> int:
        """A number in [0, n)."""
        place = len(self.made)
        if self.replay is None:
            answer = self.random.randrange(n)
        else:
            answer = min(self.replay[place], n - 1) if place < len(self.replay) else 0
        self.made.append(answer)
        return answer

    def one(self, options: Sequence[T]) -> T:
        """One of `options`, of which the first is the simplest."""
        return options[self.below(len(options))]

    def flag(self, percent: int) -> bool:
        """True in `percent` of draws; False is the simpler answer."""
        return self.below(100) >= 100 - percent

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high]; `low` is the simplest."""
        return low + self.below(high - low + 1)

    def some(self, options: Sequence[T], least: int = 0) -> list[T]:
        """Some of `options`, at least so many, in a drawn order."""
        rest, found = list(options), []
        for _ in range(self.between(min(least, len(rest)), len(rest))):
            found.append(rest.pop(self.below(len(rest))))
        return found

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All of them; as they stand at the simplest."""
        rest, found = list(options), []
        while rest:
            found.append(rest.pop(self.below(len(rest))))
        return found


def simpler(made: Sequence[int]) -> Iterator[list[int]]:
    """Simpler lists of decisions to try, the boldest first: spans left out, spans and single ones
    set to 0, single ones halved and lowered by one."""
    n = len(made)
    width = max(n // 2, 1)
    while True:
        for start in range(0, n, width):
            part = made[start : start + width]
            yield [*made[:start], *made[start + width :]]
            if width > 1 and any(part):
                yield [*made[:start], *[0] * len(part), *made[start + width :]]
        if width == 1:
            break
        width //= 2
    for lower in (lambda v: 0, lambda v: v // 2, lambda v: v - 1):
        for place in range(n):
            if made[place] and lower(made[place]) < made[place]:
                yield [*made[:place], lower(made[place]), *made[place + 1 :]]

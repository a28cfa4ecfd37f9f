"""Affine functions of numbered loops: start + the sum of step * loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Affine:
    """start + the sum of step * axis over `terms`, which are (axis, step) in order of axes."""

    start: int = 0
    terms: tuple[tuple[int, int], ...] = ()

    def scaled(self, by: int, plus: int = 0) -> Affine:
        return Affine(self.start * by + plus, tuple((a, s * by) for a, s in self.terms))

    def __add__(self, other: Affine) -> Affine:
        steps = dict(self.terms)
        for a, s in other.terms:
            steps[a] = steps.get(a, 0) + s
        return Affine(self.start + other.start, tuple(sorted(steps.items())))

    @property
    def axes(self) -> frozenset[int]:
        return frozenset(a for a, _ in self.terms)


ZERO = Affine()


def axis(k: int) -> Affine:
    return Affine(0, ((k, 1),))

"""Index algebra: where an element is read, as affine functions of a loop nest's axes.

What an op reads follows from its relations (`moved`); here is what that needs: broadcasting, and a
function taken apart into mixed-radix digits, its multiples of a radix and a rest below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..affine import ZERO, Affine

Size = Any  # an int, a symbol, or any token that equals only itself


class NotNest(Exception):
    """The group is no loop nest; the message says why."""


class Refine(Exception):
    """An axis has to be cut first: `by` is the size of its inner part, or with `at` the place
    where it is cut in two."""

    def __init__(self, axis: int, by: int = 0, at: int = 0) -> None:
        super().__init__()
        self.axis, self.by, self.at = axis, by, at


Index = tuple[Affine, ...]


def bounds(f: Affine, size: Callable[[int], Size]) -> tuple[int, int]:
    """The least and the greatest value. Raises NotNest where a size is not a number."""
    low = high = f.start
    for a, s in f.terms:
        n = size(a)
        if not isinstance(n, int):
            raise NotNest("a size is not known")
        reach = s * max(n - 1, 0)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def broadcasted(index: Index, shape: Sequence[Size], to: Sequence[Size]) -> Index:
    """Where an operand of `shape` is read for element `index` of the result `to`."""
    out = []
    for n, m, f in zip(shape, to[len(to) - len(shape) :], index[len(to) - len(shape) :]):
        if n != m and n != 1:
            raise NotNest("shapes are not proven equal")
        out.append(ZERO if n == 1 else f)
    return tuple(out)


def apart(line: Affine, sizes: Sequence[Size], size: Callable[[int], Size]) -> list[Affine]:
    """One function as digits of these radices, the last one fastest."""
    out: list[Affine] = []
    for b in reversed(sizes[1:]):
        high: dict[int, int] = {}
        low: dict[int, int] = {}
        for a, s in line.terms:
            if s % b == 0:
                high[a] = s // b
                continue
            n = size(a)
            if not isinstance(n, int) or s < 0:
                raise NotNest("a reshape that is no affine view")
            if s * n > b and b % s == 0 and n % (b // s) == 0:
                raise Refine(a, by=b // s)
            low[a] = s
        start, rest = divmod(line.start, b)
        digit = Affine(rest, tuple(sorted(low.items())))
        if bounds(digit, size)[1] >= b:
            raise NotNest("a reshape that is no affine view")
        out.append(digit)
        line = Affine(start, tuple(sorted(high.items())))
    return [line, *reversed(out)]

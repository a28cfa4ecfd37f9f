"""Index algebra: where an element is read, as affine functions of a loop nest's axes.

transpose   permutes the functions of a tensor's axes
slice       start + step * f
reshape     (f, g) of sizes (., b) -> b * f + g when axes are merged; the other way round a
            function is divided into its multiples of b and a rest below b
"""

from __future__ import annotations

import math
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


def reshaped(
    index: Index, new: Sequence[Size], old: Sequence[Size], size: Callable[[int], Size]
) -> Index:
    """Where a tensor of shape `old` is read for element `index` of its reshape to `new`.

    Both shapes are cut into runs of equal products; each is put together to one number and taken
    apart again.
    """
    out: list[Affine] = [ZERO] * len(old)
    js = [j for j in range(len(new)) if new[j] != 1]
    ks = [k for k in range(len(old)) if old[k] != 1]
    while js or ks:
        if js and ks and new[js[0]] == old[ks[0]]:
            out[ks.pop(0)] = index[js.pop(0)]
            continue
        if js and ks and new[js[-1]] == old[ks[-1]]:
            out[ks.pop()] = index[js.pop()]
            continue
        run_j, run_k = _run([new[j] for j in js], [old[k] for k in ks])
        line = ZERO
        for j in js[:run_j]:
            line = line.scaled(new[j]) + index[j]
        parts = _apart(line, [old[k] for k in ks[:run_k]], size)
        for k, part in zip(ks[:run_k], parts):
            out[k] = part
        js, ks = js[run_j:], ks[run_k:]
    return tuple(out)


def _run(new: list[Size], old: list[Size]) -> tuple[int, int]:
    """How many leading sizes on each side have the same product."""
    i = j = 1
    while i <= len(new) and j <= len(old):
        if not all(isinstance(n, int) and n > 0 for n in (*new[:i], *old[:j])):
            break
        a, b = math.prod(new[:i]), math.prod(old[:j])
        if a == b:
            return i, j
        i, j = (i + 1, j) if a < b else (i, j + 1)
    raise NotNest("a reshape over sizes that are not known")


def _apart(line: Affine, sizes: list[int], size: Callable[[int], Size]) -> list[Affine]:
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

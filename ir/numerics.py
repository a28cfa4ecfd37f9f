"""What ops promise of numbers at the edges: NaN, infinities, zeros, the smallest, ties, overflow.

Every op declares one of these (`Op.numerics`), mostly by its base class. The NumPy reference keeps
all of it; a compiled program keeps it but for what `free` names, and the contract test holds it to
that (tests/backends/cpu/test_special_values.py). docs/numerics.md is the table of all ops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FREE = {
    "sign": "a zero may have the other sign",
    "subnormal": "a result below the least normal number may be 0",
    "rounding": "a few units in the last place of the largest number in the formula",
    "cancels": "the formula subtracts numbers as large as its operand, in whose units rounding "
               "counts",
    "order": "sums are made in another order, so that rounding differs, and the result where a "
             "partial sum overflows",
}  # fmt: skip


@dataclass(frozen=True)
class Numerics:
    """The promise in words, a few each, and what a compiled program is free in (keys of FREE).

    An empty text: the question does not arise. An op with no freedom is exact.
    """

    nan: str = ""
    infinity: str = ""
    ties: str = ""
    overflow: str = ""
    free: tuple[str, ...] = ()
    spreads: tuple[str, ...] = ()
    """Operands that are not constant whose NaN and infinities may reach more of a compiled result
    (they meet zeros that stand between or around elements)."""

    def __post_init__(self) -> None:
        unknown = set(self.free) - FREE.keys()
        if unknown:
            raise ValueError(f"{sorted(unknown)} are none of {', '.join(FREE)}")

    def but(self, **changes: Any) -> Numerics:
        """This promise with other words for some of it."""
        return dataclasses.replace(self, **changes)

    def lines(self) -> list[tuple[str, str]]:
        """(what, promise) for people."""
        rows = [(name, getattr(self, name)) for name in ("nan", "infinity", "ties", "overflow")]
        reach = "NaN and infinities of {} reach more of the result, unless it is constant"
        freedom = "; ".join([*(FREE[f] for f in self.free), *map(reach.format, self.spreads)])
        return [(name, text) for name, text in (*rows, ("compiled", freedom)) if text]


STRUCTURE = Numerics()
"""No numbers of its own: sizes, structure, control."""

MOVES = Numerics(nan="kept", infinity="kept")
"""Elements go elsewhere, bit for bit."""

ARITHMETIC = Numerics(
    nan="stays NaN", infinity="IEEE 754 (inf - inf and 0 * inf are NaN)", ties="to even",
    overflow="to infinity; integers wrap",
)  # fmt: skip
"""One IEEE operation, correctly rounded; signed zeros and subnormal numbers are as in IEEE 754."""

EXTREMES = Numerics(nan="stays NaN", infinity="ordered", free=("sign",))
"""The larger or smaller of numbers. Which of 0 and -0 that is, is not said."""

FUNCTION = Numerics(
    nan="stays NaN", infinity="the limit; NaN where there is none",
    overflow="to infinity", free=("rounding", "sign", "subnormal"),
)  # fmt: skip
"""A function that is approximated, or a formula of several operations."""

ROUNDING = Numerics(nan="stays NaN", infinity="kept")
"""A step or a change of sign: exact."""

COMPARISON = Numerics(nan="false", infinity="ordered; 0 equals -0")
"""A bool of two numbers."""

LOGIC = Numerics()
"""Of bools or bits."""

SUMS = Numerics(
    nan="stays NaN", infinity="IEEE 754 (inf - inf and 0 * inf are NaN)",
    overflow="to infinity; integers wrap", free=("order", "sign", "subnormal"),
)  # fmt: skip
"""Sums of many terms: products of matrices, convolutions, means."""

NORMALIZATION = Numerics(
    nan="makes its whole group NaN", infinity="makes its whole group NaN",
    overflow="squares that overflow make the group 0 or NaN",
    free=("order", "sign", "subnormal"),
)  # fmt: skip
"""Numbers less their mean, over their spread."""

QUANTIZATION = Numerics(
    nan="the zero point", infinity="the least or greatest integer", ties="to even",
    overflow="saturates",
)  # fmt: skip
"""Reals to integers: exact."""

CANCELS = FUNCTION.but(free=("rounding", "cancels", "sign", "subnormal"))
"""A function in whose formula 1 or x meets what is nearly -1 or -x: near its zeros the result has
few bits."""

INTEGER = Numerics(overflow="wraps modulo 2^32")
"""Sums and products of small integers in int32: exact."""

CHOICE = Numerics(nan="counts as the extreme one", infinity="ordered", ties="the first")
"""The place of an element."""


def table(ops: Iterable[tuple[str, Numerics | None]]) -> str:
    """The promises as a Markdown table: a row for all ops that make the same one."""
    rows: dict[Numerics, list[str]] = {}
    for name, promise in ops:
        if promise is not None and promise.lines():
            rows.setdefault(promise, []).append(f"`{name}`")
    lines = ["| ops | NaN | infinity | ties | overflow | compiled |", "|" + " --- |" * 6]
    for p, names in sorted(rows.items(), key=lambda row: row[1][0]):
        free = ", ".join((*p.free, *(f"spreads {name}" for name in p.spreads))) or "exact"
        cells = (", ".join(names), p.nan, p.infinity, p.ties, p.overflow, free)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"

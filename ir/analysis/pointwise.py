"""Which ops work on each element by itself, read from their axis signatures."""

from __future__ import annotations

import re
from functools import cache

from ..op import Op

_TERM = re.compile(r"\w+\[([^\]]*)\]")


@cache
def operand_kinds(cls: type[Op]) -> tuple[str, ...] | None:
    """For an element-wise op with one result, "full" or "scalar" for each operand; else None."""
    left, arrow, right = cls.axes.partition("->")
    if not arrow or _TERM.findall(right) != ["..."]:
        return None
    kinds = {"...": "full", "": "scalar"}
    found = tuple(kinds.get(t, "other") for t in _TERM.findall(left))
    whole = "other" not in found and "full" in found and cls.pure
    by_axis = any(a.name == "axis" for a in cls.attributes)
    return found if whole and not by_axis else None

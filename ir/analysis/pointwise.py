"""Which ops work on each element by itself, by their axis signatures."""

from __future__ import annotations

from functools import cache

from ..op import Op


def is_pointwise(cls: type[Op]) -> bool:
    """Whether each element of a result is a function of one element of each operand, of which the
    op has a fixed number."""
    return (
        cls.signature is not None
        and cls.signature.pointwise
        and not any(o.variadic for o in cls.operands)
    )


@cache
def operand_kinds(cls: type[Op]) -> tuple[str, ...] | None:
    """For an element-wise op, "full" or "scalar" for each operand; else None."""
    by_axis = any(a.name == "axis" for a in cls.attributes)
    if cls.signature is None or not is_pointwise(cls) or by_axis or not cls.pure:
        return None
    return tuple("full" if t.is_full else "scalar" for t in cls.signature.operands)

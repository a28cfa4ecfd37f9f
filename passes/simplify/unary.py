"""Which ops take one tensor, element by element."""

from __future__ import annotations

from ...ir import Op, all_ops
from ...ir.analysis.pointwise import operand_kinds


def is_unary(cls: type[Op]) -> bool:
    """Whether the op takes one tensor, element by element, and nothing else."""
    return operand_kinds(cls) == ("full",)


def unary() -> list[type[Op]]:
    """The ops that do."""
    return [c for c in all_ops() if is_unary(c)]

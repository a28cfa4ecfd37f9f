"""Which ops take one tensor, element by element."""

from __future__ import annotations

from ...ir import Op, ops_where
from ...ir.analysis.pointwise import operand_kinds


def is_unary(cls: type[Op]) -> bool:
    """Whether the op takes one tensor, element by element, and nothing else."""
    return operand_kinds(cls) == ("full",)


def unary() -> tuple[type[Op], ...]:
    """The ops that do."""
    return ops_where(is_unary)

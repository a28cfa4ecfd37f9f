"""What an importer cannot take, found before anything is built, as one error."""

from __future__ import annotations

from typing import NamedTuple

from ..ir import UnsupportedError
from ..ir.errors import show_name

_SHOWN = 8


class NotCarried(UserWarning):
    """Something of a model that an importer leaves out, though results are as they should be where
    the model's own assumptions hold."""


class Unsupported(NamedTuple):
    """One node (or input) that cannot be imported."""

    node: str
    op: str
    reason: str


class UnsupportedOps(UnsupportedError):
    """Lists every unsupported op of a model with its nodes; `found` has them all."""

    def __init__(self, found: list[Unsupported], hint: str = "`taut ops` lists what can") -> None:
        by_op: dict[tuple[str, str], list[str]] = {}
        for node, op, reason in found:
            by_op.setdefault((op, reason), []).append(node)
        parts = []
        for (op, reason), nodes in by_op.items():
            names = ", ".join(show_name(n) for n in nodes[:_SHOWN])
            more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
            parts.append(f"{op} ({reason}): {names}{more}")
        count = f"{len(found)} node{'s' * (len(found) > 1)}"
        super().__init__(f"{count} cannot be imported: " + "; ".join(parts), hint=hint)
        self.found = found

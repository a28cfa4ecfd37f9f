"""Which functions lower an op: each file of this folder registers its own.

Of several handlers for one op that of the highest priority is asked first; two of the same priority
are an error, so that no order of imports decides.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

Handler = Callable[[Any, Any], bool]
"""Called with the Lowering and the node; it returns False to decline before it has emitted
anything."""

H = TypeVar("H", bound=Handler)

GROUP = "(group)"  # handlers of a group's last node, whatever its op; they are asked first
HANDLERS: dict[str, dict[int, Handler]] = {}


def lowers(*ops: str, priority: int = 0) -> Callable[[H], H]:
    """Register a handler for ops by name. Raises ValueError where one of them has a handler of
    this priority."""

    def register(handler: H) -> H:
        for op in ops:
            found = HANDLERS.setdefault(op, {})
            if priority in found:
                raise ValueError(f"{op} has two handlers of priority {priority}")
            found[priority] = handler
            HANDLERS[op] = dict(sorted(found.items(), reverse=True))
        return handler

    return register


def handlers(op: str, *, grouped: bool) -> list[Handler]:
    """The handlers of an op in the order they are asked; of a group's last node if `grouped`."""
    own = HANDLERS.get(op, {}).values()
    return [*HANDLERS[GROUP].values(), *own] if grouped else [*own]


def discover() -> None:
    """Import every file of this folder."""
    package, _, _ = __name__.rpartition(".")
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")

"""Kernels by name: which function makes the code of one, and from what parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """One variant of a kernel: `build(target, **parameters)` returns its code, in
    whatever form the backend compiles.

    `name` is an identifier, unique for (build, parameters); the emitter calls it by this name.
    """

    name: str
    build: Callable[..., Any]
    parameters: tuple[tuple[str, object], ...] = ()

    @staticmethod
    def of(build: Callable[..., Any], **parameters: object) -> Kernel:
        """The kernel that `build` makes of `parameters`; its name spells them."""
        tail = "".join(f"_{_spell(v)}" for v in parameters.values())
        return Kernel(build.__name__ + tail, build, tuple(parameters.items()))


def exact(value: object) -> str:
    """`value` with all of its fields, as text: what names and keys are made of. A dataclass's own
    `repr` will not do, since it notes whom it is at work on: one that an interrupt cut off says
    "..." for that place in memory from then on, whatever stands there."""
    if is_dataclass(value):
        inside = [exact(getattr(value, f.name)) for f in fields(value)]
        return f"{type(value).__name__}({', '.join(inside)})"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(exact, value))},)"
    return repr(value)


def _spell(value: object) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    return str(value)

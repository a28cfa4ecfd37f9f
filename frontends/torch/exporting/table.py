"""The table of the IR's ops as functions of PyTorch, and what each function gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....ir import Abstract, DType, Op, Trait, UnsupportedError
from ....ir.ops.fusion import Fusion
from ....ir.ops.integer import Lookup, Requantize
from ..tensors import torch_dtype


@dataclass(frozen=True)
class Step:
    """One node to run. `operands` is what inference knows of its operands, `dtypes` the element
    types of its results."""

    name: str
    op: Any  # its attributes are read by the op's own function
    operands: tuple[Abstract | None, ...]
    dtypes: tuple[DType, ...]
    training: bool = False

    def ints(self, x: Tensor, place: int) -> list[int]:
        """The whole numbers in operand `place`, from the graph where it says them."""
        known = self.operands[place]
        found = None if known is None else known.as_ints()
        return list(found) if found is not None else [int(v) for v in x.reshape(-1).tolist()]

    def number(self, x: Tensor, place: int) -> float:
        """The one number in operand `place`."""
        known = self.operands[place]
        if known is not None and known.value is not None:
            return float(known.value.reshape(()))
        return float(x.reshape(()))

    @property
    def dtype(self) -> torch.dtype:
        return torch_dtype(self.dtypes[0])


Forward = Callable[..., Any]
FORWARD: dict[str, Forward] = {}
"""Functions by the op's text name: `f(step, *operands)` gives a tensor or a tuple of them."""


def computes(*ops: str) -> Callable[[Forward], Forward]:
    def add(f: Forward) -> Forward:
        for op in ops:
            assert op not in FORWARD, op
            FORWARD[op] = f
        return f

    return add


def plain(function: Callable[..., Tensor], *ops: str) -> None:
    """Ops that are a function of their operands, without attributes."""
    computes(*ops)(lambda step, *xs: function(*xs))


def real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


Refusal = Callable[[Step], str | None]
REFUSED: dict[str, list[Refusal]] = {}
"""What functions of the table cannot do of their op, known from a step before it runs."""


def refuses(*ops: str) -> Callable[[Refusal], Refusal]:
    """Register a function that says what of a step is not supported, or None."""

    def add(f: Refusal) -> Refusal:
        for op in ops:
            REFUSED.setdefault(op, []).append(f)
        return f

    return add


def check(step: Step) -> None:
    """Raises UnsupportedError for a step that cannot be run."""
    op: Op = step.op
    for refused in REFUSED.get(op.name, ()):
        reason = refused(step)
        if reason is not None:
            raise UnsupportedError(f"{reason} has no form in PyTorch yet")
    if op.name in FORWARD:
        return
    if isinstance(op, Fusion):
        raise UnsupportedError("is a fused group", hint="run the pass inline-fusions before")
    whole = (
        (op.weighted is not None and op.weighted.integer)
        or Trait.INTEGER_PRODUCT in op.traits
        or isinstance(op, Requantize | Lookup)
    )
    raise UnsupportedError(
        "computes on integers and has no gradient" if whole else "has no form in PyTorch yet",
        hint="take the graph before lower-integer" if whole else "docs/torch.md lists what has",
    )

"""The ops every graph has: inputs, constants and the return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import VerifyError
from ..numerics import MOVES
from ..op import Abstract, Array, Inferred, Op, register
from ..types import TensorType


@register
@dataclass(frozen=True)
class Input(Op):
    """A value handed in by the caller."""

    numerics = MOVES
    onnx = None
    pure = False

    def infer(self) -> Inferred:
        raise VerifyError("an input's type is declared, not inferred")


@register
@dataclass(frozen=True, eq=False)
class Constant(Op):
    """A tensor that is part of the program; its array is read-only."""

    numerics = MOVES
    onnx = None  # the importer turns each of ONNX's forms into an array
    value: np.ndarray[Any, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value.flags.writeable:
            view = self.value.view()
            view.flags.writeable = False
            object.__setattr__(self, "value", view)

    def infer(self) -> Inferred:
        return Abstract(TensorType.of(self.value), self.value)

    def reference(self) -> Array:
        return self.value


@register
@dataclass(frozen=True)
class Return(Op):
    """What the graph returns, under these names."""

    numerics = MOVES
    onnx = None
    results = ()
    pure = False
    names: tuple[str, ...] = ()

    def infer(self, *values: Abstract) -> Inferred:
        return ()

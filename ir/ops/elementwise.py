"""Element-wise ops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import VerifyError
from ..op import Abstract, Array, Inferred, Op, register
from ..types import TensorType, broadcast


@dataclass(frozen=True)
class Binary(Op):
    """Two operands of one element type, broadcast as NumPy does."""

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        if a.dtype is not b.dtype:
            raise VerifyError(f"operands are {a.type} and {b.type}, which differ in element type")
        return TensorType(a.dtype, broadcast(a.shape, b.shape))


@register
@dataclass(frozen=True)
class Add(Binary):
    """a + b"""

    def reference(self, a: Array, b: Array) -> Array:
        return np.add(a, b)


@register
@dataclass(frozen=True)
class Relu(Op):
    """max(x, 0)"""

    def infer(self, x: Abstract) -> Inferred:
        return x.type

    def reference(self, x: Array) -> Array:
        return np.maximum(x, np.zeros((), x.dtype))

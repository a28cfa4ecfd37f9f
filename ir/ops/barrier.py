"""An identity that no pass looks through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..numerics import MOVES
from ..op import Abstract, Array, Inferred, Op, register

if TYPE_CHECKING:
    from ..build import Builder


@register
@dataclass(frozen=True)
class OptimizationBarrier(Op):
    """x, which passes take for another value than x: what is computed from it is not merged with
    what is computed from x, nor moved before it. Recomputed activations stand behind one.
    """

    numerics = MOVES
    onnx = None
    axes = "x[...] -> y[...]"
    pure = False

    def infer(self, x: Abstract) -> Inferred:
        return x.type

    def reference(self, x: Array) -> Array:
        return x

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (gradients[0],)

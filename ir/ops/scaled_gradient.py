"""An identity whose gradient is scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import VerifyError
from ..numerics import MOVES
from ..op import Abstract, Array, Inferred, Op, register
from .common import check_float, check_same

if TYPE_CHECKING:
    from ..build import Builder


@register
@dataclass(frozen=True)
class ScaleGradient(Op):
    """x, whose gradient is multiplied by `factor` (of x's shape, or a scalar).

    The size of a quantizer's step has a gradient that is a sum over all elements, far larger beside
    its value than the gradients of weights are beside theirs; LSQ evens that out (S. Esser and
    others, "Learned step size quantization", 2020, section 2.2). A constant that is read through
    this op is a parameter whatever its size. No pass folds the op, and so nothing that depends on
    it: what is still trained stays.
    """

    numerics = MOVES
    onnx = None
    axes = "x[...] factor[...] -> y[...]"
    settings = ("factor",)
    pure = False

    def infer(self, x: Abstract, factor: Abstract) -> Inferred:
        check_float(x, "x")
        check_same(x, factor)
        if factor.shape not in ((), x.shape):
            raise VerifyError(f"the factor is {factor.type}, neither a scalar nor like {x.type}")
        return x.type

    def reference(self, x: Array, factor: Array) -> Array:
        return x

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return b.mul(gradients[0], operands[1]), None

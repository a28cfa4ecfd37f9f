"""What fused layers do to a result before it is stored: a residual sum, then an activation.

An activation is named: an element-wise op of one operand, with `params` its attributes (floats) in
declared order; `clip`, with params low and high; `gelu_tanh`, gelu in its tanh form; "" is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import Dependences
from ..errors import UnsupportedError, VerifyError
from ..op import Array, Op, op_class
from ..relate import rejoined
from .activation import Gelu

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


def activation_op(name: str, params: tuple[float, ...]) -> Op | None:
    """The activation as an op; None for none and for clip, whose bounds are operands.

    Raises VerifyError where there is no such activation with such params.
    """
    if name == "clip":
        if len(params) != 2:
            raise VerifyError("the activation clip wants params [low, high]")
        return None
    if name == "":
        if params:
            raise VerifyError("params are given without an activation")
        return None
    if name == "gelu_tanh" and not params:
        return Gelu("tanh")
    try:
        cls = op_class(name)
    except UnsupportedError as error:
        raise VerifyError(f"activation {name!a} is no op") from error
    names = [a.name for a in cls.attributes if a.kind == "float"]
    unary = [o.name for o in cls.operands] == ["x"]
    one_float = unary and cls.signature is not None and cls.signature.operands[0].is_full
    others = len(cls.attributes) > len(names) and cls is not Gelu
    if not one_float or others or len(params) > len(names):
        raise VerifyError(f"activation {name!a} does not take {params}")
    given: dict[str, Any] = dict(zip(names, params))
    return cls(**given)


def activate(y: Array, name: str, params: tuple[float, ...]) -> Array:
    """The activation of an array, in the array's type."""
    if name == "clip":
        low, high = np.asarray(params, y.dtype)
        return np.minimum(np.maximum(y, low), high)
    op = activation_op(name, params)
    return y if op is None else op.reference(y)


def activated(b: Builder, y: Value, name: str, params: tuple[float, ...]) -> Value:
    """The activation as nodes."""
    if name == "clip":
        return b.clip(y, *(b.number(v, y) for v in params))
    op = activation_op(name, params)
    return y if op is None else b.add_op(op, y)


def ended(activation: str, found: Dependences) -> Dependences:
    """The dependence of an op whose sums go through an activation: partial ones cannot."""
    return rejoined(found, "activated sum") if activation else found

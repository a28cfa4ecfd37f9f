"""What follows a float32 convolution or product: an activation, in the tile or by a map."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ....ir import Array, DType
from ....ir.ops.epilogue import activation_op
from ...schedule.layout import Tensor
from ...schedule.templates import TEMPLATES
from ..codegen.emit_math import ACTIVATIONS
from . import generic
from .generic import Leaf
from .lowering import Lowering


@dataclass
class Ending:
    """`activation` names a function of the tile with parameters low and high; where there is none,
    `text` of a0, with further scalars, is a map over the result."""

    activation: str = "clamp"
    low: float = -np.inf
    high: float = np.inf
    text: str = "a0"
    scalars: list[tuple[Any, DType]] = field(default_factory=list)
    name: str = "identity"
    slope: Array | None = None  # of prelu: one number, or one a channel

    @property
    def is_plain(self) -> bool:
        """Whether the tile has nothing to do at its end."""
        return (self.activation, self.low, self.high) == ("clamp", -np.inf, np.inf)

    def by_map(self, low: Lowering, out: Tensor, nodes: tuple[str, ...]) -> None:
        """What the tile has not done, in place."""
        if self.text == "a0":
            return
        leaves = [Leaf(out), *(low.scalar(value, kind) for value, kind in self.scalars)]
        text = self.text.format(*(f"a{i}" for i in range(len(leaves))))
        low.emit(generic.map_step(text, self.name, out, leaves, low.threads, nodes))


def ending_of(op: Any, slope: Array | None = None) -> Ending | None:
    """The ending of an op with `activation` and `params` (and prelu's known `slope`); None where
    there is no kernel for it."""
    name = getattr(op, "activation", "")  # a plain convolution has none
    match name:
        case "":
            return Ending()
        case "relu":
            return Ending(low=0.0, high=np.inf)
        case "clip":
            return Ending(low=float(op.params[0]), high=float(op.params[1]))
        case "prelu":
            return None if slope is None else Ending("prelu", slope=slope)
    one = activation_op(name, op.params)
    assert one is not None
    if name in ACTIVATIONS:
        values = (getattr(one, f.name) for f in fields(one))
        first, second, *_ = *(v for v in values if isinstance(v, float)), 0.0, 0.0
        return Ending(name, first, second)
    template = TEMPLATES.get(name)
    made = template(one, [DType.f32], DType.f32) if template else None
    return None if made is None else Ending(text=made[0], scalars=made[1], name=name)

"""Functions of one number: which nodes are such, and how to compute them on arrays.

A node is a function of one element when it is an element-wise op with one operand that is not a
constant, and constants of one element for the others: relu(x), clip(x, 0, 6), x * 0.5, 3 + x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import DType, Graph, Node, Op, Value
from ...ir.op import Array
from ...ir.ops.activation import Clip, PRelu, Relu
from ...ir.ops.elementwise import Add, Div, Max, Min, Mul, Pow, Sub, Sum
from ...ir.ops.epilogue import activation_op
from ...ir.ops.shape import Identity
from ...ir.ops.unary import Unary

ARITHMETIC = (Add, Sub, Mul, Div, Pow, Max, Min, Sum)
OTHERS = (Clip, PRelu, Identity)


@dataclass(frozen=True)
class Step:
    """One such node: `position` is where the element goes, `constants` the other operands."""

    op: Op
    position: int = 0
    constants: tuple[Array | None, ...] = ()

    def __call__(self, x: Array) -> Array:
        operands = list(self.constants)
        operands.insert(self.position, x)
        with np.errstate(all="ignore"):
            return np.asarray(self.op.reference(*operands)).reshape(x.shape)

    def interval(self) -> tuple[float, float] | None:
        """(low, high) if this is min(max(x, low), high)."""
        if isinstance(self.op, Relu):
            return 0.0, np.inf
        if isinstance(self.op, Identity):
            return -np.inf, np.inf
        values = [None if c is None else float(c.reshape(-1)[0]) for c in self.constants]
        if isinstance(self.op, Clip) and self.position == 0:
            low, high = ([*values, None, None])[:2]
            return (-np.inf if low is None else low), (np.inf if high is None else high)
        if isinstance(self.op, Max | Min) and len(values) == 1 and values[0] is not None:
            return (values[0], np.inf) if isinstance(self.op, Max) else (-np.inf, values[0])
        return None


Function = Callable[[Array], Array]


def step_of(graph: Graph, node: Node) -> tuple[Step, Value] | None:
    """The function that this node is, and the value it is applied to; None if it is none."""
    op = node.op
    if len(node.results) != 1:
        return None
    if isinstance(op, Unary):
        (x,) = graph.operands(node)
        return None if x is None else (Step(op), x)
    if not isinstance(op, ARITHMETIC + OTHERS):
        return None
    operands = graph.operands(node)
    moving = [(i, v) for i, v in enumerate(operands) if v is not None and v.array is None]
    if len(moving) != 1:
        return None
    position, x = moving[0]
    rest = [None if v is None else v.array for v in operands if v != x]
    widens = x.type.shape is None and any(a is not None and a.ndim for a in rest)
    if any(a is not None and a.size != 1 for a in rest) or x.type.shape != node.type.shape \
            or widens:  # fmt: skip
        return None
    return Step(op, position, tuple(rest)), x


def fused_step(activation: str, params: tuple[float, ...]) -> Step | None:
    """The activation of a fused convolution as a step; None where it has none."""
    if not activation:
        return None
    if activation == "clip":
        bounds = (np.asarray(p, np.float32) for p in params)
        return Step(Clip(), 0, tuple(bounds))
    op = activation_op(activation, params)
    return None if op is None else Step(op)


def interval(steps: Sequence[Step]) -> tuple[float, float] | None:
    """(low, high) if the steps together are min(max(x, low), high)."""
    low, high = -np.inf, np.inf
    for step in steps:
        bounds = step.interval()
        if bounds is None:
            return None
        low, high = max(low, bounds[0]), max(high, bounds[0])
        low, high = min(low, bounds[1]), min(high, bounds[1])
    return float(low), float(high)


def composed(steps: Sequence[Step]) -> Function:
    """All steps, the first applied first, in single precision as the graph itself does it."""

    def run(x: Array) -> Array:
        for step in steps:
            x = step(x)
        return x

    return run


def output_bounds(step: Step) -> tuple[float, float]:
    """A range that the step's float results cannot leave."""
    low, high = step.interval() or step.op.results_within(DType.f32)
    return float(low), float(high)

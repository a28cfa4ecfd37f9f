"""What an op's results have in common with its operands: properties that passes rely on.

They stand in the op's declaration, each in one place: `Op.traits` is a set of plain properties,
`Op.monotone`, `Op.within`, `Op.moves` and `Op.weighted` are small records. A test holds all of them
to the NumPy reference (tests/ir/ops/test_traits.py), so no pass needs a list of op names.

A record may hold for some attributes only: `when` says for which. A class then *may* be monotone,
which is what a pattern asks for, and an op *is* (`Monotone.holds`), which is what a check asks for.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

Condition = Callable[[Any], bool]


def always(op: object) -> bool:
    return True


class Trait(enum.Flag):
    """Properties that need no numbers; an op has any union of them."""

    COMMUTATIVE = enum.auto()
    """f(a, b) = f(b, a), bit for bit (but for the sign of a zero, where numerics leave it free)."""
    ASSOCIATIVE = enum.auto()
    """f(f(a, b), c) = f(a, f(b, c)); of floats, sums and products to within rounding."""
    IDEMPOTENT = enum.auto()
    """f(f(x)) = f(x)."""
    INVOLUTION = enum.auto()
    """f(f(x)) = x."""
    HOMOGENEOUS = enum.auto()
    """f(s * x) = s * f(x) for s > 0, in the first operand."""
    AVERAGES = enum.auto()
    """Every element of the result lies between the least and the greatest of the first operand's
    elements (padding that counts as 0 among them)."""
    ACTIVATION = enum.auto()
    """An activation of one operand, set by floats alone: fused layers end in it by name."""
    RANDOM = enum.auto()
    """It stands for a random draw, which training makes."""
    INTEGER_PRODUCT = enum.auto()
    """Sums of products of small integers, exact in int32: what quantization is for."""


NONE = Trait(0)


class Direction(enum.Enum):
    """How the results of a function of one element go as the element grows."""

    INCREASING = "increasing"
    DECREASING = "decreasing"
    TURNING = "falls, then rises"


@dataclass(frozen=True)
class Monotone:
    """An element-wise op in its first operand, between `low` and `high`: never the other way, but
    for rounding. Beyond them it is undefined (NaN), and NaN stays NaN."""

    direction: Direction
    low: float = -math.inf
    high: float = math.inf
    when: Condition = always

    def holds(self, op: object, direction: Direction = Direction.INCREASING) -> bool:
        """Whether the op goes in this direction over all real numbers."""
        whole = self.low == -math.inf and self.high == math.inf
        return whole and self.direction is direction and self.when(op)

    def on(self, low: float = -math.inf, high: float = math.inf) -> Monotone:
        """The same between other ends."""
        return replace(self, low=low, high=high)

    def where(self, condition: Condition) -> Monotone:
        """The same for ops that fulfil a condition."""
        return replace(self, when=condition)

    def __str__(self) -> str:
        ends = f" on [{self.low:g}, {self.high:g}]"
        some = "" if self.when is always else ", depending on attributes"
        return self.direction.value + ("" if self.on() == self else ends) + some


INCREASING = Monotone(Direction.INCREASING)
DECREASING = Monotone(Direction.DECREASING)
TURNING = Monotone(Direction.TURNING)

Interval = tuple[float, float]
REALS: Interval = (-math.inf, math.inf)
UNIT: Interval = (0.0, 1.0)
SIGNED_UNIT: Interval = (-1.0, 1.0)
NON_NEGATIVE: Interval = (0.0, math.inf)


@dataclass(frozen=True)
class Moves:
    """Data movement: every element of the results is one of these operands' elements, and which
    one does not depend on what they are. So it may change places with any function of one
    element."""

    operands: tuple[str, ...] = ("x",)
    when: Condition = always

    def holds(self, op: object) -> bool:
        """Whether an op with these attributes only moves elements."""
        return self.when(op)

    def __str__(self) -> str:
        some = "" if self.when is always else ", depending on attributes"
        return ", ".join(self.operands) + some


@dataclass(frozen=True)
class WeightedLayer:
    """A product of data with a weight: y = data * weight + bias, summed over the input channels.

    data, weight, bias   names of the operands; bias "" where there is none
    integer              whether the weight is of small integers

    The others follow from the op's axis signature when it is registered:

    outputs, inputs      axes of the weight that count output and input channels
    grouped              which of the two is of one group only ("outputs", "inputs" or "")
    channels             the axis of the result that counts output channels
    transposed           the attribute, if any, that swaps the weight's two axes

    Negative axes count from the end: a matrix product has further axes before.
    """

    data: str = "x"
    weight: str = "weight"
    bias: str = "bias"
    integer: bool = False
    outputs: int = 0
    inputs: int = 1
    grouped: str = ""
    channels: int = 1
    transposed: str = ""

    def axes(self, op: object) -> tuple[int, int]:
        """(outputs, inputs) for an op with these attributes."""
        turned = bool(self.transposed) and bool(getattr(op, self.transposed))
        return (self.inputs, self.outputs) if turned else (self.outputs, self.inputs)

    def __str__(self) -> str:
        bias = f", bias {self.bias}" if self.bias else ""
        swap = f" (swapped by {self.transposed})" if self.transposed else ""
        return (f"weight {self.weight} with output channels along axis {self.outputs} and input "
                f"channels along axis {self.inputs}{swap}{bias}; channels along axis "
                f"{self.channels} of the result")  # fmt: skip


MATRIX = WeightedLayer("a", "b", "")
"""A matrix product without a bias."""

CONVOLUTION = WeightedLayer()


def lines(cls: Any) -> Iterator[tuple[str, str]]:
    """(trait, what is said of it) of an op class, for people."""
    for trait in Trait:
        if trait in cls.traits:
            yield str(trait.name).lower().replace("_", " "), ""
    for name in ("monotone", "moves", "weighted"):
        if getattr(cls, name) is not None:
            yield name, str(getattr(cls, name))
    if cls.within != REALS:
        yield "results within", "[{:g}, {:g}]".format(*cls.within)

"""Bits of integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dependence import Dependences
from ..errors import VerifyError
from ..numerics import LOGIC, MOVES
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..packing import narrow
from ..relate import pointwise
from ..traits import Trait
from ..types import DType
from .common import cast, check_choice, check_integer
from .elementwise import Binary


@dataclass(frozen=True)
class Bitwise(Binary):
    """Two integers of one element type."""

    numerics = LOGIC

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_integer(a)
        return super().infer(a, b)


@register
@dataclass(frozen=True)
class BitwiseAnd(Bitwise):
    """a & b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.bitwise_and


@register
@dataclass(frozen=True)
class BitwiseOr(Bitwise):
    """a | b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.bitwise_or


@register
@dataclass(frozen=True)
class BitwiseXor(Bitwise):
    """a ^ b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.bitwise_xor


@register
@dataclass(frozen=True)
class BitwiseNot(Op):
    """~x"""

    traits = Trait.INVOLUTION
    numerics = LOGIC
    axes = "x[...] -> y[...]"

    def infer(self, x: Abstract) -> Inferred:
        check_integer(x)
        return x.type

    def reference(self, x: Array) -> Array:
        return cast(np.bitwise_not(x), DType.of(x))  # NumPy makes i8 of i4 and the like


@register
@dataclass(frozen=True)
class BitShift(Binary):
    """a << b, or a >> b, which extends the sign; where b is negative or the width or more, all bits
    are shifted out
    """

    numerics = LOGIC.but(
        overflow="bits shifted out are lost; places beyond the width give 0, or -1",
    )
    direction: str

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_choice(self.direction, ("LEFT", "RIGHT"), "direction")
        check_integer(a)
        return super().infer(a, b)

    def reference(self, a: Array, b: Array) -> Array:
        bits = a.dtype.itemsize * 8
        out = (b < 0) | (b >= bits)
        by = np.where(out, 0, b).astype(a.dtype)
        if self.direction == "RIGHT":
            beyond = np.where(a < 0, -1, 0).astype(a.dtype)  # u64 beside i64 would be a float
            return np.where(out, beyond, np.right_shift(a, by))
        return np.where(out, np.zeros((), a.dtype), np.left_shift(a, by))


@register
@dataclass(frozen=True)
class BitCast(Op):
    """The same bits as elements of another type of the same width"""

    numerics = MOVES
    to: DType

    def infer(self, x: Abstract) -> Inferred:
        if x.dtype.bits != self.to.bits:
            raise VerifyError(f"{x.dtype.value} and {self.to.value} differ in width")
        return x.type.with_dtype(self.to)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return pointwise(operands, results)

    def reference(self, x: Array) -> Array:
        if self.to is DType.bool:
            return x.view(np.uint8) != 0
        bits = np.ascontiguousarray(x).reshape(x.shape)
        small = self.to.bits < 8
        return narrow(bits.view(np.uint8), self.to) if small else bits.view(self.to.numpy)

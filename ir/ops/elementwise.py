"""Element-wise arithmetic, comparison and logic. Operands broadcast as NumPy's do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import VerifyError
from ..numerics import ARITHMETIC, COMPARISON, EXTREMES, FUNCTION, LOGIC, MOVES, SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, memory_bytes, register
from ..traits import Moves, Trait
from ..types import Dim, DType, Shape, TensorType, broadcast
from .adjoint import in_type_of, scaled, sum_to, where
from .common import (
    cast,
    check_number,
    check_same,
    in_wide,
    wide,
)

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

Ufunc = Callable[..., Any]


@dataclass(frozen=True)
class Binary(Op):
    """Two numbers of one element type."""

    numerics = ARITHMETIC
    axes = "a[...] b[...] -> y[...]"
    ufunc: ClassVar[Ufunc]

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_number(a)
        return TensorType(check_same(a, b), broadcast(a.shape, b.shape))

    def reference(self, a: Array, b: Array) -> Array:
        return in_wide(type(self).ufunc, a, b)

    def dims(self, a: Abstract, b: Abstract) -> Shape | None:
        return dims_of(self.of_ints, a, b)

    def of_ints(self, a: int, b: int) -> int | None:
        """The result for two Python integers, where shape arithmetic needs it."""
        return None

    def partial(self, b: Builder, g: Value, x: Value, z: Value, y: Value) -> Any:
        """(g * dy/dx, g * dy/dz), as broadcast, for operands x and z; None for 0."""
        raise NotImplementedError

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        x, z = operands
        made = self.partial(b, gradients[0], x, z, results[0])
        return [None if d is None else sum_to(b, d, v) for d, v in zip(made, operands)]


def dims_of(f: Callable[[int, int], int | None], a: Abstract, b: Abstract) -> Shape | None:
    """Shape data of a binary op on shape data; an operand of one element broadcasts."""
    x, y = a.as_dims(), b.as_dims()
    if x is None or y is None or (len(x) != len(y) and 1 not in (len(x), len(y))):
        return None
    x, y = (x * len(y) if len(x) == 1 else x), (y * len(x) if len(y) == 1 else y)
    return tuple(
        f(p, q) if isinstance(p, int) and isinstance(q, int) else _symbolic(f, p, q)
        for p, q in zip(x, y)
    )


def _symbolic(f: Callable[[int, int], int | None], p: Dim, q: Dim) -> Dim:
    """`n op c` for a symbol n, where it is n for every n (n + 0, n * 1, n // 1)."""
    if isinstance(p, str) and isinstance(q, int) and [f(v, q) for v in (2, 3, 7)] == [2, 3, 7]:
        return p
    if isinstance(q, str) and isinstance(p, int) and [f(p, v) for v in (2, 3, 7)] == [2, 3, 7]:
        return q
    return None


@register
@dataclass(frozen=True)
class Add(Binary):
    """a + b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.add

    def of_ints(self, a: int, b: int) -> int | None:
        return a + b

    def partial(self, b: Builder, g: Value, x: Value, z: Value, y: Value) -> Any:
        return g, g


@register
@dataclass(frozen=True)
class Sub(Binary):
    """a - b"""

    ufunc = np.subtract

    def of_ints(self, a: int, b: int) -> int | None:
        return a - b

    def partial(self, b: Builder, g: Value, x: Value, z: Value, y: Value) -> Any:
        return g, b.neg(g)


@register
@dataclass(frozen=True)
class Mul(Binary):
    """a * b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.multiply

    def of_ints(self, a: int, b: int) -> int | None:
        return a * b

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        return Cost(results[0].size, memory_bytes(operands, results))

    def partial(self, b: Builder, g: Value, x: Value, z: Value, y: Value) -> Any:
        return b.mul(g, z), b.mul(g, x)


def _truncate(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _divide(a: Array, b: Array) -> Array:
    """a / b; integers round toward zero, and a division by zero gives 0 as NumPy's does."""
    if np.issubdtype(a.dtype, np.floating):
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "u":
        return quotient
    inexact = (quotient * b != a) & (b != 0)
    return quotient + (inexact & ((a < 0) != (b < 0))).astype(a.dtype)


@register
@dataclass(frozen=True)
class Div(Binary):
    """a / b, integers toward zero (x / 0 = 0)"""

    numerics = ARITHMETIC.but(
        overflow="to infinity; integers: x / 0 = 0, and the least by -1 is itself",
    )
    ufunc = _divide

    def of_ints(self, a: int, b: int) -> int | None:
        return _truncate(a, b) if b else None

    def partial(self, b: Builder, g: Value, x: Value, z: Value, y: Value) -> Any:
        share = b.div(g, z)
        return share, b.neg(b.mul(share, y))


@register
@dataclass(frozen=True)
class Mod(Binary):
    """a - b * floor(a / b), with the divisor's sign; `fmod` takes the dividend's (C's fmod)"""

    numerics = ARITHMETIC.but(
        infinity="x mod inf as NumPy has it; inf mod x is NaN",
        overflow="integers: x mod 0 = 0",
    )
    fmod: bool = False

    def reference(self, a: Array, b: Array) -> Array:
        return in_wide(np.fmod if self.fmod else np.mod, a, b)

    def of_ints(self, a: int, b: int) -> int | None:
        return a % b if b and not self.fmod else None

    def partial(self, b: Builder, g: Value, x: Value, z: Value, y: Value) -> Any:
        quotient = b.div(b.sub(x, y), z)  # an integer, but for rounding
        return g, b.neg(b.mul(g, b.round(quotient)))


@register
@dataclass(frozen=True)
class Pow(Op):
    """a ^ b in a's element type; the exponent may have another"""

    settings = ("b",)
    numerics = FUNCTION.but(
        nan="stays NaN (but x^0 and 1^x are 1)",
        infinity="as C's pow",
        overflow="to infinity; integers wrap",
    )
    axes = "a[...] b[...] -> y[...]"

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_number(a, "the base")
        check_number(b, "the exponent")
        return TensorType(a.dtype, broadcast(a.shape, b.shape))

    def reference(self, a: Array, b: Array) -> Array:
        x, y = wide(a), wide(b)
        if a.dtype.kind in "iu" and y.dtype.kind in "iu":
            # Wraps as repeated products do, modulo 2^64 and then by the low bits: the exponent may
            # be wider than the base. A negative exponent truncates 1 / a^|b|.
            powers = np.power(x.astype(np.uint64), np.maximum(y, 0).astype(np.uint64))
            inverse = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0))
            return np.where(y < 0, inverse.astype(a.dtype), powers.astype(a.dtype))
        if x.dtype.kind == "f":
            y = y.astype(x.dtype)
        return cast(np.power(x, y), DType.of(a))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, e), (y,), (g,) = operands, results, gradients
        exponent = in_type_of(b, e, x)
        down = b.pow(x, b.sub(exponent, b.number(1, x)))
        slope = where(b, b.not_(b.equal(exponent, b.number(0, x))), b.mul(exponent, down))
        positive = b.greater(x, b.number(0, x))
        log = b.log(b.where(positive, x, b.number(1, x)))
        made = sum_to(b, b.mul(g, b.mul(y, log)), e) if e.type.dtype.is_float else None
        return (
            sum_to(b, b.mul(g, slope), x),
            None if made is None else in_type_of(b, made, e),
        )


@dataclass(frozen=True)
class Variadic(Op):
    """One or more tensors of one element type."""

    numerics = EXTREMES
    axes = "xs[...] -> y[...]"
    ufunc: ClassVar[Ufunc]

    def infer(self, *xs: Abstract) -> Inferred:
        if not xs:
            raise VerifyError("takes at least one operand")
        check_number(xs[0])
        return TensorType(check_same(*xs), broadcast(*(x.shape for x in xs)))

    def reference(self, *xs: Array) -> Array:
        return in_wide(self.fold, *xs)

    def fold(self, *xs: Array) -> Array:
        made = xs[0]
        for x in xs[1:]:
            made = type(self).ufunc(made, x)
        return made

    def parts(self, b: Builder, g: Value, xs: Any, y: Value) -> list[Value]:
        """g * dy/dx for each operand x, as broadcast."""
        raise NotImplementedError

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        made = self.parts(b, gradients[0], operands, results[0])
        return [sum_to(b, d, x) for d, x in zip(made, operands)]


def shared_extreme(b: Builder, g: Value, xs: Any, y: Value) -> list[Value]:
    """g for the operands that are the extreme one; equal ones have equal shares."""
    if len(xs) == 1:
        return [g]
    hits = [b.equal(x, y) for x in xs]
    count = b.sum(*(b.cast(hit, to=g.type.dtype) for hit in hits))
    share = b.div(g, count)
    return [where(b, hit, share) for hit in hits]


@register
@dataclass(frozen=True)
class Max(Variadic):
    """The largest of the operands; NaN wins"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.maximum

    def parts(self, b: Builder, g: Value, xs: Any, y: Value) -> list[Value]:
        return shared_extreme(b, g, xs, y)


@register
@dataclass(frozen=True)
class Min(Variadic):
    """The smallest of the operands; NaN wins"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.minimum

    def parts(self, b: Builder, g: Value, xs: Any, y: Value) -> list[Value]:
        return shared_extreme(b, g, xs, y)


@register
@dataclass(frozen=True)
class Sum(Variadic):
    """x0 + x1 + ..."""

    traits = Trait.COMMUTATIVE
    numerics = SUMS
    ufunc = np.add

    def parts(self, b: Builder, g: Value, xs: Any, y: Value) -> list[Value]:
        return [g] * len(xs)


@register
@dataclass(frozen=True)
class Mean(Variadic):
    """(x0 + x1 + ...) / n"""

    traits = Trait.COMMUTATIVE
    numerics = SUMS
    ufunc = np.add

    def fold(self, *xs: Array) -> Array:
        # One operand is its own mean: large integers would not come back from a division in f64.
        return xs[0] if len(xs) == 1 else np.divide(super().fold(*xs), len(xs))

    def parts(self, b: Builder, g: Value, xs: Any, y: Value) -> list[Value]:
        return [scaled(b, g, 1 / len(xs))] * len(xs)


# ---- comparison and logic ----------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison(Op):
    """bool of two operands of one element type; comparing with NaN gives false."""

    numerics = COMPARISON
    axes = "a[...] b[...] -> y[...]"
    ufunc: ClassVar[Ufunc]

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        check_same(a, b)
        return TensorType(DType.bool, broadcast(a.shape, b.shape))

    def reference(self, a: Array, b: Array) -> Array:
        return np.asarray(type(self).ufunc(wide(a), wide(b)))


@register
@dataclass(frozen=True)
class Equal(Comparison):
    """a == b"""

    traits = Trait.COMMUTATIVE
    ufunc = np.equal

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        made = super().infer(a, b)
        assert isinstance(made, TensorType)
        if made.shape is None or len(made.shape) > 1 or not a.dtype.is_integer:
            return made
        dims = dims_of(lambda p, q: int(p == q), a, b)
        return Abstract(made, None, None if dims is None or None in dims else dims)


@register
@dataclass(frozen=True)
class Greater(Comparison):
    """a > b"""

    ufunc = np.greater


@register
@dataclass(frozen=True)
class GreaterOrEqual(Comparison):
    """a >= b"""

    ufunc = np.greater_equal


@register
@dataclass(frozen=True)
class Less(Comparison):
    """a < b"""

    ufunc = np.less


@register
@dataclass(frozen=True)
class LessOrEqual(Comparison):
    """a <= b"""

    ufunc = np.less_equal


@dataclass(frozen=True)
class Logical(Comparison):
    """bool of two bools."""

    numerics = LOGIC

    def infer(self, a: Abstract, b: Abstract) -> Inferred:
        if a.dtype is not DType.bool:
            raise VerifyError(f"the operand is {a.type}, which is not bool")
        return super().infer(a, b)


@register
@dataclass(frozen=True)
class And(Logical):
    """a and b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.logical_and


@register
@dataclass(frozen=True)
class Or(Logical):
    """a or b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.logical_or


@register
@dataclass(frozen=True)
class Xor(Logical):
    """a != b"""

    traits = Trait.ASSOCIATIVE | Trait.COMMUTATIVE
    ufunc = np.logical_xor


@register
@dataclass(frozen=True)
class Not(Op):
    """not x"""

    traits = Trait.INVOLUTION
    numerics = LOGIC
    axes = "x[...] -> y[...]"

    def infer(self, x: Abstract) -> Inferred:
        if x.dtype is not DType.bool:
            raise VerifyError(f"the operand is {x.type}, which is not bool")
        return x.type

    def reference(self, x: Array) -> Array:
        return np.logical_not(x)


@register
@dataclass(frozen=True)
class Where(Op):
    """a where the condition holds, else b"""

    moves = Moves(("a", "b"))
    numerics = MOVES
    axes = "condition[...] a[...] b[...] -> y[...]"

    def infer(self, condition: Abstract, a: Abstract, b: Abstract) -> Inferred:
        if condition.dtype is not DType.bool:
            raise VerifyError(f"the condition is {condition.type}, which is not bool")
        return TensorType(check_same(a, b), broadcast(condition.shape, a.shape, b.shape))

    def reference(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)

    def dims(self, condition: Abstract, a: Abstract, b: Abstract) -> Shape | None:
        lists = [condition.as_dims(), a.as_dims(), b.as_dims()]
        found = [d for d in lists if d is not None]
        n = max((len(d) for d in found), default=0)
        if len(found) < 3 or any(len(d) not in (1, n) for d in found):
            return None
        rows = zip(*(d * n if len(d) == 1 else d for d in found))
        return tuple((p if c else q) if isinstance(c, int) else None for c, p, q in rows)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (condition, x, z), (g,) = operands, gradients
        zero = b.number(0, g)
        return (
            None,
            sum_to(b, b.where(condition, g, zero), x),
            sum_to(b, b.where(condition, zero, g), z),
        )

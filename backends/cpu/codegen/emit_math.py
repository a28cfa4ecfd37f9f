"""Float32 functions as LLVM IR, over scalars or vectors alike: no calls, no branches.

One text serves the tiles' epilogues (vectors) and generated loops (scalars that LLVM vectorises,
see `numeric`). NaN stays NaN. Errors are in units in the last place (ulp) of the true result,
measured over random and special arguments (tests/backends/cpu/test_emit_math.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.ir as ir

from .emit import F32, I32, Emit, Value, vec

# x P(x^2) / Q(x^2), highest power first (Eigen's and XLA's rational functions), and the |x| from
# which the function is 1 in float32.
TANH = (
    (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
     1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
    7.90531110763549805,
)  # fmt: skip
ERF = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
     -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
     -1.42647390514189e-02),
    3.832506856900711,
)  # fmt: skip
# (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, and (ln(1 + f) - f + f^2 / 2) / f^3 (both Cephes').
EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
    5.0000001201e-1,
)  # fmt: skip
EXP2 = (  # 2^f on |f| <= 1/2, least relative error
    1.32764623e-3, 9.67554126e-3, 5.5507133e-2, 2.40221197e-1, 6.93146967e-1, 1.0,
)  # fmt: skip
LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
ROUNDER = 1.5 * 2.0**23  # adding it leaves an integer, rounded half to even, in the low bits
ROUNDER_BITS = 0x4B400000
EXP_MOST, EXP_LEAST = 88.72283, -105.0  # e^-104 rounds to 0, so all below it may be taken for it


def kind_of(like: Value, element: Any) -> Any:
    """The type with `element` in place of the elements of `like`."""
    return vec(element, like.type.count) if hasattr(like.type, "count") else element


def number(like: Value, value: float, element: Any = F32) -> Value:
    """A constant of as many lanes as `like`."""
    kind = kind_of(like, element)
    return ir.Constant(kind, [value] * kind.count if hasattr(kind, "count") else value)


def madd(e: Emit, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once where the machine does that as fast."""
    suffix = f"v{a.type.count}f32" if hasattr(a.type, "count") else "f32"
    return e.call(f"llvm.fmuladd.{suffix}", a.type, a, b, c)


def horner(e: Emit, x: Value, coefficients: Sequence[float], start: Value | None = None) -> Value:
    """The polynomial with these coefficients, highest power first."""
    value, *rest = coefficients
    made = number(x, value) if start is None else madd(e, start, x, number(x, value))
    for c in rest:
        made = madd(e, made, x, number(x, c))
    return made


def at_least(e: Emit, x: Value, low: Value) -> Value:
    """max(x, low); NaN stays."""
    return e.b.select(e.b.fcmp_ordered("<", x, low), low, x)


def at_most(e: Emit, x: Value, high: Value) -> Value:
    """min(x, high); NaN stays."""
    return e.b.select(e.b.fcmp_ordered(">", x, high), high, x)


def larger(e: Emit, x: Value, y: Value) -> Value:
    """The larger of two; a NaN in x stays."""
    return e.b.select(e.b.fcmp_ordered("<", x, y), y, x)


def absolute(e: Emit, x: Value) -> Value:
    """|x|."""
    suffix = f"v{x.type.count}f32" if hasattr(x.type, "count") else "f32"
    return e.call(f"llvm.fabs.{suffix}", x.type, x)


def power_of_two(e: Emit, k: Value) -> Value:
    """2^k for int32 k in -126..127; 0 for -127."""
    b = e.b
    bits = b.shl(b.add(k, number(k, 127, I32)), number(k, 23, I32))
    return b.bitcast(bits, kind_of(k, F32))


def _reduced(e: Emit, x: Value) -> tuple[Value, Value]:
    """(k, e^r - 1) with x = k ln 2 + r; k as int32."""
    b = e.b
    shifted = madd(e, x, number(x, 1 / math.log(2)), number(x, ROUNDER))
    k = b.sub(b.bitcast(shifted, kind_of(x, I32)), number(x, ROUNDER_BITS, I32))
    whole = b.fsub(shifted, number(x, ROUNDER))
    r = madd(e, whole, number(x, -LN2_HIGH), x)
    r = madd(e, whole, number(x, -LN2_LOW), r)
    return k, madd(e, b.fmul(horner(e, r, EXP), r), r, r)


def exp(e: Emit, x: Value) -> Value:
    """e^x, subnormal results included; 2 ulp."""
    b = e.b
    inside = at_most(e, at_least(e, x, number(x, EXP_LEAST)), number(x, EXP_MOST))
    k, q = _reduced(e, inside)
    half = b.ashr(k, number(x, 1, I32))
    y = b.fmul(b.fadd(q, number(x, 1.0)), power_of_two(e, half))
    y = b.fmul(y, power_of_two(e, b.sub(k, half)))
    return b.select(b.fcmp_ordered(">", x, number(x, EXP_MOST)), number(x, math.inf), y)


def exp_weight(e: Emit, x: Value) -> Value:
    """e^x for x <= 0 as a softmax wants it: the relative error is 2 + |x| ulp, and what is below
    the least normal number is 0."""
    x = at_least(e, x, number(x, -88.0))  # 2^-127 there, which `power_of_two` makes 0
    shifted = madd(e, x, number(x, 1 / math.log(2)), number(x, ROUNDER))
    k = e.b.sub(e.b.bitcast(shifted, kind_of(x, I32)), number(x, ROUNDER_BITS, I32))
    whole = e.b.fsub(shifted, number(x, ROUNDER))
    f = madd(e, x, number(x, 1 / math.log(2)), e.b.fneg(whole))
    return e.b.fmul(horner(e, f, EXP2), power_of_two(e, k))


def exp_negative(e: Emit, x: Value) -> Value:
    """e^x for x <= 0, with 0 for what is below the least normal number; 2 ulp."""
    b, least = e.b, number(x, -87.33)
    k, q = _reduced(e, at_least(e, x, least))
    y = power_of_two(e, k)
    return b.select(b.fcmp_ordered("<", x, least), number(x, 0.0), madd(e, q, y, y))


def expm1(e: Emit, x: Value) -> Value:
    """e^x - 1, accurate near 0 too; 3 ulp."""
    b, one = e.b, number(x, 1.0)
    inside = at_most(e, at_least(e, x, number(x, -30.0)), number(x, EXP_MOST))
    k, q = _reduced(e, inside)
    # 2^k = 2 * 2^(k-1), since k may be 128.
    half = power_of_two(e, b.sub(k, number(x, 1, I32)))
    y = madd(e, q, half, b.fsub(half, number(x, 0.5)))
    y = b.fadd(y, y)
    y = b.select(b.fcmp_ordered(">", x, number(x, EXP_MOST)), number(x, math.inf), y)
    # A zero keeps its sign.
    return b.select(b.fcmp_ordered("==", x, number(x, 0.0)), x, b.select(
        b.fcmp_ordered("<", x, number(x, -30.0)), b.fneg(one), y))  # fmt: skip


def log(e: Emit, x: Value) -> Value:
    """ln x, of subnormal numbers too; -inf at 0, NaN below; 1 ulp."""
    b, one = e.b, number(x, 1.0)
    small = b.fcmp_ordered("<", x, number(x, 2.0**-126))
    scaled = b.select(small, b.fmul(x, number(x, 2.0**24)), x)
    bits = b.bitcast(scaled, kind_of(x, I32))
    # x = m * 2^k with m in [sqrt(1/2), sqrt(2)).
    above = b.sub(bits, number(x, 0x3F3504F3, I32))
    k = b.ashr(above, number(x, 23, I32))
    m = b.bitcast(b.sub(bits, b.shl(k, number(x, 23, I32))), kind_of(x, F32))
    k = b.sub(k, b.select(small, number(x, 24, I32), number(x, 0, I32)))
    whole = b.sitofp(k, kind_of(x, F32))
    f = b.fsub(m, one)
    square = b.fmul(f, f)
    y = b.fmul(b.fmul(horner(e, f, LOG), f), square)
    y = madd(e, whole, number(x, LN2_LOW), y)
    y = madd(e, square, number(x, -0.5), y)
    y = madd(e, whole, number(x, LN2_HIGH), b.fadd(f, y))
    y = b.select(b.fcmp_ordered("==", x, number(x, math.inf)), x, y)
    y = b.select(b.fcmp_ordered("==", x, number(x, 0.0)), number(x, -math.inf), y)
    return b.select(b.fcmp_unordered("<", x, number(x, 0.0)), number(x, math.nan), y)


def log1p_unit(e: Emit, t: Value) -> Value:
    """ln(1 + t) for t in 0..1; 3 ulp."""
    b = e.b
    u = b.fadd(t, number(t, 1.0))
    lost = b.fdiv(b.fsub(t, b.fsub(u, number(t, 1.0))), u)
    return b.fadd(log(e, u), lost)


def _odd(e: Emit, x: Value, function: tuple[Sequence[float], Sequence[float], float]) -> Value:
    above, below, limit = function
    b, end, one = e.b, number(x, limit), number(x, 1.0)
    square = b.fmul(x, x)
    made = b.fdiv(b.fmul(x, horner(e, square, above)), horner(e, square, below))
    made = b.select(b.fcmp_ordered(">=", x, end), one, made)
    return b.select(b.fcmp_ordered("<=", x, b.fneg(end)), b.fneg(one), made)


def tanh(e: Emit, x: Value) -> Value:
    """tanh x; 4 ulp."""
    return _odd(e, x, TANH)


def erf(e: Emit, x: Value) -> Value:
    """erf x; 6 ulp."""
    return _odd(e, x, ERF)


def sigmoid(e: Emit, x: Value) -> Value:
    """1 / (1 + e^-x); 3 ulp where it is a normal number."""
    b, one = e.b, number(x, 1.0)
    t = exp_negative(e, b.fneg(absolute(e, x)))
    above = b.select(b.fcmp_ordered("<", x, number(x, 0.0)), t, one)
    made = b.fdiv(above, b.fadd(one, t))
    return b.select(b.fcmp_unordered("uno", x, x), x, made)


def softplus(e: Emit, x: Value) -> Value:
    """ln(1 + e^x) without overflow; 3 ulp."""
    zero = number(x, 0.0)
    t = exp(e, e.b.fneg(absolute(e, x)))
    tail = e.b.select(e.b.fcmp_ordered("<", t, number(x, 2.0**-24)), t, log1p_unit(e, t))
    return e.b.fadd(at_least(e, x, zero), tail)


# ---- activations: name -> f(e, x, first parameter, second parameter) ----------------------------


def _clamp(e: Emit, x: Value, low: Value, high: Value) -> Value:
    return at_most(e, at_least(e, x, low), high)


def _where_negative(e: Emit, x: Value, otherwise: Value) -> Value:
    return e.b.select(e.b.fcmp_ordered("<", x, number(x, 0.0)), otherwise, x)


def _leaky(e: Emit, x: Value, alpha: Value, _: Value) -> Value:
    return _where_negative(e, x, e.b.fmul(x, alpha))


def _elu(e: Emit, x: Value, alpha: Value, _: Value) -> Value:
    return _where_negative(e, x, e.b.fmul(alpha, expm1(e, x)))


def _selu(e: Emit, x: Value, alpha: Value, gamma: Value) -> Value:
    return e.b.fmul(gamma, _elu(e, x, alpha, gamma))


def _hard_sigmoid(e: Emit, x: Value, alpha: Value, beta: Value) -> Value:
    return _clamp(e, madd(e, x, alpha, beta), number(x, 0.0), number(x, 1.0))


def _hard_swish(e: Emit, x: Value, *_: Value) -> Value:
    return e.b.fmul(x, _hard_sigmoid(e, x, number(x, 1 / 6), number(x, 0.5)))


def _swish(e: Emit, x: Value, alpha: Value, _: Value) -> Value:
    return e.b.fmul(x, sigmoid(e, e.b.fmul(x, alpha)))


def _mish(e: Emit, x: Value, *_: Value) -> Value:
    return e.b.fmul(x, tanh(e, softplus(e, x)))


def _gelu(e: Emit, x: Value, *_: Value) -> Value:
    half = e.b.fmul(x, number(x, 0.5))
    return madd(e, half, erf(e, e.b.fmul(x, number(x, math.sqrt(0.5)))), half)


def _gelu_tanh(e: Emit, x: Value, *_: Value) -> Value:
    half, factor = e.b.fmul(x, number(x, 0.5)), math.sqrt(2 / math.pi)
    cubic = madd(e, e.b.fmul(x, x), number(x, 0.044715 * factor), number(x, factor))
    return madd(e, half, tanh(e, e.b.fmul(x, cubic)), half)


Activation = Callable[[Emit, Value, Value, Value], Value]

ACTIVATIONS: dict[str, Activation] = {
    "clamp": _clamp,
    "leaky_relu": _leaky,
    "prelu": _leaky,  # with a slope for each lane
    "elu": _elu,
    "selu": _selu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "sigmoid": lambda e, x, *_: sigmoid(e, x),
    "swish": _swish,
    "tanh": lambda e, x, *_: tanh(e, x),
    "softplus": lambda e, x, *_: softplus(e, x),
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
# Few instructions each.
LIGHT = frozenset(("clamp", "leaky_relu", "prelu", "hard_sigmoid", "hard_swish"))

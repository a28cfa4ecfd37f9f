"""Float functions over vectors of f32, as LLVM IR: polynomials within about 2 units in the last
place, without branches or calls. NaN stays NaN.

Results that would be below 1e-37 are that small, not exact: these are functions of gates and the
like, where nothing smaller counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..emit import F32, I32, Emit, Value, vec


def _horner(e: Emit, x: Value, coefficients: Sequence[float]) -> Value:
    """A polynomial, the highest power's coefficient first."""
    n = x.type.count
    made = e.vector(F32, coefficients[0], n)
    for c in coefficients[1:]:
        made = e.fma(made, x, e.vector(F32, c, n))
    return made


def _keep_nan(e: Emit, x: Value, y: Value) -> Value:
    return e.b.select(e.b.fcmp_unordered("uno", x, x), x, y)


def _magnitude(e: Emit, x: Value) -> Value:
    n = x.type.count
    return e.call(f"llvm.fabs.v{n}f32", x.type, x)


def least(e: Emit, x: Value, low: Value) -> Value:
    """max(x, low); NaN in x stays."""
    return e.b.select(e.b.fcmp_ordered("<", x, low), low, x)


def most(e: Emit, x: Value, high: Value) -> Value:
    """min(x, high); NaN in x stays."""
    return e.b.select(e.b.fcmp_ordered(">", x, high), high, x)


def exp(e: Emit, x: Value) -> Value:
    """e^x for x in -86.9 to 88, and at these bounds beyond them; NaN gives the lower bound's.

    x = k ln 2 + r, a polynomial for e^r (Cephes' expf), k added to the exponent.
    """
    b, n = e.b, x.type.count
    x = e.clamp_float(x, e.vector(F32, -86.9, n), e.vector(F32, 88.0, n))
    k = b.fmul(x, e.vector(F32, 1.44269504, n))
    k = e.call(f"llvm.rint.v{n}f32", x.type, k)
    r = e.fma(k, e.vector(F32, -0.693359375, n), x)
    r = e.fma(k, e.vector(F32, 2.12194440e-4, n), r)
    p = _horner(e, r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                       1.6666665459e-1, 5.0000001201e-1))  # fmt: skip
    p = e.fma(b.fmul(r, r), p, b.fadd(r, e.vector(F32, 1.0, n)))
    exponent = b.shl(b.fptosi(k, vec(I32, n)), e.vector(I32, 23, n))
    return b.bitcast(b.add(b.bitcast(p, vec(I32, n)), exponent), x.type)


def sigmoid(e: Emit, x: Value) -> Value:
    b, n = e.b, x.type.count
    one = e.vector(F32, 1.0, n)
    return _keep_nan(e, x, b.fdiv(one, b.fadd(one, exp(e, b.fneg(x)))))


def tanh(e: Emit, x: Value) -> Value:
    """An odd polynomial near zero (Cephes' tanhf), else by exp(-2|x|)."""
    b, n = e.b, x.type.count
    one, z, w = e.vector(F32, 1.0, n), _magnitude(e, x), b.fmul(x, x)
    p = _horner(e, w, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
                       -3.33332819422e-1))  # fmt: skip
    small = e.fma(b.fmul(p, w), x, x)
    t = exp(e, b.fmul(z, e.vector(F32, -2.0, n)))
    large = b.fdiv(b.fsub(one, t), b.fadd(one, t))
    large = e.call(f"llvm.copysign.v{n}f32", x.type, large, x)
    near = b.fcmp_ordered("<", z, e.vector(F32, 0.625, n))
    return _keep_nan(e, x, b.select(near, small, large))


def expm1(e: Emit, x: Value) -> Value:
    """e^x - 1 for x <= 0: a polynomial near zero, else the difference."""
    b, n = e.b, x.type.count
    p = _horner(e, x, (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2))
    small = e.fma(b.fmul(p, x), x, x)
    large = b.fsub(exp(e, x), e.vector(F32, 1.0, n))
    near = b.fcmp_ordered(">", x, e.vector(F32, -0.35, n))
    return b.select(near, small, large)


def softplus(e: Emit, x: Value) -> Value:
    """max(x, 0) + ln(1 + u), u = e^-|x|; ln(1 + u) = 2 artanh(u / (2 + u)), of at most 1/3."""
    b, n = e.b, x.type.count
    u = exp(e, b.fneg(_magnitude(e, x)))
    s = b.fdiv(u, b.fadd(u, e.vector(F32, 2.0, n)))
    p = _horner(e, b.fmul(s, s), (2 / 13, 2 / 11, 2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0))
    top = least(e, x, e.vector(F32, 0.0, n))
    return _keep_nan(e, x, e.fma(p, s, top))


def elu(e: Emit, x: Value, alpha: Value) -> Value:
    b, n = e.b, x.type.count
    zero = e.vector(F32, 0.0, n)
    below = b.fmul(alpha, expm1(e, most(e, x, zero)))
    return _keep_nan(e, x, b.select(b.fcmp_ordered(">=", x, zero), x, below))


def hard_sigmoid(e: Emit, x: Value, alpha: Value, beta: Value) -> Value:
    n = x.type.count
    y = e.b.fadd(e.b.fmul(x, alpha), beta)
    return most(e, least(e, y, e.vector(F32, 0.0, n)), e.vector(F32, 1.0, n))


def leaky_relu(e: Emit, x: Value, alpha: Value) -> Value:
    positive = e.b.fcmp_ordered(">=", x, e.vector(F32, 0.0, x.type.count))
    return e.b.select(positive, x, e.b.fmul(alpha, x))


def thresholded_relu(e: Emit, x: Value, alpha: Value) -> Value:
    """x where x > alpha, else 0 (NaN, too)."""
    above = e.b.fcmp_ordered(">", x, alpha)
    return e.b.select(above, x, e.vector(F32, 0.0, x.type.count))


def softsign(e: Emit, x: Value) -> Value:
    one = e.vector(F32, 1.0, x.type.count)
    return e.b.fdiv(x, e.b.fadd(one, _magnitude(e, x)))


# ONNX's functions of recurrent layers: f(e, x, alpha, beta).
RECURRENT: dict[str, Callable[[Emit, Value, Value, Value], Value]] = {
    "Sigmoid": lambda e, x, a, b: sigmoid(e, x),
    "Tanh": lambda e, x, a, b: tanh(e, x),
    "Relu": lambda e, x, a, b: least(e, x, e.vector(F32, 0.0, x.type.count)),
    "Affine": lambda e, x, a, b: e.b.fadd(e.b.fmul(a, x), b),
    "LeakyRelu": lambda e, x, a, b: leaky_relu(e, x, a),
    "ThresholdedRelu": lambda e, x, a, b: thresholded_relu(e, x, a),
    "ScaledTanh": lambda e, x, a, b: e.b.fmul(a, tanh(e, e.b.fmul(b, x))),
    "HardSigmoid": hard_sigmoid,
    "Elu": lambda e, x, a, b: elu(e, x, a),
    "Softsign": lambda e, x, a, b: softsign(e, x),
    "Softplus": lambda e, x, a, b: softplus(e, x),
}

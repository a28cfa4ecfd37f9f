"""ONNX's functions of recurrent layers over vectors of f32: f(e, x, alpha, beta)."""

from __future__ import annotations

from ..codegen import emit_math as m
from ..codegen.emit import Emit, Value

least, most = m.at_least, m.at_most


def _thresholded_relu(e: Emit, x: Value, alpha: Value, _: Value) -> Value:
    """x where x > alpha, else 0 (NaN, too)."""
    return e.b.select(e.b.fcmp_ordered(">", x, alpha), x, m.number(x, 0.0))


def _softsign(e: Emit, x: Value, *_: Value) -> Value:
    return e.b.fdiv(x, e.b.fadd(m.number(x, 1.0), m.absolute(e, x)))


RECURRENT: dict[str, m.Activation] = {
    "Sigmoid": m.ACTIVATIONS["sigmoid"],
    "Tanh": m.ACTIVATIONS["tanh"],
    "Relu": lambda e, x, *_: m.at_least(e, x, m.number(x, 0.0)),
    "Affine": lambda e, x, a, b: e.b.fadd(e.b.fmul(a, x), b),
    "LeakyRelu": m.ACTIVATIONS["leaky_relu"],
    "ThresholdedRelu": _thresholded_relu,
    "ScaledTanh": lambda e, x, a, b: e.b.fmul(a, m.tanh(e, e.b.fmul(b, x))),
    "HardSigmoid": m.ACTIVATIONS["hard_sigmoid"],
    "Elu": m.ACTIVATIONS["elu"],
    "Softsign": _softsign,
    "Softplus": m.ACTIVATIONS["softplus"],
}

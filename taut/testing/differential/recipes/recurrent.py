"""RNN, GRU and LSTM."""

from __future__ import annotations

from typing import Any

from ..sketch import Ref, Sketch
from .base import FLAG, recipe

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
_PLAIN = ("Tanh", "Sigmoid", "Relu", "Softsign", "Softplus")
_ALPHA = ("LeakyRelu", "Elu", "ThresholdedRelu")
_BOTH = ("HardSigmoid", "Affine", "ScaledTanh")


@recipe("RNN", "GRU", "LSTM")
def recurrent(d: Sketch) -> None:
    gates = _GATES[d.op]
    steps, n = d.choices.one((3, 1, 2, 5)), d.choices.one((1, 2, 3))
    wide, hidden = d.choices.one((3, 1, 4)), d.choices.one((2, 1, 4, 5))
    given: dict[str, Any] = d.attributes(
        direction=("forward", "reverse", "bidirectional"), clip=(0.5, 2.0), layout=(0, 1),
        linear_before_reset=FLAG, input_forget=FLAG,
    )  # fmt: skip
    given["hidden_size"] = hidden
    ways = 2 if given.get("direction") == "bidirectional" else 1
    if d.maybe(35):
        given |= _activations(d, ways)
    last = given.get("layout", 0)
    x = d.operand(0, (n, steps, wide) if last else (steps, n, wide), "tame", constant=5)
    w = d.operand(1, (ways, gates * hidden, wide), "tame", 85)
    r = d.operand(2, (ways, gates * hidden, hidden), "tame", 85)
    b = d.operand(3, (ways, 2 * gates * hidden), "tame", 85) if d.maybe(60) else None
    lengths = None
    if d.maybe(35):
        made = d.ints([d.choices.between(1, steps) for _ in range(n)], d.dtype(4), 30)
        lengths = made
    states: list[Ref | None] = []
    for _ in range(2 if d.op == "LSTM" else 1):
        shape = (n, ways, hidden) if last else (ways, n, hidden)
        states.append(d.operand(5, shape, "tame", 30) if d.maybe(40) else None)
    peep = None
    if d.op == "LSTM" and d.maybe(25):
        peep = d.operand(7, (ways, 3 * hidden), "tame", 85)
    d.emit([x, w, r, b, lengths, *states, peep], given, d.choices.one((1, 2, 2 + (d.op == "LSTM"))))


def _activations(d: Sketch, ways: int) -> dict[str, Any]:
    names = [d.choices.one((*_PLAIN, *_ALPHA, *_BOTH)) for _ in range(ways * _FUNCTIONS[d.op])]
    alphas = [0.3 for n in names if n in _ALPHA or n in _BOTH]
    betas = [0.4 for n in names if n in _BOTH]
    made: dict[str, Any] = {"activations": tuple(names)}
    if alphas:
        made["activation_alpha"] = tuple(alphas)
    if betas:
        made["activation_beta"] = tuple(betas)
    return made

"""LSTM, GRU and plain recurrent layers: one op for each layer, both directions at once."""

from __future__ import annotations

from typing import Any

from ....ir import DType, UnsupportedError, Value
from ..call import Call, aten, rank

ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
"""Places of PyTorch's gates (i f n o; r z n) in the order of the IR's (i o f n; z r n)."""


@aten("lstm.input")
def lstm(c: Call, x: Value, states: list[Value], params: list[Value], *rest: Any) -> Any:
    return _stack(c, "lstm", x, states, params, *rest)


@aten("gru.input")
def gru(c: Call, x: Value, state: Value, params: list[Value], *rest: Any) -> Any:
    return _stack(c, "gru", x, [state], params, *rest, linear_before_reset=True)


@aten("rnn_tanh.input")
def rnn_tanh(c: Call, x: Value, state: Value, params: list[Value], *rest: Any) -> Any:
    return _stack(c, "rnn", x, [state], params, *rest)


@aten("rnn_relu.input")
def rnn_relu(c: Call, x: Value, state: Value, params: list[Value], *rest: Any) -> Any:
    ways = 2 if rest[4] else 1
    return _stack(c, "rnn", x, [state], params, *rest, activations=("Relu",) * ways)


def _stack(
    c: Call, op: str, x: Value, states: list[Value], params: list[Value], biases: bool, layers: int,
    dropout: float, training: bool, bidirectional: bool, batch_first: bool, **options: Any,
) -> tuple[Value, ...]:  # fmt: skip
    """x[t,n,i] (or [n,t,i]) and states[layers*d,n,h]; the results likewise."""
    if rank(x) != 3:
        raise UnsupportedError(f"a packed sequence, or an input of rank {rank(x)}",
                               hint="pad sequences to one length")  # fmt: skip
    ways, each = (2 if bidirectional else 1), (4 if biases else 2)
    if len(params) != layers * ways * each:
        raise UnsupportedError("a projection of the hidden state (proj_size)")
    b = c.b
    x = b.transpose(x, perm=(1, 0, 2)) if batch_first else x
    direction = "bidirectional" if bidirectional else "forward"
    last: list[list[Value]] = [[] for _ in states]
    for i in range(layers):
        at = ways * i
        parts = [params[k * each : (k + 1) * each] for k in range(at, at + ways)]
        w, r, *bias = (_joined(c, op, kind) for kind in zip(*parts))
        both = b.concat(*bias, axis=1) if bias else None
        begin = [b.slice(s, c.ints([at]), c.ints([at + ways]), c.ints([0])) for s in states]
        y, *ends = getattr(b, op)(x, w, r, both, None, *begin, direction=direction,
                                  outputs=1 + len(states), **options)  # fmt: skip
        for found, end in zip(last, ends):
            found.append(end)
        # y[t,d,n,h]: directions lie side by side in what the next layer reads.
        x = b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), c.ints([0, 0, -1]))
        if dropout and i < layers - 1:
            x = b.dropout(x, c.constant(dropout, DType.f32))
    x = b.transpose(x, perm=(1, 0, 2)) if batch_first else x
    return (x, *(b.concat(*found, axis=0) if layers > 1 else found[0] for found in last))


def _joined(c: Call, op: str, weights: tuple[Value, ...]) -> Value:
    """One weight of every direction, [g*h, ...], as [d, g*h, ...] with its gates in order."""
    order = ORDERS[op]
    made = []
    for w in weights:
        rows = w.type.shape[0] if w.type.shape else None
        assert isinstance(rows, int)
        step = rows // len(order)
        places = [g * step + k for g in order for k in range(step)]
        turned = w if len(order) == 1 else c.b.gather(w, c.ints(places), axis=0)
        made.append(c.b.unsqueeze(turned, c.ints([0])))
    return c.b.concat(*made, axis=0) if len(made) > 1 else made[0]

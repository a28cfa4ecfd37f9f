"""Recurrent layers as scans over their steps: what their gradients go through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..op import implements
from ..types import DType
from .adjoint import filled, ints, known_shape, places, size_of
from .recurrent import GRU, LSTM, RNN, Function, Recurrent

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

Step = Callable[..., tuple["Value", ...]]


class Weights(NamedTuple):
    """One direction's weights: gates x inputs, gates x hidden, two biases, peepholes (3 x hidden)
    where there are any."""

    w: Value
    r: Value
    wb: Value | None
    rb: Value | None
    p: Value | None


def recurrent_nodes(
    op: Recurrent, b: Builder, operands: tuple[Value | None, ...], step: Step
) -> Any:
    """The results of `op.walk`, by one scan for each direction."""
    x, w, r, bias, lengths, *rest = operands
    assert x is not None and w is not None and r is not None
    initial = [None if s is None else _batch_second(op, b, s) for s in rest[: op.states]]
    peep = rest[op.states] if len(rest) > op.states else None
    x = _batch_second(op, b, x)
    if lengths is not None:
        lengths = b.cast(lengths, to=DType.i64)
    ys, ends = [], []
    for d, (back, functions) in enumerate(zip(op.backwards, op.functions())):
        part = [None if v is None else b.gather(v, b.constant(np.int64(d))) for v in (w, r, bias)]
        wd, rd, both = part
        assert wd is not None and rd is not None
        wb, rb = (None, None) if both is None else b.split(both, axis=0, num_outputs=2)
        pd = None if peep is None else b.gather(peep, b.constant(np.int64(d)))
        start = [_start(b, s, d, x, rd) for s in initial]
        k = Weights(wd, rd, wb, rb, pd)
        y, *last = _one_way(op, b, x, start, lengths, k, back, functions, step)
        ys.append(b.unsqueeze(y, ints(b, 1)))
        ends.append([b.unsqueeze(v, ints(b, 0)) for v in last])
    made = [b.concat(*ys, axis=1), *(b.concat(*e, axis=0) for e in zip(*ends))]
    if op.layout:
        made[0] = b.transpose(made[0], perm=(2, 0, 1, 3))
        made[1:] = [b.transpose(v, perm=(1, 0, 2)) for v in made[1:]]
    return tuple(made[: op.outputs])


def _batch_second(op: Recurrent, b: Builder, x: Value) -> Value:
    return b.transpose(x, perm=(1, 0, 2)) if op.layout else x


def _start(b: Builder, state: Value | None, d: int, x: Value, r: Value) -> Value:
    """The first state of a direction, [n,h]."""
    if state is not None:
        return b.gather(state, b.constant(np.int64(d)))
    return filled(b, b.concat(size_of(b, x, 1), size_of(b, r, 1), axis=0), 0, x)


def _one_way(
    op: Recurrent, b: Builder, x: Value, start: list[Value], lengths: Value | None, k: Weights,
    back: bool, functions: tuple[Function, ...], step: Step,
) -> list[Value]:  # fmt: skip
    """All hidden states [t,n,h] and the last states [n,h] of one direction."""
    from ..build import Builder
    from .loops import Scan

    turn = back and lengths is not None
    x = b.reverse_sequence(x, lengths) if turn else x
    scanned = [x] if lengths is None else [x, _live(b, x, lengths)]
    weights = [v for v in k if v is not None]
    inner = Builder()
    states = [inner.graph.add_input(f"s{i}", s.type)[0] for i, s in enumerate(start)]
    read = [inner.graph.add_input(f"x{i}", v.type.with_shape(known_shape(v)[1:]))[0]
            for i, v in enumerate(scanned)]  # fmt: skip
    held = iter([inner.graph.add_input(f"w{i}", v.type)[0] for i, v in enumerate(weights)])
    inside = Weights(next(held), next(held), *(None if v is None else next(held) for v in k[2:]))
    new = step(op, inner, read[0], states, inside, functions)
    if lengths is not None:
        live = read[1]
        y = inner.where(live, new[0], inner.number(0, new[0]))
        new = tuple(inner.where(live, v, s) for v, s in zip(new, states))
    else:
        y = inner.identity(new[0])
    body = inner.outputs(**{f"t{i}": v for i, v in enumerate(new)}, y=y)
    way = int(back and lengths is None)
    scan = Scan(
        states=len(start), num_scan_inputs=len(scanned), body=body,
        scan_input_directions=(way,) * len(scanned), scan_output_directions=(way,),
    )  # fmt: skip
    *last, y = b.add_op(scan, *start, *scanned, *weights)
    if lengths is not None:
        y = b.reverse_sequence(y, lengths) if turn else y
        some = b.reshape(b.greater(lengths, np.int64(0)), ints(b, -1, 1))
        last = [b.where(some, v, b.number(0, v)) for v in last]
    return [y, *last]


def _live(b: Builder, x: Value, lengths: Value) -> Value:
    """bool[t,n,1]: whether a sequence has this step."""
    time = b.reshape(places(b, x, 0), ints(b, -1, 1, 1))
    return b.less(time, b.reshape(lengths, ints(b, 1, -1, 1)))


def _sums(b: Builder, x: Value, weight: Value, bias: Value | None) -> Value:
    return b.gemm(x, weight, bias, transB=True)


def _bounded(op: Recurrent, b: Builder, x: Value) -> Value:
    return x if op.clip is None else b.clip(x, b.number(-op.clip, x), b.number(op.clip, x))


def _apply(b: Builder, f: Function, x: Value) -> Value:
    """A function as nodes."""
    alpha, beta = f.alpha, f.beta
    match f.name:
        case "Affine":
            return b.add(b.mul(x, b.number(alpha, x)), b.number(beta, x))
        case "ScaledTanh":
            return b.mul(b.tanh(b.mul(x, b.number(beta, x))), b.number(alpha, x))
        case "HardSigmoid":
            return b.hard_sigmoid(x, alpha=alpha, beta=beta)
        case "LeakyRelu":
            return b.leaky_relu(x, alpha=alpha)
        case "ThresholdedRelu":
            return b.thresholded_relu(x, alpha=alpha)
        case "Elu":
            return b.elu(x, alpha=alpha)
    return getattr(b, f.name.lower())(x)


def rnn_step(
    op: RNN, b: Builder, x: Value, state: list[Value], k: Weights, f: tuple[Function, ...]
) -> tuple[Value, ...]:
    total = b.add(_sums(b, x, k.w, k.wb), _sums(b, state[0], k.r, k.rb))
    return (_apply(b, f[0], _bounded(op, b, total)),)


def _gates(b: Builder, x: Value, count: int) -> list[Value]:
    return list(b.split(x, axis=1, num_outputs=count))


def gru_step(
    op: GRU, b: Builder, x: Value, state: list[Value], k: Weights, f: tuple[Function, ...]
) -> tuple[Value, ...]:
    (h,) = state
    xz, xr, xn = _gates(b, _sums(b, x, k.w, k.wb), 3)
    rows = list(b.split(k.r, axis=0, num_outputs=3))
    biases = [None] * 3 if k.rb is None else list(b.split(k.rb, axis=0, num_outputs=3))
    z, reset = (
        _apply(b, f[0], _bounded(op, b, b.add(v, _sums(b, h, r, c))))
        for v, r, c in zip((xz, xr), rows, biases)
    )
    if op.linear_before_reset:
        rest = b.mul(reset, _sums(b, h, rows[2], biases[2]))
    else:
        rest = _sums(b, b.mul(reset, h), rows[2], biases[2])
    n = _apply(b, f[1], _bounded(op, b, b.add(xn, rest)))
    return (b.add(n, b.mul(z, b.sub(h, n))),)


def lstm_step(
    op: LSTM, b: Builder, x: Value, state: list[Value], k: Weights, f: tuple[Function, ...]
) -> tuple[Value, ...]:
    h, c = state
    i, o, forget, n = _gates(b, b.add(_sums(b, x, k.w, k.wb), _sums(b, h, k.r, k.rb)), 4)
    peep = None if k.p is None else b.split(k.p, axis=0, num_outputs=3)

    def gate(v: Value, place: int, cell: Value) -> Value:
        v = v if peep is None else b.add(v, b.mul(peep[place], cell))
        return _apply(b, f[0], _bounded(op, b, v))

    i = gate(i, 0, c)
    forget = b.sub(b.number(1, i), i) if op.input_forget else gate(forget, 2, c)
    c = b.add(b.mul(forget, c), b.mul(i, _apply(b, f[1], _bounded(op, b, n))))
    return b.mul(gate(o, 1, c), _apply(b, f[2], c)), c


@implements(RNN, "definition")
def _rnn(op: RNN, b: Builder, *operands: Value | None) -> Any:
    return recurrent_nodes(op, b, operands, rnn_step)


@implements(GRU, "definition")
def _gru(op: GRU, b: Builder, *operands: Value | None) -> Any:
    return recurrent_nodes(op, b, operands, gru_step)


@implements(LSTM, "definition")
def _lstm(op: LSTM, b: Builder, *operands: Value | None) -> Any:
    return recurrent_nodes(op, b, operands, lstm_step)

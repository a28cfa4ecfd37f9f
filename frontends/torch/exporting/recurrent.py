"""LSTM, GRU and plain recurrent layers by PyTorch's own functions."""

from __future__ import annotations

import torch
from torch import Tensor

from ....ir.ops.recurrent import LSTM, RNN
from ..importing.recurrent import ORDERS
from .table import Step, computes, refuses


@refuses("lstm", "gru", "rnn")
def _unlike(step: Step) -> str | None:
    """What PyTorch's layers cannot do."""
    op = step.op
    if op.clip is not None or any(o is not None for o in (step.operands[4:5] + step.operands[7:])):
        return "a recurrent layer with a clip, lengths or peepholes"
    if getattr(op, "input_forget", False) or not getattr(op, "linear_before_reset", True):
        return "a recurrent layer with these gates"
    names = {f.name for way in op.functions() for f in way}
    usual = names == set(op.usual) or (isinstance(op, RNN) and names == {"Relu"})
    return None if usual else f"a recurrent layer with {', '.join(sorted(names))}"


@computes("lstm", "gru", "rnn")
def recurrent(
    step: Step, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, _: None = None,
    *states: Tensor | None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    op, ways, hidden = step.op, w.shape[0], r.shape[2]
    x = x if op.layout == 0 else x.transpose(0, 1)
    x = x.flip(0) if op.direction == "reverse" else x
    begin = [_state(s, op.layout, (ways, x.shape[1], hidden), x)
             for s in (*states, None, None)[: op.states]]  # fmt: skip
    name = {"rnn": "rnn_tanh"}.get(op.name, op.name)
    run = getattr(torch._VF, "rnn_relu" if op.functions()[0][0].name == "Relu" else name)
    params = [p for way in range(ways) for p in _weights(op.name, way, w, r, b)]
    y, *last = run(x, begin if isinstance(op, LSTM) else begin[0], params, b is not None, 1, 0.0,
                   False, ways == 2, False)  # fmt: skip
    y = y.flip(0) if op.direction == "reverse" else y
    y = y.unflatten(2, (ways, hidden))
    if op.layout == 1:
        found = (y.transpose(0, 1), *(s.transpose(0, 1) for s in last))
    else:
        found = (y.transpose(1, 2), *last)
    return found[: op.outputs] if op.outputs > 1 else found[0]


def _state(given: Tensor | None, layout: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if given is None:
        return like.new_zeros(shape)
    return (given if layout == 0 else given.transpose(0, 1)).contiguous()


def _weights(op: str, way: int, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """One direction's, their gates in PyTorch's order."""
    each = [w[way], r[way], *(() if b is None else b[way].chunk(2))]
    order = ORDERS[op]
    if len(order) == 1:
        return each
    places = [order.index(k) for k in range(len(order))]
    return [torch.cat([p.chunk(len(order))[k] for k in places]) for p in each]

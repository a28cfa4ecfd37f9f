"""Recurrent networks as people train them on series: convolutions over time, then recurrent layers
with or without states and lengths, then a head for each step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from taut.ir import Graph, Value

from .families import Net

CELLS = {"lstm": 4, "gru": 3, "rnn": 1}


class Series(Net):
    """Layers onto a value [batch, channels, time]."""

    channels: int
    batch: Any
    time: Any

    def conv(self, x: Value) -> Value:
        """Over time, padded so that no step is lost; an activation, mostly."""
        out, kernel = self.draw(st.integers(1, 6)), self.pick(1, 3)
        weight = self.floats(out, self.channels, kernel, scale=(kernel * self.channels) ** -0.5)
        y = self.b.conv(x, weight, self.floats(out), pads=(kernel // 2, kernel // 2))
        self.channels = out
        return self.activate(y) if self.pick(True, True, False) else y

    def layer(self, x: Value, index: int) -> Value:
        """A recurrent layer over [time, batch, channels]: [time, batch, directions * hidden]."""
        cell, hidden = self.pick(*CELLS), self.draw(st.integers(1, 6))
        direction = self.pick("forward", "reverse", "bidirectional")
        ways, rows = 1 + (direction == "bidirectional"), CELLS[cell] * hidden
        scale = max(self.channels, hidden) ** -0.5
        operands: list[Any] = [
            x, self.floats(ways, rows, self.channels, scale=scale),
            self.floats(ways, rows, hidden, scale=scale), self.floats(ways, 2 * rows),
        ]  # fmt: skip
        if self.pick(False, True):
            shape = (ways, self.batch, hidden)
            operands += [None, self.b.input(f"h{index}", "f32", shape)]
            if cell == "lstm":
                operands.append(self.b.input(f"c{index}", "f32", shape))
        at: dict[str, Any] = {"direction": direction}
        if cell == "gru":
            at["linear_before_reset"] = self.pick(False, True)
        y = getattr(self.b, cell)(*operands, **at)
        self.channels = ways * hidden
        y = self.b.transpose(y, perm=(0, 2, 1, 3))
        return self.b.reshape(y, np.array([0, 0, self.channels], np.int64))


@st.composite
def recurrents(draw: st.DrawFn, awkward: Iterable[str] = (), max_layers: int = 2) -> Graph:
    """Series networks, f32[batch, channels, time]: conv, then lstm, gru or rnn, then a head."""
    net = Series(draw, awkward)
    net.batch, net.time = net.pick(1, "batch", 2), net.pick("time", 1, 4)
    net.channels = draw(st.integers(1, 4))
    x = net.b.input("x", "f32", (net.batch, net.channels, net.time))
    for _ in range(draw(st.integers(0, 2))):
        x = net.conv(x)
    x = net.b.transpose(x, perm=(2, 0, 1))
    for index in range(draw(st.integers(1, max_layers))):
        x = net.layer(x, index)
    if draw(st.booleans()):
        x = net.b.add(net.b.mat_mul(x, net.floats(net.channels, 2)), net.floats(2))
        x = net.b.sigmoid(x)
    return net.b.outputs(y=x)

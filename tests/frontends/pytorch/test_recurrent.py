"""Recurrent layers of PyTorch: gates in their order, layers and directions in theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bridge import agrees, randn, same, torch
from taut.ir import Builder, UnsupportedError, Value, equal, interpret

import taut

nn = torch.nn


class Wrapped(nn.Module):
    """A layer whose states are outputs of their own."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any, *states: Any) -> Any:
        given = (states if len(states) > 1 else states[0]) if states else None
        y, last = self.layer(x, given)
        return (y, *last) if isinstance(last, tuple) else (y, last)


@pytest.mark.parametrize("options", [
    {}, {"num_layers": 3, "batch_first": True}, {"bidirectional": True, "num_layers": 2},
    {"bias": False, "bidirectional": True, "batch_first": True, "dropout": 0.5, "num_layers": 2},
], ids=["plain", "deep", "both", "odd"])  # fmt: skip
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "relu"])
def test_layers(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    more = {"nonlinearity": "relu"} if kind == "relu" else {}
    layer = getattr(nn, "RNN" if kind == "relu" else kind)(5, 7, **options, **more)
    depth = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    x = randn(4, 4, 5)
    agrees(Wrapped(layer), [(x,)])
    states = [randn(depth, 4, 7) for _ in range(2 if kind == "LSTM" else 1)]
    agrees(Wrapped(layer), [(x, *states)], compiled=False)


@pytest.mark.parametrize("options", [
    "layout=1", "direction=reverse", "direction=bidirectional outputs=2", "outputs=2",
])  # fmt: skip
@pytest.mark.parametrize("op", ["lstm", "gru", "rnn", "rnn-relu"])
def test_graphs_as_modules(op: str, options: str) -> None:
    b, rng = Builder(), np.random.default_rng(0)
    chosen = dict(o.split("=") for o in options.split())
    known: dict[str, Any] = {k: int(v) if v.isdigit() else v for k, v in chosen.items()}
    known |= {"gru": {"linear_before_reset": True}, "rnn-relu": {"activations": ("Relu", "Relu")}
              }.get(op, {})  # fmt: skip
    if op == "rnn-relu" and "bidirectional" not in options:
        known["activations"] = ("Relu",)
    gates, ways = {"lstm": 4, "gru": 3}.get(op, 1), 2 if "bidirectional" in options else 1
    op = op.removesuffix("-relu")

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    x = b.input("x", "f32", (3, 2, 5))
    state = draw(3, ways, 4) if "layout" in options else draw(ways, 2, 4)
    made = getattr(b, op)(x, draw(ways, gates * 4, 5), draw(ways, gates * 4, 4),
                          draw(ways, gates * 8), None, state, **known)  # fmt: skip
    results = (made,) if isinstance(made, Value) else made
    graph = b.outputs(**{f"y{i}": v for i, v in enumerate(results)})
    x0 = draw(3, 2, 5)
    module = taut.to_torch(graph)
    got = module(torch.from_numpy(x0))
    same(interpret(graph, {"x": x0}), {k: v.detach().numpy() for k, v in got.items()}, op)
    sum(v.sum() for v in got.values()).backward()
    assert all(p.grad is not None for p in module.parameters())
    assert equal(module.to_graph(), graph)


def test_gates_that_pytorch_does_not_have() -> None:
    b = Builder()
    x, w, r = (np.ones(s, np.float32) for s in ((3, 2, 5), (1, 12, 5), (1, 12, 4)))
    graph = b.outputs(y=b.gru(b.input("x", "f32", x.shape), w, r, name="layer"))
    with pytest.raises(UnsupportedError, match=r"layer.*gates"):
        taut.to_torch(graph)


def test_batches_of_any_size() -> None:
    """torch.export itself fixes the number of steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True))

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = model, nn.Linear(8, 3)

        def forward(self, ids: Any) -> Any:
            return self.head(self.model(ids)[0][:, -1])

    calls = [(torch.randint(0, 20, size),) for size in ((2, 5), (3, 5), (1, 5))]
    graph = agrees(Reader(), calls, {"ids": {0: "batch"}})
    assert graph.inputs[0].type.shape == ("batch", 5)


def test_what_is_not_supported_is_said() -> None:
    with pytest.raises(UnsupportedError, match="proj_size"):
        taut.from_torch(Wrapped(nn.LSTM(5, 7, proj_size=3)), (randn(4, 4, 5),))

"""Recurrent layers of PyTorch: gates in their order, layers and directions in theirs."""

from __future__ import annotations

from typing import Any

import pytest
from bridge import agrees, randn, torch
from taut.ir import UnsupportedError

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

"""Small modules drawn at random, of any size, against PyTorch: evaluation, and training."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from bridge import randn, torch
from taut.frontends.torch import NotCarried
from taut.ir import FeedError, ModelError, UnsupportedError

import taut
from taut.training import Recipe, Trainer

nn, F = torch.nn, torch.nn.functional


class Apply(nn.Module):
    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Any) -> Any:
        return self.f(x)


class Gate(nn.Module):
    """A branch on the size, and a residual."""

    def __init__(self, channels: int, least: int) -> None:
        super().__init__()
        self.conv, self.least = nn.Conv1d(channels, channels, 3, padding=1), least

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if x.shape[2] > self.least else x * 2


def layer(random: Any, channels: int) -> tuple[Any, int]:
    """One layer over [n, channels, length], and how many channels it makes."""
    whole = lambda low, high: int(random.integers(low, high + 1))  # noqa: E731
    made = whole(2, 5)
    match whole(0, 13):
        case 0:
            return nn.Conv1d(channels, made, whole(1, 3), whole(1, 2), padding=1), made
        case 1:
            return nn.BatchNorm1d(channels, momentum=float(random.uniform(0.1, 0.9))), channels
        case 2:
            return nn.GroupNorm(1, channels), channels
        case 3:
            return nn.InstanceNorm1d(channels, affine=True), channels
        case 4:
            return nn.ConvTranspose1d(channels, made, 3, 2, 1, output_padding=whole(0, 1)), made
        case 5:
            factor, mode = float(random.choice([2, 1.5, 0.6])), str(random.choice(
                ["nearest", "linear"]))  # fmt: skip
            return nn.Upsample(scale_factor=factor, mode=mode), channels
        case 6:
            pool = nn.AvgPool1d if whole(0, 1) else nn.MaxPool1d
            return pool(2, ceil_mode=bool(whole(0, 1))), channels
        case 7:
            return Apply(lambda x: F.pad(x, (1, -x.shape[2] % 4), "replicate")), channels
        case 8:
            return Apply(lambda x: x[:, :, : x.shape[2] // 2 + 1] + x.mean(2, True)), channels
        case 9:
            return Apply(lambda x: torch.cat([x, x.flip(2) * 0.5], 2)), channels
        case 10:
            return Gate(channels, whole(2, 9)), channels
        case 11:
            act = [nn.Softplus(2, 1), nn.GELU(), nn.Hardtanh(-0.5, 0.5), nn.ELU(0.7), nn.Mish(),
                   nn.Softshrink(0.1), nn.PReLU(channels)]  # fmt: skip
            return act[whole(0, len(act) - 1)], channels
        case 12:
            return nn.Dropout1d(0.0), channels
    return Apply(lambda x: x.softmax(2) + (x * x).sum(1, keepdim=True).sqrt()), channels


def drawn(seed: int) -> Any:
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layers, channels = [], 3
    for _ in range(int(random.integers(2, 6))):
        made, channels = layer(random, channels)
        layers.append(made)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 3))


SIZES = [(2, 7), (3, 12), (1, 5), (2, 30), (4, 2)]


@pytest.mark.parametrize("seed", range(8))
def test_drawn_modules_of_any_size(seed: int) -> None:
    """Each size is right or refused by a condition; the first one is right."""
    module = drawn(seed).eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotCarried)
            graph = taut.from_torch(module, (randn(3, 3, 11),),
                                    dynamic_shapes={"input": {0: "n", 2: "l"}})  # fmt: skip
    except ModelError as error:  # the exporter itself wants one size, and says so
        assert "Constraints violated" in str(error)
        return
    program = taut.compile(taut.optimize(graph), threads=1) if seed < 3 else None
    for n, length in ((3, 11), *SIZES):
        x = randn(n, 3, length, seed=length)
        for run in filter(None, (lambda a: taut.reference(graph, a), program)):
            try:
                got = next(iter(run(x.numpy()).values()))
            except FeedError as error:
                assert graph.conditions and "where the model" in str(error), error
                assert (n, length) != (3, 11)
                continue
            with torch.no_grad():
                want = module(x).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=str(module))


@pytest.mark.parametrize("seed", range(100, 108))
def test_drawn_modules_train_as_in_pytorch(seed: int) -> None:
    module = drawn(seed)
    x, y = randn(6, 3, 11), torch.tensor([0, 1, 2, 0, 1, 2])
    graph = taut.from_torch(module, (x,))
    try:
        trainer = Trainer(graph, Recipe(optimizer="sgd", metrics=()), target="reference")
    except UnsupportedError as error:
        pytest.skip(f"has no gradient: {error}")
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.05)
    for _ in range(2):
        loss = F.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        got = trainer.step((x.numpy(), y.numpy()), learning_rate=0.05)
        assert got["loss"] == pytest.approx(float(loss.detach()), rel=1e-3)
    ours = {**trainer.parameters, **trainer.statistics}
    for name, tensor in module.state_dict().items():
        if name in ours:  # else no branch that was taken reads it
            np.testing.assert_allclose(ours[name], tensor.detach().numpy(), rtol=2e-3, atol=2e-4,
                                       err_msg=f"{name} of {module}")  # fmt: skip

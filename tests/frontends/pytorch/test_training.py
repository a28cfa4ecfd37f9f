"""What a module does in training only, and whether it comes along: noise, statistics, weights."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from bridge import randn, torch
from taut.frontends.torch import NotCarried
from taut.passes.gradient import trainable
from taut.passes.gradient.dropout import dropout_ratios

import taut
from taut.training import Recipe, Trainer

nn, F = torch.nn, torch.nn.functional


class Function(nn.Module):
    def __init__(self, f: Any, **parts: Any) -> None:
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.f(self, x)


# ---- noise -------------------------------------------------------------------------------------

FORMS = {
    "plain": (nn.Dropout(0.4), (6, 8, 5), ()),
    "in place": (nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.4, inplace=True)), (6, 8, 5), ()),
    "channels of a line": (nn.Dropout1d(0.4), (6, 8, 5), (2,)),
    "channels of an image": (nn.Dropout2d(0.4), (6, 8, 3, 4), (2, 3)),
    "channels of a block": (nn.Dropout3d(0.4), (6, 8, 2, 3, 2), (2, 3, 4)),
    "alpha": (nn.AlphaDropout(0.4), (6, 8, 5), ()),
    "alpha of channels": (nn.FeatureAlphaDropout(0.4), (6, 8, 3, 4), (2, 3)),
    "in forward": (Function(lambda m, x: F.dropout(x, 0.4, m.training)), (6, 8, 5), ()),
    "of channels in forward": (Function(lambda m, x: F.dropout2d(x, 0.4, m.training)),
                               (6, 8, 3, 4), (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_dropout_is_kept(name: str) -> None:
    module, shape, shared = FORMS[name]
    x = randn(*shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCarried)
        graph = taut.from_torch(module, (x,))
    assert list(dropout_ratios(graph).values()) == [pytest.approx(0.4)]
    step = taut.optimize(graph, "dropout-masks")
    (keep,) = [n for n in step.inputs if n.name.startswith("keep.")]
    assert keep.type.shape == tuple(1 if i in shared else n for i, n in enumerate(shape))
    # As PyTorch's own, for the mask that it drew.
    ones = torch.ones(shape) if name != "in place" else x
    want = module.train()(ones)
    kept = want > want.min() + 1e-6 if "alpha" in name else want != 0
    for axis in shared:
        kept = kept.any(axis, keepdim=True)
    feeds = {graph.inputs[0].name: ones.numpy(), keep.name: kept.numpy()}
    got = next(iter(taut.reference(step, **feeds).values()))
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_to_torch_drops_in_every_form(name: str) -> None:
    module, shape, shared = FORMS[name]
    ones = torch.ones(64, 32, *shape[2:])
    copy = taut.to_torch(taut.from_torch(module, (ones,)))
    got = next(iter(copy(ones).values()))
    rows = got.reshape(64 * 32, -1) if shared else got.reshape(-1, 1)
    if name != "in place":
        assert (rows == rows[:, :1]).all()  # together
        assert len(set(rows[:, 0].tolist())) == 2
    low = rows[:, 0] == rows.min() if name != "in place" else rows[:, 0] == 0
    assert abs(float(low.float().mean()) - 0.4) < 0.06
    assert torch.equal(next(iter(copy.eval()(ones).values())), module.eval()(ones))


def test_dropout_between_recurrent_layers() -> None:
    module = nn.LSTM(4, 5, num_layers=3, dropout=0.3)
    graph = taut.from_torch(module, (randn(6, 2, 4),))
    assert [round(r, 6) for r in dropout_ratios(graph).values()] == [0.3, 0.3]
    made = taut.reference(graph, randn(6, 2, 4).numpy())
    want = module.eval()(randn(6, 2, 4))[0].detach().numpy()
    np.testing.assert_allclose(next(iter(made.values())), want, rtol=1e-4, atol=1e-5)


# ---- what is trained ---------------------------------------------------------------------------


def trained(module: Any, x: Any, y: Any, steps: int = 3) -> tuple[dict[str, Any], Any]:
    """The parameters after some steps of plain descent: ours by name, and PyTorch's module."""
    graph = taut.from_torch(module, (x,))
    trainer = Trainer(graph, Recipe(optimizer="sgd"), threads=1)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(steps):
        trainer.step((x.numpy(), y.numpy()), learning_rate=0.5)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    return {n.name: n.op.value for n in trainer.graph.of(taut.ir.op_class("constant"))}, module


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4, padding_idx=2)
        with torch.no_grad():
            self.table.weight[2] = 1.0  # not 0, so that to be kept says something
        self.register_buffer("places", randn(5, 4))
        self.fixed = nn.Parameter(randn(4), requires_grad=False)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Any) -> Any:
        return self.head((self.table(ids) + self.places).mean(1) * self.fixed)


def test_padding_buffers_and_fixed_parameters_stay() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[0, 2, 2, 4, 6], [1, 3, 2, 5, 2]])
    module = Tokens()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph = taut.from_torch(module, (ids,))
    assert set(trainable(graph)) == {"table.weight", "head.weight", "head.bias"}
    ours, theirs = trained(module, ids, torch.tensor([0, 2]))
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=1e-4, atol=1e-6)
    assert torch.equal(theirs.table.weight[2], before["table.weight"][2])
    assert np.array_equal(ours["places"], before["places"].numpy())


def test_to_torch_does_not_train_padding() -> None:
    ids = torch.tensor([[0, 2, 2, 4, 6], [1, 3, 2, 5, 2]])
    module = Tokens()
    copy = taut.to_torch(taut.from_torch(module, (ids,)))
    assert {k for k, _ in copy.named_parameters()} == {"table.weight", "head.weight", "head.bias"}
    for m in (module, copy):
        made = m(ids)
        F.cross_entropy(made if m is module else next(iter(made.values())),
                        torch.tensor([0, 2])).backward()  # fmt: skip
    ours, theirs = copy.constant("table.weight").grad, module.table.weight.grad
    assert torch.allclose(ours, theirs, atol=1e-6) and not ours[2].any() and ours[0].any()


@pytest.mark.parametrize("rows", [2, 5])
def test_running_statistics_are_pytorchs(rows: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4, momentum=0.3), nn.Flatten(),
                           nn.Linear(8, 3))  # fmt: skip
    x, y = randn(rows, 3, 2), torch.zeros(rows, dtype=torch.long)
    ours, theirs = trained(module, x, y)
    for name, tensor in theirs.state_dict().items():
        if "num_batches" not in name:
            np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=1e-3, atol=1e-5)


def test_tied_weights_train_as_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5)
            self.head.weight = self.table.weight

        def forward(self, ids: Any) -> Any:
            return self.head(self.table(ids).mean(1))

    torch.manual_seed(0)
    ours, theirs = trained(Tied(), torch.tensor([[0, 1], [2, 3]]), torch.tensor([1, 4]))
    assert sum(v.shape == (5, 4) for v in ours.values()) == 1
    weight = next(v for v in ours.values() if v.shape == (5, 4))
    np.testing.assert_allclose(weight, theirs.table.weight.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_weight_norm_trains_length_and_direction() -> None:
    torch.manual_seed(0)
    module = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    ours, theirs = trained(module, randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=1e-4, atol=1e-6)


# ---- what cannot come along --------------------------------------------------------------------

LOST = {
    "cumulative": (nn.BatchNorm1d(4, momentum=None), (6, 4), "running statistics stay"),
    "instances": (nn.InstanceNorm1d(4, track_running_stats=True), (6, 4, 3), "running statistics"),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True), (2, 3, 8),
                  "3 come along.*Attention"),
    "scores": (Function(lambda m, x: F.scaled_dot_product_attention(
        x, x, x, dropout_p=0.2 if m.training else 0.0)), (2, 2, 3, 4), "random"),
    "spectral": (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), (2, 4), "_u"),
    "noise": (Function(lambda m, x: x + torch.randn_like(x) if m.training else x), (3, 4),
              "random"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_what_does_not_come_along_is_said(name: str) -> None:
    module, shape, word = LOST[name]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.warns(NotCarried, match=word):
        taut.from_torch(module, (randn(*shape),))
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in state.items())

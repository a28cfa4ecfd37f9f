"""Graphs as modules: they compute what the reference does, train as PyTorch's own do, and come
back as graphs with the weights as they are.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import networks
import numpy as np
import pytest
from bridge import by_torch, randn, same, torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taut.frontends.torch.tensors import to_array, to_tensor
from taut.ir import (
    Builder,
    FeedError,
    Graph,
    TautError,
    UnsupportedError,
    equal,
    interpret,
    parse,
    print_graph,
)

import taut
from taut.testing import difference, feeds, graphs

F, nn = torch.nn.functional, torch.nn
SETTINGS = settings(
    max_examples=60, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("op", ["l1", "l2", "sum_square", "log_sum", "log_sum_exp", "sum", "max"])
def test_reductions_of_a_scalar_still_compute(op: str) -> None:
    b = Builder()
    x = np.float32(-3 if op != "log_sum" else 3)
    graph = b.outputs(y=getattr(b, f"reduce_{op}")(b.input("x", "f32", ())))
    got = to_array(taut.to_torch(graph)(to_tensor(x))["y"])
    np.testing.assert_allclose(got, interpret(graph, {"x": x})["y"], rtol=1e-6)


# ---- any graph ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mlp", "cnn", "dag", "fusible", "transformer", "quantized"])
def test_drawn_graphs_run_alike(family: str) -> None:
    """And a module that was not trained gives its graph back, bit for bit."""
    counts: Counter[str] = Counter()

    @SETTINGS
    @given(st.data())
    def run(data: st.DataObject) -> None:
        graph = data.draw(graphs(family))
        inputs = data.draw(feeds(graph))
        try:
            want = interpret(graph, inputs)
        except TautError:
            return  # an index out of range, say
        try:
            module = taut.to_torch(graph).eval()
            got = module(*(to_tensor(inputs[n.name]) for n in graph.inputs))
        except UnsupportedError as error:
            assert error.node is not None and error.op is not None
            counts[f"refused {error.op}"] += 1
            return
        for name, array in want.items():
            reason = difference(array, to_array(got[name]), 1e-4, 1e-5)
            if reason is not None and family == "quantized" and array.size:
                # Sums in another order may round to the next step, here and there.
                off = np.abs(array.astype(np.float64) - to_array(got[name]))
                assert np.mean(off > 1e-5) <= 0.2 or np.sum(off > 1e-5) == 1, f"{name}: {reason}"
                counts["a step off"] += 1
                continue
            assert reason is None, f"{name}: {reason}, in\n{print_graph(graph)}"
        assert equal(module.to_graph(), graph)
        counts["ran"] += 1

    run()
    assert counts["ran"] >= 30 and counts["a step off"] < 10, counts


# ---- training ----------------------------------------------------------------------------------


def fit(module: Any, batches: list[Any], rate: float = 0.05) -> list[float]:
    """Steps of SGD towards random classes; the losses."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    losses = []
    for i, x in enumerate(batches):
        made = module(x)
        logits = next(iter(made.values())) if isinstance(made, dict) else made
        target = torch.arange(len(x)) * (i + 1) % logits.shape[1]
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def quiet(module: Any) -> Any:
    """Without dropout, whose random numbers two modules do not share."""
    for m in module.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return module


@pytest.mark.parametrize("name", ["ResNet", "MobileNetV3"])
def test_training_is_that_of_the_module_it_came_from(name: str) -> None:
    """Batch norms by the batch, running statistics, gradients, optimizer: after five steps all is
    the same; and the graph taken back computes what the module does, compiled too.
    """
    torch.manual_seed(0)
    original = quiet(getattr(networks, name)())
    graph = taut.from_torch(original, (randn(2, 3, 16, 16),), dynamic_shapes={"x": {0: "batch"}})
    module = taut.to_torch(graph)
    assert dict(module.named_parameters()).keys() == dict(original.named_parameters()).keys()
    batches = [randn(4, 3, 16, 16, seed=i) for i in range(5)]
    assert fit(module, batches) == pytest.approx(fit(original, batches), rel=1e-4)
    state = {k: v for k, v in original.state_dict().items() if "num_batches" not in k}
    assert module.state_dict().keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(module.state_dict()[key], value, rtol=1e-3, atol=1e-4)

    trained = taut.from_torch(module)
    x = randn(3, 3, 16, 16, seed=9)
    want = by_torch(module, [x])
    assert np.abs(want["logits" if "logits" in want else next(iter(want))]).max() > 0
    same(want, taut.reference(trained, x.numpy()), "reference")
    program = taut.compile(taut.optimize(trained), threads=1)
    same(want, program(x.numpy()), "compiled", rtol=1e-4)
    assert not equal(trained, graph) and trained.signature == graph.signature


def test_weights_go_both_ways_by_name() -> None:
    """A state_dict of the original loads into the module of its graph, and back."""
    torch.manual_seed(0)
    first, second = networks.MobileNetV3().eval(), networks.MobileNetV3().eval()
    x = randn(2, 3, 16, 16)
    module = taut.to_torch(taut.from_torch(first, (x,))).eval()
    state = {k: v for k, v in second.state_dict().items() if "num_batches" not in k}
    module.load_state_dict(state, strict=True)
    same(by_torch(second, [x]), by_torch(module, [x]), "loaded")
    first.load_state_dict(module.state_dict(), strict=False)
    same(by_torch(second, [x]), by_torch(first, [x]), "loaded back")


def test_a_transformer_trains() -> None:
    torch.manual_seed(0)
    original = quiet(networks.Bert()).eval()
    random = np.random.default_rng(0)
    ids, mask = torch.from_numpy(random.integers(1, 60, (4, 9))), torch.ones(4, 9, dtype=torch.long)
    module = taut.to_torch(taut.from_torch(original, (ids, mask))).eval()
    losses = []
    for m in (original, module):
        optimizer = torch.optim.SGD(m.parameters(), 0.1)
        for _ in range(4):
            loss = F.mse_loss(m(ids, mask)["pooled"], torch.ones(4, 32))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:4] == pytest.approx(losses[4:], rel=1e-4)
    assert losses[3] < 0.8 * losses[0]


def test_dropout_drops_in_training_only() -> None:
    module = taut.to_torch(taut.from_torch(nn.Dropout(0.5), (randn(4, 100),)))
    x = torch.ones(4, 100)
    (y,) = module.eval()(x).values()
    assert torch.equal(y, x)
    (y,) = module.train()(x).values()
    assert set(y.unique().tolist()) == {0.0, 2.0}


# ---- quantization-aware training ---------------------------------------------------------------


def quantized_graph() -> tuple[Graph, list[Any]]:
    torch.manual_seed(0)
    network = networks.ResNet().eval()
    batches = [randn(4, 3, 16, 16, seed=i) for i in range(4)]
    shapes = {"x": {0: "batch"}}
    graph = taut.from_torch(network, (batches[0],), dynamic_shapes=shapes)
    data = [b.numpy() for b in batches]
    return taut.optimize(graph, "int8-qdq", data=data), batches


def test_integer_weights_train_as_floats() -> None:
    """Fake quantization: the module rounds as the graph does, gradients pass the rounding, and
    what comes back are integers again, which lower to the same outputs.
    """
    graph, batches = quantized_graph()
    module = taut.to_torch(graph)
    integers = [n.name for n in graph.of(taut.ir.op_class("constant"))
                if n.name.endswith((".int8", ".int32"))]  # fmt: skip
    assert integers and set(integers) <= {n for n, _ in module.named_parameters()}
    before = by_torch(module, [batches[0]])
    close(taut.reference(graph, batches[0].numpy()), before)
    assert equal(module.to_graph(), graph)

    losses = fit(module, batches * 4, rate=0.02)
    assert losses[-1] < losses[0]
    trained = taut.from_torch(module)
    assert trained[integers[0]].type == graph[integers[0]].type
    assert any((trained[n][0].array != graph[n][0].array).any() for n in integers)
    want = by_torch(module, [batches[0]])
    assert max(np.abs(want[k] - before[k]).max() for k in want) > 1e-3
    close(taut.reference(trained, batches[0].numpy()), want)
    lowered = taut.optimize(trained, "lower-integer,cse,dce")
    assert any("integer" in n.op.name or n.op.name == "requantize" for n in lowered.nodes())
    close(taut.reference(lowered, batches[0].numpy()), want)


def close(a: Any, b: Any) -> None:
    """But for a rounding to the next step here and there: 30 dB."""
    for x, y in zip(a.values(), b.values(), strict=True):
        noise = np.square(x - y).mean()
        assert noise <= 1e-3 * np.square(x).mean(), (noise, np.square(x).mean())


def test_gradients_stop_where_a_quantizer_saturates() -> None:
    graph = parse("""
graph @main(%x: f32[4]) -> (%y: f32[4]) {
  %s = constant 0.5 : f32[]
  %z = constant 3 : i8[]
  %q = quantize_linear(%x, %s, %z) : i8[4]
  %y = dequantize_linear(%q, %s, %z) : f32[4]
  return %y
}
""")
    x = torch.tensor([0.3, -1000.0, 61.9, 63.0], requires_grad=True)
    (y,) = taut.to_torch(graph)(x).values()
    assert y.tolist() == [0.5, -65.5, 62.0, 62.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_integers_at_the_boundary_keep_their_type() -> None:
    graph = parse("""
graph @main(%x: f32[3]) -> (%q: u8[3]) {
  %s = constant 0.5 : f32[]
  %z = constant 3 : u8[]
  %q = quantize_linear(%x, %s, %z) : u8[3]
  return %q
}
""")
    (q,) = taut.to_torch(graph)(torch.tensor([1.0, -9.0, 999.0])).values()
    assert q.dtype is torch.uint8 and q.tolist() == [5, 0, 255]


# ---- names, copies, refusals -------------------------------------------------------------------

AWKWARD = ["forward", "a", "a.weight", "a.weight.b", "x..y", ".", "train", "_graph", "training",
           "parameters.0", "é ü", "to_graph"]  # fmt: skip


def test_any_name_of_a_constant_will_do() -> None:
    b = taut.ir.Builder()
    total = b.input("x", "f32", (2,))
    for i, name in enumerate(AWKWARD):
        total = b.add(total, b.constant(np.float32([i, 1]), name))
    graph = b.outputs(y=total)
    module = taut.to_torch(graph)
    assert len(dict(module.named_parameters())) == len(AWKWARD)
    (y,) = module(torch.zeros(2)).values()
    assert y.tolist() == [sum(range(len(AWKWARD))), len(AWKWARD)]
    with torch.no_grad():
        for i, name in enumerate(AWKWARD):
            module.constant(name).fill_(i)
    back = module.to_graph()
    assert [back[n][0].array.tolist() for n in AWKWARD] == [[i, i] for i in range(len(AWKWARD))]


def test_what_is_trained_can_be_chosen() -> None:
    graph = taut.from_torch(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), (randn(2, 3),))
    module = taut.to_torch(graph, trainable=lambda name: name.startswith("1."))
    assert [n for n, _ in module.named_parameters()] == ["1.weight", "1.bias"]
    assert set(dict(module.named_buffers())) >= {"0.weight", "0.bias"}


def test_a_module_can_be_copied_and_saved(tmp_path: Any) -> None:
    graph = taut.from_torch(networks.ResNet(), (randn(1, 3, 16, 16),))
    module = taut.to_torch(graph).eval()
    x = randn(1, 3, 16, 16, seed=4)
    want = by_torch(module, [x])
    twin = copy.deepcopy(module)
    with torch.no_grad():
        module.constant("fc.bias").add_(1)
    same(want, by_torch(twin, [x]), "copy")
    torch.save(twin.state_dict(), tmp_path / "state.pt")
    module.load_state_dict(taut.frontends.torch.load_state(tmp_path / "state.pt"))
    same(want, by_torch(module, [x]), "loaded")


def test_a_deep_graph_is_no_trouble() -> None:
    b = taut.ir.Builder()
    x = b.input("x", "f32", (1,))
    for _ in range(3000):
        x = b.relu(x)
    module = taut.to_torch(b.outputs(y=x))
    assert copy.deepcopy(module)(torch.ones(1))["y"].item() == 1.0


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.fc(self.conv(x).flatten(1)).exp() * 2 + 1).softmax(-1)


@pytest.mark.parametrize(("preset", "hint"), [("int8", "lower-integer"), ("O2", "inline-fusions")])
def test_ops_without_a_gradient_are_named(preset: str, hint: str) -> None:
    x = randn(2, 3, 4, 4)
    made = taut.optimize(taut.from_torch(Chain(), (x,)), preset, data=[x.numpy()])
    with pytest.raises(UnsupportedError, match=hint) as caught:
        taut.to_torch(made)
    assert caught.value.node in {n.name for n in made.nodes()}


def test_inlining_makes_an_optimized_graph_trainable() -> None:
    torch.manual_seed(0)
    x, ops = randn(2, 3, 16, 16), set[str]()
    for network, images in ((networks.MobileNetV3().eval(), x), (Chain(), x[..., :4, :4])):
        made = taut.optimize(taut.from_torch(network, (images,)), "O2,inline-fusions")
        ops |= {n.op.name for n in made.nodes()}
        same(by_torch(network, [images]), by_torch(taut.to_torch(made), [images]), "inlined")
    assert "fused_conv" in ops


def test_unfit_inputs_are_refused() -> None:
    module = taut.to_torch(taut.from_torch(nn.Linear(3, 2), (randn(2, 3),)))
    x = randn(2, 3)
    for args, named in [((), {}), ((x, x), {}), ((x,), {"input": x}), ((), {"z": x})]:
        with pytest.raises(FeedError, match="input"):
            module(*args, **named)
    with pytest.raises(FeedError, match=r"not torch\.float64"):
        module(x.double())
    same(by_torch(module, [x]), {"y": module(input=x)["linear"].detach().numpy()}, "by name")

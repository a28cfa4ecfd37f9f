"""Layers written by hand: names, seeds, initializers, and the same numbers as PyTorch's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.frontends.builder import (
    ACTIVATIONS,
    Network,
    fill,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    normal,
    ones,
    parameters,
    zeros,
)
from taut.ir import Graph, LimitError, Limits, UnsupportedError, Value, VerifyError, verify

import taut


def constants(graph: Graph) -> dict[str, np.ndarray]:
    return {n.name: n.op.value for n in graph.nodes() if n.op.name == "constant"}


def block(seed: Any, extra: bool = False) -> Graph:
    net = Network(seed=seed)
    x = net.input("image", (3, 8, 8))
    with net.scope("stage1"), net.scope("block0"):
        if extra:
            x = net.conv(x, 3, 1, name="extra")
        x = net.relu(net.batch_norm(net.conv(x, 4, 3, padding="same", name="conv"), name="bn"))
    return net.outputs(scores=net.classifier(net.global_average_pool(x), 10))


# ---- names and seeds ---------------------------------------------------------------------------


def test_names_follow_the_path_and_the_batch_is_a_symbol():
    graph = block(0)
    assert list(parameters(graph)) == [
        "stage1.block0.conv.weight", "stage1.block0.conv.bias", "stage1.block0.bn.gamma",
        "stage1.block0.bn.beta", "classifier.weight", "classifier.bias",
    ]  # fmt: skip
    assert {"stage1.block0.bn.mean", "stage1.block0.bn.var"} <= set(constants(graph))
    assert {"stage1.block0.conv", "stage1.block0.relu", "classifier"} <= {
        n.name for n in graph.nodes()
    }
    assert str(graph.signature.inputs["image"]) == "f32[batch,3,8,8]"
    assert str(graph.signature.outputs["scores"]) == "f32[batch,10]"
    assert graph["stage1.block0.bn"].op.training_mode is False  # type: ignore[attr-defined]
    verify(graph)


def test_layers_without_a_name_are_counted():
    net = Network()
    x = net.input("x", (4,))
    first, second = net.relu(net.linear(x, 4)), net.relu(net.linear(x, 4))
    assert [v.node.name for v in (first, second)] == ["relu", "relu_0"]
    assert "linear_0.weight" in parameters(net.outputs(a=first, b=second))


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_a_seed_gives_the_same_bits(seed: int):
    first, again = constants(block(seed)), constants(block(seed))
    other = constants(block(seed + 1))
    for name, array in first.items():
        assert array.tobytes() == again[name].tobytes()
    weight = "stage1.block0.conv.weight"
    assert not np.array_equal(first[weight], other[weight])


def test_a_layer_more_leaves_the_others_as_they_were():
    few, more = parameters(block(3)), parameters(block(3, extra=True))
    assert set(more) - set(few) == {"stage1.block0.extra.weight", "stage1.block0.extra.bias"}
    for name, array in few.items():
        np.testing.assert_array_equal(array, more[name])


def test_a_generator_is_drawn_from_in_order():
    made = parameters(block(np.random.default_rng(5)))["stage1.block0.conv.weight"]
    drawn = np.random.default_rng(5).standard_normal((4, 3, 3, 3), np.float32)
    np.testing.assert_array_equal(made, drawn * np.float32(np.sqrt(2 / 27)))


# ---- initializers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "variance", "is_uniform"),
    [
        (he_normal, 2 / 400, False), (he_uniform, 2 / 400, True),
        (glorot_normal, 2 / 500, False), (glorot_uniform, 2 / 500, True),
        (normal(0.3), 0.09, False),
    ],
)  # fmt: skip
def test_initializers_have_the_variance_they_promise(init, variance: float, is_uniform: bool):
    made = init(np.random.default_rng(0), (400, 250), 400, 100)
    assert made.dtype == np.float32 and made.shape == (400, 250)
    assert abs(made.mean()) < 5 * np.sqrt(variance / made.size)
    np.testing.assert_allclose(made.var(), variance, rtol=0.03)
    limit = np.sqrt(3 * variance)
    assert (np.abs(made).max() <= limit * (1 + 1e-6)) == is_uniform


def test_constant_initializers():
    random = np.random.default_rng(0)
    for init, value in ((zeros, 0), (ones, 1), (fill(0.25), 0.25)):
        np.testing.assert_array_equal(init(random, (2, 3), 3, 2), np.full((2, 3), value, "f4"))


def test_fans_count_connections_within_a_group():
    seen: list[tuple[int, int]] = []

    def init(random, shape, fan_in, fan_out):
        seen.append((fan_in, fan_out))
        return np.zeros(shape)

    net = Network()
    x = net.input("x", (8, 9, 9))
    net.linear(net.flatten(net.conv(x, 16, (3, 5), groups=4, init=init)), 7, init=init)
    assert seen == [(2 * 15, 4 * 15), (16 * 7 * 5, 7)]


def test_given_arrays_are_the_weights():
    net, mine = Network(), np.arange(6, dtype=np.float32).reshape(2, 3)
    net.linear(net.input("x", (3,)), 2, init=mine, bias_init=1.5, name="fc")
    mine += 1  # the graph has its own copy
    graph = net.outputs(y=net.b.graph["fc"][0])
    y = taut.reference(graph, np.ones((1, 3), np.float32))["y"]
    np.testing.assert_array_equal(y, [[4.5, 13.5]])


# ---- against formulas and PyTorch --------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_channel_shuffle_deals_the_groups_out(groups: int, per: int, height: int, width: int):
    net, c = Network(), groups * per
    x = net.input("x", (c, height, width))
    graph = net.outputs(y=net.channel_shuffle(x, groups))
    value = np.random.default_rng(0).normal(size=(2, c, height, width)).astype(np.float32)
    y = taut.reference(graph, value)["y"]
    for i in range(groups):
        for j in range(per):
            np.testing.assert_array_equal(y[:, j * groups + i], value[:, i * per + j])


def ours(make: Callable[[Network, Value], Value], shape: tuple[int, ...], x: np.ndarray) -> Any:
    """A network of one part run on x: (parameters, result)."""
    net = Network(seed=7)
    graph = net.outputs(y=make(net, net.input("x", shape)))
    return constants(graph), taut.reference(graph, x)["y"]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def close(y: np.ndarray, theirs: Any) -> None:
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]), kernel=st.sampled_from([1, 3, (1, 3), (5, 3)]),
    stride=st.integers(1, 2), dilation=st.integers(1, 2), bias=st.booleans(),
)  # fmt: skip
def test_conv_is_torchs(groups: int, kernel: Any, stride: int, dilation: int, bias: bool):
    torch = pytest.importorskip("torch")
    x = random(2, 4, 9, 11)
    found, y = ours(
        lambda net, x: net.conv(x, 8, kernel, stride=stride, dilation=dilation, groups=groups,
                                padding="same", bias=bias, bias_init=normal(1.0), name="c"),
        (4, 9, 11), x,
    )  # fmt: skip
    k = (kernel, kernel) if isinstance(kernel, int) else kernel
    theirs = torch.nn.functional.conv2d(
        torch.tensor(x), torch.tensor(found["c.weight"]),
        torch.tensor(found["c.bias"]) if bias else None, stride, [dilation * (i // 2) for i in k],
        dilation, groups,
    )  # fmt: skip
    close(y, theirs)
    assert ("c.bias" in found) == bias


def fill_torch(module: Any, found: dict[str, np.ndarray], names: dict[str, str]) -> Any:
    """Load our constants into a torch module in eval mode: {its name: ours}."""
    torch = pytest.importorskip("torch")
    state = {k: torch.tensor(found[v]) for k, v in names.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all("num_batches" in m for m in missing)
    return module.eval()


def norm_names(theirs: str, mine: str) -> dict[str, str]:
    pairs = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
    return {f"{theirs}.{a}": f"{mine}.{b}" for a, b in pairs.items()}


def test_a_residual_block_is_torchs():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.n1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
            self.c2, self.n2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
            self.c3, self.n3 = nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.n2(self.c2(torch.relu(self.n1(self.c1(x)))))
            return torch.relu(y + self.n3(self.c3(x)))

    def drawn(net: Network, x: Value, filters: int, kernel: int, stride: int, name: str) -> Value:
        with net.scope(name):
            x = net.conv(x, filters, kernel, stride=stride, padding="same", bias=False, name="conv")
            return net.batch_norm(x, gamma=normal(1.0), beta=normal(1.0), mean=normal(1.0),
                                  var=lambda r, s, i, o: r.random(s) + 0.5, name="bn")  # fmt: skip

    def make(net: Network, x: Value) -> Value:
        return net.residual(
            x, lambda x: drawn(net, net.relu(drawn(net, x, 8, 3, 2, "a")), 8, 3, 1, "b"),
            shortcut=lambda x: drawn(net, x, 8, 1, 2, "c"),
        )  # fmt: skip

    x = random(2, 4, 7, 6)
    found, y = ours(make, (4, 7, 6), x)
    names = {f"c{i}.weight": f"{n}.conv.weight" for i, n in zip((1, 2, 3), "abc")}
    for i, n in zip((1, 2, 3), "abc"):
        names |= norm_names(f"n{i}", f"{n}.bn")
    close(y, fill_torch(Block(), found, names)(torch.tensor(x)))


def test_a_separable_block_is_torchs():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
    )  # fmt: skip
    x = 4 * random(2, 4, 7, 6)
    found, y = ours(
        lambda net, x: net.depthwise_separable(x, 6, stride=2, activation="relu6", name="b"),
        (4, 7, 6), x,
    )  # fmt: skip
    names = {"0.weight": "b.depthwise.conv.weight", "3.weight": "b.pointwise.conv.weight"}
    names |= norm_names("1", "b.depthwise.bn") | norm_names("4", "b.pointwise.bn")
    close(y, fill_torch(module, found, names)(torch.tensor(x)))


@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention_is_torchs(causal: bool):
    torch = pytest.importorskip("torch")
    net = Network(seed=2)
    x, memory = (net.input(n, (length, 12)) for n, length in (("x", 5), ("memory", 5)))
    y = net.multi_head_attention(x, 3, memory=memory, causal=causal)
    graph = net.outputs(y=y)
    found, a, b = constants(graph), random(2, 5, 12), random(4, 5, 12)[2:]
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    parts = [found[f"attention.{n}.weight"].T for n in ("query", "key", "value")]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate(parts)))
        theirs.out_proj.weight.copy_(torch.tensor(found["attention.out.weight"].T.copy()))
    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
    want, _ = theirs(torch.tensor(a), torch.tensor(b), torch.tensor(b), attn_mask=mask)
    close(taut.reference(graph, a, b)["y"], want)


def test_layer_norm_embedding_and_positions():
    net = Network(seed=4)
    ids = net.input("ids", ("length",), "i64")
    e = net.embedding(ids, 9, 4, name="word")
    y = net.layer_norm(net.b.add(e, net.positions(ids, 6, 4)), gamma=normal(1.0), name="norm")
    graph = net.outputs(y=y)
    found, value = constants(graph), np.array([[1, 8, 0], [2, 2, 7]])
    v = found["word.weight"][value] + found["position.weight"][:3]
    want = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
    made = taut.reference(graph, value)["y"]
    np.testing.assert_allclose(made, want * found["norm.gamma"], rtol=1e-4, atol=1e-6)
    with pytest.raises(taut.ir.FeedError, match="length is 7"):
        taut.reference(graph, np.zeros((1, 7), np.int64))


def test_pools_and_their_padding():
    x = random(1, 2, 5, 5)
    _, y = ours(lambda net, x: net.max_pool(x, 3, stride=2, padding=1), (2, 5, 5), x)
    assert y.shape == (1, 2, 3, 3) and y[0, 0, 0, 0] == x[0, 0, :2, :2].max()
    for counted, share in ((False, 4), (True, 9)):
        _, y = ours(
            lambda net, x, counted=counted: net.average_pool(
                x, 3, stride=2, padding="same", count_padding=counted),
            (2, 5, 5), x,
        )  # fmt: skip
        np.testing.assert_allclose(y[0, 0, 0, 0], x[0, 0, :2, :2].sum() / share, rtol=1e-5)
    _, y = ours(lambda net, x: net.global_average_pool(x), (2, 5, 5), x)
    np.testing.assert_allclose(y, x.mean((2, 3)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_run(kind: str):
    _, y = ours(lambda net, x: net.activation(x, kind), (6,), 9 * random(3, 6))
    assert y.shape == (3, 6) and np.isfinite(y).all()
    if kind == "relu6":
        assert y.min() == 0 and y.max() == 6


def test_dropout_does_nothing_until_training_switches_it():
    x = random(2, 3)
    found, y = ours(lambda net, x: net.dropout(x, 0.5, name="drop"), (3,), x)
    np.testing.assert_array_equal(y, x)
    assert found["drop.ratio"] == 0.5 and not found["drop.training"]
    net = Network()
    graph = net.outputs(y=net.dropout(net.input("x", (3,)), 0.5))
    assert [n.op.name for n in taut.optimize(graph, "O1").nodes()] == ["input", "return"]


class Stack:
    """Layers drawn on top of each other; `paths` are the names that their nodes must have."""

    def __init__(self, draw: st.DrawFn):
        self.draw, self.net = draw, Network(seed=draw(st.integers(0, 9)))
        self.paths: list[str] = []

    def layer(self, x: Value, name: str) -> Value:
        net, pick = self.net, lambda *choices: self.draw(st.sampled_from(choices))
        c = net.size(x)
        kind = pick("conv", "conv_bn", "separable", "shuffle", "residual", "pool", "activation")
        self.paths.append(f"{net.here}.{name}".lstrip("."))
        if kind == "conv":
            return net.conv(x, 4, pick(1, 3), padding="same", groups=pick(1, 2), name=name)
        if kind in ("conv_bn", "separable"):
            self.paths[-1] += ".conv" if kind == "conv_bn" else ".depthwise.conv"
            make = net.conv_bn if kind == "conv_bn" else net.depthwise_separable
            return make(x, pick(2, 6), 3, stride=pick(1, 2), activation="hard_swish", name=name)
        if kind == "shuffle":
            return net.channel_shuffle(x, 2, name=name)
        if kind == "residual":
            return net.residual(x, lambda x: net.conv(x, c, 1), name=name)
        if kind == "pool":
            return net.average_pool(x, 3, stride=1, padding="same", name=name)
        return net.activation(x, pick(*ACTIVATIONS), name=name)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_stack_of_layers_is_a_sound_graph(data: st.DataObject):
    stack = Stack(data.draw)
    x = stack.net.input("image", (2, 5, 4))
    for stage in range(data.draw(st.integers(1, 3))):
        with stack.net.scope(f"stage{stage}"):
            for i in range(data.draw(st.integers(1, 3))):
                x = stack.layer(x, f"layer{i}")
    graph = stack.net.outputs(y=stack.net.classifier(stack.net.global_average_pool(x), 3))
    verify(graph)
    assert set(stack.paths) <= {n.name for n in graph.nodes()}
    value = random(2, 2, 5, 4)
    want = taut.reference(graph, value)["y"]
    made = taut.reference(taut.optimize(graph, "O2"), value)["y"]
    np.testing.assert_allclose(made, want, rtol=1e-3, atol=1e-4)


# ---- refusals ----------------------------------------------------------------------------------


def image(net: Network) -> Value:
    return net.input("image", (6, 8, 8))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda n: n.conv(image(n), 8, 3, groups=4, name="c"), "c.*4 groups"),
        (lambda n: n.conv(image(n), 8, 2, padding="same", name="c"), "c.*odd size"),
        (lambda n: n.conv(image(n), 0, 3, name="c"), r"c\.weight.*1 or more"),
        (lambda n: n.conv(image(n), 8, 9, name="c"), '"c"'),
        (lambda n: n.linear(n.input("x", ("d",)), 3, name="fc"), "fc.*axis -1"),
        (lambda n: n.linear(n.input("x", (3,)), 3, init=np.zeros((2, 2), "f4"), name="fc"),
         r"fc\.weight.*\[2, 2\], not \[3, 3\]"),
        (lambda n: n.activation(image(n), "reul"), "reul.*relu6"),
        (lambda n: n.dropout(image(n), 1.0, name="d"), "d.*below 1"),
        (lambda n: n.channel_shuffle(image(n), 4, name="s"), "s.*4 groups"),
        (lambda n: n.channel_shuffle(n.input("x", (6, "h", 3)), 2, name="s"), "s.*should be num"),
        (lambda n: n.residual(image(n), lambda x: n.conv(x, 3, 1), name="r"), "r.*projects"),
        (lambda n: n.multi_head_attention(n.input("x", (3, 10)), 4), "attention.heads.*4 heads"),
        (lambda n: n.batch_norm(n.input("x", ("c", 2, 2)), name="bn"), "bn.*axis 1"),
        (lambda n: n.relu(n.relu(image(n), name="r"), name="r"), '"r".*there already'),
        (lambda n: n.relu(image(n), name="a.b"), "a.b"),
        (lambda n: Network(seed=-1), "seed"),
        (lambda n: Network(seed=1.5), "seed"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_layer(make, said: str):
    with pytest.raises(VerifyError, match=said):
        make(Network())


def test_sizes_are_held_to_limits_before_anything_is_drawn():
    with pytest.raises(LimitError, match=r"fc\.weight"):
        net = Network()
        net.linear(net.input("x", (1 << 20,)), 1 << 20, name="fc")
    net = Network(limits=Limits(model_bytes=1000))
    x = net.linear(net.input("x", (10,)), 10)
    with pytest.raises(LimitError, match="1000 bytes"):
        for _ in range(3):
            x = net.linear(x, 10)


def test_dropout_in_training_is_refused_where_nothing_runs_it():
    net = Network()
    with pytest.raises(UnsupportedError, match="dropout"):
        net.dropout(net.input("x", (3,)), 0.5, training=True)

"""Whole networks of the zoo written again in PyTorch, from the papers, with our weights by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from taut.frontends.zoo import zoo
from taut.ir import Graph, interpret
from taut.ir.ops.structure import Constant

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Twin:
    """PyTorch's functions over a graph's constants, which it changes first so that batch norms do
    something and biases count.
    """

    def __init__(self, graph: Graph):
        random = np.random.default_rng(0)
        self.graph = graph
        self.used: set[str] = set()
        for node in graph.of(Constant):
            kind = node.name.rpartition(".")[2]
            if kind in ("gamma", "beta", "mean", "var", "bias"):
                low = 0.5 if kind in ("gamma", "var") else -0.2
                made = random.uniform(low, low + 0.4, node.type.static_shape)
                graph.set_op(node, Constant(made.astype(np.float32)))

    def __getitem__(self, name: str) -> Any:
        self.used.add(name)
        return torch.tensor(self.graph[name][0].array)

    def conv(self, x: Any, at: str, stride: int = 1, groups: int = 1) -> Any:
        weight = self[f"{at}.conv.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, groups)
        mean, var, gamma, beta = (self[f"{at}.bn.{k}"] for k in ("mean", "var", "gamma", "beta"))
        return F.batch_norm(x, mean, var, gamma, beta, False, 0.1, 1e-5)

    def classify(self, x: Any) -> Any:
        return F.linear(x.mean((2, 3)), self["classifier.weight"], self["classifier.bias"])


def shuffle(x: Any, groups: int) -> Any:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def resnet_20(t: Twin, x: Any) -> Any:
    x = F.relu(t.conv(x, "stem"))
    for stage in (1, 2, 3):
        for block in range(3):
            at, stride = f"stage{stage}.block{block}", 2 if stage > 1 and not block else 1
            y = t.conv(F.relu(t.conv(x, f"{at}.a", stride)), f"{at}.b")
            if stride == 2:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = F.relu(x + y)
    return t.classify(x)


def resnet_50(t: Twin, x: Any) -> Any:
    x = F.max_pool2d(F.relu(t.conv(x, "stem", 2)), 3, 2, 1)
    for stage, count in enumerate((3, 4, 6, 3), 1):
        for block in range(count):
            at, stride = f"stage{stage}.block{block}", 2 if stage > 1 and not block else 1
            y = F.relu(t.conv(F.relu(t.conv(x, f"{at}.a")), f"{at}.b", stride))
            x = F.relu(t.conv(y, f"{at}.c") + (x if block else t.conv(x, f"{at}.shortcut", stride)))
    return t.classify(x)


def mobilenet_v1(t: Twin, x: Any) -> Any:
    x = F.relu(t.conv(x, "stem", 2))
    for i in range(13):
        x = F.relu(t.conv(x, f"block{i}.depthwise", 2 if i in (1, 3, 5, 11) else 1, x.shape[1]))
        x = F.relu(t.conv(x, f"block{i}.pointwise"))
    return t.classify(x)


def mobilenet_v2(t: Twin, x: Any) -> Any:
    x = F.relu6(t.conv(x, "stem", 2))
    for stage, (count, stride) in enumerate(zip((1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 2, 1, 2, 1)), 1):
        for block in range(count):
            at, y = f"stage{stage}.block{block}", x
            if stage > 1:
                y = F.relu6(t.conv(y, f"{at}.expand"))
            y = F.relu6(t.conv(y, f"{at}.depthwise", 1 if block else stride, y.shape[1]))
            y = t.conv(y, f"{at}.project")
            x = x + y if block else y
    return t.classify(F.relu6(t.conv(x, "last")))


def shufflenet_v1(t: Twin, x: Any) -> Any:
    x = F.max_pool2d(F.relu(t.conv(x, "stem", 2)), 3, 2, 1)
    for stage, count in ((2, 4), (3, 8), (4, 4)):
        for block in range(count):
            at, first = f"stage{stage}.block{block}", stage == 2 and not block
            y = F.relu(t.conv(x, f"{at}.reduce", 1, 1 if first else 3))
            y = y if first else shuffle(y, 3)
            y = t.conv(y, f"{at}.depthwise", 1 if block else 2, y.shape[1])
            y = t.conv(y, f"{at}.expand", 1, 3)
            mean = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            x = F.relu(x + y if block else torch.cat((mean, y), 1))
    return t.classify(x)


def shufflenet_v2(t: Twin, x: Any) -> Any:
    x = F.max_pool2d(F.relu(t.conv(x, "stem", 2)), 3, 2, 1)
    for stage, count in ((2, 4), (3, 8), (4, 4)):
        for block in range(count):
            at = f"stage{stage}.block{block}"
            left, y = x.chunk(2, 1) if block else (x, x)
            if not block:
                left = t.conv(left, f"{at}.left.depthwise", 2, x.shape[1])
                left = F.relu(t.conv(left, f"{at}.left.project"))
            y = F.relu(t.conv(y, f"{at}.reduce"))
            y = t.conv(y, f"{at}.depthwise", 1 if block else 2, y.shape[1])
            x = shuffle(torch.cat((left, F.relu(t.conv(y, f"{at}.expand"))), 1), 2)
    return t.classify(F.relu(t.conv(x, "last")))


@pytest.mark.parametrize(
    ("forward", "name", "arguments"),
    [
        (resnet_20, "resnet-20", {}),
        (resnet_50, "resnet-50", {"size": 64, "width": 0.25}),
        (mobilenet_v1, "mobilenet-v1", {"size": 64, "width": 0.25}),
        (mobilenet_v2, "mobilenet-v2", {"size": 64, "width": 0.35}),
        (shufflenet_v1, "shufflenet-v1", {"size": 64, "width": 0.5}),
        (shufflenet_v2, "shufflenet-v2", {"size": 64, "width": 0.5}),
    ],
)
def test_networks_are_the_papers(forward: Callable[..., Any], name: str, arguments: dict[str, Any]):
    graph = zoo(name, classes=7, **arguments)
    twin, size = Twin(graph), arguments.get("size", 32)
    x = np.random.default_rng(1).normal(size=(2, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        want = forward(twin, torch.tensor(x)).numpy()
    made = interpret(graph, {"image": x})["scores"]
    np.testing.assert_allclose(made, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    floats = {n.name for n in graph.of(Constant) if n.type.rank and n.type.dtype.is_float}
    assert twin.used == floats  # no weight of ours is left over

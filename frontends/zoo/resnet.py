"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016).

The last batch norm of each residual branch starts with gamma = 1 / sqrt(number of blocks). Without
it the signal of an untrained network doubles its variance with each block, since batch norm in
its form for inference does not scale it back (Zhang, Dauphin and Ma, "Fixup Initialization", 2019).
"""

from __future__ import annotations

import numpy as np

from ...ir import Graph, Value, VerifyError
from ..builder import Branch, Network, fill
from .registry import entry


@entry("resnet-110", depth=110)
@entry("resnet-56", depth=56)
@entry("resnet-44", depth=44)
@entry("resnet-32", depth=32)
@entry("resnet-20", depth=20)
def resnet_cifar(
    depth: int = 20, classes: int = 10, size: int = 32, channels: int = 3, width: float = 1.0,
    shortcut: str = "pad", seed: int = 0,
) -> Graph:  # fmt: skip
    """ResNet for CIFAR: three stages of (depth - 2) / 6 blocks, of 16, 32 and 64 filters.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]. Where a stage halves the size,
    the shortcut `pad`s with zero channels as in the paper (option A), or is a `projection` by a 1x1
    convolution (option B).
    """
    if depth % 6 != 2 or depth < 8:
        raise VerifyError(f"depth is {depth}, which should be 6 n + 2")
    if shortcut not in ("pad", "projection"):
        raise VerifyError(f"shortcut is {shortcut!a}, which should be pad or projection")
    net, count = Network(seed=seed), (depth - 2) // 6
    x = net.input("image", (channels, size, size))
    x = net.conv_bn(x, _scaled(16, width), 3, name="stem")
    for stage in range(3):
        filters = _scaled(16 << stage, width)
        for block in range(count):
            stride = 2 if stage and not block else 1
            with net.scope(f"stage{stage + 1}"), net.scope(f"block{block}"):
                x = _basic(net, x, filters, stride, shortcut, 3 * count)
    return net.outputs(scores=net.classifier(net.global_average_pool(x, name="pool"), classes))


_IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


@entry("resnet-50", depth=50)
@entry("resnet-34", depth=34)
@entry("resnet-18", depth=18)
def resnet(
    depth: int = 50, classes: int = 1000, size: int = 224, channels: int = 3, width: float = 1.0,
    seed: int = 0,
) -> Graph:  # fmt: skip
    """ResNet for ImageNet: 18 and 34 of basic blocks, 50 of bottlenecks.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]. Bottlenecks stride in their
    3x3 convolution, as all recent implementations do (4.1 G multiply-accumulates), where the
    paper's stride in the 1x1 before it (3.8 G).
    """
    if depth not in _IMAGENET:
        raise VerifyError(f"depth is {depth}, which should be one of {sorted(_IMAGENET)}")
    net, counts = Network(seed=seed), _IMAGENET[depth]
    block_of = _bottleneck if depth >= 50 else _basic
    x = net.input("image", (channels, size, size))
    x = net.conv_bn(x, _scaled(64, width), 7, stride=2, name="stem")
    x = net.max_pool(x, 3, stride=2, padding=1, name="pool1")
    for stage, count in enumerate(counts):
        filters = _scaled(64 << stage, width)
        for block in range(count):
            stride = 2 if stage and not block else 1
            with net.scope(f"stage{stage + 1}"), net.scope(f"block{block}"):
                x = block_of(net, x, filters, stride, "projection", sum(counts))
    return net.outputs(scores=net.classifier(net.global_average_pool(x, name="pool"), classes))


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


def _basic(net: Network, x: Value, filters: int, stride: int, shortcut: str, blocks: int) -> Value:
    """Two 3x3 convolutions."""

    def branch(x: Value) -> Value:
        x = net.conv_bn(x, filters, 3, stride=stride, name="a")
        return net.conv_bn(x, filters, 3, activation=None, gamma=fill(blocks**-0.5), name="b")

    return _block(net, x, branch, filters, stride, shortcut)


def _bottleneck(
    net: Network, x: Value, filters: int, stride: int, shortcut: str, blocks: int
) -> Value:
    """1x1, 3x3, and 1x1 to four times the filters."""

    def branch(x: Value) -> Value:
        x = net.conv_bn(x, filters, 1, name="a")
        x = net.conv_bn(x, filters, 3, stride=stride, name="b")
        return net.conv_bn(x, 4 * filters, 1, activation=None, gamma=fill(blocks**-0.5), name="c")

    return _block(net, x, branch, 4 * filters, stride, shortcut)


def _block(
    net: Network, x: Value, branch: Branch, filters: int, stride: int, shortcut: str
) -> Value:
    if stride == 1 and net.size(x) == filters:
        return net.residual(x, branch)
    if shortcut == "pad":
        return net.residual(x, branch, shortcut=lambda x: _pad(net, x, filters, stride))
    return net.residual(x, branch, shortcut=lambda x: net.conv_bn(
        x, filters, 1, stride=stride, activation=None, name="shortcut"))  # fmt: skip


def _pad(net: Network, x: Value, filters: int, stride: int) -> Value:
    """Every `stride`-th pixel, and zeros for the channels that are not there."""
    x = net.max_pool(x, 1, stride=stride, name="subsample")
    amounts = np.array([0, 0, 0, 0, 0, filters - net.size(x), 0, 0], np.int64)
    at = net.path("shortcut", "shortcut")
    return net.node("pad", at, x, net.b.constant(amounts, f"{at}.pads"))

"""ShuffleNets: grouped or split convolutions with the channels shuffled between them.

The stem for images of 32x32 has neither stride nor pooling.
"""

from __future__ import annotations

from ...ir import Graph, Value, VerifyError
from ..builder import Network
from .registry import entry

_BLOCKS = (4, 8, 4)

_V1 = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Channels of the first stage for each number of groups (the paper's Table 1)."""

_V2 = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024),
       2.0: (244, 488, 976, 2048)}  # fmt: skip
"""Channels of the stages and of the last convolution for each width (the paper's Table 5)."""


@entry("shufflenet-v1-cifar", classes=10, size=32, small=True)
@entry("shufflenet-v1")
def shufflenet_v1(
    classes: int = 1000, size: int = 224, channels: int = 3, width: float = 1.0, groups: int = 3,
    small: bool = False, seed: int = 0,
) -> Graph:  # fmt: skip
    """ShuffleNet (Zhang et al., 2018): bottlenecks of grouped 1x1 and depthwise 3x3 convolutions.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]. `groups` is 1, 2, 3, 4 or 8;
    `width` scales the filters (those of the stem by whole numbers above 1, as its authors do);
    `small` takes the stem for 32x32.
    """
    if groups not in _V1:
        raise VerifyError(f"groups is {groups}, which should be one of {sorted(_V1)}")
    net = Network(seed=seed)
    x = net.input("image", (channels, size, size))
    stem = 24 * (int(width) if width >= 1 else width)
    x = _stem(net, x, _multiple(stem, groups), small)
    first = _multiple(_V1[groups] * width, 4 * groups)
    for stage, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            with net.scope(f"stage{stage + 2}"), net.scope(f"block{block}"):
                inner = 1 if stage == block == 0 else groups
                x = _unit_v1(net, x, first << stage, groups, inner, 1 if block else 2)
    return net.outputs(scores=net.classifier(net.global_average_pool(x, name="pool"), classes))


def _multiple(channels: float, of: int) -> int:
    return max(of, -(-int(channels) // of) * of)


def _unit_v1(net: Network, x: Value, filters: int, groups: int, inner: int, stride: int) -> Value:
    """1x1 in groups, shuffle, 3x3 depthwise, 1x1 in groups; summed with x, or with a stride
    concatenated with its average.
    """
    middle = filters // 4
    c = net.size(x)

    def branch(x: Value) -> Value:
        y = net.conv_bn(x, middle, 1, groups=inner, name="reduce")
        if inner > 1:
            y = net.channel_shuffle(y, groups, name="shuffle")
        y = net.conv_bn(y, middle, 3, stride=stride, groups=middle, activation=None,
                        name="depthwise")  # fmt: skip
        made = filters - c if stride == 2 else filters
        return net.conv_bn(y, made, 1, groups=groups, activation=None, name="expand")

    if stride == 1:
        return net.residual(x, branch)
    mean = net.average_pool(x, 3, stride=2, padding=1, name="average")
    return net.relu(net.node("concat", net.path("join", "join"), mean, branch(x), axis=1))


@entry("shufflenet-v2-cifar", classes=10, size=32, small=True)
@entry("shufflenet-v2")
def shufflenet_v2(
    classes: int = 1000, size: int = 224, channels: int = 3, width: float = 1.0,
    small: bool = False, seed: int = 0,
) -> Graph:  # fmt: skip
    """ShuffleNetV2 (Ma et al., 2018): half of the channels go by, half through 1x1, 3x3, 1x1.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]. `width` is 0.5, 1.0, 1.5 or
    2.0; `small` takes the stem for 32x32.
    """
    if width not in _V2:
        raise VerifyError(f"width is {width}, which should be one of {sorted(_V2)}")
    *stages, last = _V2[width]
    net = Network(seed=seed)
    x = net.input("image", (channels, size, size))
    x = _stem(net, x, 24, small)
    for stage, (blocks, filters) in enumerate(zip(_BLOCKS, stages)):
        for block in range(blocks):
            with net.scope(f"stage{stage + 2}"), net.scope(f"block{block}"):
                x = _unit_v2(net, x) if block else _unit_v2_down(net, x, filters)
    x = net.conv_bn(x, last, 1, name="last")
    return net.outputs(scores=net.classifier(net.global_average_pool(x, name="pool"), classes))


def _unit_v2(net: Network, x: Value) -> Value:
    half = net.size(x) // 2
    kept, y = net.b.split(x, axis=1, num_outputs=2, name=net.path("halves", "halves"))
    return _join_v2(net, kept, _branch_v2(net, y, half, 1))


def _unit_v2_down(net: Network, x: Value, filters: int) -> Value:
    """Both halves come from all of x, at half the size."""
    half, c = filters // 2, net.size(x)
    with net.scope("left"):
        y = net.conv_bn(x, c, 3, stride=2, groups=c, activation=None, name="depthwise")
        y = net.conv_bn(y, half, 1, name="project")
    return _join_v2(net, y, _branch_v2(net, x, half, 2))


def _branch_v2(net: Network, x: Value, half: int, stride: int) -> Value:
    x = net.conv_bn(x, half, 1, name="reduce")
    x = net.conv_bn(x, half, 3, stride=stride, groups=half, activation=None, name="depthwise")
    return net.conv_bn(x, half, 1, name="expand")


def _join_v2(net: Network, left: Value, right: Value) -> Value:
    y = net.node("concat", net.path("join", "join"), left, right, axis=1)
    return net.channel_shuffle(y, 2, name="shuffle")


def _stem(net: Network, x: Value, filters: int, small: bool) -> Value:
    x = net.conv_bn(x, filters, 3, stride=1 if small else 2, name="stem")
    return x if small else net.max_pool(x, 3, stride=2, padding=1, name="pool1")

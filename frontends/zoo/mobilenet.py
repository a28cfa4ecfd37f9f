"""MobileNets: depthwise-separable convolutions and inverted residuals.

The stem for images of 32x32 has no stride, so that the maps do not shrink to one pixel.
"""

from __future__ import annotations

from ...ir import Graph, Value
from ..builder import Network, fill
from .registry import divisible, entry

# (filters, stride) of each depthwise-separable layer
_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2),
    (1024, 1),
)  # fmt: skip

# (expansion, filters, blocks, stride) of each stage
_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


@entry("mobilenet-v1-cifar", classes=10, size=32, small=True)
@entry("mobilenet-v1")
def mobilenet_v1(
    classes: int = 1000, size: int = 224, channels: int = 3, width: float = 1.0,
    small: bool = False, dropout: float = 0.0, seed: int = 0,
) -> Graph:  # fmt: skip
    """MobileNet (Howard et al., 2017): 13 depthwise-separable convolutions.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]. `width` scales the filters;
    `small` takes the stem for 32x32.
    """
    net = Network(seed=seed)
    x = net.input("image", (channels, size, size))
    x = net.conv_bn(x, divisible(32 * width), 3, stride=1 if small else 2, name="stem")
    for i, (filters, stride) in enumerate(_V1):
        x = net.depthwise_separable(x, divisible(filters * width), stride=stride, name=f"block{i}")
    return _head(net, x, classes, dropout)


@entry("mobilenet-v2-cifar", classes=10, size=32, small=True)
@entry("mobilenet-v2")
def mobilenet_v2(
    classes: int = 1000, size: int = 224, channels: int = 3, width: float = 1.0,
    small: bool = False, dropout: float = 0.0, seed: int = 0,
) -> Graph:  # fmt: skip
    """MobileNetV2 (Sandler et al., 2018): 17 inverted residuals with linear bottlenecks.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]. `width` scales the filters,
    but those of the last convolution only above 1; `small` takes the stem for 32x32, without the
    strides of the first convolution and of the second stage.
    """
    net = Network(seed=seed)
    x = net.input("image", (channels, size, size))
    x = net.conv_bn(x, divisible(32 * width), 3, stride=1 if small else 2, activation="relu6",
                    name="stem")  # fmt: skip
    for stage, (expansion, filters, blocks, stride) in enumerate(_V2):
        first = 1 if small and stage == 1 else stride
        for block in range(blocks):
            with net.scope(f"stage{stage + 1}"), net.scope(f"block{block}"):
                x = _inverted(net, x, expansion, divisible(filters * width), 1 if block else first)
    x = net.conv_bn(x, divisible(1280 * max(1.0, width)), 1, activation="relu6", name="last")
    return _head(net, x, classes, dropout)


_SUMS = sum(blocks - 1 for _, _, blocks, _ in _V2)


def _inverted(net: Network, x: Value, expansion: int, filters: int, stride: int) -> Value:
    """1x1 to `expansion` times the channels, 3x3 depthwise, 1x1 without activation; with a shortcut
    where shapes allow. As in the residual networks, summed branches start small.
    """
    c = net.size(x)
    summed = stride == 1 and c == filters

    def branch(x: Value) -> Value:
        if expansion != 1:
            x = net.conv_bn(x, expansion * c, 1, activation="relu6", name="expand")
        x = net.conv_bn(x, expansion * c, 3, stride=stride, groups=expansion * c,
                        activation="relu6", name="depthwise")  # fmt: skip
        gamma = fill(_SUMS**-0.5 if summed else 1.0)
        return net.conv_bn(x, filters, 1, activation=None, gamma=gamma, name="project")

    return net.residual(x, branch, activation=None) if summed else branch(x)


def _head(net: Network, x: Value, classes: int, dropout: float) -> Graph:
    x = net.global_average_pool(x, name="pool")
    if dropout:
        x = net.dropout(x, dropout, name="dropout")
    return net.outputs(scores=net.classifier(x, classes))

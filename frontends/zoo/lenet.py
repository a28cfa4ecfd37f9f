"""The two networks for MNIST on which compression papers report."""

from __future__ import annotations

from ...ir import Graph
from ..builder import Network
from .registry import entry


@entry("lenet-300-100")
def lenet_300_100(
    classes: int = 10, size: int = 28, channels: int = 1, width: float = 1.0, seed: int = 0
) -> Graph:
    """LeNet-300-100 (LeCun et al., 1998): linear layers of 300 and 100 units, with the ReLUs of
    Han et al. ("Deep Compression", 2016). 266,610 parameters.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]; `width` scales both layers.
    """
    net = Network(seed=seed)
    x = net.flatten(net.input("image", (channels, size, size)))
    for i, units in enumerate((300, 100), 1):
        x = net.relu(net.linear(x, max(1, round(units * width)), name=f"fc{i}"), name=f"relu{i}")
    return net.outputs(scores=net.classifier(x, classes, name="fc3"))


@entry("lenet-5")
def lenet_5(
    classes: int = 10, size: int = 28, channels: int = 1, width: float = 1.0, seed: int = 0
) -> Graph:
    """LeNet-5 as Caffe has it and Han et al. ("Deep Compression", 2016) use it: 20 and 50 filters
    of 5x5, 500 units, one ReLU. 431,080 parameters.

    image f32[batch,channels,size,size] -> scores f32[batch,classes]; `width` scales the layers.
    """
    net = Network(seed=seed)
    x = net.input("image", (channels, size, size))
    for i, filters in enumerate((20, 50), 1):
        x = net.conv(x, max(1, round(filters * width)), 5, name=f"conv{i}")
        x = net.max_pool(x, 2, name=f"pool{i}")
    x = net.linear(net.flatten(x), max(1, round(500 * width)), name="ip1")
    return net.outputs(scores=net.classifier(net.relu(x, name="relu1"), classes, name="ip2"))

"""The zoo's networks as PyTorch modules, written as its users write them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut that subsamples and pads with zero channels."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.stride, self.grown = stride, filters - inputs
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.grown:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, 0, self.grown))
        return functional.relu(y + x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs: int, filters: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide, self.residual = inputs * expansion, stride == 1 and inputs == filters
        layers = [] if expansion == 1 else conv_bn(inputs, wide, 1, activation=nn.ReLU6)
        layers += conv_bn(wide, wide, 3, stride, wide, nn.ReLU6)
        self.layers = nn.Sequential(*layers, *conv_bn(wide, filters, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def conv_bn(
    inputs: int, filters: int, kernel: int, stride: int = 1, groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> list[nn.Module]:  # fmt: skip
    conv = nn.Conv2d(inputs, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(filters), *([activation(inplace=True)] if activation else [])]


def lenet_5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10),
    )  # fmt: skip


def resnet_20() -> nn.Module:
    layers, inputs = conv_bn(3, 16, 3, activation=nn.ReLU), 16
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        for k in range(3):
            layers.append(ResidualBlock(inputs, filters, stride if k == 0 else 1))
            inputs = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenet_v2() -> nn.Module:
    layers, inputs = conv_bn(3, 32, 3, activation=nn.ReLU6), 32
    for expansion, filters, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for k in range(count):
            layers.append(InvertedResidual(inputs, filters, stride if k == 0 else 1, expansion))
            inputs = filters
    layers += conv_bn(320, 1280, 1, activation=nn.ReLU6)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))


MODULES = {"lenet-5": lenet_5, "resnet-20": resnet_20, "mobilenet-v2-cifar": mobilenet_v2}

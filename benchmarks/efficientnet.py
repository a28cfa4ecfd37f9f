"""EfficientNet-Lite0 as a short torch module, from its published weights to an ONNX file.

Tan and Le, "EfficientNet" (2019); the Lite variant has ReLU6 and no squeeze-and-excitation.
Needs the `bench` extra. Run it to export and to check against foolbox's 20 ImageNet pictures.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from taut import samples

# repeats, kernel, stride of the first, expansion, channels out
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


class SameConv(nn.Conv2d):
    """TensorFlow's "SAME" padding of even inputs: with stride 2 the odd row and column go last."""

    def __init__(self, ins: int, outs: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        total = kernel - stride
        even = total // 2 if total > 0 and total % 2 == 0 else 0
        super().__init__(ins, outs, kernel, stride, even, groups=groups, bias=False)
        self.extra = (total // 2, total - total // 2) * 2 if total > 0 and not even else ()

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.pad(input, self.extra) if self.extra else input)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """MBConv: expand 1x1, depthwise KxK, project 1x1, and the input added where shapes allow."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = ins * expansion
        self.residual = stride == 1 and ins == outs
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(ins, wide), norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, outs), norm(outs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """f32[n,3,224,224], (pixel - 127) / 128, to f32[n,1000] logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), norm(32)
        blocks, ins = [], 32
        for repeats, kernel, stride, expansion, outs in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(ins, outs, kernel, 1 if repeat else stride, expansion))
                ins = outs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(ins, 1280), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def model() -> EfficientNetLite0:
    """The trained network; the file is read as tensors only, and every key must match."""
    state = torch.load(samples.fetch("efficientnet-lite0"), map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict(state, strict=True)
    return network.eval()


def onnx_path(batch: int | None = 1) -> Path:
    """The exported model, made on the first call; `batch=None` leaves the batch symbolic."""
    path = samples.cache_folder() / f"efficientnet-lite0-{batch or 'dynamic'}.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        temporary = stream.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model(),
            (torch.zeros(batch or 2, 3, 224, 224),),
            temporary,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=None if batch else {"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    os.replace(temporary, path)
    return path


def main() -> None:
    import onnxruntime

    images, labels = samples.imagenet_pictures()
    x = ((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(str(onnx_path(None)))
    found = np.asarray(session.run(None, {"image": x})[0]).argmax(axis=1)
    single = onnxruntime.InferenceSession(str(onnx_path(1)))
    alone = [np.asarray(single.run(None, {"image": x[k : k + 1]})[0]).argmax() for k in range(20)]
    print(
        f"right on {(found == labels).sum()} of 20 pictures; one by one {np.sum(alone == labels)}"
    )


if __name__ == "__main__":
    main()

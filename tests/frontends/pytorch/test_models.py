"""Whole models: what PyTorch computes, on NumPy, after O2 and compiled, at sizes left open."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
from bridge import agrees, by_torch, randn, same, torch

import taut
from taut import samples

IMAGE = {"x": {0: "batch"}}


def mild(module: Any) -> Any:
    """Seeded weights and statistics of a trained network's size."""
    generator = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1, generator=generator)
            m.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


@pytest.mark.parametrize("name", ["ResNet", "MobileNetV3", "ShuffleNet", "UNet"])
def test_images(name: str) -> None:
    torch.manual_seed(0)
    module = mild(getattr(networks, name)())
    graph = agrees(module, [(randn(2, 3, 16, 16),), (randn(3, 3, 16, 16),)], IMAGE)
    names = {n for n, _ in module.named_parameters()}
    assert {n.name for n in graph.of(taut.ir.op_class("constant"))} >= names
    assert graph.inputs[0].type.shape == ("batch", 3, 16, 16)


def test_images_of_any_size() -> None:
    torch.manual_seed(0)
    open_size = {"x": {0: "batch", 2: "height", 3: "width"}}
    calls = [(randn(2, 3, 16, 20),), (randn(1, 3, 24, 18),)]
    graph = agrees(mild(networks.ResNet()), calls, open_size, compiled=False)
    assert graph.inputs[0].type.shape == ("batch", 3, "height", "width")


def tokens(n: int, length: int, words: int) -> tuple[Any, Any]:
    random = np.random.default_rng(length)
    mask = np.ones((n, length), np.int64)
    mask[-1, length // 2 :] = 0
    return torch.from_numpy(random.integers(0, words, (n, length))), torch.from_numpy(mask)


TEXT = {0: "batch", 1: "sequence"}


def test_bert() -> None:
    torch.manual_seed(0)
    shapes = {"input_ids": TEXT, "attention_mask": TEXT}
    calls = [tokens(2, 7, 60), tokens(3, 40, 60), tokens(1, 2, 60)]
    graph = agrees(networks.Bert(), calls, shapes)
    assert list(graph.signature.outputs) == ["hidden", "pooled", "sentence"]
    assert graph.signature.outputs["hidden"].shape == ("batch", "sequence", 32)
    assert [c.text for c in graph.conditions] == ["sequence <= 40"]
    with pytest.raises(taut.ir.FeedError, match="sequence is 41"):
        taut.reference(graph, *(x.numpy() for x in tokens(2, 41, 60)))


def test_an_encoder_of_pytorch() -> None:
    torch.manual_seed(0)
    calls = [(ids, mask == 0) for ids, mask in (tokens(2, 7, 50), tokens(3, 11, 50))]
    agrees(networks.Encoder(), calls, {"ids": TEXT, "pad": TEXT})


def test_causal_attention_by_hand() -> None:
    torch.manual_seed(0)
    agrees(networks.Causal(), [(tokens(2, 7, 50)[0],), (tokens(4, 3, 50)[0],)], {"ids": TEXT})


@pytest.mark.sample
@pytest.mark.slow
def test_efficientnet_lite0() -> None:
    """The published weights, read as tensors only: the same logits, and 20 pictures named alike."""
    from taut.frontends.torch import load_state

    network = lite0()
    network.load_state_dict(load_state(samples.fetch("efficientnet-lite0")), strict=True)
    network.eval()
    images, labels = samples.imagenet_pictures()
    x = torch.from_numpy(((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy())
    graph = taut.from_torch(network, (x[:2],), dynamic_shapes={"x": {0: "batch"}})
    want = by_torch(network, [x])
    program = taut.compile(taut.optimize(graph), threads=1)
    got = program(x.numpy())
    same(want, got, "compiled", rtol=1e-4)
    same({0: want[0][:1]}, taut.reference(graph, x[:1].numpy()), "reference", rtol=1e-4)
    logits = next(iter(got.values()))
    assert (logits.argmax(1) == want[0].argmax(1)).all()
    assert (logits.argmax(1) == labels).sum() >= 15


def lite0() -> Any:
    """The network of benchmarks/efficientnet.py."""
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[3] / "benchmarks/efficientnet.py"
    spec = importlib.util.spec_from_file_location("efficientnet", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EfficientNetLite0()

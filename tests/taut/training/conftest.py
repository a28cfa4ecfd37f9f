"""Small data and networks that train in a second."""

from __future__ import annotations

import numpy as np
import pytest
from taut.frontends.builder import Network
from taut.ir import Graph

from taut.data import Dataset


def digits(count: int, seed: int) -> Dataset:
    """Noisy copies of ten patterns f32[1,8,8]: a task that is learned in a few steps."""
    patterns = np.random.default_rng(99).standard_normal((10, 1, 8, 8), np.float32)
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count)
    noise = 0.5 * random.standard_normal((count, 1, 8, 8)).astype(np.float32)
    return Dataset(patterns[labels] + noise, labels, 10)


@pytest.fixture(scope="session")
def data() -> Dataset:
    return digits(330, 1)


@pytest.fixture(scope="session")
def validation() -> Dataset:
    return digits(100, 2)


@pytest.fixture
def mlp() -> Graph:
    """image f32[batch,1,8,8] -> scores f32[batch,10] by layers fc1, fc2."""
    net = Network(seed=0)
    x = net.relu(net.linear(net.flatten(net.input("image", (1, 8, 8))), 16, name="fc1"))
    return net.outputs(scores=net.classifier(x, 10, name="fc2"))


@pytest.fixture
def cnn() -> Graph:
    """The same signature, with convolutions, batch normalizations, both poolings and dropout."""
    net = Network(seed=0)
    x = net.input("image", (1, 8, 8))
    x = net.batch_norm(net.conv(x, 4, 3, padding=1, bias=False, name="conv1"), name="bn1")
    x = net.max_pool(net.relu(x), 2)
    x = net.batch_norm(net.conv(x, 6, 3, padding=1, bias=False, name="conv2"), name="bn2")
    x = net.flatten(net.average_pool(net.relu(x), 2))
    return net.outputs(scores=net.classifier(net.dropout(x, 0.2, name="drop"), 10, name="fc"))

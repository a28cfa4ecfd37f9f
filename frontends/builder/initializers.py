"""How weights begin: each initializer is `draw(random, shape, fan_in, fan_out) -> f32 array`.

`fan_in` and `fan_out` count the connections of one output and of one input: for a convolution of
weight (o, i / groups, *kernel) they are i / groups * kernel and o / groups * kernel elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...ir import Array

Initializer = Callable[[np.random.Generator, tuple[int, ...], int, int], Array]


def he_normal(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Array:
    """Normal with variance 2 / fan_in, which ReLUs keep constant over layers (He et al.,
    "Delving Deep into Rectifiers", 2015, equation 10).
    """
    return _normal(random, shape, math.sqrt(2 / fan_in))


def he_uniform(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Array:
    """Uniform with the variance of `he_normal`: within sqrt(6 / fan_in)."""
    return _uniform(random, shape, math.sqrt(6 / fan_in))


def glorot_normal(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Array:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, "Understanding the
    difficulty of training deep feedforward neural networks", 2010, equation 12).
    """
    return _normal(random, shape, math.sqrt(2 / (fan_in + fan_out)))


def glorot_uniform(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Array:
    """Uniform with the variance of `glorot_normal`: within sqrt(6 / (fan_in + fan_out))
    (Glorot and Bengio, 2010, equation 16).
    """
    return _uniform(random, shape, math.sqrt(6 / (fan_in + fan_out)))


def zeros(random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """All 0: biases."""
    return np.zeros(shape, np.float32)


def ones(random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """All 1: scales of normalizations."""
    return np.ones(shape, np.float32)


def fill(value: float) -> Initializer:
    """All `value`."""
    return lambda random, shape, fan_in, fan_out: np.full(shape, value, np.float32)


def normal(deviation: float) -> Initializer:
    """Normal with this standard deviation, whatever the fans."""
    return lambda random, shape, fan_in, fan_out: _normal(random, shape, deviation)


SMALL_NORMAL = normal(0.02)
"""What BERT and GPT-2 draw all their weights from."""


def _normal(random: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    made = random.standard_normal(shape, np.float32)
    made *= np.float32(deviation)
    return made


def _uniform(random: np.random.Generator, shape: tuple[int, ...], limit: float) -> Array:
    made = random.random(shape, np.float32)
    made *= np.float32(2 * limit)
    made -= np.float32(limit)
    return made

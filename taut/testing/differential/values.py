"""Contents of drawn tensors: ramps, ordinary numbers, numbers that break what holds for them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from taut.ir import DType
from taut.ir.op import Array

from .choices import Choices

LEVELS = ("tame", "mild", "wild")
"""What a tensor may hold besides ordinary numbers. `mild`: NaN, infinities, zeros of both signs,
denormals. `wild`: the largest numbers too, whose sums overflow in one order and not in another."""

_CHANCE = {"tame": 0, "mild": 35, "wild": 40}


def array(choices: Choices, dtype: DType, shape: tuple[int, ...], level: str = "wild",
          scale: float = 1.0) -> Array:  # fmt: skip
    """A tensor: -1, 0, 1, ... at its simplest, else drawn numbers, some of them special."""
    kind = choices.below(8)
    size = int(np.prod(shape, dtype=np.int64))
    ramp = (np.arange(size).reshape(shape) % 3) - 1
    if kind == 0 and dtype is not DType.bool:
        return (ramp if dtype.is_float or dtype.is_signed else ramp + 1).astype(dtype.numpy)
    generator = np.random.default_rng(choices.below(1 << 16))
    if dtype is DType.bool:
        return generator.random(shape) < 0.5
    if dtype.is_integer:
        return _integers(choices, dtype, shape, generator, level)
    spread = scale * (4.0 if kind >= 6 else 1.0)
    made = (generator.standard_normal(shape) * spread).astype(dtype.numpy)
    if kind == 5:  # ties: halves and whole numbers
        made = (np.round(np.asarray(made, np.float64) * 2) / 2).astype(dtype.numpy)
    if size and choices.flag(_CHANCE[level]):
        options, flat = specials(dtype, level), made.reshape(-1)
        for _ in range(choices.between(1, 3)):
            flat[choices.below(size)] = choices.one(options)
    return made


def specials(dtype: DType, level: str) -> list[Any]:
    """Numbers of a float type that ordinary draws never hold."""
    limits: Any = ml_dtypes.finfo(dtype.numpy)
    mild = [-0.0, np.inf, -np.inf, np.nan, float(limits.smallest_subnormal),
            -float(limits.smallest_normal)]  # fmt: skip
    wild = [float(limits.max), float(limits.min), -1.0e-4, 0.5, 2.5, 100.0, -100.0]
    return mild + wild if level == "wild" else mild


def _integers(
    choices: Choices, dtype: DType, shape: tuple[int, ...], generator: np.random.Generator,
    level: str,
) -> Array:  # fmt: skip
    low, high = dtype.bounds
    if level != "wild" or choices.flag(50):
        low, high = max(low, -9), min(high, 9)
    made = generator.integers(low, high, shape, endpoint=True,
                              dtype=np.int64 if low < 0 else np.uint64)  # fmt: skip
    made = made.astype(dtype.numpy)
    if level == "wild" and made.size and choices.flag(60):
        flat, ends = made.reshape(-1), dtype.bounds
        for _ in range(choices.between(1, 2)):
            flat[choices.below(made.size)] = choices.one([ends[0], 0, ends[1]])
    return made

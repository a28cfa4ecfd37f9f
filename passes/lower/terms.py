"""Sums of integers: what a float value is before anything is rounded.

    sum_k (x_k - zero_k) * scale_k

with integer tensors x_k: int32 accumulators or 8-bit operands. One `requantize` (or one conversion
to float) ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...ir import Value
from ...ir.op import Array
from ..quantize.functions import Step
from .match import Integers
from .scales import Refusal

LARGEST = 2**31 - 1


class Term(NamedTuple):
    """(x - zero) * scale; `scale` is a scalar or a vector along `axis`, |x - zero| <= largest.

    `error` is what x itself may be off by: where a bias was rounded to the accumulator's step.
    """

    x: Value
    zero: int
    scale: Array
    axis: int
    largest: float
    error: float = 0.0


@dataclass(frozen=True)
class Sum:
    """Terms and the functions of one element that follow them."""

    terms: tuple[Term, ...]
    steps: tuple[Step, ...] = ()

    @property
    def reach(self) -> float:
        """A bound of the real sum."""
        return float(sum(t.largest * np.abs(t.scale).max() for t in self.terms))


def operand_term(x: Integers) -> Term:
    return Term(x.value, x.grid.zero, x.grid.step, 1, farthest(x))


def farthest(x: Integers) -> float:
    """The largest |q - zero|."""
    low, high = x.grid.dtype.bounds
    return float(max(x.grid.zero - low, high - x.grid.zero))


def bounded(values: Array) -> Array:
    """As int32. Raises Refusal where one does not fit."""
    if values.size and not np.abs(values).max() <= LARGEST:
        raise Refusal("its bias does not fit int32 at the accumulator's scale")
    return values.astype(np.int32)

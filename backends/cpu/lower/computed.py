"""Weights that are computed while the program runs, in the order that constant ones are packed in.

A layer's weights are then places: 1 more than an element's index in the tensor, as the bits of a
float32, and 0 for a zero. Whatever puts constant weights in order (transposing, turning, joining of
groups, panels) moves places as well, and the table that comes of it tells one kernel where each
word comes from. So every float kernel serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ....ir import Array, DType, Value
from ...schedule.layout import Ref, Tensor
from ...schedule.steps import Step, record_words
from ..kernels import arrange
from .lowering import Lowering

GRAIN = 1 << 14  # words a chunk


@dataclass(frozen=True)
class Computed:
    """The tensors, row-major, that a layer's places lead to; without a bias its places are 0."""

    weights: Tensor
    bias: Tensor | None


def places(shape: tuple[int, ...]) -> Array:
    """The places of a tensor's elements, as float32 of their bits."""
    return np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape).view(np.float32)


def arrays(
    low: Lowering, weight: Value, bias: Value | None, nodes: tuple[str, ...]
) -> tuple[Array, Array | None, Computed | None]:
    """Weights and bias (or their places) and what these lead to; both known, or neither."""
    w, b = low.array(weight), low.array(bias)
    if w is not None and (bias is None or b is not None):
        return w, b, None
    weights = low.dense(low.tensor(weight), nodes)
    if bias is None:
        return places(low.shape(weight)), None, Computed(weights, None)
    made = Computed(weights, low.dense(low.tensor(bias), nodes))
    return places(low.shape(weight)), places(low.shape(bias)), made


def placed(
    low: Lowering, table: Array, source: Tensor | None, nodes: tuple[str, ...]
) -> tuple[Ref, list[Tensor]]:
    """Where the array that `table` describes is, and the tensors a step then reads: a constant, or
    words of `source` in the table's order."""
    if source is None:
        return low.constant(table), []
    made = low.new(DType.f32, (table.nbytes // 4,))
    arranged(low, table, source, made, nodes)
    return made.ref, [made]


def arranged(
    low: Lowering, table: Array, source: Tensor, made: Tensor, nodes: tuple[str, ...]
) -> None:
    """Emit made = source in the table's order."""
    count = table.nbytes // 4
    words = record_words(arrange.ArrangeRecord, {
        "chunks": -(-count // GRAIN), "table": low.constant(table), "source": source.ref,
        "target": made.ref, "words": count, "per": GRAIN,
    })  # fmt: skip
    low.emit(Step(arrange.kernel(), words, [source.buffer], [made.buffer], nodes))

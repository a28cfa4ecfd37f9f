"""Images and matrices as the element-wise vector kernels read and write them."""

from __future__ import annotations

import math
from typing import Any

from ....ir import Node, Value
from ...schedule.layout import Tensor, round_up
from ...schedule.steps import Step, Word, record_words
from ..kernels.grid import LANES, flatten, share
from .conv import strides
from .images import as_pixels, lift
from .lowering import GRANULE, Lowering


def names_of(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    return tuple(n.name for n in nodes)


def pixels_of(low: Lowering, value: Value, result: Value) -> Tensor:
    """A value as the grid kernels that make `result` read it: lifted, channels side by side,
    readable past its end.

    The result decides the order: images are walked as images, anything else as one row of pixels
    of its last axis. A value that lies otherwise is copied.
    """
    t = low.tensor(value)
    spatial = low.is_spatial(result) and len(t.shape) in (3, 4)
    if t.buffer.space == "arena":
        if spatial and t.channels_last:
            return lift(t)
        if not spatial and not low.is_spatial(value) and len(t.shape) >= 1:
            made = row_of_pixels(t)
            if made is not None:
                return made
    copy = low.new(t.dtype, t.shape, spatial=spatial, granule=GRANULE)
    low.copy(t, copy, (value.node.name,))
    made = lift(copy) if spatial else row_of_pixels(copy)
    assert made is not None
    return made


def row_of_pixels(t: Tensor) -> Tensor | None:
    """(..., k) as one row of pixels of k channels, where strides allow."""
    if not t.shape:
        return None
    flat = t.reshape((math.prod(t.shape[:-1]), t.shape[-1]))
    if flat is None or (flat.strides[1] != t.item and t.shape[-1] > 1):
        return None
    return as_pixels(t)


def target_of(low: Lowering, value: Value) -> Tensor:
    """A new result as the grid kernels write it."""
    spatial = low.is_spatial(value) and value.type.rank in (3, 4)
    made = low.result(value, exact=False, granule=GRANULE, rows=not spatial)
    if spatial:
        return lift(made)
    row = row_of_pixels(made)
    assert row is not None
    return row


def grid_words(
    low: Lowering, target: Tensor, operands: dict[str, Tensor], per_channel: bool = False
) -> dict[str, Word]:
    """The fields for tensors of one shape (or broadcast to it but for the channels)."""
    images, channels, rows, width = target.shape
    whole = [(t.strides[3], t.item) for t in (target, *operands.values())]
    count = round_up(channels, LANES)
    if not per_channel:
        width, count = flatten(width, count, whole)
    values: dict[str, Word] = {
        **share(rows, images, low.threads),
        "rows": rows,
        "width": width,
        "channels": count,
        **strides("target", target),
    }
    for name, t in operands.items():
        values |= strides(name, t)
    if rows == 1 and images == 1:
        values |= _long_row(low, target, operands, width, count, per_channel)
    return values


def _long_row(
    low: Lowering, target: Tensor, operands: dict[str, Tensor], width: int, count: int, by: bool
) -> dict[str, Word]:
    """One row is cut into several, so that threads can share it."""
    pieces = 8 * low.threads
    if low.threads == 1 or by or width > 1 or count < 64 * pieces or count % (pieces * LANES):
        return {}
    piece = count // pieces
    made: dict[str, Word] = {
        **share(pieces, 1, low.threads), "rows": pieces, "channels": piece,
        "target_row": piece * target.item,
    }  # fmt: skip
    return made | {f"{n}_row": piece * t.item for n, t in operands.items()}


def emit_map(
    low: Lowering, kernel: Any, record: Any, values: dict[str, Word], target: Tensor,
    sources: list[Tensor], nodes: tuple[Node, ...],
) -> None:  # fmt: skip
    words = record_words(record, values)
    reads = [t.buffer for t in sources]
    low.emit(Step(kernel, words, reads, [target.buffer], names_of(nodes)))

"""What joining two groups saves and costs, in seconds of one thread of a `Machine`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...ir import DType
from ...ir.analysis.index import Size
from ...ir.analysis.nest import WEIGHTS, Apply, Nest, expressions
from ...ir.machine import Machine

SYMBOL = 64  # stands for a size that is not known


def elements(shape: Sequence[Size]) -> int:
    return math.prod(n if isinstance(n, int) else SYMBOL for n in shape)


def nbytes(shape: Sequence[Size], dtype: DType) -> int:
    return elements(shape) * dtype.numpy.itemsize


@dataclass(frozen=True)
class Verdict:
    """Seconds saved, less what it costs; `reason` says why joining does not pay, if so."""

    seconds: float
    reason: str = ""


def judge(nests: Iterable[Nest], saved_bytes: int, machine: Machine) -> Verdict:
    """Whether computing these nests saves more than they cost.

    `saved_bytes` are those of intermediate tensors that need not be written or read.
    """
    gain = saved_bytes / machine.bytes_per_second + machine.launch
    for nest in nests:
        rows = elements([nest.sizes[k] for k in nest.rows])
        inner = elements([nest.sizes[k] for k in nest.inner])
        if nest.inner and 4 * inner > machine.row_bytes:
            return Verdict(gain, f"a row of {4 * inner / 2**20:.1f} MB does not stay in the cache")
        if nest.inner and rows < machine.threads and 4 * rows * inner > machine.alone_bytes:
            return Verdict(gain, f"threads could not share {rows} rows")
        again = repeated(nest) / machine.operations_per_second
        if again > gain:
            why = "computing operands again for all elements that they are broadcast to takes"
            return Verdict(gain, f"{why} {again * 1e6:.1f} us, to save {gain * 1e6:.1f}")
    return Verdict(gain)


def repeated(nest: Nest) -> int:
    """Arithmetic done more than once: what does not depend on some axes, unless it is a number of
    the row.
    """
    every = {*nest.rows, *nest.inner}
    total = 0
    for e in expressions([s.expr for s in nest.stores]):
        if not isinstance(e, Apply) or not e.axes or e.axes >= every:
            continue
        if nest.inner and e.axes <= set(nest.rows):
            continue
        missing = every - e.axes
        own = elements([nest.sizes[k] for k in e.axes])
        total += WEIGHTS.get(e.op.name, 1) * own * (elements([nest.sizes[k] for k in missing]) - 1)
    return total

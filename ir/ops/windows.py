"""Sliding windows: what convolutions and poolings have in common.

Spatial axes are those from 2 on. `pads` holds all begins, then all ends, as ONNX has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import LimitError, VerifyError
from ..op import Abstract, Array, Op
from ..signature import Tap
from ..types import DEFAULT_LIMITS, Dim, Shape
from .common import check_choice

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
LARGEST = 1 << 20  # of kernel, stride, dilation and padding: far above any real model's


class Window(NamedTuple):
    """A window in numbers: every field has one entry for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """How many elements a window spans, holes of the dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations))

    @property
    def pads(self) -> tuple[int, ...]:
        return self.begin + self.end


@dataclass(frozen=True)
class Windowed(Op):
    """Attributes of every op with a sliding window; empty tuples stand for ONNX's defaults.

    `auto_pad` other than NOTSET computes the pads from the input's size: SAME_* so that the result
    has ceil(size / stride) elements.
    """

    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"

    def check_window(self, kernel: Sequence[Dim]) -> tuple[tuple[int, ...], ...]:
        """(strides, dilations, pads) in full for this kernel. Raises VerifyError."""
        rank = len(kernel)
        check_choice(self.auto_pad, AUTO_PADS, "auto_pad")
        for d in kernel:
            bounded([d] if isinstance(d, int) else [], 1, "kernel")
        strides = full(self.strides, rank, 1, "strides")
        dilations = full(self.dilations, rank, 1, "dilations")
        pads = full(self.pads, 2 * rank, 0, "pads")
        bounded(strides, 1, "strides")
        bounded(dilations, 1, "dilations")
        bounded(pads, 0, "pads")
        if self.auto_pad != "NOTSET" and any(pads):
            raise VerifyError(f"pads {list(pads)} contradict auto_pad {self.auto_pad}")
        return strides, dilations, pads

    def window(self, sizes: Sequence[int], kernel: Sequence[int]) -> Window:
        """The window over an input of these spatial sizes, with explicit padding."""
        strides, dilations, pads = self.check_window(kernel)
        rank = len(kernel)
        begin, end = pads[:rank], pads[rank:]
        if self.auto_pad.startswith("SAME"):
            total = [
                max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                for n, s, k, d in zip(sizes, strides, kernel, dilations)
            ]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            upper = self.auto_pad == "SAME_UPPER"
            begin, end = tuple(small if upper else large), tuple(large if upper else small)
        return Window(tuple(kernel), strides, dilations, begin, end)

    def taps(
        self, sizes: Sequence[Dim], places: Sequence[Dim], kernel: Sequence[Dim]
    ) -> list[Tap | None]:
        """The window's geometry along each spatial axis of an input of these sizes; None where it
        is not known. `places` counts the windows.
        """
        known = [isinstance(n, int) and isinstance(k, int) for n, k in zip(sizes, kernel)]
        fixed = not self.auto_pad.startswith("SAME")
        w = self.window([n if isinstance(n, int) else 1 for n in sizes],
                        [k if isinstance(k, int) else 1 for k in kernel])  # fmt: skip
        return [Tap(*tap) if ok or fixed else None
                for ok, *tap in zip(known, w.strides, w.dilations, w.begin)]  # fmt: skip

    def window_dims(
        self, sizes: Sequence[Dim], kernel: Sequence[Dim], ceil_mode: bool = False
    ) -> Shape:
        """Spatial dimensions of the result. Raises VerifyError where a window does not fit."""
        if len(sizes) != len(kernel):
            raise VerifyError(f"a kernel of rank {len(kernel)} on {len(sizes)} spatial axes")
        strides, dilations, pads = self.check_window(kernel)
        out: list[Dim] = []
        for i, (n, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations)):
            if self.auto_pad.startswith("SAME"):
                out.append(-(-n // s) if isinstance(n, int) else n if s == 1 else None)
                continue
            begin, end = pads[i], pads[i + len(kernel)]
            if not isinstance(k, int):
                out.append(None)
            elif isinstance(n, int):
                out.append(_steps(n, begin, end, (k - 1) * d + 1, s, ceil_mode))
            else:
                same = s == 1 and begin + end == (k - 1) * d
                out.append(n if same else None)
        return tuple(out)


def _steps(n: int, begin: int, end: int, extent: int, stride: int, ceil_mode: bool) -> int:
    free = n + begin + end - extent
    if free < 0:
        raise VerifyError(f"a window of {extent} does not fit into {n} elements padded by "
                          f"{begin} and {end}")  # fmt: skip
    steps = (-(-free // stride) if ceil_mode else free // stride) + 1
    # The last window must start inside the input or its leading padding.
    return steps - 1 if ceil_mode and (steps - 1) * stride >= n + begin else steps


def full(values: tuple[int, ...], size: int, default: int, what: str) -> tuple[int, ...]:
    """An attribute with one entry for each axis; empty ones take the default."""
    if values and len(values) != size:
        raise VerifyError(f"{what} {list(values)} should have {size} entries")
    return values or (default,) * size


def check_bytes(size: int, what: str) -> None:
    """Refuse to allocate more than a tensor may take by default."""
    if size > DEFAULT_LIMITS.tensor_bytes:
        raise LimitError(f"{what} takes {size} bytes, over {DEFAULT_LIMITS.tensor_bytes}")


def bounded(values: Sequence[int], low: int, what: str) -> None:
    """Every entry of an attribute lies within low..LARGEST."""
    for v in values:
        if not low <= v <= LARGEST:
            raise VerifyError(f"{what} {list(values)} should lie within {low}..{LARGEST}")


def spatial(x: Abstract) -> Shape | None:
    """Spatial dimensions of a batch of images; None where the rank is unknown."""
    if x.shape is None:
        return None
    if len(x.shape) < 3:
        raise VerifyError(f"the operand is {x.type}, which has no batch, channel and spatial axes")
    return x.shape[2:]


def pad_spatial(x: Array, w: Window, out: Sequence[int], fill: Any) -> Array:
    """`x` padded so that every one of the `out` windows lies inside. Raises LimitError."""
    widths = [(0, 0), (0, 0)]
    for n, b, e, o, s, span in zip(x.shape[2:], w.begin, w.end, out, w.strides, w.extent):
        widths.append((b, max((o - 1) * s + span - n - b, 0) if o else e))
    size = math.prod(n + a + b for n, (a, b) in zip(x.shape, widths)) * x.dtype.itemsize
    check_bytes(size, "the padded input")
    if not any(a or b for a, b in widths):
        return x
    padded = np.full([n + a + b for n, (a, b) in zip(x.shape, widths)], fill, x.dtype)
    padded[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, widths))] = x
    return padded


def tap(x: Array, w: Window, out: Sequence[int], at: Sequence[int]) -> Array:
    """A view of padded `x`: the element at kernel position `at` of every window."""
    starts = [p * d for p, d in zip(at, w.dilations)]
    spans = [slice(b, b + (o - 1) * s + 1 if o else b, s)
             for b, o, s in zip(starts, out, w.strides)]  # fmt: skip
    return x[(slice(None), slice(None), *spans)]


def patches(x: Array, w: Window, out: Sequence[int]) -> Array:
    """A view of padded `x` as (n, c, *kernel, *out)."""
    n, c, *rest = x.strides
    steps = [r * d for r, d in zip(rest, w.dilations)] + [r * s for r, s in zip(rest, w.strides)]
    shape = (*x.shape[:2], *w.kernel, *out)
    return np.lib.stride_tricks.as_strided(x, shape, (n, c, *steps), writeable=False)

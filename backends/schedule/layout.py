"""Where values live: buffers, and tensors as strided views of them.

A tensor has the logical shape of its IR value (NCHW for images) and a byte stride for each axis,
so channels-last, slices, transposes and broadcasts are all strides. What a kernel needs beyond
that it asks of the tensor: channels side by side, a halo, room after the last channel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir import DType
from .memory import aligned

SLACK = 256  # readable bytes after every buffer: kernels may load whole vectors

KERNEL_TYPES = frozenset(
    (DType.f32, DType.f64, DType.i64, DType.i32, DType.i16, DType.i8, DType.u64, DType.u32,
     DType.u16, DType.u8, DType.bool)
)  # fmt: skip
"""Element types that generated loops compute in."""


@dataclass(frozen=True, eq=False, slots=True)
class Buffer:
    """A run of bytes: in the arena, among the constants, or the caller's (input, output). When it
    is alive and where it is, the timetable of a program says."""

    space: str  # arena, constant, input, output, or fault (a word: see Lowering.fault)
    size: int
    index: int = 0
    data: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """An address that is known once buffers have places."""

    buffer: Buffer
    offset: int = 0

    def __add__(self, more: int) -> Ref:
        return Ref(self.buffer, self.offset + more)


@dataclass(frozen=True)
class Halo:
    """Border elements around the last axes' extent, before and after, that all hold `fill`."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    fill: float = 0

    def joined(self, other: Halo) -> Halo:
        """As wide as both, filled as this one."""
        before, after = map(max, self.before, other.before), map(max, self.after, other.after)
        return Halo(tuple(before), tuple(after), self.fill)

    def covers(self, before: Sequence[int], after: Sequence[int], fill: float) -> bool:
        """Whether a kernel that pads this much with `fill` can read this border."""
        if not any(before) and not any(after):
            return True
        return (
            all(a >= b for a, b in zip(self.before, before))
            and all(a >= b for a, b in zip(self.after, after))
            and self.fill == fill
        )


@dataclass(frozen=True)
class Tensor:
    """A strided view. `room`: elements that may be written from the first channel of a pixel on."""

    buffer: Buffer
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    halo: Halo | None = None
    room: int = 0

    @property
    def ref(self) -> Ref:
        return Ref(self.buffer, self.offset)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def item(self) -> int:
        return self.dtype.numpy.itemsize

    @property
    def is_row_major(self) -> bool:
        """Contiguous in C order."""
        return self.strides == row_major(self.shape, self.item) or self.size <= 1

    @property
    def channels_last(self) -> bool:
        """Whether the channels of a pixel are side by side."""
        return len(self.shape) >= 2 and (self.shape[1] == 1 or self.strides[1] == self.item)

    def slice(self, axis: int, start: int, count: int) -> Tensor:
        """`count` elements of one axis from `start` on."""
        shape = (*self.shape[:axis], count, *self.shape[axis + 1 :])
        keeps = self.halo if axis < 2 else None
        room = count if start + count < self.shape[axis] else max(self.room - start, count)
        return replace(
            self, shape=shape, offset=self.offset + start * self.strides[axis], halo=keeps,
            room=room if axis == 1 else 0,
        )  # fmt: skip

    def words(self) -> Tensor:
        """The same bytes as unsigned integers, where kernels have no such element type: enough to
        move them."""
        if self.dtype in KERNEL_TYPES:
            return self
        return replace(self, dtype=DType.u16 if self.item == 2 else DType.u8, halo=None)

    def permute(self, order: Sequence[int]) -> Tensor:
        return self.view([self.shape[i] for i in order], [self.strides[i] for i in order])

    def view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Tensor:
        """Another view of the same bytes; it has no halo and no room."""
        return Tensor(self.buffer, self.dtype, tuple(shape), tuple(strides), self.offset + offset)

    def broadcast(self, shape: Sequence[int]) -> Tensor:
        """Strides for NumPy's broadcasting to `shape`."""
        missing = len(shape) - len(self.shape)
        strides = [0] * missing + [
            s if n == m else 0 for n, m, s in zip(self.shape, shape[missing:], self.strides)
        ]
        return self.view(shape, strides)

    def reshape(self, shape: Sequence[int]) -> Tensor | None:
        """A view of another shape in the same C order, or None where bytes would have to move."""
        strides = reshaped_strides(self.shape, self.strides, shape, self.item)
        return None if strides is None else self.view(shape, strides)


def row_major(shape: Sequence[int], item: int) -> tuple[int, ...]:
    strides, step = [], item
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def round_up(value: int, granule: int) -> int:
    return -(-value // granule) * granule


def outside(space: str, index: int, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """An array of the caller's: an input or an output."""
    item = dtype.numpy.itemsize
    buffer = Buffer(space, math.prod(shape) * item, index)
    return Tensor(buffer, dtype, shape, row_major(shape, item))


def rows_of(dtype: DType, shape: tuple[int, ...], granule: int = 1) -> Tensor:
    """A new tensor in row-major order, its last axis padded to whole granules."""
    item, last = dtype.numpy.itemsize, round_up(sum(shape[-1:]), granule)
    padded = [*shape[:-1], last] if shape else []
    buffer = Buffer("arena", math.prod(padded) * item)
    return Tensor(buffer, dtype, shape, row_major(padded, item), room=last)


def channels_last(dtype: DType, shape: tuple[int, ...], room: int, halo: Halo | None) -> Tensor:
    """A new tensor: N, spatial axes with their halo, then `room` channels."""
    item, spatial = dtype.numpy.itemsize, shape[2:]
    before = halo.before if halo else (0,) * len(spatial)
    after = halo.after if halo else (0,) * len(spatial)
    full = [n + a + b for n, a, b in zip(spatial, before, after)]
    outer = row_major([shape[0], *full, room], item)
    buffer = Buffer("arena", shape[0] * math.prod(full) * room * item)
    offset = sum(a * s for a, s in zip(before, outer[1:]))
    strides = (outer[0], item, *outer[1:-1])
    return Tensor(buffer, dtype, shape, strides, offset, halo, room)


def image_of(
    dtype: DType, shape: tuple[int, ...], halo: Halo | None, granule: int, wide: bool
) -> Tensor:
    """A new image with channels side by side. `wide`: its writer stores whole granules."""
    # Pixels of few channels take four bytes, so that a row of them is one run of a convolution;
    # else whole granules, so that every tensor of so many channels has the same strides and
    # element-wise steps see one long row.
    few = shape[1] <= 4 and not wide and dtype.numpy.itemsize == 1
    return channels_last(dtype, shape, 4 if few else round_up(shape[1], granule), halo)


def reshaped_strides(
    shape: Sequence[int], strides: Sequence[int], new: Sequence[int], item: int
) -> list[int] | None:
    """Strides of `new` over the same elements in C order, if there are any (NumPy's method)."""
    if 0 in new or 0 in shape:
        return list(row_major(new, item))
    old = [(n, s) for n, s in zip(shape, strides) if n != 1]
    out: list[int] = [0] * len(new)
    i = j = 0
    while i < len(old) and j < len(new):
        if new[j] == 1:
            j += 1
            continue
        i2, j2, a, b = i + 1, j + 1, old[i][0], new[j]
        while a != b:
            if a < b:
                a *= old[i2][0]
                i2 += 1
            else:
                b *= new[j2]
                j2 += 1
        for k in range(i, i2 - 1):
            if old[k][1] != old[k + 1][0] * old[k + 1][1]:
                return None
        step = old[i2 - 1][1]
        for k in range(j2 - 1, j - 1, -1):
            out[k] = step
            step *= new[k]
        i, j = i2, j2
    return out


@dataclass
class Constants:
    """Aligned copies of constant arrays, each content once; they live as long as the program."""

    buffers: dict[tuple[str, int, bytes], Buffer] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of them all."""
        return sum(b.size for b in list(self.buffers.values()))

    def place(self, array: np.ndarray) -> Buffer:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = ("c", flat.size, hashlib.blake2b(flat.data, digest_size=16).digest())
        found = self.buffers.get(key)
        if found is None:
            data = aligned(flat.size + SLACK)
            data[: flat.size] = flat
            found = self.buffers.setdefault(key, Buffer("constant", flat.size, data=data))
        return found

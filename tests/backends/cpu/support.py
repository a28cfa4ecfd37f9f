"""Shared by the tests of the CPU kernels: memory that outlives a call, and running kernels."""

from __future__ import annotations

import numpy as np
from taut.backends.cpu.codegen import isa, jit, sync, syncblock
from taut.backends.cpu.runtime import team
from taut.backends.schedule import records
from taut.backends.schedule.kernel import Kernel
from taut.backends.schedule.memory import aligned

ISAS = isa.available()


class Arena:
    """64-byte aligned copies whose addresses stay good while the arena lives."""

    def __init__(self, threads: int = 1):
        self.threads = threads
        self.kept: list[np.ndarray] = []
        self.sync = self.place(np.zeros(syncblock.sync_bytes(threads), np.uint8))

    def place(self, array: np.ndarray) -> int:
        """The address of a copy (with 256 readable bytes after it)."""
        return self.empty(array.shape, array.dtype, array).ctypes.data

    def empty(self, shape, kind, fill: np.ndarray | None = None) -> np.ndarray:
        """An aligned array, zeros or a copy of `fill`."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        raw = aligned(size + 256)
        self.kept.append(raw)
        out = raw[:size].view(kind).reshape(shape)
        if fill is not None:
            out[...] = fill
        return out

    def run(
        self,
        isa_table: isa.Isa,
        *calls: tuple[Kernel, records.Header],
        keep: bool = True,
    ) -> None:
        """Run kernels one after another, with a barrier between, as one compiled entry."""
        lines, names = ["def entry(tid, nt, base):"], {"barrier": sync.BARRIER}
        table = [self.sync]
        for kernel, record in calls:
            names[kernel.name] = kernel
            lines += [
                f"    {kernel.name}(tid, nt, load_i64(base + {8 * len(table)}))",
                "    barrier(tid, nt, load_i64(base))",
            ]
            table.append(self.place(record.pack()))
        entry = jit.build_entry("\n".join(lines), names, isa_table)
        base = self.place(np.array(table, np.int64))
        workers = team.team(self.threads)
        workers.run(entry.address, base, workers.lend(self.kept) if keep else None)


def wrap(values: np.ndarray) -> np.ndarray:
    """int64 to int32 modulo 2^32."""
    return values.astype(np.int64).astype(np.uint64).astype(np.uint32).view(np.int32)


def requantize(total: np.ndarray, shift: int, zero: int, lo: int, hi: int) -> np.ndarray:
    """docs/quantization.md in Python's integers (object arrays): total / 2^shift, half to even."""
    floor = total >> shift
    rest = total - (floor << shift)
    half = (1 << shift) >> 1
    up = (rest > half) | ((rest == half) & (floor % 2 == 1)) if shift else rest > half
    return np.clip(floor + up + zero, lo, hi)


def accumulate(image, weights, size, stride, dilation, groups, kind: type = np.int64):
    """[images, H, W, N] of `kind` by the definition."""
    n, height, width, _ = weights.shape
    total = np.zeros((len(image), *size, n), kind)
    per = n // groups
    c = weights.shape[3]
    for g in range(groups):
        for y in range(height):
            for x in range(width):
                part = image[
                    :,
                    y * dilation[0] : y * dilation[0] + (size[0] - 1) * stride[0] + 1 : stride[0],
                    x * dilation[1] : x * dilation[1] + (size[1] - 1) * stride[1] + 1 : stride[1],
                    g * c : (g + 1) * c,
                ].astype(kind)
                chosen = slice(g * per, (g + 1) * per)
                total[..., chosen] += part @ weights[chosen, y, x].T.astype(kind)
    return total

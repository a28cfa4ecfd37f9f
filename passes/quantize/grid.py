"""What a grid is: the real numbers that a tensor is rounded to, and how a graph reads them.

A scheme is one file in `grids/` with a class of it (docs/writing-a-scheme.md). Which tensor gets
which grid is decided elsewhere: `place`, `static`, `stored`, `aware`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from ...ir import Builder, DType, PassError, Value
from ...ir.op import Array

SHRINKS = np.linspace(1.0, 0.5, 9)
"""Of the scale that holds the largest number: what the search for the least error tries."""


class Grid(ABC):
    """The numbers that a tensor may hold, each with a code of `dtype`."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """What the option `scheme` calls it: its text form."""
    lowers: ClassVar[bool] = False
    """Whether activations lie on it too and `lower-integer` makes integer arithmetic of it.
    Otherwise it is for weights, which are stored in it and read as floats."""
    dtype: DType

    @property
    @abstractmethod
    def levels(self) -> Array:
        """All of its numbers (of the channel with the largest), f64, increasing."""

    @abstractmethod
    def encode(self, x: Array) -> Array:
        """The codes of the nearest numbers, of `dtype` and in x's shape."""

    @abstractmethod
    def decode(self, codes: Array) -> Array:
        """What codes stand for, in f32: bit for bit what `read` computes."""

    @classmethod
    @abstractmethod
    def covering(cls, low: float, high: float, scheme: str) -> Grid:
        """The grid of a range that calibration has found."""

    @abstractmethod
    def read(self, b: Builder, codes: Value, name: str) -> Value:
        """Add what computes the numbers of `codes`."""

    @abstractmethod
    def round(self, b: Builder, x: Value, name: str, on_grid: bool = False) -> Value:
        """Add what rounds a computed x, with a gradient straight through: 1 within the range and 0
        outside. `on_grid`: x lies within the range already. Raises PassError where a graph has no
        ops for it."""


@dataclass(frozen=True, eq=False)
class ScaledGrid(Grid):
    """Fixed numbers times a scale: one for the tensor, or one for each index of `axis`.

    A scheme says which numbers (`table`); the rest may be left as it is here: codes are found by
    search, the scale by the error, and the graph looks codes up in the table.
    """

    scale: Array  # f32: a scalar, or a vector where there is an axis
    axis: int | None = None

    dtype: ClassVar[DType] = DType.u8  # type: ignore[misc]

    @classmethod
    @abstractmethod
    def table(cls) -> Array:
        """The number of each code at scale 1, f32; NaN where a code is unused."""

    @classmethod
    def largest(cls) -> float:
        """The largest number at scale 1."""
        return float(np.nanmax(np.where(np.isinf(cls.table()), np.nan, cls.table())))

    @property
    def levels(self) -> Array:
        numbers = self.table().astype(np.float64)
        return np.unique(numbers[np.isfinite(numbers)]) * float(self.scale.max())

    def steps(self, rank: int) -> Array:
        """The scale as it broadcasts to a tensor of this rank."""
        if self.axis is None:
            return self.scale
        return self.scale.reshape([-1 if i == self.axis else 1 for i in range(rank)])

    def encode(self, x: Array) -> Array:
        return self.codes_of(x.astype(np.float32) / self.steps(x.ndim))

    @classmethod
    def codes_of(cls, x: Array) -> Array:
        """Codes of the nearest numbers at scale 1; the lesser one where two are equally near."""
        numbers = cls.table().astype(np.float64)
        order = np.argsort(numbers, kind="stable")[: np.isfinite(numbers).sum()]
        held = numbers[order]
        found = np.searchsorted((held[1:] + held[:-1]) / 2, x, side="left")
        return order[found].astype(np.uint8).astype(cls.dtype.numpy)

    def decode(self, codes: Array) -> Array:
        return self.table()[codes.astype(np.int64)] * self.steps(codes.ndim)

    @classmethod
    def covering(cls, low: float, high: float, scheme: str) -> Grid:
        reach = max(-low, high)
        return cls(np.asarray(reach / cls.largest() if reach > 0 else 1.0, np.float32))

    @classmethod
    def search(
        cls, rows: Array, axis: int | None, least_error: bool, importance: Array | None = None
    ) -> ScaledGrid:
        """The grid of f64 weights [channels, elements]: the scale of each channel (of all together
        where `axis` is None) holds its largest number or, by `least_error`, has the least squared
        error (weighted by `importance`)."""
        if axis is None:
            rows = rows.reshape(1, -1)
            importance = None if importance is None else importance.reshape(1, -1)
        reach = np.abs(rows).max(1, initial=0.0)
        start = np.where(reach > 0, reach / cls.largest(), 1.0)
        start = np.maximum(start, np.finfo(np.float32).tiny)
        chosen, best = start, np.full(len(rows), np.inf)
        for factor in SHRINKS if least_error else ():
            tried = (start * factor).astype(np.float32)
            made = cls(tried, 0)
            error = np.square(made.decode(made.encode(rows)) - rows)
            total = (error if importance is None else error * importance).sum(1)
            chosen, best = np.where(total < best, tried, chosen), np.minimum(total, best)
        scale = chosen.astype(np.float32)
        return cls(scale if axis is not None else scale.reshape(()), axis)

    def read(self, b: Builder, codes: Value, name: str) -> Value:
        table = b.constant(self.table().astype(np.float32), f"{name}.table")
        index = b.cast(codes, to=DType.i32, name=f"{name}.index")
        scale = b.constant(self.steps(codes.type.rank), f"{name}.scale")
        looked_up = b.gather(table, index, name=f"{name}.looked_up")
        return b.mul(looked_up, scale, name=f"{name}.dequantized")

    def round(self, b: Builder, x: Value, name: str, on_grid: bool = False) -> Value:
        raise PassError(f"no op rounds a computed value to {self.schemes[0]}: it is for weights")


SCHEMES: dict[str, type[Grid]] = {}  # those imported so far: ask `schemes`
G = TypeVar("G", bound=type[Grid])


def register_grid(cls: G) -> G:
    """Class decorator: make a grid known by its schemes. Raises ValueError for a bad one."""
    for name in cls.schemes:
        known = SCHEMES.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"scheme {name} is declared twice")
        SCHEMES[name] = cls
    if not cls.schemes:
        raise ValueError(f"{cls.__name__} names no scheme")
    if not cls.lowers and not issubclass(cls, ScaledGrid):
        raise ValueError(f"{cls.__name__}, a grid for weights, is no ScaledGrid")
    return cls

"""Tilings: how one layer is cut into register tiles and chunks.

A tiling changes the order of work and nothing else: every output is the same sum in the same order,
so any tiling gives the same bits. A *case* is all that the time of a layer depends on.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from ..codegen.isa import Isa

_MOST = 1 << 30


@dataclass(frozen=True)
class Case:
    """A layer as `kernels.conv.prepare` is asked for it."""

    weights: tuple[int, int, int, int]  # N, KH, KW, C
    item: int  # bytes of an element
    pixel: int  # bytes between the input's pixels
    size: tuple[int, int]
    images: int
    groups: int
    dilation: tuple[int, int]
    out: str
    residual: str  # as the kernels call it; "" for none
    activation: str
    bounded: bool

    @property
    def macs(self) -> int:
        n, kh, kw, c = self.weights
        return n * kh * kw * c * self.size[0] * self.size[1] * self.images

    @property
    def name(self) -> str:
        """What a record calls it: its fields in order, as JSON."""
        return json.dumps([getattr(self, f.name) for f in fields(self)])


@dataclass(frozen=True)
class Tiling:
    """The register tile (pixels, vectors); tiles and panels of weights in a chunk."""

    tile: tuple[int, int]
    tiles: int
    panels: int

    @classmethod
    def read(cls, value: Any) -> Tiling:
        """From JSON. Raises ValueError where that is not a tiling."""
        if not isinstance(value, dict) or value.keys() != {f.name for f in fields(cls)}:
            raise ValueError("a tiling has tile, tiles and panels")
        tile = value["tile"]
        if not isinstance(tile, list) or len(tile) != 2:
            raise ValueError("a tile is two numbers")
        numbers = (*tile, value["tiles"], value["panels"])
        if not all(type(n) is int and 0 <= n <= _MOST for n in numbers):
            raise ValueError(f"numbers of a tiling are whole and at most {_MOST}")
        if any(numbers) and not all(numbers):
            raise ValueError("numbers of a tiling are all zero or none")
        return cls((tile[0], tile[1]), value["tiles"], value["panels"])


HEURISTIC = Tiling((0, 0), 0, 0)  # nothing that was measured is better than the default


@dataclass
class Tilings:
    """The tilings that a program uses, by case name; none for a case means the heuristics'."""

    chosen: dict[str, Tiling] = field(default_factory=dict)
    asked: Counter[Case] = field(default_factory=Counter)

    def find(self, case: Case, isa: Isa) -> Tiling | None:
        """The tiling for a layer. One whose tile this table lacks (HEURISTIC's) is none."""
        self.asked[case] += 1
        found = self.chosen.get(case.name)
        tiles = isa.float_tiles if case.out == "float" else isa.tiles
        return found if found is not None and found.tile in tiles else None

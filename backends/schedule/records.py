"""Descriptor records: what a kernel is told, as int64 words. No Numba here.

A record is a frozen dataclass whose fields, in order, are its words. Every record begins with
`Header`: the sync block, the work-counter slot (ops between two barriers need different ones) and
the number of chunks. Floats are stored as the bits of a double.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first words of every record."""

    sync: int
    slot: int = 0
    chunks: int = 1

    def pack(self) -> np.ndarray:
        """The record as int64[words]."""
        values = (getattr(self, f.name) for f in fields(self))
        return np.array([_bits(v) if isinstance(v, float) else v for v in values], np.int64)

    @classmethod
    def words(cls) -> int:
        """How many words the record has."""
        return len(fields(cls))

    @classmethod
    def at(cls, name: str) -> int:
        """The word that holds field `name`."""
        return [f.name for f in fields(cls)].index(name)


def _bits(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]

"""What a training run measured, epoch by epoch."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taut.ir import UnsupportedError
from taut.ir.files import write_atomic

from .plot import plot

VALIDATION = "validation "  # before the name of what was measured on validation data

Row = dict[str, float]


@dataclass
class History:
    """A row an epoch: `epoch` (from 1), `loss`, metrics, the same after "validation ", the last
    `learning rate`, `seconds`. Prints as a table.
    """

    rows: list[Row] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(k for row in self.rows for k in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[float | None]:
        """One column; None where an epoch has no such number."""
        return [row.get(column) for row in self.rows]

    def __rich__(self) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.columns:
            made.add_column(Text(name), justify="right")
        for row in self.rows:
            made.add_row(*(Text(show(k, row.get(k))) for k in self.columns))
        return made

    def to_json(self) -> str:
        return json.dumps(self.rows, indent=1)

    def to_csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def to_svg(self) -> str:
        """Loss and metrics over the epochs, as a picture."""
        return plot(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json`, `.csv` or `.svg`, whole or not at all. Raises StorageError,
        UnsupportedError for another suffix.
        """
        made = {".json": self.to_json, ".csv": self.to_csv, ".svg": self.to_svg}
        suffix = Path(path).suffix.lower()
        if suffix not in made:
            raise UnsupportedError("is no file for a history", file=path,
                                   hint=f"use {', '.join(made)}")  # fmt: skip
        write_atomic(path, made[suffix]().encode())


def show(column: str, value: float | None) -> str:
    """A cell of the table."""
    if value is None:
        return ""
    if column == "epoch":
        return str(int(value))
    if column == "seconds":
        return f"{value:.1f}"
    last = column.removeprefix(VALIDATION)
    if last == "accuracy" or last.startswith("top-"):
        return f"{value:.2%}"
    return f"{value:.4g}"


def brief(row: Mapping[str, float]) -> str:
    """An epoch in one line."""
    return "  ".join(f"{k} {show(k, v)}" for k, v in row.items() if k != "epoch")

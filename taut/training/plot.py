"""A history as a picture: SVG text, drawn without further packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 380, 260, 60, 30, 40
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
OMITTED = ("epoch", "seconds", "learning rate")


class Table(Protocol):
    """Rows by epoch, and columns of them by name: what a History is."""

    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, column: str) -> Sequence[float | None]: ...


def plot(history: Table) -> str:
    """Two panels side by side: the losses, and every other metric; a colour a column."""
    names = [c for c in history.columns if c not in OMITTED]
    panels = [[c for c in names if c.endswith("loss") is kind] for kind in (True, False)]
    panels = [p for p in panels if p]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * max(len(panels), 1)}" '
             f'height="{HEIGHT}" font-family="sans-serif" font-size="12">']  # fmt: skip
    for i, columns in enumerate(panels):
        parts.append(f'<g transform="translate({i * WIDTH},0)">')
        parts += _panel(history, columns)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(history: Table, columns: Sequence[str]) -> list[str]:
    epochs = [float(row["epoch"]) for row in history.rows]
    values = [v for c in columns for v in history[c] if v is not None]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    first, last = min(epochs), max(max(epochs), min(epochs) + 1)

    def x(epoch: float) -> float:
        return LEFT + (epoch - first) / (last - first) * (WIDTH - LEFT - 15)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for k in range(5):
        at = low + (high - low) * k / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 15}" y1="{y(at):.1f}" y2="{y(at):.1f}" '
                     'stroke="#ddd"/>')  # fmt: skip
        parts.append(f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.3g}</text>')
    for epoch in sorted({first, last}):
        parts.append(f'<text x="{x(epoch):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                     f"{epoch:.0f}</text>")  # fmt: skip
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">epoch'
                 "</text>")  # fmt: skip
    for i, column in enumerate(columns):
        colour = COLOURS[i % len(COLOURS)]
        pairs = zip(epochs, history[column])
        points = [f"{x(e):.1f},{y(v):.1f}" for e, v in pairs if v is not None]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
                     'stroke-width="2"/>')  # fmt: skip
        parts.append(f'<text x="{LEFT + 150 * i}" y="18" fill="{colour}">{escape(column)}</text>')
    return parts

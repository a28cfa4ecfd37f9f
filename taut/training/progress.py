"""A bar on standard error while a run goes on: only where that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from .history import Row, brief


class Bar:
    """Epoch, batches, loss and accuracy as they come; nothing at all where it is not shown."""

    def __init__(self, epochs: int, shown: bool | None = None) -> None:
        """`shown`: True, False, or None for whether standard error is a terminal."""
        self.epochs = epochs
        self.shown = sys.stderr.isatty() if shown is None else shown
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            console = Console(stderr=True, highlight=False)
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar is not None:
            self._bar.stop()

    def start(self, epoch: int, batches: int | None) -> None:
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            label = f"epoch {epoch + 1}/{self.epochs}"
            self._task = self._bar.add_task(label, total=batches, text="")

    def advance(self, done: int, means: Row) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=brief(means))

    def finish(self, row: Row) -> None:
        """An epoch is done: its line stays."""
        if self._bar is not None:
            self._bar.console.print(f"epoch {row['epoch']:.0f}  {brief(row)}", markup=False)

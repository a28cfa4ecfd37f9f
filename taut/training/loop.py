"""Epochs: the loop around the step, with validation, schedule, checkpoints and early stopping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taut.data import Augment, Dataset
from taut.ir import Array, FeedError, Graph, TautError

from . import checkpoint
from .checkpoint import Position
from .feed import Batch
from .history import VALIDATION, History, Row
from .progress import Bar
from .recipe import Recipe
from .schedules import Constant, Schedule, schedule
from .source import Data, Source
from .trainer import Totals, Trainer


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    learning_rate    the base rate, which `schedule` scales at each step
    patience         epochs without a better `monitor` after which to stop; 0: go on to the end
    monitor          the column of the history that says what is best: by default validation
                     accuracy, or loss; a loss should fall, all else rise
    keep_best        whether to end with the weights of the best epoch; by default with patience
    checkpoint       a folder for checkpoints: one after each epoch, and after every
                     `checkpoint_steps` steps if that is not 0
    resume           go on from the checkpoint in that folder, if there is one
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.01
    schedule: str | Schedule = "constant"
    patience: int = 0
    monitor: str = ""
    keep_best: bool | None = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_steps: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        whole = {"epochs": 1, "batch_size": 1, "patience": 0, "checkpoint_steps": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise FeedError(f"{name} is {value!r}, which should be an integer of {least} or "
                                "more")  # fmt: skip
        rate = self.learning_rate
        if not isinstance(rate, int | float) or not 0 <= rate < float("inf"):
            raise FeedError(f"learning_rate is {rate!r}, which should be a number of 0 or more")
        if self.resume and self.checkpoint is None:
            raise FeedError("resume needs the folder of the checkpoint")
        schedule(self.schedule)


@dataclass(frozen=True)
class Trained:
    """What came of a run: the graph for inference, the history, and the epoch (from 1) whose
    weights the graph has; `stopped` says why it ended early, "" where it did not.
    """

    graph: Graph
    history: History
    epoch: int
    stopped: str
    trainer: Trainer


def train(
    graph: Graph, data: Data, *, validation: Dataset | Iterable[Batch] | None = None,
    recipe: Recipe | None = None, masks: Mapping[str, Array] | None = None,
    augment: Augment | None = None, seed: int = 0, threads: int | None = None,
    target: str = "cpu", progress: bool | None = None,
    on_epoch: Callable[[Trainer, Row], Any] | None = None, **options: Any,
) -> Trained:  # fmt: skip
    """Train a graph's parameters on data; the graph handed in stays as it is.

    data        a Dataset (shuffled by the seed and cut into batches), an iterable of batches, each
                (inputs in order, target) or a dict by input name, or a function from the epoch's
                number to such an iterable
    validation  the same without shuffling, measured after each epoch
    masks       bool arrays by parameter: where false, the weight stays as it is
    augment     changes images of a Dataset: `taut.data.shift(2)`
    progress    a bar; by default on a terminal only
    on_epoch    called after each epoch with the trainer and the history's new row
    options     the fields of Recipe (loss, optimizer, smoothing, clip, metrics, frozen, ...) and of
                Settings (epochs, batch_size, learning_rate, schedule, patience, checkpoint, ...)

    Raises FeedError for data that do not fit, with epoch and batch; TrainingError where the loss is
    no number; NotDifferentiableError; StorageError, ModelError for checkpoints.
    """
    recipe, settings = _options(recipe, options)
    trainer = Trainer(graph, recipe, masks=masks, seed=seed, threads=threads, target=target)
    source = Source(data, settings.batch_size, seed, augment)
    return _Run(trainer, source, validation, settings, on_epoch).run(progress)


def _options(recipe: Recipe | None, options: dict[str, Any]) -> tuple[Recipe, Settings]:
    """The options as recipe and settings. Raises FeedError for one that neither has."""
    kinds = {f: cls for cls in (Recipe, Settings) for f in cls.__dataclass_fields__}
    for name in options:
        if name not in kinds or (recipe is not None and kinds[name] is Recipe):
            raise FeedError(f"training has no option {name!a}",
                            hint=f"the options are {', '.join(kinds)}")  # fmt: skip
    for name in ("metrics", "frozen"):
        if name in options:
            options[name] = tuple(options[name])
    parts = [{k: v for k, v in options.items() if kinds[k] is cls} for cls in (Recipe, Settings)]
    return recipe if recipe is not None else Recipe(**parts[0]), Settings(**parts[1])


class _Run:
    """One run of `train`."""

    def __init__(
        self, trainer: Trainer, source: Source, validation: Any, settings: Settings,
        on_epoch: Callable[[Trainer, Row], Any] | None,
    ) -> None:  # fmt: skip
        self.trainer, self.source, self.validation = trainer, source, validation
        self.settings, self.on_epoch = settings, on_epoch
        self.schedule = schedule(settings.schedule)
        self.position = Position()
        self.about = checkpoint.identity(trainer, settings.batch_size)
        keep = settings.keep_best
        self.keeps_best = bool(settings.patience) if keep is None else keep
        if source.batches is None and not isinstance(self.schedule, Constant):
            raise FeedError(f"the schedule {self.schedule} needs the number of batches",
                            hint="give data with a length")  # fmt: skip

    def run(self, progress: bool | None) -> Trained:
        settings = self.settings
        if settings.checkpoint is not None:
            checkpoint.prepare(settings.checkpoint, settings.resume)
            found = checkpoint.load(settings.checkpoint, self.trainer, self.about)
            self.position = found or self.position
        stopped = self._stopped()
        with Bar(settings.epochs, progress) as bar:
            while self.position.epoch < settings.epochs and not stopped:
                self._epoch(bar)
                stopped = self._stopped()
        epoch = self.position.epoch
        if self.keeps_best and self.position.best:
            self.trainer.load_state(self.position.best)
            epoch = self.position.best_epoch
        return Trained(self.trainer.graph, self.position.history, epoch, stopped, self.trainer)

    def _stopped(self) -> str:
        """Why to stop before the last epoch, if there is a reason."""
        at, patience = self.position, self.settings.patience
        if patience and at.best_epoch and at.epoch - at.best_epoch >= patience:
            return f"{self._monitor(at.history.rows[-1])} was best in epoch {at.best_epoch}"
        return ""

    def _epoch(self, bar: Bar) -> None:
        at, settings = self.position, self.settings
        started = time.perf_counter()
        bar.start(at.epoch, self.source.batches)
        for i, batch in enumerate(self.source.epoch(at.epoch)):
            if i < at.batch:
                continue  # done before the run was resumed
            rate = self._rate(self.trainer.steps)
            try:
                self.trainer.run(batch, rate, at.totals, trusted=self.source.trusted)
            except TautError as error:
                error.message = f"epoch {at.epoch + 1}, batch {i + 1}: {error.message}"
                raise
            at.batch = i + 1
            bar.advance(at.batch, at.totals.means())
            every = settings.checkpoint_steps
            if settings.checkpoint is not None and every and self.trainer.steps % every == 0:
                checkpoint.save(settings.checkpoint, self.trainer, at, self.about)
        row = self._row(started)
        at.epoch, at.batch, at.totals = at.epoch + 1, 0, Totals()
        at.history.rows.append(row)
        self._judge(row)
        if settings.checkpoint is not None:
            checkpoint.save(settings.checkpoint, self.trainer, at, self.about)
        bar.finish(row)
        if self.on_epoch is not None:
            self.on_epoch(self.trainer, row)

    def _rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        count = self.source.batches or 0
        factor = self.schedule(step, count * self.settings.epochs, count)
        return self.settings.learning_rate * factor

    def _row(self, started: float) -> Row:
        row = {"epoch": self.position.epoch + 1, **self.position.totals.means()}
        if self.validation is not None:
            found = self.trainer.evaluate(self.validation)
            row |= {f"{VALIDATION}{k}": v for k, v in found.items()}
        rate = self._rate(self.trainer.steps - 1)
        return {**row, "learning rate": rate, "seconds": time.perf_counter() - started}

    def _monitor(self, row: Row) -> str:
        """The column that says what is best. Raises FeedError for one that is not there."""
        name = self.settings.monitor
        if name and name not in row:
            raise FeedError(f"nothing is measured by the name {name!a}",
                            hint=f"there are {', '.join(row)}")  # fmt: skip
        kinds = (f"{VALIDATION}accuracy", f"{VALIDATION}loss", "loss")
        return name or next(k for k in kinds if k in row)

    def _judge(self, row: Row) -> None:
        """Keep the weights if they are the best so far."""
        if not self.keeps_best and not self.settings.patience:
            return
        at, name = self.position, self._monitor(row)
        value = row[name] if not name.endswith("loss") else -row[name]
        if not at.best_epoch or value > at.best_value:
            at.best_epoch, at.best_value = at.epoch, value
            keep = {**self.trainer.parameters, **self.trainer.statistics}
            at.best = {k: np.array(a) for k, a in keep.items()}

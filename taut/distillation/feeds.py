"""A data set's batches with what a recorded teacher gave for the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from taut.data import Dataset
from taut.ir import Array, Graph
from taut.passes.distill.joint import TEACHER

from .cache import Cache


@dataclass(frozen=True)
class RecordedBatches:
    """Batches by input name for a student joined to a recorded teacher: images, labels where the
    graph takes them, and the recording's rows. Called with an epoch's number they are shuffled as
    the Dataset's would be, iterated over they come in order.
    """

    data: Dataset
    arrays: Mapping[str, Array]
    image: str
    target: str | None
    batch_size: int
    seed: int = 0

    @classmethod
    def of(
        cls, graph: Graph, data: Dataset, recording: Cache, batch_size: int, seed: int = 0
    ) -> RecordedBatches:
        """Raises FeedError where the data are not those of the recording."""
        recording.check(data)
        names = [n.name for n in graph.inputs]
        arrays = {TEACHER + k: a for k, a in recording.arrays.items() if TEACHER + k in names}
        own = [n for n in names if n not in arrays]
        return cls(data, arrays, own[0], own[1] if len(own) > 1 else None, batch_size, seed)

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __call__(self, epoch: int) -> Iterator[dict[str, Array]]:
        return self._batches(self.seed, epoch)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self._batches(None, 0)

    def _batches(self, seed: int | None, epoch: int) -> Iterator[dict[str, Array]]:
        count = len(self.data)
        rows_as_labels = replace(self.data, labels=np.arange(count), classes=count, names=())
        for images, rows in rows_as_labels.batches(self.batch_size, seed=seed, epoch=epoch):
            feeds = {self.image: images, **{k: a[rows] for k, a in self.arrays.items()}}
            if self.target is not None:
                feeds[self.target] = self.data.labels[rows]
            yield feeds

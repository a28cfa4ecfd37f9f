"""Where batches come from, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from taut.data import Augment, Dataset
from taut.ir import FeedError

from .feed import Batch

Data = Dataset | Iterable[Batch] | Callable[[int], Iterable[Batch]]
"""A Dataset; an iterable of batches that can be gone through in every epoch; or a function from the
epoch's number (from 0) to the batches of that epoch."""


class Source:
    """Batches of an epoch, the same ones each time that epoch is asked for."""

    def __init__(
        self, data: Data, batch_size: int, seed: int, augment: Augment | None = None
    ) -> None:
        """Raises FeedError where augmentation is asked for with other data than a Dataset."""
        if augment is not None and not isinstance(data, Dataset):
            raise FeedError("augmentation works on a Dataset",
                            hint="augment the batches yourself")  # fmt: skip
        if isinstance(data, Dataset) and not len(data):
            raise FeedError("the data set is empty")
        self.data, self.batch_size, self.seed, self.augment = data, batch_size, seed, augment
        self._started = False

    @property
    def trusted(self) -> bool:
        """Whether the numbers are known to be finite."""
        return isinstance(self.data, Dataset) and self.augment is None

    def epoch(self, number: int) -> Iterator[Batch]:
        """Raises FeedError for a one-way iterator that is asked for a second epoch."""
        data: Any = self.data
        if isinstance(data, Dataset):
            return iter(data.batches(self.batch_size, seed=self.seed, epoch=number,
                                     augment=self.augment))  # fmt: skip
        if callable(data):
            return iter(cast("Iterable[Batch]", data(number)))
        made = iter(data)
        if made is data and self._started:
            raise FeedError("the data can be gone through only once",
                            hint="give a list, a Dataset, or a function of the epoch")  # fmt: skip
        self._started = True
        return made

    @property
    def batches(self) -> int | None:
        """Batches an epoch, where that is known."""
        data: Any = self.data
        if isinstance(data, Dataset):
            return len(data.batches(self.batch_size))
        return len(data) if hasattr(data, "__len__") else None

"""What a pass may need from outside: data, target, seed, progress, limits, analyses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir import DEFAULT_LIMITS, DType, FeedError, Graph, Limits
from ..ir.interpret import Watch, bind_feeds
from ..ir.machine import Machine
from ..ir.op import Array
from ..ir.ops.common import cast
from .analysis import Analyses

KEEP_BYTES = 256 << 20


class Samples:
    """Batches that can be gone through more than once, in bounded memory.

    `source` is any iterable of arrays, tuples or dicts, or a function that returns one. What can
    be iterated again is, each time anew. Of a one-shot iterator the first `keep` bytes are kept
    as they stream by, and only those come again (`truncated` then says that some did not fit).
    """

    def __init__(
        self, source: Iterable[Any] | Callable[[], Iterable[Any]], keep: int = KEEP_BYTES
    ) -> None:
        self.source, self.keep = source, keep
        self.kept: list[Any] = []
        self.kept_bytes = 0
        self.truncated = False

    def __iter__(self) -> Iterator[Any]:
        if callable(self.source):
            yield from self.source()
            return
        stream = iter(self.source)
        if stream is not self.source:
            yield from stream
            return
        position = 0
        while True:  # kept ones first, then what the stream still holds
            while position < len(self.kept):
                yield self.kept[position]
                position += 1
            try:
                batch = next(stream)
            except StopIteration:
                return
            size = batch_bytes(batch)
            if not self.truncated and self.kept_bytes + size <= self.keep:
                self.kept.append(batch)
                self.kept_bytes += size
            else:
                self.truncated = True
                yield batch


def batch_bytes(batch: Any) -> int:
    """Bytes of the arrays in a batch."""
    if isinstance(batch, Mapping):
        return sum(batch_bytes(v) for v in batch.values())
    if isinstance(batch, tuple | list):
        return sum(batch_bytes(v) for v in batch)
    return int(getattr(batch, "nbytes", 64))


def batch_feeds(graph: Graph, batch: Any) -> dict[str, Array]:
    """A batch (array, tuple or dict) as arrays by input name. Raises FeedError."""
    if isinstance(batch, Mapping):
        return bind_feeds(graph, (), {str(k): v for k, v in batch.items()})
    return bind_feeds(graph, tuple(batch) if isinstance(batch, tuple | list) else (batch,), {})


Gate = Callable[[str, str], bool]


def _always(step: str, node: str) -> bool:
    return True


@dataclass
class Context:
    """Handed to every pass; everything random comes from `rng`, so a seed fixes the result.

    `data`: sample inputs. `target`: the machine that the graph is meant for.
    `progress(done, total, text)` is called by passes that take long. `watch(rule, node)` sees each
    rewrite. `gate(step, node)` may forbid a step (it counts them for bisection).
    `runner(graph, feeds, watch)` runs a graph faster than the reference and hands `watch` every
    result, as `interpret` does (calibration uses it; passes import no backend). `teacher`: whom
    distillation passes let a student learn from, a Graph or `passes.distill.Recorded`.
    `rewrites`: every rule that was offered to the driver, by `who/rule`, applied or not.
    """

    data: Any = None
    target: Machine = field(default_factory=Machine)
    seed: int = 0
    progress: Callable[[int, int | None, str], None] | None = None
    limits: Limits = DEFAULT_LIMITS
    watch: Callable[[str, str], None] | None = None
    gate: Gate = _always
    runner: Callable[[Graph, Mapping[str, Array], Watch], Any] | None = None
    teacher: Any = None
    analyses: Analyses = field(default_factory=Analyses)
    rewrites: dict[str, Any] = field(default_factory=dict)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        if self.data is not None and not isinstance(self.data, Samples):
            self.data = Samples(self.data)
        self.rng = np.random.default_rng(self.seed)

    @property
    def samples(self) -> Samples | None:
        return self.data

    def restart(self, salt: str = "") -> None:
        """Seed `rng` anew (the manager does so before each pass, with the pass's place as salt,
        so that what one pass draws does not depend on the passes before it)."""
        self.rng = np.random.default_rng([self.seed, *salt.encode()])

    def feeds(self, graph: Graph, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Sample inputs by input name, one batch at a time. Raises FeedError without data."""
        if self.data is None:
            raise FeedError("this needs sample inputs", hint="give data=")
        count = 0
        for batch in self.data:
            if limit is not None and count >= limit:
                return
            yield batch_feeds(graph, batch)
            count += 1
        if not count:
            raise FeedError("the sample inputs are empty")

    def report(self, done: int, total: int | None, text: str) -> None:
        if self.progress is not None:
            self.progress(done, total, text)


def random_feeds(
    graph: Graph, rng: np.random.Generator, symbols: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Inputs that fit the signature: normal floats, small integers; symbols default to 2.

    Raises FeedError for an input of unknown rank, LimitError for one that is too large.
    """
    sizes = dict(symbols or {})
    feeds: dict[str, Array] = {}
    for node in graph.inputs:
        type = node.type
        if type.shape is None:
            raise FeedError("has no known rank, so no input can be drawn", node=node.name,
                            hint="give data=")  # fmt: skip
        shape = tuple(
            d if isinstance(d, int) else sizes.setdefault(d, 2) if isinstance(d, str) else 2
            for d in type.shape
        )
        DEFAULT_LIMITS.check(type.with_shape(shape), f"input {node.name!r}")
        feeds[node.name] = random_array(type.dtype, shape, rng)
    return feeds


def random_array(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if dtype.is_minifloat:
        made = rng.standard_normal(shape)
        return cast(np.exp2(made) if dtype is DType.f8e8m0fnu else made, dtype)
    if dtype is DType.bool:
        return rng.integers(0, 2, shape).astype(bool)
    low, high = dtype.bounds
    return rng.integers(max(low, -8), min(high, 8), shape, endpoint=True).astype(dtype.numpy)

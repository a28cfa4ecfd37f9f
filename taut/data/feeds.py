"""Inputs for a graph out of files or a seeded generator, one call's feeds at a time.

An array with one axis more than its input counts calls along its first axis; one of the input's
rank is cut along its first axis into calls of the input's fixed size, or of `batch` rows where that
size is open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taut.ir import DEFAULT_LIMITS, DType, FeedError, Graph, Limits, TensorType
from taut.ir.graph import Node
from taut.ir.op import Array
from taut.ir.ops.common import cast

from .arrays import SUFFIXES, read_arrays
from .sources import load_dataset

Sizes = Mapping[str, int | tuple[int, ...]]


@dataclass
class RandomFeeds:
    """`count` calls' feeds from a seed: floats normal, integers small and never negative.

    `dims` gives sizes of open dimensions by symbol, `*` for all others (1 by default), or the whole
    shape of an input by its name.
    """

    graph: Graph
    count: int = 1
    seed: int = 0
    dims: Sizes | None = None
    limits: Limits = DEFAULT_LIMITS

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        random = np.random.default_rng(self.seed)
        types = {n.name: bound_type(n, self.dims or {}) for n in self.graph.inputs}
        for name, type in types.items():
            self.limits.check(type, f"input {name!a}")
        for _ in range(self.count):
            yield {name: random_array(type, random) for name, type in types.items()}


def check_dims(graph: Graph, dims: Sizes) -> None:
    """Raise FeedError for a size of what the graph has not, which would be passed over."""
    sizes = [d for n in graph.inputs for d in n.type.shape or (None,) if not isinstance(d, int)]
    symbols = {d for d in sizes if isinstance(d, str)}
    inputs = {n.name for n in graph.inputs}
    for name, size in dims.items():
        if name == "*" and not sizes:
            raise FeedError("every size of the inputs is fixed", hint="leave the batch out")
        known = inputs if isinstance(size, tuple) else symbols | {"*"}
        if name not in known:
            what = "input" if isinstance(size, tuple) else "open size"
            there = ", ".join(ascii(k) for k in sorted(known - {"*"})) or "none"
            raise FeedError(f"no {what} of the graph is named {name!a}", hint=f"it has {there}")


def bound_type(node: Node, dims: Sizes) -> TensorType:
    """An input's type with every open dimension given a size.

    Raises FeedError for an unknown rank, and for a whole shape that the input cannot take.
    """
    type, whole = node.type, dims.get(node.name)
    if isinstance(whole, tuple):
        if not type.accepts(type.with_shape(whole)):
            raise FeedError(f"wants {type}, not shape {list(whole)}", node=node.name)
        return type.with_shape(whole)
    if type.shape is None:
        hint = f"give its shape: --dim {node.name}=1x3x32x32, say"
        raise FeedError("is of unknown rank", node=node.name, hint=hint)
    rest = dims.get("*", 1)
    sizes = [d if isinstance(d, int) else dims.get(d, rest) if d else rest for d in type.shape]
    return type.with_shape(s if isinstance(s, int) else 1 for s in sizes)


def random_array(type: TensorType, random: np.random.Generator) -> Array:
    """Floats from the normal distribution; bytes over their range, other integers from 0 to 9."""
    shape, dtype = type.static_shape, type.dtype
    if dtype.is_float:
        return random.standard_normal(shape, np.float32).astype(dtype.numpy)
    if dtype.is_minifloat:
        made = random.standard_normal(shape, np.float32)
        return cast(np.exp2(made) if dtype is DType.f8e8m0fnu else made, dtype)
    if not dtype.is_integer:
        return random.random(shape) < 0.5
    low, high = dtype.bounds if dtype.bits <= 8 else (0, 9)
    return random.integers(low, high, shape, endpoint=True).astype(dtype.numpy)


class FileFeeds:
    """The calls' feeds held by a data file, see the module's head. Can be read many times.

    Of a data set (anything else that `load_dataset` takes) they are the images.

    Raises StorageError, ModelError or LimitError for the file, FeedError where names or ranks do
    not fit the graph.
    """

    def __init__(
        self, path: str | os.PathLike[str], graph: Graph, batch: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:  # fmt: skip
        arrays = _arrays(path, limits)
        inputs = {n.name: n for n in graph.inputs}
        if set(arrays) == {""} and len(inputs) == 1:
            arrays = {next(iter(inputs)): arrays[""]}
        if set(arrays) != set(inputs):
            raise FeedError(
                f"holds arrays {sorted(arrays)}, the graph takes {sorted(inputs)}", file=path
            )
        self._calls = {k: _cut(inputs[k], v, batch, path) for k, v in arrays.items()}
        counts = {k: len(v) for k, v in self._calls.items()}
        if len(set(counts.values())) > 1:
            raise FeedError(f"the arrays hold different numbers of calls: {counts}", file=path)
        self._count = next(iter(counts.values()), 0)
        if not self._count:
            raise FeedError("holds no data for any call", file=path)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for i in range(self._count):
            yield {k: np.ascontiguousarray(v[i]) for k, v in self._calls.items()}


def _arrays(path: str | os.PathLike[str], limits: Limits) -> dict[str, Array]:
    if Path(path).suffix.lower() in SUFFIXES:
        return read_arrays(path, limits)
    return {"": load_dataset(path, limits=limits).images}


def _cut(node: Node, array: Array, batch: int | None, path: object) -> list[Array]:
    """Views of `array`, one a call."""
    shape = node.type.shape
    if shape is None:
        return [array]
    if array.ndim == len(shape) + 1:
        return list(array)
    if array.ndim != len(shape):
        got = f"{array.dtype}{list(array.shape)}"
        raise FeedError(f"wants {node.type}, the data is {got}", file=path, node=node.name)
    if not shape:
        return [array]
    rows = shape[0] if isinstance(shape[0], int) else batch or len(array)
    if rows == 0 or (isinstance(shape[0], int) and len(array) % rows):
        raise FeedError(f"{len(array)} rows do not divide into calls of {rows}", file=path)
    return [array[i : i + rows] for i in range(0, len(array), rows)]


def check_finite(feeds: Mapping[str, Array]) -> None:
    """Raise FeedError that names the first input with a NaN or an infinity."""
    for name, array in feeds.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
            raise FeedError(f"holds {bad} values that are NaN or infinite", node=name)

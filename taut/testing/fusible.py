"""Graphs of what loop nests are made of: element-wise ops, broadcasts, reductions, normalizations
and data movement, in f32, f64 and (without normalizations) i32.

Values stay small, and nothing jumps: no comparisons or roundings of computed numbers, whose results
may differ where sums are ordered otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from taut.ir import Builder, DType, Graph, TensorType, Value

from .values import arrays

SIZES = (1, 2, 3, 5, 8, 17, 40)
LARGEST = 4096  # elements

FLOAT_ONLY = ("tame", "soften", "normalize", "mean")
STEPS = ("combine", "plain", "broadcast", "reduce", "spread", "transpose", "reshape", "halves",
         "choose", *FLOAT_ONLY)  # fmt: skip


class Pool:
    """Values so far, newest first when drawn from."""

    def __init__(self, draw: st.DrawFn, dtype: DType, awkward: Iterable[str]) -> None:
        self.draw, self.dtype, self.awkward = draw, dtype, tuple(awkward)
        self.b = Builder()
        self.values: list[Value] = []

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def value(self) -> Value:
        return self.pick(*self.values[::-1])

    def shape(self, x: Value) -> tuple[Any, ...]:
        assert x.shape is not None
        return x.shape

    def constant(self, *shape: int) -> Any:
        bounds = {} if self.dtype.is_float else {"low": -9, "high": 9}
        return self.draw(arrays(TensorType(self.dtype, shape), self.awkward, **bounds))

    def add(self, x: Value) -> None:
        sizes = [n if isinstance(n, int) else 4 for n in self.shape(x)]
        if int(np.prod(sizes, dtype=object)) <= LARGEST:
            self.values.append(x)

    # ---- steps ---------------------------------------------------------------------------------

    def plain(self, x: Value) -> Value:
        return getattr(self.b, self.pick("relu", "neg", "abs"))(x)

    def tame(self, x: Value) -> Value:
        made = getattr(self.b, self.pick("tanh", "sigmoid", "erf"))(x)
        return self.b.exp(made) if self.draw(st.booleans()) else made

    def combine(self, x: Value) -> Value:
        same = [v for v in self.values if v.type == x.type]
        return getattr(self.b, self.pick("add", "sub", "max", "min"))(x, self.pick(*same))

    def broadcast(self, x: Value) -> Value:
        """With a scalar, or a constant along some axes."""
        shape = self.shape(x)
        kept = [self.draw(st.booleans()) and isinstance(n, int) for n in shape]
        c = self.constant(*(n if k else 1 for n, k in zip(shape, kept)))
        c = self.b.constant(c.reshape(()) if c.size == 1 and self.draw(st.booleans()) else c)
        return getattr(self.b, self.pick("add", "mul", "max"))(x, c)

    def _axes(self, x: Value) -> list[int]:
        rank = len(self.shape(x))
        few = st.lists(st.integers(0, rank - 1), min_size=1, max_size=2, unique=True)
        return self.pick([rank - 1], sorted(self.draw(few)))

    def reduce(self, x: Value) -> Value:
        if not self.shape(x):
            return x
        how = self.pick("reduce_max", "reduce_sum", "reduce_min")
        keep = self.draw(st.booleans())
        return getattr(self.b, how)(x, np.array(self._axes(x)), keepdims=keep)

    def mean(self, x: Value) -> Value:
        if not self.shape(x):
            return x
        return self.b.reduce_mean(x, np.array(self._axes(x)))

    def spread(self, x: Value) -> Value:
        """x less (or joined with) a number of its rows."""
        if not self.shape(x):
            return x
        how = self.pick("reduce_max", "reduce_min")
        row = getattr(self.b, how)(x, np.array(self._axes(x)))
        return getattr(self.b, self.pick("sub", "max", "add"))(x, row)

    def soften(self, x: Value) -> Value:
        if not self.shape(x):
            return x
        axis = self.draw(st.integers(0, len(self.shape(x)) - 1))
        return getattr(self.b, self.pick("softmax", "log_softmax"))(x, axis=axis)

    def normalize(self, x: Value) -> Value:
        shape = self.shape(x)
        if not shape or not isinstance(shape[-1], int):
            return x
        scale = self.b.constant(self.constant(shape[-1]))
        if self.draw(st.booleans()):
            return self.b.rms_normalization(x, scale, epsilon=0.1)
        return self.b.layer_normalization(x, scale, self.constant(shape[-1]), epsilon=0.1)

    def transpose(self, x: Value) -> Value:
        order = self.draw(st.permutations(range(len(self.shape(x)))))
        return self.b.transpose(x, perm=tuple(order))

    def reshape(self, x: Value) -> Value:
        """The last two axes as one, or the last one as two."""
        shape = self.shape(x)
        if len(shape) >= 2 and all(isinstance(n, int) for n in shape[-2:]) and \
                self.draw(st.booleans()):  # fmt: skip
            return self.b.reshape(x, np.array([0] * (len(shape) - 2) + [shape[-2] * shape[-1]]))
        if shape and isinstance(shape[-1], int) and shape[-1] % 2 == 0 and len(shape) < 5:
            parts = self.pick((2, shape[-1] // 2), (shape[-1] // 2, 2))
            return self.b.reshape(x, np.array([0] * (len(shape) - 1) + [*parts]))
        return self.b.unsqueeze(x, np.array([len(shape)])) if len(shape) < 5 else x

    def halves(self, x: Value) -> Value:
        """The two halves of the last axis the other way round, one negated."""
        shape = self.shape(x)
        if not shape or not isinstance(shape[-1], int) or shape[-1] < 2:
            return x
        axis, n = np.array([len(shape) - 1]), shape[-1]
        low = self.b.slice(x, np.array([0]), np.array([n // 2]), axis)
        high = self.b.slice(x, np.array([n // 2]), np.array([n]), axis)
        return self.b.concat(self.b.neg(high), low, axis=len(shape) - 1)

    def choose(self, x: Value) -> Value:
        """Where a constant mask along the last axis says so, another constant."""
        n = self.shape(x)[-1] if self.shape(x) else 1
        mask = np.arange(n if isinstance(n, int) else 1) % 2 == 0
        return self.b.where(mask if self.shape(x) else mask.reshape(-1)[0], x, self.constant())


@st.composite
def fusibles(draw: st.DrawFn, awkward: Iterable[str] = (), max_steps: int = 10) -> Graph:
    """Graphs that are all, or nearly all, loop nests."""
    dtype = draw(st.sampled_from([DType.f32, DType.f32, DType.f64, DType.i32]))
    pool = Pool(draw, dtype, awkward)
    rank = draw(st.integers(1, 4))
    shape: list[Any] = [draw(st.sampled_from(SIZES)) for _ in range(rank)]
    while int(np.prod(shape)) > LARGEST:
        shape[int(np.argmax(shape))] = 2
    if draw(st.booleans()):
        shape[0] = "n"
    for i in range(draw(st.integers(1, 2))):
        pool.values.append(pool.b.input(f"x{i}", dtype, shape))
    steps = [s for s in STEPS if dtype.is_float or s not in FLOAT_ONLY]
    for step in draw(st.lists(st.sampled_from(steps), min_size=1, max_size=max_steps)):
        pool.add(getattr(pool, step)(pool.value()))
    graph = pool.b.graph
    loose = [v for v in pool.values[:-1] if not graph.use_count(v)]
    outputs = {"y": pool.values[-1]}
    outputs |= {f"z{i}": v for i, v in enumerate(loose) if draw(st.booleans())}
    graph.set_outputs(outputs)
    return graph

"""What lies under the layers: paths of names, and parameters drawn from a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...ir import (
    DEFAULT_LIMITS,
    Array,
    Builder,
    Dim,
    DType,
    Graph,
    LimitError,
    Limits,
    TensorType,
    Value,
    VerifyError,
)
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.structure import Constant
from .initializers import Initializer

Init = Initializer | Array | float
"""Where a parameter comes from: an initializer, the array itself, or one number for all of it."""


class Scopes:
    """A graph under construction, the path that names are put under, and the random numbers.

    With an integer `seed` each parameter has a generator of its own, made of the seed and the
    parameter's name: the same seed gives the same bits (of one NumPy version), and a layer more
    leaves the other layers' weights as they were. A numpy Generator is drawn from in the order of
    the layers.
    """

    def __init__(
        self, name: str = "main", *, seed: int | np.random.Generator = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:  # fmt: skip
        if not isinstance(seed, np.random.Generator) and (type(seed) is not int or seed < 0):
            raise VerifyError(f"the seed is {seed!r}, which should be an integer of 0 or more")
        self.b = Builder(Graph(name))
        self.seed, self.limits = seed, limits
        self._path: list[str] = []
        self._bytes = 0

    def input(
        self, name: str, shape: tuple[Dim, ...], dtype: DType | str = DType.f32,
        batch: Dim = "batch",
    ) -> Value:  # fmt: skip
        """An input of type `dtype[batch, *shape]`; `batch` is a symbol or a number."""
        return self.b.input(name, dtype, (batch, *shape))

    def outputs(self, **values: Value) -> Graph:
        """Set the outputs and return the finished graph."""
        return self.b.outputs(**values)

    # ---- names -----------------------------------------------------------------------------------

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names inside get `name.` before them. Raises VerifyError for a name with other than
        letters, digits and `_`.
        """
        if not name.isidentifier() and not name.isdigit():
            raise VerifyError(f"{name!r} cannot name a layer", hint="use letters, digits and _")
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    @property
    def here(self) -> str:
        """The path of the scope that is open, "" for none."""
        return ".".join(self._path)

    def path(self, name: str | None, kind: str) -> str:
        """The full name of a layer. One that has no name is called after its kind, with a number
        where that is taken. Raises VerifyError for a given name that is taken.
        """
        if name is None:
            return self.b.graph.fresh(".".join((*self._path, kind)))
        with self.scope(name):
            full = self.here
        if self.b.graph.find(full) is not None:
            raise VerifyError("a layer of this name is there already", node=full)
        return full

    # ---- parameters ------------------------------------------------------------------------------

    def parameter(
        self, at: str, name: str, shape: tuple[int, ...], init: Init,
        fans: tuple[int, int] | None = None,
    ) -> Value:  # fmt: skip
        """The constant `at.name`, f32 of this shape, and sized before it is drawn.

        `fans` are (fan_in, fan_out), by default both the number of elements. Raises VerifyError for
        an empty shape or an array of another one, LimitError for a model that grows too large.
        """
        full = f"{at}.{name}"
        if not all(isinstance(d, int | np.integer) and d >= 1 for d in shape):
            raise VerifyError(f"would have the shape {list(shape)}", node=full,
                              hint="sizes are integers of 1 or more")  # fmt: skip
        shape = tuple(int(d) for d in shape)
        fans = fans or (math.prod(shape), math.prod(shape))
        type = TensorType(DType.f32, shape)
        self.limits.check(type, full)
        self._bytes += type.nbytes
        if self._bytes > self.limits.model_bytes:
            raise LimitError(f"the parameters take over {self.limits.model_bytes} bytes", node=full)
        return self.b.constant(self._draw(full, shape, init, fans), full)

    def _draw(self, name: str, shape: tuple[int, ...], init: Init, fans: tuple[int, int]) -> Array:
        if callable(init):
            made = np.asarray(init(self._random(name), shape, *fans), np.float32)
        elif isinstance(init, np.ndarray):
            made = np.array(init, np.float32)  # a copy: constants are frozen
        else:
            return np.full(shape, init, np.float32)
        if made.shape != shape:
            raise VerifyError(f"the weight given is {list(made.shape)}, not {list(shape)}",
                              node=name)  # fmt: skip
        return made

    def _random(self, name: str) -> np.random.Generator:
        if isinstance(self.seed, np.random.Generator):
            return self.seed
        words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")
        return np.random.default_rng([self.seed, *(int(w) for w in words)])

    # ---- values ----------------------------------------------------------------------------------

    def size(self, x: Value, axis: int = 1) -> int:
        """One of x's dimensions (its channels). Raises VerifyError where it is no number."""
        return size_of(x, axis, self.here)

    def node(self, op: str, at: str, *operands: Any, **attributes: Any) -> Value:
        """A node of this name."""
        return getattr(self.b, op)(*operands, name=at, **attributes)


def sizes(x: Value, rank: int | None, at: str) -> tuple[Dim, ...]:
    """x's dimensions. Raises VerifyError where it has not `rank` of them."""
    shape = x.shape
    if shape is None or (rank is not None and len(shape) != rank):
        wanted = "a known rank" if rank is None else f"rank {rank}"
        raise VerifyError(f"the operand is {x.type}, where {wanted} is wanted", node=at)
    return shape


def size_of(x: Value, axis: int, at: str) -> int:
    """One of x's dimensions as a number. Raises VerifyError where it is not known."""
    shape = sizes(x, None, at)
    found = shape[axis] if -len(shape) <= axis < len(shape) else None
    if not isinstance(found, int):
        raise VerifyError(f"the operand is {x.type}, whose axis {axis} should be a number", node=at)
    return found


def parameters(graph: Graph) -> Mapping[str, Array]:
    """What training learns, by name: constants of floats with at least one axis, without the
    running means and variances of batch normalizations. This is how papers count parameters.
    """
    statistics = {
        v.node
        for n in graph.nodes() if isinstance(n.op, BatchNormalization)
        for v in graph.operands(n)[3:] if v is not None
    }  # fmt: skip
    return {
        n.name: n.op.value  # type: ignore[attr-defined]
        for n in graph.nodes()
        if isinstance(n.op, Constant) and n not in statistics
        and n.type.dtype.is_float and n.type.rank > 0
    }  # fmt: skip

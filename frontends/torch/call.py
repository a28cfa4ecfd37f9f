"""One node of an exported program while its op's function turns it into IR."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node as FxNode
from torch.fx.node import map_arg

from ...ir import Array, Builder, DType, Shape, UnsupportedError, Value
from ..unsupported import NotCarried
from .guards import show
from .tensors import dtype_of


@dataclass(frozen=True)
class Size:
    """A whole number that depends on the inputs' sizes: `vector` is it as i64[1]."""

    vector: Value

    @property
    def dim(self) -> Any:
        """The symbol (or number), where inference knows it."""
        dims = self.vector.abstract.as_dims()
        return dims[0] if dims else None


@dataclass(frozen=True)
class Real:
    """A number made of sizes that need not be whole: `vector` is it as f64[1]."""

    vector: Value


Dimension = int | Size
Handler = Callable[..., Any]
ATEN: dict[str, Handler] = {}
"""Functions by op (`aten.conv2d.default`): `f(call, *all arguments in the schema's order)`."""


def aten(*ops: str) -> Callable[[Handler], Handler]:
    """Register a function for these ops; without an overload `.default` is meant."""

    def add(f: Handler) -> Handler:
        for op in ops:
            key = f"aten.{op}" if "." in op else f"aten.{op}.default"
            assert key not in ATEN, key
            ATEN[key] = f
        return f

    return add


def numbers(value: Any, dtype: DType) -> Array:
    """A number, or a list of them, as an array. Raises UnsupportedError for one beyond an integer
    type, which PyTorch wraps in some ops and refuses in others.
    """
    try:
        with np.errstate(over="ignore"):
            return np.asarray(value, dtype.numpy)
    except (OverflowError, ValueError) as error:
        raise UnsupportedError(f"{value} is no number of type {dtype}") from error


class Call:
    """What an op's function gets: `b` adds nodes, `args` are the arguments by the schema (values,
    sizes, numbers, lists of them), `metas` the same with PyTorch's own tensors (which have types,
    but no elements).
    """

    def __init__(
        self, b: Builder, node: FxNode, read: Callable[[FxNode], Any], names: Mapping[str, str],
        padding: dict[Value, int],
    ) -> None:  # fmt: skip
        self.b, self.node, self.names, self.padding = b, node, names, padding
        given = list(_arguments(node))
        self.args = [map_arg(a, read) for a in given]
        self.metas = [map_arg(a, lambda n: n.meta["val"]) for a in given]

    # ---- the result ----------------------------------------------------------------------------

    @property
    def result(self) -> torch.Tensor:
        """PyTorch's view of the (first) result."""
        made = self.node.meta["val"]
        return made[0] if isinstance(made, tuple | list) else made

    @property
    def dtype(self) -> DType:
        return dtype_of(self.result.dtype)

    # ---- operands ------------------------------------------------------------------------------

    def constant(self, value: Any, dtype: DType) -> Value:
        return self.b.constant(numbers(value, dtype))

    def ints(self, values: Sequence[int]) -> Value:
        return self.constant(list(values), DType.i64)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.type.dtype is dtype else self.b.cast(x, to=dtype)

    def tensor(self, x: Any, dtype: DType | None = None) -> Value:
        """A tensor, size or number as a value of this element type."""
        dtype = dtype or self.dtype
        if isinstance(x, Size):
            x = self.scalar(x)
        if isinstance(x, Real):
            x = self.b.squeeze(x.vector, self.ints([0]))
        return self.cast(x, dtype) if isinstance(x, Value) else self.constant(x, dtype)

    def scalar(self, x: Dimension) -> Value:
        """A whole number as i64[]."""
        if isinstance(x, Size):
            return self.b.squeeze(x.vector, self.ints([0]))
        return self.constant(x, DType.i64)

    def vector(self, sizes: Sequence[Dimension]) -> Value:
        """Whole numbers as one vector."""
        if not any(isinstance(s, Size) for s in sizes):
            return self.ints([int(s) for s in sizes])  # type: ignore[arg-type]
        parts = [s.vector if isinstance(s, Size) else self.ints([s]) for s in sizes]
        return parts[0] if len(parts) == 1 else self.b.concat(*parts, axis=0)

    def size(self, x: Value, axis: int) -> Dimension:
        """The length of one axis, as a number where it is one."""
        dim = shape_of(x)[axis]
        axis %= len(shape_of(x))
        return dim if isinstance(dim, int) else Size(self.b.shape(x, start=axis, end=axis + 1))

    def reshape(self, x: Value, sizes: Sequence[Dimension]) -> Value:
        """`x` in this shape, said by constants where that is possible: an axis that keeps its place
        and size is 0, one other that varies is -1.
        """
        want: list[Dimension] = list(sizes)
        old = shape_of(x)
        for i, s in enumerate(want):
            if isinstance(s, Size) and i < len(old) and s.dim is not None and s.dim == old[i]:
                want[i] = 0
        fixed = [s for s in sizes if not isinstance(s, Size)]
        if sum(isinstance(s, Size) for s in want) == 1 and not {-1, 0} & set(fixed):
            want = [-1 if isinstance(s, Size) else s for s in want]
        if 0 in fixed:  # an empty axis, which 0 cannot say as well
            return self.b.reshape(x, self.vector(sizes), allowzero=True)
        return self.b.reshape(x, self.vector(want))

    def whole(self, x: Any, what: str) -> int:
        """An argument that must be known when the graph is made."""
        if isinstance(x, Size):
            raise UnsupportedError(f"{what} varies with the inputs' sizes")
        return int(x)

    def need(self, fact: Any) -> None:
        """Make what PyTorch says of sizes (a SymBool) a condition of the graph."""
        if isinstance(fact, torch.SymBool) and not fact.node.expr.is_number:
            self.b.graph.require(show(fact.node.expr, self.names))

    def left_out(self, what: str) -> None:
        """Say that something is not carried over."""
        warnings.warn(f"{self.node.name}: {what}", NotCarried, stacklevel=2)

    def no(self, refused: Any, what: str) -> None:
        """Raises UnsupportedError if an argument asks for what is not supported."""
        if refused:
            raise UnsupportedError(f"{what} is not supported")


def shape_of(x: Value) -> Shape:
    """The shape of an imported tensor: its rank is always known."""
    assert x.shape is not None
    return x.shape


def rank(x: Value) -> int:
    return len(shape_of(x))


def spread(values: int | Sequence[int], count: int) -> tuple[int, ...]:
    """An argument for each of `count` axes: one number stands for all."""
    values = (values,) if isinstance(values, int) else tuple(values)
    return values * count if len(values) == 1 else values


def static(dims: Sequence[Any]) -> bool:
    return all(isinstance(d, int) for d in dims)


def count(dims: Sequence[Any], what: str) -> int:
    """How many elements these axes hold. Raises UnsupportedError where that varies."""
    if not static(dims):
        raise UnsupportedError(f"{what} over an axis of varying size is not supported")
    return math.prod(dims)


def _arguments(node: FxNode) -> Iterator[Any]:
    """Arguments in the schema's order, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # one of Python's operators, on sizes
        yield from node.args
        return
    for place, argument in enumerate(schema.arguments):
        if place < len(node.args):
            yield node.args[place]
        elif argument.name in node.kwargs:
            yield node.kwargs[argument.name]
        else:
            yield argument.default_value

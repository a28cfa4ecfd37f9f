"""What branches and loops share: bodies with captures, counted iterations, stacked outputs.

What a body reads from around it is an operand of its node, after all others, and an input of the
body, after all others: a *capture*. A body is thus a function of its inputs and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from ..errors import FeedError, LimitError, TautError, VerifyError
from ..numerics import STRUCTURE
from ..op import Abstract, Array, Op
from ..types import DEFAULT_LIMITS, Limits, TensorType
from .common import check_axis

if TYPE_CHECKING:
    from ..graph import Graph

Call = Callable[[str, Sequence[Array]], Sequence[Array]]
"""Runs the body of this attribute on these inputs."""


class Places(NamedTuple):
    """How a body's inputs follow from the node's operands: first `made` that the op makes itself,
    then the operands from `start` on, of which those from `captures` on are captures."""

    made: int
    start: int
    captures: int


@dataclass(frozen=True, kw_only=True)
class ControlFlow(Op):
    """Base of the ops whose bodies are programs in their own right, which passes optimise too."""

    numerics = STRUCTURE.but(nan="as its bodies")
    minifloats = True

    @property
    def bodies(self) -> dict[str, Graph]:
        """Every body by its attribute's name."""
        return {a.name: getattr(self, a.name) for a in self.attributes if a.kind == "graph"}

    @property
    def places(self) -> Places:
        """The same for each of the op's bodies."""
        raise NotImplementedError

    first_result: ClassVar[int] = 0
    """The body output that is the node's first result."""

    @property
    def carried_values(self) -> int:
        """How many results, the first ones, a body gets back in its next run: result k is operand
        `start` + k and body input `made` + k."""
        return 0

    def trimmed(self, dead: set[int]) -> dict[str, Any]:
        """The attributes, bodies apart, without these results."""
        return {}

    def settled(self, *operands: Abstract | None) -> list[Abstract]:
        """What holds of each body input in every run of a body."""
        raise NotImplementedError

    def execute(self, operands: Sequence[Array | None], call: Call, limits: Limits) -> Any:
        """The results, with `call` to run a body."""
        raise NotImplementedError

    def evaluate(self, operands: Sequence[Array | None], limits: Limits) -> Any:
        from ..bodies import run_body

        def call(name: str, arrays: Sequence[Array]) -> Sequence[Array]:
            return run_body(getattr(self, name), arrays, limits)

        return self.execute(operands, call, limits)

    def reference(self, *operands: Array | None) -> Any:
        return self.evaluate(operands, DEFAULT_LIMITS)

    def refined(self, *operands: Abstract | None) -> Self:
        """The same op, its bodies typed as closely as the operands' types allow. A body that
        cannot take them stays as it is."""
        from ..bodies import specialize

        known = [Abstract(x.type) for x in self.settled(*operands)]
        changed: dict[str, Graph] = {}
        for name, body in self.bodies.items():
            try:
                changed[name] = specialize(body, known)
            except TautError:
                continue
        return self.replace(**changed)


# ---- what the three share ------------------------------------------------------------------------


def join(a: TensorType, b: TensorType, what: str) -> TensorType:
    """The type of a value that may be of either: dimensions that differ become unknown."""
    if a.dtype is not b.dtype:
        raise VerifyError(f"{what} is {a} in one case and {b} in another")
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return a.with_shape(None)
    return a.with_shape(x if x == y else None for x, y in zip(a.shape, b.shape))


def settle(
    body: Graph, made: Sequence[Abstract], carried: Sequence[Abstract],
    rest: Sequence[Abstract], first: int,
) -> tuple[list[Abstract], tuple[Abstract, ...]]:  # fmt: skip
    """The types that carried values have in every iteration, and the body's outputs then. Output
    `first` + k is the next iteration's carried value k.

    A fixed point from below: each round joins the types with what comes back, so dimensions only
    become unknown and it ends.
    """
    from ..bodies import infer_body

    held = [Abstract(x.type) for x in carried]
    while True:
        outputs = infer_body(body, [*made, *held, *rest])
        if len(outputs) < first + len(held):
            raise VerifyError(f"its body has {len(outputs)} outputs, too few for {len(held)} "
                              "carried values")  # fmt: skip
        wider = [
            Abstract(join(h.type, outputs[first + k].type, f"carried value {k}"))
            for k, h in enumerate(held)
        ]
        if wider == held:
            return held, outputs
        held = wider


_left: ContextVar[list[int] | None] = ContextVar("iterations left", default=None)


@contextmanager
def counted(limits: Limits) -> Iterator[Callable[[], None]]:
    """A function to call before each iteration. Loops inside a loop count with it, so that the
    outermost one runs no more than `limits.iterations` in all."""
    left = _left.get()
    outermost = left is None
    count = [limits.iterations] if left is None else left

    def spend() -> None:
        if count[0] <= 0:
            raise LimitError(
                f"runs for over {limits.iterations} iterations",
                hint="raise Limits.iterations if the model is right",
            )
        count[0] -= 1

    try:  # around both, so that no interrupt leaves later loops counted with this one
        if outermost:
            _left.set(count)
        yield spend
    finally:
        if outermost:
            _left.set(None)


@dataclass
class Stack:
    """What one scan output has given so far: arrays of one shape, bounded in bytes together."""

    place: int
    limits: Limits
    arrays: list[Array]
    nbytes: int = 0

    def append(self, array: Array) -> None:
        if self.arrays and array.shape != self.arrays[0].shape:
            raise FeedError(
                f"scan output {self.place} has shape {list(self.arrays[0].shape)} in one "
                f"iteration and {list(array.shape)} in another"
            )
        self.nbytes += array.nbytes
        if self.nbytes > self.limits.tensor_bytes:
            raise LimitError(
                f"scan output {self.place} takes over {self.limits.tensor_bytes} bytes",
                hint="raise Limits.tensor_bytes if the model is right",
            )
        self.arrays.append(array)

    def stacked(self, type: TensorType, axis: int = 0, backward: bool = False) -> Array:
        """One array, along a new axis; without iterations an empty one of the body's type, in
        which a dimension that is not known counts as 0."""
        if not self.arrays:
            shape = [d if isinstance(d, int) else 0 for d in type.shape or ()]
            shape.insert(check_axis(axis, len(shape) + 1, "scan output axis"), 0)
            return np.empty(shape, type.dtype.numpy)
        return np.stack(self.arrays[::-1] if backward else self.arrays, axis)


def known_types(arrays: Sequence[Array]) -> list[Abstract]:
    return [Abstract(TensorType.of(a)) for a in arrays]


def present(operands: Sequence[Any]) -> list[Any]:
    """Operands after the optional ones, none of which is left out."""
    return [x for x in operands if x is not None]


def body_macs(body: Graph, inputs: Sequence[Abstract]) -> int:
    from ..analysis.cost import graph_cost
    from ..bodies import specialize

    try:
        return graph_cost(specialize(body, inputs)).macs
    except TautError:  # a branch that cannot take these operands
        return 0

"""Arithmetic on sizes that depend on the inputs': vectors of one element in the graph."""

from __future__ import annotations

from ....ir import UnsupportedError, Value
from ..call import ATEN, Call, Dimension, Size, aten


@aten("sym_size.int")
def sym_size(c: Call, x: Value, dim: int) -> Dimension:
    return c.size(x, dim)


def _binary(name: str, op: str) -> None:
    """`operator.add` and its like on two whole numbers, of which one is a Size."""

    def f(c: Call, a: Dimension, b: Dimension) -> Size:
        for x in (a, b):
            if not isinstance(x, int | Size):
                raise UnsupportedError("is no arithmetic on whole numbers")
        return Size(getattr(c.b, op)(c.vector([a]), c.vector([b])))

    ATEN[f"operator.{name}"] = f


for _name, _op in {
    "add": "add", "sub": "sub", "mul": "mul", "mod": "mod",
    "floordiv": "div",  # toward zero, which for sizes is the same
}.items():  # fmt: skip
    _binary(_name, _op)


def _extreme(name: str, op: str) -> None:
    def f(c: Call, a: Dimension, b: Dimension) -> Size:
        return Size(getattr(c.b, op)(c.vector([a]), c.vector([b])))

    ATEN[f"torch.{name}"] = f


_extreme("sym_max", "max")
_extreme("sym_min", "min")


@aten("sym_numel")
def sym_numel(c: Call, x: Value) -> Size:
    return Size(c.b.unsqueeze(c.b.size(x), c.ints([0])))

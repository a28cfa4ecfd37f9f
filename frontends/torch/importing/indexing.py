"""Ops that read elements by index."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node as FxNode

from ....ir import DType, UnsupportedError, Value
from ..call import Call, Dimension, aten, rank


@aten("embedding")
def embedding(c: Call, weight: Value, indices: Value, padding: int = -1, by_frequency: bool = False,
              sparse: bool = False) -> Value:  # fmt: skip
    """The row `padding` of the table is not trained."""
    if by_frequency:
        c.left_out("its gradient is not scaled by frequency in training")
    table = c.node.args[0]
    assert isinstance(table, FxNode)
    if padding >= 0 and (table.op != "placeholder" or len(table.users) > 1):
        c.left_out(f"row {padding} of its table, which is padding, is trained: others read it too")
    elif padding >= 0:
        c.padding[weight] = padding
    return c.b.gather(weight, indices, axis=0)


@aten("select.int")
def select(c: Call, x: Value, dim: int, index: Dimension) -> Value:
    return c.b.gather(x, c.scalar(index), axis=dim)


@aten("index_select")
def index_select(c: Call, x: Value, dim: int, index: Value) -> Value:
    return c.b.gather(x, index, axis=dim)


@aten("gather")
def gather(c: Call, x: Value, dim: int, index: Value, _: bool) -> Value:
    return c.b.gather_elements(x, index, axis=dim)


@aten("index.Tensor")
def index(c: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    """One index along any axis, or several that broadcast with each other."""
    given = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    if any(not i.type.dtype.is_integer for _, i in given):
        raise UnsupportedError("an index by a mask gives a size that depends on data")
    if len(given) == 1:
        axis, at = given[0]
        return c.b.gather(x, at, axis=axis)
    axes = [axis for axis, _ in given]
    rest = [a for a in range(rank(x)) if a not in axes]
    at, wide = _joined(c, [i for _, i in given])
    made = c.b.gather_nd(c.b.transpose(x, perm=(*axes, *rest)), at)
    first = axes[0]
    if axes != list(range(first, first + len(axes))) or first == 0:
        return made  # what the indices give stands first
    order = [*range(wide, wide + first), *range(wide), *range(wide + first, wide + len(rest))]
    return c.b.transpose(made, perm=tuple(order))


def _joined(c: Call, indices: Sequence[Value]) -> tuple[Value, int]:
    """Indices that broadcast with each other as one tensor of tuples, and their common rank."""
    wide = max(rank(i) for i in indices)
    zero = c.constant(0, DType.i64)
    whole = [c.cast(i, DType.i64) for i in indices]
    shared = c.b.sum(*(c.b.mul(i, zero) for i in whole))  # zeros of the common shape
    columns = [c.b.unsqueeze(c.b.add(i, shared), c.ints([wide])) for i in whole]
    return c.b.concat(*columns, axis=wide), wide


def _triangle(name: str, upper: bool) -> None:
    def f(c: Call, x: Value, diagonal: int) -> Value:
        return c.b.trilu(x, c.constant(diagonal, DType.i64), upper=upper)

    aten(name)(f)


_triangle("triu", True)
_triangle("tril", False)


_SAMPLED, _OUTSIDE = ("linear", "nearest", "cubic"), ("zeros", "border", "reflection")


@aten("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(c: Call, x: Value, grid: Value, mode: int, padding: int, corners: bool) -> Value:
    """Modes are numbers in PyTorch's order."""
    return c.b.grid_sample(x, c.cast(grid, x.type.dtype), mode=_SAMPLED[mode],
                           padding_mode=_OUTSIDE[padding], align_corners=corners)  # fmt: skip

"""Reductions. No axes mean all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType, UnsupportedError, Value
from ..call import Call, aten, count, rank, shape_of

Axes = int | Sequence[int] | None


def reduce(c: Call, op: str, x: Value, axes: Axes, keepdims: bool) -> Value:
    axes = [axes] if isinstance(axes, int) else list(axes or ())
    if rank(x) == 0:
        return x
    return getattr(c.b, op)(x, c.ints(axes) if axes else None, keepdims=keepdims)


def _sums(op: str, *names: str) -> None:
    """Those that take a type to compute in."""

    def f(c: Call, x: Value, axes: Axes = None, keepdims: bool = False, _: Any = None) -> Value:
        return reduce(c, op, c.tensor(x), axes, keepdims)

    def whole(c: Call, x: Value, _: Any = None) -> Value:
        return f(c, x)

    for name in names:
        aten(name)(f if "." in name else whole)


_sums("reduce_mean", "mean.dim", "mean")
_sums("reduce_sum", "sum.dim_IntList", "sum")
_sums("reduce_prod", "prod.dim_int", "prod")


def _extreme(kind: str) -> None:
    op = f"reduce_{kind}"

    def several(c: Call, x: Value, axes: Axes, keepdims: bool) -> Value:
        return reduce(c, op, x, axes, keepdims)

    def whole(c: Call, x: Value) -> Value:
        return reduce(c, op, x, None, False)

    def along(c: Call, x: Value, axis: int, keepdims: bool) -> tuple[Value, Value]:
        find = getattr(c.b, f"arg_{kind}")
        return reduce(c, op, x, axis, keepdims), find(x, axis=axis, keepdims=keepdims)

    def index(c: Call, x: Value, axis: int | None, keepdims: bool) -> Value:
        if axis is None:
            x, axis, keepdims = c.b.reshape(x, c.ints([-1])), 0, False
        return getattr(c.b, f"arg_{kind}")(x, axis=axis, keepdims=keepdims)

    aten(f"a{kind}")(several)
    aten(kind)(whole)
    aten(f"{kind}.dim")(along)
    aten(f"arg{kind}")(index)


_extreme("max")
_extreme("min")


def _truth(name: str, op: str) -> None:
    def f(c: Call, x: Value, axes: Axes = None, keepdims: bool = False) -> Value:
        return reduce(c, op, c.cast(x, DType.bool), axes, keepdims)

    aten(name, f"{name}.dim", f"{name}.dims")(f)


_truth("any", "reduce_max")
_truth("all", "reduce_min")


@aten("logsumexp")
def logsumexp(c: Call, x: Value, axes: Axes, keepdims: bool) -> Value:
    return reduce(c, "reduce_log_sum_exp", c.tensor(x), axes, keepdims)


@aten("linalg_vector_norm")
def norm(c: Call, x: Value, order: float, axes: Axes, keepdims: bool, _: Any) -> Value:
    if order not in (1, 2):
        raise UnsupportedError(f"a norm of order {order} is not supported: 1 and 2 are")
    return reduce(c, f"reduce_l{int(order)}", c.tensor(x), axes, keepdims)


@aten("var.correction")
def var(c: Call, x: Value, axes: Axes, correction: float | None, keepdims: bool) -> Value:
    """The mean squared distance from the mean, times n / (n - correction)."""
    over = [axes] if isinstance(axes, int) else list(axes or range(rank(x)))
    n = count([shape_of(x)[a] for a in over], "a variance")
    centred = c.b.sub(x, reduce(c, "reduce_mean", x, over, True))
    mean = reduce(c, "reduce_mean", c.b.mul(centred, centred), over, keepdims)
    less = 1 if correction is None else correction
    if n <= less:
        raise UnsupportedError(f"a variance of {n} elements with a correction of {less}")
    return c.b.mul(mean, c.tensor(n / (n - less)))


@aten("std.correction")
def std(c: Call, x: Value, axes: Axes, correction: float | None, keepdims: bool) -> Value:
    return c.b.sqrt(var(c, x, axes, correction, keepdims))


@aten("cumsum")
def cumsum(c: Call, x: Value, axis: int, _: Any) -> Value:
    return c.b.cum_sum(c.tensor(x), c.constant(axis, DType.i64))


@aten("topk")
def topk(c: Call, x: Value, k: Any, axis: int, largest: bool, ordered: bool) -> Any:
    return c.b.top_k(x, c.vector([k]), axis=axis, largest=largest, sorted=ordered)

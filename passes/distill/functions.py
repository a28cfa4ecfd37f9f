"""What the losses of distillation compute, as nodes. x is the student's, t the teacher's."""

from __future__ import annotations

import numpy as np

from ...ir import Builder, Value
from ...ir.ops.adjoint import ints, scaled, swap_last

TINY = 1e-12
"""What a norm or a probability that is divided by, or whose logarithm is taken, is at least."""

COINCIDENT = 1e-6
"""Two rows are equal when the square of their distance is below this share of the mean square of
all rows' distances from their mean: what rounding leaves of 0 in single precision."""


def mean(b: Builder, x: Value) -> Value:
    return b.reduce_mean(x, keepdims=False)


def mean_square(b: Builder, x: Value, t: Value) -> Value:
    """mean((x - t)^2)"""
    off = b.sub(x, t)
    return mean(b, b.mul(off, off))


def huber(b: Builder, x: Value, t: Value) -> Value:
    """mean(d^2 / 2 where d < 1, else d - 1/2),  d = |x - t|"""
    off = b.abs(b.sub(x, t))
    near = b.min(off, b.number(1, off))
    return mean(b, b.mul(near, b.sub(off, scaled(b, near, 0.5))))


def rows(b: Builder, x: Value) -> Value:
    """x as a matrix: a row for each item of the batch."""
    return x if x.type.rank == 2 else b.flatten(x, axis=1)


def unit_rows(b: Builder, x: Value) -> Value:
    """Each row of a matrix over its L2 norm."""
    square = b.reduce_sum(b.mul(x, x), ints(b, 1))
    return b.div(x, b.sqrt(b.max(square, b.number(TINY**2, x))))


# ---- relations ---------------------------------------------------------------------------------


class Geometry:
    """Distances between the rows of x[n,d] and what angles need, by way of inner products, so that
    nothing of n * n * d elements is made. Rows are centred first, which changes neither and keeps
    rounding small.
    """

    def __init__(self, b: Builder, x: Value) -> None:
        self.b = b
        x = b.sub(x, b.reduce_mean(x, ints(b, 0)))
        self.products = b.mat_mul(x, swap_last(b, x))
        self.squares = b.reduce_sum(b.mul(x, x), ints(b, 1))
        total = b.add(self.squares, swap_last(b, self.squares))
        apart = b.sub(total, scaled(b, self.products, 2))
        least = scaled(b, b.reduce_mean(self.squares), COINCIDENT)
        self.differ = b.greater(apart, least)
        # The square root of 1 stands where rows are equal: that of 0 has no finite slope.
        root = b.sqrt(b.where(self.differ, apart, b.number(1, x)))
        self.distances = b.where(self.differ, root, b.number(0, x))
        self.inverse = b.where(self.differ, b.div(b.number(1, x), root), b.number(0, x))

    def relative_distances(self) -> Value:
        """|x_i - x_j| over the mean of those that are not 0."""
        b, d = self.b, self.distances
        count = b.reduce_sum(b.cast(self.differ, to=d.type.dtype))
        average = b.div(b.reduce_sum(d), b.max(count, b.number(1, d)))
        return b.div(d, b.max(average, b.number(TINY, d)))

    def cosines(self) -> Value:
        """[j,i,k]: the cosine of the angle at row j between rows i and k, 0 where two are equal.

        (x_i - x_j)(x_k - x_j) = x_i x_k - x_j x_i - x_j x_k + x_j x_j
        """
        b, g = self.b, self.products
        first, second = ints(b, 2), ints(b, 1)
        dots = b.sub(b.unsqueeze(g, ints(b, 0)), b.unsqueeze(g, first))
        dots = b.sub(dots, b.unsqueeze(g, second))
        dots = b.add(dots, b.unsqueeze(self.squares, first))
        scale = b.mul(b.unsqueeze(self.inverse, first), b.unsqueeze(self.inverse, second))
        return b.mul(dots, scale)


def similarity(b: Builder, x: Value) -> Value:
    """x @ x^T with rows of norm 1."""
    return unit_rows(b, b.mat_mul(x, swap_last(b, x)))


# ---- attention ---------------------------------------------------------------------------------


def attention_map(b: Builder, x: Value) -> Value:
    """A map f32[n,c,h,w] as f32[n,h*w]: the sum of squares over channels, of norm 1."""
    return unit_rows(b, rows(b, b.reduce_sum(b.mul(x, x), ints(b, 1), keepdims=False)))


def row_distance(b: Builder, x: Value, t: Value) -> Value:
    """mean over rows of |x - t|^2"""
    off = b.sub(x, t)
    return mean(b, b.reduce_sum(b.mul(off, off), ints(b, 1)))


def divergence(b: Builder, x: Value, t: Value) -> Value:
    """mean over distributions (last axis) of KL(t | x) = sum(t * (log t - log x))"""
    least = b.constant(np.asarray(TINY, x.type.dtype.numpy))
    logs = b.sub(b.log(b.max(t, least)), b.log(b.max(x, least)))
    return mean(b, b.reduce_sum(b.mul(t, logs), ints(b, -1)))

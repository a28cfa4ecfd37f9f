"""Sampling at computed places: grids over images, boxes, and patches put back together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..affine import ZERO
from ..dependence import Dependences
from ..errors import FeedError, NotDifferentiableError, VerifyError
from ..numerics import CHOICE, SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..relate import Space, everything, ints_at
from ..types import DType, TensorType
from .adjoint import known_shape, shape_of, shaped
from .common import (
    check_choice,
    check_float,
    check_integer,
    check_rank,
    check_same,
    check_scalar,
    differs,
    length,
    unknown,
    wide,
)

if TYPE_CHECKING:
    from ..build import Builder

_CUBIC = -0.75


@register
@dataclass(frozen=True)
class GridSample(Op):
    """x read at the places that grid says, -1 to 1 over each axis, by the nearest element, linearly
    or by cubics

    The grid's last axis holds one place, the last spatial axis first. Outside of x: zeros, the
    nearest element (border), or x mirrored (reflection); a cubic's four neighbours on each axis
    are each taken so, wherever the place itself is.
    """

    numerics = SUMS.but(
        nan="in the grid: a place outside the image",
        infinity="in the grid: a place outside the image",
    )
    axes = "x[n,c,s...!] grid[n,p...,k!] -> y[n,c,p...]"
    held = MappingProxyType({"grid": "a gradient for places is left out"})
    mode: str = "linear"
    padding_mode: str = "zeros"
    align_corners: bool = False

    def infer(self, x: Abstract, grid: Abstract) -> Inferred:
        check_choice(self.mode, ("linear", "nearest", "cubic"), "mode")
        check_choice(self.padding_mode, ("zeros", "border", "reflection"), "padding mode")
        check_float(x)
        check_float(grid, "the grid")
        if x.shape is None or grid.shape is None:
            return x.type.with_shape(None)
        if len(x.shape) < 3 or len(grid.shape) != len(x.shape):
            raise VerifyError(f"a grid of {grid.type} does not fit {x.type}")
        if differs(grid.shape[-1], len(x.shape) - 2) or differs(grid.shape[0], x.shape[0]):
            raise VerifyError(f"a grid of {grid.type} does not fit {x.type}")
        return x.type.with_shape((*x.shape[:2], *grid.shape[1:-1]))

    def reference(self, x: Array, grid: Array) -> Array:
        sizes = x.shape[2:]
        data = wide(x)
        out = np.zeros((*x.shape[:2], *grid.shape[1:-1]), data.dtype)
        if not x.size:
            if out.size and self.padding_mode != "zeros":
                raise FeedError("an image without elements has no border to sample")
            return out.astype(x.dtype)
        for index, weight in self._reads(grid, sizes, data.dtype):
            picked = np.moveaxis(data[index], -1, 1)
            used = np.expand_dims(weight, 1)
            out += np.where(used == 0, 0, picked) * used
        return out.astype(x.dtype)

    def _reads(
        self, grid: Array, sizes: tuple[int, ...], kind: Any
    ) -> Iterator[tuple[tuple[Any, ...], Array]]:
        """(index into x, weight) of every element that takes part in a place."""
        places = wide(grid)[..., ::-1]
        taps = [list(self._taps(places[..., k], n)) for k, n in enumerate(sizes)]
        batch = np.arange(len(grid)).reshape(-1, *[1] * (grid.ndim - 2))
        for chosen in itertools.product(*taps):
            weight = np.ones(grid.shape[:-1], kind)
            index: list[Array] = []
            for (at, w), n in zip(chosen, sizes):
                inside = (at >= 0) & (at < n)
                weight = weight * (w * inside if self.padding_mode == "zeros" else w)
                index.append(np.clip(self._mirrored(at, n), 0, n - 1).astype(np.int64))
            yield (batch, slice(None), *index), weight

    def _taps(self, place: Array, n: int) -> Iterator[tuple[Array, Array]]:
        """(index, weight) of each element along one axis that takes part."""
        half = (place + 1) / 2
        x = half * (n - 1) if self.align_corners else half * n - 0.5
        x = np.clip(np.nan_to_num(x, nan=-2.0), -(2.0**40), 2.0**40)
        if self.mode == "nearest":
            x = np.rint(x)
        if self.padding_mode == "border" and self.mode != "cubic":
            low, high = self._edges(n)
            x = np.where((x < low) | (x > high), np.clip(x, 0, n - 1), x)
        x = self._mirrored(x, n)
        low = np.floor(x)
        t = x - low
        if self.mode == "nearest":
            yield np.trunc(x), np.ones_like(x)
        elif self.mode == "linear":
            yield low, 1 - t
            yield low + 1, t
        else:
            for k, distance in enumerate((t + 1, t, 1 - t, 2 - t)):
                yield low + (k - 1), _cubic(distance)

    def _edges(self, n: int) -> tuple[float, float]:
        return (0.0, n - 1.0) if self.align_corners else (-0.5, n - 0.5)

    def _mirrored(self, x: Array, n: int) -> Array:
        """Places outside of an axis mirrored into it, at the middles of the outermost elements or
        at their outer edges."""
        if self.padding_mode != "reflection":
            return x
        low, high = self._edges(n)
        width = high - low
        if width == 0:
            return np.zeros_like(x)
        turns, rest = np.divmod(np.abs(np.where(x < low, low - x, x - low)), width)
        folded = np.where(turns % 2 == 0, low + rest, high - rest)
        return np.where((x < low) | (x > high), folded, x)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        reads = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode]
        macs = results[0].size * reads ** max(len(results[0].static_shape) - 2, 1)
        return Cost(macs, memory_bytes(operands, results))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, grid), (g,) = operands, gradients
        op = GridSampleGradient(self.mode, self.padding_mode, self.align_corners)
        return shaped(b, b.add_op(op, g, shape_of(b, x), grid), x), None


def _cubic(d: Array) -> Array:
    """Keys' cubic convolution kernel at distance d, 0 to 2."""
    a = _CUBIC
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, far)


@register
@dataclass(frozen=True)
class GridSampleGradient(GridSample):
    """GridSample's gradient for an x of this shape: each element of dy added, by GridSample's
    weights, where it was read from
    """

    onnx = None
    axes = "dy[n,c,p...] shape[!] grid[n,p...!,k!] -> dx[n,c,s...]"
    results = ("dx",)

    def infer(self, dy: Abstract, shape: Abstract, grid: Abstract) -> Inferred:
        check_integer(shape, "the shape")
        dims, count = shape.as_dims(), length(shape)
        if dims is None and count is not None:
            dims = unknown(count)
        made = TensorType(dy.dtype, dims)
        y = super().infer(Abstract(made), grid)
        if not isinstance(y, TensorType) or not y.accepts(dy.type):
            raise VerifyError(f"dy is {dy.type}, which is no sampling of {made}")
        return made

    def reference(self, dy: Array, shape: Array, grid: Array) -> Array:
        made = np.zeros(tuple(int(d) for d in shape), wide(dy).dtype)
        if made.size:
            for index, weight in self._reads(grid, made.shape[2:], made.dtype):
                share = wide(dy) * np.expand_dims(weight, 1)
                np.add.at(made, index, np.moveaxis(share, 1, -1))
        return made.astype(dy.dtype)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        op = GridSample(self.mode, self.padding_mode, self.align_corners)
        return shaped(b, b.add_op(op, gradients[0], operands[2]), operands[0]), None, None


@register
@dataclass(frozen=True)
class NonMaxSuppression(Op):
    """(batch, class, box) of the boxes with the best scores, without those that overlap a better
    one of their class by more than the threshold

    Boxes are two opposite corners (y, x, y, x), or with center_point_box their center and size
    (x, y, width, height).
    """

    numerics = CHOICE.but(nan="a score: never chosen")
    center_point_box: bool = False

    def infer(
        self,
        boxes: Abstract,
        scores: Abstract,
        most: Abstract | None = None,
        overlap: Abstract | None = None,
        least: Abstract | None = None,
    ) -> Inferred:
        check_rank(boxes, 3, "boxes")
        check_rank(scores, 3, "scores")
        check_float(boxes, "boxes")
        check_same(boxes, scores)
        for limit, what in ((most, "count"), (overlap, "overlap"), (least, "score")):
            check_scalar(limit, f"the {what} threshold")
        if boxes.shape is not None and scores.shape is not None:
            (n, count, corners), (m, _, held) = boxes.shape, scores.shape
            if differs(n, m) or differs(count, held) or differs(corners, 4):
                raise VerifyError(f"boxes are {boxes.type}, scores {scores.type}")
        return TensorType(DType.i64, (None, 3))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return everything(operands, results, "boxes are chosen by their scores")

    def reference(
        self,
        boxes: Array,
        scores: Array,
        most: Array | None = None,
        overlap: Array | None = None,
        least: Array | None = None,
    ) -> Array:
        limit = 0 if most is None else int(most.reshape(-1)[0])
        bound = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
        found: list[tuple[int, int, int]] = []
        for n, corners in enumerate(self._corners(boxes)):
            for c, marks in enumerate(scores[n]):
                order = np.argsort(-marks, kind="stable")
                if least is not None:
                    order = order[marks[order] > least.reshape(-1)[0]]
                kept: list[int] = []
                for k in order:
                    if len(kept) >= limit:
                        break
                    if not kept or (_overlap(corners[k], corners[kept]) <= bound).all():
                        kept.append(int(k))
                found += [(n, c, k) for k in kept]
        return np.array(found, np.int64).reshape(-1, 3)

    def _corners(self, boxes: Array) -> Array:
        """Smallest and largest coordinates of each box."""
        if self.center_point_box:
            x, y, w, h = np.moveaxis(boxes, -1, 0)
            return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
        a, b = boxes[..., :2], boxes[..., 2:]
        return np.concatenate([np.minimum(a, b), np.maximum(a, b)], -1)


def _overlap(box: Array, others: Array) -> Array:
    """Intersection over union of one box with each of others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    areas = [np.prod(b[..., 2:] - b[..., :2], -1) for b in (box, others)]
    union = areas[0] + areas[1] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


@register
@dataclass(frozen=True)
class Col2Im(Op):
    """The sum of patches at their places in an image: (n, c * patch, places) to (n, c, *image)"""

    numerics = SUMS
    name = "col2im"
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def infer(self, x: Abstract, image: Abstract, block: Abstract) -> Inferred:
        check_rank(x, 3, "the patches")
        sizes, patch = image.as_ints(), block.as_ints()
        rank = next((s.shape[0] for s in (image, block) if s.shape), None)
        if sizes is None or patch is None or x.shape is None:
            return TensorType(x.dtype, None if not isinstance(rank, int) else unknown(rank + 2))
        grid, _ = self._grid(sizes, patch)
        n, columns, places = x.shape
        area = math.prod(patch)
        if isinstance(columns, int) and columns % area:
            raise VerifyError(f"{columns} rows do not divide into patches of {list(patch)}")
        if differs(places, math.prod(grid)):
            raise VerifyError(f"{places} places are given, the image has {list(grid)}")
        channels = columns // area if isinstance(columns, int) else None
        return TensorType(x.dtype, (n, channels, *sizes))

    def _grid(
        self, sizes: tuple[int, ...], patch: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Places along each axis, and (dilation, stride, pads before and after) of each."""
        rank = len(sizes)
        ones, none = (1,) * rank, (0,) * 2 * rank
        given = (self.dilations or ones, self.strides or ones, self.pads or none)
        if len(patch) != rank or [len(g) for g in given] != [rank, rank, 2 * rank]:
            raise VerifyError(f"attributes do not fit an image of {rank} axes")
        axes = tuple(zip(given[0], given[1], given[2][:rank], given[2][rank:]))
        if min(patch, default=1) < 1 or any(d < 1 or s < 1 or min(p) < 0 for d, s, *p in axes):
            raise VerifyError("sizes, dilations and strides are at least 1, pads at least 0")
        grid = tuple(
            (n + a + b - d * (k - 1) - 1) // s + 1 for n, k, (d, s, a, b) in zip(sizes, patch, axes)
        )
        if min(grid, default=1) < 0:
            raise VerifyError(f"patches of {list(patch)} do not fit an image of {list(sizes)}")
        return grid, axes

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        sizes, patch = ints_at(operands, 1), ints_at(operands, 2)
        if sizes is None or patch is None:
            return everything(operands, results, "the image or the block is computed")
        s, (grid, axes) = Space(operands, results), self._grid(sizes, patch)
        n, c = s.loops(s.results[0][:2])
        row, column, places = c, ZERO, []
        for i, (g, k, (dilation, stride, begin, _)) in enumerate(zip(grid, patch, axes)):
            p, q = s.digit(f"p{i}", g, "sum"), s.digit(f"k{i}", k, "sum")
            row, column = row.scaled(k) + q, column.scaled(g) + p
            places.append(p.scaled(stride, -begin) + q.scaled(dilation))
        s.relate(0, 0, (n, row, column), (n, c, *places))
        s.rest("it says the sizes")
        return s.made()

    def reference(self, x: Array, image: Array, block: Array) -> Array:
        sizes, patch = (tuple(int(v) for v in s) for s in (image, block))
        grid, axes = self._grid(sizes, patch)
        channels = x.shape[1] // math.prod(patch)
        parts = wide(x).reshape(len(x), channels, *patch, *grid)
        padded = [n + a + b for n, (_, _, a, b) in zip(sizes, axes)]
        out = np.zeros((*parts.shape[:2], *padded), parts.dtype)
        for at in np.ndindex(*patch):
            where = tuple(
                slice(i * d, i * d + (g - 1) * s + 1, s)
                for i, g, (d, s, _, _) in zip(at, grid, axes)
            )
            out[(slice(None), slice(None), *where)] += parts[(slice(None), slice(None), *at)]
        inside = tuple(slice(a, a + n) for n, (_, _, a, _) in zip(sizes, axes))
        return out[(slice(None), slice(None), *inside)].astype(x.dtype)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, _, block), (g,) = operands, gradients
        patch, channels = block.abstract.as_ints(), known_shape(g)[1]
        if patch is None or not isinstance(channels, int):
            raise NotDifferentiableError("its channels or block are not known",
                                         hint="fold constants and bind symbols first")  # fmt: skip
        # Patches are read by a convolution whose kernels are each one element of the patch.
        area = math.prod(patch)
        one_each = np.eye(area, dtype=g.type.dtype.numpy).reshape(area, 1, *patch)
        weight = b.constant(np.tile(one_each, (channels, *[1] * (1 + len(patch)))))
        windows = {"strides": self.strides, "pads": self.pads, "dilations": self.dilations}
        return shaped(b, b.conv(g, weight, group=channels, **windows), x), None, None

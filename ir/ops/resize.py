"""Resizing by interpolation. Every axis is done by itself: the kernel is a product over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..affine import Affine
from ..dependence import ANY, Dependences, Place, Table
from ..errors import FeedError, VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..relate import Space, shape_at
from ..traits import Moves
from ..types import Dim, DType, Shape, TensorType
from .adjoint import shape_of, shaped
from .common import check_axes, check_choice, check_integer, check_number, known, length, unknown

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
               "asymmetric", "tf_crop_and_resize")  # fmt: skip
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
POLICIES = ("stretch", "not_larger", "not_smaller")
MODES = ("nearest", "linear", "cubic")


@register
@dataclass(frozen=True)
class Resize(Op):
    """x sampled at another size, given by `scales` or by `sizes` (for all axes, or those in `over`)

    Place p of an axis of the result reads x at u(p), by coordinate_transformation_mode, where
    s = scale, n and m the old and new size:

        half_pixel            (p + 1/2) / s - 1/2
        half_pixel_symmetric  the same, shifted so that both centres agree
        pytorch_half_pixel    the same, but 0 where m is 1
        align_corners         p * (n - 1) / (m - 1)
        asymmetric            p / s
        tf_crop_and_resize    align_corners within roi; extrapolation_value outside x

    nearest takes x[u rounded by nearest_mode], linear the two neighbours, cubic four (Keys' kernel
    with cubic_coeff_a). With antialias the kernel is widened by 1 / s where s < 1. The border is
    repeated, or with exclude_outside left out of the weights.
    """

    moves = Moves(
        when=lambda op: (
            op.mode == "nearest" and op.coordinate_transformation_mode != "tf_crop_and_resize"
        )
    )
    numerics = SUMS.but(
        nan="stays in the pixels that it has a weight for",
        infinity="stays in the pixels that it has a weight for",
    )
    renamed = (("axes", "over"),)
    held = MappingProxyType({"roi": "it is a place", "scales": "they are sizes"})
    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    antialias: bool = False
    keep_aspect_ratio_policy: str = "stretch"
    over: tuple[int, ...] = ()

    def infer(
        self,
        x: Abstract,
        roi: Abstract | None = None,
        scales: Abstract | None = None,
        sizes: Abstract | None = None,
    ) -> Inferred:
        check_number(x)
        check_choice(self.mode, MODES, "mode")
        check_choice(self.coordinate_transformation_mode, COORDINATES, "coordinate mode")
        check_choice(self.nearest_mode, NEAREST, "nearest_mode")
        check_choice(self.keep_aspect_ratio_policy, POLICIES, "keep_aspect_ratio_policy")
        if self.antialias and self.mode == "nearest":
            raise VerifyError("antialias goes with linear and cubic only")
        scales, sizes = given(scales), given(sizes)
        if (scales is None) == (sizes is None):
            raise VerifyError("takes either scales or sizes")
        if self.coordinate_transformation_mode == "tf_crop_and_resize" and given(roi) is None:
            raise VerifyError("tf_crop_and_resize needs a roi")
        if x.shape is None:
            return x.type
        return x.type.with_shape(self.new_shape(x.shape, scales, sizes))

    def new_shape(self, shape: Shape, scales: Abstract | None, sizes: Abstract | None) -> Shape:
        """The result's shape as far as it is known. Raises VerifyError."""
        axes = self.which(len(shape))
        for o in (scales, sizes):
            if o is not None and length(o) not in (None, len(axes)):
                raise VerifyError(f"{o.type} has not one entry for each of {len(axes)} axes")
        out: list[Dim] = list(shape)
        wanted: Shape | None = None if sizes is None else sizes.as_dims()
        if scales is not None and scales.value is not None:
            factors = [float(v) for v in scales.value.reshape(-1)]
            if not all(0 < f < 1 << 31 for f in factors):
                raise VerifyError(f"scales {factors} are not all finite and positive")
            wanted = tuple(_scaled(shape[a], f) for a, f in zip(axes, factors))
        elif wanted is not None and self.keep_aspect_ratio_policy != "stretch":
            old = tuple(shape[a] for a in axes)
            wanted = self._kept(old, wanted)
        for axis, d in zip(axes, wanted or unknown(len(axes))):
            if isinstance(d, int) and d < 1 and shape[axis] != 0:
                raise VerifyError(f"size {d} is not positive")
            out[axis] = d
        return tuple(out)

    def _kept(self, old: Shape, wanted: Shape) -> Shape:
        new, numbers = ([d for d in dims if isinstance(d, int)] for dims in (wanted, old))
        if len(new) < len(wanted) or len(numbers) < len(old):
            return unknown(len(old))
        scale = self._kept_scale(numbers, new)
        return tuple(int(scale * n + 0.5) for n in numbers)

    def _kept_scale(self, old: Sequence[int], wanted: Sequence[int]) -> float:
        """The one scale that keeps the aspect ratio; empty axes have no say."""
        pick = min if self.keep_aspect_ratio_policy == "not_larger" else max
        return pick([w / n for w, n in zip(wanted, old) if n], default=1.0)

    def which(self, rank: int) -> tuple[int, ...]:
        return check_axes(self.over, rank) if self.over else tuple(range(rank))

    def factors(self, x: Array, scales: Array | None, sizes: Array | None) -> list[float]:
        """The scale of each resized axis."""
        if scales is not None:
            found = [float(v) for v in scales.reshape(-1)]
            if not all(math.isfinite(f) and f > 0 for f in found):
                raise FeedError(f"scales {found} are not all finite and positive")
            return found
        assert sizes is not None
        old = [x.shape[a] for a in self.which(x.ndim)]
        wanted = [int(w) for w in sizes]
        if self.keep_aspect_ratio_policy == "stretch":
            return [w / n if n else 1.0 for w, n in zip(wanted, old)]
        return [self._kept_scale(old, wanted)] * len(old)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        own = s.loops(s.results[0])
        read, reason = self._related(s, shape_at(operands, 0), s.results[0], own, operands)
        s.relate(0, 0, read, own, reason)
        s.rest("it says the places")
        return s.made()

    def _related(
        self, s: Space, old: Shape, new: Shape, own: Sequence[Affine], operands: Operands
    ) -> tuple[list[Place], str]:
        """What x is read at for places `own` of the result."""
        factors, roi = self._known(old, operands)
        axes, read, reason = self.which(len(old)), [*own], ""
        made: list[Place] = [*read]
        crop = self.coordinate_transformation_mode == "tf_crop_and_resize"
        for i, k in enumerate(axes):
            n, m = old[k], new[k]
            if factors is not None and factors[i] == 1.0 and n == m and not crop:
                continue
            if not isinstance(n, int) or not isinstance(m, int) or factors is None or not n * m:
                made[k], reason = s.loop(f"all{k}", n, ANY), "the places are not known"
                continue
            part = (roi[i], roi[i + len(axes)]) if crop and roi is not None else None
            made[k] = self._taps_of(s, k, own[k], n, m, factors[i], part)
        return made, reason

    def _known(
        self, old: Shape, operands: Operands
    ) -> tuple[list[float] | None, list[float] | None]:
        """The factors and the roi, where these are known."""
        roi, scales, sizes = (given(x) for x in (*operands[1:], None, None, None)[:3])
        crop = self.coordinate_transformation_mode == "tf_crop_and_resize"
        if crop and (roi is None or roi.value is None):
            return None, None
        places = None if roi is None or roi.value is None else [float(v) for v in roi.value]
        value = None if scales is None else scales.value
        wanted = None if sizes is None else sizes.value
        if (value is None and wanted is None) or not all(isinstance(n, int) for n in old):
            return None, places
        like = np.broadcast_to(np.zeros(()), cast(tuple[int, ...], old))
        return self.factors(like, value, wanted), places

    def _taps_of(
        self, s: Space, k: int, own: Affine, n: int, m: int, factor: float,
        part: tuple[float, float] | None,
    ) -> Place:  # fmt: skip
        u = self.coordinates(n, m, factor, part)
        if self.mode == "nearest":
            at = np.clip(self.nearest(u), 0, n - 1)
        else:
            weights, at = self.taps(n, u, factor)
            at = np.where(weights == 0, -1, at)
        if part is not None:
            at = np.where((u < 0) | (u > n - 1), -1, at)
        if at.ndim == 1:
            return Table(tuple(at.tolist()), own)
        tap = s.digit(f"k{k}", len(at), "sum")
        return Table(tuple(at.reshape(-1).tolist()), tap.scaled(m) + own)

    def reference(
        self,
        x: Array,
        roi: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
    ) -> Array:
        scales = None if scales is None or not scales.size else scales
        sizes = None if scales is not None or sizes is None or not sizes.size else sizes
        factors, axes = self.factors(x, scales, sizes), self.which(x.ndim)
        known_scales = None if scales is None else known(scales)
        known_sizes = None if sizes is None else known(sizes)
        shape = cast(tuple[int, ...], self.new_shape(x.shape, known_scales, known_sizes))
        crop = self.coordinate_transformation_mode == "tf_crop_and_resize"
        outside = np.zeros((1,) * x.ndim, bool)
        y = x if self.mode == "nearest" else x.astype(np.result_type(np.float32, _wide(x)))
        for i, axis in enumerate(axes):
            n, m = x.shape[axis], shape[axis]
            part = (float(roi[i]), float(roi[i + len(axes)])) if crop and roi is not None else None
            if (factors[i] == 1.0 and n == m and not crop) or not y.size:
                continue
            u = self.coordinates(n, m, factors[i], part)
            y = self.along(y, axis, u, factors[i])
            if crop:
                place = [-1 if a == axis else 1 for a in range(x.ndim)]
                outside = outside | ((u < 0) | (u > n - 1)).reshape(place)
        if not x.size:
            return np.zeros(shape, x.dtype)
        if crop:
            y = np.where(outside, np.asarray(self.extrapolation_value, y.dtype), y)
        if y.dtype != x.dtype and DType.of(x).is_integer:
            low, high = DType.of(x).bounds
            y = np.clip(np.rint(y), low, high)
        return y.astype(x.dtype)

    def coordinates(self, n: int, m: int, scale: float, roi: tuple[float, float] | None) -> Array:
        """u(p) for p = 0..m-1. In single precision, as runtimes have it: where u is halfway between
        two elements or on one, the rounding of u decides which one nearest takes.
        """
        p, s, half = np.arange(m, dtype=np.float32), np.float32(scale), np.float32(0.5)
        size, last = s * np.float32(n), np.float32(n - 1)
        match self.coordinate_transformation_mode:
            case "asymmetric":
                return p / s
            case "align_corners":
                return p * last / (size - 1) if m != 1 else np.zeros(1, np.float32)
            case "tf_crop_and_resize":
                assert roi is not None
                low, high = np.float32(roi[0]), np.float32(roi[1])
                if m == 1:
                    return np.full(1, half * (low + high) * last)
                return low * last + p * (high - low) * last / (size - 1)
            case "pytorch_half_pixel" if m == 1:
                return np.zeros(1, np.float32)
            case "half_pixel_symmetric":
                shift = np.float32(n) / 2 * (1 - np.float32(m) / size)
                return shift + (p + half) / s - half
        return (p + half) / s - half

    def along(self, x: Array, axis: int, u: Array, scale: float) -> Array:
        n = x.shape[axis]
        if self.mode == "nearest":
            return np.take(x, np.clip(self.nearest(u), 0, n - 1), axis=axis)
        weights, at = self.taps(n, u, scale)
        place = [-1 if a == axis else 1 for a in range(x.ndim)]
        made = np.zeros([len(u) if a == axis else d for a, d in enumerate(x.shape)], x.dtype)
        for w, i in zip(weights.astype(x.dtype), at):
            w = w.reshape(place)
            # What has no weight does not count, not even NaN.
            made += np.where(w == 0, x.dtype.type(0), np.take(x, i, axis=axis) * w)
        return made

    def taps(self, n: int, u: Array, scale: float) -> tuple[Array, Array]:
        """(weights, indices into the n elements of an axis), [taps, len(u)], for the coordinates u:
        what linear and cubic interpolation add up."""
        stretch = min(scale, 1.0) if self.antialias else 1.0
        support = 2 if self.mode == "cubic" else 1
        base = np.ceil(u).astype(np.int64) - 1
        first = math.floor(-support / stretch) + 1
        taps = range(first, 2 - first)
        kernel = self._cubic if self.mode == "cubic" else _linear
        weights = np.stack([kernel((base + t - np.float64(u)) * stretch) for t in taps])
        at = np.stack([base + t for t in taps])
        if self.exclude_outside:
            weights = np.where((at < 0) | (at >= n), 0, weights)
        if self.antialias or self.exclude_outside:
            total = weights.sum(0)
            weights = weights / np.where(total == 0, 1, total)
        return weights, np.clip(at, 0, n - 1)

    def nearest(self, u: Array) -> Array:
        match self.nearest_mode:
            case "floor":
                made = np.floor(u)
            case "ceil":
                made = np.ceil(u)
            case "round_prefer_ceil":
                made = np.floor(u + 0.5)
            case _:
                made = np.ceil(u - 0.5)
        return made.astype(np.int64)

    def _cubic(self, d: Array) -> Array:
        """R. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
        a, t = self.cubic_coeff_a, np.abs(d)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0))

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        per_axis = {"nearest": 0, "linear": 2, "cubic": 4}[self.mode]
        return Cost(results[0].size * per_axis, memory_bytes(operands, results))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, *rest), (g,) = operands, gradients
        op = ResizeGradient(**{a.name: getattr(self, a.name) for a in Resize.attributes})
        return (shaped(b, b.add_op(op, g, shape_of(b, x), *rest), x),)


def given(x: Abstract | None) -> Abstract | None:
    """An empty tensor stands for an operand left out."""
    return None if x is not None and x.shape == (0,) else x


def _scaled(n: Dim, factor: float) -> Dim:
    if isinstance(n, int):
        return math.floor(np.float32(n) * np.float32(factor))
    return n if factor == 1.0 else None


def _linear(d: Array) -> Array:
    return np.maximum(1 - np.abs(d), 0)


def _wide(x: Array) -> np.dtype:
    return np.dtype(np.float64 if x.dtype.itemsize > 2 and x.dtype != np.float32 else np.float32)


@register
@dataclass(frozen=True)
class Upsample(Op):
    """resize by `scales` with asymmetric coordinates, nearest (floor) or linear (ONNX opset 9)"""

    moves = Moves(when=lambda op: op.mode == "nearest")
    numerics = SUMS
    held = MappingProxyType({"scales": "they are sizes"})
    mode: str = "nearest"

    def resize(self) -> Resize:
        check_choice(self.mode, MODES[:2], "mode")
        return Resize(self.mode, "asymmetric", "floor")

    def infer(self, x: Abstract, scales: Abstract) -> Inferred:
        return self.resize().infer(x, None, scales)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        x, scales = operands
        found = self.resize().dependence((x, None, scales), results)
        return tuple(replace(d, operand=min(d.operand, 1)) for d in found)

    def reference(self, x: Array, scales: Array) -> Array:
        return self.resize().reference(x, None, scales)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        return self.resize().cost(*operands, results=results)

    def definition(self, b: Builder, *operands: Value | None) -> Value:
        return b.add_op(self.resize(), operands[0], None, operands[1])


@register
@dataclass(frozen=True)
class ResizeGradient(Resize):
    """Resize's gradient for an x of this shape: each element of dy added, by the weights that
    Resize has, where it was read from; the attributes and the last operands are Resize's
    """

    moves = None
    onnx = None
    results = ("dx",)

    def infer(
        self,
        dy: Abstract,
        shape: Abstract,
        roi: Abstract | None = None,
        scales: Abstract | None = None,
        sizes: Abstract | None = None,
    ) -> Inferred:
        check_integer(shape, "the shape")
        dims, count = shape.as_dims(), length(shape)
        if dims is None and count is not None:
            dims = unknown(count)
        made = TensorType(dy.dtype, dims)
        y = super().infer(Abstract(made), roi, scales, sizes)
        if not isinstance(y, TensorType) or not y.accepts(dy.type):
            raise VerifyError(f"dy is {dy.type}, which is no resizing of {made}")
        return made

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        own = s.loops(shape_at(operands, 0), "sum")
        written, reason = self._related(s, s.results[0], shape_at(operands, 0), own,
                                        (None, *operands[2:]))  # fmt: skip
        s.relate(0, 0, own, written, reason)
        s.rest("it says the places")
        return s.made()

    def reference(
        self,
        dy: Array,
        shape: Array,
        roi: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
    ) -> Array:
        dims = tuple(int(d) for d in shape)
        x = np.broadcast_to(np.zeros((), dy.dtype), dims)  # only its shape counts
        factors, axes = self.factors(x, filled_in(scales), filled_in(sizes)), self.which(x.ndim)
        crop = self.coordinate_transformation_mode == "tf_crop_and_resize"
        made = dy.astype(np.result_type(np.float32, _wide(dy)))
        for i, axis in enumerate(axes):
            n, m = dims[axis], dy.shape[axis]
            if (factors[i] == 1.0 and n == m and not crop) or not n * m:
                continue
            part = (float(roi[i]), float(roi[i + len(axes)])) if crop and roi is not None else None
            u = self.coordinates(n, m, factors[i], part)
            matrix = self.along(np.eye(n, dtype=made.dtype), 0, u, factors[i])
            if crop:
                matrix[(u < 0) | (u > n - 1)] = 0
            made = np.moveaxis(np.tensordot(made, matrix, (axis, 0)), -1, axis)
        return np.zeros(dims, dy.dtype) if not dy.size else made.astype(dy.dtype)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        _, _, *rest = operands
        plain = {a.name: getattr(self, a.name) for a in Resize.attributes}
        op = Resize(**{**plain, "extrapolation_value": 0.0})
        return shaped(b, b.add_op(op, gradients[0], *rest), operands[0]), None


def filled_in(x: Array | None) -> Array | None:
    """An empty array stands for an operand left out."""
    return None if x is None or not x.size else x

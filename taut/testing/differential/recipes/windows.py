"""Convolution, its transpose, pooling, and others that look through windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from taut.ir import DType

from ..sketch import Misfit, Ref, Sketch
from .base import FLAG, axis_of, recipe

SPACE = (5, 4, 7, 3, 2, 1, 9, 17)
_AUTO = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
_RANKS = (2, 1, 3)  # of space


def space_of(d: Sketch, rank: int) -> tuple[int, ...]:
    made = tuple(d.choices.one(SPACE) for _ in range(rank))
    made = tuple(min(s, 5) for s in made) if rank > 2 else made
    return (0, *made[1:]) if d.maybe(3) else made


def layout(d: Sketch, kernel: tuple[int, ...], pads_below: bool = False) -> dict[str, Any]:
    """Strides, dilations and pads (explicit or automatic), drawn together."""
    n = len(kernel)
    given: dict[str, Any] = {}
    if d.maybe(55):
        tiled = d.maybe(20)  # windows side by side
        given["strides"] = kernel if tiled else tuple(d.choices.one((1, 2, 3)) for _ in kernel)
    if d.maybe(35) and (d.schema is None or d.has("dilations")):
        given["dilations"] = tuple(d.choices.one((1, 2, 3)) for _ in kernel)
    kind = d.choices.one((0, 1, 1, 2))
    if kind == 1:
        most = [k - 1 if pads_below else k for k in (*kernel, *kernel)]
        given["pads"] = tuple(d.choices.between(0, min(m, 3)) for m in most)
    elif kind == 2:
        given["auto_pad"] = d.choices.one(_AUTO)
        if given["auto_pad"] == "NOTSET" and d.maybe(50):
            given["pads"] = (0,) * (2 * n)
    return given


def kernel_of(d: Sketch, rank: int) -> tuple[int, ...]:
    return tuple(d.choices.one((3, 1, 2, 4, 5) if rank < 3 else (2, 1, 3)) for _ in range(rank))


def channels_of(d: Sketch) -> tuple[int, int, int]:
    """(groups, channels in a group, results of a group)."""
    groups = d.choices.one((1, 1, 2, 3, 4, 8))
    each = d.choices.one((1, 2, 3, 4, 8) if groups < 4 else (1, 2))
    return groups, each, d.choices.one((1, 2, 3, 4, 8) if groups < 4 else (1, 2))


def batch(d: Sketch) -> int:
    return d.choices.one((1, 2, 3, 0)) if d.maybe(40) else 1


def image(d: Sketch, level: str = "mild", place: int = 0) -> tuple[Ref, int, int, int]:
    """(x, groups, channels in a group, results of a group); an earlier result where one fits."""
    groups, each, out = channels_of(d)
    fits = [r for r in d.results[::-1] if r.rank in (3, 4, 5) and r.dtype is DType.f32
            and DType.f32 in d.allowed(place) and r.shape[1]]  # fmt: skip
    if fits:
        x = fits[0]
        d.dtype(place, (DType.f32,))
        groups = d.choices.one([g for g in (1, 2, 3, x.shape[1]) if x.shape[1] % g == 0])
        return x, groups, x.shape[1] // groups, out
    rank = d.choices.one(_RANKS)
    shape = (batch(d), groups * each, *space_of(d, rank))
    d.dtype(place, usual=75)
    return d.operand(place, shape, level, constant=5), groups, each, out


@recipe("Conv")
def conv(d: Sketch) -> None:
    x, groups, each, out = image(d)
    kernel = kernel_of(d, x.rank - 2)
    given = layout(d, kernel) | d.attributes(kernel_shape=(kernel,))
    if groups > 1 or d.maybe(30):
        given["group"] = groups
    weight = d.operand(1, (groups * out, each, *kernel), "mild", constant=80)
    bias = d.operand(2, (groups * out,), "mild", constant=80) if d.maybe(50) else None
    d.emit([x, weight, bias], given)


@recipe("ConvTranspose")
def conv_transpose(d: Sketch) -> None:
    x, groups, each, out = image(d)
    rank = x.rank - 2
    kernel = kernel_of(d, rank)
    given = layout(d, kernel) | d.attributes(kernel_shape=(kernel,))
    if groups > 1 or d.maybe(30):
        given["group"] = groups
    given |= outer_size(d, x.shape[2:], kernel, given)
    weight = d.operand(1, (groups * each, out, *kernel), "mild", constant=80)
    bias = d.operand(2, (groups * out,), "mild", constant=80) if d.maybe(50) else None
    d.emit([x, weight, bias], given)


def outer_size(
    d: Sketch, space: tuple[int, ...], kernel: tuple[int, ...], given: dict[str, Any]
) -> dict[str, Any]:
    """Output padding (below stride or dilation) and a stated output shape, for a transpose."""
    strides = given.get("strides", (1,) * len(kernel))
    dilations = given.get("dilations", (1,) * len(kernel))
    more: dict[str, Any] = {}
    if d.maybe(40):
        more["output_padding"] = tuple(d.choices.below(max(s, e))
                                       for s, e in zip(strides, dilations))  # fmt: skip
    if d.maybe(35):
        full = [s * (n - 1) + e * (k - 1) + 1
                for n, k, s, e in zip(space, kernel, strides, dilations)]  # fmt: skip
        more["output_shape"] = tuple(max(f + d.choices.one((0, 1, 2, -1, 3, -2)), 1) for f in full)
    return more


@recipe("MaxPool", "AveragePool", "LpPool")
def pool(d: Sketch) -> None:
    x, *_ = image(d, "mild")
    kernel = kernel_of(d, x.rank - 2)
    given = layout(d, kernel, pads_below=True)
    given |= d.attributes(ceil_mode=FLAG, count_include_pad=FLAG, p=(2, 1, 3), storage_order=FLAG)
    given["kernel_shape"] = kernel
    d.emit([x], given, 2 if d.op == "MaxPool" and d.maybe(25) else 1)


@recipe("ConvInteger")
def conv_integer(d: Sketch) -> None:
    x, groups, each, out = image(d)
    kernel = kernel_of(d, x.rank - 2)
    given = layout(d, kernel) | d.attributes(kernel_shape=(kernel,)) | {"group": groups}
    weight = d.operand(1, (groups * out, each, *kernel), constant=80)
    zero = d.operand(2, (), constant=80) if d.maybe(60) else None
    per = (groups * out,) if d.maybe(40) else ()
    d.emit([x, weight, zero, d.operand(3, per, constant=80) if d.maybe(50) else None], given)


@recipe("QLinearConv")
def qlinear_conv(d: Sketch) -> None:
    x, groups, each, out = image(d)
    kernel = kernel_of(d, x.rank - 2)
    given = layout(d, kernel) | d.attributes(kernel_shape=(kernel,)) | {"group": groups}
    weight = d.operand(3, (groups * out, each, *kernel), constant=90)
    per = (groups * out,) if d.maybe(60) else ()
    scales = np.full(per, 0.01, np.float32) * (1 + np.arange(int(np.prod(per))).reshape(per) % 3)
    zero = d.operand(5, per, constant=90)
    if zero.dtype.is_signed and d.maybe(80):
        zero.array = np.zeros(per, zero.dtype.numpy)
    bias = d.put(np.arange(groups * out, dtype=np.int32) * 37 - 50, 90) if d.maybe(50) else None
    d.emit([
        x, d.put(np.float32(0.1), 90), d.operand(2, (), constant=90), weight,
        d.put(scales.astype(np.float32), 90), zero,
        d.put(np.float32(d.choices.one((0.5, 0.1, 2.0))), 90), d.operand(7, (), constant=90), bias,
    ], given)  # fmt: skip


@recipe("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(d: Sketch) -> None:
    x, *_ = image(d)
    d.emit([x], d.attributes(p=(2, 1, 3)))


@recipe("LRN")
def lrn(d: Sketch) -> None:
    x, *_ = image(d, "tame")
    d.emit([x], d.attributes(size=(3, 1, 2, 5), alpha=(1e-4, 0.1, 1.0), beta=(0.75, 0.5, 1.0),
                             bias=(1.0, 2.0)))  # fmt: skip


@recipe("Col2Im")
def col2im(d: Sketch) -> None:
    rank = d.choices.one((2, 1, 3))
    block, space = kernel_of(d, rank), tuple(d.choices.one((5, 4, 7)) for _ in range(rank))
    given = layout(d, block)
    given.pop("auto_pad", None)
    ones = (1,) * rank
    pads = given.get("pads", (0,) * (2 * rank))
    counts = [
        (s + pads[i] + pads[i + rank] - e * (k - 1) - 1) // t + 1
        for i, (s, k, e, t) in enumerate(
            zip(space, block, given.get("dilations", ones), given.get("strides", ones)))
    ]  # fmt: skip
    if min(counts) < 1:
        raise Misfit("no block fits")
    channels = d.choices.one((1, 2, 3))
    shape = (batch(d), channels * int(np.prod(block)), int(np.prod(counts)))
    d.emit([d.operand(0, shape, "mild"), d.ints(space), d.ints(block)], given)


@recipe("GridSample")
def grid_sample(d: Sketch) -> None:
    rank = d.choices.one((2, 2, 3)) if d.opset >= 20 else 2
    n = batch(d)
    space = tuple(d.choices.one((4, 3, 2, 5, 1)) for _ in range(rank))
    out = tuple(d.choices.one((3, 2, 1, 5)) for _ in range(rank))
    x = d.operand(0, (n, d.choices.one((1, 2, 3)), *space), "tame", constant=5)
    grid = d.operand(1, (n, *out, rank), "tame", scale=d.choices.one((0.7, 1.5, 4.0)))
    new = d.opset >= 20
    modes = ("linear", "nearest", "cubic") if new else ("bilinear", "nearest", "bicubic")
    if rank == 3:
        modes = modes[:2]
    d.emit([x, grid], d.attributes(mode=modes, padding_mode=("zeros", "border", "reflection"),
                                   align_corners=FLAG))  # fmt: skip


@recipe("Resize", "Upsample")
def resize(d: Sketch) -> None:
    fits = [r for r in d.results[::-1] if r.rank in (3, 4, 5) and r.dtype in d.allowed(0)]
    level = "mild" if d.maybe(20) else "tame"
    shape = (batch(d) or 1, d.choices.one((1, 2, 3)), *space_of(d, d.choices.one(_RANKS)))
    x = fits[0] if fits else d.operand(0, shape, level, constant=5)
    if fits:
        d.bound[d.schema.inputs[0].type_str] = x.dtype
    over = list(range(2, x.rank)) if d.maybe(85) else list(range(x.rank))
    scales = [d.choices.one((2.0, 0.5, 1.0, 1.5, 3.0, 0.6, 0.33, 2.3, 1.4)) for _ in over]
    sizes = [d.choices.one((6, 3, 1, 10, 5, 8, 13)) for _ in over]
    if d.op == "Upsample" or d.opset == 10:
        factors = [max(s, 1.0) if d.op == "Upsample" else s for s in scales]
        full = [factors[over.index(i)] if i in over else 1.0 for i in range(x.rank)]
        given = d.attributes(mode=("nearest", "linear"))
        if d.has("scales"):
            d.emit([x], {**given, "scales": tuple(full)})
        else:
            d.emit([x, d.put(np.array(full, np.float32), 90)], given)
        return
    mode = d.choices.one(("nearest", "linear", "cubic"))
    where = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
    where += ["half_pixel_symmetric"] * (d.opset >= 19)
    where += ["tf_half_pixel_for_nn"] * (d.opset < 13)
    given: dict[str, Any] = {"mode": mode} if mode != "nearest" or d.maybe(50) else {}
    given |= d.attributes(coordinate_transformation_mode=(*where, "tf_crop_and_resize"))
    if mode == "nearest":
        given |= d.attributes(
            nearest_mode=("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))  # fmt: skip
    if mode == "cubic":
        given |= d.attributes(cubic_coeff_a=(-0.75, -0.5), exclude_outside=FLAG)
    if mode != "nearest" and d.maybe(25):
        given |= d.attributes(antialias=FLAG)
    roi = None
    axes = d.has("axes") and (len(over) < x.rank and d.maybe(30))
    if given.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        n = len(over) if axes else x.rank
        moved = np.float32(d.choices.one((0, 0.1, -0.2)))
        roi = d.put(np.array([0.0] * n + [1.0] * n, np.float32) + moved, 90)
        given |= d.attributes(extrapolation_value=(0.0, 10.0))
    elif d.opset < 13:
        roi = d.put(np.zeros(0, np.float32), 100)  # not optional then
    by_scales = d.maybe(50)
    wanted: list[Any] = scales if by_scales else sizes
    if axes:
        given["axes"] = tuple(a - x.rank if d.maybe(30) else a for a in over)
    else:
        rest: list[Any] = [1.0] * x.rank if by_scales else list(x.shape)
        wanted = [wanted[over.index(i)] if i in over else rest[i] for i in range(x.rank)]
    if not by_scales and axes:
        given |= d.attributes(keep_aspect_ratio_policy=("stretch", "not_larger", "not_smaller"))
    if by_scales:
        d.emit([x, roi, d.put(np.array(wanted, np.float32), 90)], given)
    else:
        none = None if d.opset >= 13 else d.put(np.zeros(0, np.float32), 100)
        d.emit([x, roi, none, d.ints(wanted)], given)


@recipe("DepthToSpace", "SpaceToDepth")
def blocks(d: Sketch) -> None:
    size = d.choices.one((2, 1, 3))
    deep = size * size if d.op == "DepthToSpace" else 1
    wide = 1 if d.op == "DepthToSpace" else size
    shape = (batch(d), deep * d.choices.one((1, 2, 3)), wide * d.choices.one((2, 1, 3)),
             wide * d.choices.one((3, 1, 2)))  # fmt: skip
    given = d.attributes(mode=("DCR", "CRD"))
    if d.op == "SpaceToDepth":
        given.pop("mode", None)
    d.emit([d.operand(0, shape)], {**given, "blocksize": size})


@recipe("NonMaxSuppression")
def non_max_suppression(d: Sketch) -> None:
    n, boxes, classes = batch(d) or 1, d.choices.one((4, 1, 7, 0)), d.choices.one((1, 2))
    generator = np.random.default_rng(d.choices.below(1 << 16))
    corners = np.sort(generator.random((n, boxes, 2, 2)), axis=2).reshape(n, boxes, 4)
    scores = generator.random((n, classes, boxes))
    if d.maybe(30):
        scores = np.round(scores * 3) / 3
    d.emit([
        d.put(corners.astype(np.float32), 20), d.put(scores.astype(np.float32), 20),
        d.put(np.array([d.choices.one((3, 0, 1, 9))]), 80) if d.maybe(85) else None,
        d.put(np.array([d.choices.one((0.5, 0.0, 0.9))], np.float32), 80) if d.maybe(60) else None,
        d.put(np.array([d.choices.one((0.0, 0.3, 0.8))], np.float32), 80) if d.maybe(50) else None,
    ], d.attributes(center_point_box=FLAG))  # fmt: skip


@recipe("MeanVarianceNormalization")
def mean_variance(d: Sketch) -> None:
    x = d.data(0, (4, 3, 2), "tame")
    axes = tuple(sorted(d.choices.some(range(x.rank), 1))) if x.rank != 4 or d.maybe(50) else None
    d.emit([x], {} if axes is None else {"axes": axes})


@recipe("LpNormalization")
def lp_normalization(d: Sketch) -> None:
    x = d.data(0, (2, 1, 3), "mild")
    d.emit([x], d.attributes(axis=(axis_of(d, x.rank),), p=(2, 1)))

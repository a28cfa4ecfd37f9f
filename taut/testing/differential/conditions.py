"""Conditions on which a peer is known to differ (see `known`): of a node, or of an output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from taut.ir import DType
from taut.ir.ops.resize import Resize

from .look import Look, Seen


def low_precision(look: Look) -> bool:
    return any(DType.of(a) in (DType.f16, DType.bf16)
               for a in (*look.values.values(), *look.want, *look.got))  # fmt: skip


def near(atol: float) -> Callable[[Look], bool]:
    """Whether both agree to `atol`, absolutely."""
    return lambda look: (
        all(np.allclose(a, b, 1e-4, atol, equal_nan=True) for a, b in look.pairs())
        and bool(look.pairs())
    )


def one_step(look: Look) -> bool:
    """Whether integers are at most 1 apart."""
    return all(w.dtype.kind in "iu" and bool((abs(a - b) <= 1).all())
               for w, (a, b) in zip(look.want, look.pairs())) and bool(look.pairs())  # fmt: skip


def nan(look: Look) -> bool:
    return any(a.dtype.kind not in "iub" and bool(np.isnan(a.astype(np.float64)).any())
               for a in (*look.values.values(), *look.want, *look.got))  # fmt: skip


def holds_nan(place: int) -> Callable[[Seen], bool]:
    return lambda node: bool(np.isnan(node.wide(place)).any())


def holds_infinity(place: int) -> Callable[[Seen], bool]:
    return lambda node: not np.isfinite(node.wide(place)).all()


def tiny(look: Look) -> bool:
    """Whether an operand holds what rounds to zero beside 1."""
    floats = [np.abs(a.astype(np.float64)) for a in look.values.values() if a.dtype.kind == "f"]
    return any(bool(((a > 0) & (a < 1e-30)).any()) for a in floats)


def empty(look: Look) -> bool:
    return any(0 in a.shape for a in look.want)


def same_size(look: Look) -> bool:
    """Whether a resized image has the size that it had."""
    shapes = {a.shape for a in look.arrays.values()}
    return any(w.shape in shapes for w in look.want)


def keeps_an_axis(node: Seen) -> bool:
    """Whether an axis that is cropped keeps its size."""
    x, y = node.operand(0), node.result
    return (node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
            and x is not None and y is not None
            and any(m == n > 1 for m, n in zip(x.shape, y.shape)))  # fmt: skip


def at_the_edge(look: Look) -> bool:
    """Whether the two differ in what lies outside of the image alone."""
    out = [n.get("extrapolation_value", 0.0) for n in look.seen("Resize")]
    return all(bool(np.isin(a[a != b], out).all() or np.isin(b[a != b], out).all())
               for a, b in look.pairs()) and bool(look.pairs())  # fmt: skip


def far_end(node: Seen) -> bool:
    ends, steps = node.wide(2), node.wide(4)
    return bool((steps < 0).any()) and bool((ends >= 2**31 - 1).any())


def between_elements(node: Seen) -> bool:
    """Whether a coordinate of an image lies half way between two elements or on one, nearly."""
    x, y = node.operand(0), node.result
    if x is None or y is None:
        return False
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    op = Resize(coordinate_transformation_mode=mode)
    scales = node.wide(2) if node.wide(2).size else np.array(y.shape) / np.maximum(x.shape, 1)
    if mode == "tf_crop_and_resize" or len(scales) != x.ndim:
        return False
    found = [2 * op.coordinates(n, m, float(s), None)
             for n, m, s in zip(x.shape, y.shape, scales) if n != m]  # fmt: skip
    return any(bool((np.abs(u - np.rint(u)) < 1e-4).any()) for u in found)


def part_of_an_element(node: Seen) -> bool:
    """Whether an axis of an image, scaled, has no whole number of elements."""
    x, scales = node.operand(0), node.wide(2)
    return (x is not None and node.get("coordinate_transformation_mode")
            in ("align_corners", "tf_crop_and_resize") and bool(scales.size)
            and bool((np.array(x.shape)[-len(scales):] * scales % 1 > 1e-6).any()))  # fmt: skip


def overflows(node: Seen) -> bool:
    """Whether an integer reduction may leave its type within the sum or product that it makes."""
    x = np.abs(node.wide())
    if not node.of("iu") or not x.size:
        return False
    most = {
        "ReduceProd": lambda v: np.maximum(v, 1).prod(), "ReduceL2": lambda v: (v * v).sum(),
        "ReduceSumSquare": lambda v: (v * v).sum(), "ReduceLogSumExp": lambda v: np.exp(v).sum(),
    }  # fmt: skip
    with np.errstate(all="ignore"):
        found = most.get(node.proto.op_type, np.sum)(x.reshape(-1))
    made = node.operand(0)
    assert made is not None
    return bool(found > DType.of(made).bounds[1])


def no_integer(node: Seen) -> bool:
    """Whether a float that becomes an integer is NaN or not in the integer's range."""
    x, y = node.wide(), node.result
    if not node.of("f") or y is None or y.dtype.kind not in "iu":
        return False
    low, high = DType.of(y).bounds
    return not bool(((np.trunc(x) >= low) & (np.trunc(x) <= high)).all())


def power_no_integer(node: Seen) -> bool:
    x, y = node.operand(0), node.operand(1)
    if x is None or y is None or not node.of("iu"):
        return False
    with np.errstate(all="ignore"):
        made = np.power(x.astype(np.float64), y.astype(np.float64))
    low, high = DType.of(x).bounds
    return not bool(((made >= low) & (made <= high)).all())


def small_kernel(node: Seen) -> bool:
    """Whether a kernel that pads to the size of its image is smaller than its strides."""
    w = node.operand(1)
    if w is None or not node.same():
        return False
    count = w.ndim - 2
    holes = node.get("dilations", [1] * count)
    extent = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], holes)]
    return any(e < s for e, s in zip(extent, node.get("strides", [1] * count)))


def flat(node: Seen) -> bool:
    """Whether a group of numbers hardly differs beside its mean, or is not finite."""
    x = node.wide()
    axes = tuple(node.get("axes", (0, 2, 3)))
    with np.errstate(all="ignore"):
        spread = x.std(axes) / np.abs(x).max(axes)
    return not bool((spread > 1e-3).all())


def flat_images(node: Seen) -> bool:
    """Whether an image hardly differs beside its mean."""
    x = node.wide()
    with np.errstate(all="ignore"):
        spread = x.reshape(*x.shape[:2], -1).std(-1) / np.abs(x).max()
    return x.ndim > 1 and not bool((spread > 1e-3).all())


def bins_are_missing(node: Seen) -> bool:
    """Whether the inverse of half a spectrum has not that half."""
    x, length = node.operand(0), node.wide(1)
    axis = int(node.wide(2).item()) if node.given(2) else node.get("axis", -2)
    return (x is not None and bool(node.get("inverse", 0) and node.get("onesided", 0))
            and bool(length.size) and x.shape[axis] != int(length.item()) // 2 + 1)  # fmt: skip


def per_channel(node: Seen) -> bool:
    """Whether weights have a scale for each channel, and the image other than two axes."""
    x = node.operand(0)
    return node.wide(4).size > 1 and x is not None and x.ndim != 4


def pads(node: Seen) -> bool:
    return node.same() or any(node.get("pads", ())) or bool(node.get("ceil_mode", 0))


def not_understood(node: Seen) -> bool:
    """What the evaluator's recurrent ops leave out of account."""
    return (bool(node.get("clip")) or node.get("direction", "forward") != "forward"
            or bool(node.texts("activations")) or bool(node.get("input_forget"))
            or node.given(4))  # fmt: skip


def fraction(node: Seen) -> bool:
    return node.of("iu") and any(node.get(k, 1.0) % 1 for k in ("alpha", "beta"))

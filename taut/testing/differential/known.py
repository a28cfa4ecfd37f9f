"""Where a peer itself is known to differ from the standard, or where the standard says nothing.

Each row is narrow (op, peer, condition) and has its reason, which is printed whenever it is hit. It
excuses one output of a model, and only where that output depends on such a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from taut.ir import DType

from .look import Look, Seen


@dataclass(frozen=True)
class Known:
    """`peer`: one or several, by blanks. `ops` are ONNX names: the row counts where `where` holds
    for one node of these, and `when` for the whole."""

    peer: str
    ops: tuple[str, ...]
    why: str
    when: Callable[[Look], bool] = lambda look: True
    where: Callable[[Seen], bool] = lambda node: True

    def fits(self, look: Look) -> bool:
        return any(self.where(n) for n in look.seen(*self.ops)) and self.when(look)


def known_reason(look: Look, peer: str) -> str | None:
    """Why this difference says nothing about Taut, or None."""
    for row in KNOWN:
        if peer in row.peer.split() and row.fits(look):
            return f"{peer}, {'/'.join(row.ops[:3])}: {row.why}"
    return None


# ---- conditions ----------------------------------------------------------------------------------


def _low_precision(look: Look) -> bool:
    return any(DType.of(a) in (DType.f16, DType.bf16)
               for a in (*look.values.values(), *look.want, *look.got))  # fmt: skip


def _near(atol: float) -> Callable[[Look], bool]:
    """Whether both agree to `atol`, absolutely."""
    return lambda look: all(
        np.allclose(a, b, 1e-4, atol, equal_nan=True) for a, b in look.pairs()
    ) and bool(look.pairs())


def _one_step(look: Look) -> bool:
    """Whether integers are at most 1 apart."""
    return all(w.dtype.kind in "iu" and bool((abs(a - b) <= 1).all())
               for w, (a, b) in zip(look.want, look.pairs())) and bool(look.pairs())  # fmt: skip


def _nan(look: Look) -> bool:
    return any(a.dtype.kind not in "iub" and bool(np.isnan(a.astype(np.float64)).any())
               for a in (*look.values.values(), *look.want, *look.got))  # fmt: skip


def _holds_nan(place: int) -> Callable[[Seen], bool]:
    return lambda node: bool(np.isnan(node.wide(place)).any())


def _holds_infinity(place: int) -> Callable[[Seen], bool]:
    return lambda node: not np.isfinite(node.wide(place)).all()


def _tiny(look: Look) -> bool:
    """Whether an operand holds what rounds to zero beside 1."""
    floats = [np.abs(a.astype(np.float64)) for a in look.values.values() if a.dtype.kind == "f"]
    return any(bool(((a > 0) & (a < 1e-30)).any()) for a in floats)


def _empty(look: Look) -> bool:
    return any(0 in a.shape for a in look.want)


def _same_size(look: Look) -> bool:
    """Whether a resized image has the size that it had."""
    shapes = {a.shape for a in look.arrays.values()}
    return any(w.shape in shapes for w in look.want)


def _keeps_an_axis(node: Seen) -> bool:
    """Whether an axis that is cropped keeps its size."""
    x, y = node.operand(0), node.result
    return (node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
            and x is not None and y is not None
            and any(m == n > 1 for m, n in zip(x.shape, y.shape)))  # fmt: skip


def _at_the_edge(look: Look) -> bool:
    """Whether the two differ in what lies outside of the image alone."""
    out = [n.get("extrapolation_value", 0.0) for n in look.seen("Resize")]
    return all(bool(np.isin(a[a != b], out).all() or np.isin(b[a != b], out).all())
               for a, b in look.pairs()) and bool(look.pairs())  # fmt: skip


def _far_end(node: Seen) -> bool:
    ends, steps = node.wide(2), node.wide(4)
    return bool((steps < 0).any()) and bool((ends >= 2**31 - 1).any())


def _overflows(node: Seen) -> bool:
    """Whether an integer reduction may leave its type within the sum or product that it makes."""
    x = np.abs(node.wide())
    if not node.of("iu") or not x.size:
        return False
    most = {
        "ReduceProd": np.multiply.reduce, "ReduceL2": lambda v: (v * v).sum(),
        "ReduceSumSquare": lambda v: (v * v).sum(), "ReduceLogSumExp": lambda v: np.exp(v).sum(),
    }  # fmt: skip
    with np.errstate(all="ignore"):
        found = most.get(node.proto.op_type, np.sum)(x.reshape(-1))
    made = node.operand(0)
    assert made is not None
    return bool(found > DType.of(made).bounds[1])


def _no_integer(node: Seen) -> bool:
    """Whether a float that becomes an integer is NaN or not in the integer's range."""
    x, y = node.wide(), node.result
    if not node.of("f") or y is None or y.dtype.kind not in "iu":
        return False
    low, high = DType.of(y).bounds
    return not bool(((np.trunc(x) >= low) & (np.trunc(x) <= high)).all())


def _power_no_integer(node: Seen) -> bool:
    x, y = node.operand(0), node.operand(1)
    if x is None or y is None or not (node.of("iu") and node.of("f", 1)):
        return False
    with np.errstate(all="ignore"):
        made = np.power(x.astype(np.float64), y.astype(np.float64))
    low, high = DType.of(x).bounds
    return not bool(((made >= low) & (made <= high)).all())


def _small_kernel(node: Seen) -> bool:
    """Whether a kernel that pads to the size of its image is smaller than its strides."""
    w = node.operand(1)
    if w is None or not node.same():
        return False
    count = w.ndim - 2
    holes = node.get("dilations", [1] * count)
    extent = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], holes)]
    return any(e < s for e, s in zip(extent, node.get("strides", [1] * count)))


def _per_channel(node: Seen) -> bool:
    """Whether weights have a scale for each channel, and the image other than two axes."""
    x = node.operand(0)
    return node.wide(4).size > 1 and x is not None and x.ndim != 4


def _pads(node: Seen) -> bool:
    return node.same() or any(node.get("pads", ())) or bool(node.get("ceil_mode", 0))


def _not_understood(node: Seen) -> bool:
    """What the evaluator's recurrent ops leave out of account."""
    return (bool(node.get("clip")) or node.get("direction", "forward") != "forward"
            or bool(node.texts("activations")) or bool(node.get("input_forget"))
            or node.given(4))  # fmt: skip


def _fraction(node: Seen) -> bool:
    return node.of("iu") and any(node.get(k, 1.0) % 1 for k in ("alpha", "beta"))


KNOWN: tuple[Known, ...] = (
    # ---- ONNX's reference evaluator -------------------------------------------------------------
    Known("evaluator", ("Softmax", "LogSoftmax", "Hardmax"),
          "gives models of opsets before 13 the meaning that the op has had since",
          lambda look: look.opset < 13),
    Known("evaluator", ("GRU", "LSTM", "RNN"),
          "leaves most attributes and the sequences' lengths out of account",
          where=_not_understood),
    Known("evaluator", ("Gelu", "Selu", "Elu", "Mish", "Swish", "HardSwish", "Celu", "Softplus"),
          "computes in f16 and bf16 step by step, where Taut rounds once", _low_precision),
    Known("evaluator", ("HardSwish", "HardSigmoid"),
          "takes attributes as f32 in f64 as well, where Taut takes the decimal that was meant",
          _near(1e-6), Seen.is_f64),
    Known("evaluator", ("Gelu",), "takes the square root of 2 as an f32 in f64 as well",
          _near(1e-6), Seen.is_f64),
    Known("evaluator", ("Erf",), "computes in f32, where erf of 4 is 1 and no less",
          where=lambda node: node.of("iu")),
    Known("evaluator", ("GlobalMaxPool",), "gives images of other than two axes another rank"),
    Known("evaluator", ("Unique",), "unsorted, it takes elements along the first axis",
          where=lambda node: node.get("sorted", 1) == 0),
    Known("evaluator", ("Loop", "Scan"), "joins scan outputs of size 0 without their new axis",
          _empty),
    Known("evaluator", ("Loop",), "does not run a loop that has no condition",
          where=lambda node: not node.given(1)),
    Known("evaluator", ("BatchNormalization",), "before opset 14 takes momentum for epsilon",
          lambda look: look.opset < 14),
    Known("evaluator", ("LRN",), "normalizes only as many channels as there are images"),
    Known("evaluator", ("LpNormalization",), "adds up numbers, not their magnitudes, where p is 1",
          where=lambda node: node.get("p", 2) == 1 and bool((node.wide() < 0).any())),
    Known("evaluator", ("LpPool",),
          "makes the sum from an average, in which what is padded and NaN do not count",
          where=lambda node: _pads(node) or _holds_nan(0)(node)),
    Known("evaluator", ("MaxPool",), "makes SAME smaller than ceil(size / stride) with `ceil_mode`",
          where=lambda node: node.same() and bool(node.get("ceil_mode", 0))),
    Known("evaluator", ("QLinearConv",),
          "lays the scales of channels out for images of two axes", where=_per_channel),
    Known("evaluator", ("QLinearConv",),
          "rounds when it has added the zero point, which turns ties where that is odd",
          _one_step, lambda node: bool((node.wide(7) % 2 == 1).any())),
    Known("evaluator", ("ConvTranspose",),
          "gives each group the first bias, and its first channel to all of its channels",
          where=lambda node: node.get("group", 1) > 1),
    Known("evaluator", ("QuantizeLinear",), "wraps what is beyond i32 before it saturates",
          where=lambda node: bool((np.abs(node.wide()) >= 2**31 * node.wide(1).min()).any())),
    Known("evaluator", ("Attention",), "gives products after `softcap` for those before it",
          where=lambda node: bool(node.get("softcap", 0)) and len(node.proto.output) > 3
          and not node.get("qk_matmul_output_mode", 0)),
    Known("evaluator", ("OneHot",), "multiplies what is not finite by 0", where=_holds_infinity(2)),
    Known("evaluator", ("PRelu",), "multiplies what is not finite by 0", where=_holds_infinity(1)),
    Known("evaluator", ("Gemm",), "rounds the sum to integers, where Taut rounds each product by a "
          "fraction: the standard says nothing", where=_fraction),
    Known("evaluator", ("Resize",), "takes sizes in f64, where ONNX's inference takes them in f32",
          lambda look: "shape" in look.reason, lambda node: node.wide(2).size > 0),
    Known("evaluator", ("Resize",),
          "takes coordinates in f64, which pass the edge of an image where those in f32 do not",
          _at_the_edge,
          lambda node: node.get("coordinate_transformation_mode") == "tf_crop_and_resize"),
    Known("evaluator", ("Resize",), "takes coordinates in f64, which decides ties of integers",
          _one_step, lambda node: node.of("iu") and node.get("mode", "nearest") != "nearest"),
    Known("evaluator", ("Resize",), "takes coefficients in another precision", _near(1e-5),
          lambda node: node.is_f64() and node.get("mode", "nearest") != "nearest"),
    # ---- PyTorch --------------------------------------------------------------------------------
    Known("torch", ("HardSwish",), "multiplies before it divides by 6, which overflows sooner",
          lambda look: look.largest() > 5e37),
    # ---- onnxruntime ----------------------------------------------------------------------------
    Known("onnxruntime", ("Loop",),
          "stops by the body's condition where the loop has no condition operand, which then is "
          "ignored by the standard",
          where=lambda node: len(node.proto.input) > 1 and not node.given(1)),
    Known("onnxruntime", ("Loop", "Scan"),
          "takes sizes that a body does not state for 0 where it has not run", _empty),
    Known("onnxruntime", ("Elu", "Selu", "Celu"), "subtracts 1 from exp(x), which cancels near 0",
          lambda look: _near(1e-6)(look) or _tiny(look)),
    Known("onnxruntime", ("MeanVarianceNormalization",),
          "takes the variance as a difference of two sums, which can be negative",
          lambda look: any(bool(np.isnan(g).any()) for g in look.got)),
    Known("onnxruntime", ("Upsample", "Resize"), "copies an image whose size does not change",
          _same_size),
    Known("onnxruntime", ("Resize",), "does not crop an axis whose size does not change",
          where=_keeps_an_axis),
    Known("onnxruntime", ("Resize",), "cuts integers off, where Taut rounds: the standard says "
          "nothing", _one_step,
          lambda node: node.of("iu") and node.get("mode", "nearest") != "nearest"),
    Known("onnxruntime", ("Resize",),
          "rounds a coordinate before it asks whether it lies outside",
          where=lambda node: node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
          and node.get("mode", "nearest") == "nearest"),
    Known("onnxruntime", ("AveragePool", "LpPool", "MaxPool"),
          "leaves dilations out of the pads of SAME",
          where=lambda node: node.same() and node.holed()),
    Known("onnxruntime", ("ConvTranspose",),
          "cuts SAME short where a kernel is smaller than its strides", where=_small_kernel),
    Known("onnxruntime", ("Sum", "Mean"), "adds in f16, where Taut rounds once", _low_precision),
    Known("onnxruntime", ("Swish", "Sigmoid", "Tanh", "Gelu", "Mish", "Erf"),
          "takes a fraction of two polynomials, right to 1e-6 absolutely", _near(2e-6)),
    Known("onnxruntime", ("GRU", "LSTM", "RNN"), "Softplus is infinite from 89 on",
          where=lambda node: "Softplus" in node.texts("activations")),
    Known("onnxruntime", ("Slice",),
          "takes an end of 2^31-1 with a negative step for the axis' beginning", where=_far_end),
    Known("onnxruntime", ("Col2Im",), "loses blocks with dilations of other than two axes",
          where=lambda node: node.holed() and len(node.get("dilations", ())) != 2),
    Known("onnxruntime", ("ReduceMax", "ReduceMin", "MaxPool", "GlobalMaxPool", "ArgMax", "ArgMin",
                          "TopK", "Hardmax", "Clip", "Sign", "Unique", "NonMaxSuppression"),
          "takes NaN for a number where it compares, so that the order of elements decides", _nan),
    Known("onnxruntime", ("ScatterND", "ScatterElements"), "the smaller of NaN and a number is the "
          "number", _nan, lambda node: node.get("reduction") in ("min", "max")),
    Known("onnxruntime", ("ReduceLogSumExp", "LogSoftmax"),
          "subtracts the largest, which leaves NaN out", _nan),
    Known("onnxruntime", ("Clip",),
          "makes infinities finite where a bound is left out: ONNX's text has it so, its function "
          "and evaluator have not",
          where=lambda node: bool(np.isinf(node.wide()).any())
          and not (node.given(1) and node.given(2))),
    Known("onnxruntime", ("MatMulInteger", "QLinearMatMul"),
          "leaves a product over nothing as it finds the memory",
          where=lambda node: node.operand(0) is not None and not node.wide().size),
    Known("onnxruntime", ("Shrink",), "takes integers as f32",
          where=lambda node: node.of("iu") and bool((np.abs(node.wide()) > 2**24).any())),
    Known("onnxruntime", ("ReduceLogSumExp",), "takes exponentials as integers",
          where=lambda node: node.of("iu")),
    Known("onnxruntime", ("Tan",), "at its poles it magnifies the last bit of an f16 that is the "
          "result of another node", lambda look: _low_precision(look) and len(look.case.ops) > 1),
    Known("onnxruntime", ("NonZero",), "gives a scalar one index, where the standard says none",
          lambda look: any(w.shape[:1] == (0,) for w in look.want)),
    # ---- where the standard says nothing --------------------------------------------------------
    Known("onnxruntime evaluator", ("ReduceProd", "ReduceSum", "ReduceL1", "ReduceL2",
                                    "ReduceSumSquare", "ReduceMean", "ReduceLogSumExp"),
          "integers that overflow: the standard does not say how", where=_overflows),
    Known("onnxruntime evaluator", ("ReduceMean",),
          "a mean of nothing: the standard says undefined",
          where=lambda node: node.operand(0) is not None and not node.wide().size),
    Known("onnxruntime evaluator", ("ReduceLogSum",),
          "a logarithm that is no integer: the standard does not say which it becomes",
          where=lambda node: node.of("iu")),
    Known("onnxruntime evaluator", ("Cast", "CastLike"),
          "floats that are no integer of the type: the standard says undefined",
          where=_no_integer),
    Known("onnxruntime evaluator", ("Pow",),
          "a power that is no integer of the type: the standard says undefined",
          where=_power_no_integer),
    Known("onnxruntime evaluator", ("BitCast",), "a NaN may have any sign and payload",
          where=_holds_nan(0)),
    Known("onnxruntime evaluator", ("Dropout",), "the mask that leaves all is 1 from opset 12 on: "
          "before, the standard does not say what it is",
          lambda look: look.opset < 12, lambda node: len(node.proto.output) > 1),
    # ---- our own programs -----------------------------------------------------------------------
    Known("cpu", ("ConvTranspose",),
          "multiplies weights that come at run time by the zeros between elements too, which is "
          "NaN where they are not finite",
          lambda look: not look.is_constant("ConvTranspose", 1), _holds_infinity(1)),
)  # fmt: skip

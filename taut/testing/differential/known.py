"""Where a peer itself is known to differ from the standard, or where the standard says nothing.

Each row is narrow (op, peer, condition) and has its reason, which is printed whenever it is hit. It
excuses one output of a model, and only where that output depends on such a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .conditions import (
    at_the_edge,
    between_elements,
    bins_are_missing,
    empty,
    far_end,
    flat,
    flat_images,
    fraction,
    holds_infinity,
    holds_nan,
    keeps_an_axis,
    low_precision,
    nan,
    near,
    no_integer,
    not_understood,
    one_step,
    overflows,
    pads,
    part_of_an_element,
    per_channel,
    power_no_integer,
    same_size,
    small_kernel,
    tiny,
)  # fmt: skip
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


KNOWN: tuple[Known, ...] = (
    # ---- ONNX's reference evaluator -------------------------------------------------------------
    Known("evaluator", ("Softmax", "LogSoftmax", "Hardmax"),
          "gives models of opsets before 13 the meaning that the op has had since",
          lambda look: look.opset < 13),
    Known("evaluator", ("GRU", "LSTM", "RNN"),
          "leaves most attributes and the sequences' lengths out of account",
          where=not_understood),
    Known("evaluator", ("Gelu", "Selu", "Elu", "Mish", "Swish", "HardSwish", "Celu", "Softplus",
                        "RMSNormalization"),
          "computes in f16 and bf16 step by step, where Taut rounds once", low_precision),
    Known("evaluator", ("HardSwish", "HardSigmoid"),
          "takes attributes as f32 in f64 as well, where Taut takes the decimal that was meant",
          near(1e-6), Seen.is_f64),
    Known("evaluator", ("Gelu",), "takes the square root of 2 as an f32 in f64 as well",
          near(1e-6), Seen.is_f64),
    Known("evaluator", ("Erf",), "computes in f32, where erf of 4 is 1 and no less",
          where=lambda node: node.of("iu") or node.is_f64()),
    Known("evaluator", ("Shrink",), "takes integers as f64",
          where=lambda node: node.of("iu") and bool((np.abs(node.wide()) > 2**53).any())),
    Known("evaluator", ("RMSNormalization",), "has the type of x, where the standard has scale's",
          lambda look: "type" in look.reason),
    Known("evaluator", ("Conv",), "multiplies what is not finite by the zeros of holes",
          where=lambda node: node.holed() and holds_infinity(0)(node)),
    Known("evaluator", ("ConvTranspose",), "does not pad for `output_shape` but where it is SAME",
          where=lambda node: not node.same() and bool(node.get("output_shape"))),
    Known("evaluator", ("GlobalMaxPool",), "gives images of other than two axes another rank"),
    Known("evaluator", ("Unique",), "unsorted, it takes elements along the first axis",
          where=lambda node: node.get("sorted", 1) == 0),
    Known("evaluator", ("Loop", "Scan"), "joins scan outputs with one axis more or less",
          lambda look: "shape" in look.reason),
    Known("evaluator", ("Loop",), "does not run a loop that has no condition",
          where=lambda node: not node.given(1)),
    Known("evaluator", ("BatchNormalization",), "before opset 14 takes momentum for epsilon",
          lambda look: look.opset < 14),
    Known("evaluator", ("LRN",), "normalizes only as many channels as there are images"),
    Known("evaluator", ("LpNormalization",), "adds up numbers, not their magnitudes, where p is 1",
          where=lambda node: node.get("p", 2) == 1 and bool((node.wide() < 0).any())),
    Known("evaluator", ("LpPool",),
          "makes the sum from an average, in which what is padded and NaN do not count",
          where=lambda node: pads(node) or holds_nan(0)(node)),
    Known("evaluator", ("AveragePool", "MaxPool"), "takes NaN for a place outside of the image",
          where=holds_nan(0)),
    Known("evaluator", ("GridSample",), "takes coordinates in the grid's f16 or bf16",
          where=lambda node: node.halves(1)),
    Known("evaluator", ("AveragePool", "MaxPool"), "leaves dilations out of the pads of SAME",
          where=lambda node: node.same() and node.holed()),
    Known("evaluator", ("MaxPool",), "gives places of images of three axes wrongly",
          where=lambda node: node.wide().ndim > 4 and len(node.proto.output) > 1),
    Known("evaluator", ("MaxPool",), "makes SAME smaller than ceil(size / stride) with `ceil_mode`",
          where=lambda node: node.same() and bool(node.get("ceil_mode", 0))),
    Known("evaluator", ("QLinearConv",),
          "lays the scales of channels out for images of two axes", where=per_channel),
    Known("evaluator", ("QLinearConv", "QLinearMatMul"),
          "rounds when it has added the zero point, and takes the scales' quotient in another "
          "precision: both decide ties", one_step),
    Known("evaluator", ("MatMulInteger", "ConvInteger"),
          "lays the zero points of rows or channels out along the last axis",
          where=lambda node: node.wide(2).size > 1 or node.wide(3).size > 1),
    Known("onnxruntime evaluator", ("QuantizeLinear",),
          "divides in a scale's f16 or bf16, where Taut divides in f32: before opset 23 the "
          "standard does not say in which",
          lambda look: look.opset < 23 and one_step(look), lambda node: node.halves(1)),
    Known("evaluator", ("ConvTranspose",),
          "gives each group the first bias, and its first channel to all of its channels",
          where=lambda node: node.get("group", 1) > 1),
    Known("evaluator", ("QuantizeLinear",), "wraps what is beyond i32 before it saturates",
          where=lambda node: bool((np.abs(node.wide()) >= 2**31 * node.wide(1).min()).any())),
    Known("evaluator", ("Attention",), "gives products after `softcap` for those before it",
          where=lambda node: bool(node.get("softcap", 0)) and len(node.proto.output) > 3
          and not node.get("qk_matmul_output_mode", 0)),
    Known("evaluator", ("OneHot",), "multiplies what is not finite by 0", where=holds_infinity(2)),
    Known("evaluator", ("PRelu",), "multiplies what is not finite by 0", where=holds_infinity(1)),
    Known("evaluator", ("Gemm",), "rounds the sum to integers, where Taut rounds each product by a "
          "fraction: the standard says nothing", where=fraction),
    Known("evaluator", ("Resize",), "takes sizes in f64, where ONNX's inference takes them in f32",
          lambda look: "shape" in look.reason, lambda node: node.wide(2).size > 0),
    Known("evaluator", ("Resize",),
          "takes coordinates in f64, which pass the edge of an image where those in f32 do not",
          at_the_edge,
          lambda node: node.get("coordinate_transformation_mode") == "tf_crop_and_resize"),
    Known("evaluator", ("Resize",), "takes coordinates in f64, which decides ties of integers",
          one_step, lambda node: node.of("iu") and node.get("mode", "nearest") != "nearest"),
    Known("evaluator", ("Resize",), "takes coordinates in f64, which decides what is nearest",
          where=between_elements),
    Known("evaluator", ("Resize",), "takes pytorch_half_pixel of one element for -0.5, not 0",
          where=lambda node: node.get("coordinate_transformation_mode") == "pytorch_half_pixel"
          and node.result is not None and 1 in node.result.shape),
    Known("evaluator", ("Resize",), "takes coefficients in another precision", near(1e-5),
          lambda node: node.is_f64() and node.get("mode", "nearest") != "nearest"),
    Known("onnxruntime evaluator", ("Resize",), "takes integers as f32",
          where=lambda node: node.of("iu") and bool((np.abs(node.wide()) > 2**24).any())
          and node.get("mode", "nearest") != "nearest"),
    Known("onnxruntime evaluator", ("Resize",),
          "multiplies by a weight of 0 what is not finite, or limits it to finite numbers",
          where=lambda node: node.get("mode", "nearest") != "nearest" and holds_infinity(0)(node)),
    # ---- PyTorch --------------------------------------------------------------------------------
    Known("torch", ("HardSwish",), "multiplies before it divides by 6, which overflows sooner",
          lambda look: look.largest() > 5e37),
    # ---- onnxruntime ----------------------------------------------------------------------------
    Known("onnxruntime", ("Loop",),
          "stops by the body's condition where the loop has no condition operand, which then is "
          "ignored by the standard",
          where=lambda node: len(node.proto.input) > 1 and not node.given(1)),
    Known("onnxruntime", ("Loop", "Scan"),
          "takes sizes that a body does not state for 0 where it has not run", empty),
    Known("onnxruntime", ("Elu", "Selu", "Celu"), "subtracts 1 from exp(x), which cancels near 0",
          lambda look: near(1e-6)(look) or tiny(look)),
    Known("onnxruntime", ("MeanVarianceNormalization",),
          "takes the variance as a difference of two sums, which can be negative",
          where=flat),
    Known("onnxruntime", ("GroupNormalization", "LayerNormalization", "InstanceNormalization"),
          "computes in f32, where Taut computes f64 in f64", near(1e-5), Seen.is_f64),
    Known("onnxruntime", ("LayerNormalization",), "the mean of an infinity is NaN",
          where=lambda node: bool(np.isinf(node.wide()).any()) and len(node.proto.output) > 1),
    Known("onnxruntime", ("Upsample", "Resize"), "copies an image whose size does not change",
          same_size),
    Known("onnxruntime", ("Resize",), "does not crop an axis whose size does not change",
          where=keeps_an_axis),
    Known("onnxruntime", ("Resize",), "takes the elements of an axis for its length, where ONNX's "
          "evaluator has its scaled length", where=part_of_an_element),
    Known("onnxruntime", ("Resize",), "keeps no aspect ratio of axes counted from the end",
          where=lambda node: any(a < 0 for a in node.get("axes", ()))
          and node.get("keep_aspect_ratio_policy", "stretch") != "stretch"),
    Known("onnxruntime", ("Resize",), "before opset 11 takes the next element, not the last, where "
          "an image gets smaller: the standard says nothing", lambda look: look.opset < 11,
          lambda node: node.get("mode", "nearest") == "nearest" and bool((node.wide(1) < 1).any())),
    Known("onnxruntime", ("Resize", "Upsample"),
          "cuts integers off, where Taut rounds: the standard says nothing", one_step,
          lambda node: node.of("iu") and node.get("mode", "nearest") != "nearest"),
    Known("onnxruntime", ("Resize",),
          "rounds a coordinate before it asks whether it lies outside",
          where=lambda node: node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
          and node.get("mode", "nearest") == "nearest"),
    Known("onnxruntime", ("AveragePool", "LpPool", "MaxPool"),
          "leaves dilations out of the pads of SAME",
          where=lambda node: node.same() and node.holed()),
    Known("onnxruntime", ("ConvTranspose",),
          "cuts SAME short where a kernel is smaller than its strides", where=small_kernel),
    Known("onnxruntime", ("Sum", "Mean", "Swish"), "computes in f16, where Taut rounds once",
          low_precision),
    Known("onnxruntime", ("Attention",), "lays a causal mask at the end of the keys, where the "
          "standard counts from the past's length",
          where=lambda node: bool(node.get("is_causal", 0)) and node.given(4)
          and node.wide(0).shape[-2:-1] != node.wide(1).shape[-2:-1]),
    Known("onnxruntime", ("Swish", "Sigmoid", "Tanh", "Gelu", "Mish", "Erf"),
          "takes a fraction of two polynomials, right to 1e-6 absolutely", near(2e-6)),
    Known("onnxruntime", ("GRU", "LSTM", "RNN"), "Softplus is infinite from 89 on",
          where=lambda node: "Softplus" in node.texts("activations")),
    Known("onnxruntime", ("Where",), "adds 0 to -0, which is 0",
          where=lambda node: any(bool(((v == 0) & np.signbit(v)).any())
                                 for v in (node.wide(1), node.wide(2)))),
    Known("onnxruntime", ("Slice",),
          "takes an end of 2^31-1 with a negative step for the axis' beginning", where=far_end),
    Known("onnxruntime", ("Col2Im",), "loses blocks with dilations of other than two axes",
          where=lambda node: node.holed() and len(node.get("dilations", ())) != 2),
    Known("onnxruntime", ("ReduceMax", "ReduceMin", "MaxPool", "GlobalMaxPool", "ArgMax", "ArgMin",
                          "TopK", "Hardmax", "Clip", "Sign", "Unique", "NonMaxSuppression"),
          "takes NaN for a number where it compares, so that the order of elements decides", nan),
    Known("onnxruntime", ("ScatterND", "ScatterElements"), "the smaller of NaN and a number is the "
          "number", nan, lambda node: node.get("reduction") in ("min", "max")),
    Known("onnxruntime", ("ReduceLogSumExp", "LogSoftmax"),
          "subtracts the largest, which leaves NaN out", nan),
    Known("onnxruntime", ("Clip",),
          "makes infinities finite where a bound is left out: ONNX's text has it so, its function "
          "and evaluator have not",
          where=lambda node: bool(np.isinf(node.wide()).any())
          and not (node.given(1) and node.given(2))),
    Known("onnxruntime", ("MatMulInteger", "QLinearMatMul"),
          "leaves a product over nothing as it finds the memory",
          where=lambda node: node.operand(0) is not None and not node.wide().size),
    Known("onnxruntime", ("Shrink",), "takes integers and f64 as f32",
          where=lambda node: node.is_f64()
          or (node.of("iu") and bool((np.abs(node.wide()) > 2**24).any()))),
    Known("onnxruntime", ("DFT",), "takes angles as f32 in f64 as well",
          lambda look: near(1e-6)(look) or len(look.case.ops) > 1, Seen.is_f64),
    Known("onnxruntime", ("DFT",), "does not fill up half a spectrum of which bins are missing",
          where=bins_are_missing),
    Known("onnxruntime", ("InstanceNormalization",), "takes x * a + b, which cancels where a group "
          "hardly differs", where=flat_images),
    Known("onnxruntime", ("GRU", "LSTM", "RNN"), "f16 overflows at other places",
          lambda look: low_precision(look) and not all(
              np.isfinite(a).all() for pair in look.pairs() for a in pair)),
    Known("onnxruntime", ("ReduceLogSumExp",), "takes exponentials as integers",
          where=lambda node: node.of("iu")),
    Known("onnxruntime", ("Tan",), "at its poles it magnifies the last bit of an f16 that is the "
          "result of another node", lambda look: low_precision(look) and len(look.case.ops) > 1),
    Known("onnxruntime", ("NonZero",), "gives a scalar one index, where the standard says none",
          lambda look: any(w.shape[:1] == (0,) for w in look.want)),
    # ---- where the standard says nothing --------------------------------------------------------
    Known("onnxruntime evaluator", ("ReduceProd", "ReduceSum", "ReduceL1", "ReduceL2",
                                    "ReduceSumSquare", "ReduceMean", "ReduceLogSumExp"),
          "integers that overflow: the standard does not say how", where=overflows),
    Known("onnxruntime evaluator", ("ReduceMean",),
          "a mean of nothing: the standard says undefined",
          where=lambda node: node.operand(0) is not None and not node.wide().size),
    Known("onnxruntime evaluator", ("ReduceLogSum",),
          "a logarithm that is no integer: the standard does not say which it becomes",
          where=lambda node: node.of("iu")),
    Known("onnxruntime evaluator", ("Cast", "CastLike"),
          "floats that are no integer of the type: the standard says undefined",
          where=no_integer),
    Known("onnxruntime evaluator", ("Pow",),
          "a power that is no integer of the type: the standard says undefined",
          where=power_no_integer),
    Known("onnxruntime evaluator", ("Einsum",),
          "inf * 1 * 0 is NaN or 0 by the order of the factors, which the standard does not say",
          where=lambda node: len(node.proto.input) > 2
          and any(holds_infinity(i)(node) for i in range(len(node.proto.input)))),
    Known("onnxruntime evaluator", ("QuantizeLinear",), "of NaN the standard says nothing",
          where=holds_nan(0)),
    Known("onnxruntime evaluator", ("NonZero",),
          "whether a computed float is 0 hangs on its last bits",
          lambda look: len(look.case.ops) > 1, lambda node: node.of("f")),
    Known("onnxruntime evaluator", ("BitCast",), "a NaN may have any sign and payload",
          where=holds_nan(0)),
    Known("onnxruntime evaluator", ("Dropout",), "the mask that leaves all is 1 from opset 12 on: "
          "before, the standard does not say what it is",
          lambda look: look.opset < 12, lambda node: len(node.proto.output) > 1),
    # ---- our own programs -----------------------------------------------------------------------
    Known("cpu", ("ConvTranspose",),
          "multiplies weights that come at run time by the zeros between elements too, which is "
          "NaN where they are not finite",
          lambda look: not look.is_constant("ConvTranspose", 1), holds_infinity(1)),
)  # fmt: skip

"""Where a peer itself is known to differ from the standard, or where the standard says nothing.

Each row is narrow (op, peer, condition) and has its reason, which is printed whenever it is hit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from taut.ir.op import Array

from .draw import Case

Condition = Callable[["Look"], bool]


@dataclass(frozen=True)
class Look:
    """What a condition may look at: the case, and both results."""

    case: Case
    reason: str
    want: Sequence[Array]
    got: Sequence[Array]

    def nodes(self, op: str) -> list[onnx.NodeProto]:
        return [] if self.case.model is None else [
            n for n in self.case.model.graph.node if n.op_type == op
        ]  # fmt: skip

    def attribute(self, op: str, name: str, default: Any = None) -> Any:
        """The attribute of the first such node."""
        for node in self.nodes(op):
            for a in node.attribute:
                if a.name == name:
                    value = onnx.helper.get_attribute_value(a)
                    return value.decode() if isinstance(value, bytes) else value
        return default

    @property
    def arrays(self) -> dict[str, Array]:
        """Contents of inputs and initializers by name."""
        found = dict(self.case.feeds)
        if self.case.model is not None:
            for t in self.case.model.graph.initializer:
                found[t.name] = onnx.numpy_helper.to_array(t)
        return found

    @property
    def opset(self) -> int:
        assert self.case.model is not None
        return next(o.version for o in self.case.model.opset_import if not o.domain)

    def operand(self, op: str, place: int) -> Array | None:
        for node in self.nodes(op):
            if place < len(node.input):
                return self.arrays.get(node.input[place])
        return None

    def is_constant(self, op: str, place: int) -> bool:
        """Whether the operand of the first such node is an initializer."""
        assert self.case.model is not None
        names = {t.name for t in self.case.model.graph.initializer}
        return any(n.input[place] in names for n in self.nodes(op)[:1])


    def not_finite(self, op: str, place: int) -> bool:
        found = self.operand(op, place)
        return found is None or not np.isfinite(found.astype(np.float64)).all()

    def largest(self) -> float:
        """The largest finite magnitude among float operands."""
        found = [a.astype(np.float64) for a in self.arrays.values() if a.dtype.kind not in "iub"]
        each = [float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in found]
        return max(each, default=0.0)


@dataclass(frozen=True)
class Known:
    """`ops` are ONNX names; any node of one in the model counts."""

    peer: str
    ops: tuple[str, ...]
    why: str
    when: Condition = lambda look: True


def _low_precision(look: Look) -> bool:
    return any(a.dtype.name in ("float16", "bfloat16") for a in (*look.want, *look.got))


def _near(look: Look, atol: float) -> bool:
    """Whether all outputs agree to `atol`, absolutely."""
    with np.errstate(all="ignore"):
        return all(
            a.shape == b.shape
            and np.allclose(a.astype(np.float64), b.astype(np.float64), 1e-4, atol, equal_nan=True)
            for a, b in zip(look.want, look.got)
        )


def _nan(look: Look) -> bool:
    return any(a.dtype.kind not in "iub" and bool(np.isnan(a.astype(np.float64)).any())
               for a in (*look.arrays.values(), *look.want, *look.got))  # fmt: skip


def _tiny(look: Look) -> bool:
    """Whether an operand holds what rounds to zero beside 1."""
    floats = [np.abs(a.astype(np.float64)) for a in look.arrays.values() if a.dtype.kind == "f"]
    return any(bool(((a > 0) & (a < 1e-30)).any()) for a in floats)


def _empty(look: Look) -> bool:
    return any(0 in a.shape for a in look.want)


def _same_with_holes(look: Look) -> bool:
    return any(
        str(look.attribute(op, "auto_pad", "")).startswith("SAME")
        and any(d > 1 for d in look.attribute(op, "dilations", ()))
        for op in ("AveragePool", "LpPool", "MaxPool")
    )


def _same_size(look: Look) -> bool:
    """Whether a resized image has the size that it had."""
    shapes = {a.shape for a in look.arrays.values()}
    return any(w.shape in shapes for w in look.want)


def _far_end(look: Look) -> bool:
    ends, steps = look.operand("Slice", 2), look.operand("Slice", 4)
    return (ends is not None and steps is not None
            and bool((steps < 0).any()) and bool((ends >= 2**31 - 1).any()))  # fmt: skip


KNOWN: tuple[Known, ...] = (
    Known("evaluator", ("Softmax", "LogSoftmax", "Hardmax"),
          "gives models of opsets before 13 the meaning that the op has had since",
          lambda look: look.opset < 13),
    Known("evaluator", ("GRU", "LSTM", "RNN"), "leaves `clip` and `direction` out of account",
          lambda look: any(look.attribute(op, "clip") or look.attribute(op, "direction")
                           for op in ("GRU", "LSTM", "RNN"))),
    Known("evaluator", ("Gelu", "Selu", "Elu", "Mish", "Swish", "HardSwish", "Celu", "Softplus"),
          "computes in f16 and bf16 step by step, where Taut rounds once", _low_precision),
    Known("evaluator", ("HardSwish",), "takes 1/6 as an f32 in f64 as well",
          lambda look: any(a.dtype == np.float64 for a in look.got)),
    Known("evaluator", ("GlobalMaxPool",), "gives images of other than two axes another rank"),
    Known("evaluator", ("Unique",), "unsorted, it takes elements along the first axis",
          lambda look: look.attribute("Unique", "sorted", 1) == 0),
    Known("evaluator", ("Loop", "Scan"), "joins scan outputs of size 0 without their new axis",
          _empty),
    Known("evaluator", ("BatchNormalization",), "before opset 14 takes momentum for epsilon",
          lambda look: look.opset < 14),
    Known("evaluator", ("LRN",), "normalizes only as many channels as there are images"),
    Known("torch", ("HardSwish",), "multiplies before it divides by 6, which overflows sooner",
          lambda look: look.largest() > 5e37),
    Known("onnxruntime", ("Loop",),
          "stops by the body's condition where the loop has no condition operand, which then is "
          "ignored by the standard",
          lambda look: any(len(n.input) > 1 and not n.input[1] for n in look.nodes("Loop"))),
    Known("onnxruntime", ("Elu", "Selu", "Celu"), "subtracts 1 from exp(x), which cancels near 0",
          lambda look: _near(look, 1e-6) or _tiny(look)),
    Known("onnxruntime", ("MeanVarianceNormalization",),
          "takes the variance as a difference of two sums, which can be negative",
          lambda look: any(bool(np.isnan(g).any()) for g in look.got)),
    Known("onnxruntime", ("Upsample", "Resize"), "copies an image whose size does not change",
          _same_size),
    Known("onnxruntime", ("AveragePool", "LpPool", "MaxPool"),
          "leaves dilations out of the pads of SAME", _same_with_holes),
    Known("onnxruntime", ("Sum", "Mean"), "adds in f16, where Taut rounds once", _low_precision),
    Known("onnxruntime", ("Swish", "Sigmoid", "Tanh", "Gelu", "Mish", "Erf"),
          "takes a fraction of two polynomials, right to 1e-6 absolutely",
          lambda look: _near(look, 2e-6)),
    Known("onnxruntime", ("Slice",),
          "takes an end of 2^31-1 with a negative step for the axis' beginning", _far_end),
    Known("onnxruntime", ("Col2Im",), "loses blocks where three axes have dilations",
          lambda look: bool(look.attribute("Col2Im", "dilations"))
          and len(look.attribute("Col2Im", "dilations")) > 2),
    Known("onnxruntime", ("ReduceMax", "ReduceMin", "MaxPool", "GlobalMaxPool", "ArgMax", "ArgMin",
                          "TopK", "Hardmax", "Clip", "Sign", "Unique", "NonMaxSuppression"),
          "takes NaN for a number where it compares, so that the order of elements decides", _nan),
    Known("onnxruntime", ("ReduceLogSumExp",), "subtracts the largest, which leaves NaN out",
          _nan),
    Known("cpu", ("ConvTranspose",),
          "multiplies weights that come at run time by the zeros between elements too, which is "
          "NaN where they are not finite",
          lambda look: not look.is_constant("ConvTranspose", 1)
          and look.not_finite("ConvTranspose", 1)),
    Known("onnxruntime", ("Tan",), "at its poles it magnifies the last bit of an f16 that is the "
          "result of another node", lambda look: _low_precision(look) and len(look.case.ops) > 1),
    Known("onnxruntime", ("NonZero",), "gives a scalar one index, where the standard says none",
          lambda look: any(w.shape[:1] == (0,) for w in look.want)),
    Known("onnxruntime", ("Resize",),
          "rounds a coordinate before it asks whether it lies outside",
          lambda look: look.attribute("Resize", "coordinate_transformation_mode")
          == "tf_crop_and_resize" and look.attribute("Resize", "mode", "nearest") == "nearest"),
)  # fmt: skip


def known_reason(
    case: Case, peer: str, stage: str, reason: str, want: Mapping[str, Array], got: Sequence[Array]
) -> str | None:
    """Why this difference says nothing about Taut, or None."""
    look = Look(case, reason, list(want.values()), got)
    for row in KNOWN:
        if row.peer == peer and any(look.nodes(op) for op in row.ops) and row.when(look):
            return f"{peer}, {'/'.join(row.ops[:3])}: {row.why}"
    return None

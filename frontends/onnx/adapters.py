"""What older opsets say differently, rewritten as the newest one says it.

Each adapter changes a `Call` in place, or returns the call's results where it made them itself.
They run in the order given here, those for which the model's opset is older than `before`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import Abstract, Builder, DType, Graph, ModelError, UnsupportedError, Value, op_class
from ...ir.ops.quantization import QuantizeLinear
from ...ir.standard import dtype_of
from .calls import Call


class Emit:
    """Adds helper nodes for one call, named after it."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __call__(self, op: str, *operands: Value | None, **attributes: Any) -> Value:
        cls = op_class(op)
        return self.graph.add(cls(**attributes), *operands, name=f"{self.name}/{cls.name}")[0]

    def constant(self, value: Any, suffix: str) -> Value:
        return self.graph.constant(value, f"{self.name}/{suffix}")

    def ints(self, values: Sequence[int], suffix: str) -> Value:
        return self.constant(np.array(values, np.int64), suffix)

    def like(self, value: float, x: Value, suffix: str) -> Value:
        """A scalar of x's element type."""
        return self.constant(np.array(value, x.type.dtype.numpy), suffix)


Adapter = Callable[[Emit, Call], Sequence[Value] | None]
ADAPTERS: dict[str, list[tuple[int, Adapter]]] = {}
ALWAYS = 1 << 30
NOW = {"Upsample": "Resize", "Scatter": "ScatterElements", "Dropout": "Identity"}
"""Ops that adapters turn into another."""


def adapts(*ops: str, before: int = ALWAYS) -> Callable[[Adapter], Adapter]:
    def add(f: Adapter) -> Adapter:
        for op in ops:
            ADAPTERS.setdefault(op, []).append((before, f))
        return f

    return add


def _rank(x: Value) -> int:
    if x.shape is None:
        raise UnsupportedError("an operand of unknown rank is not supported in this opset")
    return len(x.shape)


# ---- attributes that became operands -------------------------------------------------------------


def _moved(call: Call, emit: Emit, attribute: str, position: int) -> None:
    """An attribute of integers becomes an operand; an empty one is left out."""
    values = call.attributes.pop(attribute, ())
    if values != ():
        call.set_operand(position, emit.ints(values, attribute))


@adapts("Squeeze", "Unsqueeze", "ReduceSum", before=13)
@adapts(*(f"Reduce{r}" for r in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod",
                                 "SumSquare")), before=18)  # fmt: skip
def axes_operand(emit: Emit, call: Call) -> None:
    _moved(call, emit, "axes", 1)


@adapts("Split", before=13)
def split_operand(emit: Emit, call: Call) -> None:
    _moved(call, emit, "split", 1)


@adapts("Split")
def split_count(emit: Emit, call: Call) -> None:
    """Before opset 18 the number of outputs said how many equal parts there are."""
    if call.operand(1) is None and "num_outputs" not in call.attributes:
        call.attributes["num_outputs"] = len(call.outputs)


@adapts("Slice", before=10)
def slice_operands(emit: Emit, call: Call) -> None:
    for position, name in enumerate(("starts", "ends", "axes"), 1):
        if name != "axes" and name not in call.attributes:
            raise ModelError(f"attribute {name} is missing")
        if name in call.attributes:
            values = call.attributes.pop(name)
            call.set_operand(position, emit.ints(values, name))


@adapts("TopK", before=10)
def topk_operand(emit: Emit, call: Call) -> None:
    if not isinstance(call.attributes.get("k"), int):
        raise ModelError("attribute k is missing")
    call.set_operand(1, emit.ints([call.attributes.pop("k")], "k"))


@adapts("Pad", before=11)
def pad_operands(emit: Emit, call: Call) -> None:
    x = call.required(0)
    if "pads" not in call.attributes:
        raise ModelError("attribute pads is missing")
    call.set_operand(1, emit.ints(call.attributes.pop("pads"), "pads"))
    value = call.attributes.pop("value", 0.0)
    if value != 0:
        call.set_operand(2, emit.like(value, x, "value"))


@adapts("Clip", before=11)
def clip_operands(emit: Emit, call: Call) -> None:
    x = call.required(0)
    largest = float(np.finfo(np.float32).max)
    for position, name in ((1, "min"), (2, "max")):
        value = call.attributes.pop(name, None)
        if value is not None and abs(value) < largest:
            call.set_operand(position, emit.like(value, x, name))


# ---- broadcasting of opset 6 ---------------------------------------------------------------------


@adapts("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Less", "Greater", "Equal", before=7)
def broadcast_attribute(emit: Emit, call: Call) -> None:
    """With broadcast=1, b's axes are those of a from `axis` on (its last ones by default)."""
    wanted, axis = call.attributes.pop("broadcast", 0), call.attributes.pop("axis", None)
    a, b = call.required(0), call.required(1)
    if not wanted or axis is None or not b.shape:
        return
    missing = _rank(a) - axis % max(_rank(a), 1) - _rank(b)
    if missing > 0:
        axes = emit.ints([_rank(b) + i for i in range(missing)], "axes")
        call.set_operand(1, emit("unsqueeze", b, axes))


@adapts("Gemm", before=7)
def gemm_broadcast(emit: Emit, call: Call) -> None:
    call.attributes.pop("broadcast", None)


@adapts("PRelu", before=7)
def prelu_channels(emit: Emit, call: Call) -> None:
    """A vector of slopes was one for each channel."""
    x, slope = call.required(0), call.required(1)
    if slope.shape is not None and len(slope.shape) == 1 and slope.shape != (1,) and _rank(x) > 2:
        axes = emit.ints(list(range(1, _rank(x) - 1)), "axes")
        call.set_operand(1, emit("unsqueeze", slope, axes))


# ---- changed meaning -----------------------------------------------------------------------------


@adapts("Softmax", "LogSoftmax", "Hardmax", before=13)
def flattened(emit: Emit, call: Call) -> Sequence[Value] | None:
    """Over all axes from `axis` on (default 1) as one, where newer ones mean a single axis."""
    x = call.required(0)
    axis, rank = call.attributes.pop("axis", 1), _rank(x)
    if not -rank <= axis <= rank:
        raise ModelError(f"axis {axis} is out of range for rank {rank}")
    axis = axis + rank if axis < 0 else axis
    if axis == rank - 1:
        call.attributes["axis"] = -1
        return None
    flat = emit("flatten", x, axis=axis)
    made = emit({"Softmax": "softmax", "LogSoftmax": "log_softmax"}.get(call.op, "hardmax"), flat)
    return [emit("reshape", made, emit("shape", x))]


@adapts("BatchNormalization", before=14)
def inference_only(emit: Emit, call: Call) -> None:
    """Older opsets train where they name more than one output; `is_test` of opset 6 says it too."""
    call.attributes.pop("is_test", None)
    if call.attributes.pop("spatial", 1) != 1:
        raise UnsupportedError("batch normalization with spatial=0 is not supported")
    if call.outputs_used() > 1:
        raise UnsupportedError("batch normalization in training mode is not supported",
                               hint="export the model in evaluation mode")  # fmt: skip


@adapts("Dropout")
def no_dropout(emit: Emit, call: Call) -> Sequence[Value] | None:
    """The identity, outside of training; the mask is all true."""
    x, training = call.required(0), call.operand(2)
    call.attributes.pop("is_test", None)
    if training is not None and training.array is None:
        return None  # known when it runs
    if training is not None and training.array is not None and training.array.any():
        ratio = call.operand(1)
        if ratio is None or ratio.array is None or ratio.array.any():
            raise UnsupportedError("dropout in training mode is not supported",
                                   hint="export the model in evaluation mode")  # fmt: skip
    made = [emit.graph.add(op_class("identity")(), x, name=call.name)[0]]
    if call.outputs_used() > 1:
        dtype = DType.bool if call.version >= 10 else x.type.dtype
        mask = np.ones(1, dtype.numpy)
        fill: Any = op_class("constant_of_shape")
        made.append(emit.graph.add(fill(value=mask), emit("shape", x), name=call.outputs[1])[0])
    return made


@adapts("Upsample")
def upsample(emit: Emit, call: Call) -> None:
    if call.version < 9:
        scales = call.attributes.pop("scales", None)
        if not isinstance(scales, tuple):
            raise ModelError("attribute scales is missing")
        call.set_operand(1, emit.constant(np.array(scales, np.float32), "scales"))
    call.op, call.version = "Resize", 10


@adapts("Upsample", "Resize", before=11)
def asymmetric(emit: Emit, call: Call) -> None:
    """Output pixel i came from input pixel floor(i / scale)."""
    call.inputs = [call.required(0), None, call.required(1)]
    call.attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    call.version = 13


@adapts("Resize")
def empty_operands(emit: Emit, call: Call) -> None:
    """Exporters write an empty constant for an operand that is left out."""
    for i in range(1, len(call.inputs)):
        v = call.inputs[i]
        if v is not None and v.shape == (0,):
            call.inputs[i] = None


@adapts("Scatter", before=11)
def scatter(emit: Emit, call: Call) -> None:
    call.op = "ScatterElements"
    call.version = 11


@adapts("RoiAlign", before=16)
def roi_align(emit: Emit, call: Call) -> None:
    call.attributes["coordinate_transformation_mode"] = "output_half_pixel"
    call.version = 16


@adapts("GridSample", before=20)
def grid_sample(emit: Emit, call: Call) -> None:
    modes = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    mode = call.attributes.get("mode", "bilinear")
    if mode not in modes:
        raise ModelError(f"mode {mode!a} is none of {', '.join(modes)}")
    call.attributes["mode"] = modes[mode]


@adapts("DFT", before=20)
def dft_axis(emit: Emit, call: Call) -> None:
    axis = call.attributes.pop("axis", 1)
    call.set_operand(2, emit.constant(np.array(axis, np.int64), "axis"))


@adapts("GroupNormalization", before=21)
def group_vectors(emit: Emit, call: Call) -> None:
    """Opset 18 had a scale and a bias for each group, newer ones for each channel."""
    x = call.required(0)
    groups = call.attributes.get("num_groups", 0)
    channels = x.shape[1] if x.shape is not None and len(x.shape) > 1 else None
    if not isinstance(channels, int) or not isinstance(groups, int) or groups < 1:
        raise UnsupportedError("group normalization of opset 18 needs a known number of channels")
    for position in (1, 2):
        vector = call.required(position)
        column = emit("unsqueeze", vector, emit.ints([1], "axes"))
        wide = emit("expand", column, emit.ints([groups, channels // groups], "shape"))
        call.set_operand(position, emit("reshape", wide, emit.ints([channels], "channels")))


@adapts("LSTM", "GRU", "RNN", before=7)
def output_sequence(emit: Emit, call: Call) -> None:
    call.attributes.pop("output_sequence", None)


# ---- the same in every opset ---------------------------------------------------------------------


@adapts("Conv", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool")
def explicit_pads(emit: Emit, call: Call) -> None:
    """auto_pad as explicit pads, where the sizes are known."""
    mode = call.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID" and not any(call.attributes.get("pads", ())):
        call.attributes.pop("pads", None)
        call.attributes["auto_pad"] = "NOTSET"
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return
    x = call.required(0)
    weight = call.operand(3 if call.op == "QLinearConv" else 1)
    kernel = call.attributes.get("kernel_shape", ())
    if not kernel and weight is not None and weight.shape is not None:
        kernel = weight.shape[2:]
    sizes = None if x.shape is None else x.shape[2:]
    if not kernel or sizes is None or len(sizes) != len(kernel):
        return
    ones = (1,) * len(kernel)
    strides = call.attributes.get("strides", ones) or ones
    dilations = call.attributes.get("dilations", ones) or ones
    if not len(kernel) == len(strides) == len(dilations):
        return  # the declaration refuses it
    begin: list[int] = []
    end: list[int] = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations):
        if not isinstance(n, int) or not isinstance(k, int) or s < 1:
            return
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    call.attributes |= {"pads": (*begin, *end), "auto_pad": "NOTSET"}


@adapts("QuantizeLinear")
def divided(emit: Emit, call: Call) -> None:
    """Ours divides in single precision, as the standard's did; since opset 23 that is done in the
    scale's type or in `precision`. Another type than ours is a division of its own before it."""
    given = call.attributes.pop("precision", None)
    x, scale = call.required(0), call.required(1)
    ours = QuantizeLinear.divides_in(x.type.dtype)
    theirs = dtype_of(given) if given else (scale.type.dtype if call.version >= 23 else ours)
    if theirs is ours or (not given and theirs.is_minifloat):  # nothing is calculated in those
        return
    if not theirs.is_float:
        raise ModelError(f"a division in {theirs.value} is none of floats")
    if not scale.type.is_static:
        raise UnsupportedError(f"a scale of unknown shape that divides in {theirs.value}")
    b = Builder(emit.graph, prefix=f"{emit.name}/")
    factor = b.cast(scale, to=theirs)
    layout = QuantizeLinear(axis=call.attributes.get("axis", 1),
                            block_size=call.attributes.get("block_size", 0))  # fmt: skip
    known = None if scale.array is None else scale.array.astype(theirs.numpy)
    layout.check_layout(Abstract(x.type), Abstract(factor.type, known), None)
    quotient = b.div(b.cast(x, to=theirs), layout.spread_value(b, factor, x))
    kind = QuantizeLinear.divides_in(theirs)
    call.set_operand(0, b.cast(quotient, to=kind))
    call.set_operand(1, emit.constant(np.ones(scale.type.static_shape, kind.numpy), "unit"))

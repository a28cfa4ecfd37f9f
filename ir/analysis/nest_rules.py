"""How ops are read in a loop nest (see `nest`): one rule for each kind of op.

softmax(x)   m = max x;  e = exp(x - m);  e * (1 / sum e)
layer_norm   m = sum x / n;  c = x - m;  c * (1 / sqrt(sum c^2 / n + epsilon)) * scale + bias
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..affine import ZERO
from ..graph import Node, Value
from ..op import Op, all_ops
from ..ops.elementwise import Add, Div, Max, Min, Mul, Sub
from ..ops.unary import Abs, Exp, Log, Reciprocal, Sqrt
from ..types import DType
from .index import Index, NotNest, broadcasted
from .moved import MOVED, moved
from .nest import RULES, Expr, Tracer, rule
from .pointwise import operand_kinds

WIDE = (DType.f32, DType.f64)

rule(*(c.name for c in MOVED))(moved)


# ---- element-wise ------------------------------------------------------------------------------


def elementwise(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    """The op itself, over operands read where it is read."""
    shape = t.shape(node[0])
    args = [t.read(v, broadcasted(index, t.shape(v), shape))
            for v in t.operands(node) if v is not None]  # fmt: skip
    return t.apply(node.op, *args, dtype=node.type.dtype)


OTHERS = frozenset(
    ("clip", "pow", "cast_like", "identity", "dropout", "mod", "bit_shift", "mul_integer")
)
POINTWISE = (
    "max", "min", "sum",
    *(c.name for c in all_ops() if operand_kinds(c) is not None and c.name not in OTHERS),
)  # fmt: skip
rule(*POINTWISE)(elementwise)


@rule("clip")
def _clip(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    """min(max(x, low), high)"""
    x, low, high = [*t.operands(node), None, None][:3]
    made = t.read(x, index)
    for bound, op in ((low, Max()), (high, Min())):
        if bound is not None:
            made = t.apply(op, made, t.read(bound, (ZERO,) * len(t.shape(bound))))
    return made


@rule("pow")
def _pow(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    """x^2 is x * x"""
    x, exponent = t.operands(node)
    assert x is not None and exponent is not None
    known = exponent.array
    if known is not None and known.size == 1 and float(known.reshape(())) == 2.0:
        v = t.read(x, broadcasted(index, t.shape(x), t.shape(node[0])))
        return t.apply(Mul(), v, v)
    return elementwise(t, node, index, result)


@rule("batch_normalization")
def _batch_normalization(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    """x * factor + (bias - mean * factor), factor = scale / sqrt(var + epsilon); where that may be
    infinite, (x - mean) * factor + bias"""
    op: Any = node.op
    x, *rest = t.operands(node)
    if op.training_mode or node.type.dtype not in WIDE or len(index) < 2:
        raise NotNest("a batch normalization that is trained")
    scale, bias, mean, var = (t.read(v, (index[1],)) for v in rest)
    factor = t.apply(Mul(), scale, _inverse_root(t, var, op.epsilon))
    if not _has_finite_factor(rest[0], rest[3], op.epsilon):
        centred = t.apply(Sub(), t.read(x, index), mean)
        return t.apply(Add(), t.apply(Mul(), centred, factor), bias)
    shift = t.apply(Sub(), bias, t.apply(Mul(), mean, factor))
    return t.apply(Add(), t.apply(Mul(), t.read(x, index), factor), shift)


def _has_finite_factor(scale: Value | None, var: Value | None, epsilon: float) -> bool:
    """Whether scale / sqrt(var + epsilon) is known to be finite, or NaN."""
    if scale is None or var is None or scale.array is None or var.array is None:
        return False
    with np.errstate(all="ignore"):
        return not np.isinf(scale.array / np.sqrt(var.array + epsilon)).any()


def _inverse_root(t: Tracer, x: Expr, epsilon: float) -> Expr:
    return t.apply(Reciprocal(), t.apply(Sqrt(), t.apply(Add(), x, t.number(epsilon, x.dtype))))


@rule("quantize_linear", "dequantize_linear")
def _quantization(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    """The op with one scale and zero point, or those of an axis."""
    op: Any = node.op
    x, scale, zero = [*t.operands(node), None][:3]
    assert scale is not None
    if op.block_size:
        raise NotNest("scales by the block")
    single = not t.shape(scale) or t.shape(scale) == (1,)
    at = (ZERO,) * len(t.shape(scale)) if single else (index[op.axis % len(index)],)
    args = [t.read(x, index), t.read(scale, at)]
    if zero is not None:
        args.append(t.read(zero, (ZERO,) * len(t.shape(zero)) if _one(t, zero) else at))
    return t.apply(op, *args, dtype=node.type.dtype)


def _one(t: Tracer, value: Value) -> bool:
    return all(n == 1 for n in t.shape(value))


# ---- reductions --------------------------------------------------------------------------------


def _kept(t: Tracer, node: Node, x: Value, gone: Sequence[int], index: Index) -> Index:
    """The index of a reduction's operand, with nothing yet at the places `gone`."""
    rank = len(t.shape(x))
    if len(index) == rank:
        return index
    rest = iter(index)
    return tuple(ZERO if k in gone else next(rest) for k in range(rank))


def _folded(t: Tracer, how: str, x: Value, index: Index, gone: Sequence[int]) -> Expr:
    full, over = t.reduced(index, t.shape(x), gone)
    return t.fold(how, t.read(x, full), over)


SIMPLE = {"reduce_sum": "sum", "reduce_prod": "prod", "reduce_max": "max", "reduce_min": "min"}
FINISHED = ("reduce_mean", "reduce_l1", "reduce_l2", "reduce_sum_square", "reduce_log_sum")


@rule(*SIMPLE, *FINISHED)
def _reduction(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    op: Any = node.op
    x, axes = [*t.operands(node), None][:2]
    assert x is not None
    given = () if axes is None else axes.abstract.as_ints()
    dtype = node.type.dtype
    if given is None:
        raise NotNest("a reduction over axes that are not known")
    rounds = op.name in ("reduce_mean", "reduce_l2", "reduce_log_sum")
    if dtype is DType.bool or dtype is DType.u64 or (rounds and dtype not in WIDE):
        raise NotNest(f"{op.name} of {dtype.value}")
    gone = op.over(given, len(t.shape(x)))
    if not gone:
        raise NotNest("a reduction over no axes")
    full, over = t.reduced(_kept(t, node, x, gone, index), t.shape(x), gone)
    v = t.read(x, full)
    if op.name in SIMPLE:
        return t.fold(SIMPLE[op.name], v, over)
    if op.name == "reduce_mean":
        return _mean(t, v, over)
    if op.name == "reduce_l1":
        return t.fold("sum", t.apply(Abs(), v), over)
    if op.name == "reduce_log_sum":
        return t.apply(Log(), t.fold("sum", v, over))
    square = t.fold("sum", t.apply(Mul(), v, v), over)
    return square if op.name == "reduce_sum_square" else t.apply(Sqrt(), square)


def _mean(t: Tracer, x: Expr, over: tuple[int, ...]) -> Expr:
    return t.apply(Div(), t.fold("sum", x, over), t.count(over, x.dtype)) if over else x


@rule("global_average_pool", "global_max_pool")
def _global_pool(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    x = t.operands(node)[0]
    assert x is not None
    gone = range(2, len(t.shape(x)))
    _float(node)
    full, over = t.reduced(index, t.shape(x), gone)
    v = t.read(x, full)
    return t.fold("max", v, over) if node.op.name == "global_max_pool" else _mean(t, v, over)


def _float(node: Node) -> None:
    if node.type.dtype not in WIDE:
        raise NotNest(f"{node.op.name} of {node.type.dtype.value}")


@rule("softmax", "log_softmax")
def _softmax(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    op: Any = node.op
    x = t.operands(node)[0]
    assert x is not None
    _float(node)
    gone = (op.axis % len(index),)
    full, over = t.reduced(index, t.shape(x), gone)
    top = t.fold("max", t.read(x, full), over)

    def shifted(at: Index) -> Expr:
        return t.apply(Sub(), t.read(x, at), top)

    total = t.fold("sum", t.apply(Exp(), shifted(full)), over)
    if op.name == "log_softmax":
        return t.apply(Sub(), shifted(index), t.apply(Log(), total))
    return t.apply(Mul(), t.apply(Exp(), shifted(index)), t.apply(Reciprocal(), total))


# ---- normalizations ----------------------------------------------------------------------------


def _normalized(
    t: Tracer, index: Index, full: Index, over: tuple[int, ...],
    x: Callable[[Index], Expr], epsilon: float, centred: bool,
) -> Expr:  # fmt: skip
    """(x - mean) / sqrt(variance + epsilon); uncentred, x / sqrt(mean of x^2 + epsilon)."""
    here, each = x(index), x(full)
    if centred:
        mean = _mean(t, each, over)
        here, each = t.apply(Sub(), here, mean), t.apply(Sub(), each, mean)
    variance = _mean(t, t.apply(Mul(), each, each), over)
    return t.apply(Mul(), here, _inverse_root(t, variance, epsilon))


@rule("layer_normalization", "rms_normalization")
def _layer_normalization(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    op: Any = node.op
    x, *affine = t.operands(node)
    assert x is not None
    shape = t.shape(x)
    _float(node)
    if len(node.results) > 1 or any(v and v.type.dtype is not x.type.dtype for v in affine):
        raise NotNest("statistics are wanted too, or types differ")
    gone = range(op.axis % len(shape), len(shape))
    full, over = t.reduced(index, shape, gone)
    made = _normalized(t, index, full, over, lambda at: t.read(x, at), op.epsilon,
                       op.name == "layer_normalization")  # fmt: skip
    for v, join in zip(affine, (Mul(), Add())):
        if v is not None:
            made = t.apply(join, made, t.read(v, broadcasted(index, t.shape(v), shape)))
    return made


@rule("instance_normalization")
def _instance_normalization(t: Tracer, node: Node, index: Index, result: int) -> Expr:
    op: Any = node.op
    x, scale, bias = t.operands(node)
    assert x is not None
    _float(node)
    full, over = t.reduced(index, t.shape(x), range(2, len(index)))
    made = _normalized(t, index, full, over, lambda at: t.read(x, at), op.epsilon, True)
    made = t.apply(Mul(), made, t.read(scale, (index[1],)))
    return t.apply(Add(), made, t.read(bias, (index[1],)))


def computes(op: Op) -> bool:
    """Whether an op has a rule and does more than move elements."""
    return op.name in RULES and not isinstance(op, MOVED)

"""Products whose left operand is quantized while the program runs: rows, then scaled products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir import DType, Node, Value
from ....ir.ops.dynamic import QuantizeRows
from ....ir.ops.epilogue import activation_op
from ....ir.ops.quantization import NOT_FINITE
from ...schedule.groups import BYTES
from ...schedule.layout import Tensor
from ...schedule.steps import Step, Word, record_words
from ...schedule.templates import TEMPLATES
from ..kernels.product_record import Form
from ..kernels.rows import RowsRecord, rows_kernel
from . import generic
from .endings import ending_of
from .generic import Leaf
from .lowering import Lowering
from .matmul import Target, residual_rows
from .matmul_integer import Zero, sums, zero_of
from .products import Product
from .registry import lowers


@lowers("quantize_rows")
def quantize_rows(low: Lowering, node: Node) -> bool:
    """Each row by the vector kernel."""
    how = "symmetric" if node.op.symmetric else "asymmetric"  # type: ignore[attr-defined]
    *lead, _ = low.shape(low.graph.operands(node)[0])  # type: ignore[arg-type]
    return _by_rows(low, node, math.prod(lead), how)


@lowers("dynamic_quantize_linear")
def dynamic_quantize(low: Lowering, node: Node) -> bool:
    """The whole tensor as one row."""
    return _by_rows(low, node, 1, "onnx")


def _by_rows(low: Lowering, node: Node, count: int, how: str) -> bool:
    value = low.graph.operand(node, 0)
    assert value is not None
    if value.type.size == 0:
        return False
    width = value.type.size // count
    x = low.tensor(value)
    flat = x.reshape((count, width))
    if flat is None or (width > 1 and flat.strides[1] != flat.item):
        copy = low.new(x.dtype, x.shape)
        low.copy(x, copy, (node.name,))
        flat = copy.reshape((count, width))
        assert flat is not None
    out, scale, zero = (low.new(t.dtype, t.static_shape) for t in node.types)
    low.tensors |= {node[0]: out, node[1]: scale, node[2]: zero}
    per = count if low.threads == 1 else -(-count // (4 * low.threads))
    fault: dict[str, Word] = {}
    if how == "onnx":
        fault = {"fault": low.fault(f"node {node.name!r}: {NOT_FINITE}")}
    words = record_words(RowsRecord, {
        **fault, "chunks": -(-count // per), "rows": count, "per": per, "width": width,
        "source": flat.ref, "source_row": flat.strides[0], "target": out.ref, "target_row": width,
        "scale": scale.ref, "zero": zero.ref,
    })  # fmt: skip
    kernel = rows_kernel(how)
    writes = [t.buffer for t in (out, scale, zero)]
    low.emit(Step(kernel, words, [flat.buffer], writes, (node.name,)))
    return True


@lowers("scaled_mat_mul")
def scaled_by_map(low: Lowering, node: Node) -> bool:
    """The accumulators by the tile kernel, the rest by one map: where columns' scales or the bias
    are computed (see `scaled`)."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias, residual = [
        *low.graph.operands(node), *[None] * 4
    ][:8]  # fmt: skip
    assert a is not None and b is not None and a_scale is not None and b_scale is not None
    ending = activation(node)
    if node.type.size == 0 or node.type.rank > 5 or low.shape(a)[-1] == 0 or ending is None:
        return False
    if a.type.dtype not in BYTES or b.type.dtype not in BYTES:
        return False
    nodes = (node.name,)
    acc = low.new(DType.i32, node.type.static_shape)
    sums(low, Product(Form("s32"), nodes=nodes), a, b, a_zero, b_zero, acc)
    leaves = [Leaf(acc)]

    def leaf(t: Tensor) -> str:
        leaves.append(Leaf(t))
        return f"a{len(leaves) - 1}"

    text = f"f32(a0) * {leaf(along(low, b_scale, -1))} * {leaf(along(low, a_scale, -2))}"
    for v in (bias, residual):
        if v is not None:
            text = f"({text} + {leaf(low.tensor(v))})"
    formula, scalars = ending
    text = formula.format(text, *(leaf(low.place(np.asarray(v, k.numpy))) for v, k in scalars))
    out = low.result(node[0], exact=True)
    low.emit(generic.map_step(text, "scale", out, leaves, low.threads, nodes))
    return True


@lowers("scaled_mat_mul", priority=1)
def scaled(low: Lowering, node: Node) -> bool:
    """One tile kernel: activation((f32(acc) * column scale) * row scale + bias + residual)."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias, residual = [
        *low.graph.operands(node), *[None] * 4
    ][:8]  # fmt: skip
    assert a is not None and b is not None and a_scale is not None
    n, factors, offset = low.shape(b)[-1], low.array(b_scale), low.array(bias)
    ending = ending_of(node.op)
    if node.type.size == 0 or low.shape(a)[-1] == 0 or ending is None or factors is None:
        return False
    if a.type.dtype not in BYTES or b.type.dtype not in BYTES or factors.size not in (1, n):
        return False
    if bias is not None and (offset is None or offset.size not in (1, n)):
        return False
    nodes = (node.name,)
    target = Target.of(low, node[0], nodes)
    form = Form("f32", residual is not None, ending.activation, row_scaled=True)
    p = Product(form, scale=factors, nodes=nodes)
    p.fields = {"low": ending.low, "high": ending.high}
    p.offset = np.zeros(1, np.float32) if offset is None else offset
    if residual is not None:
        p.residual = residual_rows(low, target.made, n, [(low.tensor(residual), 1.0)], nodes)
    scales, step = _scales(low, a_scale, low.shape(a)[:-1], nodes)
    p.fields |= {"row_scale": scales.ref, "row_scale_step": step}
    p.reads.append(scales)
    sums(low, p, a, b, _fixed_zero(a_zero), b_zero, target.made)
    ending.by_map(low, target.made, nodes)
    target.finish()
    return True


def _scales(
    low: Lowering, value: Value, shape: tuple[int, ...], nodes: tuple[str, ...]
) -> tuple[Tensor, int]:
    """Scales of rows as f32 [shape] (or one for all), and the bytes from one to the next."""
    t = zero_of(low, value, -2)
    if t.size == 1:
        return t, 0
    if t.shape == shape and t.is_row_major:
        return t, 4
    made = low.new(DType.f32, shape)
    low.copy(t.broadcast(shape), made, nodes)
    return made, 4


def _fixed_zero(value: Value | None) -> Zero:
    """A zero point; symmetric rows' are known to be 128 though they are computed."""
    op: Any = None if value is None else value.node.op
    if op is not None and isinstance(op, QuantizeRows) and op.symmetric:
        return np.full(1, 128, np.uint8)
    return value


def activation(node: Node) -> tuple[str, list[tuple[float, DType]]] | None:
    """The activation of an op's own result as a formula of {0} and scalars, or None."""
    op: Any = node.op
    if not op.activation:
        return "{0}", []
    if op.activation == "clip":
        return "most(least({0}, {1}), {2})", [(p, DType.f32) for p in op.params]
    made = activation_op(op.activation, op.params)
    template = None if made is None else TEMPLATES.get(made.name)
    return template(made, [DType.f32], DType.f32) if template and made else None


def along(low: Lowering, value: Value, axis: int) -> Tensor:
    """A scale or zero point as it broadcasts to the product."""
    t = low.tensor(value)
    if axis == -2 and len(t.shape) == 1 and t.shape[0] > 1:
        return t.view((t.shape[0], 1), (t.strides[0], 0))
    return t

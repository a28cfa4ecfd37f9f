"""Products whose left operand is quantized while the program runs: rows, then scaled products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import Array, DType, Node, Value
from ...ir.ops.epilogue import activation_op
from . import generic
from .generic import Leaf
from .images import Geometry, as_pixels
from .kernels.rows import RowsRecord, rows_kernel
from .layout import Tensor
from .lower import GRANULE, Lowering, lowers
from .lower_axis import product
from .lower_conv import Layer, emit_layer, rows
from .lower_elementwise import TEMPLATES
from .steps import Step, record_words


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
    words = record_words(RowsRecord, {
        "chunks": -(-count // per), "rows": count, "per": per, "width": width,
        "source": flat.ref, "source_row": flat.strides[0], "target": out.ref, "target_row": width,
        "scale": scale.ref, "zero": zero.ref,
    })  # fmt: skip
    kernel = rows_kernel(how)
    writes = [t.buffer for t in (out, scale, zero)]
    low.emit(Step(kernel, words, [flat.buffer], writes, (node.name,)))
    return True


@lowers("scaled_mat_mul")
def scaled_mat_mul(low: Lowering, node: Node) -> bool:
    """The accumulators by the tile kernel (or the general one), the rest by one map."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias, residual = [
        *low.graph.operands(node), *[None] * 4
    ][:8]  # fmt: skip
    assert a is not None and b is not None and a_scale is not None and b_scale is not None
    ending = activation(node)
    if node.type.size == 0 or node.type.rank > 5 or low.shape(a)[-1] == 0 or ending is None:
        return False
    zero = low.array(a_zero)
    late = a_zero is not None and (zero is None or zero.size != 1)
    weights = _weights(low, node, b)
    nodes = (node.name,)
    if weights is not None:
        at = 0 if zero is None or late else int(zero.reshape(-1)[0])
        acc = _accumulators(low, node, a, weights, at)
    else:
        found = _computed(low, node, [(a, a_zero, -2), (b, b_zero, -1)])
        if found is None:
            return False
        acc, late = found, False
    leaves, text = [Leaf(acc)], "a0"

    def leaf(t: Tensor) -> str:
        leaves.append(Leaf(t))
        return f"a{len(leaves) - 1}"

    if late:
        assert weights is not None and a_zero is not None
        sums = low.place(weights.sum(0, dtype=np.int32))
        text = f"i32(a0 - i32({leaf(along(low, a_zero, -2))}) * {leaf(sums)})"
    text = f"f32({text}) * {leaf(along(low, b_scale, -1))} * {leaf(along(low, a_scale, -2))}"
    for v in (bias, residual):
        if v is not None:
            text = f"({text} + {leaf(low.tensor(v))})"
    formula, scalars = ending
    text = formula.format(text, *(leaf(low.place(np.asarray(v, k.numpy))) for v, k in scalars))
    out = low.result(node[0], exact=True)
    low.emit(generic.map_step(text, "scale", out, leaves, low.threads, nodes))
    return True


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


def _weights(low: Lowering, node: Node, b: Value) -> Array | None:
    """b - b_zero_point as s8 [k, n], where b is known and the tile kernels take it."""
    operands = [*low.graph.operands(node), None, None][:6]
    weights, zero = low.array(b), low.array(operands[5])
    if weights is None or weights.ndim != 2 or (operands[5] is not None and zero is None):
        return None
    a = operands[0]
    assert a is not None
    return shifted(weights, zero) if a.type.dtype in (DType.u8, DType.i8) else None


def shifted(weights: Array, zero: Array | None) -> Array | None:
    """weights - zero as s8, or None where that does not fit."""
    offset = np.zeros((), np.int16) if zero is None else zero.astype(np.int16)
    wide = weights.astype(np.int16) - offset.reshape(() if offset.size == 1 else -1)
    if wide.min(initial=0) < -128 or wide.max(initial=0) > 127:
        return None
    return wide.astype(np.int8)


def _accumulators(low: Lowering, node: Node, a: Value, weights: Array, zero: int) -> Tensor:
    """(a - zero) @ weights as int32."""
    unsigned = low.tensor(a)
    if a.type.dtype is DType.i8:
        unsigned, zero = low.new(DType.u8, low.shape(a)), zero + 128
        step = generic.map_step("u8(i32(a0) ^ 128)", "unsign", unsigned, [Leaf(low.tensor(a))],
                                low.threads, (node.name,))  # fmt: skip
        low.emit(step)
    start = (-zero * weights.sum(0, dtype=np.int64)).astype(np.int32)
    turned = np.ascontiguousarray(weights.T)[:, None, None]
    layer = Layer(turned, start, 1, "s32", nodes=(node.name,))
    source = rows(low, unsigned)
    target = low.new(DType.i32, node.type.static_shape, granule=GRANULE)
    one = (1, 1)
    g = Geometry(one, one, one, (0, 0), (0, 0), (1, source.shape[3]))
    emit_layer(low, layer, source, as_pixels(target), g)
    return target


def _computed(
    low: Lowering, node: Node, sides: list[tuple[Value, Value | None, int]]
) -> Tensor | None:
    """The accumulators of two computed operands."""
    made = []
    for value, zero, axis in sides:
        wide = low.new(DType.i32, low.shape(value))
        leaves, text = [Leaf(low.tensor(value))], "i32(a0)"
        if zero is not None:
            leaves.append(Leaf(along(low, zero, axis)))
            text = "i32(i32(a0) - i32(a1))"
        low.emit(generic.map_step(text, "shift", wide, leaves, low.threads, (node.name,)))
        made.append(wide)
    out = low.new(DType.i32, node.type.static_shape)
    return out if product(low, made[0], made[1], out, (node.name,)) else None

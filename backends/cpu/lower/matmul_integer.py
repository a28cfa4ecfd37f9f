"""8-bit matrix products: sums in int32, then whatever the group's ending makes of them.

The tile multiplies u8 by s8, so operands are seen as a' = a + A and b' = b + B, with constants A
and B in the bytes' own arithmetic. With the zero points za' = za + A and zb' = zb + B,

    sum((a - za)(b - zb)) = sum(a' b') + za'[m] * (k zb[n] - sum_k b) - zb'[n] * sum_k a'

so the corrections are products of one number of the row and one of the column. Of known numbers
they are part of the bias.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ....ir import Array, Builder, DType, Node, Value
from ...schedule.groups import BYTES
from ...schedule.layout import Tensor, round_up
from ..kernels import conv as gemm
from ..kernels.product_record import Form
from . import generic
from .conv import Layer
from .fusion import emit_body
from .generic import Leaf
from .lowering import Lowering
from .matmul import Target
from .products import Product, dense_rows, emit_product, known_columns, packed_columns
from .registry import lowers

Zero = Value | Array | None  # a zero point: an operand, one known number, or 0


def as_u8(low: Lowering, t: Tensor, nodes: tuple[str, ...]) -> Tensor:
    """An i8 matrix with 128 added; a u8 one as it is."""
    if t.dtype is DType.u8:
        return t
    made = low.new(DType.u8, t.shape)
    text = "u8(i32(a0) ^ 128)"
    low.emit(generic.map_step(text, "unsign", made, [Leaf(t)], low.threads, nodes))
    return made


def matrix_layer(
    low: Lowering, result: Value, a: Value, layer: Layer, residual: Value | None = None
) -> None:
    """A layer with known weights [n, 1, 1, k] over the last axis of `a`."""
    nodes, group = layer.nodes, low.isa.group
    n, k = len(layer.weights), layer.weights.shape[-1]
    x = dense_rows(low, as_u8(low, low.tensor(a), nodes), nodes, slack=k % group)
    target = Target.of(low, result, nodes)
    known = residual is None or layer.other_scale is not None
    form = Form(
        layer.out, residual is not None, bias=True, bounded=known and layer.is_bounded
    )  # fmt: skip
    bias = gemm.fold_signed(layer.weights, layer.bias, low.isa)
    p = Product(form, bias, layer.scale, fields=dict(layer.extra), nodes=nodes)
    if residual is not None:
        p.residual = dense_rows(low, low.tensor(residual), nodes, slack=1)
    m = math.prod(target.made.shape[:-1])
    columns = known_columns(low, layer.weights.reshape(n, k).T, m)
    emit_product(low, x, columns, target.made, p)
    target.finish()


@lowers("mat_mul_integer")
def computed(low: Lowering, node: Node) -> bool:
    """Products of 8-bit matrices, both computed, or with zero points that are."""
    a, b, a_zero, b_zero, bias = [*low.graph.operands(node), None, None, None][:5]
    assert a is not None and b is not None
    if node.type.size == 0 or min(a.type.rank, b.type.rank) < 2 or low.shape(a)[-1] == 0:
        return False
    if a.type.dtype not in BYTES or b.type.dtype not in BYTES:
        return False
    nodes = (node.name,)
    target = Target.of(low, node[0], nodes)
    p = Product(Form("s32"), nodes=nodes)
    start = low.array(bias)
    n = low.shape(b)[-1]
    if start is not None and start.size in (1, n) and start.size == math.prod(start.shape[-1:]):
        p.bias, p.form, bias = start.astype(np.int32), Form("s32", bias=True), None
    sums(low, p, a, b, a_zero, b_zero, target.made)
    if bias is not None:
        leaves = [Leaf(target.made), Leaf(low.tensor(bias))]
        low.emit(generic.map_step("i32(a0 + a1)", "bias", target.made, leaves, low.threads, nodes))
    target.finish()
    return True


def sums(
    low: Lowering, p: Product, a: Value, b: Value, a_zero: Zero, b_zero: Value | None, out: Tensor
) -> None:  # fmt: skip
    """Emit the 8-bit product `p` with its corrections."""
    k, group = low.shape(a)[-1], low.isa.group
    left = dense_rows(low, as_u8(low, low.tensor(a), p.nodes), p.nodes, slack=k % group)
    shift = 128 * ((a.type.dtype is DType.i8) - low.isa.signed)
    weights = known_weights(low, b, b_zero)
    if weights is not None:
        _known_terms(low, p, left, weights, a_zero, shift)
        columns = known_columns(low, weights, math.prod(left.shape[:-1]))
        emit_product(low, left, columns, out, p)
        return
    flip = 128 * (b.type.dtype is DType.u8)
    right = low.tensor(b)
    terms: list[tuple[Tensor, int, Tensor]] = []
    if not _is(low, a_zero, -shift):
        row = _vector(low, a_zero, left.shape[:-1], -2, f"i32(a0) + {shift}", p.nodes)
        total = _sum(low, right, len(right.shape) - 2, p.nodes)
        column = low.new(DType.i32, total.shape)
        leaves = [Leaf(total), Leaf(zero_of(low, b_zero, -1)), low.scalar(k, DType.i32)]
        _term(low, "i32(i32(a1) * a2 - a0)", column, leaves, p.nodes)
        terms.append((*row, column))
    if not _is(low, b_zero, flip):
        shape = (*right.shape[:-2], right.shape[-1])
        column, _ = _vector(low, b_zero, shape, -1, f"{flip} - i32(a0)", p.nodes, full=True)
        row = total = _sum(low, left, len(left.shape) - 1, p.nodes)
        if low.isa.signed:
            row = low.new(DType.i32, total.shape)
            leaves = [Leaf(total), low.scalar(128 * k, DType.i32)]
            _term(low, "i32(a0 - a1)", row, leaves, p.nodes)
        terms.append((row, 4, column))
    _add_terms(p, terms)
    spread = any(s != 1 for s in right.shape[:-2])
    m = left.shape[-2] if spread else math.prod(left.shape[:-1])
    emit_product(low, left, packed_columns(low, right, m, p.nodes, flip), out, p)


def known_weights(low: Lowering, b: Value, b_zero: Value | None) -> Array | None:
    """b - b_zero_point as s8 [k, n], where both are known and that fits."""
    weights, zero = low.array(b), low.array(b_zero)
    if weights is None or weights.ndim != 2 or (b_zero is not None and zero is None):
        return None
    offset = np.zeros(1, np.int16) if zero is None else zero.astype(np.int16).reshape(-1)
    if offset.size not in (1, weights.shape[1]):
        return None
    wide = weights.astype(np.int16) - offset
    if wide.min(initial=0) < -128 or wide.max(initial=0) > 127:
        return None
    return wide.astype(np.int8)


def _known_terms(
    low: Lowering, p: Product, left: Tensor, weights: Array, a_zero: Zero, shift: int
) -> None:
    """The correction by a's zero points where B is known: in the bias, if there is one number."""
    if _is(low, a_zero, -shift):
        return
    known = _numbers(low, a_zero)
    total = weights.sum(0, dtype=np.int64)
    if known is not None and known.size == 1:
        bias = 0 if p.bias is None else p.bias
        assert not isinstance(bias, Tensor)
        offset = (int(known.reshape(-1)[0]) + shift) * total
        p.bias = (bias - offset).astype(np.int32)
        p.form = replace(p.form, bias=True)
        return
    row, step = _vector(low, a_zero, left.shape[:-1], -2, f"i32(a0) + {shift}", p.nodes)
    panels = np.zeros(round_up(len(total), 64), np.int32)  # whole panels of the widest tile
    panels[: len(total)] = -total
    _add_terms(p, [(row, step, low.place(panels))])


def _add_terms(p: Product, terms: list[tuple[Tensor, int, Tensor]]) -> None:
    for name, (row, step, column) in zip(("first", "second"), terms):
        p.fields |= {f"{name}_row_term": row.ref, f"{name}_row_step": step,
                     f"{name}_column_term": column.ref}  # fmt: skip
        p.reads += [row, column]
    p.form = replace(p.form, terms=len(terms))


def _term(
    low: Lowering, text: str, out: Tensor, leaves: list[Leaf], nodes: tuple[str, ...]
) -> None:
    low.emit(generic.map_step(text, "term", out, leaves, low.threads, nodes))


def _numbers(low: Lowering, zero: Zero) -> Array | None:
    """A zero point that is known."""
    if zero is None:
        return np.zeros(1, np.uint8)
    return zero if isinstance(zero, np.ndarray) else low.array(zero)


def _is(low: Lowering, zero: Zero, value: int) -> bool:
    """Whether a zero point is known to be this number everywhere."""
    known = _numbers(low, zero)
    return known is not None and bool((known == value).all())


def zero_of(low: Lowering, zero: Zero, axis: int) -> Tensor:
    """A zero point that broadcasts to (..., m) (axis -2) or (..., n)."""
    if zero is None or isinstance(zero, np.ndarray):
        return low.place(np.zeros((), np.uint8) if zero is None else zero.reshape(()))
    t = low.tensor(zero)
    if t.size == 1:
        return t.view((), ())
    if len(t.shape) == 1:
        return t
    keep = [i for i in range(len(t.shape)) if i - len(t.shape) != (-1 if axis == -2 else -2)]
    return t.view([t.shape[i] for i in keep], [t.strides[i] for i in keep])


def _vector(
    low: Lowering, zero: Zero, shape: tuple[int, ...], axis: int, text: str,
    nodes: tuple[str, ...], full: bool = False,
) -> tuple[Tensor, int]:  # fmt: skip
    """`text` of a zero point as i32 [shape], and the bytes from one to the next: a single number
    stands for all with step 0, unless `full`."""
    t = zero_of(low, zero, axis)
    single = t.size == 1 and not full
    made = low.new(DType.i32, (1,) if single else shape)
    _term(low, f"i32({text})", made, [Leaf(t)], nodes)
    return made, 0 if single else 4


def _sum(low: Lowering, t: Tensor, axis: int, nodes: tuple[str, ...]) -> Tensor:
    """Sums over one axis, as i32, row-major."""
    made = low.new(DType.i32, (*t.shape[:axis], *t.shape[axis + 1 :]))

    def total(b: Builder, x: Value) -> Value:
        return b.reduce_sum(b.cast(x, to=DType.i32), np.array([axis]), keepdims=False)

    emit_body(low, total, [t], made, "sum", nodes)
    return made

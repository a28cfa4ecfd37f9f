"""Ops that ONNX lacks, or lacked, as small graphs of those that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import Builder, DType, Graph, Node, UnsupportedError, Value
from ...ir.ops.attention import Attention
from ...ir.ops.barrier import OptimizationBarrier
from ...ir.ops.linear import FusedMatMul
from ...ir.ops.rounded_bias import RoundBias
from ...ir.ops.scaled_gradient import ScaleGradient
from ...ir.ops.shape import Dropout

ATTENTION_SINCE = 23
_LATER = f"export with opset {ATTENTION_SINCE}"


def body_of(node: Node, operands: Sequence[Value | None], opset: int) -> Graph | None:
    """What a node is written as: inputs x0, x1, ... are its operands, outputs its results. None
    where the op itself is written. Raises UnsupportedError for forms that have no such body.
    """
    op: Any = node.op
    if isinstance(op, FusedMatMul):
        padded = [*operands, *[None] * (len(op.operands) - len(operands))]
        return _body(padded, lambda b, *xs: op.definition(b, *xs))
    if isinstance(op, OptimizationBarrier):
        return _body(operands, lambda b, x: b.identity(x))
    if isinstance(op, RoundBias):
        return _body(operands, lambda b, *xs: op.definition(b, *xs))
    if isinstance(op, Dropout) and (op.shared or op.alpha):  # which counts in training only
        plain = op.replace(shared=(), alpha=False, outputs=1)
        return _body(operands, lambda b, *xs: b.add_op(plain, *xs))
    if isinstance(op, ScaleGradient):
        return _body(operands, lambda b, x, factor: b.identity(x))
    if isinstance(op, Attention) and opset < ATTENTION_SINCE:
        return _body(operands, lambda b, *xs: _attention(b, node, *xs))
    return None


def _body(operands: Sequence[Value | None], make: Callable[..., Value]) -> Graph:
    b = Builder()
    xs = [None if v is None else b.input(f"x{i}", v.type.dtype, v.shape)
          for i, v in enumerate(operands)]  # fmt: skip
    return b.outputs(y=make(b, *xs))


def _swap(b: Builder, x: Value) -> Value:
    rank = len(x.shape or ())
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _attention(
    b: Builder, node: Node, q: Value, k: Value, v: Value, mask: Value | None = None,
    past_key: Value | None = None, past_value: Value | None = None,
    lengths: Value | None = None,
) -> Value:  # fmt: skip
    """softmax(scale * q @ k^T + mask) @ v as exporters write it"""
    op: Any = node.op
    odd = [name for name, value in (
        ("outputs", op.outputs > 1), ("softcap", op.softcap), ("nonpad_kv_seqlen", lengths),
        ("window sizes", max(op.left_window_size, op.right_window_size) >= 0),
        ("softmax_precision", op.softmax_precision),
    ) if value]  # fmt: skip
    if odd:
        raise UnsupportedError(f"attention with {', '.join(odd)} has no form before opset "
                               f"{ATTENTION_SINCE}", node=node.name, op=op.name,
                               hint=_LATER)  # fmt: skip
    flat = len(q.shape or ()) == 3
    if flat:
        q = _split(b, q, op.q_num_heads, node)
        k, v = (_split(b, x, op.kv_num_heads, node) for x in (k, v))
    k = k if past_key is None else b.concat(past_key, k, axis=2)
    v = v if past_value is None else b.concat(past_value, v, axis=2)
    heads, shared, size, deep = (_known(x, i, node) for x, i in ((q, 1), (k, 1), (q, 3), (v, 3)))
    share = heads // shared != 1
    if share:  # [b,g,h/g,l,d] by [b,g,1,s,d]
        q = b.reshape(q, np.array([0, shared, heads // shared, -1, size]))
        k, v = (b.unsqueeze(x, np.array([2])) for x in (k, v))
    scale = size**-0.5 if op.scale is None else op.scale
    kind = q.type.dtype.numpy
    scores = b.mul(b.mat_mul(q, _swap(b, k)), np.asarray(scale, kind))
    for bias in _biases(b, op, scores, mask, past_key):
        scores = b.add(scores, _shared(b, bias, node) if share else bias)
    y = b.mat_mul(b.softmax(scores, axis=-1), v)
    if share:
        y = b.reshape(y, np.array([0, heads, -1, deep]))
    if flat:
        y = b.transpose(y, perm=(0, 2, 1, 3))
        y = b.reshape(y, np.array([0, 0, heads * deep]))
    return y


def _known(x: Value, axis: int, node: Node) -> int:
    size = None if x.shape is None else x.shape[axis]
    if not isinstance(size, int):
        raise UnsupportedError("attention of unknown heads cannot be written out", node=node.name)
    return size


def _split(b: Builder, x: Value, heads: int, node: Node) -> Value:
    shape = np.array([0, 0, heads, _known(x, 2, node) // heads])
    return b.transpose(b.reshape(x, shape), perm=(0, 2, 1, 3))


def _shared(b: Builder, bias: Value, node: Node) -> Value:
    """A bias [b,1,l,t] (or of fewer axes) as it stands against scores [b,g,h/g,l,t]."""
    shape = bias.shape or ()
    if len(shape) < 3:
        return bias
    if shape[-3] != 1:
        raise UnsupportedError("a mask for each of shared heads cannot be written out",
                               node=node.name, hint=_LATER)  # fmt: skip
    return b.unsqueeze(bias, np.array([len(shape) - 3]))


def _biases(
    b: Builder, op: Any, scores: Value, mask: Value | None, past: Value | None
) -> list[Value]:
    """What is added to the scores; the lowest finite number stands for what is masked."""
    kind = scores.type.dtype.numpy
    zero, low = np.zeros((), kind), np.asarray(np.finfo(kind).min, kind)
    found: list[Value] = []
    if mask is not None:
        found.append(b.where(mask, zero, low) if mask.type.dtype is DType.bool else mask)
    if op.is_causal:
        ones = b.constant_of_shape(b.shape(scores, start=-2), value=np.ones(1, np.int64))
        ahead = np.int64(0) if past is None else b.squeeze(b.shape(past, start=2, end=3))
        found.append(b.where(b.cast(b.trilu(ones, ahead, upper=False), to=DType.bool), zero, low))
    return found

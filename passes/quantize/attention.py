"""The pass `quantize-attention`: attention on bytes whose scales are found while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir import DType, Graph, Node, Value
from ...ir.ops.attention import Attention
from ...ir.ops.dynamic import QuantizeRows
from ...ir.ops.indexing import Slice
from ...ir.ops.scaled_attention import ScaledAttention
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import RewriteBuilder, erase_dead
from .dynamic import take_name

HEADS_LAST = (0, 2, 1, 3)


@register_pass
@dataclass(frozen=True)
class QuantizeAttention(Pass):
    """Run attention on 8-bit integers: each head's rows of q, k and v take a scale of their own
    that is found while the program runs, and weights are rounded to 255ths of the largest.

        attention(q, k, v, mask)  ->  scaled_attention(rows(q), rows(k), rows(v), mask)

    where rows(x) = quantize_rows{symmetric}(x by heads). Parts of one merged product are quantized
    together. docs/quantization.md has the arithmetic and the error.

    skip    names of nodes to leave in float

    Legal for float32 attention without a past, soft cap or windows; what is left in float is
    remarked on with the reason.
    """

    name = "quantize-attention"
    absent = "there is no attention in single precision"
    bound = Changes()
    families = ("transformer",)
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for node in graph.nodes():
            if node not in graph or not isinstance(node.op, Attention):
                continue
            why = "it is named in `skip`" if node.name in self.skip else refusal(graph, node)
            if why:
                outcome.missed(node, f"not quantized: {why}")
            elif context.gate(self.name, node.name):
                replace(graph, node)
                outcome.count("quantized")
        erase_dead(graph, graph.nodes()[::-1])
        return outcome


def refusal(graph: Graph, node: Node) -> str:
    """Why attention stays in float; "" if it need not."""
    op = node.op
    assert isinstance(op, Attention)
    q, k, v, mask, *rest = [*graph.operands(node), *[None] * 4][:7]
    assert q is not None and k is not None and v is not None
    if node.type.dtype is not DType.f32 or op.softmax_precision not in (None, DType.f32):
        return "it is not in float32"
    if any(x is not None for x in rest) or len(node.results) > 1:
        return "it has a past, lengths, or more than one result"
    if op.softcap > 0 or max(op.left_window_size, op.right_window_size) >= 0:
        return "it has a soft cap or windows"
    if any(_heads(x, n) is None for x, n in _operands(node, q, k, v)):
        return "the number or the size of its heads is not known"
    return "" if mask is None else _unfit(mask, k)


def _unfit(mask: Value, k: Value) -> str:
    """Why a mask cannot be added to the scores."""
    shape, keys = mask.shape, k.shape
    if not shape or keys is None or shape[-1] != keys[-2] or shape[-1] is None:
        return f"the mask {mask.type} may be shorter than the keys"
    if mask.type.dtype not in (DType.bool, DType.f32):
        return f"the mask is {mask.type}"
    return ""


def _operands(node: Node, *values: Value) -> list[tuple[Value, int | None]]:
    op = node.op
    assert isinstance(op, Attention)
    return list(zip(values, (op.q_num_heads, op.kv_num_heads, op.kv_num_heads)))


def _heads(x: Value, heads: int | None) -> tuple[int, int] | None:
    """(heads, size of a head), where both are known."""
    shape = x.shape
    if shape is None:
        return None
    if len(shape) == 3:
        width = shape[2]
        return (heads, width // heads) if heads and isinstance(width, int) and width else None
    h, d = shape[1], shape[3]
    return (h, d) if isinstance(h, int) and isinstance(d, int) and d else None


def replace(graph: Graph, node: Node) -> None:
    """Put `scaled_attention` in the place of a node that can have it."""
    op = node.op
    assert isinstance(op, Attention)
    q, k, v, mask = [*graph.operands(node), None][:4]
    assert q is not None and k is not None and v is not None
    b = RewriteBuilder(graph, node)
    operands = _operands(node, q, k, v)
    merged = _merged(graph, operands)
    rows = [_rows(b, x, n) for x, n in operands] if merged is None else \
        _parts(b, *merged, [_heads(x, n) for x, n in operands])  # fmt: skip
    if mask is not None and mask.type.dtype is DType.bool:
        mask = b.where(mask, np.float32(0), np.float32(-math.inf))
    made = b.node(
        ScaledAttention(op.scale, op.is_causal), *(r[0] for r in rows), *(r[1] for r in rows), mask
    )
    if len(q.shape or ()) == 3:
        _, e = _heads(v, op.kv_num_heads) or (0, 0)
        made = b.reshape(made, np.array([0, 0, (op.q_num_heads or 1) * e]))
    else:
        made = b.transpose(made, perm=HEADS_LAST)
    graph.replace_all_uses(node[0], made)
    take_name(graph, made.node, node)


def _rows(b: RewriteBuilder, x: Value, heads: int | None) -> tuple[Value, Value]:
    """The rows of an operand as (u8 [b,l,h,d], scales [b,l,h,1])."""
    found = _heads(x, heads)
    assert found is not None
    split = b.reshape(x, np.array([0, 0, *found])) if len(x.shape or ()) == 3 else \
        b.transpose(x, perm=HEADS_LAST)  # fmt: skip
    made = b.node(QuantizeRows(symmetric=True), split)
    return made.node[0], made.node[1]


def _merged(
    graph: Graph, operands: list[tuple[Value, int | None]]
) -> tuple[Value, list[int]] | None:
    """The value [b,l,n] whose slices all operands are, and where they start, in heads."""
    sources, starts = set(), []
    sizes = {found and found[1] for found in (_heads(x, n) for x, n in operands)}
    if len(sizes) != 1:
        return None
    (d,) = sizes
    assert d
    for x, _ in operands:
        ends = [None if v is None else v.array for v in graph.operands(x.node)[1:]]
        if not isinstance(x.node.op, Slice) or len(ends) < 3 or any(a is None for a in ends[:3]):
            return None
        start, _, axis = (a.reshape(-1) for a in ends[:3] if a is not None)
        step = ends[3] if len(ends) > 3 and ends[3] is not None else np.ones(1)
        source = graph.operand(x.node, 0)
        if len(axis) != 1 or int(axis[0]) not in (2, -1) or step.reshape(-1)[0] != 1 or \
                source is None or len(source.shape or ()) != 3:  # fmt: skip
            return None
        width = source.shape[2] if source.shape else None
        first = int(start[0])
        if not isinstance(width, int) or width % d or first % d or first < 0:
            return None
        sources.add(source)
        starts.append(first // d)
    return (sources.pop(), starts) if len(sources) == 1 else None


def _parts(
    b: RewriteBuilder, source: Value, starts: list[int], heads: list[tuple[int, int] | None]
) -> list[tuple[Value, Value]]:
    """Each operand's heads of the rows of all."""
    first = heads[0]
    assert first is not None and source.shape is not None
    width, d = source.shape[2], first[1]
    assert isinstance(width, int)
    split = b.reshape(source, np.array([0, 0, width // d, d]))
    rows = b.node(QuantizeRows(symmetric=True), split).node

    def part(x: Value, start: int, count: int) -> Value:
        return b.slice(x, np.array([start]), np.array([start + count]), np.array([2]))

    return [(part(rows[0], s, h[0]), part(rows[1], s, h[0])) for s, h in zip(starts, heads) if h]

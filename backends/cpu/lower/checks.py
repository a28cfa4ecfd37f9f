"""Scales that are read or computed while a program runs: what the reference refuses, it refuses.

Beside a quantizer goes a small nest that counts the scales which are not finite and positive, into
a word that is looked at after the call (`Lowering.fault_tensor`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ....ir import Builder, DType, Graph, Node, Value
from ....ir.ops.quantization import UNFIT_SCALE, Quantization


def unfit(b: Builder, scale: Value) -> Value:
    """How many of these are not finite and positive, as an i64 scalar."""
    fit = b.and_(b.greater(scale, b.number(0, scale)), b.less(scale, b.number(float("inf"), scale)))
    each = b.cast(b.not_(fit), to=DType.i64)
    return b.reduce_sum(each, keepdims=False) if scale.shape else each


def scale_checks(body: Graph) -> Iterator[tuple[Node, Graph]]:
    """For each scale of a body that is not a constant: its first quantizer, and a twin of the body
    that counts the unfit ones."""
    seen: set[Value] = set()
    for node in body.nodes():
        if node is body.result or not isinstance(node.op, Quantization):
            continue
        scale = body.operand(node, 1)
        assert scale is not None
        if scale.array is None and scale not in seen:
            seen.add(scale)
            twin = body.copy()
            count = unfit(Builder(twin), Value(twin[scale.node.name], scale.index))
            twin.set_outputs([count])
            yield node, twin


def refusal(node: str) -> str:
    """What the error says."""
    return f"node {node!r}: {UNFIT_SCALE}"

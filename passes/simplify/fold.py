"""Constant folding, bounded in size and work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir import Array, Graph, Node, TautError
from ...ir.interpret import run_node
from ...ir.op import Abstract, has_body
from ...ir.ops.quantization import DequantizeLinear
from ...ir.ops.structure import Constant
from ..base import Exact, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import erase_dead
from . import seeds


@register_pass
@dataclass(frozen=True)
class Fold(Pass):
    """Run what depends on constants only, and replace shape data that is known by constants.

    Results of over `bytes` bytes are left, and such as take over `growth` times their operands
    (where that is over 1 KiB: a small recipe for a large tensor stays a recipe) or over `macs`
    multiply-accumulates. Ops that are random or have effects stay, as do dequantizations unless
    `dequantize`. The reference semantics do the computing, so the numbers are the same.
    """

    name = "fold"
    bound = Exact()
    seeds = (seeds.SHAPES,)
    nested = True
    bytes: int = 64 << 20
    growth: float = 16.0
    macs: int = 1 << 28
    dequantize: bool = False

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        folded: list[Node] = []
        for node in graph.nodes():
            if isinstance(node.op, Constant) or not node.op.pure or not node.results:
                continue
            # Folded away, a dequantization would be forgotten, and that a weight is quantized.
            kept = isinstance(node.op, DequantizeLinear) and not self.dequantize
            if not graph.nx.succ[node] or kept:
                continue
            arrays = self.known(graph, node, outcome, context)
            if arrays is None or not context.gate("fold", node.name):
                continue
            for i, array in enumerate(arrays):
                made = graph.constant(array, f"{node.name}.folded", before=node)
                graph.replace_all_uses(node[i], made)
            folded.append(node)
            outcome.count("folded")
        names = [(n, n.name, len(n.results)) for n in folded]
        replaced = {name: graph.find(f"{name}.folded") for _, name, _ in names}
        erase_dead(graph, folded)
        for node, name, results in names:
            made = replaced[name]
            if results == 1 and node not in graph.nx and made is not None and made in graph.nx:
                graph.rename(made, name)
        return outcome

    def known(
        self, graph: Graph, node: Node, outcome: Outcome, context: Context
    ) -> tuple[Array, ...] | None:
        """The node's results, if they are known before any run and small enough."""
        from_dims = shape_data(node)
        if from_dims is not None:
            return (from_dims,)
        operands = graph.abstracts(node)
        if not all(o is None or o.value is not None for o in operands):
            return None
        if has_body(node.op):
            return None  # a loop's work is not known; branches on what is known are inlined
        given = sum(o.value.nbytes for o in operands if o is not None and o.value is not None)
        if not all(t.is_static for t in node.types):
            return None
        size = sum(t.nbytes for t in node.types)
        if size > self.bytes or size > max(1024, self.growth * given):
            outcome.missed(node, f"folding {node.op.name} would make {size} bytes of {given}")
            return None
        try:
            macs = node.op.cost(*operands, results=node.types).macs
            if macs > self.macs:
                outcome.missed(node, f"folding {node.op.name} takes {macs} multiply-accumulates")
                return None
            return run_node(node, [None if o is None else o.value for o in operands],
                            context.limits)  # fmt: skip
        except TautError as error:
            outcome.missed(node, f"folding {node.op.name} failed: {error.message}")
            return None


def shape_data(node: Node) -> Array | None:
    """A single integer result whose contents inference knows to the last number."""
    if len(node.results) != 1:
        return None
    known: Abstract = node.results[0]
    if known.value is not None or known.dims is None or not known.type.is_static:
        return None
    if not all(isinstance(d, int) for d in known.dims):
        return None
    shape = known.type.static_shape
    if math.prod(shape) != len(known.dims):
        return None
    return np.array(known.dims, known.dtype.numpy).reshape(shape)

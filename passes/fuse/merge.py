"""Products that share an input as one product whose columns are theirs side by side:

    x @ A + a,  x @ B + b   ->   y = x @ [A B] + [a b],  y[..., :n],  y[..., n:]

x is read (and packed or quantized) once, and the one product is large enough to keep all lanes and
threads busy where each of several would not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Array, Graph, Node, Op, Value
from ...ir.op import op_class
from ...ir.ops.convolution import Conv
from ...ir.ops.linear import FusedMatMul, MatMul
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from . import near_misses, seeds
from .products import PRODUCTS, opened


@dataclass(frozen=True)
class Sibling:
    """One product of a shared input: weight and bias, and which axis of each counts the columns."""

    node: Node
    op: Op
    x: Value
    weight: Value
    bias: Array | None
    axis: int  # of the weight
    along: int  # of the result, from the end
    inner: int  # numbers of x that a column is made of

    @property
    def array(self) -> Array:
        assert self.weight.array is not None
        return self.weight.array

    @property
    def columns(self) -> int:
        return self.array.shape[self.axis]

    @property
    def key(self) -> Any:
        """Products of one key merge."""
        kept = self.array.shape[: self.axis] + self.array.shape[self.axis + 1 :]
        return (self.x, self.op.key(), self.array.dtype, self.axis, kept)


def product_sibling(graph: Graph, node: Node) -> Sibling | str | None:
    """A product with a constant right operand; None where it has none, else why it cannot merge."""
    found = opened(graph, node)
    if isinstance(found, str) or found.b.array is None or node.type.shape is None:
        return None
    if found.b.array.ndim != 2:
        return None
    if found.residual is not None:
        return "it has a residual"
    bias = found.bias if found.bias is None or isinstance(found.bias, np.ndarray) else \
        found.bias.array  # fmt: skip
    if found.bias is not None and bias is None:
        return "its bias is not constant"
    axis = 0 if found.op.transB else 1
    inner = found.b.array.shape[1 - axis]
    return Sibling(node, found.op, found.a, found.b, bias, axis, 1, inner)


def conv_sibling(graph: Graph, node: Node, op: Conv) -> Sibling | str | None:
    """A 1x1 convolution likewise."""
    x, weight, bias, residual, slope = [*graph.operands(node), None, None, None][:5]
    if x is None or weight is None or weight.array is None or op.group != 1:
        return None
    if any(d != 1 for d in weight.array.shape[2:]):
        return None
    if residual is not None or slope is not None:
        return "it has a residual" if slope is None else "its activation has slopes"
    if bias is not None and bias.array is None:
        return "its bias is not constant"
    rank = weight.array.ndim
    array = None if bias is None else bias.array
    return Sibling(node, op, x, weight, array, 0, rank - 1, weight.array.shape[1])


@register_pass
@dataclass(frozen=True)
class MergeMatMuls(Pass):
    """Make one product of those that share their left operand, and one 1x1 convolution of several.

    Each must have a constant weight that nothing else reads, equal settings (transposes, scale,
    activation; of convolutions strides and pads), at most a constant bias. Their results are
    slices of the new one. It pays where what is saved, reading the input once for each but one,
    is more than the copies that it causes: a result that leaves the graph, or channels cut out of
    a convolution's, is copied. Sums are the same, in another order at most.

    convolutions   merge these too
    """

    name = "merge-matmuls"
    absent = "no two products with constant weights read one input"
    bound = Within(rtol=1e-5, atol=1e-6)
    seeds = (seeds.SIBLINGS, seeds.MORE_SIBLINGS, seeds.STACKED_SIBLINGS,
             near_misses.NEARLY_SIBLINGS)  # fmt: skip
    families = ("transformer",)
    convolutions: bool = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for group in list(self._groups(graph, outcome)):
            cost = _cost(graph, group)
            names = ", ".join(s.node.name for s in group)
            if cost is not None:
                outcome.missed(group[0].node, f"not merged with {names}: {cost}")
            elif context.gate(f"{self.name}/merge", group[0].node.name):
                _merge(graph, group)
                reason = f"{len(group)} products ({names}) read their input once"
                outcome.applied("merged", group[0].node.name, reason)
        return outcome

    def _groups(self, graph: Graph, outcome: Outcome) -> Iterator[list[Sibling]]:
        """Siblings that may merge, and remarks on those that nearly do."""
        for source in graph.nodes():
            readers = [u.node for u in graph.uses(source) if u.position == 0] \
                if len(graph.nx.succ[source]) > 1 else []  # fmt: skip
            found: dict[Any, list[Sibling]] = {}
            reasons: list[tuple[Node, str]] = []
            for node in readers:
                sibling = self._sibling(graph, node)
                if isinstance(sibling, str):
                    reasons.append((node, sibling))
                elif sibling is not None:
                    if graph.use_count(sibling.weight) > 1:
                        reasons.append((node, "its weight is shared"))
                    else:
                        found.setdefault(sibling.key, []).append(sibling)
            if len(reasons) + sum(map(len, found.values())) > 1:
                for node, reason in reasons:
                    outcome.missed(node, f"not merged with its siblings: {reason}")
            yield from (group for group in found.values() if len(group) > 1)

    def _sibling(self, graph: Graph, node: Node) -> Sibling | str | None:
        if isinstance(node.op, PRODUCTS):
            return product_sibling(graph, node)
        if self.convolutions and isinstance(node.op, Conv):
            return conv_sibling(graph, node, node.op)
        return None


def _cost(graph: Graph, group: list[Sibling]) -> str | None:
    """Why merging does not pay, counted in numbers moved for each row; None where it does."""
    saved = (len(group) - 1) * group[0].inner
    copied = sum(s.columns for s in group
                 if isinstance(s.op, Conv) or graph.is_output(s.node[0]))  # fmt: skip
    if 2 * copied <= saved:
        return None
    return (f"it would copy {copied} numbers of each row's result (read and written) to save "
            f"reading {saved}")  # fmt: skip


def _merge(graph: Graph, group: list[Sibling]) -> None:
    first = group[0]  # the first in the order: what it reads is there
    node = first.node
    weight = np.concatenate([s.array for s in group], axis=first.axis)
    bias = None
    if any(s.bias is not None for s in group):
        parts = [np.zeros(s.columns, s.array.dtype) if s.bias is None else s.bias for s in group]
        bias = graph.constant(np.concatenate(parts), f"{node.name}.merged.bias", before=node)
    w = graph.constant(weight, f"{node.name}.merged.weight", before=node)
    plain = first.op == FusedMatMul() and bias is None
    op = MatMul() if plain else first.op
    made = graph.add(op, first.x, w, bias, name=f"{node.name}.merged", before=node)
    start = 0
    for s in group:
        bounds = [graph.constant(np.array([v]), "bound", before=node)
                  for v in (start, start + s.columns, made.type.rank - s.along)]  # fmt: skip
        part = graph.add(op_class("slice")(), made, *bounds, before=node)
        start += s.columns
        graph.replace_all_uses(s.node, part)
        name = s.node.name
        for gone in (s.node, *(v.node for v in graph.operands(s.node)[1:] if v is not None)):
            if not graph.nx.succ[gone]:
                graph.erase(gone)
        graph.rename(part, name)

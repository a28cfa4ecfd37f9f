"""Dropout as it is trained: by a mask that is an input."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Builder, DType, Graph, Node, TensorType, UnsupportedError
from ...ir.ops.shape import Dropout
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import erase_dead
from .names import KEEP, matches

_LOWEST = -1.7580993408473766
"""Where selu ends on the left."""


@register_pass
@dataclass(frozen=True)
class DropoutMasks(Pass):
    """dropout(x, ratio) -> where(keep, x / (1 - ratio), 0), with an input `keep.NODE` bool of x's
    shape (1 on its `shared` axes; of an `alpha` one where(keep, a x + b, c)), which whoever runs
    the graph draws anew for each step, true with chance 1 - ratio (`dropout_ratios`).

    N. Srivastava and others, "Dropout: a simple way to prevent neural networks from overfitting"
    (2014). A graph stays a function: the same masks give the same bits. Nodes whose names match a
    pattern in `keep` stay. Legal where ratio and rank are known and no size is unknown. Changes the
    function.
    """

    name = "dropout-masks"
    bound = Changes()
    keeps_signature = False
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for node in list(graph.of(Dropout)):
            ratio = 0.0 if matches(node.name, self.keep) else ratio_of(graph, node)
            if ratio and context.gate("dropout-masks", node.name):
                _mask(graph, node, ratio)
                erase_dead(graph, [node])
                outcome.applied("dropouts", node, f"drops {ratio:.0%}")
        return outcome


def _mask(graph: Graph, node: Node, ratio: float) -> None:
    x = graph.operand(node, 0)
    assert x is not None
    if x.shape is None or None in x.shape:
        raise UnsupportedError(f"drops parts of {x.type}, whose sizes are unknown", node=node.name,
                               hint="bind the inputs' shapes first")  # fmt: skip
    b = Builder(graph, before=node, prefix=f"{node.name}.")
    assert isinstance(node.op, Dropout)
    shared = {a % len(x.shape) for a in node.op.shared}
    shape = tuple(1 if i in shared else d for i, d in enumerate(x.shape))
    kept = graph.add_input(f"{KEEP}{node.name}", TensorType(DType.bool, shape), before=node)
    scale, shift, dropped = 1 / (1 - ratio) if ratio < 1 else 0.0, 0.0, 0.0
    if node.op.alpha:  # so that mean and variance of what is 0 and 1 stay
        scale = ((1 - ratio) * (1 + ratio * _LOWEST**2)) ** -0.5 if ratio < 1 else 0.0
        shift = -scale * ratio * _LOWEST
        dropped = scale * _LOWEST + shift
    made = b.mul(x, b.number(scale, x))
    made = b.add(made, b.number(shift, x)) if shift else made
    made = b.where(kept, made, b.number(dropped, x))
    graph.replace_all_uses(node[0], made)
    if len(node.results) > 1:
        graph.replace_all_uses(node[1], b.expand(kept, b.shape(x)) if shared else kept)


def ratio_of(graph: Graph, node: Node) -> float:
    """The share that a dropout drops, 0.5 where it says nothing. Raises UnsupportedError where it
    is computed.
    """
    ratio = graph.operand(node, 1)
    if ratio is None:
        return 0.5
    if ratio.array is None:
        raise UnsupportedError("drops a share that is computed", node=node.name)
    return float(ratio.array)


def dropout_ratios(graph: Graph) -> dict[str, float]:
    """The ratio of each dropout, by the name of the input that `dropout-masks` gives it."""
    return {f"{KEEP}{n.name}": ratio_of(graph, n) for n in graph.of(Dropout)}

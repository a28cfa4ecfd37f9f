"""Batch normalization as it is trained: by the statistics of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir import Array, Builder, Graph, Node, Value
from ...ir.op import positions
from ...ir.ops.adjoint import in_type_of, mean_factor
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.structure import Constant
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from .names import NEXT, matches
from .parameters import opened

STATISTICS = BatchNormalization.settings  # its running mean and variance


@register_pass
@dataclass(frozen=True)
class BatchStatistics(Pass):
    """Let batch_normalization normalize by its batch's own mean and variance (training_mode), and
    update the running ones: these become inputs of the constants' names, and outputs `next.NAME`
    hold what they are after the step, running * momentum + own * (1 - momentum). There `own` is the
    unbiased variance (over n - 1), which estimates that of all data and which trainers keep; the op
    itself has the one over n, as ONNX does.

    S. Ioffe and C. Szegedy, "Batch normalization" (2015). A node whose statistics are computed
    stays as it is, as do statistics that two nodes share (`split_statistics` parts them), and nodes
    whose name, or whose operand's name, matches a pattern in `keep` (`*` and `?` are wild).
    """

    name = "batch-statistics"
    bound = Changes()
    keeps_signature = False
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outputs = dict(zip(graph.output_names, graph.outputs))
        for node in list(graph.of(BatchNormalization)):
            op = node.op
            assert isinstance(op, BatchNormalization)
            running = _running(graph, node)
            reason = _obstacle(graph, node, self.keep)
            if reason:
                outcome.missed(node, reason)
            elif context.gate("batch-statistics", node.name):
                names = [opened(graph, v.node).name for v in running]
                graph.set_op(node, op.replace(training_mode=True))
                moved = node[1], _unbiased(graph, node)
                outputs |= {f"{NEXT}{k}": v for k, v in zip(names, moved)}
                outcome.applied("trained", node, f"updates {' and '.join(names)}")
        graph.set_outputs(outputs)
        return outcome


def _unbiased(graph: Graph, node: Node) -> Value:
    """The running variance with n / (n - 1) times the batch's part of it. Of one element, whose
    variance is 0, no more than that.
    """
    assert isinstance(node.op, BatchNormalization)
    read = graph.operands_of(node)
    x, old = read.x, read.var
    made, b = node[2], Builder(graph, prefix=f"{node.name}.")
    own = b.sub(made, b.mul(old, b.number(node.op.momentum, old)))
    share = in_type_of(b, mean_factor(b, x, made), made)  # 1 / n
    rest = b.max(b.sub(b.number(1, made), share), share)
    return b.add(made, b.mul(own, b.div(share, rest)))


def _obstacle(graph: Graph, node: Node, keep: tuple[str, ...]) -> str:
    """Why a normalization's statistics stay, "" where they do not."""
    assert isinstance(node.op, BatchNormalization)
    if node.op.training_mode:
        return "it is in training mode already"
    running = _running(graph, node)
    if not all(isinstance(v.node.op, Constant) for v in running):
        return "its statistics are computed"
    if any(_normalized_by(graph, v) > 1 for v in running):
        return "its statistics are shared"
    read = [v.node.name for v in graph.operands(node)[1:] if v is not None]
    if any(matches(n, keep) for n in (node.name, *read)):
        return "it is to be kept"
    return ""


def _running(graph: Graph, node: Node) -> list[Value]:
    """The running mean and variance of a batch normalization."""
    return [v for kind in STATISTICS for v in graph.operands_of(node).each(kind)]


def _normalized_by(graph: Graph, value: Value) -> int:
    """How many batch normalizations read a statistic; others may read it as it is."""
    return len({u.node for u in graph.uses(value) if isinstance(u.node.op, BatchNormalization)})


def statistics(graph: Graph, keep: tuple[str, ...] = ()) -> dict[str, Array]:
    """The running means and variances that `batch-statistics` makes inputs, by name."""
    found: dict[str, Array] = {}
    for node in graph.of(BatchNormalization):
        if not _obstacle(graph, node, keep):
            pairs = ((v.node.name, v.array) for v in _running(graph, node))
            found |= {name: array for name, array in pairs if array is not None}
    return found


def split_statistics(graph: Graph) -> None:
    """Give each batch normalization constants of its own as running statistics where they are
    shared (equal constants are often one), so that each can move.
    """
    for node in list(graph.of(BatchNormalization)):
        for kind, value in zip(STATISTICS, _running(graph, node)):
            if value.array is None or _normalized_by(graph, value) == 1:
                continue
            own = graph.constant(np.array(value.array), f"{node.name}.{kind}", before=node)
            graph.set_operand(node, positions(BatchNormalization)[kind], own)

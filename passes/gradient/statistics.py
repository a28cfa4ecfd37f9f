"""Batch normalization as it is trained: by the statistics of the batch."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph, Value
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.structure import Constant
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from .parameters import opened

PREFIX = "next."


@register_pass
@dataclass(frozen=True)
class BatchStatistics(Pass):
    """Let batch_normalization normalize by its batch's own mean and variance (training_mode), and
    update the running ones: these become inputs of the constants' names, and outputs `next.NAME`
    hold what they are after the step, running * momentum + own * (1 - momentum).

    S. Ioffe and C. Szegedy, "Batch normalization" (2015). A node whose statistics are computed
    stays as it is, as do statistics that two nodes share.
    """

    name = "batch-statistics"
    bound = Changes()
    keeps_signature = False

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outputs = dict(zip(graph.output_names, graph.outputs))
        for node in list(graph.of(BatchNormalization)):
            op = node.op
            assert isinstance(op, BatchNormalization)
            statistics = [graph.operand(node, i) for i in (3, 4)]
            reason = _obstacle(graph, op, statistics)
            if reason:
                outcome.missed(node, reason)
            elif context.gate("batch-statistics", node.name):
                names = [opened(graph, v.node).name for v in statistics if v is not None]
                graph.set_op(node, op.replace(training_mode=True))
                outputs |= {f"{PREFIX}{k}": node[1 + i] for i, k in enumerate(names)}
                outcome.applied("trained", node, f"updates {' and '.join(names)}")
        graph.set_outputs(outputs)
        return outcome


def _obstacle(graph: Graph, op: BatchNormalization, statistics: list[Value | None]) -> str:
    if op.training_mode:
        return "it is in training mode already"
    if not all(v is not None and isinstance(v.node.op, Constant) for v in statistics):
        return "its statistics are computed"
    if any(v is not None and graph.use_count(v) > 1 for v in statistics):
        return "its statistics are shared"
    return ""


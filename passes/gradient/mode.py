"""Layers that work otherwise in training than at inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from ...ir import Array, Builder, DType, Graph, Node, UnsupportedError, Value
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.shape import Dropout
from ...ir.ops.structure import Constant
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import erase_dead
from .names import KEEP, NEXT

MEAN, VAR = 3, 4  # operands of a batch normalization


@register_pass
@dataclass(frozen=True)
class TrainingMode(Pass):
    """Switch batch normalizations and dropouts from inference to training.

    batch_normalization    normalizes by the batch's own statistics; its running mean and variance
                           become inputs, and outputs next.NAME that have moved towards the batch's
                           (S. Ioffe and C. Szegedy, 2015)
    dropout                x -> where(keep, x / (1 - ratio), 0) with an input keep.NODE bool of x's
                           shape (N. Srivastava and others, 2014)

    Nodes, and normalizations with operands, whose names match one of the patterns in `keep` (`*`
    and `?` are wild) stay as they are. Legal where the statistics are constants that only one node
    reads (`split_statistics` sees to it) and the ratio is known. Changes the function.
    """

    name = "training-mode"
    bound = Changes()
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outputs = dict(zip(graph.output_names, graph.outputs))
        for node in normalizations(graph, self.keep):
            if context.gate("training-mode", node.name):
                outputs.update(self._normalize(graph, node))
                outcome.applied("normalizations", node, "by the batch's own statistics")
        graph.set_outputs(outputs)
        for node in list(graph.of(Dropout)):
            if not matches(node.name, self.keep) and context.gate("training-mode", node.name):
                self._drop(graph, node, outcome)
        return outcome

    def _normalize(self, graph: Graph, node: Node) -> dict[str, Value]:
        """The outputs that carry on the running statistics."""
        found = {}
        for position in (MEAN, VAR):
            value = graph.operand(node, position)
            assert value is not None
            name = value.node.name
            graph.rename(value.node, graph.fresh(f"{name}.constant"))
            made = graph.add_input(name, value.type, before=value.node)
            graph.replace_all_uses(value, made, retype=True)
            graph.erase(value.node)
            found[f"{NEXT}{name}"] = node, position - MEAN + 1
        assert isinstance(node.op, BatchNormalization)
        graph.set_op(node, replace(node.op, training_mode=True))
        return {name: at[i] for name, (at, i) in found.items()}

    def _drop(self, graph: Graph, node: Node, outcome: Outcome) -> None:
        x, ratio, *_ = [*graph.operands(node), None]
        assert x is not None
        share = 0.5 if ratio is None else None if ratio.array is None else float(ratio.array)
        if share is None or x.shape is None or None in x.shape or graph.use_count(node[0]) == 0:
            raise UnsupportedError("cannot be switched to training: its ratio or shape is unknown, "
                                   "or only its mask is read", node=node.name)  # fmt: skip
        if share == 0:
            return
        b = Builder(graph, before=node, prefix=f"{node.name}.")
        kept = graph.add_input(f"{KEEP}{node.name}", x.type.with_dtype(DType.bool), before=node)
        scaled = b.mul(x, b.number(1 / (1 - share), x))
        made = b.where(kept, scaled, b.number(0, x))
        graph.replace_all_uses(node[0], made)
        if len(node.results) > 1:
            graph.replace_all_uses(node[1], kept)
        erase_dead(graph, [node])
        outcome.applied("dropouts", node, f"drops {share:.0%}")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def normalizations(graph: Graph, keep: tuple[str, ...] = ()) -> Iterator[Node]:
    """Batch normalizations for inference whose statistics are constants of their own."""
    for node in list(graph.of(BatchNormalization)):
        assert isinstance(node.op, BatchNormalization)
        operands = [v for v in graph.operands(node)[1:] if v is not None]
        alone = all(isinstance(v.node.op, Constant) and graph.use_count(v) == 1
                    for v in operands[MEAN - 1 :])  # fmt: skip
        named = [node.name, *(v.node.name for v in operands)]
        if alone and not node.op.training_mode and not any(matches(n, keep) for n in named):
            yield node


def statistics(graph: Graph, keep: tuple[str, ...] = ()) -> dict[str, Array]:
    """The running means and variances that `training-mode` makes inputs, by name."""
    values = [graph.operand(n, p) for n in normalizations(graph, keep) for p in (MEAN, VAR)]
    return {v.node.name: v.array for v in values if v is not None and v.array is not None}


def split_statistics(graph: Graph) -> None:
    """Give each batch normalization running statistics of its own where they are shared (equal
    constants are often one), so that each can move.
    """
    for node in list(graph.of(BatchNormalization)):
        for position, kind in ((MEAN, "mean"), (VAR, "var")):
            value = graph.operand(node, position)
            if value is None or value.array is None or graph.use_count(value) == 1:
                continue
            own = graph.constant(np.array(value.array), f"{node.name}.{kind}", before=node)
            graph.set_operand(node, position, own)


def dropout_ratios(graph: Graph) -> dict[str, float]:
    """The ratio of each dropout node by the name of the input that `training-mode` gives it."""
    found = {}
    for node in graph.of(Dropout):
        ratio = graph.operand(node, 1)
        share = 0.5 if ratio is None or ratio.array is None else float(ratio.array)
        found[f"{KEEP}{node.name}"] = share
    return found

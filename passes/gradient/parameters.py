"""Trainable weights as inputs, and back as constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...ir import FeedError, Graph, Node, TensorType, VerifyError
from ...ir.op import Array, is_differentiable
from ...ir.ops.scaled_gradient import ScaleGradient
from ...ir.ops.structure import Constant
from ...ir.training import buffer_names
from ..base import Exact, Outcome, Pass, near, register_pass
from ..context import Context

FROZEN = "teacher."
"""What names of constants start with that are not trained unless named: a teacher's."""

LOWEST = -1e4
"""Of a weight. What is added to scores to hide them lies below."""


@register_pass
@dataclass(frozen=True)
class Parameters(Pass):
    """Let trainable constants be inputs of their names, after the others: `parameters{names=[w]}`.

    By default those are the float constants of more than one element that an op reads at an operand
    which gradients reach and which is trained rather than set (statistics, bounds and scales are
    set: `Op.settings`), but for a teacher's (named `teacher.`...) and for masks: constants with an
    element that is not finite or is below -1e4, and for what the metadata calls a buffer; and those
    of any size that `scale_gradient` reads. Exact when the inputs are fed the constants' arrays:
    `trainable` gives these by name, `freeze` puts arrays back.
    """

    name = "parameters"
    bound = Exact()
    keeps_signature = False
    names: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for name in trainable(graph, self.names):
            node = graph[name]
            if not context.gate("parameters", name):
                continue
            made = opened(graph, node)
            outcome.applied("parameters", name, f"an input of type {made.type}")
        if not outcome.counts:
            outcome.note("no constant is trainable")
        return outcome


def opened(graph: Graph, constant: Node) -> Node:
    """Put an input of its name in a constant's place."""
    name = constant.name
    graph.rename(constant, graph.fresh(f"{name}.constant"))
    made = graph.add_input(name, constant.type, before=constant)
    graph.replace_all_uses(constant, made, retype=True)
    graph.erase(constant)
    return made


def trainable(graph: Graph, names: tuple[str, ...] = ()) -> dict[str, Array]:
    """The arrays of the trainable constants (or of those named) by name, as `parameters` has them.

    Raises FeedError for a name that is no float constant.
    """
    constants = {n.name: n for n in graph.of(Constant)}
    for name in names:
        if name not in constants:
            raise FeedError(f"no constant is named {name!a}{near(name, list(constants))}")
        if not constants[name].type.dtype.is_float:
            raise FeedError(f"is {constants[name].type}, which is not trainable", node=name)
    fixed = buffer_names(graph)
    chosen = names or [k for k, n in constants.items() if k not in fixed and _is_trained(graph, n)]
    return {k: _array(constants[k]) for k in chosen}


def _array(node: Node) -> Array:
    assert isinstance(node.op, Constant)
    return node.op.value


def _is_trained(graph: Graph, node: Node) -> bool:
    if not node.type.dtype.is_float or node.name.startswith(FROZEN) or _is_mask(_array(node)):
        return False
    if any(isinstance(u.node.op, ScaleGradient) and not u.position for u in graph.uses(node)):
        return True
    return node.type.size > 1 and any(_takes(use.node, use.position) for use in graph.uses(node))


def _is_mask(array: Array) -> bool:
    numbers = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return not np.isfinite(numbers).all() or float(numbers.min()) < LOWEST


def _takes(node: Node, position: int) -> bool:
    """Whether this operand is one that training changes."""
    return is_differentiable(type(node.op)) and not node.op.is_set(position)


def freeze(graph: Graph, arrays: Mapping[str, Array]) -> Graph:
    """A copy in which the inputs named in `arrays` are constants of these arrays: the inverse of
    the pass `parameters`. Raises FeedError for one that is no input or does not fit.
    """
    twin = graph.copy()
    inputs = {n.name: n for n in twin.inputs}
    for name, array in arrays.items():
        node = inputs.get(name)
        if node is None:
            raise FeedError(f"no input is named {name!a}{near(name, list(inputs))}")
        if not node.type.accepts(TensorType.of(array)):
            raise FeedError(f"wants {node.type}, not {TensorType.of(array)}", node=name)
        twin.rename(node, twin.fresh(f"{name}.input"))
        made = twin.constant(array.copy(), name, before=node)
        if made.node.name != name:
            raise VerifyError(f"the name {name!a} is taken", node=name)
        twin.replace_all_uses(node, made)
        twin.erase(node)
    return twin

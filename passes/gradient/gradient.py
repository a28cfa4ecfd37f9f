"""The pass that adds gradients."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Builder, FeedError, Graph, Value, differentiate
from ...ir.differentiate import PREFIX
from ...ir.ops.adjoint import filled, shape_of
from ..base import Exact, Outcome, Pass, near, register_pass
from ..context import Context
from ..rewrite import erase_dead
from ..simplify.clean import merge_equal
from .recompute import recompute


@register_pass
@dataclass(frozen=True)
class Gradient(Pass):
    """Add an output `grad.NAME` for each input in `wrt` (all float ones by default): the gradient
    of the scalar output `loss` (the last output by default), by reverse mode.

    With `recompute` the backward part computes activations anew, segment by segment, rather than
    keep them all: sqrt(n) segments of n nodes, or with `memory` as few as keep the activations
    below that many bytes (a symbolic dimension counts as 1). After T. Chen and others, "Training
    deep nets with sublinear memory cost" (2016). What is computed anew reads its operands through
    `optimization_barrier`, so that no pass merges it with the first computation.

    Legal where every op between an input and the loss declares a gradient; NotDifferentiableError
    names the first that does not. Exact: the other outputs stay.
    """

    name = "gradient"
    bound = Exact()
    keeps_signature = False
    loss: str = ""
    wrt: tuple[str, ...] = ()
    recompute: bool = False
    memory: int = 0

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outputs = dict(zip(graph.output_names, graph.outputs))
        loss, sought = self._loss(outputs), self._sought(graph)
        b, start = Builder(graph, prefix=PREFIX), graph.frontier
        seed = filled(b, shape_of(b, loss), 1, loss)
        b.prefix = ""
        found = differentiate(graph, {loss: seed}, list(sought.values()), b=b)
        b.prefix = PREFIX
        for name, x in sought.items():
            gradient = found[x]
            if gradient is None:
                outcome.missed(name, "the loss does not depend on it: its gradient is 0")
                gradient = filled(b, shape_of(b, x), 0, x)
            outputs[f"{PREFIX}{name}"] = gradient
        graph.set_outputs(outputs)
        added = [n for n in graph.nodes() if start < n.order and n is not graph.result]
        erase_dead(graph, added[::-1])
        merge_equal(graph, lambda node: node.order > start)
        outcome.count("gradients", len(sought))
        outcome.count("nodes", sum(start < n.order for n in graph.nodes()) - 1)
        if self.recompute or self.memory:
            outcome.merge(recompute(graph, start, self.memory))
        return outcome

    def _loss(self, outputs: dict[str, Value]) -> Value:
        if not outputs:
            raise FeedError("the graph has no output")
        name = self.loss or list(outputs)[-1]
        if name not in outputs:
            raise FeedError(f"no output is named {name!a}{near(name, list(outputs))}")
        loss = outputs[name]
        if not loss.type.dtype.is_float or loss.shape is None or any(d != 1 for d in loss.shape):
            raise FeedError(f"output {name!a} is {loss.type}, which is no scalar to differentiate",
                            hint="join one with the pass loss")  # fmt: skip
        return loss

    def _sought(self, graph: Graph) -> dict[str, Value]:
        inputs = {n.name: n for n in graph.inputs}
        for name in self.wrt:
            if name not in inputs:
                raise FeedError(f"no input is named {name!a}{near(name, list(inputs))}",
                                hint="the pass parameters makes inputs of constants")  # fmt: skip
            if not inputs[name].type.dtype.is_float:
                raise FeedError(f"input {name!a} is {inputs[name].type}, no tensor of floats")
        chosen = self.wrt or [k for k, n in inputs.items() if n.type.dtype.is_float]
        if not chosen:
            raise FeedError("the graph has no float input to differentiate by",
                            hint="the pass parameters makes inputs of constants")  # fmt: skip
        return {k: inputs[k][0] for k in chosen}

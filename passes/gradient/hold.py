"""Parts of parameters that training must not move."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Builder, DType, FeedError, Graph
from ...ir.differentiate import PREFIX
from ...ir.ops.adjoint import where
from ..base import Changes, Outcome, Pass, near, register_pass
from ..context import Context
from .names import MASK


@register_pass
@dataclass(frozen=True)
class HoldWeights(Pass):
    """Give each parameter in `names` (an input with an output `grad.NAME`) an input `mask.NAME`
    bool of its shape: where it is false the gradient is 0, and the optimizer that comes after
    leaves the parameter as it is, bit for bit.

    So pruned weights stay zero while the others are trained again (S. Han and others, "Learning
    both weights and connections for efficient neural networks", 2015), and weights that are on
    their final grid stay there while the rest makes up for it (A. Zhou and others, "Incremental
    network quantization", 2017). Masks are inputs so that they can change between steps. Changes
    the gradients; the other outputs stay.
    """

    name = "hold-weights"
    bound = Changes()
    keeps_signature = False
    names: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome, b = Outcome(), Builder(graph)
        outputs = dict(zip(graph.output_names, graph.outputs))
        for name in self.names:
            key = f"{PREFIX}{name}"
            if key not in outputs or graph.find(name) is None:
                known = [k.removeprefix(PREFIX) for k in outputs if k.startswith(PREFIX)]
                raise FeedError(f"no parameter is named {name!a}{near(name, known)}")
            b.prefix = f"{MASK}{name}."
            mask = b.input(f"{MASK}{name}", DType.bool, graph[name].type.static_shape)
            outputs[key] = where(b, mask, outputs[key])
            outcome.count("parameters")
        graph.set_outputs(outputs)
        return outcome

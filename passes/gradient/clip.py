"""Gradients kept from growing too large."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Builder, Graph, Value, VerifyError
from ...ir.differentiate import PREFIX
from ...ir.ops.adjoint import in_type_of
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context

GRADIENTS = """
graph @gradients(%w: f32[2,3], %g: f32[2,3], %h: f64[3]) -> (%y: f32[2,3], %grad.w: f32[2,3], %grad.v: f64[3]) {
  %y = relu(%w) : f32[2,3]
  %1 = mul(%w, %g) : f32[2,3]
  %2 = neg(%h) : f64[3]
  return %y, %1, %2
}
"""  # noqa: E501


@register_pass
@dataclass(frozen=True)
class ClipGradients(Pass):
    """Bound the outputs `grad.NAME`: with `norm` all are scaled by min(1, norm / their common L2
    norm), with `value` each element then goes into [-value, value]; 0 leaves either out.

    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks"
    (2013). Changes the gradients; the other outputs stay.
    """

    name = "clip-gradients"
    bound = Changes()
    seeds = (GRADIENTS,)
    norm: float = 0.0
    value: float = 0.0

    def run(self, graph: Graph, context: Context) -> Outcome:
        if not (0 <= self.norm < float("inf") and 0 <= self.value < float("inf")):
            raise VerifyError(f"norm is {self.norm} and value {self.value}: both are 0 or more")
        outcome, b = Outcome(), Builder(graph, prefix="clip.")
        outputs = dict(zip(graph.output_names, graph.outputs))
        names = [k for k, v in outputs.items() if k.startswith(PREFIX) and v.type.dtype.is_float]
        if not names or not (self.norm or self.value):
            outcome.note("there is nothing to clip")
            return outcome
        if self.norm:
            factor = self._factor(b, [outputs[k] for k in names])
            outputs.update({k: b.mul(outputs[k], in_type_of(b, factor, outputs[k]))
                            for k in names})  # fmt: skip
        if self.value:
            for k in names:
                low, high = (b.number(v, outputs[k]) for v in (-self.value, self.value))
                outputs[k] = b.clip(outputs[k], low, high)
        graph.set_outputs(outputs)
        outcome.count("gradients", len(names))
        return outcome

    def _factor(self, b: Builder, gradients: list[Value]) -> Value:
        """min(1, norm / |gradients|), summed in the widest of their types."""
        wide = max(gradients, key=lambda g: g.type.dtype.bits)
        total = None
        for g in gradients:
            g = in_type_of(b, g, wide)
            part = b.reduce_sum(b.mul(g, g), keepdims=False)
            total = part if total is None else b.add(total, part)
        size = b.max(b.sqrt(total), b.number(1e-30, wide))  # all zeros stay so
        return b.min(b.number(1, wide), b.div(b.number(self.norm, wide), size))

"""Shape inference and the binding of symbols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir import FeedError, Graph, TensorType
from ...ir.ops.control import ControlFlow
from ..base import Exact, Outcome, Pass, near, register_pass
from ..context import Context
from . import seeds


@register_pass
@dataclass(frozen=True)
class Infer(Pass):
    """Infer every type again from the inputs on, and type bodies as closely as their nodes'
    operands allow. Changes no values, only what is known of them."""

    name = "infer"
    bound = Exact()
    seeds = (seeds.LOOSE,)
    families = ("control",)
    nested = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        outcome.count("retyped", graph.reinfer())
        for node in graph.nodes():
            if isinstance(node.op, ControlFlow):
                closer = node.op.refined(*graph.abstracts(node))
                if closer.key() != node.op.key():
                    graph.set_op(node, closer)
                    outcome.count("bodies")
        unknown = [n for n in graph.nodes() if n.types and n.types[0].shape is None]
        for node in unknown[:100]:
            outcome.note(f"the rank of {node.op.name}'s result is unknown", node)
        return outcome


@register_pass
@dataclass(frozen=True)
class Bind(Pass):
    """Give numbers to symbolic dimensions: `bind{batch=1 height=640}`, or a whole shape to an
    input: `bind{x=[1,3,640,640]}`. Exact on inputs of these sizes; others no longer fit.
    """

    name = "bind"
    bound = Exact()
    narrows = True
    seeds = (seeds.SIZES,)
    open_options = "sizes"
    sizes: tuple[tuple[str, Any], ...] = ()

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        inputs = {n.name: n for n in graph.inputs}
        symbols = {d for n in graph.inputs for d in n.type.shape or () if isinstance(d, str)}
        sizes: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for key, value in self.sizes:
            if isinstance(value, tuple) and key in inputs and all(_is_size(v) for v in value):
                shapes[key] = value
            elif isinstance(value, int) and key in symbols and _is_size(value):
                sizes[key] = value
            elif key in symbols or key in inputs:
                want = "a size" if key in symbols else "a list of sizes"
                raise FeedError(f"{key} wants {want}, not {value!r}")
            else:
                known = sorted(symbols | set(inputs))
                raise FeedError(f"no symbol or input is named {key!a}{near(key, known)}",
                                hint=f"the symbols are {sorted(symbols)}")  # fmt: skip
        for node in graph.inputs:
            shape = node.type.shape
            if node.name in shapes:
                made = TensorType(node.type.dtype, shapes[node.name])
                if not node.type.accepts(made):
                    raise FeedError(f"{made} does not fit {node.type}", node=node.name)
            elif shape is not None:
                made = node.type.with_shape(
                    sizes.get(d, d) if isinstance(d, str) else d for d in shape
                )
            else:
                continue
            if made != node.type:
                graph.set_input_type(node, made)
                outcome.count("bound")
        return outcome


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

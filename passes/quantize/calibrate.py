"""The pass `calibrate`, and the ranges of values from which grids are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ...ir import FeedError, Graph, PassError, Value
from ...ir.ops.fused_convolution import SLOPED, FusedConv
from ...ir.ops.joining import Concat
from ..base import Exact, Outcome, Pass, register_pass
from ..context import Context
from .estimate import Estimator, Method, Range
from .functions import fused_step, output_bounds, step_of
from .grids.affine import Scheme
from .observe import Observer
from .place import Placement, place
from .prepare import prepare

RANGES = "calibration"
"""Metadata key under which `calibrate` leaves ranges, as JSON: {value: [low, high]}."""

CONCAT_RATIO = 4.0


def check_sampling(percentile: float, samples: int) -> None:
    """Raises PassError for a percentile or a number of samples that give no range."""
    if not 50 < percentile <= 100:
        raise PassError(f"percentile is {percentile}, which should lie within 50..100")
    if samples < 1:
        raise PassError(f"samples is {samples}, which should be 1 or more")


def value_key(value: Value) -> str:
    return value.node.name if value.index == 0 else f"{value.node.name}:{value.index}"


@register_pass
@dataclass(frozen=True)
class Calibrate(Pass):
    """Run the sample inputs and note the range of every value that `quantize` would give a grid,
    in the graph's metadata. The graph computes the same as before. `quantize` uses the ranges when
    it has no sample inputs of its own.
    """

    name = "calibrate"
    bound = Exact()
    method: Method = "percentile"
    scheme: Scheme = "asymmetric"
    percentile: float = 99.999
    samples: int = 300

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        prepared = graph.copy()
        prepare(prepared, context, Outcome())
        placement = place(prepared, Outcome())
        observer = Observer(placement.shared, {})
        batches = observer.run(prepared, context, self.samples, outcome)
        estimator = Estimator(self.method, self.scheme, self.percentile)
        ranges = {
            value_key(v): estimator(seen)
            for v, seen in observer.seen.items() if v not in observer.unfit
        }  # fmt: skip
        graph.metadata[RANGES] = json.dumps(ranges)
        outcome.count("batches", batches)
        outcome.count("ranges", len(ranges))
        return outcome


def known_ranges(graph: Graph, placement: Placement) -> dict[Value, Range]:
    """The ranges that `calibrate` left. Raises FeedError where one is missing."""
    known = {str(k): (float(a), float(b))
             for k, (a, b) in json.loads(graph.metadata[RANGES]).items()}  # fmt: skip
    missing = [value_key(v) for v in placement.shared if value_key(v) not in known]
    if missing:
        raise FeedError(f"value {missing[0]!r} has no calibrated range",
                        hint="give data=, or calibrate after the other passes")  # fmt: skip
    return {v: known[value_key(v)] for v in placement.shared}


def unfit_readers(graph: Graph, placement: Placement, unfit: Mapping[Value, str]) -> dict[str, str]:
    """The nodes to leave in float because of what they read, and why."""
    found: dict[str, str] = {}
    for value, kind in unfit.items():
        why = f"its operand {value.node.name!r} holds {kind} on a sample input"
        readers = [u.node for u in graph.uses(value) if u.node in placement.roles]
        found.update({n.name: why for n in readers})
    return found


def clipped(graph: Graph, value: Value, r: Range) -> Range:
    """The range without what the value's activation cannot give."""
    node = value.node
    if isinstance(node.op, FusedConv):
        summed = node.op.residual_last and graph.operand(node, 3) is not None
        if summed or node.op.activation == SLOPED:
            return r  # something comes after the activation, or it has slopes of its own
        step = fused_step(node.op.activation, node.op.params)
    else:
        found = step_of(graph, node)
        step = None if found is None else found[0]
    if step is None:
        return r
    low, high = output_bounds(step)
    return max(r[0], min(low, 0.0)), min(r[1], max(high, 0.0))


def share(graph: Graph, placement: Placement, ranges: dict[Value, Range], outcome: Outcome) -> None:
    """Put operands and results of nodes that only move data on one grid.

    A part of a concatenation whose range is far smaller than the whole's keeps a grid of its own
    if others read it too: sharing would cost them precision.
    """
    moving = [n for n, r in placement.roles.items() if r.kind == "same"]
    for node in moving:
        if not isinstance(node.op, Concat):
            for x in placement.roles[node].reads:
                for i in range(len(node.results)):
                    value = graph.operand(node, x)
                    assert value is not None
                    placement.unite(value, node[i])
    for node in moving:
        if not isinstance(node.op, Concat) or node[0] not in placement.shared:
            continue
        parts = [v for v in graph.operands(node) if v is not None]
        widths = {v: _width(placement, ranges, v) for v in parts}
        whole = max(widths.values())
        for v in parts:
            others = sum(u not in placement.direct for u in graph.uses(v)) > 1
            if others and widths[v] * CONCAT_RATIO < whole:
                outcome.note(f"part {v.node.name!r} keeps its own, finer grid", node)
            else:
                placement.unite(v, node[0])


def _width(placement: Placement, ranges: dict[Value, Range], value: Value) -> float:
    low, high = ranges[placement.root(value)]
    return high - low

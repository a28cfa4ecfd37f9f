"""The passes `calibrate` and `quantize`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...ir import FeedError, Graph, Node, PassError, Value
from ...ir.op import Array
from ..base import Changes, Exact, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import erase_dead
from .correct import expected_shift, shifts
from .estimate import Estimator, Method, Range
from .functions import fused_step, output_bounds, step_of
from .grid import Grid, Scheme, channel_grid, grid_of
from .insert import insert_bias, insert_pairs, insert_weight
from .observe import Observer, moment_axis
from .place import Placement, place, takes_bias
from .prepare import prepare
from .weights import (
    Estimate,
    Weights,
    importance,
    least_scales,
    quantize_weight,
    weight_axis,
)
from .widths import Widths

RANGES = "calibration"
"""Metadata key under which `calibrate` leaves ranges, as JSON: {value: [low, high]}."""

CORRECTION_BYTES = 512 << 20
CORRECTION_SAMPLES = 32
CONCAT_RATIO = 4.0


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
        batches = observer.run(prepared, context, self.samples)
        estimator = Estimator(self.method, self.scheme, self.percentile)
        ranges = {
            value_key(v): estimator(seen)
            for v, seen in observer.seen.items() if v not in observer.unfit
        }  # fmt: skip
        graph.metadata[RANGES] = json.dumps(ranges)
        outcome.count("batches", batches)
        outcome.count("ranges", len(ranges))
        return outcome


@register_pass
@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize activations to u8 and weights to s8, written as quantize_linear/dequantize_linear
    pairs around nodes that stay what they are. Runs in float like any other graph.

    calibrate       how activation ranges are chosen from the samples (see estimate.py)
    scheme          of activations: asymmetric, symmetric, or power-of-two scales (for fixed point)
    weights         symmetric or asymmetric; per_channel: one scale per output channel
    bits            of weights, 2 to 8; activation_bits: of activations
    edge_bits       both for the first and the last products and what these read (0: as elsewhere)
    weight_scales   max: by the largest weight; mse: the least expected error of the output
    bias_correction undo the shift of each channel's mean: measured layer by layer on some samples,
                    or expected from the mean inputs of all of them (none: leave it)
    channel_grids   a scale for each channel of what a depthwise convolution reads, where free
    rows            leave matrix products whose input comes from float to `quantize-dynamic`
    skip            names of nodes to leave in float

    Legal for any graph: what has no integer form stays in float, with a remark that says why.
    """

    name = "quantize"
    bound = Changes()
    calibrate: Method = "percentile"
    scheme: Scheme = "asymmetric"
    weights: Literal["symmetric", "asymmetric"] = "symmetric"
    per_channel: bool = True
    bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 0
    percentile: float = 99.999
    weight_scales: Estimate = "mse"
    bias_correction: Literal["measured", "expected"] | None = "measured"
    channel_grids: bool = True
    samples: int = 300
    rows: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._widths.check()
        if not 50 < self.percentile <= 100:
            raise PassError(f"percentile is {self.percentile}, which should lie within 50..100")
        if self.samples < 1:
            raise PassError(f"samples is {self.samples}, which should be 1 or more")

    @property
    def _widths(self) -> Widths:
        return Widths(self.bits, self.activation_bits, self.edge_bits)

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        prepare(graph, context, outcome)
        skip = dict.fromkeys(self.skip, "it is named in `skip`")
        while True:
            found = Outcome()
            placement = place(graph, found, skip, self.rows)
            products = [n for n, r in placement.roles.items() if r.kind == "product"]
            if not products:
                outcome.merge(found)
                outcome.note("nothing is quantized: no convolution or matrix product can be")
                return outcome
            observer = self._observe(graph, context, placement, products)
            unfit = observer.unfit if isinstance(observer, Observer) else {}
            if not unfit:
                break
            skip |= unfit_readers(graph, placement, unfit)
        outcome.merge(found)
        measures = self.bias_correction == "measured" and context.data is not None
        real = graph.copy() if measures else None
        grids = self._grids(graph, placement, observer, outcome)
        bits = self._widths.of(graph, placement)[0]
        chosen = self._weights(graph, bits, grids, observer, outcome)
        shifted = self._expected(graph, chosen, observer)
        insert_pairs(graph, placement, grids)
        scales: dict[str, Array] = {}
        for node, (weights, scale) in chosen.items():
            insert_weight(graph, node, weights)
            scales[node.name] = scale
            bias = real_bias(graph, node)
            if takes_bias(node) and bias is not None:
                insert_bias(graph, node, bias, scale)
            outcome.count("quantized")
        if real is not None:
            shifted = shifts(real, graph, set(scales), context,
                             min(CORRECTION_SAMPLES, self.samples), CORRECTION_BYTES)  # fmt: skip
        for name, shift in shifted.items():
            outcome.count("biases corrected", shift_bias(graph, graph[name], shift, scales[name]))
        outcome.count("grids", len(grids))
        erase_dead(graph, graph.nodes()[::-1])
        return outcome

    def _observe(
        self, graph: Graph, context: Context, placement: Placement, products: list[Node]
    ) -> dict[Value, Range] | Observer:
        """Statistics of all values that get a grid, or ranges from an earlier `calibrate`."""
        if context.data is None and RANGES in graph.metadata:
            return known_ranges(graph, placement)
        axes: dict[Value, int] = {}
        for node in products:
            x = graph.operand(node, 0)
            assert x is not None
            axes.setdefault(x, moment_axis(node))
        observer = Observer(placement.shared, axes)
        observer.run(graph, context, self.samples)
        return observer

    def _grids(
        self, graph: Graph, placement: Placement, observed: dict[Value, Range] | Observer,
        outcome: Outcome,
    ) -> dict[Value, Grid]:  # fmt: skip
        """One grid for each value, shared where it must be."""
        if isinstance(observed, Observer):
            bits = self._widths.of(graph, placement)[1]
            ranges = {
                v: Estimator(self.calibrate, self.scheme, self.percentile, bits[v])(seen)
                for v, seen in observed.seen.items()
            }
        else:
            ranges = observed
        ranges = {v: clipped(graph, v, r) for v, r in ranges.items()}
        share(graph, placement, ranges, outcome)
        bits = self._widths.of(graph, placement)[1]
        grids: dict[Value, Grid] = {}
        for members in placement.groups().values():
            low = min(ranges[v][0] for v in members)
            high = max(ranges[v][1] for v in members)
            width = bits[members[0]]
            grid = grid_of(low, high, self.scheme, bits=width)
            single = self.channel_grids and len(members) == 1 and width == 8
            if single and isinstance(observed, Observer):
                found = self._by_channel(graph, placement, members[0], (low, high), grid, observed)
                if found is not None:
                    grid = found
                    outcome.count("grids by channel")
            grids.update(dict.fromkeys(members, grid))
        return {v: grids[v] for v in placement.shared}

    def _by_channel(
        self, graph: Graph, placement: Placement, value: Value, whole: Range, grid: Grid,
        observer: Observer,
    ) -> Grid | None:  # fmt: skip
        """A grid with a scale for each channel where that costs nothing: between a convolution
        without a curved activation, whose multipliers take it up, and depthwise convolutions,
        whose weights do. None where it is of no use.
        """
        moments = observer.moments.get(value)
        uses = graph.uses(value)
        if moments is None or not moments.count or not linear_convolution(value.node):
            return None
        if any(u in placement.direct or u.position or not depthwise(graph, u.node) for u in uses):
            return None
        weights = [graph.operand(u.node, 1) for u in uses]
        power = np.zeros(moments.low.size)
        for w in weights:
            assert w is not None and w.array is not None
            rows = np.square(w.array.astype(np.float64)).reshape(moments.low.size, -1)
            power += rows.sum(1)
        low, high = np.maximum(moments.low, whole[0]), np.minimum(moments.high, whole[1])
        made = channel_grid(low, high, power, self.scheme)
        if made is None or made.zero == 0 < -whole[0]:
            return None
        better = (power * made.step**2).sum() < 0.8 * (power * grid.scale**2).sum()
        return made if better else None

    def _weights(
        self, graph: Graph, bits: dict[Node, int], grids: dict[Value, Grid],
        observed: dict[Value, Range] | Observer, outcome: Outcome,
    ) -> dict[Node, tuple[Weights, Array]]:  # fmt: skip
        """Integers of each product's weight and the scale of its accumulator."""
        made: dict[Node, tuple[Weights, Array]] = {}
        for node in bits:
            x, w = graph.operand(node, 0), graph.operand(node, 1)
            assert x is not None and w is not None and w.array is not None
            moments = None
            if isinstance(observed, Observer):
                found = observed.moments.get(x)
                # A product of another kind may read the same value along another axis.
                if found is not None and found.axis == moment_axis(node) and found.count:
                    moments = found.variance + 1e-3 * found.mean**2
            weight, axis = w.array.astype(np.float32), weight_axis(node)
            bias = real_bias(graph, node)
            weights = quantize_weight(
                weight,
                axis,
                bits=bits[node],
                per_channel=self.per_channel,
                symmetric=self.weights == "symmetric",
                powers=self.scheme == "power-of-two",
                estimate=self.weight_scales,
                importance=importance(node, weight, moments),
                least=least_scales(bias, spread_step(grids[x], weight), weight, axis),
            )
            step = spread_step(grids[x], weight)
            scale = (weights.scale.astype(np.float64) * step).astype(np.float32)
            made[node] = weights, scale
            if not weight.any():
                outcome.note("all its weights are zero", node)
        return made

    def _expected(
        self, graph: Graph, chosen: dict[Node, tuple[Weights, Array]],
        observed: dict[Value, Range] | Observer,
    ) -> dict[str, Array]:  # fmt: skip
        """Shifts of biases by node name, from the weights' errors and the inputs' means."""
        if self.bias_correction != "expected" or not isinstance(observed, Observer):
            return {}
        found: dict[str, Array] = {}
        for node, (weights, _) in chosen.items():
            x, w = graph.operand(node, 0), graph.operand(node, 1)
            assert x is not None and w is not None and w.array is not None
            moments = observed.moments.get(x)
            if moments is not None and moments.axis == moment_axis(node) and moments.count:
                error = w.array.astype(np.float64) - weights.real()
                found[node.name] = expected_shift(node, error, moments.mean)
        return found


def known_ranges(graph: Graph, placement: Placement) -> dict[Value, Range]:
    """The ranges that `calibrate` left. Raises FeedError where one is missing."""
    known = {str(k): (float(a), float(b))
             for k, (a, b) in json.loads(graph.metadata[RANGES]).items()}  # fmt: skip
    missing = [value_key(v) for v in placement.shared if value_key(v) not in known]
    if missing:
        raise FeedError(f"value {missing[0]!r} has no calibrated range",
                        hint="give data=, or calibrate after the other passes")  # fmt: skip
    return {v: known[value_key(v)] for v in placement.shared}


def unfit_readers(
    graph: Graph, placement: Placement, unfit: Mapping[Value, str]
) -> dict[str, str]:
    """The nodes to leave in float because of what they read, and why."""
    found: dict[str, str] = {}
    for value, kind in unfit.items():
        why = f"its operand {value.node.name!r} holds {kind} on a sample input"
        readers = [u.node for u in graph.uses(value) if u.node in placement.roles]
        found.update({n.name: why for n in readers})
    return found


def depthwise(graph: Graph, node: Node) -> bool:
    """Whether each output channel of a convolution reads one input channel."""
    w = graph.operand(node, 1)
    group = int(getattr(node.op, "group", 1))
    if node.op.name not in ("conv", "fused_conv") or w is None or w.array is None:
        return False
    return group > 1 and w.array.shape[1] == 1 and w.array.shape[0] % group == 0


def linear_convolution(node: Node) -> bool:
    """Whether a convolution's result is a clamped accumulator."""
    activation = getattr(node.op, "activation", "")
    return node.op.name in ("conv", "fused_conv") and activation in ("", "relu", "clip")


def spread_step(grid: Grid, weight: Array) -> Array:
    """A grid's step for each output channel of a depthwise weight (a scalar for other grids)."""
    return np.repeat(grid.step, weight.shape[0] // len(grid.scales)) if grid.scales else grid.step


def real_bias(graph: Graph, node: Node) -> Array | None:
    """The bias of a product as a float vector, dequantized where it already is int32."""
    value = graph.operand(node, 2) if takes_bias(node) else None
    if value is None:
        return None
    if value.array is not None:
        return value.array.reshape(-1)
    q, scale = graph.operands(value.node)[:2]
    if q is None or scale is None or q.array is None or scale.array is None:
        return None
    return q.array.reshape(-1) * scale.array.astype(np.float64)


def shift_bias(graph: Graph, node: Node, shift: Array, scale: Array) -> bool:
    """Add to the bias of a product, or to the constant vector that alone is added to its result.

    Returns whether there was one to add to.
    """
    if not shift.any():
        return False
    if takes_bias(node):
        bias = real_bias(graph, node)
        insert_bias(graph, node, shift if bias is None else bias + shift, scale)
        return True
    uses = graph.uses(node[0])
    if len(uses) != 1 or uses[0].node.op.name != "add":
        return False
    other = graph.operand(uses[0].node, 1 - uses[0].position)
    if other is None or other.array is None or other.array.size not in (1, shift.size):
        return False
    name = f"{other.node.name}.corrected"
    vector = (other.array.reshape(-1) + shift).astype(np.float32)
    made = graph.constant(vector, name, before=uses[0].node)
    graph.set_operand(uses[0].node, 1 - uses[0].position, made)
    return True


def clipped(graph: Graph, value: Value, r: Range) -> Range:
    """The range without what the value's activation cannot give."""
    node = value.node
    if node.op.name == "fused_conv":
        step = fused_step(getattr(node.op, "activation", ""), getattr(node.op, "params", ()))
    else:
        found = step_of(graph, node)
        step = None if found is None else found[0]
    if step is None:
        return r
    low, high = output_bounds(step)
    return max(r[0], min(low, 0.0)), min(r[1], max(high, 0.0))


def share(
    graph: Graph, placement: Placement, ranges: dict[Value, Range], outcome: Outcome
) -> None:
    """Put operands and results of nodes that only move data on one grid.

    A part of a concatenation whose range is far smaller than the whole's keeps a grid of its own
    if others read it too: sharing would cost them precision.
    """
    moving = [n for n, r in placement.roles.items() if r.kind == "same"]
    for node in moving:
        if node.op.name != "concat":
            for x in placement.roles[node].reads:
                for i in range(len(node.results)):
                    value = graph.operand(node, x)
                    assert value is not None
                    placement.unite(value, node[i])
    for node in moving:
        if node.op.name != "concat" or node[0] not in placement.shared:
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

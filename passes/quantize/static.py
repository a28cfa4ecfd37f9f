"""The pass `quantize`: grids of activations fixed beforehand from samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, cast

import numpy as np

from ...ir import Graph, Node, PassError, Value
from ...ir.op import Array
from ...ir.ops.convolution import Conv
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..rewrite import erase_dead
from .calibrate import RANGES, check_sampling, clipped, known_ranges, share, unfit_readers
from .correct import expected_shift, real_bias, shift_bias, shifts
from .estimate import Estimator, Method, Range
from .grids.affine import AffineGrid, Scheme, channel_grid, grid_of
from .insert import insert_bias, insert_pairs, insert_weight
from .observe import Observer, moment_axis
from .place import Placement, place, takes_bias
from .prepare import prepare
from .schemes import grid_class
from .stored import Store
from .weights import (
    Estimate,
    Weights,
    importance,
    least_scales,
    quantize_weight,
    weight_axis,
)
from .widths import Widths

CORRECTION_BYTES = 512 << 20
CORRECTION_SAMPLES = 32
STORED_OPTIONS = ("scheme", "per_channel", "weight_scales", "samples", "skip", "rows")
"""What means something where only weights are quantized."""


@register_pass
@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize activations to u8 and weights to s8, written as quantize_linear/dequantize_linear
    pairs around nodes that stay what they are. Runs in float like any other graph.

    calibrate       how activation ranges are chosen from the samples (see estimate.py)
    scheme          of activations: asymmetric, symmetric, or power-of-two scales (for fixed point);
                    any other (docs/writing-a-scheme.md) stores the weights in its grid and leaves
                    activations in float: float8 (e4m3), float8-e5m2. Then per_channel,
                    weight_scales, samples and skip are as here, and rows has no meaning
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
    scheme: str = "asymmetric"
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
        check_sampling(self.percentile, self.samples)
        if grid_class(self.scheme).lowers:
            return
        for f in fields(self):
            if f.name not in STORED_OPTIONS and getattr(self, f.name) != f.default:
                raise PassError(f"{self.scheme} has no option {f.name}, which is of integers",
                                hint=f"it takes {', '.join(STORED_OPTIONS)}")  # fmt: skip

    @property
    def _affine(self) -> Scheme:
        return cast(Scheme, self.scheme)

    @property
    def _widths(self) -> Widths:
        return Widths(self.bits, self.activation_bits, self.edge_bits)

    def run(self, graph: Graph, context: Context) -> Outcome:
        if not grid_class(self.scheme).lowers:
            least_error = self.weight_scales == "mse"
            store = Store(graph, self.scheme, self.per_channel, least_error, self.skip)
            return store.run(context, self.samples)
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
            observer = self._observe(graph, context, placement, products, outcome)
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
        self,
        graph: Graph,
        context: Context,
        placement: Placement,
        products: list[Node],
        outcome: Outcome,
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
        observer.run(graph, context, self.samples, outcome)
        return observer

    def _grids(
        self, graph: Graph, placement: Placement, observed: dict[Value, Range] | Observer,
        outcome: Outcome,
    ) -> dict[Value, AffineGrid]:  # fmt: skip
        """One grid for each value, shared where it must be."""
        if isinstance(observed, Observer):
            bits = self._widths.of(graph, placement)[1]
            ranges = {
                v: Estimator(self.calibrate, self._affine, self.percentile, bits[v])(seen)
                for v, seen in observed.seen.items()
            }
        else:
            ranges = observed
        ranges = {v: clipped(graph, v, r) for v, r in ranges.items()}
        share(graph, placement, ranges, outcome)
        bits = self._widths.of(graph, placement)[1]
        grids: dict[Value, AffineGrid] = {}
        for members in placement.groups().values():
            low = min(ranges[v][0] for v in members)
            high = max(ranges[v][1] for v in members)
            width = bits[members[0]]
            grid = grid_of(low, high, self._affine, bits=width)
            single = self.channel_grids and len(members) == 1 and width == 8
            if single and isinstance(observed, Observer):
                found = self._by_channel(graph, placement, members[0], (low, high), grid, observed)
                if found is not None:
                    grid = found
                    outcome.count("grids by channel")
            grids.update(dict.fromkeys(members, grid))
        return {v: grids[v] for v in placement.shared}

    def _by_channel(
        self, graph: Graph, placement: Placement, value: Value, whole: Range, grid: AffineGrid,
        observer: Observer,
    ) -> AffineGrid | None:  # fmt: skip
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
        made = channel_grid(low, high, power, self._affine)
        if made is None or made.zero == 0 < -whole[0]:
            return None
        better = (power * made.step**2).sum() < 0.8 * (power * grid.scale**2).sum()
        return made if better else None

    def _weights(
        self, graph: Graph, bits: dict[Node, int], grids: dict[Value, AffineGrid],
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


def depthwise(graph: Graph, node: Node) -> bool:
    """Whether each output channel of a convolution reads one input channel."""
    w = graph.operand(node, 1)
    group = int(getattr(node.op, "group", 1))
    if not isinstance(node.op, Conv) or w is None or w.array is None:
        return False
    return group > 1 and w.array.shape[1] == 1 and w.array.shape[0] % group == 0


def linear_convolution(node: Node) -> bool:
    """Whether a convolution's result is a clamped accumulator."""
    activation = getattr(node.op, "activation", "")
    return isinstance(node.op, Conv) and activation in ("", "relu", "clip")


def spread_step(grid: AffineGrid, weight: Array) -> Array:
    """A grid's step for each output channel of a depthwise weight (a scalar for other grids)."""
    return np.repeat(grid.step, weight.shape[0] // len(grid.scales)) if grid.scales else grid.step

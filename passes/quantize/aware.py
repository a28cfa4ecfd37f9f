"""The passes of quantization-aware training: `quantize-aware` and `finalize-quantization`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...ir import Graph, Node, PassError, Value
from ...ir.op import Array
from ..base import Changes, Outcome, Pass, register_pass
from ..context import Context
from ..gradient.statistics import split_statistics
from .calibrate import RANGES, check_sampling, clipped, known_ranges, share, unfit_readers
from .correct import real_bias
from .estimate import Estimator, Method, Range
from .finalize import Finalizer
from .grids.affine import AffineGrid, grid_of
from .learned import Learning, insert_learned, insert_learned_weight, round_bias
from .observe import Observer
from .place import Placement, place
from .prepare import prepare
from .weights import least_scales, quantize_weight, weight_axis
from .widths import Widths


@register_pass
@dataclass(frozen=True)
class QuantizeAware(Pass):
    """Put the quantization of weights and activations into a graph that is to be trained:

        conv(x, w) -> conv(dequantize(quantize(clip(x))), dequantize(quantize(clip(w))))

    Nodes are chosen as `quantize` chooses them. Weights stay float constants that are rounded each
    time; scales are parameters (NAME.log_scale) which start from calibration. docs/quantization.md
    has the gradients. A batch normalization behind a convolution or gemm stays, for training to
    move; `finalize-quantization` puts it into the scales, which leaves the integers as they are.

    weight_bits, activation_bits   2 to 8
    edge_bits      the same for the first and the last products, and what these read (0: no others)
    scheme         of activations; weights are symmetric, one scale an output channel (per_channel)
    scales         learned, or frozen at what calibration found
    zero_points    learned (LSQ+) where they lie within the grid, or frozen
    scale_rate     how many times as fast as weights scales learn
    calibrate, percentile, samples, skip   as `quantize` has them

    Legal for any graph: what has no integer form stays in float, with a remark that says why. Run
    what folds constants before it, not after: with frozen scales it would fold the weights too.
    """

    name = "quantize-aware"
    bound = Changes()
    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    calibrate: Method = "mse"
    scheme: Literal["asymmetric", "symmetric"] = "asymmetric"
    per_channel: bool = True
    scales: Literal["learned", "frozen"] = "learned"
    zero_points: Literal["learned", "frozen"] = "frozen"
    scale_rate: float = 1.0
    percentile: float = 99.999
    samples: int = 300
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._widths.check()
        check_sampling(self.percentile, self.samples)
        if not 0 < self.scale_rate < float("inf"):
            raise PassError(f"scale_rate is {self.scale_rate}, which should be above 0")

    @property
    def _widths(self) -> Widths:
        return Widths(self.weight_bits, self.activation_bits, self.edge_bits)

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        prepare(graph, context, outcome)
        split_statistics(graph)
        placement, ranges = self._observe(graph, context, outcome)
        if not placement.roles:
            outcome.note("nothing is quantized: no convolution or matrix product can be")
            return outcome
        bits, value_bits = self._widths.of(graph, placement)
        grids = self._grids(graph, placement, ranges, value_bits, outcome)
        learning = Learning(self.scales == "learned", self.zero_points == "learned",
                            self.scale_rate)  # fmt: skip
        scales = {n: self._weight_scale(graph, n, grids, bits[n]) for n in bits}
        insert_learned(graph, placement, grids, learning)
        for node, scale in scales.items():
            insert_learned_weight(graph, node, scale, bits[node], learning)
            round_bias(graph, node)
            outcome.applied("quantized", node, f"weights of {bits[node]} bits")
        outcome.count("grids", len(set(map(placement.root, grids))))
        return outcome

    def _observe(
        self, graph: Graph, context: Context, outcome: Outcome
    ) -> tuple[Placement, dict[Value, Range] | Observer]:
        """What is quantized, and its statistics; nodes that read NaN on a sample stay in float."""
        skip = dict.fromkeys(self.skip, "it is named in `skip`")
        while True:
            found = Outcome()
            placement = place(graph, found, skip, normalized=True)
            seen: dict[Value, Range] | Observer = {}
            if placement.shared and context.data is None and RANGES in graph.metadata:
                seen = known_ranges(graph, placement)
            elif placement.shared:
                seen = Observer(placement.shared, {})
                seen.run(graph, context, self.samples, found)
                if seen.unfit:
                    skip |= unfit_readers(graph, placement, seen.unfit)
                    continue
            outcome.merge(found)
            return placement, seen

    def _grids(
        self, graph: Graph, placement: Placement, seen: dict[Value, Range] | Observer,
        bits: dict[Value, int], outcome: Outcome,
    ) -> dict[Value, AffineGrid]:  # fmt: skip
        """One grid for each value, shared where it must be."""

        def estimate(v: Value) -> Range:
            if not isinstance(seen, Observer):
                return seen[v]
            return Estimator(self.calibrate, self.scheme, self.percentile, bits[v])(seen.seen[v])

        ranges = {v: clipped(graph, v, estimate(v)) for v in placement.shared}
        share(graph, placement, ranges, outcome)
        bits = self._widths.of(graph, placement)[1]
        grids: dict[Value, AffineGrid] = {}
        for members in placement.groups().values():
            low, high = min(ranges[v][0] for v in members), max(ranges[v][1] for v in members)
            grid = grid_of(low, high, self.scheme, bits=bits[members[0]])
            grids.update(dict.fromkeys(members, grid))
        return grids

    def _weight_scale(
        self, graph: Graph, node: Node, grids: dict[Value, AffineGrid], bits: int
    ) -> Array:
        x, w = graph.operand(node, 0), graph.operand(node, 1)
        assert x is not None and w is not None and w.array is not None
        weight, axis = w.array.astype(np.float32), weight_axis(node)
        least = least_scales(real_bias(graph, node), grids[x].step, weight, axis)
        return quantize_weight(weight, axis, bits=bits, per_channel=self.per_channel,
                               estimate="mse", least=least).scale  # fmt: skip


TRAINED = """
graph @trained(%x: f32[n,4]) -> (%y: f32[n,3]) {
  %w = constant [1.0, -2.0, 3.0, 4.0, 5.0, -6.0, -7.0, 8.0, 9.0, 1.0, 2.0, 3.0] : f32[4,3]
  %log = constant -3.5 : f32[]
  %step = exp(%log) : f32[]
  %zero = constant 0 : u8[]
  %most = constant 255.0 : f32[]
  %none = constant 0.0 : f32[]
  %low = mul(%step, %none) : f32[]
  %high = mul(%step, %most) : f32[]
  %clipped = clip(%x, %low, %high) : f32[n,4]
  %q = quantize_linear(%clipped, %step, %zero) : u8[n,4]
  %d = dequantize_linear(%q, %step, %zero) : f32[n,4]
  %steps = constant [0.07, 0.05, 0.06] : f32[3]
  %wq = quantize_linear(%w, %steps) {output_dtype=i8} : i8[4,3]
  %wd = dequantize_linear(%wq, %steps) : f32[4,3]
  %1 = mat_mul(%d, %wd) : f32[n,3]
  %y = relu(%1) : f32[n,3]
  return %y
}
"""


@register_pass
@dataclass(frozen=True)
class FinalizeQuantization(Pass):
    """Turn a graph that was trained after `quantize-aware` into what `quantize` writes, constants
    for scales, zero points, integer weights and int32 biases; `lower-integer` takes it on.

        dequantize(quantize(clip(w), scale(v)), scale(v))  ->  dequantize(integers, scale)
        bn(conv(x, dequantize(q, s), b))
            ->  conv(x, dequantize(q * sign(a), s * |a|), (b - mean) * a + beta),
                a = gamma / sqrt(var + eps)

    Scales, integers and biases are those that training rounded to, and a graph without batch
    normalizations computes the same bits (while its biases are below 2^23 steps); folding one adds
    float's rounding. Idempotent, and legal for any graph. PassError where training left a scale
    that is not a finite positive number.
    """

    name = "finalize-quantization"
    absent = "there are no quantizers in training"
    bound = Changes()
    seeds = (TRAINED,)

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        Finalizer(graph, context.limits, outcome).run()
        return outcome

"""Bias correction: move each product's mean output back to where it was in float.

Rounding weights and inputs shifts the mean of every output channel (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019; Finkelstein et al. 2019).

*Expected*: what the weights' errors make of the mean inputs, b += sum_k (w_k - wq_k) E[x_k].

*Measured*: samples run through the float and through the quantized graph in lockstep, node by
node, and each product's bias is mended before the next node runs, so that later layers see inputs
that are already mended. A shift is shrunk by how sure it is (James-Stein): over few samples it
would otherwise fit noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...ir import FeedError, Graph, Node, Value
from ...ir.interpret import run_node
from ...ir.op import Array
from ...ir.ops.convolution import Conv
from ...ir.ops.elementwise import Add
from ...ir.ops.fused_convolution import FusedConv
from ...ir.ops.linear import Gemm, MatMul
from ...ir.ops.structure import Constant, Input
from ..context import Context
from .insert import insert_bias
from .place import takes_bias

Lanes = list[Array]
"""One value of every sample."""

Mend = Callable[[Node, Lanes], Array | None]
"""From a product and its results before activation to what is added to each channel."""


def samples_that_fit(graph: Graph, context: Context, most: int, budget: int) -> list[
    dict[str, Array]
]:  # fmt: skip
    """The first sample inputs, as many as run in lockstep within `budget` bytes."""
    found: list[dict[str, Array]] = []
    for feeds in context.feeds(graph, most):
        found.append(feeds)
        if len(found) == 1:
            peak = peak_bytes(graph, feeds, context)
            most = max(4, min(most, budget // max(peak, 1)))
        if len(found) >= most:
            break
    return found


def peak_bytes(graph: Graph, feeds: dict[str, Array], context: Context) -> int:
    """The most bytes of results that are alive at once for one sample."""
    alive: dict[Value, int] = {}
    peak = 0
    for node, lanes, dead in lockstep(graph, [feeds], context, None):
        for i, lane in enumerate(lanes):
            alive[Value(node, i)] = lane[0].nbytes
        peak = max(peak, sum(alive.values()))
        for v in dead:
            alive.pop(v, None)
    return peak


def lockstep(
    graph: Graph, feeds: list[dict[str, Array]], context: Context, mend: Mend | None
) -> Iterator[tuple[Node, list[Lanes], list[Value]]]:
    """Run all samples node by node; yields (node, results by index, values that are dead now)."""
    values: dict[Value, Lanes] = {}
    left = {Value(n, i): graph.use_count(n[i]) for n in graph.nx for i in range(len(n.results))}
    for node in graph.nodes():
        if node is graph.result:
            return
        operands = graph.operands(node)
        if isinstance(node.op, Input):
            made = [[f[node.name]] for f in feeds]
        else:
            rows = zip(*(values[v] if v is not None else [None] * len(feeds) for v in operands))
            inputs = [list(row) for row in rows] if operands else [[] for _ in feeds]
            made = _run(node, inputs, context, mend)
        results = [[m[i] for m in made] for i in range(len(node.results))]
        for i, lane in enumerate(results):
            if left[Value(node, i)]:
                values[Value(node, i)] = lane
        dead: list[Value] = []
        for v in operands:
            if v is not None:
                left[v] -= 1
                if not left[v]:
                    values.pop(v, None)
                    dead.append(v)
        yield node, results, dead


def _run(
    node: Node, inputs: list[list[Array | None]], context: Context, mend: Mend | None
) -> list[list[Array]]:
    if isinstance(node.op, Constant):
        one = list(run_node(node, [], context.limits))
        return [one] * len(inputs)
    if mend is None or not isinstance(node.op, Conv | Gemm | MatMul):
        return [list(run_node(node, row, context.limits)) for row in inputs]
    if not isinstance(node.op, FusedConv):
        lanes = [run_node(node, row, context.limits)[0] for row in inputs]
        return [[x] for x in _mended(node, lanes, mend)]
    # The shift is measured before the residual and the activation.
    op = node.op
    plain = op.replace(activation="", params=(), residual_last=False)
    with np.errstate(all="ignore"):
        lanes = [np.asarray(plain.evaluate(row[:3], context.limits)) for row in inputs]
        lanes = _mended(node, lanes, mend)
        ends = [[*row[3:5], None, None][:2] for row in inputs]
        return [[np.asarray(op.finished(x, *end))] for x, end in zip(lanes, ends)]


def _mended(node: Node, lanes: Lanes, mend: Mend) -> Lanes:
    shift = mend(node, lanes)
    if shift is None:
        return lanes
    axis = channel_axis(node)
    return [
        x + shift.astype(x.dtype).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
        for x in lanes
    ]


def channel_axis(node: Node) -> int:
    """The axis of output channels in a product's result."""
    assert node.op.weighted is not None
    return node.op.weighted.channels


def channel_means(node: Node, lanes: Lanes) -> Array:
    """Means over everything but the channel: (sample, channel)."""
    axis = channel_axis(node)
    over = [tuple(i for i in range(x.ndim) if i != axis % x.ndim) for x in lanes]
    return np.stack([x.mean(o, dtype=np.float64) for x, o in zip(lanes, over)])


def shifts(
    real: Graph, quantized: Graph, names: set[str], context: Context, most: int, budget: int
) -> dict[str, Array]:
    """What to add to the bias of each product of `names` (the same in both graphs), by name."""
    feeds = samples_that_fit(real, context, most, budget)
    if not feeds:
        raise FeedError("the sample inputs are empty")
    means: dict[str, Array] = {}

    def note(node: Node, lanes: Lanes) -> Array | None:
        if node.name in names:
            means[node.name] = channel_means(node, lanes)
        return None

    for graph_node, _, _ in lockstep(real, feeds, context, note):
        del graph_node
    context.report(1, 2, "bias correction")
    found: dict[str, Array] = {}

    def mend(node: Node, lanes: Lanes) -> Array | None:
        if node.name not in means:
            return None
        shift = shrunk(means[node.name] - channel_means(node, lanes))
        found[node.name] = shift
        return shift

    for graph_node, _, _ in lockstep(quantized, feeds, context, mend):
        del graph_node
    context.report(2, 2, "bias correction")
    return found


def expected_shift(node: Node, error: Array, mean: Array) -> Array:
    """sum_k error_k E[x_k] for each output channel; `mean` has one number per input channel."""
    if isinstance(node.op, Gemm | MatMul):
        turned = isinstance(node.op, Gemm) and node.op.transB
        return mean @ (error.T if turned else error)
    group = int(getattr(node.op, "group", 1))
    taps = error.sum(tuple(range(2, error.ndim))).reshape(group, -1, error.shape[1])
    return np.einsum("goi,gi->go", taps, mean.reshape(group, -1)).reshape(-1)


def shrunk(gaps: Array) -> Array:
    """The mean of (sample, channel) gaps, drawn toward zero by its own uncertainty:
    mean * max(0, 1 - (variance of the mean) / mean^2), zero for a single sample's noise.
    """
    mean = gaps.mean(0)
    if len(gaps) < 2:
        return np.zeros_like(mean)
    uncertain = gaps.var(0, ddof=1) / len(gaps)
    with np.errstate(all="ignore"):
        keep = np.where(mean != 0, np.maximum(0.0, 1.0 - uncertain / (mean * mean)), 0.0)
    return np.nan_to_num(mean * keep)


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
    if len(uses) != 1 or not isinstance(uses[0].node.op, Add):
        return False
    other = graph.operand(uses[0].node, 1 - uses[0].position)
    if other is None or other.array is None or other.array.size not in (1, shift.size):
        return False
    name = f"{other.node.name}.corrected"
    vector = (other.array.reshape(-1) + shift).astype(np.float32)
    made = graph.constant(vector, name, before=uses[0].node)
    graph.set_operand(uses[0].node, 1 - uses[0].position, made)
    return True

"""Fused groups, normalizations, softmax and reductions: each one generated loop nest.

A single op is a group of one. What the loops cannot do is taken apart again before lowering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ....ir import Array, Builder, Graph, Node, Value
from ....ir.analysis.index import NotNest
from ....ir.analysis.nest import Apply, Nest, Read, expressions
from ....ir.analysis.nest_rules import FINISHED, SIMPLE
from ....ir.analysis.trace import trace
from ....ir.bodies import specialize
from ....ir.op import Abstract
from ....ir.ops.fusion import Fusion
from ....ir.ops.structure import Constant, Input
from ...schedule.formulas import template_of
from ...schedule.layout import KERNEL_TYPES, Buffer, Ref, Tensor, round_up
from ...schedule.loops import Loops, View, extent, loops_of
from ...schedule.sizes import live_nodes
from ...schedule.steps import Step, Word
from ..nests.fusion import nest_kernel
from ..nests.stages import Writer
from . import generic
from .checks import refusal, scale_checks, unfit
from .lowering import Lowering
from .registry import lowers

ONE_CHUNK = 1024  # elements that are not worth sharing out

ROW_OPS = (
    "softmax", "log_softmax", "layer_normalization", "rms_normalization", "instance_normalization",
    "global_average_pool", "global_max_pool", *SIMPLE, *FINISHED,
)  # fmt: skip


def emit_nest(
    low: Lowering, nest: Nest, tensor: Callable[[Value], Tensor], outputs: Sequence[Tensor],
    name: str, nodes: tuple[str, ...],
) -> None:  # fmt: skip
    """Emit the step that computes a nest of known sizes."""
    sizes = nest.sizes
    if any(sizes[k] == 0 for k in nest.rows):
        return
    reads = [e for e in expressions([s.expr for s in nest.stores]) if isinstance(e, Read)]
    views = {e: View.of(tensor(e.value), e.index, len(sizes)) for e in reads}
    targets = [View.of(outputs[s.output], s.index, len(sizes)) for s in nest.stores]
    loops = loops_of(nest, targets, list(views.values()), low.threads)
    writer = Writer(nest, loops, {**views}, targets)
    text = writer.write()
    rows = math.prod(extent(nest, g) for g in loops.rows) * loops.pieces
    points = loops.width * math.prod(extent(nest, g) for g in loops.around)
    per = _per_chunk(rows, points, low.threads)
    chunks = -(-rows // per)
    scratch, room, offsets = _scratch(low, writer, points, chunks)
    words: list[Word] = [0, 0, chunks, rows, per, loops.width, loops.tail]
    words += [0 if scratch is None else Ref(scratch), room, *_sizes(nest, loops), *offsets]
    for place, view in zip(text.places, writer.used):
        words.append(view.ref)
        if place.outside:
            words += _strides(view, loops)
        if place.inside:
            words += [view.step(g) for g in loops.around]
        if place.step == "g":
            words.append(view.step(loops.inner))
    written = [t.tensor.buffer for t in targets] + ([] if scratch is None else [scratch])
    kernel = generic.kernel_of(nest_kernel, name, text=text)
    low.emit(Step(kernel, words, [v.tensor.buffer for v in views.values()], written, nodes))


def _per_chunk(rows: int, points: int, threads: int) -> int:
    if threads == 1:
        return rows
    return max(-(-rows // (4 * threads)), -(-ONE_CHUNK // max(points, 1)))


def _scratch(
    low: Lowering, writer: Writer, points: int, chunks: int
) -> tuple[Buffer | None, int, list[int]]:
    """The buffer for all chunks, a chunk's bytes, and where in them each array begins."""
    offsets, at = [], 0
    for slot in writer.slots:
        offsets.append(at)
        count = points if slot.whole else writer.loops.width
        at += round_up(count * slot.dtype.numpy.itemsize, 64)
    if not at:
        return None, 0, offsets
    return low.scratch(at * chunks), at, offsets


def _sizes(nest: Nest, loops: Loops) -> list[Word]:
    rows: list[Word] = [extent(nest, g) for g in loops.rows]
    rows += [loops.pieces] if loops.pieces > 1 else []
    return [*(rows or [1]), *(extent(nest, g) for g in loops.around)]


def _strides(view: View, loops: Loops) -> list[Word]:
    rows: list[Word] = [view.step(g) for g in loops.rows]
    rows += [view.step(loops.inner) * loops.width] if loops.pieces > 1 else []
    return rows or [0]


# ---- single ops --------------------------------------------------------------------------------


@lowers(*ROW_OPS)
def row_op(low: Lowering, node: Node) -> bool:
    """A reduction, softmax or normalization by itself."""
    if node.type.size == 0 or len(node.results) > 1:
        return False
    try:
        nests = trace(low.graph, {node}, [node[0]])
        require(nests)
    except NotNest:
        return False
    out = low.result(node[0], exact=True)
    for nest in nests:
        emit_nest(low, nest, low.tensor, [out], node.op.name, (node.name,))
    return True


def emit_body(
    low: Lowering, build: Callable[..., Value], sources: Sequence[Tensor], out: Tensor, name: str,
    nodes: tuple[str, ...],
) -> None:  # fmt: skip
    """Emit the nests of what `build(builder, *inputs)` computes from these tensors."""
    b = Builder()
    inputs = [b.input(f"x{i}", t.dtype, t.shape) for i, t in enumerate(sources)]
    body = b.outputs(y=build(b, *inputs))
    given = {v.node: t for v, t in zip(inputs, sources)}
    for nest in body_nests(body):
        emit_nest(low, nest, lambda v: given.get(v.node) or low.place(_contents(v)), [out], name,
                  nodes)  # fmt: skip


def _contents(value: Value) -> Array:
    assert value.array is not None
    return value.array


def require(nests: Sequence[Nest]) -> None:
    """Raise NotNest unless every op of these has a formula for its types."""
    for nest in nests:
        for e in expressions([s.expr for s in nest.stores]):
            if e.dtype not in KERNEL_TYPES:
                raise NotNest(f"{e.dtype.value} is not computed in loops")
            if isinstance(e, Apply) and template_of(e) is None:
                raise NotNest(f"{e.op.name} of {e.dtype.value} has no formula")


# ---- fused groups ------------------------------------------------------------------------------


def body_nests(body: Graph) -> list[Nest]:
    """The nests of a body whose sizes are known. Raises NotNest."""
    members = {n for n in live_nodes(body) if not isinstance(n.op, Input)}
    nests = trace(body, members, body.outputs)
    require(nests)
    return nests


@lowers("fusion")
def fusion(low: Lowering, node: Node) -> bool:
    """A fused group; those that are no nests were inlined before (`inlined`)."""
    operands = [v for v in low.graph.operands(node) if v is not None]
    body = _body(node.op, [v.abstract for v in operands])
    nests = body_nests(body)
    given = dict(zip(body.inputs, operands))

    def tensor(value: Value) -> Tensor:
        operand = given.get(value.node)
        return low.place(_contents(value)) if operand is None else low.tensor(operand)

    outs = [low.result(node[i], exact=True) for i in range(len(node.results))]
    name = "fused_" + "_".join(dict.fromkeys(
        n.op.name for n in body.nodes() if n is not body.result
        and not isinstance(n.op, Input | Constant)
    ))[-40:]  # fmt: skip
    nodes = tuple(n.name for n in body.nodes() if n is not body.result
                  and not isinstance(n.op, Input | Constant))  # fmt: skip
    for nest in nests:
        emit_nest(low, nest, tensor, outs, name, nodes)
    for made, twin in scale_checks(body):
        given |= zip(twin.inputs, operands)
        fault = low.fault_tensor(refusal(made.name))
        for nest in body_nests(twin):
            emit_nest(low, nest, tensor, [fault], "scale", (made.name,))
    return True


def emit_scale_check(low: Lowering, scale: Tensor, name: str) -> None:
    """Have the call refused where one of these scales is not finite and positive."""
    fault = low.fault_tensor(refusal(name))
    emit_body(low, unfit, [scale], fault, "scale", (name,))


def _body(op: object, operands: list[Abstract]) -> Graph:
    assert isinstance(op, Fusion)
    return specialize(op.body, operands)


def is_nest(graph: Graph, node: Node) -> bool:
    """Whether a fused group of known sizes can run as loop nests."""
    try:
        body = _body(node.op, [v.abstract for v in graph.operands(node) if v is not None])
        for each in (body, *(twin for _, twin in scale_checks(body))):
            body_nests(each)
    except NotNest:
        return False
    return True

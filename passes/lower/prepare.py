"""What other tools write, in the form that lowering matches. Every step keeps all numbers,
but for a cast between float types.

    quantize(x) : i8 -> dequantize        ->  the same pair over u8, which has more kernels
    move(dequantize(constant))            ->  dequantize(constant, moved)
    move(dequantize(q))                   ->  dequantize(move(q)): reshape, max_pool, concat, ...
    f(dequantize(q)), f's results on grid ->  dequantize(lookup(q)): relu, clip
    cast(dequantize(q) : f16) : f32       ->  dequantize(q) : f32, which rounds once less
    fused_conv{residual_last}, {prelu}    ->  conv, and what follows it
    conv_transpose                        ->  depth_to_space(conv): see transposed.py
"""

from __future__ import annotations

import numpy as np

from ...ir import DType, Graph, Node, TautError, Value
from ...ir.op import Array
from ...ir.ops.integer import Lookup
from ...ir.ops.joining import Concat, Pad
from ...ir.ops.pooling import GlobalMaxPool, MaxPool
from ...ir.ops.quantization import DequantizeLinear, Quantization, QuantizeLinear
from ...ir.ops.resize import Resize, Upsample
from ...ir.ops.shape import Cast
from ..base import Outcome
from ..quantize.functions import ARITHMETIC, step_of
from ..quantize.place import SAME, Role, same_role
from ..quantize.prepare import split_endings
from .match import REALS, Integers, dequantized_weight, integers_of, weight_of
from .transposed import unfold_transposed

MAKES_ELEMENTS = (MaxPool, GlobalMaxPool, Pad, Resize, Upsample, Concat)
"""Of what moves data, what does more than to choose and order elements of one operand."""


def prepare(graph: Graph, outcome: Outcome) -> None:
    """Apply the rewrites above wherever they fit."""
    for node in graph.nodes():
        if isinstance(node.op, QuantizeLinear):
            as_unsigned(graph, node)
    for node in graph.nodes():
        if node not in graph or not node.results or not node.type.dtype.is_float:
            continue
        operands = [v for v in graph.operands(node) if v is not None]
        if not any(isinstance(v.node.op, DequantizeLinear) for v in operands):
            continue
        if unfold_transposed(graph, node, outcome):
            continue
        split_endings(graph, node, outcome)
        if isinstance(node.op, Cast):
            convert(graph, node)
        if node not in graph or move_constant(graph, node) or move_integers(graph, node):
            continue
        realize(graph, node)
        tabulate(graph, node)


def as_unsigned(graph: Graph, node: Node) -> None:
    """i8 and its zero point as u8, 128 more, where only dequantizations read it."""
    if node.type.dtype is not DType.i8 or graph.is_output(node[0]):
        return
    pairs = [node, *graph.users(node)]
    if any(not isinstance(n.op, DequantizeLinear) for n in pairs[1:]) or len(pairs) < 2:
        return
    zeros: list[Array] = []
    for n in pairs:
        operands = graph.operands(n)
        zero = operands[2] if len(operands) > 2 else None
        scale = operands[1]
        if scale is None or scale.array is None or (zero is not None and zero.array is None):
            return
        shape = scale.array.shape
        known = np.zeros(shape, np.int8) if zero is None or zero.array is None else zero.array
        zeros.append((known.astype(np.int32) + 128).astype(np.uint8))
    before = pairs[0]
    made: Value | None = None
    for n, zero in zip(pairs, zeros):
        op, (x, scale) = n.op, graph.operands(n)[:2]
        assert isinstance(op, Quantization)
        if isinstance(op, QuantizeLinear):
            op = op.replace(output_dtype=None)
        z = graph.constant(zero, f"{n.name}.unsigned_zero", before=before)
        new = graph.add(op, made or x, scale, z, name=f"{n.name}.unsigned", before=n)
        if made is None:
            made = new[0]
        else:
            graph.replace_all_uses(n[0], new[0])


def convert(graph: Graph, node: Node) -> None:
    """A dequantization to one float type cast to another, as one to that: a rounding less."""
    real, to = graph.operand(node, 0), node.type.dtype
    if real is None or to not in REALS or real.type.dtype not in REALS:
        return
    x, scale, *rest = graph.operands(real.node)
    if scale is None or scale.array is None or getattr(real.node.op, "output_dtype", None):
        return
    factor = scale.array.astype(to.numpy)
    if not (np.isfinite(factor).all() and (factor.astype(scale.array.dtype) == scale.array).all()):
        return
    constant = graph.constant(factor, f"{node.name}.scale", before=node)
    made = graph.add(real.node.op, x, constant, *rest, name=f"{node.name}.dequantized", before=node)
    graph.replace_all_uses(node[0], made[0])


def move_constant(graph: Graph, node: Node) -> bool:
    """A moved dequantized constant as the dequantization of the moved constant."""
    operands = graph.operands(node)
    real = operands[0]
    if real is None or not isinstance(real.node.op, DequantizeLinear) or len(node.results) > 1:
        return False
    known = weight_of(graph, real)
    if known is None or any(v is not None and v.array is None for v in operands[1:]):
        return False
    if not isinstance(node.op, SAME) or isinstance(node.op, MAKES_ELEMENTS):
        return False
    rest = [None if v is None else v.array for v in operands[1:]]

    def moved(array: Array) -> Array | None:
        try:
            return np.asarray(node.op.reference(array, *rest))
        except (TautError, ValueError, TypeError, IndexError):
            return None

    integers = moved(known.array)
    axis = known.axis
    if integers is not None and axis is not None:
        # Each element's place along the axis, moved as the elements are.
        shape = [-1 if k == axis else 1 for k in range(known.array.ndim)]
        places = np.broadcast_to(np.arange(known.array.shape[axis]).reshape(shape),
                                 known.array.shape)  # fmt: skip
        axis = axis_of(moved(np.ascontiguousarray(places)), known.array.shape[axis])
        if axis is None:
            return False
    if integers is None:
        return False
    known = known._replace(array=np.ascontiguousarray(integers), axis=axis)
    made = dequantized_weight(graph, known, real, node.name, node)
    graph.replace_all_uses(node[0], made)
    return True


def axis_of(places: Array | None, count: int) -> int | None:
    """The axis along which `places` counts 0, 1, ..., count - 1."""
    if places is None:
        return None
    for axis, n in enumerate(places.shape):
        shape = [-1 if k == axis else 1 for k in range(places.ndim)]
        if n == count and (places == np.arange(n).reshape(shape)).all():
            return axis
    return None


def move_integers(graph: Graph, node: Node) -> bool:
    """Data movement and maxima behind dequantizations of one grid, made on the integers."""
    operands = graph.operands(node)
    role = same_role(node, operands) if isinstance(node.op, SAME) else ""
    if not isinstance(role, Role):
        return False
    found: list[Integers] = []
    for i in role.reads:
        integers = integers_of(graph, operands[i])
        if integers is None or integers.grid.scales:
            return False
        found.append(integers)
    grid = found[0].grid
    if any(f.grid != grid for f in found):
        return False
    for i, f in zip(role.reads, found):
        operands[i] = f.value
    if isinstance(node.op, Pad) and node.op.mode == "constant":
        fill = graph.operands_of(node).get("value")
        real = np.zeros((), np.float32) if fill is None else fill.array
        if real is None or grid.decode(grid.encode(real.reshape(()))) != real.reshape(()):
            return False
        padded = graph.constant(grid.encode(real.reshape(())), f"{node.name}.value", before=node)
        operands = [*operands[:2], padded, *operands[3:]]
    if isinstance(node.op, GlobalMaxPool):
        return False
    try:
        made = graph.add(node.op, *operands, name=f"{node.name}.integers", before=node)
    except TautError:
        return False
    source = graph.operand(node, role.reads[0])
    assert source is not None
    for k in range(len(node.results)):
        dequantized(graph, node, k, made[k], source.node)
    return True


def realize(graph: Graph, node: Node) -> None:
    """Dequantized constants of one element, as functions of one element have them."""
    for k, value in enumerate(graph.operands(node)):
        known = None if value is None else weight_of(graph, value)
        if value is None or known is None or known.array.size != 1:
            continue
        if isinstance(node.op, ARITHMETIC):
            real = (known.shifted() * known.scale).astype(np.float32)
            made = graph.constant(real, f"{value.node.name}.real", before=node)
            graph.set_operand(node, k, made)


def tabulate(graph: Graph, node: Node) -> bool:
    """A function of one element whose every result lies on its operand's grid: a table of bytes."""
    step = step_of(graph, node)
    source = None if step is None else integers_of(graph, step[1])
    if step is None or source is None or source.grid.scales or node.type.dtype is not DType.f32:
        return False
    if all(isinstance(u.node.op, QuantizeLinear) for u in graph.uses(node[0])):
        return False  # its table goes to the result's grid at once
    grid = source.grid
    low, high = grid.dtype.bounds
    real = step[0](grid.decode(np.arange(low, high + 1)))
    table = grid.encode(real)
    if not np.array_equal(grid.decode(table), real):
        return False
    constant = graph.constant(table, f"{node.name}.table", before=node)
    op = Lookup(step=grid.scale, zero_point=grid.zero)
    made = graph.add(op, source.value, constant, name=f"{node.name}.looked_up", before=node)
    dequantized(graph, node, 0, made[0], step[1].node)
    return True


def dequantized(graph: Graph, node: Node, index: int, integers: Value, like: Node) -> None:
    """Replace a result by integers that are dequantized as the node `like` does it."""
    further = graph.operands(like)[1:]
    made = graph.add(like.op, integers, *further, name=f"{node.name}.dequantized", before=node)
    graph.replace_all_uses(node[index], made[0])

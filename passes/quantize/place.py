"""Which nodes are quantized, and which values get a grid.

Five roles:

    product  conv, fused_conv, gemm, mat_mul with constant weights: what int8 is for
    combine  add, sub, mul, sum of two computed tensors
    pool     average_pool, global_average_pool
    step     a function of one element (relu, hard_swish, x * 0.5); also adding a constant vector
             to a product
    same     max_pool, reshape, transpose, concat, ...: the result lies on the operand's grid

Products are quantized wherever they can be. The others are, as long as they stand between
quantized nodes: a node falls out when an operand comes from float that nobody else quantizes, or
when nothing quantized reads its result; the greatest such set is found by elimination.

A value is read *directly*, in the accumulator's precision and without a grid, where a step or an
addition can join the node before it: conv + residual -> relu rounds once, at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...ir import DType, Graph, Node, Op, Use, Value, all_ops
from ...ir.ops.convolution import Conv, ConvTranspose
from ...ir.ops.dynamic import ScaledMatMul
from ...ir.ops.elementwise import Add, Mul, Sub, Sum
from ...ir.ops.fusion import Fusion
from ...ir.ops.integer import ConvInteger, MatMulInteger
from ...ir.ops.joining import Concat, Pad
from ...ir.ops.linear import FusedMatMul, Gemm, MatMul
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.pooling import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from ...ir.ops.quantization import DequantizeLinear
from ...ir.ops.resize import Resize, Upsample
from ..base import Outcome
from .functions import step_of

Kind = Literal["product", "combine", "pool", "step", "same"]

PRODUCTS = (Conv, Gemm, MatMul, ConvTranspose)
MATRICES = (Gemm, MatMul)
COMBINES = (Add, Sub, Mul, Sum)
POOLS = (AveragePool, GlobalAveragePool)


def moves_first(cls: type[Op]) -> bool:
    """Whether an op (with some attributes) moves elements of its first operands, from there on."""
    moves = cls.moves
    return moves is not None and moves.operands == (cls.operands[0].name,)


SAME = (MaxPool, GlobalMaxPool, Pad, *filter(moves_first, all_ops()))

BEFORE: Mapping[type[Op], str] = {
    FusedMatMul: "fuse-matmul has taken up what stands around it: quantize before",
    Fusion: "its ops lie inside a fusion: run inline-fusions before",
    ConvInteger: "it is on integers already",
    MatMulInteger: "it is on integers already",
    ScaledMatMul: "it is on integers already",
}
"""What earlier passes made, around which no pairs are put."""

BETA = 2
"""The operand of a batch normalization that is its bias."""


@dataclass(frozen=True)
class Role:
    """What a node is to quantization; `reads` are the operands that want a grid."""

    kind: Kind
    reads: tuple[int, ...]


@dataclass
class Placement:
    """The outcome: roles of the quantized nodes (in graph order), the values with a grid, the uses
    in accumulator precision, and for each value the root of those that share its grid.
    """

    roles: dict[Node, Role] = field(default_factory=dict)
    direct: set[Use] = field(default_factory=set)
    shared: dict[Value, Value] = field(default_factory=dict)

    def root(self, value: Value) -> Value:
        while self.shared[value] != value:
            self.shared[value] = self.shared[self.shared[value]]
            value = self.shared[value]
        return value

    def unite(self, a: Value, b: Value) -> None:
        """Put two values on one grid; the earlier root stays."""
        if a in self.shared and b in self.shared:
            first, second = sorted((self.root(a), self.root(b)), key=lambda v: v.node.order)
            self.shared[second] = first

    def groups(self) -> dict[Value, list[Value]]:
        """Values with a grid by their root, in graph order."""
        found: dict[Value, list[Value]] = {}
        for value in self.shared:
            found.setdefault(self.root(value), []).append(value)
        return found


def role_of(graph: Graph, node: Node) -> Role | str:
    """The role of a node if it were quantized, or why it cannot be ("" where nobody asks)."""
    op = node.op
    operands = graph.operands(node)
    if type(op) in BEFORE:
        return BEFORE[type(op)]
    if not node.results or node.type.dtype is not DType.f32:
        known = isinstance(op, PRODUCTS)
        return f"its element type is {node.type.dtype.value}" if known else ""
    if isinstance(op, PRODUCTS):
        return _product(node, operands)
    step = step_of(graph, node)
    if step is not None:
        return Role("step", (operands.index(step[1]),))
    moving = tuple(i for i, v in enumerate(operands) if v is not None and v.array is None)
    if isinstance(op, COMBINES) and len(operands) == 2:
        if len(moving) == 2:
            return Role("combine", moving)
        other = operands[1 - moving[0]] if len(moving) == 1 else None
        if isinstance(op, Add) and other is not None and _is_bias(other, node):
            return Role("step", moving)
        return "one operand is a constant tensor" if moving else ""
    if isinstance(op, POOLS):
        return Role("pool", (0,))
    if isinstance(op, SAME):
        return same_role(node, operands)
    return ""


def _product(node: Node, operands: list[Value | None]) -> Role | str:
    x, weight = operands[0], operands[1]
    assert x is not None and weight is not None
    if weight.array is None and isinstance(weight.node.op, DequantizeLinear):
        return "it is quantized already"
    if weight.array is None:
        return "its weight is computed when it runs"
    if x.array is not None:
        return "its input is a constant"
    if not np.isfinite(weight.array).all():
        return f"weight has {'NaN' if np.isnan(weight.array).any() else 'Inf'}"
    if not weight.array.size:
        return "its weight is empty"
    bias = operands[2] if len(operands) > 2 else None
    if bias is not None and (bias.array is None or not np.isfinite(bias.array).all()):
        return "its bias is not a finite constant"
    if isinstance(node.op, ConvTranspose):
        return "only transposed convolutions whose windows do not overlap have an integer form"
    if isinstance(node.op, Gemm):
        if node.op.transA or not node.op.alpha > 0:
            return "its first operand is transposed or alpha is not positive"
        if (
            bias is not None
            and bias.array is not None
            and bias.array.size != weight.array.shape[0 if node.op.transB else 1]
        ):
            return "its bias is no vector of columns"
    if isinstance(node.op, MatMul) and (weight.array.ndim != 2 or x.type.shape is None
                                      or len(x.type.shape) < 2):  # fmt: skip
        return "its weight is no matrix"
    residual = len(operands) > 3 and operands[3] is not None and operands[3].array is None
    if len(operands) > 3 and operands[3] is not None and not residual:
        return "its residual is a constant"
    return Role("product", (0, 3) if residual else (0,))


def _is_bias(value: Value, node: Node) -> bool:
    """A constant vector along the last axis, as linear layers add it."""
    array = value.array
    if array is None or not array.ndim or array.size != array.shape[-1]:
        return False
    if not np.isfinite(array).all():
        return False
    return node.type.shape is not None and node.type.shape[-1] == array.size


def same_role(node: Node, operands: list[Value | None]) -> Role | str:
    """The role of a node that moves data, or why its result is not on its operand's grid."""
    op = node.op
    if isinstance(op, Concat):
        if any(v is None or v.array is not None for v in operands):
            return "a part is constant"
        return Role("same", tuple(range(len(operands))))
    if any(v is None or v.array is not None for v in operands[:1]):
        return ""
    if isinstance(op, MaxPool) and op.outputs != 1:
        return "it also returns indices"
    if isinstance(op, Resize | Upsample) and op.mode != "nearest":
        return f"{op.mode} interpolation is computed in float"
    if isinstance(op, Resize) and op.coordinate_transformation_mode == "tf_crop_and_resize":
        return "it extrapolates"
    if isinstance(op, Pad) and op.mode == "constant":
        fill = operands[2] if len(operands) > 2 else None
        if fill is not None and (fill.array is None or not np.isfinite(fill.array).all()):
            return "the value it pads with is not a finite constant"
    return Role("same", (0,))


def takes_bias(node: Node) -> bool:
    """Whether a product has a bias operand whose scale is the accumulator's."""
    op = node.op
    return isinstance(op, Conv) or (isinstance(op, Gemm) and op.alpha == op.beta == 1.0)


def normalized_product(graph: Graph, node: Node) -> Node | None:
    """The product that alone a batch normalization for inference reads, so that its scale and bias
    can take it up: scales of weights by channel do so without another rounding.
    """
    if not isinstance(node.op, BatchNormalization) or node.op.training_mode:
        return None
    x, *rest = graph.operands(node)
    arrays = [v.array for v in rest if v is not None and v.array is not None]
    if x is None or len(arrays) < len(rest) or not all(np.isfinite(a).all() for a in arrays):
        return None
    made = x.node
    ended = getattr(made.op, "activation", "") or len(graph.operands(made)) > 3
    fits = takes_bias(made) and not ended
    return made if fits and graph.use_count(x) == 1 else None


def place(
    graph: Graph, outcome: Outcome, skip: Mapping[str, str] | None = None, rows: bool = False,
    normalized: bool = False,
) -> Placement:  # fmt: skip
    """Choose the nodes to quantize; what is left in float is remarked on with the reason.

    `skip` names nodes to leave, and why. With `rows` a matrix product is left where its input comes
    from float, for a scale for each row serves it better than one for all. With `normalized` a
    product's batch normalization is part of it.
    """
    skip = skip or {}
    roles: dict[Node, Role] = {}
    for node in graph.nodes():
        role = role_of(graph, node)
        if normalized and normalized_product(graph, node) is not None:
            role = Role("step", (0,))
        if node.name in skip and not isinstance(role, str):
            outcome.missed(node, f"not quantized: {skip[node.name]}")
        elif isinstance(role, Role):
            roles[node] = role
        elif role:
            outcome.missed(node, f"not quantized: {role}")
    _eliminate(graph, roles, outcome, rows)
    made = Placement(roles)
    _find_direct(graph, made)
    for node, role in roles.items():
        for i in role.reads:
            value = graph.operand(node, i)
            if value is not None and Use(node, i) not in made.direct:
                made.shared.setdefault(value, value)
    made.shared = {v: v for v in sorted(made.shared, key=lambda v: (v.node.order, v.index))}
    return made


def _eliminate(graph: Graph, roles: dict[Node, Role], outcome: Outcome, rows: bool) -> None:
    queue = deque(n for n in roles if not _stays(n, roles, rows))
    waiting = set(queue)
    while queue:
        node = queue.popleft()
        waiting.discard(node)
        if node not in roles:
            continue
        why = _reason_to_leave(graph, node, roles, rows)
        if not why:
            continue
        del roles[node]
        if not isinstance(node.op, SAME):
            outcome.note(f"{node.op.name} kept in float: {why}", node)
        around = [v.node for v in graph.operands(node) if v is not None] + graph.users(node)
        # An operand's other readers may have counted on this node to quantize it.
        for v in graph.operands(node):
            around += [] if v is None else graph.users(v.node)
        for n in around:
            if n in roles and not _stays(n, roles, rows) and n not in waiting:
                waiting.add(n)
                queue.append(n)


def _stays(node: Node, roles: dict[Node, Role], rows: bool) -> bool:
    """Whether it is quantized whatever stands around it."""
    return roles[node].kind == "product" and not (rows and isinstance(node.op, MATRICES))


def _reason_to_leave(graph: Graph, node: Node, roles: dict[Node, Role], rows: bool) -> str:
    role = roles[node]
    for i in role.reads:
        value = graph.operand(node, i)
        assert value is not None
        if value.node not in roles and not _read_by_product(graph, value, roles, rows):
            return f"its operand {value.node.name!r} is computed in float"
    if role.kind == "product":
        return ""
    if role.kind == "step" and isinstance(node.op, Add) and step_of(graph, node) is None:
        source = graph.operand(node, role.reads[0])
        assert source is not None
        made = roles.get(source.node)
        if made is None or made.kind != "product" or graph.use_count(source) > 1:
            return "it adds a constant tensor to what is no product"
    if role.kind == "pool":
        return ""  # it shrinks what leaves
    for i in range(len(node.results)):
        if any(_reads(use, roles) for use in graph.uses(node[i])):
            return ""
    return "nothing quantized reads it"


def _reads(use: Use, roles: dict[Node, Role]) -> bool:
    return use.node in roles and use.position in roles[use.node].reads


def _read_by_product(graph: Graph, value: Value, roles: dict[Node, Role], rows: bool) -> bool:
    """Whether a product quantizes a float value that it reads."""
    readers = [u.node for u in graph.uses(value) if _reads(u, roles)]
    return any(_stays(n, roles, rows) for n in readers)


def _find_direct(graph: Graph, made: Placement) -> None:
    """Uses in accumulator precision: the only use of a product, sum or pool by a step; of a product
    by an addition, one operand of each.
    """
    accumulates = {n for n, r in made.roles.items() if r.kind in ("product", "combine", "pool")}
    products = {n for n, r in made.roles.items() if r.kind == "product"}
    for node, role in made.roles.items():
        if role.kind not in ("step", "combine"):
            continue
        for i in role.reads:
            value = graph.operand(node, i)
            assert value is not None
            sources = accumulates if role.kind == "step" else products
            if value.node not in sources or graph.use_count(value) > 1:
                continue
            if role.kind == "step":
                made.direct.add(Use(node, i))
                accumulates.add(node)
                if isinstance(node.op, Add | BatchNormalization) and value.node in products:
                    products.add(node)
            elif isinstance(node.op, Add) and not _curved(graph, value.node):
                made.direct.add(Use(node, i))
                break


def _curved(graph: Graph, node: Node) -> bool:
    """Whether a fused activation stands between the accumulator and its result."""
    return bool(getattr(node.op, "activation", ""))


def on_grid(graph: Graph, placement: Placement, value: Value) -> bool:
    """Whether a value lies on its grid already: moved from values on the same one."""
    role, operands = placement.roles.get(value.node), graph.operands(value.node)
    if role is None or role.kind != "same":
        return False
    if isinstance(value.node.op, Pad) and len(operands) > 2 and operands[2] is not None:
        return False
    sources = [v for v in (operands[i] for i in role.reads) if v is not None]
    return all(placement.root(v) == placement.root(value) for v in sources)

"""Where a network can be compared with another: outputs, feature maps, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...ir import Graph, Node, Op, TensorType, Value
from ...ir.graph import infer
from ...ir.ops.activation import Softmax
from ...ir.ops.attention import Attention
from ...ir.ops.elementwise import Where
from ...ir.ops.indexing import Gather
from ...ir.ops.linear import FusedMatMul, MatMul
from ...ir.ops.pooling import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from ...ir.ops.shape import Cast, Dropout, Flatten, Identity
from ...ir.ops.structure import Constant, Input

DISTILL = "distill."
"""What names of nodes start with that compare student and teacher."""

Kind = Literal["output", "feature", "attention"]


@dataclass(frozen=True)
class Layer:
    """A place in a network. `name` is the output's or the node's; an attention's type is that of
    its probabilities [batch,heads,queries,keys].
    """

    name: str
    kind: Kind
    type: TensorType

    @property
    def key(self) -> str:
        """Its name where layers of all kinds stand together."""
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True)
class Recorded:
    """A teacher that has run already: the types of its inputs, and the layers whose arrays are
    there, first axis the batch. A joined graph takes them as inputs `teacher.KIND.NAME`.
    """

    inputs: Mapping[str, TensorType]
    layers: tuple[Layer, ...]


def is_layer(op: Op) -> bool:
    """Whether it is a product of real numbers with what may be a weight."""
    return op.weighted is not None and not op.weighted.integer


def reads_features(op: Op) -> bool:
    """Whether it is a layer, a pooling, or what stands between the two."""
    pools = MaxPool | AveragePool | GlobalMaxPool | GlobalAveragePool
    return is_layer(op) or isinstance(op, pools | Flatten)


def features(graph: Graph, nodes: Sequence[Node]) -> list[Value]:
    """What layers with weights hand to the next layer or to pooling, in order: activations after
    normalization and sum. `nodes` are the network's, in topological order.

    Maps of one pixel are left out, since they come again flattened.
    """
    deep: set[Node] = set()  # depends on a layer with weights
    found: dict[Value, None] = {}
    for node in nodes:
        if _has_weights(graph, node) or any(p in deep for p in graph.nx.pred[node]):
            deep.add(node)
        x = graph.operand(node, 0)
        if reads_features(node.op) and x is not None and x.node in deep and _is_feature(x):
            found[x] = None
    return sorted(found, key=lambda v: v.node.order)


def _has_weights(graph: Graph, node: Node) -> bool:
    """Whether this is a layer, and no product of two activations."""
    if isinstance(node.op, Gather):  # an embedding
        table = graph.operand(node, 0)
        return table is not None and _is_weight(table)
    layer = node.op.weighted
    if layer is None or layer.integer:
        return False
    weight = graph.operands_of(node).get(layer.weight)
    certainly = not isinstance(node.op, MatMul | FusedMatMul)
    return weight is not None and (_is_weight(weight) or certainly)


def _is_weight(value: Value) -> bool:
    return isinstance(value.node.op, Constant | Input) and value.type.dtype.is_float


def _is_feature(x: Value) -> bool:
    if not x.type.dtype.is_float or x.shape is None or len(x.shape) < 2:
        return False
    return x.index == 0 and (len(x.shape) < 4 or any(d != 1 for d in x.shape[2:]))


def attentions(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """Nodes of attention in order: the op, or a softmax over the last axis whose result weighs the
    rows of a product.
    """
    return [n for n in nodes if is_attention(graph, n)]


def is_attention(graph: Graph, node: Node) -> bool:
    """Whether `node` has attention probabilities: see `attentions`."""
    if isinstance(node.op, Attention):
        return True
    if not isinstance(node.op, Softmax) or node.type.shape is None or node.type.rank < 3:
        return False
    return node.op.axis in (-1, node.type.rank - 1) and _weighs(graph, node)


def _weighs(graph: Graph, node: Node) -> bool:
    """Whether a product reads `node` on its left, directly or after dropout, a cast, a mask."""
    for use in graph.uses(node[0]):
        op = use.node.op
        if isinstance(op, MatMul | FusedMatMul) and use.position == 0:
            return True
        if isinstance(op, Dropout | Cast | Identity | Where) and _weighs(graph, use.node):
            return True
    return False


def probability_type(graph: Graph, node: Node) -> TensorType:
    """Type of an attention's probabilities."""
    if not isinstance(node.op, Attention):
        return node.type
    return infer(node.op.replace(outputs=4), graph.abstracts(node), node.name)[3].type


def with_probabilities(graph: Graph, node: Node) -> Value:
    """An attention's probabilities: its fourth result, which the node is made to give. One whose
    fourth result is another one gets a twin.
    """
    op = node.op
    if not isinstance(op, Attention):
        return node[0]
    if op.outputs < 4:
        graph.set_op(node, op.replace(outputs=4, qk_matmul_output_mode=3))
    elif op.qk_matmul_output_mode != 3:
        twin = op.replace(qk_matmul_output_mode=3)
        node = graph.add(twin, *graph.operands(node), name=f"{DISTILL}{node.name}")
    return node[3]


def place_of(type: TensorType) -> tuple[object, ...]:
    """What two features must share to be compared: rank and the sizes that are neither batch nor
    channels. Channels come second in maps (rank 4), last elsewhere.
    """
    shape = type.shape
    assert shape is not None
    return (len(shape), *(shape[2:] if len(shape) == 4 else shape[1:-1]))

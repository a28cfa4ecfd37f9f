"""The scores of written-out attention, read from softmax up to the product of queries and keys."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ir import Abstract, DType, Graph, Node, Value
from ...ir.ops.activation import Softmax
from ...ir.ops.elementwise import Add, Div, Mul, Where
from ...ir.ops.shape import Cast, Transpose
from ...ir.ops.unary import IsNaN
from ..pattern import uniform
from ..rewrite import RewriteBuilder
from .extents import Extents
from .products import PRODUCTS, opened

NEVER = -1e8  # a fill this low leaves a masked key no weight, whatever its score
STEPS = (Add, Mul, Div, Where)


class Unfit(Exception):
    """Why it is not attention that can be fused, and the node that is to blame."""

    def __init__(self, reason: str, node: Node) -> None:
        super().__init__(reason)
        self.reason, self.node = reason, node


class Turned(NamedTuple):
    """transpose(value, perm), not made yet."""

    value: Value
    perm: tuple[int, ...]

    @classmethod
    def of(cls, value: Value) -> Turned:
        return cls(value, tuple(range(len(value.shape or ()))))

    @property
    def rank(self) -> int:
        return len(self.perm)

    @property
    def abstract(self) -> Abstract:
        shape = self.value.shape
        assert shape is not None
        return Abstract(self.value.type.with_shape(shape[i] for i in self.perm))

    def swapped(self) -> Turned:
        """The last two axes the other way round."""
        return Turned(self.value, (*self.perm[:-2], self.perm[-1], self.perm[-2]))

    def above(self, graph: Graph) -> Turned:
        """The same with the transpose that makes the value taken in, if one does."""
        op = self.value.node.op
        if not isinstance(op, Transpose):
            return self
        source = graph.operand(self.value.node, 0)
        assert source is not None
        order = op.order(len(self.perm))
        return Turned(source, tuple(order[i] for i in self.perm))

    def build(self, b: RewriteBuilder) -> Value:
        plain = self.perm == tuple(range(len(self.perm)))
        return self.value if plain else b.transpose(self.value, perm=self.perm)


class Mask(NamedTuple):
    """A tensor added to the scores; or, with `fill`, true where a score is kept (or, without
    `keeps`, where it becomes `fill`).
    """

    value: Value
    fill: float | None = None
    keeps: bool = True

    @property
    def forbids(self) -> bool:
        """Whether it is boolean and takes away all weight."""
        return self.fill == -np.inf


class Written(NamedTuple):
    """softmax(scale * q @ k^T + masks), k as [..., keys, size]; softmax done in `precision`."""

    q: Turned
    k: Turned
    scale: float
    masks: tuple[Mask, ...]
    precision: DType | None


def read_weights(extents: Extents, value: Value) -> Written:
    """What gives the weights `value`. Raises Unfit."""
    graph = extents.graph
    value = _guarded(graph, value)
    precision = None
    node = value.node
    outer = node
    if isinstance(node.op, Cast):
        value = _first(graph, node)
        node = value.node
    if not isinstance(node.op, Softmax):
        raise Unfit(f"{node.op.name} gives the weights, no softmax", node)
    rank = node.type.rank
    if node.op.axis not in (-1, rank - 1):  # type: ignore[attr-defined]
        raise Unfit("softmax does not go over the last axis", node)
    _only_use(graph, outer)
    scores = _first(graph, node)
    if outer is not node:
        _only_use(graph, node)
        if not isinstance(scores.node.op, Cast):
            raise Unfit("only one side of softmax is cast", scores.node)
        precision, scores = scores.type.dtype, _first(graph, scores.node)
        if scores.type.dtype is not outer.type.dtype:
            raise Unfit("softmax is cast to another type than from", outer)
    return _Reader(extents).read(scores, precision)


def _guarded(graph: Graph, value: Value) -> Value:
    """p of where(is_nan(p), 0, p), which is what zeroes rows that are masked everywhere."""
    node = value.node
    if not isinstance(node.op, Where):
        return value
    condition, zero, p = graph.operands(node)
    assert condition is not None and zero is not None and p is not None
    if not isinstance(condition.node.op, IsNaN) or _first(graph, condition.node) != p \
            or _scalar(zero) != 0 or graph.use_count(p) != 2 or node.type != p.type:  # fmt: skip
        raise Unfit("softmax's result is selected from", node)
    _only_use(graph, node)
    return p


def _first(graph: Graph, node: Node) -> Value:
    found = graph.operand(node, 0)
    assert found is not None
    return found


def _only_use(graph: Graph, node: Node) -> None:
    users = [u for u in graph.users(node) if not isinstance(u.op, IsNaN)]  # the graph's end is one
    if len(users) != 1:
        raise Unfit(f"{node.op.name} has {len(users)} uses", node)


def _scalar(value: Value | None) -> float | None:
    return None if value is None or value.array is None else uniform(value.array)


def _scaled(graph: Graph, node: Node) -> tuple[Value, float] | None:
    """x and s of x * s or x / s, s one number that is not 0."""
    a, b = graph.operands(node)
    assert a is not None and b is not None
    if isinstance(node.op, Div) or a.array is None:
        source, by = a, _scalar(b)
    else:
        source, by = b, _scalar(a)
    if by is None or by == 0 or not np.isfinite(by):
        return None
    return source, (1 / by if isinstance(node.op, Div) else by)


class _Reader:
    """Walks from softmax's operand to the product, keeping what it passes."""

    def __init__(self, extents: Extents) -> None:
        self.extents, self.graph = extents, extents.graph
        self.scale = 1.0
        self.masks: list[Mask] = []

    def read(self, value: Value, precision: DType | None) -> Written:
        while not isinstance(value.node.op, PRODUCTS):
            node = value.node
            if not isinstance(node.op, STEPS):
                raise Unfit(f"{node.op.name} stands between the product and softmax", node)
            _only_use(self.graph, node)
            value = self.step(node, self.graph.operands(node))
            if not self.extents.same(value, node[0]):  # a symbol may be 1 and widened
                raise Unfit(f"{node.op.name} broadcasts the scores, or may", node)
        q, k = self.product(value.node)
        return Written(q, k, self.scale, tuple(self.masks), precision)

    def step(self, node: Node, operands: list[Any]) -> Value:
        if isinstance(node.op, Where):
            return self.select(node, *operands)
        if isinstance(node.op, Add):
            leads = [self.leads(v) for v in operands]
            if leads[0] == leads[1]:
                raise Unfit("it is not clear which term is the mask", node)
            if self.scale != 1:  # one that stands after the sum
                raise Unfit("the mask is scaled with the scores", node)
            value, mask = operands if leads[0] else operands[::-1]
            self.masks.append(Mask(mask))
            return value
        found = _scaled(self.graph, node)
        if found is None:
            raise Unfit(f"{node.op.name} is not by one constant number", node)
        self.scale *= found[1]
        return found[0]

    def leads(self, value: Value, depth: int = 6) -> bool:
        """Whether a product stands above."""
        node = value.node
        if isinstance(node.op, PRODUCTS):
            return True
        return isinstance(node.op, STEPS) and depth > 0 and any(
            v is not None and self.leads(v, depth - 1) for v in self.graph.operands(node)
        )  # fmt: skip

    def select(self, node: Node, condition: Value, a: Value, b: Value) -> Value:
        keeps = a.array is None
        value, fill = (a, _scalar(b)) if keeps else (b, _scalar(a))
        if fill is None or not fill * self.scale <= NEVER:
            raise Unfit(f"masked scores do not become a number below {NEVER:g}", node)
        self.masks.append(Mask(condition, fill * self.scale, keeps))
        return value

    def product(self, node: Node) -> tuple[Turned, Turned]:
        found = opened(self.graph, node)
        if isinstance(found, str):
            raise Unfit(found, node)
        _only_use(self.graph, node)
        if found.ends or found.bias is not None or found.residual is not None:
            raise Unfit("the product of queries and keys has a bias, a sum or an activation", node)
        self.scale *= found.op.alpha
        q, k = self.peel(found.a), self.peel(found.b)
        q = q.swapped() if found.op.transA else q
        return q, k if found.op.transB else k.swapped()

    def peel(self, value: Value) -> Turned:
        """The operand less the scales and transposes that it ends in."""
        turned = Turned.of(value)
        while True:
            node = turned.value.node
            found = _scaled(self.graph, node) if isinstance(node.op, Mul | Div) else None
            if found is not None and found[0].type == turned.value.type:
                self.scale *= found[1]
                turned = turned._replace(value=found[0])
                continue
            above = turned.above(self.graph)
            if above is turned:
                return turned
            turned = above

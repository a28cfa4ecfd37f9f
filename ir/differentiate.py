"""Reverse-mode differentiation: the gradient of a graph is more nodes of the same graph.

Nodes are gone through from the last to the first; each op says by `Op.gradient` what the gradients
of its results make of its operands. A value that is read several times gets the sum. After
S. Linnainmaa, "Taylor expansion of the accumulated rounding error" (1976), and A. Griewank and
A. Walther, "Evaluating Derivatives" (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from .build import Builder
from .errors import NotDifferentiableError, TautError, VerifyError
from .graph import Graph, Node, Order, Value

Gradients = dict[Value, Value | None]

PREFIX = "grad."
"""What names of nodes start with that belong to a gradient."""


def differentiate(
    graph: Graph, seeds: Mapping[Value, Value], wrt: Sequence[Value], *, b: Builder | None = None
) -> Gradients:
    """Add nodes that compute the gradients of `wrt`: for each, the sum of seed * d(key) / d(value).

    Seeds have their keys' types. None stands for a value on which no key depends. Values that are
    sought may lie anywhere in the graph. Raises NotDifferentiableError, naming the node, where a
    gradient would have to flow through an op that has none.
    """
    return _Reverse(graph, b or Builder(graph), seeds, wrt, ()).run()


def through(
    b: Builder,
    build: Callable[..., Any],
    operands: Sequence[Value | None],
    gradients: Sequence[Value | None],
) -> list[Value | None]:
    """The gradients of `operands` through what `build(*operands)` adds with `b`, given those of
    its results: how an op that is a composition of others is differentiated.
    """
    start = b.graph.frontier
    made = build(*operands)
    results: Sequence[Value] = (made,) if isinstance(made, Value) else made
    seeds: dict[Value, Value] = {}
    for result, gradient in zip(results, gradients):
        if gradient is not None:
            seeds[result] = b.add(seeds[result], gradient) if result in seeds else gradient
    wrt = dict.fromkeys(x for x in operands if x and x.type.dtype.is_float and b.wants(x))
    found = _Reverse(b.graph, b, seeds, list(wrt), start).run()
    # An operand that stands at two places has the gradient of both: it is handed out once.
    return [None if x is None else found.pop(x, None) for x in operands]


class _Reverse:
    """One differentiation. Only nodes after `start` in the order are looked at."""

    def __init__(
        self, graph: Graph, b: Builder, seeds: Mapping[Value, Value], wrt: Sequence[Value],
        start: Order,
    ) -> None:  # fmt: skip
        self.graph, self.b, self.wrt, self.start = graph, b, wrt, start
        for key, seed in seeds.items():
            if not key.type.accepts(seed.type):
                raise VerifyError(f"a seed is {seed.type} for a value of {key.type}",
                                  node=key.node.name)  # fmt: skip
        self.parts: dict[Value, list[Value]] = {key: [seed] for key, seed in seeds.items()}
        for value in wrt:
            if not value.type.dtype.is_float:
                raise VerifyError(f"is {value.type}, by which nothing can be differentiated",
                                  node=value.node.name)  # fmt: skip
        self.active = set(wrt)

    def run(self) -> Gradients:
        nodes = self._between(self.parts)
        for node in nodes:
            self._activate(node)
        for node in reversed(nodes):
            if any(v in self.active and v in self.parts for v in _results(node)):
                self._backward(node)
        return {v: self._total(v) for v in self.wrt}

    def _between(self, keys: Iterable[Value]) -> list[Node]:
        """What the keys depend on, in topological order."""
        found: set[Node] = set()
        stack = [k.node for k in keys]
        while stack:
            node = stack.pop()
            if node in found or node.order <= self.start:
                continue
            found.add(node)
            stack.extend(self.graph.nx.pred[node])
        return sorted(found, key=lambda n: n.order)

    def _activate(self, node: Node) -> None:
        """Which results depend on what is sought, by a way that gradients can go."""
        read = [v for v in self.graph.operands(node) if v in self.active]
        if not read:
            return
        relaxed = {v.type.dtype for v in read if v is not None and not v.type.dtype.is_float}
        self.active |= {
            v for v in _results(node)
            if v.type.dtype.is_float or v.type.dtype.is_minifloat or node.op.straight_through
            or v.type.dtype in relaxed
        }  # fmt: skip

    def _backward(self, node: Node) -> None:
        op, operands = node.op, self.graph.operands(node)
        if not any(v in self.active for v in operands):
            return  # one of those sought, or a seed that does not depend on them
        names = [o.name for o in op.operands]
        operands += [None] * (len(names) - len(operands))
        mark = self.b.prefix, self.b.sought, self.b.through
        self.b.prefix, self.b.sought = mark[0] or f"{PREFIX}{node.name}.", self.active
        self.b.through = partial(through, self.b)
        try:
            gradients = [self._total(v) for v in _results(node)]
            made = op.gradient(self.b, operands, _results(node), gradients)
        except TautError as error:
            raise error.with_context(node=node.name, op=op.name)
        finally:
            self.b.prefix, self.b.sought, self.b.through = mark
        for i, (operand, gradient) in enumerate(zip_longest(operands, made)):
            if operand not in self.active or operand is None:
                continue
            name = names[min(i, len(names) - 1)]
            if name in op.held:
                raise NotDifferentiableError(
                    f"has no gradient for {name}: {op.held[name]}",
                    node=node.name, op=op.name, hint="make that operand a constant",
                )  # fmt: skip
            if gradient is not None:
                self._keep(node, operand, gradient)

    def _keep(self, node: Node, value: Value, gradient: Value) -> None:
        fits = value.type if value.type.dtype.is_float else value.type.with_dtype(
            gradient.type.dtype
        )  # fmt: skip
        if not gradient.type.dtype.is_float or not fits.accepts(gradient.type):
            raise VerifyError(f"gives a gradient of {gradient.type} for an operand of {value.type}",
                              node=node.name, op=node.op.name)  # fmt: skip
        self.parts.setdefault(value, []).append(gradient)

    def _total(self, value: Value) -> Value | None:
        """The sum of what has come in, as a balanced tree; kept, so that it is made once."""
        parts = self.parts.get(value, [])
        name = f"{self.b.prefix or PREFIX}{value.node.name}"
        while len(parts) > 1:
            pairs = [self.b.add(*parts[i : i + 2], name=name) for i in range(0, len(parts) - 1, 2)]
            parts = pairs + parts[len(pairs) * 2 :]
        if parts:
            self.parts[value] = parts
        return parts[0] if parts else None


def _results(node: Node) -> tuple[Value, ...]:
    return tuple(Value(node, i) for i in range(len(node.results)))

"""Which dimensions are equal, even where inference knows neither a number nor a symbol.

Every dimension gets a token: its number, its symbol, or what it was computed from. So the result
of two different convolutions with the same stride, kernel and padding over the same unknown width
has the same (unknown) width.
"""

from __future__ import annotations

from typing import Any

from ...ir import Graph, Node, Value
from ...ir.affine import Affine
from ...ir.analysis.dependence import dependence_over, token
from ...ir.analysis.pointwise import operand_kinds
from ...ir.dependence import Place, Relation
from ...ir.op import has_body
from ...ir.ops.convolution import ConvTranspose
from ...ir.ops.joining import Concat
from ...ir.ops.windows import Windowed

Token = Any  # int, str, or an interned tuple
Tokens = tuple[Token, ...]


class Extents:
    """Tokens of the first result of every node, computed once; new nodes may `adopt` others'."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: dict[Node, Tokens | None] = {}
        self.interned: dict[Any, int] = {}
        for node in graph.nodes():
            if node.results:
                self.found[node] = self._compute(node)

    def of(self, value: Value) -> Tokens | None:
        """Tokens of a value; None where the rank is unknown or nothing is known of the node."""
        if value.index == 0 and value.node not in self.found and value.node in self.graph.nx:
            self.found[value.node] = self._compute(value.node)
        return self.found.get(value.node) if value.index == 0 else value.shape

    def same(self, a: Value, b: Value) -> bool:
        """Whether two values certainly have one shape."""
        x, y = self.of(a), self.of(b)
        return x is not None and x == y and None not in x

    def adopt(self, node: Node, other: Node) -> None:
        """`node` has the shape that `other` had."""
        known = self.found.get(other)
        if known is not None:
            self.found[node] = known

    def _intern(self, *key: Any) -> Token:
        """A token for a computation: equal keys, equal tokens."""
        return ("#", self.interned.setdefault(key, len(self.interned)))

    def _compute(self, node: Node) -> Tokens | None:
        shape = node.type.shape
        if shape is None:
            return None
        guess = self._guess(node, len(shape)) if None in shape else None
        out: list[Token] = []
        for i, d in enumerate(shape):
            known = d if d is not None else guess[i] if guess is not None else None
            out.append(self._intern(node.name, node.order, i) if known is None else known)
        return tuple(out)

    def _guess(self, node: Node, rank: int) -> list[Token] | None:
        operands = [self.of(v) if v is not None else None for v in self.graph.operands(node)]
        op, first = node.op, operands[0] if operands else None
        kinds = operand_kinds(type(op))
        if kinds is not None:
            return self._broadcast([t for t, k in zip(operands, kinds) if k == "full"], rank)
        if isinstance(op, Concat):
            along = op.axis % rank
            joined = self._intern("concat", *(t[along] if t else None for t in operands))
            return None if first is None or None in operands else \
                [joined if i == along else t for i, t in enumerate(first)]  # fmt: skip
        if isinstance(op, Windowed) and first is not None and len(first) == rank:
            return self._windows(node, op, first, rank)
        return None if has_body(op) else self._by_loops(node, operands, rank)

    def _by_loops(self, node: Node, operands: list[Tokens | None], rank: int) -> list[Token] | None:
        """Sizes of the loops that alone count an axis, the same one in all relations."""
        results = [node.type.shape or (), *(t.shape for t in node.types[1:])]
        if any(t is None for t in results):
            return None
        made = dependence_over(node, self.graph.operands(node), operands, results)
        found: list[set[Token]] = [set() for _ in range(rank)]
        for d in made:
            if not isinstance(d, Relation):
                return None
            for axis, place in enumerate(d.written) if d.result == 0 else ():
                found[axis].add(_token(d, place))
        sure = [tokens - {None} for tokens in found]
        return [tokens.pop() if len(tokens) == 1 else None for tokens in sure]

    def _broadcast(self, operands: list[Tokens | None], rank: int) -> list[Token] | None:
        if any(t is None for t in operands):
            return None
        out: list[Token] = [1] * rank
        for tokens in operands:
            assert tokens is not None
            for i, t in enumerate(tokens, rank - len(tokens)):
                if out[i] in (1, t):
                    out[i] = t
                elif t != 1:
                    out[i] = None  # two sizes that may or may not be one
        return out

    def _windows(self, node: Node, op: Windowed, x: Tokens, rank: int) -> list[Token]:
        weight = self.graph.operand(node, 1)
        kernel = getattr(op, "kernel_shape", ()) or (weight.shape[2:] if weight and weight.shape
                                                    else (None,) * (rank - 2))  # fmt: skip
        out: list[Token] = [x[0], None]
        n = rank - 2
        for i in range(n):
            stride = op.strides[i] if op.strides else 1
            dilation = op.dilations[i] if op.dilations else 1
            pads = (op.pads[i] + op.pads[i + n]) if op.pads else 0
            size = kernel[i]
            span = (size - 1) * dilation if isinstance(size, int) else None
            transposed = isinstance(op, ConvTranspose)
            if transposed or span is None:
                out.append(None)
            elif stride == 1 and (pads == span or op.auto_pad.startswith("SAME")):
                out.append(x[2 + i])
            elif op.auto_pad.startswith("SAME"):
                out.append(self._intern("ceil", stride, x[2 + i]))
            else:  # floor((n + pads - span - 1) / stride) + 1 depends on pads - span only
                ceil = getattr(op, "ceil_mode", False)
                key = (op.pads, span) if ceil else (pads - span,)
                out.append(self._intern("window", ceil, stride, *key, x[2 + i]))
        return out


def _token(d: Relation, place: Place) -> Token:
    """The size of the loop that alone counts an axis."""
    if not isinstance(place, Affine) or place.start or [s for _, s in place.terms] != [1]:
        return 1 if place == Affine() else ("part",)
    return token(d.loops[place.terms[0][0]].size)

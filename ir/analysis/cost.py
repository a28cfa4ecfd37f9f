"""What a graph costs to run: multiply-accumulates, parameters and bytes, node by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..bodies import bodies_of, walk
from ..errors import VerifyError
from ..graph import Graph, Node
from ..op import Cost, has_body
from ..ops.structure import Constant, Input
from ..types import Shape, TensorType


class CostRow(NamedTuple):
    """One node. `parameters` are elements of constants, each counted at its first reader, those of
    bodies at the node that carries them; `bytes` are those of all operands and results. `known` is
    False where a shape is not known: then macs and bytes are 0.
    """

    node: str
    op: str
    macs: int
    parameters: int
    bytes: int
    known: bool = True


@dataclass(frozen=True)
class CostTable:
    """Rows in topological order, constants and inputs left out."""

    rows: tuple[CostRow, ...]

    @property
    def macs(self) -> int:
        return sum(r.macs for r in self.rows)

    @property
    def parameters(self) -> int:
        return sum(r.parameters for r in self.rows)

    @property
    def bytes(self) -> int:
        return sum(r.bytes for r in self.rows)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the nodes whose cost is not known; bind their symbols to learn it."""
        return tuple(r.node for r in self.rows if not r.known)

    def by_op(self) -> dict[str, CostRow]:
        """Sums for each op; the row's `node` says how many there are."""
        groups: dict[str, list[CostRow]] = {}
        for row in self.rows:
            groups.setdefault(row.op, []).append(row)
        return {
            op: CostRow(
                str(len(rows)), op, sum(r.macs for r in rows), sum(r.parameters for r in rows),
                sum(r.bytes for r in rows), all(r.known for r in rows),
            )
            for op, rows in groups.items()
        }  # fmt: skip

    def __iter__(self) -> Iterator[CostRow]:
        return iter(self.rows)


Sizes = Mapping[str, int | tuple[int, ...]]
"""A size for each dimension symbol, or a whole shape for an input."""


def graph_cost(graph: Graph, sizes: Sizes | None = None) -> CostTable:
    """The cost of every node, with dimension symbols bound as given. The graph stays as it is.

    Raises VerifyError for a symbol that no input has or a size that does not fit.
    """
    if sizes:
        graph = bind_symbols(graph, sizes)
    counted: set[Node] = set()
    rows = [
        _row(graph, node, counted)
        for node in graph.nodes()
        if node is not graph.result and not isinstance(node.op, Input | Constant)
    ]
    return CostTable(tuple(rows))


def node_cost(graph: Graph, node: Node) -> Cost | None:
    """The cost of one node; None where a size of its operands or results is not known."""
    operands = graph.abstracts(node)
    types = [o.type for o in operands if o is not None] + list(node.types)
    static = all(t.is_static for t in types)
    return node.op.cost(*operands, results=node.types) if static else None


def bind_symbols(graph: Graph, sizes: Sizes) -> Graph:
    """A copy whose inputs have numbers in place of symbols (or whole shapes), inferred again."""
    twin = graph.copy()
    symbols = {k: v for k, v in sizes.items() if isinstance(v, int)}
    shapes = {k: v for k, v in sizes.items() if not isinstance(v, int)}
    present = {d for n in twin.inputs for d in n.type.shape or () if isinstance(d, str)}
    strange = [s for s in symbols if s not in present]
    strange += [s for s in shapes if s not in {n.name for n in twin.inputs}]
    if strange:
        hint = f"there are {sorted(present)} and the inputs {[n.name for n in twin.inputs]}"
        raise VerifyError(f"no input has a dimension or is named {strange}", hint=hint)
    for node in list(twin.inputs):
        old = node.type
        dims: Shape | None = shapes.get(node.name)
        if dims is None and old.shape is not None:
            dims = tuple(symbols.get(d, d) if isinstance(d, str) else d for d in old.shape)
        new = TensorType(old.dtype, dims)
        if not old.accepts(new):
            raise VerifyError(f"the shape {list(dims or ())} does not fit {old}", node=node.name)
        if new != old:
            twin.set_input_type(node, new)
    return twin


def _row(graph: Graph, node: Node, counted: set[Node]) -> CostRow:
    parameters = 0
    for value in graph.operands(node):
        if value is not None and isinstance(value.node.op, Constant):
            if value.node not in counted:
                parameters += value.node.op.value.size
            counted.add(value.node)
    for _, body in bodies_of(node.op) if has_body(node.op) else ():
        for place in walk(body):
            ops = (n.op for n in place.graph.nodes())
            parameters += sum(op.value.size for op in ops if isinstance(op, Constant))
    cost = node_cost(graph, node)
    if cost is None:
        return CostRow(node.name, node.op.name, 0, parameters, 0, False)
    return CostRow(node.name, node.op.name, cost.macs, parameters, cost.bytes)

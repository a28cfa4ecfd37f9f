"""What a graph costs to run: multiply-accumulates, parameters and bytes, node by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import VerifyError
from ..graph import Graph, Node
from ..ops.structure import Constant, Input
from ..types import Dim, TensorType


class CostRow(NamedTuple):
    """One node. `parameters` are elements of constants, each counted at its first reader; `bytes`
    are those of all operands and results. `known` is False where a shape is not known: then macs
    and bytes are 0.
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


def graph_cost(graph: Graph, symbols: Mapping[str, int] | None = None) -> CostTable:
    """The cost of every node, with dimension symbols bound as given. The graph stays as it is.

    Raises VerifyError for a symbol that no input has or a size that does not fit.
    """
    if symbols:
        graph = bind_symbols(graph, symbols)
    counted: set[Node] = set()
    rows = [
        _row(graph, node, counted)
        for node in graph.nodes()
        if node is not graph.result and not isinstance(node.op, Input | Constant)
    ]
    return CostTable(tuple(rows))


def bind_symbols(graph: Graph, symbols: Mapping[str, int]) -> Graph:
    """A copy whose inputs have numbers in place of these symbols, with types inferred again."""
    twin = graph.copy()
    present = {d for n in twin.inputs for d in n.type.shape or () if isinstance(d, str)}
    strange = [s for s in symbols if s not in present]
    if strange:
        raise VerifyError(f"no input has a dimension {strange}", hint=f"there are {present or {}}")
    for node in list(twin.inputs):
        type = node.type
        if type.shape is not None:
            dims: list[Dim] = [symbols.get(d, d) if isinstance(d, str) else d for d in type.shape]
            if tuple(dims) != type.shape:
                twin.set_input_type(node, TensorType(type.dtype, tuple(dims)))
    return twin


def _row(graph: Graph, node: Node, counted: set[Node]) -> CostRow:
    parameters = 0
    for value in graph.operands(node):
        if value is not None and isinstance(value.node.op, Constant):
            if value.node not in counted:
                parameters += value.node.op.value.size
            counted.add(value.node)
    operands = graph.abstracts(node)
    types = [o.type for o in operands if o is not None] + list(node.types)
    if not all(t.is_static for t in types):
        return CostRow(node.name, node.op.name, 0, parameters, 0, False)
    cost = node.op.cost(*operands, results=node.types)
    return CostRow(node.name, node.op.name, cost.macs, parameters, cost.bytes)

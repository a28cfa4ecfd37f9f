"""A group of ops as a loop nest: what each element of its results is computed from.

A nest has *axes*: those of its largest result, and those that are only reduced over. The *inner*
axes are the ones that reductions run over (all reductions of a nest over the same), the others are
*rows*. An expression is read at an index, an affine function of the axes for each axis of its
tensor; so ops that only move data (transpose, slice, reshape, expand, ...) are no work but another
index, and an element-wise op reads its operands where it is read itself. Reductions and
normalizations become `Fold`s, numbers of a row, and arithmetic on them (`nest_rules`). A
concatenation cuts an axis in two, and the group becomes several nests.

Nothing here looks at values, only at ops and shapes; sizes may be symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..affine import ZERO, axis
from ..dependence import Relation
from ..graph import Graph, Node, Value
from ..op import Op
from ..ops.structure import Constant, Input
from ..types import DType
from .index import Index, NotNest, Size

MAX_NODES = 64  # of a group: tracing recurses along its chains
MAX_PIECES = 8

# Vector instructions for one element, where they are more than one or two.
WEIGHTS = {
    "exp": 16, "erf": 40, "tanh": 24, "sigmoid": 20, "swish": 22, "gelu": 40, "log": 30, "pow": 60,
    "softplus": 40, "mish": 60, "sin": 40, "cos": 40, "elu": 30, "selu": 30, "div": 4, "sqrt": 4,
    "reciprocal": 4, "hard_swish": 4, "hard_sigmoid": 3, "quantize_linear": 8,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Expr:
    """A number for each point of the axes that it depends on. Equal ones are one object."""

    dtype: DType
    axes: frozenset[int]


@dataclass(frozen=True, eq=False)
class Read(Expr):
    """An element of an operand (or constant)."""

    value: Value
    index: Index


@dataclass(frozen=True, eq=False)
class Apply(Expr):
    """An element-wise op."""

    op: Op
    args: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Fold(Expr):
    """sum, prod, max or min of `arg` over the inner axes."""

    how: str
    arg: Expr
    over: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Number(Expr):
    value: float | int


@dataclass(frozen=True, eq=False)
class Count(Expr):
    """How many points the inner axes have."""

    over: tuple[int, ...]


@dataclass(frozen=True)
class Store:
    """Result number `output` gets `expr` at `index`."""

    output: int
    index: Index
    expr: Expr


@dataclass(frozen=True)
class Nest:
    """`sizes` of all axes; `inner` those reduced over; `rows` the others that results have."""

    sizes: tuple[Size, ...]
    inner: tuple[int, ...]
    rows: tuple[int, ...]
    stores: tuple[Store, ...]

    @property
    def folds(self) -> list[Fold]:
        return [e for e in expressions([s.expr for s in self.stores]) if isinstance(e, Fold)]


def children(e: Expr) -> tuple[Expr, ...]:
    if isinstance(e, Apply):
        return e.args
    return (e.arg,) if isinstance(e, Fold) else ()


def expressions(
    roots: Sequence[Expr], below: Callable[[Expr], Sequence[Expr]] = children
) -> list[Expr]:
    """Everything below these, each once, operands first."""
    out: list[Expr] = []
    seen: set[int] = set()
    todo: list[tuple[Expr, bool]] = [(e, False) for e in reversed(roots)]
    while todo:
        e, ready = todo.pop()
        if ready:
            out.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            todo.append((e, True))
            todo.extend((c, False) for c in reversed(below(e)))
    return out


Shape = Callable[[Value], Sequence[Size] | None]
Rule = Callable[["Tracer", Node, Index, int], Expr]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register how a result of these ops is read at an index."""

    def register(made: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, made))
        return made

    return register


@dataclass
class Tracer:
    """Reads results of one group; everything outside `members` is an operand."""

    graph: Graph
    members: set[Node]
    shape_of: Shape
    sizes: list[Size] = field(default_factory=list)
    inner: tuple[int, ...] | None = None
    made: dict[Any, Expr] = field(default_factory=dict)
    relations: dict[Node, list[Relation]] = field(default_factory=dict)

    def shape(self, value: Value) -> tuple[Size, ...]:
        found = self.shape_of(value)
        if found is None:
            raise NotNest("a rank is not known")
        return tuple(found)

    def size(self, k: int) -> Size:
        return self.sizes[k]

    def operands(self, node: Node) -> list[Value | None]:
        return self.graph.operands(node)

    def read(self, value: Value | None, index: Index) -> Expr:
        """The value's element at `index`."""
        assert value is not None
        key = (value, index)
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = self._read(value, index)
        return found

    def _read(self, value: Value, index: Index) -> Expr:
        node = value.node
        if node not in self.members or isinstance(node.op, Input | Constant):
            axes = frozenset[int]().union(*(f.axes for f in index))
            return Read(value.type.dtype, axes, value, index)
        found = RULES.get(node.op.name)
        if found is None:
            raise NotNest(f"{node.op.name} is not computed element by element")
        return found(self, node, index, value.index)

    # ---- expressions ---------------------------------------------------------------------------

    def apply(self, op: Op, *args: Expr, dtype: DType | None = None) -> Expr:
        made = dtype or args[0].dtype
        axes = frozenset[int]().union(*(a.axes for a in args))
        return self._once((op.key(), made, *map(id, args)), lambda: Apply(made, axes, op, args))

    def number(self, value: float, dtype: DType) -> Expr:
        key = (repr(value), dtype)
        return self._once(key, lambda: Number(dtype, frozenset(), value))

    def count(self, over: tuple[int, ...], dtype: DType) -> Expr:
        return self._once(("count", over, dtype), lambda: Count(dtype, frozenset(), over))

    def fold(self, how: str, arg: Expr, over: tuple[int, ...]) -> Expr:
        if not over:
            return arg
        axes = arg.axes - set(over)
        return self._once((how, id(arg), over), lambda: Fold(arg.dtype, axes, how, arg, over))

    def _once(self, key: Any, make: Callable[[], Expr]) -> Expr:
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = make()
        return found

    # ---- inner axes ----------------------------------------------------------------------------

    def reduced(
        self, index: Index, shape: Sequence[Size], gone: Sequence[int]
    ) -> tuple[Index, tuple[int, ...]]:
        """`index` with inner axes at the places `gone` of a tensor of `shape`, and these axes.

        Axes of the results that the rest of the index does not use, and of the same size, serve;
        so that what is computed for a reduction is what results are computed from.
        """
        kept = [f for k, f in enumerate(index) if k not in gone]
        used = frozenset[int]().union(*(f.axes for f in kept)) if kept else frozenset[int]()
        wanted = [shape[k] for k in gone if shape[k] != 1]
        over = self._inner(wanted, used) if wanted else ()
        full, rest = list(index), iter(over)
        for k in gone:
            full[k] = ZERO if shape[k] == 1 else axis(next(rest))
        return tuple(full), over

    def _inner(self, wanted: list[Size], used: frozenset[int]) -> tuple[int, ...]:
        if self.inner is not None:
            if [self.sizes[k] for k in self.inner] != wanted or used & set(self.inner):
                raise NotNest("it reduces over other axes")
            return self.inner
        found: list[int] = []
        at = 0
        for n in wanted:
            k = next((k for k in range(at, len(self.sizes)) if k not in used
                      and self.sizes[k] == n), None)  # fmt: skip
            if k is None:
                break
            found.append(k)
            at = k + 1
        if len(found) < len(wanted):
            found = list(range(len(self.sizes), len(self.sizes) + len(wanted)))
            self.sizes += wanted
        self.inner = tuple(found)
        return self.inner

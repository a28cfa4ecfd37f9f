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

from ..affine import ZERO, Affine, axis
from ..dependence import Relation
from ..graph import Graph, Node, Value
from ..op import Op
from ..ops.structure import Constant, Input
from ..types import DType
from .index import Index, NotNest, Refine, Size

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


# ---- groups ------------------------------------------------------------------------------------


@dataclass
class Axis:
    """One axis of the first result: `start` + step * axis for each of `parts`, (size, step)."""

    start: int
    parts: list[tuple[Size, int]]


def trace(
    graph: Graph, members: set[Node], outputs: Sequence[Value],
    shape: Shape = lambda v: v.shape,
) -> list[Nest]:  # fmt: skip
    """The group's nests, one after the other. Raises NotNest with the reason why it is none.

    `members` are the group's nodes, `outputs` those of its values that are wanted from outside.
    """
    from . import nest_rules as nest_rules

    if len(members) > MAX_NODES:
        raise NotNest(f"more than {MAX_NODES} ops")
    shapes = [shape(v) for v in outputs]
    if not shapes:
        raise NotNest("nothing reads it")
    if any(s is None for s in shapes):
        raise NotNest("a rank is not known")
    known: list[tuple[Size, ...]] = [tuple(s) for s in shapes if s is not None]
    first = max(range(len(known)), key=lambda i: (_weight(known[i]), -i))
    pieces = [[Axis(0, [(n, 1)]) for n in known[first]]]
    nests: list[Nest] = []
    while pieces:
        piece = pieces.pop()
        if len(pieces) + len(nests) >= MAX_PIECES:
            raise NotNest("too many concatenations")
        tracer = Tracer(graph, members, shape)
        try:
            nests.append(_traced(tracer, piece, outputs, known, first))
        except Refine as refine:
            pieces += _refined(piece, refine, bool(tracer.inner))
    if len(nests) > 1 and any(nest.inner for nest in nests):
        raise NotNest("a concatenation around a reduction")
    return nests


def _weight(shape: Sequence[Size]) -> tuple[int, int]:
    """Orders shapes by size: by symbols first, then by what is known."""
    size = 1
    for n in shape:
        size *= n if isinstance(n, int) else 1
    return sum(not isinstance(n, int) for n in shape), size


def _traced(
    tracer: Tracer, piece: list[Axis], outputs: Sequence[Value], shapes: list[tuple[Size, ...]],
    first: int,
) -> Nest:  # fmt: skip
    places: list[Affine] = []
    for a in piece:
        line = Affine(a.start)
        for n, step in a.parts:
            line = line if n == 1 else line + axis(len(tracer.sizes)).scaled(step)
            tracer.sizes.append(n)
        places.append(line)
    own = [k for k, n in enumerate(tracer.sizes) if n != 1]
    stores = []
    order = [first, *(i for i in range(len(outputs)) if i != first)]
    for i in order:
        index = tuple(places) if i == first else _placed(shapes[i], shapes[first], places)
        stores.append(Store(i, index, tracer.read(outputs[i], index)))
    inner = tuple(k for k in tracer.inner or () if tracer.sizes[k] != 1)
    rows = tuple(k for k in own if k not in inner)
    for store in stores:
        used = frozenset[int]().union(*(f.axes for f in store.index))
        if used not in (frozenset(rows), frozenset(own)):
            raise NotNest("results of different shapes")
        if not store.expr.axes <= used:
            raise NotNest("it reduces over other axes")
    if any(set(f.axes) & set(inner) for e in expressions([s.expr for s in stores])
           for f in [e] if isinstance(e, Fold)):  # fmt: skip
        raise NotNest("it reduces over other axes")
    return Nest(tuple(tracer.sizes), inner, rows, tuple(stores))


def _placed(shape: tuple[Size, ...], whole: tuple[Size, ...], places: list[Affine]) -> Index:
    """The index of a further result: its axes are some of the first result's, in order.

    Axes are matched from the back where ranks are equal, else greedily from the front.
    """
    if len(shape) == len(whole) and all(n in (1, m) for n, m in zip(shape, whole)):
        return tuple(ZERO if n == 1 else f for n, f in zip(shape, places))
    out: list[Affine] = []
    at = 0
    for n in shape:
        if n == 1:
            out.append(ZERO)
            continue
        k = next((k for k in range(at, len(whole)) if whole[k] == n), None)
        if k is None:
            raise NotNest("results of different shapes")
        out.append(places[k])
        at = k + 1
    return tuple(out)


def _refined(piece: list[Axis], refine: Refine, folds: bool) -> list[list[Axis]]:
    """The piece with one axis factored, or in two pieces."""
    k = refine.axis
    for i, a in enumerate(piece):
        if k >= len(a.parts):
            k -= len(a.parts)
            continue
        if folds and refine.at:
            raise NotNest("a concatenation around a reduction")
        (n, step), by, at = a.parts[k], refine.by, refine.at

        def cut(start: int, *parts: tuple[Size, int], i: int = i, k: int = k) -> list[Axis]:
            made = Axis(start, [*piece[i].parts[:k], *parts, *piece[i].parts[k + 1 :]])
            return [*piece[:i], made, *piece[i + 1 :]]

        if by:
            return [cut(a.start, (n // by, step * by), (by, step))]
        return [cut(a.start + at * step, (n - at, step)), cut(a.start, (at, step))]
    raise NotNest("a concatenation inside a reduction")

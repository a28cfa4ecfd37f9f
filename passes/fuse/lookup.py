"""Products with one-hot rows as table lookups, and functions of looked-up rows in the table.

    one_hot(i) @ w        ->  gather(w, i)
    f(gather(t, i), c)    ->  gather(f(t, c), i)

An embedding of few classes (bytes, characters, categories) then costs one copy for each row,
whatever follows it element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Array, DType, Graph, Op, Trait, Value, ops_where
from ...ir.ops.indexing import Gather
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from ..simplify.unary import operand_kinds
from . import seeds

MOST = 1 << 22  # elements of a table that is made


class OneHotProduct(Rewrite):
    """cast(x[..., 1] == [0, 1, ..., n - 1]) @ w -> gather([w; 0], clip(x, -1, n))

    What is no class is a row of zeros: the table's last, which -1 (from the end) and n both name.
    """

    def pattern(self, p: PatternBuilder, x: Any, classes: Any, w: Any) -> Pattern:
        return p.mat_mul(p.cast(p.equal(x, p.const(classes))), p.const(w))

    def applies(self, m: Match) -> bool:
        classes, w, shape = m.classes.array, m.w.array, m.x.shape
        n = w.shape[0]
        counts = classes.ndim > 0 and classes.size == n == classes.shape[-1]
        return (
            counts and w.ndim == 2
            and m.root.type.dtype is DType.f32
            and m.x.type.dtype in (DType.i32, DType.i64)
            and np.array_equal(classes.reshape(-1), np.arange(n))
            and shape is not None and shape[-1:] == (1,) and classes.ndim <= len(shape)
        )  # fmt: skip

    def check(self, m: Match) -> Failure | None:
        if not np.isfinite(m.w.array).all():
            return m.fail("the table holds NaN or infinities, which a product spreads", m.w)
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        w = m.w.array
        table = np.concatenate([w, np.zeros_like(w[:1])])
        kind = m.x.type.dtype.numpy
        at = b.clip(m.x, np.array(-1, kind), np.array(len(w), kind))
        at = b.squeeze(at, np.array([-1], np.int64))
        return b.gather(b.constant(table, m.w.node.name), at)


class FunctionOfRows(Rewrite):
    """f(gather(t, i), c, ...) -> gather(f(t, c, ...), i) for element-wise f and constants c that
    all rows share; also of several tables at the same indices
    """

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.op(*ops_where(is_element_wise))(p.rest(x))

    def applies(self, m: Match) -> bool:
        return self._tables(m) is not None

    def _tables(self, m: Match) -> tuple[list[Array | None], Value] | None:
        """The operands' rows and the indices, if all of them are rows of tables or constants."""
        index: Value | None = None
        width = 0  # axes of a row
        for v in m.x:
            if v is not None and _is_lookup(m.graph, v):
                table, index = m.graph.operands(v.node)
                assert table is not None
                width = table.type.rank - 1
        if index is None or index.shape is None:
            return None
        rows: list[Array | None] = []
        for v in m.x:
            row = None if v is None else _rows(m.graph, v, index, width)
            if v is not None and row is None:
                return None
            rows.append(row)
        largest = max(r.size for r in rows if r is not None)
        return (rows, index) if largest <= MOST else None

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        found = self._tables(m)
        assert found is not None
        rows, index = found
        with np.errstate(all="ignore"):
            table = m.op.reference(*rows)
        return b.node(Gather(), b.constant(np.ascontiguousarray(table)), index)


def _is_lookup(graph: Graph, v: Value) -> bool:
    op = v.node.op
    if not isinstance(op, Gather) or op.axis != 0:
        return False
    table = graph.operand(v.node, 0)
    return table is not None and table.array is not None and table.array.ndim >= 2


def _rows(graph: Graph, v: Value, index: Value, width: int) -> Array | None:
    """A table, of rows of so many axes, whose rows at `index` are v; or a constant that all rows
    share.
    """
    if _is_lookup(graph, v):
        table, at = graph.operands(v.node)
        fits = table is not None and at == index and table.type.rank == width + 1
        return table.array if fits and table is not None else None
    if v.array is None or index.shape is None:
        return None
    extra = v.array.ndim - width  # axes that stand against those of the indices
    if extra <= 0:
        return v.array
    if extra <= len(index.shape) and all(d == 1 for d in v.array.shape[:extra]):
        return v.array.reshape(v.array.shape[extra:])
    return None


def is_element_wise(cls: type[Op]) -> bool:
    """Whether the op works on each element by itself."""
    return operand_kinds(cls) is not None and Trait.RANDOM not in cls.traits


@register_pass
@dataclass(frozen=True)
class FuseLookup(Pass):
    """Turn products with one-hot rows into lookups of constant rows, and let element-wise functions
    of looked-up rows be functions of the table, computed once. Legal for finite tables; the rows'
    sums of one number and zeros are that number.
    """

    name = "fuse-lookup"
    absent = "no rows are looked up in constant tables"
    bound = Within(rtol=1e-6, atol=1e-7)
    seeds = (seeds.ONE_HOT, seeds.ROWS)

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules = [OneHotProduct(), FunctionOfRows()]
        return apply_rewrites(graph, rules, context, who=self.name)

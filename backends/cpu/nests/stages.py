"""Statements of a nest: its expressions in stages.

A stage is one walk along the row. A fold is in the stage after those that its argument needs; so
softmax is: the largest; the sum of exp(x - largest), kept; kept * (1 / sum). What an earlier stage
computed is computed again where that is cheap, else kept in scratch memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ....ir import DType
from ....ir.analysis.index import NotNest
from ....ir.analysis.nest import (
    WEIGHTS,
    Apply,
    Expr,
    Fold,
    Nest,
    Number,
    Read,
    children,
    expressions,
)
from ...schedule.formulas import formula, literal
from ...schedule.layout import KERNEL_TYPES
from ...schedule.loops import Loops, View
from .fusion import Place, Stage, Text
from .loops import bounds

KEPT_BYTES = 1 << 17  # of one value over a row: further out than L2, computing again is faster
WORTH_KEEPING = 6  # weight of what is kept rather than computed again


@dataclass
class Slot:
    """A scratch array: an element for each lane, or (whole) for each point of a row."""

    whole: bool
    dtype: DType


@dataclass
class Writer:
    """Turns a nest into the text of its loops; `used` are the views of its places."""

    nest: Nest
    loops: Loops
    views: dict[Expr, View]
    targets: Sequence[View]
    places: list[Place] = field(default_factory=list)
    used: list[View] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    known: dict[Expr, str] = field(default_factory=dict)  # names that hold in the whole row
    arrays: dict[Expr, int] = field(default_factory=dict)  # slots of folds, rows' numbers, kept
    first: dict[Expr, int] = field(default_factory=dict)  # the stage that computes it
    kept: set[Expr] = field(default_factory=set)
    level: dict[Expr, int] = field(default_factory=dict)
    names: int = 0

    def write(self) -> Text:
        roots = [s.expr for s in self.nest.stores]
        self._levels(expressions(roots))
        whole = set(self.nest.inner) if self.nest.inner else set(self.loops.inner)
        self.whole = frozenset(whole)
        last = max(self.level.values())
        folds = [[f for f in self.level if isinstance(f, Fold) and self.level[f] == k + 1]
                 for k in range(last + 1)]  # fmt: skip
        stores = [(s, v) for s, v in zip(self.nest.stores, self.targets)]
        full = [(s, v) for s, v in stores if self._is_full(s.index)]
        single = [(s, v) for s, v in stores if not self._is_full(s.index)]
        ends = [[(s.expr, v) for s, v in full if self.level[s.expr] == k] for k in range(last + 1)]
        for k in range(last + 1):
            self._keep(k, [*(f.arg for f in folds[k]), *(e for e, _ in ends[k])])
        stages = [StageWriter(self, k).write(folds[k], ends[k]) for k in range(last + 1)]
        if single:
            stages.append(StageWriter(self, last + 1).finish([(s.expr, v) for s, v in single]))
        loops = self.loops
        rows = max(1, len(loops.rows) + (loops.pieces > 1))
        return Text(rows, len(loops.around), loops.lanes, tuple(self.places), len(self.slots),
                    tuple(self.head), tuple(stages))  # fmt: skip

    def _is_full(self, index: Any) -> bool:
        return not self.nest.inner or any(f.axes & self.whole for f in index)

    def _levels(self, order: list[Expr]) -> None:
        """After how many stages each expression can be computed."""
        for e in order:
            if e.dtype not in KERNEL_TYPES:
                raise NotNest(f"{e.dtype.value} is not computed in loops")
            deepest = max((self.level[c] for c in children(e)), default=0)
            self.level[e] = deepest + isinstance(e, Fold)

    def full(self, e: Expr) -> bool:
        """Whether it has a value for each point of a row."""
        return bool(e.axes & self.whole)

    def constant(self, e: Expr) -> bool:
        return not e.axes and self.level[e] == 0

    # ---- what is kept --------------------------------------------------------------------------

    def _keep(self, k: int, roots: list[Expr]) -> None:
        """Note where full expressions are computed first; keep those that cost more than memory."""
        loops = self.loops
        points = loops.width * math.prod(
            math.prod(self.nest.sizes[a] for a in g) for g in loops.around
        )
        todo = [e for e in roots if self.full(e)]
        seen: set[Expr] = set()
        while todo:
            e = todo.pop()
            if e in seen:
                continue
            seen.add(e)
            again = self.first.setdefault(e, k) < k
            room = points * e.dtype.numpy.itemsize <= KEPT_BYTES
            if e in self.kept or (again and room and self._weight(e) >= WORTH_KEEPING):
                if e not in self.kept:
                    self.kept.add(e)
                    self.arrays[e] = self.slot(True, e.dtype)
                continue
            todo += [c for c in children(e) if self.full(c)]

    def _weight(self, e: Expr) -> int:
        """The work of computing it again."""
        total = 0
        for x in expressions([e], lambda x: [c for c in children(x) if self.full(c)
                                             and (c not in self.kept)]):  # fmt: skip
            if isinstance(x, Apply):
                total += WEIGHTS.get(x.op.name, 1)
            elif isinstance(x, Read):
                total += 6 if self.places[self.place(self.views[x])].step == "g" else 0
        return total

    def slot(self, whole: bool, dtype: DType) -> int:
        self.slots.append(Slot(whole, dtype))
        return len(self.slots) - 1

    # ---- names ---------------------------------------------------------------------------------

    def fresh(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def place(self, view: View) -> int:
        """The number of an operand or result in the loops."""
        for j, other in enumerate(self.used):
            if other.key == view.key:
                return j
        loops, step = self.loops, view.step(self.loops.inner)
        one = loops.width == 1
        kind = "c" if step == view.tensor.item or one else "s" if step == 0 else "g"
        cut = loops.pieces > 1 and step != 0
        self.places.append(Place(
            view.tensor.dtype.value, cut or any(view.step(g) for g in loops.rows),
            any(view.step(g) for g in loops.around), kind,
        ))  # fmt: skip
        self.used.append(view)
        return len(self.used) - 1

    def read(self, e: Read, base: str) -> str:
        """The load of an operand from `base` on: b for the chunk, q for the row, p inside it."""
        j = self.place(self.views[e])
        return f"read_{e.dtype.value}({base}{j}, {self.at(j) if base != 'b' else '0'})"

    def at(self, j: int) -> str:
        place = self.places[j]
        return {"c": f"i * {self.used[j].tensor.item}", "s": "0", "g": f"i * g{j}"}[place.step]

    def constant_name(self, e: Expr) -> str:
        """An expression that is the same for all rows, computed once a chunk."""
        for x in expressions([e]):
            if x in self.known or isinstance(x, Number):
                continue
            name = self.known[x] = self.fresh()
            text = self.read(x, "b") if isinstance(x, Read) else formula(x, self._known_names(x))
            self.head.append(f"{name} = {text}")
        return self.known[e] if e in self.known else literal(e)

    def _known_names(self, e: Expr) -> list[str]:
        return [literal(c) if isinstance(c, Number) else self.known[c] for c in children(e)]


class StageWriter:
    """The statements of one stage."""

    def __init__(self, writer: Writer, number: int) -> None:
        self.w, self.k = writer, number
        self.before: list[str] = []
        self.loop: list[str] = []
        self.outside: dict[Expr, str] = {}  # names before the loop (lanes)
        self.inside: dict[Expr, str] = {}  # names in it
        self.places: dict[int, None] = {}
        self.touched: dict[int, None] = {}

    def write(self, folds: list[Fold], ends: list[tuple[Expr, View]]) -> Stage:
        w = self.w
        for f in folds:
            self._start(f)
        self._compute([*(f.arg for f in folds), *(e for e, _ in ends)])
        for f in folds:
            self._update(f)
        for e, view in ends:
            j = w.place(view)
            self.places[j] = None
            self.loop.append(f"write_{e.dtype.value}(p{j}, {w.at(j)}, {self._name(e)})")
        kept = tuple((s, w.slots[s].dtype.numpy.itemsize) for s in self.touched)
        return Stage(tuple(self.before), tuple(self.loop), tuple(self.places), kept)

    def finish(self, ends: list[tuple[Expr, View]]) -> Stage:
        """Results that are one number for each row."""
        for e, view in ends:
            j = self.w.place(view)
            name = self._row(e)
            self.before.append(f"write_{e.dtype.value}(q{j}, {self.w.at(j)}, {name})")
        return Stage(tuple(self.before))

    # ---- folds ---------------------------------------------------------------------------------

    def _start(self, f: Fold) -> None:
        kind = f.dtype.value
        low, high = bounds(kind)
        start = {"sum": f"{kind}(0)", "prod": f"{kind}(1)", "max": low, "min": high}[f.how]
        if not self.w.loops.lanes:
            name = self.w.known[f] = self.w.fresh()
            self.before.append(f"{name} = {start}")
            return
        slot = self.w.arrays[f] = self.w.slot(False, f.dtype)
        self.before.append(f"keep_{kind}(z{slot}, i * {f.dtype.numpy.itemsize}, {start})")

    def _update(self, f: Fold) -> None:
        kind, value, lanes = f.dtype.value, self._name(f.arg), self.w.loops.lanes
        total = self.w.fresh() if lanes else self.w.known[f]
        value = f"{kind}({value})"
        if f.dtype.is_float:
            join = {"sum": "plus({0}, {1})", "prod": "{0} * {1}", "max": "top({0}, {1})",
                    "min": "bottom({0}, {1})"}[f.how]  # fmt: skip
        else:
            join = {"sum": "T({0} + {1})", "prod": "T({0} * {1})", "max": "least({1}, {0})",
                    "min": "most({1}, {0})"}[f.how].replace("T(", f"{kind}(")  # fmt: skip
        made = join.format(total, value)
        if not lanes:
            self.loop.append(f"{total} = {made}")
            return
        slot, item = self.w.arrays[f], f.dtype.numpy.itemsize
        self.loop.append(f"{total} = kept_{kind}(z{slot}, i * {item})")
        self.loop.append(f"keep_{kind}(z{slot}, i * {item}, {made})")

    # ---- expressions ---------------------------------------------------------------------------

    def _available(self, e: Expr) -> bool:
        return e in self.w.kept and self.w.first[e] < self.k

    def _compute(self, roots: list[Expr]) -> None:
        """Statements in the loop for these and what they need."""

        def below(e: Expr) -> Sequence[Expr]:
            return children(e) if self.w.full(e) and not self._available(e) else ()

        for e in expressions(roots, below):
            if not self.w.full(e):
                self._from_outside(e)
                continue
            name = self.w.fresh()
            self.loop.append(f"{name} = {self._text(e)}")
            self.inside[e] = name
            if e in self.w.kept and not self._available(e):
                slot, item = self.w.arrays[e], e.dtype.numpy.itemsize
                self.touched[slot] = None
                self.loop.append(f"keep_{e.dtype.value}(e{slot}, i * {item}, {name})")

    def _text(self, e: Expr) -> str:
        if self._available(e):
            slot = self.w.arrays[e]
            self.touched[slot] = None
            return f"kept_{e.dtype.value}(e{slot}, i * {e.dtype.numpy.itemsize})"
        if isinstance(e, Read):
            self.places[self.w.place(self.w.views[e])] = None
            return self.w.read(e, "p")
        return formula(e, [self._name(c) for c in children(e)])

    def _name(self, e: Expr) -> str:
        if isinstance(e, Number):
            return literal(e)
        found = self.inside.get(e)
        if found is None:
            self._from_outside(e)
            found = self.inside[e]
        return found

    def _from_outside(self, e: Expr) -> None:
        """A number of the chunk or the row, as the loop sees it."""
        w = self.w
        if e in self.inside or isinstance(e, Number):
            return
        if w.constant(e):
            self.inside[e] = w.constant_name(e)
        elif not w.loops.lanes:
            self.inside[e] = self._row(e)
        elif isinstance(e, Read):
            self.inside[e] = name = w.fresh()
            self.loop.append(f"{name} = {w.read(e, 'q')}")
        else:
            slot, kind, item = self._array(e), e.dtype.value, e.dtype.numpy.itemsize
            self.inside[e] = name = w.fresh()
            self.loop.append(f"{name} = kept_{kind}(z{slot}, i * {item})")

    def _array(self, e: Expr) -> int:
        """The scratch array with a row's number for each lane."""
        if e not in self.w.arrays:
            name = self._row(e)
            slot = self.w.arrays[e] = self.w.slot(False, e.dtype)
            item = e.dtype.numpy.itemsize
            self.before.append(f"keep_{e.dtype.value}(z{slot}, i * {item}, {name})")
        return self.w.arrays[e]

    def _row(self, root: Expr) -> str:
        """The name of a number of the row (of a lane) before the loop."""
        w = self.w
        names = self.outside if w.loops.lanes else w.known

        def below(e: Expr) -> Sequence[Expr]:
            return () if isinstance(e, Fold) or w.constant(e) or e in names else children(e)

        for e in expressions([root], below):
            if isinstance(e, Number) or e in names:
                continue
            if w.constant(e):
                names[e] = w.constant_name(e)
                continue
            name = names[e] = w.fresh()
            if isinstance(e, Fold):
                kind, item = e.dtype.value, e.dtype.numpy.itemsize
                self.before.append(f"{name} = kept_{kind}(z{w.arrays[e]}, i * {item})")
            elif isinstance(e, Read):
                self.before.append(f"{name} = {w.read(e, 'q')}")
            else:
                parts = [literal(c) if isinstance(c, Number) else names[c] for c in children(e)]
                self.before.append(f"{name} = {formula(e, parts)}")
        return literal(root) if isinstance(root, Number) else names[root]

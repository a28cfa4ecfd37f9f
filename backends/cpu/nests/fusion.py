"""Generated loop nests of fused groups: stages of one loop each over a row, in one kernel.

    for row in rows:                      # shared out in chunks
        for each stage:
            before: numbers of the row, from the folds of earlier stages
            for j0, j1, ... around:
                for i in range(n): statements: loads, arithmetic, updates of folds, stores

Two schemes. *rows*: `i` runs along the row, folds are numbers in registers, summed in several
vector accumulators. *lanes*: `i` runs over neighbouring rows whose elements lie side by side, the
row itself is `around`, and folds are vectors in the scratch memory of the chunk.

Operands, results and scratch never overlap, which the loads and stores say to LLVM: its vectoriser
then needs no checks of addresses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...schedule.reach import Reach, item_of, reaches

FIXED = 9  # words: header, rows, per, width, tail, scratch, bytes of scratch for each chunk


@dataclass(frozen=True)
class Place:
    """An operand, result or scratch array in the loops.

    moves   whether it has strides over rows; and whether over the loops inside a row
    step    of the innermost loop: c one element, s none, g any
    """

    dtype: str
    outside: bool
    inside: bool
    step: str


@dataclass(frozen=True)
class Stage:
    """Statements before the loop (numbers of the row, starts of folds), statements in it, places
    that they use, and (slot, bytes) of scratch arrays that hold an element for each of its points.
    """

    before: tuple[str, ...] = ()
    loop: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    kept: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Text:
    """A nest: sizes of its loops in number, its places, scratch arrays, and statements."""

    rows: int
    around: int
    lanes: bool
    places: tuple[Place, ...]
    slots: int
    head: tuple[str, ...]
    stages: tuple[Stage, ...]


def nest_kernel(isa: Any, text: Text):
    """The kernel of a nest."""
    from ..codegen import numeric, vector

    head = ["def body(d, chunk):", *_record(text), *(f"    {line}" for line in text.head)]
    lines = [*head, "    row = chunk * per", "    last = smaller(row + per, rows)", "    r = row"]
    for k in range(text.rows - 1, 0, -1):
        lines += [f"    i{k} = rest(r, n{k})", f"    r = part(r, n{k})"]
    lines += ["    i0 = r", "    while row < last:"]
    final = text.rows - 1
    lines += [f"        n = tail if i{final} == n{final} - 1 else width"]
    indices = ", ".join(f"i{k}" for k in range(text.rows))
    for j, place in enumerate(text.places):
        q = f"over_rows(b{j}, s{j}, {indices})" if place.outside else f"b{j}"
        lines.append(f"        q{j} = {q}")
    for stage in text.stages:
        lines += [f"        {line}" for line in _stage(text, stage)]
    lines += ["        row += 1", f"        i{final} += 1"]
    for k in range(final, 0, -1):
        pad = "    " * (2 + final - k)
        lines += [f"{pad}if i{k} == n{k}:", f"{pad}    i{k} = 0", f"{pad}    i{k - 1} += 1"]
    over = {"over_rows": vector.place(text.rows), "over_inner": vector.place(text.around)}
    return numeric.chunked("\n".join(lines), scope() | over)


def _record(text: Text) -> list[str]:
    lines = [
        "    rows, per, width, tail = word(d + 24), word(d + 32), word(d + 40), word(d + 48)",
        "    scratch = word(d + 56) + chunk * word(d + 64)",
    ]
    at = 8 * FIXED

    def take(name: str) -> None:
        nonlocal at
        lines.append(f"    {name} = word(d + {at})")
        at += 8

    def strides(name: str, count: int) -> None:
        nonlocal at
        lines.append(f"    {name} = d + {at}")
        at += 8 * count

    for k in range(text.rows):
        take(f"n{k}")
    for k in range(text.around):
        take(f"m{k}")
    for k in range(text.slots):
        take(f"z{k}")
        lines.append(f"    z{k} += scratch")
    for j, place in enumerate(text.places):
        take(f"b{j}")
        if place.outside:
            strides(f"s{j}", text.rows)
        if place.inside:
            strides(f"inner{j}", text.around)
        if place.step == "g":
            take(f"g{j}")
    factors = [f"m{k}" for k in range(text.around)] + ([] if text.lanes else ["width"])
    lines.append("    count = " + " * ".join(factors or ["1"]))
    return lines


def _stage(text: Text, stage: Stage) -> list[str]:
    lines = list(stage.before)
    if text.lanes and lines:
        lines = ["for i in range(n):", *(f"    {line}" for line in lines)]
    if not stage.loop:
        return lines
    pad = ""
    for k in range(text.around):
        lines.append(f"{pad}for j{k} in range(m{k}):")
        pad += "    "
    indices = "".join(f", j{k}" for k in range(text.around))
    for j in stage.places:
        p = f"over_inner(q{j}, inner{j}{indices})" if text.places[j].inside else f"q{j}"
        lines.append(f"{pad}p{j} = {p}")
    line = "0"
    for k in range(text.around):
        line = f"({line} * m{k} + j{k})" if k else "j0"
    lines += [f"{pad}e{k} = z{k} + {line} * n * {item}" for k, item in stage.kept]
    lines.append(f"{pad}for i in range(n):")
    return [*lines, *(f"{pad}    {statement}" for statement in stage.loop)]


@reaches(nest_kernel)
def _reach(r: Reach, text: Text) -> None:
    """Places by their strides, the last piece of a row by its tail; scratch within a chunk's."""
    rows, width, tail = r[3], r[5], r[6]
    at = FIXED
    sizes = [r[at + k] for k in range(text.rows)]
    around = [r[at + text.rows + k] for k in range(text.around)]
    r.needs(min(sizes) > 0 and rows <= math.prod(sizes), "rows are those of the loops")
    at += text.rows + text.around
    _reach_scratch(r, text, [r[at + k] for k in range(text.slots)], math.prod(around))
    at += text.slots
    written = _written(text)
    for j, place in enumerate(text.places):
        base, item = at, item_of(place.dtype)
        at += 1
        outer = [r[at + k] if place.outside else 0 for k in range(text.rows)]
        at += text.rows * place.outside
        loops = [(n, r[at + k]) for k, n in enumerate(around)] if place.inside else []
        at += text.around * place.inside
        step = item if place.step == "c" else 0
        if place.step == "g":
            step, at = r[at], at + 1
        access = r.writes if j in written else r.reads
        *front, final = zip(sizes, outer)
        last = (final[0] - 1) * final[1]
        if tail == width:
            access(base, item, *front, final, *loops, (width, step))
            continue
        access(base, item, *front, (final[0] - 1, final[1]), *loops, (width, step))
        access(base, item, *front, *loops, (tail, step), start=(last, last))


@cache
def _written(text: Text) -> frozenset[int]:
    """The places that are results: those that a statement writes to."""
    lines = [line for s in text.stages for line in (*s.before, *s.loop)]
    found = (re.findall(r"\bwrite_\w+\([pqb](\d+),", line) for line in lines)
    return frozenset(int(n) for numbers in found for n in numbers)


@cache
def _slots(text: Text) -> dict[int, tuple[int, bool]]:
    """For each scratch array the bytes of an element, and whether it has one for each point."""
    found = {k: (item, True) for s in text.stages for k, item in s.kept}
    for line in (line for s in text.stages for line in (*s.before, *s.loop)):
        for kind, slot in re.findall(r"\bk(?:ept|eep)_(\w+?)\(z(\d+),", line):
            found.setdefault(int(slot), (item_of(kind), False))
    return found


def _reach_scratch(r: Reach, text: Text, starts: list[int], points: int) -> None:
    width, room = max(r[5], r[6]), r[8]
    for slot, (item, whole) in _slots(text).items():
        size = item * width * (points if whole else 1)
        r.needs(starts[slot] >= 0 and starts[slot] + size <= room, "a chunk has its scratch")
    if text.slots:
        r.writes(7, room, (r[2], room))


# ---- the language ------------------------------------------------------------------------------


@cache
def scope() -> dict[str, object]:
    """Names that statements may use: those of `numeric`, and

    read_T(base, offset)      of operands            write_T(base, offset, value)  of results
    kept_T(base, offset)      of scratch             keep_T(base, offset, value)   to scratch
    plus(total, x), top(most, x), bottom(least, x)   updates of folds in any order
    """
    import llvmlite.ir as ir

    from ..codegen import numeric

    def tag(group: str, alone: tuple[str, ...]):
        def set_metadata(module: ir.Module, instruction: ir.Instruction) -> None:
            domain = module.add_metadata([ir.MetaDataString(module, "taut nest")])
            groups = {g: module.add_metadata([ir.MetaDataString(module, f"taut {g}"), domain])
                      for g in ("operand", "result", "scratch")}  # fmt: skip
            instruction.set_metadata("alias.scope", module.add_metadata([groups[group]]))
            instruction.set_metadata("noalias", module.add_metadata([groups[g] for g in alone]))

        return set_metadata

    tags = {
        "operand": tag("operand", ("result", "scratch")),
        "result": tag("result", ("operand", "scratch")),
        "scratch": tag("scratch", ("operand", "result")),
    }
    names = dict(numeric.scope())
    for kind in numeric.KINDS:
        names[f"read_{kind}"] = numeric.typed_load(kind, tags["operand"])
        names[f"write_{kind}"] = numeric.typed_store(kind, tags["result"])
        names[f"kept_{kind}"] = numeric.typed_load(kind, tags["scratch"])
        names[f"keep_{kind}"] = numeric.typed_store(kind, tags["scratch"])
    return names | _folds()


def _folds() -> dict[str, object]:
    """Sums that LLVM may split over lanes and accumulators, and extremes that keep NaN."""
    import llvmlite.ir as ir
    from numba.core.types import Float

    from ..codegen.numeric import intrinsic

    @intrinsic
    def plus(typing, total, x):
        def generate(context, b, signature, args):
            return b.fadd(args[0], args[1], flags=("reassoc", "nsz"))

        return (total(total, x), generate) if isinstance(total, Float) and total == x else None

    def extreme(name: str):
        @intrinsic
        def apply(typing, best, x):
            def generate(context, b, signature, args):
                kind = args[0].type
                shape = ir.FunctionType(kind, [kind, kind])
                return b.call(b.module.declare_intrinsic(name, [kind], shape), args)

            return (best(best, x), generate) if isinstance(best, Float) and best == x else None

        return apply

    return {"plus": plus, "top": extreme("llvm.maximum"), "bottom": extreme("llvm.minimum")}

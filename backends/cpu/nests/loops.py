"""Generated loop nests over strided views: element-wise expressions and gathers by table.

These make machine code, so what they are made of is part of every cached object's key (see `jit`).
"""

from __future__ import annotations

import math
import re
from typing import Any

from ....ir import DType
from ...schedule.reach import Reach, item_of, reaches
from ..codegen.isa import Isa

OUTER = 5  # axes outside the inner loop of a map
OPERAND = 2 + OUTER  # words of an operand: address, outer strides, inner stride
_FIXED = 3 + 4 + OUTER - 1  # header, rows, per, inner, tail, outer sizes but the first
KEPT = 5  # axes that rows are walked over


def map_kernel(isa: Isa, text: str, types: tuple[str, ...], kinds: str):
    """out[i] = text(a0, a1, ...); types and kinds are the result's and then the operands'."""
    from ..codegen import numeric, vector

    scope = numeric.scope() | {"place": vector.place(OUTER)}
    lines = [
        "def body(d, chunk):",
        "    rows, per = word(d + 24), word(d + 32)",
        "    width, tail = word(d + 40), word(d + 48)",
    ]
    lines += [f"    n{k} = word(d + {56 + 8 * (k - 1)})" for k in range(1, OUTER)]
    for j, kind in enumerate(kinds):
        at = 8 * (_FIXED + OPERAND * j)
        if kind == "p":
            lines.append(f"    a{j - 1} = word(d + {at})")
        else:
            lines.append(f"    b{j}, s{j} = word(d + {at}), d + {at + 8}")
        if kind == "g":
            lines.append(f"    t{j} = word(s{j} + {8 * OUTER})")
    lines += ["    row = chunk * per", "    last = smaller(row + per, rows)", "    r = row"]
    for k in range(OUTER - 1, 0, -1):
        lines += [f"    i{k} = rest(r, n{k})", f"    r = part(r, n{k})"]
    lines += ["    i0 = r", "    while row < last:"]
    lines += ["        n = tail if row == rows - 1 else width"]
    values, indices = [], ", ".join(f"i{k}" for k in range(OUTER))
    for j, (kind, kind_of) in enumerate(zip(kinds, types)):
        if kind == "p":
            continue
        lines.append(f"        q{j} = place(b{j}, s{j}, {indices})")
        if kind == "s" and j:
            lines.append(f"        a{j - 1} = load_{kind_of}(q{j}, 0)")
        elif j:
            step = f"t{j}" if kind == "g" else numeric.size(kind_of)
            values.append(f"            a{j - 1} = load_{kind_of}(q{j}, i * {step})")
    step = "t0" if kinds[0] == "g" else numeric.size(types[0])
    lines += ["        for i in range(n):", *values]
    lines += [f"            store_{types[0]}(q0, i * {step}, {text})", "        row += 1"]
    lines += [f"        i{OUTER - 1} += 1"]
    for k in range(OUTER - 1, 0, -1):
        pad = "    " * (2 + OUTER - 1 - k)
        lines += [f"{pad}if i{k} == n{k}:", f"{pad}    i{k} = 0", f"{pad}    i{k - 1} += 1"]
    return numeric.chunked("\n".join(lines), scope)


def take_kernel(isa: Any, kind: str, rank: int, filled: bool, dense: bool):
    """out[i, j, ...] = x at the sum of table_k[i_k] bytes; where an entry is negative, the fill.

    With `dense` the last axis is contiguous in both and has no table."""
    from ..codegen import numeric

    axes = range(rank)
    lines = [
        "def body(d, chunk):",
        "    rows, per = word(d + 24), word(d + 32)",
        "    x, y, f = word(d + 40), word(d + 48), word(d + 56)",
        f"    value = load_{kind}(f, 0)",
    ]
    for k in axes:
        at = 64 + 24 * k
        lines += [f"    n{k} = word(d + {at})", f"    t{k} = word(d + {at + 8})",
                  f"    s{k} = word(d + {at + 16})"]  # fmt: skip
    lines += ["    row = chunk * per", "    last = smaller(row + per, rows)"]
    lines += ["    while row < last:", "        r = row", "        base, out, there = x, y, True"]
    for k in reversed(axes[:-1]):
        lines += [
            f"        i = rest(r, n{k})",
            f"        r = part(r, n{k})",
            f"        o = load_i64(t{k}, 8 * i)",
            "        there = there and o >= 0",
            "        base += o",
            f"        out += i * s{k}",
        ]
    k, item = rank - 1, numeric.size(kind)
    if dense:
        lines += [
            "        if there:",
            f"            for i in range(n{k}):",
            f"                store_{kind}(out, i * {item}, load_{kind}(base, i * {item}))",
            "        else:",
            f"            for i in range(n{k}):",
            f"                store_{kind}(out, i * {item}, value)",
            "        row += 1",
        ]
        return numeric.chunked("\n".join(lines), numeric.scope())
    lines += [f"        for i in range(n{k}):", f"            o = load_i64(t{k}, 8 * i)"]
    if filled:
        lines += [
            "            if there and o >= 0:",
            f"                store_{kind}(out, i * s{k}, load_{kind}(base, o))",
            "            else:",
            f"                store_{kind}(out, i * s{k}, value)",
        ]
    else:
        lines += [f"            store_{kind}(out, i * s{k}, load_{kind}(base, o))"]
    lines += ["        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def gather_kernel(isa: Any, kind: str, index: str):
    """out[o, i, ...] = x[o, at[i], ...]: rows of `inner` elements, all operands row-major.

    Negative indices count from the end; one out of range sets `fault` and reads the nearest row."""
    from ..codegen import numeric

    item, step = numeric.size(kind), numeric.size(index)
    lines = [
        "def body(d, chunk):",
        "    rows, per = word(d + 24), word(d + 32)",
        "    x, at, out, fault = word(d + 40), word(d + 48), word(d + 56), word(d + 64)",
        "    n, count, inner = word(d + 72), word(d + 80), word(d + 88)",
        "    row = chunk * per",
        "    last = smaller(row + per, rows)",
        "    while row < last:",
        "        outer = part(row, count)",
        f"        k = i64(load_{index}(at, (row - outer * count) * {step}))",
        "        k = k + n if k < 0 else k",
        "        if k < 0 or k >= n:",
        "            store_i64(fault, 0, 1)",
        "            k = clamp(k, 0, n - 1)",
        f"        source = x + (outer * n + k) * inner * {item}",
        f"        target = out + row * inner * {item}",
        "        for j in range(inner):",
        f"            store_{kind}(target, j * {item}, load_{kind}(source, j * {item}))",
        "        row += 1",
    ]
    return numeric.chunked("\n".join(lines), numeric.scope())


def within_kernel(isa: Any, kind: str):
    """Set `fault` where an element of x is not in 0..n - 1, nor the one that is ignored."""
    from ..codegen import numeric

    lines = [
        "def body(d, chunk):",
        "    x, count, n = word(d + 24), word(d + 32), word(d + 40)",
        "    ignored, ignores, fault = word(d + 48), word(d + 56), word(d + 64)",
        "    for i in range(count):",
        f"        k = i64(load_{kind}(x, i * {numeric.size(kind)}))",
        "        if (k < 0 or k >= n) and not (ignores != 0 and k == ignored):",
        "            store_i64(fault, 0, 1)",
    ]
    return numeric.chunked("\n".join(lines), numeric.scope())


def bounds(kind: str) -> tuple[str, str]:
    """The least and the greatest value of a type, as source."""
    if kind == "bool":
        return "False", "True"
    if kind[0] == "f":
        return f"{kind}(-np.inf)", f"{kind}(np.inf)"
    low, high = DType(kind).bounds
    return f"{kind}({low})", f"{kind}({high})"


# ---- what they reach ---------------------------------------------------------------------------


@reaches(map_kernel)
def _reach_map(r: Reach, text: str, types: tuple[str, ...], kinds: str) -> None:
    rows, width, tail = r[3], r[5], r[6]
    sizes = [r[7 + k] for k in range(OUTER - 1)]
    r.needs(min(sizes) > 0, "loops go round")
    sizes.insert(0, -(-rows // math.prod(sizes)))
    # The last row has `tail` elements: it is one piece of a long row, or all rows are alike.
    r.needs(tail == width or rows == sizes[-1], "only a long row has a tail")
    for j, (kind, kind_of) in enumerate(zip(kinds, types)):
        at = _FIXED + OPERAND * j
        if kind == "p":
            r.reads(at, _clamped(r, text, j - 1))
            continue
        item, access = item_of(kind_of), r.reads if j else r.writes
        step = {"c": item, "s": 0}.get(kind, r[at + 1 + OUTER] if kind == "g" else 0)
        strides = [r[at + 1 + k] for k in range(OUTER)]
        if tail == width:
            access(at, item, *zip(sizes, strides), (width, step))
            continue
        last = (rows - 1) * strides[-1]
        access(at, item, (rows - 1, strides[-1]), (width, step))
        access(at, item, (tail, step), start=(last, last))


def _clamped(r: Reach, text: str, operand: int) -> int:
    """Bytes of a table whose only use is at an index that is clamped to a constant."""
    uses = re.findall(rf"\ba{operand}\b", text)
    found = re.search(
        rf"load_(\w+)\(a{operand}, clamp\((?:(?!clamp|load).)*, i64\(0\), a(\d+)\) \* (\d+)\)", text
    )
    r.needs(len(uses) == 1 and found is not None, "an index of a table is clamped")
    assert found is not None
    last = int(r.table(_FIXED + OPERAND * (int(found[2]) + 1), 1)[0])
    r.needs(last >= 0, "an index of a table is clamped")
    return (last + 1) * int(found[3])


@reaches(take_kernel)
def _reach_take(r: Reach, kind: str, rank: int, filled: bool, dense: bool) -> None:
    item, low, high = item_of(kind), 0, 0
    places = []
    rows = math.prod(r[8 + 3 * k] for k in range(rank - 1))
    r.needs(r[3] <= rows, "rows are those of the tables")
    for k in range(rank):
        count = r[8 + 3 * k]
        places.append((count, r[10 + 3 * k]))
        if dense and k == rank - 1:
            high += (count - 1) * item
            continue
        table = r.table(9 + 3 * k, count)
        if filled or dense:  # a negative entry stands for the fill, whatever the others are
            table = table[table >= 0]
        if not table.size:
            high = -item  # nothing is read
            break
        low, high = low + int(table.min()), high + int(table.max())
    if dense:
        places[-1] = (places[-1][0], item)
    r.reads(5, item if high >= low else 0, start=(low, high))
    r.writes(6, item, *places)
    r.reads(7, item)


@reaches(gather_kernel)
def _reach_gather(r: Reach, kind: str, index: str) -> None:
    rows, n, count, size = r[3], r[9], r[10], r[11] * item_of(kind)
    r.needs(n > 0 and count > 0, "an index can be clamped")
    r.reads(5, -(-rows // count) * n * size)  # any row: see the clamp
    r.reads(6, min(count, rows) * item_of(index))
    r.writes(7, rows * size)
    r.writes(8, 8)


@reaches(within_kernel)
def _reach_within(r: Reach, kind: str) -> None:
    r.reads(3, r[4] * item_of(kind))
    r.writes(8, 8)

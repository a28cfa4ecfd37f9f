"""Generated loop nests along an axis: arg max, interpolation, products.

Like `loops`, these make machine code and are part of every cached object's key.
"""

from __future__ import annotations

import math
from typing import Any

from ...schedule.reach import Loop, Reach, item_of, reaches
from .loops import KEPT


def _rows(operands: int) -> tuple[list[str], list[str], int]:
    """Source that walks rows over KEPT axes: a prologue, the offsets x0, x1, ... of a row, and the
    first free byte of the record. Words: rows, per, addresses, then per axis n and strides."""
    head = ["def body(d, chunk):", "    rows, per = word(d + 24), word(d + 32)"]
    at = 40
    for j in range(operands):
        head.append(f"    b{j} = word(d + {at})")
        at += 8
    for k in range(KEPT):
        head.append(f"    n{k} = word(d + {at})")
        at += 8
        for j in range(operands):
            head.append(f"    s{j}_{k} = word(d + {at})")
            at += 8
    row = ["    row = chunk * per", "    last = smaller(row + per, rows)", "    while row < last:"]
    row += ["        r = row", *(f"        x{j} = b{j}" for j in range(operands))]
    for k in reversed(range(KEPT)):
        row += [f"        i = rest(r, n{k})", f"        r = part(r, n{k})"]
        row += [f"        x{j} += i * s{j}_{k}" for j in range(operands)]
    return head, row, at


def arg_kernel(isa: Any, kind: str, largest: bool, last: bool):
    """The index (i64, to x1) of the extreme element along one axis; NaN counts as extreme."""
    from ..codegen import numeric

    head, row, at = _rows(2)
    head.append(f"    n, p = word(d + {at}), word(d + {at + 8})")
    sign = {(True, False): ">", (True, True): ">=", (False, False): "<", (False, True): "<="}
    better = f"v {sign[largest, last]} best"
    nan = "(v != v)" if last else "(v != v and best == best)"
    lines = [*head, *row, f"        best = load_{kind}(x0, 0)", "        at = 0"]
    lines += ["        for i in range(1, n):", f"            v = load_{kind}(x0, i * p)"]
    lines += [f"            if ({better} and best == best) or {nan}:"]
    lines += ["                best = v", "                at = i"]
    lines += ["        store_i64(x1, 0, at)", "        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def interpolate_kernel(isa: Any, kind: str, dense: bool):
    """x1[j] = sum over t of w[j, t] * x0[o[j, t]], for blocks of `inner` elements.

    Weights of 0 come last, and their elements, which may be NaN, do not count.

    One of the rows' axes is j: its stride in x0 is 0 and the tables give the offsets."""
    from ..codegen import numeric

    head, row, at = _rows(3)  # x0 source, x1 target, x2 the row of the table
    head.append(f"    taps, inner = word(d + {at}), word(d + {at + 8})")
    head.append(f"    p, q = word(d + {at + 16}), word(d + {at + 24})")
    item = numeric.size(kind)
    p, q = (str(item), str(item)) if dense else ("p", "q")
    lines = [*head, *row]
    lines += ["        a, w = x0 + load_i64(x2, 0), " + f"{kind}(load_f64(x2, 8))"]
    lines += ["        for i in range(inner):"]
    lines += [f"            v = w * load_{kind}(a, i * {p}) if w != 0 else {kind}(0)"]
    lines += [f"            store_{kind}(x1, i * {q}, v)"]
    lines += ["        for t in range(1, taps):"]
    lines += ["            a = x0 + load_i64(x2, 16 * t)"]
    lines += [f"            w = {kind}(load_f64(x2, 16 * t + 8))"]
    lines += ["            if w == 0:", "                break"]
    lines += ["            for i in range(inner):"]
    lines += [f"                v = load_{kind}(x1, i * {q}) + w * load_{kind}(a, i * {p})"]
    lines += [f"                store_{kind}(x1, i * {q}, v)"]
    lines += ["        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def product_kernel(isa: Any, kind: str):
    """x2[j] = sum over k of x0[k] * x1[k, j] for every row of every matrix; j is contiguous."""
    from ..codegen import numeric

    head, row, at = _rows(3)
    head.append(f"    depth, width = word(d + {at}), word(d + {at + 8})")
    head.append(f"    p, q = word(d + {at + 16}), word(d + {at + 24})")
    item = numeric.size(kind)
    lines = [*head, *row, "        for j in range(width):"]
    lines += [f"            store_{kind}(x2, j * {item}, {kind}(0))"]
    lines += ["        fours = depth - depth % 4", "        for k in range(0, fours, 4):"]
    lines += [f"            c{u} = load_{kind}(x0, (k + {u}) * p)" for u in range(4)]
    lines += [f"            y{u} = x1 + (k + {u}) * q" for u in range(4)]
    terms = " + ".join(f"c{u} * load_{kind}(y{u}, j * {item})" for u in range(4))
    lines += ["            for j in range(width):"]
    lines += [f"                v = {kind}(load_{kind}(x2, j * {item}) + ({terms}))"]
    lines += [f"                store_{kind}(x2, j * {item}, v)"]
    lines += ["        for k in range(fours, depth):", f"            c0 = load_{kind}(x0, k * p)"]
    lines += ["            y0 = x1 + k * q", "            for j in range(width):"]
    lines += [f"                v = {kind}(load_{kind}(x2, j * {item}) + c0 * "
              f"load_{kind}(y0, j * {item}))"]  # fmt: skip
    lines += [f"                store_{kind}(x2, j * {item}, v)", "        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


# ---- what they reach ---------------------------------------------------------------------------


def _walked(r: Reach, operands: int) -> tuple[list[list[Loop]], int]:
    """The loops over rows as each operand moves in them, and the first word behind them."""
    at = 5 + operands
    sizes = [r[at + k * (operands + 1)] for k in range(KEPT)]
    r.needs(min(sizes) > 0, "loops go round")
    r.needs(r[3] <= math.prod(sizes), "rows are those of the loops")
    moves = [[(n, r[at + k * (operands + 1) + 1 + j]) for k, n in enumerate(sizes)]
             for j in range(operands)]  # fmt: skip
    return moves, at + KEPT * (operands + 1)


@reaches(arg_kernel)
def _reach_arg(r: Reach, kind: str, largest: bool, last: bool) -> None:
    (x, out), at = _walked(r, 2)
    r.reads(5, item_of(kind), *x, (max(r[at], 1), r[at + 1]))
    r.writes(6, 8, *out)


@reaches(interpolate_kernel)
def _reach_interpolate(r: Reach, kind: str, dense: bool) -> None:
    (x, out, table), at = _walked(r, 3)
    taps, inner, item = max(r[at], 1), r[at + 1], item_of(kind)
    steps = (item, item) if dense else (r[at + 2], r[at + 3])
    entries = [count for count, stride in table if stride]
    count = math.prod(entries)
    r.needs(all(s in (0, 16 * taps) for _, s in table) and len(entries) <= 1, "one axis is resized")
    start = r.offsets(7, count * taps, 2)[0]
    r.reads(5, item, *x, (inner, steps[0]), start=start)
    r.writes(6, item, *out, (inner, steps[1]))


@reaches(product_kernel)
def _reach_product(r: Reach, kind: str) -> None:
    (a, b, out), at = _walked(r, 3)
    depth, width, item = r[at], r[at + 1], item_of(kind)
    r.reads(5, item, *a, (depth, r[at + 2]))
    r.reads(6, item * width, *b, (depth, r[at + 3]))
    r.writes(7, item * width, *out)

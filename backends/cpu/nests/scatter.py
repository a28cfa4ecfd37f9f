"""Updates written, or added, to computed places."""

from __future__ import annotations

from typing import Any

from ...schedule.reach import Reach, item_of, reaches

ADDED = ("f32", "f64", "i32", "i64")
"""Element types that NumPy adds in themselves."""


def _write(kind: str, item: int, add: bool) -> list[str]:
    """Lines that join one update to what `target` holds at element i."""
    new = f"load_{kind}(source, i * {item})"
    value = f"load_{kind}(target, i * {item}) + {new}" if add else new
    return [f"store_{kind}(target, i * {item}, {kind}({value}))"]


def _place(at: str, n: str) -> list[str]:
    """Lines that read an index k; one out of range sets `fault` and `there` to false."""
    return [f"k = i64({at})", f"k = k + {n} if k < 0 else k", f"if k < 0 or k >= {n}:",
            "    store_i64(fault, 0, 1)", "    there = False"]  # fmt: skip


def _indented(lines: list[str], depth: int) -> list[str]:
    return [" " * (4 * depth) + line for line in lines]


def scatter_nd_kernel(isa: Any, kind: str, index: str, depth: int, add: bool):
    """out[at[r, 0], ..., at[r, depth - 1], :] = (or +=) updates[r, :], all operands row-major.

    A chunk has its columns of every row, so that what meets in one place is added in order.
    """
    from ..codegen import numeric

    item, step = numeric.size(kind), numeric.size(index)
    sizes = "".join(f"    n{j}, s{j} = word(d + {80 + 16 * j}), word(d + {88 + 16 * j})\n"
                    for j in range(depth))  # fmt: skip
    lines = [
        "def body(d, chunk):",
        "    rows, inner, per = word(d + 24), word(d + 32), word(d + 40)",
        "    at, updates, out, fault = word(d + 48), word(d + 56), word(d + 64), word(d + 72)",
        *sizes.splitlines(),
        "    first = chunk * per",
        "    last = smaller(first + per, inner)",
        "    for row in range(rows):",
        "        there = True",
        "        o = 0",
    ]
    for j in range(depth):
        where = f"load_{index}(at, (row * {depth} + {j}) * {step})"
        lines += _indented([*_place(where, f"n{j}"), f"o += k * s{j}"], 2)
    lines += [
        "        if there:",
        f"            source = updates + row * inner * {item}",
        f"            target = out + o * {item}",
        "            for i in range(first, last):",
        *_indented(_write(kind, item, add), 4),
    ]
    return numeric.chunked("\n".join(lines), numeric.scope())


def scatter_elements_kernel(isa: Any, kind: str, index: str, add: bool):
    """out[o, at[o, k, i], i] = (or +=) updates[o, k, i], all operands row-major. A chunk has all of
    its o."""
    from ..codegen import numeric

    item, step = numeric.size(kind), numeric.size(index)
    lines = [
        "def body(d, chunk):",
        "    outer, count, inner, per = word(d + 24), word(d + 32), word(d + 40), word(d + 48)",
        "    at, updates, out = word(d + 56), word(d + 64), word(d + 72)",
        "    fault, n = word(d + 80), word(d + 88)",
        "    o = chunk * per",
        "    last = smaller(o + per, outer)",
        "    while o < last:",
        "        for row in range(count):",
        f"            source = updates + (o * count + row) * inner * {item}",
        "            for i in range(inner):",
        "                there = True",
        *_indented(_place(f"load_{index}(at, ((o * count + row) * inner + i) * {step})", "n"), 4),
        "                if there:",
        f"                    target = out + (o * n + k) * inner * {item}",
        *_indented(_write(kind, item, add), 5),
        "        o += 1",
    ]
    return numeric.chunked("\n".join(lines), numeric.scope())


# ---- what they reach: any place, since an index outside its axis is passed over ----------------


@reaches(scatter_nd_kernel)
def _reach_nd(r: Reach, kind: str, index: str, depth: int, add: bool) -> None:
    rows, inner, item = r[3], r[4], item_of(kind)
    r.reads(6, rows * depth * item_of(index))
    r.reads(7, rows * inner * item)
    places = [(r[10 + 2 * j], r[11 + 2 * j] * item) for j in range(depth)]
    r.writes(8, inner * item, *places)
    r.writes(9, 8)


@reaches(scatter_elements_kernel)
def _reach_elements(r: Reach, kind: str, index: str, add: bool) -> None:
    outer, count, inner, n = r[3], r[4], r[5], r[11]
    r.reads(7, outer * count * inner * item_of(index))
    r.reads(8, outer * count * inner * item_of(kind))
    r.writes(9, outer * n * inner * item_of(kind))
    r.writes(10, 8)

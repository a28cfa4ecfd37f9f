"""Blocks of packing as LLVM IR (see `pack`)."""

from __future__ import annotations

from collections.abc import Callable

from ..codegen.emit import F32, I8, I32, Emit, Value, vec
from ..codegen.isa import Isa

Block = Callable[[Emit, Value, Value, Value, Value, Value], None]


def block(isa: Isa, vectors: int, kind: str, order: str) -> tuple[Block | None, int]:
    """`(emit(e, source, target, row, column, flip), rows of b that a block has)`, or none."""
    words = kind == "f32" or isa.group == 4
    if order == "columns" and words:
        return lambda e, *a: _transposed(e, vectors, kind == "byte", *a), \
            isa.lanes * (4 if kind == "byte" else 1)  # fmt: skip
    if order == "rows" and kind == "f32":
        return lambda e, *a: _copied(e, vectors, *a), 1
    if order == "rows" and words:
        return lambda e, *a: _interleaved(e, vectors, *a), 4
    return None, 1


def _copied(e: Emit, vectors: int, source: Value, target: Value, *_: Value) -> None:
    for j in range(vectors):
        at = 4 * e.n * j
        e.store(e.load(e.add(source, at), vec(F32, e.n)), e.add(target, at))


def _interleaved(
    e: Emit, vectors: int, source: Value, target: Value, row: Value, column: Value, flip: Value
) -> None:
    """Four rows of bytes: lane by lane four bytes of one column."""
    n, b = e.n, e.b
    flips = e.splat(b.trunc(flip, I8), 4 * n)
    order = [n * k + lane for lane in range(n) for k in range(4)]
    for j in range(vectors):
        rows = [e.load(e.add(e.add(source, e.mul(row, k)), n * j), vec(I8, n)) for k in range(4)]
        joined = e.join(e.join(*rows[:2]), e.join(*rows[2:]))
        e.store(b.xor(e.shuffle(joined, joined, order), flips), e.add(target, 4 * n * j))


def _transposed(
    e: Emit, vectors: int, flips: bool, source: Value, target: Value, row: Value, column: Value,
    flip: Value,
) -> None:  # fmt: skip
    """Squares of lanes x lanes words: words of one column become one lane."""
    n, b = e.n, e.b
    pattern = e.splat(b.trunc(e.mul(flip, 0x01010101), I32)) if flips else None
    for j in range(vectors):
        lines = []
        for i in range(n):
            place = e.add(source, e.mul(column, n * j + i))
            lines.append(e.load(place, vec(I32, n)))
        for k, line in enumerate(transposed(e, lines)):
            made = line if pattern is None else b.xor(line, pattern)
            e.store(made, e.add(target, 4 * n * (vectors * k + j)))


def transposed(e: Emit, lines: list[Value]) -> list[Value]:
    """The columns of a square of lanes, by log2(lanes) rounds of interleaving.

    A round pairs line i with line i + n/2; after it line 2i + h holds, for half h of the lanes,
    both lines' elements in turn. That rotates the bits of (line, lane) by one.
    """
    n = len(lines)
    low = [x for i in range(n // 2) for x in (i, i + n)]
    high = [x for i in range(n // 2, n) for x in (i, i + n)]
    for _ in range(n.bit_length() - 1):
        made = []
        for i in range(n // 2):
            a, b = lines[i], lines[i + n // 2]
            made += [e.shuffle(a, b, low), e.shuffle(a, b, high)]
        lines = made
    return lines

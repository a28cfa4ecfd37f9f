"""Recurrent layers: one direction of an RNN, GRU or LSTM over all its steps, in f32.

The products with the input are made beforehand, for all steps at once, by the tile kernels. What
is left is sequential, and here: for each step the state times its weights, and the gates, while
their sums are in registers. A *tile* is `rows` sequences by one *block* of `vectors` vectors of
hidden units, with all gates of these units; its weights are one contiguous run:

    sums, of the input       [time][sequence][block][gate][vector][lane]
    weights of the state     [block][hidden k][gate][vector][lane]

A sequence's state is `hidden` before and after the step (two buffers, that change places), the cell
or what stands in its place, and (GRU) the reset state. A sequence that has ended keeps its state,
and its results are zeros.

Steps depend on one another, so chunks are sequences: a single one runs on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...schedule.kernel import Kernel
from ...schedule.reach import Reach, reaches
from ..codegen.chunked import Chunked
from ..codegen.emit import F32, F64, I64, Emit, Value, vec
from ..codegen.isa import Isa
from . import functions
from .sequences import (
    WORDS,
    RecurrentRecord,
    begin_row,
    end_row,
    place_of,
    state_of,
    write_row,
)

GATES = {"rnn": 1, "gru": 3, "gru_linear": 3, "lstm": 4}
VECTORS = {"rnn": 4, "gru": 4, "gru_linear": 2, "lstm": 2}  # of a block, for one sequence


def shape(cell: str, hidden: int, batch: int, isa: Isa) -> tuple[int, int]:
    """(rows, vectors) of the tile: eight sums at least, so that multiply-adds follow one another
    without waiting, and no more than there are registers."""
    rows = 4 if isa.lanes == 16 else 2
    if batch >= rows:
        return rows, 1
    return 1, min(VECTORS[cell], -(-hidden // isa.lanes))


def kernel(cell: str, rows: int, vectors: int, names: tuple[str, ...], *, clipped: bool = False,
           peepholes: bool = False, coupled: bool = False) -> Kernel:  # fmt: skip
    """The kernel of a cell with these functions; see `recurrent`."""
    return Kernel.of(
        recurrent, cell=cell, rows=rows, vectors=vectors, names="_".join(names), clipped=clipped,
        peepholes=peepholes, coupled=coupled,
    )  # fmt: skip


def recurrent(isa: Isa, cell: str, rows: int, vectors: int, names: str, clipped: bool,
              peepholes: bool, coupled: bool) -> Any:  # fmt: skip
    """Build a kernel.

    cell      'rnn', 'gru', 'gru_linear' (linear_before_reset) or 'lstm'
    names     of its functions, joined by underscores
    coupled   an LSTM whose forget gate is 1 - input gate
    """
    from ..codegen import vector as v

    cells = Cells(cell, vectors, tuple(names.split("_")), clipped, peepholes, coupled)

    def tile(emit: Callable[..., None], count: int) -> Any:
        return v.emitted(isa, 4, lambda e, *place: emit(Tile(e, cells, count, *place)))

    begin, write, end = (v.emitted(isa, 3, f) for f in (begin_row, write_row, end_row))
    word, smaller = v.load_i64, v.smaller
    batch_, chunk_rows_, steps_, blocks_ = (
        8 * WORDS[name] for name in ("batch", "chunk_rows", "steps", "blocks")
    )

    def sweep(emit: Callable[..., None]) -> Any:
        """One pass of a step over all blocks and sequences."""
        several, one = tile(emit, rows), tile(emit, 1)

        @v.inline
        def run(d, k, first, last):
            for block in range(word(d + blocks_)):
                row = first
                while row + rows <= last:
                    several(d, k, block, row)
                    row += rows
                while row < last:
                    one(d, k, block, row)
                    row += 1

        return run

    main, after_reset = sweep(cells.main), sweep(cells.after_reset)
    twice = cell == "gru"

    def body(d, chunk):
        first = chunk * word(d + chunk_rows_)
        last = smaller(first + word(d + chunk_rows_), word(d + batch_))
        for row in range(first, last):
            begin(d, 0, row)
        for k in range(word(d + steps_)):
            main(d, k, first, last)
            if twice:
                after_reset(d, k, first, last)
            for row in range(first, last):
                write(d, k, row)
        for row in range(first, last):
            end(d, 0, row)

    return Chunked(body)


@reaches(recurrent, RecurrentRecord)
def _reach(
    r: Reach, cell: str, rows: int, vectors: int, names: str, clipped: bool, peepholes: bool,
    coupled: bool,
) -> None:  # fmt: skip
    batch, steps, hidden, padded = (r[n] for n in ("batch", "steps", "hidden", "padded"))
    unit = 4 * r.target.lanes * vectors  # bytes of one gate of a block
    units = r["blocks"] * unit
    r.needs(4 * hidden <= units <= padded, "a state has room for its units")
    r.needs(4 * padded + 8 <= r["state_batch"], "a sequence has room for its states")
    once = 2 if cell == "gru" else GATES[cell]  # gates that are computed together
    r.reads("sums", GATES[cell] * units, (steps, r["sums_time"]), (batch, r["sums_batch"]))
    r.reads("weights", hidden * once * units)
    if cell == "gru":
        r.reads("rest", hidden * units)
    if cell == "gru_linear":
        r.reads("bias", units)
    if peepholes:
        r.reads("peepholes", units, (3, padded))
    if r.given("lengths"):
        r.reads("lengths", 4 * batch)
        r.writes("fault", 8)
    for name in ("h", "c"):
        if r.given(name):
            r.reads(name, 4 * hidden, (batch, r[f"{name}_batch"]))
    for name in ("y", "y_h", "y_c"):
        if r.given(name):
            times = [(steps, r["y_time"])] if name == "y" else []
            r.writes(name, 4 * hidden, *times, (batch, r[f"{name}_batch"]))
    r.writes("state", r["state_batch"], (batch, r["state_batch"]))


class Tile:
    """Where a tile stands: its record, step, block and sequences."""

    def __init__(self, e: Emit, cells: Cells, rows: int, d: Value, k: Value, block: Value,
                 row: Value) -> None:  # fmt: skip
        self.e, self.d, self.k, self.rows = e, d, k, rows
        self.vectors, self.size = cells.vectors, 4 * e.n
        self.block = block
        self.padded = self.field("padded")
        self.units = e.mul(block, cells.vectors * self.size)  # bytes from a state's first unit on
        self.states = [state_of(e, d, e.add(row, i)) for i in range(rows)]
        odd = e.mul(e.b.and_(k, e.i64(1)), self.padded)
        self.now, self.next = odd, e.b.sub(self.padded, odd)
        lives = [place_of(e, d, k, s) for s in self.states]
        self.live = [live for live, _ in lives]
        stride = cells.gates * cells.vectors * self.size
        sums = e.add(self.field("sums"), e.mul(block, stride))
        self.sums = [
            e.add(e.add(sums, e.mul(time, self.field("sums_time"))),
                  e.mul(e.add(row, i), self.field("sums_batch")))
            for i, (_, time) in enumerate(lives)
        ]  # fmt: skip

    def field(self, name: str, kind: Any = I64) -> Value:
        return self.e.field(self.d, WORDS[name], kind)

    def number(self, name: str) -> Value:
        """A float of the record in all lanes."""
        return self.e.splat(self.e.b.fptrunc(self.field(name, F64), F32))

    def vector(self, address: Value, index: int = 0) -> Value:
        """Vector `index` of those from `address` on."""
        return self.e.load(self.e.add(address, index * self.size), vec(F32, self.e.n), 4)

    def units_of(self, i: int, buffer: Value | int) -> Value:
        """Where the block's units are in a buffer of sequence i's state (0 and 1 hidden; 2, 3)."""
        at = self.e.mul(self.padded, buffer) if isinstance(buffer, int) else buffer
        return self.e.add(self.e.add(self.states[i], at), self.units)

    def put(self, i: int, buffer: Value | int, v: int, value: Value, old: Value) -> None:
        """Store a vector of sequence i's state, or what it was if the sequence has ended."""
        value = self.e.b.select(self.live[i], value, old)
        self.e.store(value, self.e.add(self.units_of(i, buffer), v * self.size), 4)

    def dots(self, start: list[Value], weights: Value, gates: int, buffer: Value) -> list[Value]:
        """start[i, gate, vector] + sum over k of state[i, k] * weights[k, gate, vector]."""
        e, many = self.e, gates * self.vectors
        sources = [e.add(s, buffer) for s in self.states]
        run = e.mul(self.field("hidden"), many * self.size)
        weights = e.add(weights, e.mul(self.block, run))

        def step(k: Value, carried: list[Value]) -> list[Value]:
            at, *acc = carried
            w = [self.vector(at, j) for j in range(many)]
            for i, source in enumerate(sources):
                x = e.splat(e.load(e.add(source, e.mul(k, 4)), F32, 4))
                for j in range(many):
                    acc[i * many + j] = e.fma(x, w[j], acc[i * many + j])
            return [e.add(at, many * self.size), *acc]

        return e.loop(e.i64(0), self.field("hidden"), 1, [weights, *start], step)[1:]


@dataclass(frozen=True)
class Cells:
    """A layer's equations, vector by vector."""

    cell: str
    vectors: int
    names: tuple[str, ...]
    clipped: bool
    peepholes: bool
    coupled: bool

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    def main(self, t: Tile) -> None:
        """The whole step, or a GRU's first two gates."""
        plain = 2 if self.cell == "gru" else self.gates
        start = [
            t.vector(t.sums[i], g * self.vectors + v) if not (self._is_linear and g == 2)
            else t.vector(t.e.add(t.field("bias"), t.units), v)
            for i in range(t.rows)
            for g in range(plain)
            for v in range(self.vectors)
        ]  # fmt: skip
        made = t.dots(start, t.field("weights"), plain, t.now)
        for i in range(t.rows):
            for v in range(self.vectors):
                at = i * plain * self.vectors + v
                self._finish(t, i, v, made[at : at + plain * self.vectors : self.vectors])

    def after_reset(self, t: Tile) -> None:
        """A GRU's last gate: n = g(sums + (r h) Rt); h' = (1 - z) n + z h."""
        start = [
            t.vector(t.sums[i], 2 * self.vectors + v)
            for i in range(t.rows)
            for v in range(self.vectors)
        ]
        made = t.dots(start, t.field("rest"), 1, t.e.mul(t.padded, 3))
        for i in range(t.rows):
            for v in range(self.vectors):
                z = t.vector(t.units_of(i, 2), v)
                self._blend(t, i, v, z, made[i * self.vectors + v])

    @property
    def _is_linear(self) -> bool:
        return self.cell == "gru_linear"

    def _f(self, t: Tile, which: int, x: Value, bounded: bool = True) -> Value:
        """Function `which` of a sum."""
        e = t.e
        if bounded and self.clipped:
            clip = t.number("clip")
            x = functions.most(e, functions.least(e, x, e.b.fneg(clip)), clip)
        alpha, beta = t.number(f"alpha{which}"), t.number(f"beta{which}")
        return functions.RECURRENT[self.names[which]](e, x, alpha, beta)

    def _finish(self, t: Tile, i: int, v: int, sums: list[Value]) -> None:
        b = t.e.b
        h = t.vector(t.units_of(i, t.now), v)
        if self.cell == "rnn":
            t.put(i, t.next, v, self._f(t, 0, sums[0]), h)
        elif self.cell == "lstm":
            self._lstm(t, i, v, sums, h)
        elif self._is_linear:
            z, r = self._f(t, 0, sums[0]), self._f(t, 0, sums[1])
            x = t.vector(t.sums[i], 2 * self.vectors + v)
            self._blend(t, i, v, z, t.e.fma(r, sums[2], x))
        else:
            z, r = self._f(t, 0, sums[0]), self._f(t, 0, sums[1])
            t.put(i, 2, v, z, z)
            t.put(i, 3, v, b.fmul(r, h), h)

    def _blend(self, t: Tile, i: int, v: int, z: Value, total: Value) -> None:
        b = t.e.b
        n, h = self._f(t, 1, total), t.vector(t.units_of(i, t.now), v)
        kept = b.fmul(b.fsub(t.e.vector(F32, 1.0), z), n)
        t.put(i, t.next, v, t.e.fma(z, h, kept), h)

    def _lstm(self, t: Tile, i: int, v: int, sums: list[Value], h: Value) -> None:
        e, b = t.e, t.e.b
        c = t.vector(t.units_of(i, 2), v)

        def gate(k: int, cell: Value) -> Value:
            total = sums[k]
            if self.peepholes:
                at = e.add(e.add(t.field("peepholes"), e.mul(t.padded, k)), t.units)
                total = e.fma(t.vector(at, v), cell, total)
            return self._f(t, 0, total)

        take = gate(0, c)
        forget = b.fsub(e.vector(F32, 1.0), take) if self.coupled else gate(2, c)
        new = e.fma(forget, c, b.fmul(take, self._f(t, 1, sums[3])))
        out = b.fmul(gate(1, new), self._f(t, 2, new, bounded=False))
        t.put(i, 2, v, new, c)
        t.put(i, t.next, v, out, h)

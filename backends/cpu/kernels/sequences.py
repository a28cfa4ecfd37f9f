"""What a recurrent kernel is told, and what it does for each sequence beside the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from ...schedule.records import Header
from ..codegen.emit import I8, I32, I64, Emit, Value, declare


@dataclass(frozen=True, kw_only=True)
class RecurrentRecord(Header):
    """One direction of a layer; strides are in bytes, addresses of what is left out are 0.

    chunks == ceil(batch / chunk_rows)
    sums, sums_time, sums_batch   of the products with the input, biases included
    weights, rest   of the state; `rest` are those of a GRU's last gate
    bias, peepholes   [hidden, padded] that the last gate of a linear GRU adds; [3][hidden, padded]
    lengths, fault   int32[batch] steps of each sequence; an int64 that is set when one is not
                within 0..steps
    h, c        initial states, and what moves them by one sequence
    y, y_h, y_c   results
    state, state_batch   scratch: 4 * padded + 64 bytes a sequence
    padded      bytes of one state: whole blocks
    """

    batch: int
    chunk_rows: int
    steps: int
    hidden: int
    blocks: int
    padded: int
    back: int
    sums: int
    sums_time: int
    sums_batch: int
    weights: int
    rest: int = 0
    bias: int = 0
    peepholes: int = 0
    lengths: int = 0
    fault: int = 0
    h: int = 0
    h_batch: int = 0
    c: int = 0
    c_batch: int = 0
    y: int = 0
    y_time: int = 0
    y_batch: int = 0
    y_h: int = 0
    y_h_batch: int = 0
    y_c: int = 0
    y_c_batch: int = 0
    state: int
    state_batch: int
    clip: float = float("inf")
    alpha0: float = 0.0
    alpha1: float = 0.0
    alpha2: float = 0.0
    beta0: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0


WORDS = {name: i for i, name in enumerate(RecurrentRecord.__dataclass_fields__)}


def _field(e: Emit, d: Value, name: str) -> Value:
    return e.field(d, WORDS[name])


def state_of(e: Emit, d: Value, row: Value) -> Value:
    return e.add(_field(e, d, "state"), e.mul(row, _field(e, d, "state_batch")))


def _length_at(e: Emit, d: Value, state: Value) -> Value:
    return e.add(state, e.mul(_field(e, d, "padded"), 4))


def place_of(e: Emit, d: Value, k: Value, state: Value) -> tuple[Value, Value]:
    """(does the sequence have step k, where in time that is)."""
    b = e.b
    length = e.load(_length_at(e, d, state), I64, 8)
    live = b.icmp_signed("<", k, length)
    reverse = b.and_(live, b.icmp_signed("!=", _field(e, d, "back"), e.i64(0)))
    return live, b.select(reverse, b.sub(b.sub(length, e.i64(1)), k), k)


def begin_row(e: Emit, d: Value, k: Value, row: Value) -> None:
    """Zeros, the initial states where there are any, and the number of steps."""
    b, state = e.b, state_of(e, d, row)
    _clear(e, state, _field(e, d, "state_batch"))
    padded, size = _field(e, d, "padded"), e.mul(_field(e, d, "hidden"), 4)
    for name, buffer in (("h", 0), ("c", 2)):
        source = _field(e, d, name)
        with b.if_then(b.icmp_signed("!=", source, e.i64(0))):
            source = e.add(source, e.mul(row, _field(e, d, f"{name}_batch")))
            _copy(e, e.add(state, e.mul(padded, buffer)), source, size)
    at, steps = _length_at(e, d, state), _field(e, d, "steps")
    e.store(steps, at, 8)
    lengths = _field(e, d, "lengths")
    with b.if_then(b.icmp_signed("!=", lengths, e.i64(0))):
        length = b.sext(e.load(e.add(lengths, e.mul(row, 4)), I32, 4), I64)
        inside = e.clamp_int(length, e.i64(0), steps)
        e.store(inside, at, 8)
        with b.if_then(b.icmp_signed("!=", inside, length)):
            e.store(e.i64(1), _field(e, d, "fault"), 8)


def write_row(e: Emit, d: Value, k: Value, row: Value) -> None:
    """The step's hidden state as a result, or zeros after the sequence's end."""
    b, target = e.b, _field(e, d, "y")
    with b.if_then(b.icmp_signed("!=", target, e.i64(0))):
        state = state_of(e, d, row)
        live, time = place_of(e, d, k, state)
        target = e.add(target, e.mul(time, _field(e, d, "y_time")))
        target = e.add(target, e.mul(row, _field(e, d, "y_batch")))
        after = e.mul(b.sub(e.i64(1), b.and_(k, e.i64(1))), _field(e, d, "padded"))
        _results(e, d, live, target, e.add(state, after))


def end_row(e: Emit, d: Value, k: Value, row: Value) -> None:
    """The last states; zeros of a sequence that had no step."""
    b, state, padded = e.b, state_of(e, d, row), _field(e, d, "padded")
    last = e.mul(b.and_(_field(e, d, "steps"), e.i64(1)), padded)
    live = b.icmp_signed("!=", e.load(_length_at(e, d, state), I64, 8), e.i64(0))
    for name, at in (("y_h", last), ("y_c", e.mul(padded, 2))):
        target = _field(e, d, name)
        with b.if_then(b.icmp_signed("!=", target, e.i64(0))):
            target = e.add(target, e.mul(row, _field(e, d, f"{name}_batch")))
            _results(e, d, live, target, e.add(state, at))


def _results(e: Emit, d: Value, live: Value, target: Value, source: Value) -> None:
    size = e.mul(_field(e, d, "hidden"), 4)
    with e.b.if_else(live) as (then, otherwise):
        with then:
            _copy(e, target, source, size)
        with otherwise:
            _clear(e, target, size)


def _copy(e: Emit, target: Value, source: Value, size: Value) -> None:
    pointers = [e.b.inttoptr(a, I8.as_pointer()) for a in (target, source)]
    arguments = [*pointers, size, ir.Constant(ir.IntType(1), 0)]
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    e.b.call(declare(e.b.module, kind, "llvm.memcpy.p0.p0.i64"), arguments)


def _clear(e: Emit, target: Value, size: Value) -> None:
    pointer = e.b.inttoptr(target, I8.as_pointer())
    arguments = [pointer, ir.Constant(I8, 0), size, ir.Constant(ir.IntType(1), 0)]
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    e.b.call(declare(e.b.module, kind, "llvm.memset.p0.i64"), arguments)

"""Loops by ONNX's rules: counted and conditional ones, and scans over the slices of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..dependence import Dependences
from ..errors import FeedError, VerifyError
from ..op import Abstract, Array, Cost, Inferred, Operands, Results, memory_bytes, register
from ..relate import everything, shape_at
from ..types import Dim, DType, Limits, TensorType, unify
from .common import check_axis, check_scalar
from .control import (
    Call,
    ControlFlow,
    Places,
    Stack,
    body_macs,
    counted,
    known_types,
    present,
    settle,
)
from .shape import Identity

if TYPE_CHECKING:
    from ..graph import Graph


@register
@dataclass(frozen=True, kw_only=True)
class Loop(ControlFlow):
    """`for i in range(trip): if not cond: break; cond, *values, *scans = body(i, cond, *values)`

    The first `carried` of the values go from iteration to iteration, the rest are captures. Results
    are the carried values at the end and each scan output's values along a new first axis. Without
    `trip` there is no such bound; without `cond` the body's is ignored.
    """

    carried: int
    body: Graph

    first_result: ClassVar[int] = 1

    @property
    def places(self) -> Places:
        return Places(2, 2, 2 + self.carried)

    @property
    def carried_values(self) -> int:
        return self.carried

    def trimmed(self, dead: set[int]) -> dict[str, Any]:
        return {"carried": self.carried - sum(r < self.carried for r in dead)}

    def _made(self) -> list[Abstract]:
        """The iteration's number and the condition, as vectors of one element where the body's
        inputs are declared so."""
        inputs = self.body.inputs
        if self.carried < 0 or len(inputs) < 2 + self.carried:
            raise VerifyError(f"its body takes {len(inputs)} inputs, too few for {self.carried} "
                              "carried values")  # fmt: skip
        shapes = [(1,) if n.type.shape is not None and len(n.type.shape) else ()
                  for n in inputs[:2]]  # fmt: skip
        return [Abstract(TensorType(DType.i64, shapes[0])),
                Abstract(TensorType(DType.bool, shapes[1]))]  # fmt: skip

    def settled(self, *operands: Abstract | None) -> list[Abstract]:
        values = present(operands[2:])
        made = self._made()
        held, _ = settle(self.body, made, values[: self.carried], values[self.carried :], 1)
        return [*made, *held, *values[self.carried :]]

    def infer(
        self, trip: Abstract | None = None, cond: Abstract | None = None, *values: Abstract
    ) -> Inferred:
        self._check(trip, cond, values)
        carried, captures = values[: self.carried], values[self.carried :]
        held, outputs = settle(self.body, self._made(), carried, captures, 1)
        goes_on = outputs[0]
        if goes_on.dtype is not DType.bool:
            raise VerifyError(f"its body's condition is {goes_on.type}, not bool")
        check_scalar(goes_on, "its body's condition")
        count = self.count(trip, cond)
        scans = [
            x.type.with_shape(None if x.shape is None else (count, *x.shape))
            for x in outputs[1 + self.carried :]
        ]
        return (*(x.type for x in held), *scans)

    def _check(
        self, trip: Abstract | None, cond: Abstract | None, values: Sequence[Abstract]
    ) -> None:
        if trip is not None and trip.dtype is not DType.i64:
            raise VerifyError(f"the trip count is {trip.type}, not i64")
        if cond is not None and cond.dtype is not DType.bool:
            raise VerifyError(f"the condition is {cond.type}, not bool")
        check_scalar(trip, "the trip count")
        check_scalar(cond, "the condition")
        if len(values) < self.carried:
            raise VerifyError(f"{len(values)} values are given, of which {self.carried} are to be "
                              "carried")  # fmt: skip

    def count(self, trip: Abstract | None, cond: Abstract | None) -> Dim:
        """The number of iterations, where operands and body tell it."""
        if cond is not None and not (_is_true(cond) and self.never_stops):
            return None
        dims = None if trip is None else trip.as_dims()
        if dims is None or len(dims) != 1:
            return None
        return max(dims[0], 0) if isinstance(dims[0], int) else dims[0]

    @property
    def never_stops(self) -> bool:
        """Whether the body's condition is plainly the one handed in, or true."""
        value = self.body.outputs[0]
        while isinstance(value.node.op, Identity):
            value = next(v for v in self.body.operands(value.node) if v is not None)
        return value.node is self.body.inputs[1] or (
            value.array is not None and bool(value.array.all())
        )

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        from ..analysis.iterated import Iteration, iterated

        given = (*operands, None, None)
        if given[1] is not None and not self.never_stops:
            return everything(operands, results, "its body says when it ends")
        carried = range(2, 2 + self.carried)
        stacks = range(self.carried, len(results))
        it = Iteration(self.body, self.settled(*operands), {i: i - 1 for i in carried},
                       {r: (1 + r, 0) for r in stacks}, {}, 0)  # fmt: skip
        found = iterated(it, (None, None, *operands[2:]), results)
        ends = everything(given[:2], results, "it says how often the body runs")
        return (*ends, *found)

    def execute(self, operands: Sequence[Array | None], call: Call, limits: Limits) -> Any:
        trip, cond, *values = (*operands, None, None)[: max(len(operands), 2)]
        carried = [np.asarray(v) for v in values[: self.carried]]
        captures = present(values[self.carried :])
        bound = math.inf if trip is None else int(_scalar(trip, "the trip count"))
        goes_on = True if cond is None else bool(_scalar(cond, "the condition"))
        number, flag = (x.type.static_shape for x in self._made())
        outputs = self.body.outputs[1 + self.carried :]
        stacks = [Stack(k, limits, []) for k in range(len(outputs))]
        i = 0
        with counted(limits) as spend:
            while i < bound and goes_on:
                spend()
                made = call("body", [
                    np.full(number, i, np.int64), np.full(flag, goes_on), *carried, *captures
                ])  # fmt: skip
                carried = list(made[1 : 1 + self.carried])
                for stack, array in zip(stacks, made[1 + self.carried :]):
                    stack.append(array)
                goes_on = cond is None or bool(_scalar(made[0], "its body's condition"))
                i += 1
        types = self._scan_types(carried, captures) if not i else [v.type for v in outputs]
        return (*carried, *(s.stacked(t) for s, t in zip(stacks, types)))

    def _scan_types(self, carried: Sequence[Array], captures: Sequence[Array]) -> list[TensorType]:
        rest = known_types(captures)
        _, made = settle(self.body, self._made(), known_types(carried), rest, 1)
        return [x.type for x in made[1 + self.carried :]]

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        """Of the iterations where their number is known, else of one."""
        given = (*operands, None, None)
        count = self.count(given[0], given[1])
        times = count if isinstance(count, int) else 1
        macs = times * body_macs(self.body, self.settled(*operands))
        return Cost(macs, memory_bytes(operands, results))


def _is_true(x: Abstract) -> bool:
    return x.value is not None and bool(x.value.all())


def _scalar(x: Array, what: str) -> Any:
    if x.size != 1:
        raise FeedError(f"{what} has {x.size} elements, not one")
    return x.reshape(-1)[0]


@register
@dataclass(frozen=True, kw_only=True)
class Scan(ControlFlow):
    """`*states, *scans = body(*states, *slices)` for each slice of the scanned operands

    Operands are the initial states, `num_scan_inputs` scanned ones, and captures; results the final
    states and each scan output's values along a new axis. Directions: 0 forward, 1 backward.
    """

    states: int
    num_scan_inputs: int
    body: Graph
    scan_input_axes: tuple[int, ...] = ()
    scan_input_directions: tuple[int, ...] = ()
    scan_output_axes: tuple[int, ...] = ()
    scan_output_directions: tuple[int, ...] = ()

    @property
    def places(self) -> Places:
        return Places(0, 0, self.states + self.num_scan_inputs)

    @property
    def carried_values(self) -> int:
        return self.states

    def trimmed(self, dead: set[int]) -> dict[str, Any]:
        def kept(given: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(v for k, v in enumerate(given) if k + self.states not in dead)

        return {
            "states": self.states - sum(r < self.states for r in dead),
            "scan_output_axes": kept(self.scan_output_axes),
            "scan_output_directions": kept(self.scan_output_directions),
        }

    def _split(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """(initial states, scanned operands, captures)"""
        a, b = self.states, self.states + self.num_scan_inputs
        if self.states < 0 or self.num_scan_inputs < 1 or len(values) < b:
            raise VerifyError(f"{len(values)} operands are given for {self.states} states and "
                              f"{self.num_scan_inputs} scanned ones")  # fmt: skip
        return list(values[:a]), list(values[a:b]), list(values[b:])

    def _per(self, given: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
        """An attribute for each of `count` values; 0 where it is left out."""
        if given and len(given) != count:
            raise VerifyError(f"{len(given)} {what} are given for {count} values")
        return given or (0,) * count

    def settled(self, *operands: Abstract | None) -> list[Abstract]:
        states, scanned, captures = self._split(present(operands))
        slices, _ = self._slices(scanned)
        held, _ = settle(self.body, (), states, [*slices, *captures], 0)
        return [*held, *slices, *captures]

    def _slices(self, scanned: Sequence[Abstract]) -> tuple[list[Abstract], Dim]:
        """What the body gets of each scanned operand, and the number of iterations."""
        axes = self._per(self.scan_input_axes, len(scanned), "scan input axes")
        count: Dim = None
        slices: list[Abstract] = []
        for x, axis in zip(scanned, axes):
            if x.shape is None:
                slices.append(Abstract(x.type))
                continue
            at = check_axis(axis, len(x.shape), "scan input axis")
            count = unify(count, x.shape[at])
            slices.append(Abstract(x.type.with_shape(x.shape[:at] + x.shape[at + 1 :])))
        return slices, count

    def infer(self, *values: Abstract) -> Inferred:
        states, scanned, captures = self._split(values)
        if {*self.scan_input_directions, *self.scan_output_directions} - {0, 1}:
            raise VerifyError("a scan direction is neither 0 (forward) nor 1 (backward)")
        self._per(self.scan_input_directions, len(scanned), "scan input directions")
        slices, count = self._slices(scanned)
        held, outputs = settle(self.body, (), states, [*slices, *captures], 0)
        scans = outputs[self.states :]
        axes = self._per(self.scan_output_axes, len(scans), "scan output axes")
        self._per(self.scan_output_directions, len(scans), "scan output directions")
        made: list[TensorType] = [x.type for x in held]
        for x, axis in zip(scans, axes):
            shape = None
            if x.shape is not None:
                at = check_axis(axis, len(x.shape) + 1, "scan output axis")
                shape = (*x.shape[:at], count, *x.shape[at:])
            made.append(x.type.with_shape(shape))
        return tuple(made)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        from ..analysis.iterated import Iteration, iterated

        count, inputs = len(results) - self.states, range(self.num_scan_inputs)
        axes = self._per(self.scan_input_axes, len(inputs), "scan input axes")
        out = self._per(self.scan_output_axes, count, "scan output axes")
        sliced = {self.states + k: axes[k] % len(shape_at(operands, self.states + k))
                  for k in inputs}  # fmt: skip
        stacked = {self.states + k: (self.states + k, out[k] % results[self.states + k].rank)
                   for k in range(count)}  # fmt: skip
        it = Iteration(self.body, self.settled(*operands), {i: i for i in range(self.states)},
                       stacked, sliced, 0)  # fmt: skip
        return iterated(it, operands, results)

    def execute(self, operands: Sequence[Array | None], call: Call, limits: Limits) -> Any:
        states, scanned, captures = self._split(present(operands))
        axes = self._per(self.scan_input_axes, len(scanned), "scan input axes")
        ways = self._per(self.scan_input_directions, len(scanned), "scan input directions")
        lengths = {x.shape[a] for x, a in zip(scanned, axes)}
        if len(lengths) > 1:
            raise FeedError(f"the scanned operands have lengths {sorted(lengths)}")
        slices = [
            np.moveaxis(x, a, 0)[::-1] if backward else np.moveaxis(x, a, 0)
            for x, a, backward in zip(scanned, axes, ways)
        ]
        scans = self.body.outputs[self.states :]
        stacks = [Stack(k, limits, []) for k in range(len(scans))]
        length = lengths.pop()
        with counted(limits) as spend:
            for i in range(length):
                spend()
                made = call("body", [*states, *(s[i] for s in slices), *captures])
                states = list(made[: self.states])
                for stack, array in zip(stacks, made[self.states :]):
                    stack.append(array)
        types = [v.type for v in scans]
        if not length:
            inputs = [Abstract(TensorType.of(s).with_shape(s.shape[1:])) for s in slices]
            rest = [*inputs, *known_types(captures)]
            _, outputs = settle(self.body, (), known_types(states), rest, 0)
            types = [x.type for x in outputs[self.states :]]
        axes = self._per(self.scan_output_axes, len(stacks), "scan output axes")
        ways = self._per(self.scan_output_directions, len(stacks), "scan output directions")
        joined = [s.stacked(t, a, bool(w)) for s, t, a, w in zip(stacks, types, axes, ways)]
        return (*states, *joined)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        _, scanned, _ = self._split(present(operands))
        _, count = self._slices(scanned)
        times = count if isinstance(count, int) else 1
        macs = times * body_macs(self.body, self.settled(*operands))
        return Cost(macs, memory_bytes(operands, results))

"""Gradients of branches and loops, whose bodies are graphs of their own.

A branch's gradient is the same branch over the gradients of both bodies. A loop's walks the
iterations from the last to the first: the forward loop is run once more with what each iteration
started from stacked, and a scan over these stacks hands the states' gradients back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..op import Abstract, implements
from .adjoint import zeros
from .branches import If
from .control import present
from .loops import Loop, Scan

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Graph, Value

Gradients = list["Value | None"]


@implements(If, "gradient")
def if_gradient(
    op: If, b: Builder, operands: Any, results: Any, gradients: Any
) -> list[Value | None]:
    """One gradient for the condition (none) and for each capture."""
    cond, *captures = present(operands)
    given = [k for k, g in enumerate(gradients) if g is not None]
    floats = [i for i, x in enumerate(captures) if x.type.dtype.is_float]
    seeds = [gradients[k] for k in given]
    bodies = {
        name: _branch(body, [x.abstract for x in captures], given, [g.type for g in seeds], floats)
        for name, body in op.bodies.items()
    }
    made = b.add_op(type(op)(**bodies), cond, *captures, *seeds)
    results = [made] if len(floats) == 1 else list(made)
    found: list[Value | None] = [None] * (1 + len(captures))
    for i, v in zip(floats, results):
        found[1 + i] = v
    return found


def _branch(
    body: Graph, captures: Sequence[Abstract], given: Sequence[int], types: Sequence[Any],
    floats: Sequence[int],
) -> Graph:  # fmt: skip
    """The body whose outputs are the gradients of its float inputs, 0 where there is none."""
    from ..build import Builder
    from ..differentiate import differentiate

    b = Builder()
    feeds = [b.graph.add_input(n.name, x.type)[0] for n, x in zip(body.inputs, captures)]
    seeds = [b.graph.add_input(b.graph.fresh("seed"), t)[0] for t in types]
    outputs = splice(b, body, feeds)
    totals: dict[Value, Value] = {}
    for k, seed in zip(given, seeds):
        y = outputs[k]
        totals[y] = b.add(totals[y], seed) if y in totals else seed
    found = differentiate(b.graph, totals, [feeds[i] for i in floats], b=b)
    made = [found[feeds[i]] for i in floats]
    return b.outputs(**{f"d{i}": zeros(b, feeds[i]) if v is None else v
                        for i, v in zip(floats, made)})  # fmt: skip


def splice(b: Builder, body: Graph, feeds: Sequence[Value]) -> list[Value]:
    """The body's nodes added to b's graph; its outputs."""
    named = {n.name: v for n, v in zip(body.inputs, feeds)}
    return list(b.graph.splice(body, named).values())


@dataclass
class Walk:
    """What a loop's gradient needs, whichever loop it is. Body inputs are named by their place."""

    body: Graph
    types: list[Abstract]  # of each body input
    states: dict[int, int]  # body input -> body output that is its next value
    captures: dict[int, Value]
    scanned: list[tuple[int, Value, int, int]] = field(default_factory=list)
    """(body input, stacked values, axis, direction in which the backward walk reads them)"""
    seeds: list[tuple[int, Value, int, int]] = field(default_factory=list)
    """(body output, gradient of its stacked values, axis, direction of the backward walk)"""
    last: dict[int, Value] = field(default_factory=dict)
    """For each state that has one, the gradient of its last value."""

    def run(self, b: Builder) -> tuple[dict[int, Value], dict[int, Value]]:
        """Gradients of the first states and the captures, and of scanned values, by body input."""
        carried = [i for i in self.states if self.types[i].dtype.is_float]
        held = [i for i, v in self.captures.items() if v.type.dtype.is_float]
        sliced = [i for i, v, *_ in self.scanned
                  if v.type.dtype.is_float and i not in self.states]  # fmt: skip
        body = self._backward(carried, held, sliced)
        starts = [self.last[i] for i in carried]
        starts += [zeros(b, self.captures[i]) for i in held]
        read = [*self.scanned, *self.seeds]
        op = Scan(
            states=len(starts), num_scan_inputs=len(read), body=body,
            scan_input_axes=tuple(axis for _, _, axis, _ in read),
            scan_input_directions=tuple(way for *_, way in read),
            scan_output_axes=tuple(a for i, _, a, _ in self.scanned if i in sliced),
            scan_output_directions=tuple(w for i, _, _, w in self.scanned if i in sliced),
        )  # fmt: skip
        made = b.add_op(op, *starts, *(v for _, v, _, _ in read), *self.captures.values())
        results = list(made) if len(starts) + len(sliced) > 1 else [made]
        ends = dict(zip([*carried, *held], results))
        return ends, dict(zip(sliced, results[len(starts) :]))

    def _backward(
        self, carried: Sequence[int], held: Sequence[int], sliced: Sequence[int]
    ) -> Graph:
        """One step back: (gradients of states and captures so far, this iteration's values, its
        outputs' gradients, captures) -> (gradients of states and captures, of slices).
        """
        from ..build import Builder
        from ..differentiate import differentiate

        b = Builder()
        add = b.graph.add_input
        outputs = self.body.outputs
        after = [add(f"after{i}", self.types[i].type)[0] for i in carried]
        sums = [add(f"sum{i}", self.captures[i].type)[0] for i in held]
        feeds = {i: add(f"x{i}", self.types[i].type)[0] for i, *_ in self.scanned}
        seeds = [(k, add(f"seed{k}", outputs[k].type)[0]) for k, *_ in self.seeds]
        feeds |= {i: add(f"x{i}", v.type)[0] for i, v in self.captures.items()}
        made = splice(b, self.body, [feeds[i] for i in range(len(self.types))])
        totals: dict[Value, Value] = {}
        for k, seed in [*((self.states[i], v) for i, v in zip(carried, after)), *seeds]:
            y = made[k]
            totals[y] = b.add(totals[y], seed) if y in totals else seed
        sought = [feeds[i] for i in (*carried, *held, *sliced)]
        found = differentiate(b.graph, totals, sought, b=b)
        gradients = [zeros(b, v) if found[v] is None else found[v] for v in sought]
        count = len(carried)
        for j, total in enumerate(sums, count):
            gradients[j] = b.add(total, gradients[j])
        return b.outputs(**{f"d{j}": v for j, v in enumerate(gradients) if v is not None})


@implements(Scan, "gradient")
def scan_gradient(
    op: Scan, b: Builder, operands: Any, results: Any, gradients: Any
) -> list[Value | None]:
    """One gradient for each operand."""
    states, scanned, captures = op._split(present(operands))
    n, m = len(states), len(scanned)
    axes = op._per(op.scan_input_axes, m, "scan input axes")
    ways = op._per(op.scan_input_directions, m, "scan input directions")
    stacked = _stacked_states(op, b, [*states, *scanned, *captures])
    walk = Walk(
        op.body, op.settled(*(v.abstract for v in present(operands))),
        {i: i for i in range(n)}, {n + m + i: v for i, v in enumerate(captures)},
    )  # fmt: skip
    walk.scanned = [(i, v, 0, 1) for i, v in enumerate(stacked)]
    walk.scanned += [(n + i, *x) for i, x in enumerate(zip(scanned, axes, (1 - w for w in ways)))]
    outputs = len(gradients) - n
    out_axes = op._per(op.scan_output_axes, outputs, "scan output axes")
    out_ways = op._per(op.scan_output_directions, outputs, "scan output directions")
    walk.seeds = [(n + k, g, out_axes[k], 1 - out_ways[k])
                  for k, g in enumerate(gradients[n:]) if g is not None]  # fmt: skip
    walk.last = {i: zeros(b, v) if gradients[i] is None else gradients[i]
                 for i, v in enumerate(states)}  # fmt: skip
    ends, slices = walk.run(b)
    return [{**ends, **slices}.get(i) for i in range(n + m + len(captures))]


def _stacked_states(op: Scan, b: Builder, values: Sequence[Value]) -> list[Value]:
    """What the states are at the start of each iteration, along a new first axis."""
    if not op.states:
        return []
    body = op.body.copy()
    names = dict(zip(body.output_names, body.outputs))
    kept = {name: names[name] for name in body.output_names[: op.states]}
    stacks = {f"before iteration, {i}": n[0] for i, n in enumerate(body.inputs[: op.states])}
    body.set_outputs({**kept, **stacks})
    again = op.replace(body=body, scan_output_axes=(), scan_output_directions=())
    return list(b.add_op(again, *values)[op.states :])


@implements(Loop, "gradient")
def loop_gradient(
    op: Loop, b: Builder, operands: Any, results: Any, gradients: Any
) -> list[Value | None]:
    """One gradient for the trip count and the condition (none) and for each value."""
    trip, cond, *values = operands
    values = present(values)
    n = op.carried
    carried, captures = values[:n], values[n:]
    body = op.body.copy()
    names = dict(zip(body.output_names, body.outputs))
    kept = {name: names[name] for name in body.output_names[: 1 + n]}
    stacks = {f"before iteration, {i}": v[0] for i, v in enumerate(body.inputs[: 2 + n])}
    body.set_outputs({**kept, **stacks})
    stacked = b.add_op(op.replace(body=body), trip, cond, *values)[n:]
    known = [None if v is None else v.abstract for v in (trip, cond)]
    types = op.settled(*known, *(v.abstract for v in values))
    walk = Walk(op.body, types, {2 + i: 1 + i for i in range(n)},
                {2 + n + i: v for i, v in enumerate(captures)})  # fmt: skip
    walk.scanned = [(i, v, 0, 1) for i, v in enumerate(stacked)]
    walk.seeds = [(1 + k, g, 0, 1) for k, g in enumerate(gradients) if k >= n and g is not None]
    walk.last = {2 + i: zeros(b, v) if gradients[i] is None else gradients[i]
                 for i, v in enumerate(carried)}  # fmt: skip
    ends, _ = walk.run(b)
    return [None, None, *(ends.get(2 + i) for i in range(len(values)))]

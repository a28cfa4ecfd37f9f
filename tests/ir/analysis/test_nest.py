"""Nests traced from groups, evaluated with NumPy over the whole grid of their axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import Array, Graph, TensorType, Value, interpret
from taut.ir.analysis.index import NotNest
from taut.ir.analysis.nest import (
    Apply,
    Count,
    Expr,
    Fold,
    Nest,
    Number,
    Read,
    expressions,
)
from taut.ir.analysis.trace import trace
from taut.ir.ops.structure import Input

from taut import testing
from taut.testing.fusible import fusibles

FOLDS: dict[str, Any] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def run(nest: Nest, values: dict[Value, Array], outputs: list[Array]) -> None:
    """Fill `outputs` as the nest says: every expression is an array with all of its axes."""
    rank = len(nest.sizes)
    grids = [np.arange(n).reshape([n if i == k else 1 for i in range(rank)])
             for k, n in enumerate(nest.sizes)]  # fmt: skip

    def places(index: Any) -> tuple[Any, ...]:
        return tuple(f.start + sum((s * grids[a] for a, s in f.terms), np.int64(0)) for f in index)

    made: dict[Expr, Array] = {}
    for e in expressions([s.expr for s in nest.stores]):
        match e:
            case Read():
                made[e] = np.asarray(values[e.value][places(e.index)])
            case Apply():
                made[e] = e.op.reference(*(made[a] for a in e.args))
            case Fold():
                whole = np.broadcast_to(made[e.arg], np.broadcast_shapes(
                    made[e.arg].shape, [n if k in e.over else 1 for k, n in enumerate(nest.sizes)]
                ))  # fmt: skip
                made[e] = FOLDS[e.how].reduce(whole, axis=e.over, keepdims=True, dtype=whole.dtype)
            case Number():
                made[e] = np.asarray(e.value, e.dtype.numpy)
            case Count():
                count = np.prod([nest.sizes[k] for k in e.over])
                made[e] = np.asarray(count, e.dtype.numpy)
        assert made[e].dtype == e.dtype.numpy
    for s in nest.stores:
        grid = np.broadcast_arrays(*places(s.index), made[s.expr])
        outputs[s.output][tuple(grid[:-1])] = grid[-1].reshape(grid[0].shape if s.index else ())


def members(graph: Graph) -> set[Any]:
    return {n for n in graph.nodes() if n is not graph.result and not isinstance(n.op, Input)}


def evaluated(graph: Graph, inputs: Any) -> dict[str, Array]:
    """The graph as nests. Raises NotNest."""
    seen: dict[Value, Array] = {}
    interpret(graph, inputs, watch=lambda v, a: seen.setdefault(v, a))
    static = graph.copy()
    for node in static.inputs:
        static.set_input_type(node, TensorType.of(inputs[node.name]))
    values = {static[v.node.name][v.index]: a for v, a in seen.items()}
    outputs = [np.empty(v.type.static_shape, v.type.dtype.numpy) for v in static.outputs]
    for nest in trace(static, members(static), static.outputs):
        run(nest, values, outputs)
    return dict(zip(static.output_names, outputs))


@settings(max_examples=300, deadline=None)
@given(fusibles(max_steps=5), st.data())
def test_nests_compute_what_their_ops_do(graph: Graph, data: st.DataObject):
    inputs = data.draw(testing.feeds(graph))
    try:
        got = evaluated(graph, inputs)
    except NotNest:
        return
    want = interpret(graph, inputs)
    for name, array in want.items():
        rtol = 1e-12 if array.dtype == np.float64 else 1e-5
        assert testing.difference(array, got[name], rtol, rtol) is None

"""What every declared op promises about its gradient; a new op fails here until it says.

Finite differences in double precision over the samples of the op contract: central differences of
step 1e-6 along random directions, equal to the gradient within 1e-5 of its size.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from op_samples import SAMPLES, Sample
from taut.ir import (
    Abstract,
    Builder,
    DType,
    FeedError,
    Graph,
    NotDifferentiableError,
    Op,
    TautError,
    TensorType,
    Value,
    all_ops,
    differentiate,
    interpret,
    parse,
    print_graph,
)
from taut.ir.op import is_differentiable
from taut.ir.ops.adjoint import filled, shape_of

from taut.testing import check_gradient, in_double

Array = np.ndarray[Any, Any]

ROUNDING = {
    "quantize_linear", "dynamic_quantize_linear", "quantize_rows", "round_bias", "scale_gradient",
}  # fmt: skip
"""Straight through, or scaled on purpose: no finite difference says so; test_straight_through.py
and tests/passes/quantize/test_aware.py do."""


def doubles(sample: Sample) -> tuple[Array | None, ...]:
    """The operands, floats in double precision and moved a little, off ties and kinks."""
    rng = np.random.default_rng(3)

    def moved(x: Array | None) -> Array | None:
        if x is None or not DType.of(x).is_float:
            return x
        return in_double(x) + 1e-3 * rng.standard_normal(x.shape)

    names = [o.name for o in sample.op.operands]
    return tuple(
        in_double(x) if x is not None and name_of(names, i) in sample.op.held else moved(x)
        for i, x in enumerate(sample.operands)
    )


def name_of(names: list[str], i: int) -> str:
    return names[min(i, len(names) - 1)]


def graph_of(sample: Sample, operands: tuple[Array | None, ...]) -> Graph:
    """The op alone; what is an integer or held is a constant, as it is in models."""
    graph = Graph("sample")
    names = [o.name for o in sample.op.operands]
    values: list[Value | None] = []
    for i, x in enumerate(operands):
        if x is None:
            values.append(None)
        elif DType.of(x).is_float and name_of(names, i) not in sample.op.held:
            values.append(graph.add_input(f"x{i}", TensorType.of(x))[0])
        else:
            values.append(graph.constant(x))
    node = graph.add(in_double_op(sample.op), *values, name="node")
    graph.set_outputs({f"y{i}": node[i] for i in range(len(node.results))})
    return graph


def in_double_op(op: Op) -> Op:
    """The op, its bodies in double precision."""
    bodies = {k: getattr(op, k) for k in (a.name for a in op.attributes if a.kind == "graph")}
    return op.replace(**{k: parse(print_graph(v).replace("f32", "f64")) for k, v in bodies.items()})


def is_smooth(sample: Sample) -> bool:
    """Whether a finite difference tells the slope: finite results in double precision."""
    if sample.op.name in ROUNDING or not is_differentiable(type(sample.op)):
        return False
    if sample.op.name == "loop" and sample.data_dependent:  # its carried value grows: see below
        return False
    graph = graph_of(sample, operands := doubles(sample))
    made = interpret(graph, {n.name: operands[int(n.name[1:])] for n in graph.inputs})
    floats = [y for y in made.values() if DType.of(y).is_float]
    return all(y.dtype == np.float64 and np.isfinite(y).all() for y in floats)


def is_float(sample: Sample) -> bool:
    """Whether floats that may be moved make floats."""
    floats = [x for x in sample.operands if x is not None and DType.of(x).is_float]
    if not floats or not all(np.isfinite(x.astype(np.float64)).all() for x in floats):
        return False
    known = [None if x is None else Abstract(TensorType.of(x), x) for x in sample.operands]
    made = sample.op.infer(*known)
    results = made if isinstance(made, tuple) else (made,)
    return any(r.dtype.is_float for r in results)


FLOAT = [s for s in SAMPLES if is_float(s)]
CHECKED = [s for s in FLOAT if is_smooth(s)]


ONE_EACH = list({
    s.op.name: s for s in CHECKED if all(a.kind != "graph" for a in s.op.attributes)
}.values())  # fmt: skip


def test_every_op_of_floats_has_a_gradient_or_a_reason() -> None:
    named = {s.op.name for s in FLOAT}
    silent = [
        c.name for c in all_ops()
        if c.name in named and not is_differentiable(c) and not c.not_differentiable
    ]  # fmt: skip
    assert silent == []


def test_no_op_has_both_a_gradient_and_a_reason_against_it() -> None:
    assert [c.name for c in all_ops() if is_differentiable(c) and c.not_differentiable] == []


def test_every_gradient_is_checked() -> None:
    declared = {s.op.name for s in FLOAT if is_differentiable(type(s.op))}
    assert declared - {s.op.name for s in CHECKED} == ROUNDING & declared


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_gradients_have_the_operands_types(sample: Sample, dtype: Any) -> None:
    """In short float types every node of the gradient infers and runs."""
    operands = [x.astype(dtype) if x is not None and x.dtype == np.float32 else x
                for x in sample.operands]  # fmt: skip
    try:
        graph = graph_of(sample, tuple(operands))
    except TautError:
        return  # the op does not take this type
    sought = [n[0] for n in graph.inputs]
    outputs = [v for v in graph.outputs if v.type.dtype.is_float]
    b = Builder(graph)
    seeds = {v: filled(b, shape_of(b, v), 1, v) for v in outputs}
    found = differentiate(graph, seeds, sought)
    made = {v.node.name: g for v, g in found.items() if g is not None}
    graph.set_outputs(made)
    out = interpret(graph, {n.name: operands[int(n.name[1:])] for n in graph.inputs})
    for name, array in out.items():
        assert TensorType.of(array) == graph[name].type


@pytest.mark.parametrize("sample", CHECKED, ids=str)
def test_the_gradient_is_the_slope(sample: Sample) -> None:
    operands = doubles(sample)
    graph = graph_of(sample, operands)
    check_gradient(graph, {f"x{i}": x for i, x in enumerate(operands) if graph.find(f"x{i}")})


@pytest.mark.parametrize("sample", [s for s in FLOAT if s.op.not_differentiable], ids=str)
def test_an_op_without_a_gradient_says_why(sample: Sample) -> None:
    graph = graph_of(sample, sample.operands)
    node = graph["node"]
    y = next(node[i] for i, t in enumerate(node.types) if t.dtype.is_float)
    seed = graph.constant(np.ones(y.type.static_shape, y.type.dtype.numpy))
    with pytest.raises(NotDifferentiableError, match=r'node "node", op \w+: .+; .+'):
        differentiate(graph, {y: seed}, [n[0] for n in graph.inputs])


def test_a_loop_whose_values_change_shape_is_refused_when_it_runs() -> None:
    sample = next(s for s in FLOAT if s.op.name == "loop" and s.data_dependent)
    graph = graph_of(sample, operands := doubles(sample))
    with pytest.raises(FeedError, match="has shape"):
        check_gradient(graph, {n.name: operands[int(n.name[1:])] for n in graph.inputs})


def is_defined(sample: Sample) -> bool:
    return type(sample.op).definition is not Op.definition and sample.op.name != "fusion"


@pytest.mark.parametrize("sample", [s for s in FLOAT if is_defined(s)], ids=str)
def test_a_definition_computes_what_the_reference_does(sample: Sample) -> None:
    operands = doubles(sample)
    b = Builder()
    values = [None if x is None else b.constant(x) for x in operands]
    values += [None] * (len(sample.op.operands) - len(values))
    made = sample.op.definition(b, *values)
    made = (made,) if isinstance(made, Value) else made
    graph = b.outputs(**{f"y{i}": v for i, v in enumerate(made)})
    want = sample.op.reference(*operands)
    want = want if isinstance(want, tuple) else (want,)
    for got, array in zip(interpret(graph, {}).values(), want, strict=True):
        exact = array.dtype == np.float64  # statistics of a norm are f32 whatever its input is
        np.testing.assert_allclose(got, array, rtol=1e-9 if exact else 1e-6, atol=1e-12)

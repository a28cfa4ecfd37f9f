"""What every declared op promises, on samples; a new op fails here until it has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx_peers
import pytest
from op_samples import SAMPLES, Sample
from taut.ir import (
    Abstract,
    DType,
    FeedError,
    Graph,
    TautError,
    TensorType,
    all_ops,
    equal,
    interpret,
    parse,
    print_graph,
    verify,
)
from taut.ir.graph import infer
from taut.ir.op import Cost

STRUCTURE = {"input", "constant", "return"}
Array = np.ndarray[Any, Any]

samples = pytest.mark.parametrize("sample", SAMPLES, ids=str)


def reference(sample: Sample) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        made = sample.op.reference(*sample.operands)
    return made if isinstance(made, tuple) else (made,)


def abstracts(sample: Sample, how: str) -> list[Abstract | None]:
    """Operands as inference sees them: with values, with types only, with symbols for dimensions,
    or with unknown dimensions or ranks.
    """
    out: list[Abstract | None] = []
    for x in sample.operands:
        if x is None:
            out.append(None)
            continue
        shape: Any = x.shape
        if how == "symbols":
            shape = tuple(d if d <= 1 else f"d{d}" for d in shape)
        elif how == "dimensions":
            shape = (None,) * x.ndim
        elif how == "ranks":
            shape = None
        type = TensorType(DType.of(x), shape)
        out.append(Abstract(type, x if how == "values" else None))
    return out


def test_every_op_has_a_sample() -> None:
    missing = {c.name for c in all_ops()} - {s.op.name for s in SAMPLES} - STRUCTURE
    assert not missing


def test_every_op_says_what_it_does() -> None:
    assert [c.name for c in all_ops() if not (c.__doc__ or "").strip()] == []


@samples
def test_inference_with_values_is_exact(sample: Sample) -> None:
    made = infer(sample.op, abstracts(sample, "values"), "node")
    arrays = reference(sample)
    assert len(made) == len(arrays)
    for got, array in zip(made, arrays):
        if sample.data_dependent:
            assert got.type.accepts(TensorType.of(array))
        else:
            assert got.type == TensorType.of(array)
        if got.dims is not None:
            told = array.astype(np.int64).reshape(-1).tolist()
            assert len(told) == len(got.dims)
            assert all(d is None or d == v for d, v in zip(got.dims, told))


@pytest.mark.parametrize("how", ["types", "symbols", "dimensions", "ranks"])
@samples
def test_inference_with_less_is_sound(sample: Sample, how: str) -> None:
    made = infer(sample.op, abstracts(sample, how), "node")
    arrays = reference(sample)
    assert len(made) == len(arrays)
    for got, array in zip(made, arrays):
        assert got.type.accepts(TensorType.of(array))
        for i, d in enumerate(got.type.shape or ()):
            if how == "symbols" and isinstance(d, str):
                assert d == f"d{array.shape[i]}"


def graph_of(sample: Sample) -> Graph:
    graph = Graph("sample")
    values = [
        None if x is None else graph.add_input(f"x{i}", TensorType.of(x))
        for i, x in enumerate(sample.operands)
    ]
    node = graph.add(sample.op, *values, name="node")
    graph.set_outputs({f"y{i}": node[i] for i in range(len(node.results))})
    return graph


@samples
def test_a_graph_runs_and_its_text_reads_back(sample: Sample) -> None:
    graph = graph_of(sample)
    verify(graph)
    feeds = {f"x{i}": x for i, x in enumerate(sample.operands) if x is not None}
    for got, want in zip(interpret(graph, feeds).values(), reference(sample)):
        np.testing.assert_array_equal(got, want)
    text = print_graph(graph)
    again = parse(text)
    assert print_graph(again) == text
    assert equal(graph, again, names=True)


def odd_forms(sample: Sample) -> Iterator[tuple[Array | None, ...]]:
    """The operands as scalars, without elements, alone and together, and in other float types."""

    def emptied(x: Array) -> Array:
        return x[:0] if x.ndim else x

    def joined(x: Array) -> Array:
        return x[..., :0] if x.ndim else x

    def scalar(x: Array) -> Array:
        return x.reshape(-1)[:1].reshape(())

    for change in (emptied, joined, scalar):
        yield tuple(None if x is None or not x.size else change(x) for x in sample.operands)
        first, *rest = sample.operands
        if first is not None and first.size:
            yield (change(first), *rest)
    for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
        yield tuple(
            x.astype(dtype) if x is not None and x.dtype == np.float32 else x
            for x in sample.operands
        )


@samples
def test_odd_operands_are_refused_or_done(sample: Sample) -> None:
    """What inference lets through has the type that it says, whatever the shapes and types."""
    for operands in odd_forms(sample):
        odd = sample._replace(operands=operands)
        try:
            made = infer(odd.op, abstracts(odd, "values"), "node")
        except TautError as error:
            assert "types cannot be inferred" not in str(error)
            continue
        try:
            arrays = reference(odd)
        except FeedError:
            continue
        for got, array in zip(made, arrays):
            assert got.type.accepts(TensorType.of(np.asarray(array))), operands


@samples
def test_the_reference_leaves_its_operands_alone(sample: Sample) -> None:
    before = [None if x is None else x.copy() for x in sample.operands]
    for x in sample.operands:
        if x is not None:
            x.flags.writeable = False
    reference(sample)
    for x, y in zip(sample.operands, before):
        if x is not None and y is not None:
            assert x.tobytes() == y.tobytes()


@samples
def test_cost_is_a_count(sample: Sample) -> None:
    known = abstracts(sample, "values")
    results = tuple(TensorType.of(a) for a in reference(sample))
    cost = sample.op.cost(*known, results=results)
    assert isinstance(cost, Cost)
    assert isinstance(cost.macs, int) and cost.macs >= 0
    moved = sum(x.nbytes for x in sample.operands if x is not None)
    assert cost.bytes == moved + sum(t.nbytes for t in results)


@samples
def test_equal_attributes_make_equal_keys(sample: Sample) -> None:
    fields = {a.name: getattr(sample.op, a.name) for a in sample.op.attributes}
    assert type(sample.op)(**fields).key() == sample.op.key()
    assert dataclasses.replace(sample.op).key() == sample.op.key()


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.peer], ids=str)
def test_results_are_those_of_other_runtimes(sample: Sample) -> None:
    arrays = reference(sample)
    theirs = onnx_peers.run(sample, len(arrays))
    for ours, other in zip(arrays, theirs):
        assert ours.dtype == other.dtype
        assert ours.shape == other.shape
        if ours.dtype.kind in "iub" and sample.op.name != "quantize_linear":
            np.testing.assert_array_equal(ours, other)
        else:
            np.testing.assert_allclose(
                ours.astype(np.float64), other.astype(np.float64),
                rtol=sample.tolerance, atol=sample.tolerance,
            )  # fmt: skip

"""The testing kit draws what it says, shrinks well, and catches what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from taut.ir import DType, FeedError, Graph, TensorType, interpret, parse, print_graph, verify
from taut.ir.op import Array
from taut.passes import Changes, Context, Exact, Outcome, Pass, Within, base, register_pass

import taut
from taut import testing
from taut.cli import main
from taut.testing import checks

quick = settings(
    max_examples=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
counted = settings(quick, max_examples=100, derandomize=True)  # what is met is not left to chance


@pytest.mark.parametrize("family", testing.FAMILIES)
def test_families_are_sound(family: str):
    seen: Counter[str] = Counter()

    @counted
    @given(st.data())
    def check(data: st.DataObject) -> None:
        graph = data.draw(testing.graphs(family))
        verify(graph)
        text = print_graph(graph)
        assert print_graph(parse(text)) == text
        inputs = data.draw(testing.feeds(graph))
        if family != "dag":  # arbitrary ops may refuse arbitrary inputs, an index out of range say
            assert list(interpret(graph, inputs)) == list(graph.output_names)
        seen.update(n.op.name for n in graph.nodes())

    check()
    expected = {
        "mlp": {"gemm", "mat_mul", "relu"},
        "cnn": {"conv", "batch_normalization", "relu"},
        "dag": {"abs"},
        "fusible": {"transpose", "concat", "softmax", "reduce_max"},
        "quantized": {"quantize_linear", "dequantize_linear", "conv"},
        "integer": {"conv_integer", "requantize", "lookup"},
        "control": {"if", "loop", "scan"},
        "recurrent": {"lstm", "gru", "rnn", "conv", "transpose"},
        "transformer": {"attention", "softmax", "mat_mul", "layer_normalization", "swish"},
    }[family]
    assert not expected - set(seen)


def test_dags_reach_most_of_the_registry():
    seen: Counter[str] = Counter()

    @settings(counted, max_examples=400)
    @given(testing.dags())
    def check(graph: Graph) -> None:
        seen.update(n.op.name for n in graph.nodes())

    check()
    every = {c.name for c in taut.ir.all_ops()}
    assert len(seen.keys() & every) > 0.5 * len(every)


def test_named_ops_have_the_dag_to_themselves():
    graph = find(testing.dags(ops=["relu", "add"]),
                 lambda g: {"relu", "add"} <= {n.op.name for n in g.nx},
                 random=Random(0))  # fmt: skip
    assert {n.op.name for n in graph.nx} <= {"relu", "add", "input", "constant", "return"}


@pytest.mark.parametrize("kind", testing.AWKWARD)
def test_awkward_values_are_drawn(kind: str):
    wanted = {
        "nan": lambda a: np.isnan(a).any(),
        "inf": lambda a: np.isinf(a).any(),
        "denormal": lambda a: ((a != 0) & (np.abs(a) < np.finfo(np.float32).tiny)).any(),
        "negative_zero": lambda a: (np.signbit(a) & (a == 0)).any(),
        "extreme": lambda a: (np.abs(a) == np.finfo(np.float32).max).any(),
    }[kind]
    type = TensorType(DType.f32, (4,))
    array = find(testing.arrays(type, [kind]), wanted, random=Random(0))
    assert array.dtype == np.float32 and array.shape == (4,)

    @quick
    @given(testing.arrays(type))
    def tame(array: Array) -> None:
        assert np.isfinite(array).all() and not (np.signbit(array) & (array == 0)).any()

    tame()


@quick
@given(st.data())
def test_arrays_fit_their_type(data: st.DataObject):
    dtype = data.draw(st.sampled_from(list(testing.values.DTYPES)))
    type = TensorType(dtype, data.draw(testing.shapes()))
    array = data.draw(testing.arrays(type, testing.AWKWARD))
    assert TensorType.of(array) == type
    if dtype is DType.i8:
        low = data.draw(testing.arrays(type, low=-3, high=2))
        assert low.size == 0 or (low.min() >= -3 and low.max() <= 2)


@quick
@given(testing.tensor_types())
def test_types_have_symbols_that_print(type: TensorType):
    b = taut.ir.Builder()
    graph = b.outputs(y=b.input("x", type.dtype, type.shape or ()))
    assert parse(print_graph(graph)).inputs[0].type == graph.inputs[0].type


def test_graphs_shrink_to_little():
    graph = find(testing.cnns(), lambda g: any(n.op.name == "conv" for n in g.nx),
                 settings=settings(database=None), random=Random(0))  # fmt: skip
    assert len(graph) <= 5  # input, weight, bias at most, conv, return
    weight = graph.operand(next(n for n in graph.nx if n.op.name == "conv"), 1)
    assert weight is not None and weight.type.size <= 2


# ---- the checks find what is wrong ---------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch):
    """Passes made here are forgotten afterwards."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    return register_pass


def broken(bound: object, change) -> type[Pass]:
    """A pass `broken` that does `change(graph, node)` at every relu."""

    @dataclass(frozen=True)
    class Broken(Pass):
        """A pass with a fault in it."""

        name = "broken"

        def run(self, graph: Graph, context: Context) -> Outcome:
            for node in graph.nodes():
                if node.op.name == "relu":
                    change(graph, node)
            return Outcome()

    Broken.bound = bound  # type: ignore[assignment]
    return Broken


def drop(graph: Graph, node) -> None:
    x = graph.operand(node, 0)
    assert x is not None
    graph.replace_all_uses(node, x)


def test_a_wrong_pass_is_caught_and_shrunk(registered):
    registered(broken(Exact(), drop))
    with pytest.raises(testing.CheckFailure) as caught:
        testing.check_pass("broken", families=["mlp"], examples=100)
    failure = caught.value
    assert "elements differ" in failure.reason
    assert [n.op.name for n in failure.graph.nodes()] == ["input", "relu", "return"]
    assert print_graph(parse(failure.text)) == failure.text
    assert failure.text.strip() in str(failure)
    assert list(failure.feeds) == ["x"]


def test_a_pass_may_do_what_its_bound_allows(registered):
    registered(broken(Changes(), drop))
    testing.check_pass("broken", families=["mlp"], examples=20)


def test_small_errors_need_a_bound(registered):
    def change(graph: Graph, node) -> None:
        if graph.find("nudged") is None:
            b = taut.ir.Builder(graph)
            x = graph.operands(node)[0]
            again = b.mul(b.relu(x), np.float32(1 + 1e-5), name="nudged")
            graph.replace_all_uses(node, again)

    registered(broken(Exact(), change))
    with pytest.raises(testing.CheckFailure, match="elements differ"):
        testing.check_pass("broken", families=["mlp"], examples=60)
    broken_class = base._REGISTRY["broken"]
    broken_class.bound = Within(1e-3, 1e-3)  # type: ignore[misc]
    testing.check_pass("broken", families=["mlp"], examples=20)


def test_crashes_and_lost_outputs_are_failures(registered):
    def crash(graph: Graph, node) -> None:
        raise ZeroDivisionError("of the pass's own")

    registered(broken(Exact(), crash))
    with pytest.raises(testing.CheckFailure, match="ZeroDivisionError"):
        testing.check_pass("broken", families=["mlp"], examples=60)


def test_pipelines_are_checked():
    testing.check_pipeline("cse,dce", families=["mlp", "dag"], examples=15)
    testing.check_pipelines(["cse,dce", "O1"], families=["mlp", "dag"], examples=15)
    with pytest.raises(taut.ir.ParseError):
        testing.check_pipeline("cse,nothing")


def test_the_pipeline_that_fails_is_named(registered):
    registered(broken(Exact(), drop))
    reason = "broken: AssertionError: output 'y': "
    with pytest.raises(testing.CheckFailure, match=reason) as caught:
        testing.check_pipelines(["dce", "broken", "cse"], families=["mlp"], examples=100)
    assert [n.op.name for n in caught.value.graph.nodes()] == ["input", "relu", "return"]


def test_backends_are_checked(monkeypatch: pytest.MonkeyPatch):
    testing.check_backend("reference", examples=15)

    class Off:
        """A program whose relu has a leak."""

        def __init__(self, graph: Graph) -> None:
            self.graph = graph

        def __call__(self, *arrays: Array) -> dict[str, Array]:
            feeds = dict(zip((n.name for n in self.graph.inputs), arrays))
            leak = {"relu": np.float32(0.1)}

            def watch(value, array: Array) -> Array | None:
                return array + leak[value.node.op.name] if value.node.op.name in leak else None

            return interpret(self.graph, feeds, watch=watch)

    monkeypatch.setattr("taut.testing.checks.compile", lambda graph, target, **options: Off(graph))
    with pytest.raises(testing.CheckFailure, match="first call"):
        testing.check_backend("off", families=["mlp"], examples=60)


def test_difference_is_exact_for_integers_and_kind_to_nan():
    a = np.array([1.0, np.nan, np.inf, 0.0], np.float32)
    assert testing.difference(a, a.copy()) is None
    assert testing.difference(a, np.array([1.0, np.nan, np.inf, -0.0], np.float32)) is None
    assert "first at [1]" in str(testing.difference(a, np.nan_to_num(a)))
    assert testing.difference(np.arange(3), np.array([0, 1, 3]), rtol=1) is not None
    assert testing.difference(a, a.astype(np.float64)) is not None
    assert testing.difference(a[:1] * 1.00001, a[:1], rtol=1e-4) is None
    huge = np.array([1 << 62], np.int64)
    assert testing.difference(huge, huge + 1) is not None


# ---- from the shell ------------------------------------------------------------------------------


def test_fuzz_reports_the_smallest_graph(registered, capsys: pytest.CaptureFixture[str]):
    registered(broken(Exact(), drop))
    command = ["fuzz", "--pass", "broken", "--family", "mlp", "--examples", "60", "--seed", "3"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert [n.op.name for n in parse(out).nodes()] == ["input", "relu", "return"]
    assert "broken fails on the graph above" in err
    assert main([*command, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["failed"] and "relu" in facts["graph"] and list(facts["inputs"]) == ["x"]


def test_fuzz_says_when_all_is_good(capsys: pytest.CaptureFixture[str]):
    assert main(["fuzz", "--pass", "motion", "--examples", "10"]) == 0
    out = capsys.readouterr().out
    assert "motion: applied to " in out and " of 10 graphs, all good" in out
    assert "motion/transpose-twice" in out
    assert main(["fuzz", "--pass", "motion", "--examples", "10", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert 0 < facts["applied"] <= facts["examples"] == 10 and not facts["failed"]
    assert facts["rewrites"]["motion/transpose-twice"] and facts["seed"] == 0


def test_a_pass_that_never_applies_fails(capsys: pytest.CaptureFixture[str]):
    command = ["fuzz", "--pass", "dce", "--examples", "5", "--family", "mlp"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "dce: applied to 0 of 5 graphs" in err and "seeds" in err and not out
    assert main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"]
    with pytest.raises(testing.NeverApplied) as vacuous:
        testing.check_pass("dce", families=["mlp"], examples=5)
    assert (vacuous.value.report.applied, vacuous.value.report.examples) == (0, 5)


OPTIONS = {"bind": "bind{n=2}", "clip-gradients": "clip-gradients{norm=1 value=2}",
           "quantize-dynamic": "quantize-dynamic{smallest=1}"}  # fmt: skip
"""Of passes that do nothing without, or to what is as small as drawn graphs."""


@pytest.mark.parametrize("name", [p.name for p in taut.passes.all_passes() if p.keeps_signature])
def test_every_pass_applies_and_keeps_its_promise(name: str):
    families = ["grown"] if name == "bind" else []  # few others have an n
    report = testing.check_pass(OPTIONS.get(name, name), families=families, examples=40)
    assert report.applied > 0


def test_passes_that_change_the_signature_are_not_compared():
    with pytest.raises(FeedError, match="change what a graph takes or gives"):
        testing.check_pass("gradient")


@pytest.mark.parametrize("name", sorted(taut.passes.PRESETS))
def test_every_preset_keeps_its_promise(name: str):
    testing.check_pipeline(name, examples=25)


@pytest.mark.parametrize("family", testing.FAMILIES)
def test_cpu_programs_keep_the_references_numbers(family: str):
    testing.check_backend("cpu", families=[family], examples=6, threads=1)


@dataclass(frozen=True)
class LoseZeros(Pass):
    """x + 0.0 -> x, which keeps a negative zero where the sum does not."""

    name = "lose-zeros"
    bound = Exact()
    seeds = (
        """
graph @main(%x: f32[4]) -> (%y: f32[4]) {
  %c = constant 0.0 : f32[]
  %1 = BEFORE : f32[4]
  %y = add(%1, %c) : f32[4]
  return %y
}
""",
    )

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        for node in graph.nodes():
            c = graph.operand(node, 1) if node.op.name == "add" else None
            if c is not None and c.array is not None and not c.array.any():
                x = graph.operand(node, 0)
                if x is not None and x.type == node.type:
                    graph.replace_all_uses(node, x)
                    outcome.count("lost")
        return outcome


@pytest.mark.parametrize("before, found", [("identity(%x)", True), ("max(%c, %x)", False)])
def test_zeros_keep_their_sign_where_the_ops_say_it(before: str, found: bool) -> None:
    graph = parse(LoseZeros.seeds[0].replace("BEFORE", before))
    feeds = {"x": np.array([-0.0, 0.0, 1.0, -2.0], np.float32)}
    want, bounds = interpret(graph, feeds), [Exact()]
    if found:
        with pytest.raises(AssertionError, match="elements differ"):
            checks._keeps(LoseZeros(), bounds, graph, print_graph(graph), feeds, want)
    else:
        assert checks._keeps(LoseZeros(), bounds, graph, print_graph(graph), feeds, want)[0]

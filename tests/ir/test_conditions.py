"""Conditions on sizes: their language, and that every way to run or keep a graph respects them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.frontends.onnx import load_onnx
from taut.ir import (
    Builder,
    FeedError,
    Graph,
    ParseError,
    VerifyError,
    assert_equal,
    parse,
    print_graph,
    verify,
)
from taut.ir.analysis.cost import bind_symbols
from taut.ir.conditions import LONGEST, condition
from taut.ir.graph import Value

import taut


def wide(*conditions: str) -> Graph:
    """relu(x) * y of x[n,w] and y[n,w], under these conditions."""
    b = Builder()
    x, y = (b.input(name, "f32", ("n", "w")) for name in "xy")
    graph = b.outputs(z=b.mul(b.relu(x), y))
    for text in conditions:
        graph.require(text)
    return graph


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


SIZES = st.integers(0, 9)
ATOMS = st.sampled_from(["n", "w", "3", "0.5", "n * w", "(n - w)", "-n", "min(n, w, 4)",
                         "max(n, 2)", "abs(n - w)", "floor(n / 2)", "ceil(1.5 * w)",
                         "trunc(1.5 * float(n))", "round(n / 4)", "sqrt(w)", "n ** 2"])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ATOMS, ATOMS, st.sampled_from(["+", "-", "*", "/", "//", "%"]),
       st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), ATOMS, SIZES, SIZES)  # fmt: skip
def test_the_language_is_pythons(
    a: str, b: str, op: str, kind: str, c: str, n: int, w: int
) -> None:
    import math

    text = f"{a} {op} {b} {kind} {c} and not n == 7"
    known = {"floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "sqrt": math.sqrt}
    try:
        want = eval(text, known, {"n": n, "w": w})
    except ZeroDivisionError:
        want = False
    made = condition(text)
    assert made.holds({"n": n, "w": w}) == want
    assert condition(made.text) == made
    # With n known first and w later, the same.
    try:
        half = made.bound({"n": n})
        later = None if half is None else half.bound({"w": w})
        assert want and later is None
    except VerifyError:
        assert not want


@pytest.mark.parametrize("text", [
    "", "n", "n + 1", "n = 2", "n == ", "f(n) == 1", "n.real == 1", "n[0] == 1", "'a' == 'a'",
    "(lambda: 1)() == 1", "__import__('os') == 1", "n == 1 if n else 2", "min(n) == 1",
    "floor(n, 2) == 1", "n ** n == 1", "n ** 99 == 1", "n == 99999999999999999999", "n is n",
    "n in n", "n == True", "[n] == [n]", "(n := 2) == 2", "n == 1j", "n << 2 == 4", "~n == 1",
    "-" * 300 + "n == 1", "(" * 900 + "n == 1" + ")" * 900, "n == 1 " + " " * LONGEST,
    "min(*n, 2) == 1", "min(n, key=w) == 1", "n == 1\x00", "x; n == 1",
])  # fmt: skip
def test_nothing_else_is_read(text: str) -> None:
    with pytest.raises(ParseError):
        condition(text)


def test_numbers_stay_bounded() -> None:
    """A hostile tower of powers is refused when it is computed, not computed."""
    text = "n"
    for _ in range(50):
        text = f"({text}) ** 8"
    assert not condition(f"{text} > 0").holds({"n": 1 << 40})


def test_feeds_that_break_a_condition_are_refused() -> None:
    graph = wide("w % 4 != 0", "n <= 3", "n >= 1", "n != w")
    programs = [taut.compile(graph, threads=1), taut.compile(graph, target="reference"),
                taut.compile(taut.optimize(graph, "O2"), threads=1)]  # fmt: skip
    for run in (*programs, lambda *a: taut.reference(graph, *a)):
        assert run(ones(2, 5), ones(2, 5))["z"].shape == (2, 5)
        for shape, reason in {
            (2, 8): "w is 8, where the model needs w % 4 != 0",
            (4, 5): "n is 4, where the model takes 3 at most",
            (0, 5): "n is 0, where the model takes 1 at least",
            (3, 3): "n is 3 and w is 3, where the model needs n != w",
        }.items():
            with pytest.raises(FeedError) as error:
                run(ones(*shape), ones(*shape))
            assert str(error.value) == reason


def test_sizes_that_break_a_condition_are_not_planned_either() -> None:
    """What takes arrays without looking at them cannot go past a condition."""
    program: Any = taut.compile(wide("w % 4 != 0"), threads=1)
    assert program.run([ones(2, 5), ones(2, 5)])[0].shape == (2, 5)
    with pytest.raises(FeedError, match="w % 4 != 0"):
        program.run([ones(2, 8), ones(2, 8)])


def test_text_and_files_keep_conditions(tmp_path: Path) -> None:
    graph = wide("w % 4 != 0", "trunc(1.5 * n) <= 9")
    text = print_graph(graph)
    assert text.splitlines()[0].endswith('where "w % 4 != 0", "trunc(1.5 * n) <= 9" {')
    again = parse(text)
    assert print_graph(again) == text
    assert_equal(again, graph)
    for name in ("m.taut", "m.ir"):
        taut.save(graph, tmp_path / name)
        assert_equal(taut.load(tmp_path / name), graph)
    # ONNX cannot check them, but hands them on.
    taut.save(graph, tmp_path / "m.onnx")
    assert load_onnx(tmp_path / "m.onnx").conditions == graph.conditions
    with pytest.raises(AssertionError, match="conditions differ"):
        assert_equal(wide(), graph)


def test_old_files_name_the_largest_sizes() -> None:
    from taut.ir.conditions import stored

    held = {"largest_sizes": "n=3, w=512", "other": "x"}
    assert stored(held) == ["n <= 3", "w <= 512"] and held == {"other": "x"}
    for damaged in ("{", "1", '["a", 2]'):
        with pytest.raises(ParseError):
            stored({"taut.conditions": damaged})


@pytest.mark.parametrize("where", ['where', 'where 3', 'where "q % 2 == 0"', 'where "n"',
                                   'where "0 == 1"', 'where "n == 1",'])  # fmt: skip
def test_text_with_a_wrong_condition_is_refused(where: str) -> None:
    text = print_graph(wide()).replace(" {\n", f" {where} {{\n", 1)
    with pytest.raises((ParseError, VerifyError)):
        verify(parse(text))


def test_binding_keeps_what_is_left_to_check() -> None:
    graph = wide("w % 4 != 0", "n * w <= 20")
    bound = bind_symbols(graph, {"n": 3})
    assert [c.text for c in bound.conditions] == ["w % 4 != 0", "3 * w <= 20"]
    assert bind_symbols(bound, {"w": 5}).conditions == ()
    with pytest.raises(VerifyError, match="w is 8, where the model needs w % 4 != 0"):
        bind_symbols(graph, {"w": 8})
    verify(bound)


def test_one_input_alone_bound_holds_the_other_to_it() -> None:
    graph = wide("w % 4 != 0")
    graph.set_input_type(graph["x"], taut.ir.TensorType(taut.ir.DType.f32, ("n", 5)))
    assert [c.text for c in graph.conditions] == ["w == 5"]
    with pytest.raises(VerifyError):
        graph.set_input_type(graph["y"], taut.ir.TensorType(taut.ir.DType.f32, ("n", 8)))
    graph.set_input_type(graph["y"], taut.ir.TensorType(taut.ir.DType.f32, ("n", 5)))
    assert graph.conditions == ()


def test_an_input_without_the_symbol_of_a_condition_is_found() -> None:
    graph = wide("w % 4 != 0")
    for name in "xy":
        graph.set_input_type(graph[name], taut.ir.TensorType(taut.ir.DType.f32, ("n", None)))
    with pytest.raises(VerifyError, match="no input has"):
        verify(graph)


@pytest.mark.parametrize("pipeline", ["O1", "O2", "fold,cse,dce"])
def test_pipelines_keep_conditions(pipeline: str) -> None:
    graph = wide("w % 4 != 0")
    assert taut.optimize(graph, pipeline).conditions == graph.conditions


def test_a_graph_spliced_into_another_brings_its_conditions() -> None:
    b = Builder()
    x = b.input("x", "f32", ("rows", 6))
    y = b.input("y", "f32", ("rows", 6))
    made = b.graph.splice(wide("w % 4 != 0", "n <= 3"), {"x": x, "y": y})
    b.graph.set_outputs({"z": made["z"]})
    assert [c.text for c in b.graph.conditions] == ["rows <= 3"]
    outer = Builder()
    four = outer.input("x", "f32", ("rows", 4))
    with pytest.raises(VerifyError, match="w % 4"):
        outer.graph.splice(wide("w % 4 != 0"), {"x": four, "y": four})
    assert len(outer.graph) == 2 and Value(outer.graph["x"]) == four


def test_training_refuses_batches_that_break_a_condition() -> None:
    from taut.frontends.builder import Network

    from taut.training import Recipe, Trainer

    net = Network("n")
    x = net.input("x", (4,))
    graph = net.outputs(y=net.linear(x, 3, name="l"))
    graph.require("batch <= 4")
    trainer = Trainer(graph, Recipe(optimizer="sgd"), threads=1)
    trainer.step((ones(4, 4), np.zeros(4, np.int64)), learning_rate=0.1)
    with pytest.raises(FeedError, match="batch is 5, where the model takes 4 at most"):
        trainer.step((ones(5, 4), np.zeros(5, np.int64)), learning_rate=0.1)

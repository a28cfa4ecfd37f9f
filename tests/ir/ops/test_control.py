"""Branches and loops by hand: types, numbers, limits and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.ir import (
    Builder,
    FeedError,
    Graph,
    LimitError,
    Limits,
    TensorType,
    VerifyError,
    difference,
    interpret,
    load_container,
    parse,
    print_graph,
    save_container,
    verify,
)
from taut.ir.analysis.cost import graph_cost
from taut.ir.equality import digest
from taut.ir.ops import control

F32 = np.float32


def counting(*, stops: bool = False, grows: bool = False) -> Graph:
    """v -> v + 1 (or twice as long), seen = v; goes on while v[0] < 3 if it `stops`."""
    b = Builder()
    b.input("i", "i64")
    b.input("cond", "bool")
    v = b.input("v", "f32", (None,))
    first = b.squeeze(b.slice(v, np.array([0]), np.array([1])))
    cond = b.less(first, F32(3)) if stops else b.constant(np.array(True))
    made = b.concat(v, v, axis=0) if grows else b.add(v, F32(1))
    return b.outputs(cond=cond, v=made, seen=first)


def loop_graph(body: Graph, *, trip: bool = True, cond: bool = False, size: Any = 2) -> Graph:
    b = Builder()
    operands = [
        b.input("trip", "i64") if trip else None,
        b.input("cond", "bool") if cond else None,
        b.input("x", "f32", (size,)),
    ]
    y, seen = b.loop(*operands, carried=1, body=body, name="loop")
    return b.outputs(y=y, seen=seen)


def test_a_counted_loop() -> None:
    graph = loop_graph(counting())
    verify(graph)
    assert [str(t) for t in graph["loop"].types] == ["f32[2]", "f32[?]"]
    made = interpret(graph, {"trip": np.array(3), "x": np.array([0, 5], F32)})
    assert made["y"].tolist() == [3, 8] and made["seen"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("trip", [0, -4])
def test_without_iterations_there_are_the_initial_values_and_empty_scans(trip: int) -> None:
    made = interpret(loop_graph(counting()), {"trip": np.array(trip), "x": np.array([0, 5], F32)})
    assert made["y"].tolist() == [0, 5]
    assert made["seen"].shape == (0,) and made["seen"].dtype == F32


@pytest.mark.parametrize("trip, want", [(2, 2), (99, 4)])
def test_the_first_of_count_and_condition_ends_it(trip: int, want: int) -> None:
    graph = loop_graph(counting(stops=True), cond=True)
    feeds = {"trip": np.array(trip), "cond": np.array(True), "x": np.zeros(1, F32)}
    assert interpret(loop_graph(counting(stops=True), cond=True, size=1), feeds)["y"] == want
    assert graph["loop"].types[1].shape == (None,)


def test_without_a_condition_the_bodys_is_ignored() -> None:
    made = interpret(loop_graph(counting(stops=True)), {"trip": np.array(7), "x": np.zeros(2, F32)})
    assert made["y"].tolist() == [7, 7]


def test_a_value_that_grows_has_an_unknown_size() -> None:
    graph = loop_graph(counting(grows=True))
    assert str(graph["loop"].types[0]) == "f32[?]"
    assert interpret(graph, {"trip": np.array(3), "x": np.zeros(2, F32)})["y"].shape == (16,)


def test_a_known_count_is_the_length_of_scans() -> None:
    b = Builder()
    _, seen = b.loop(np.array(5), None, b.input("x", "f32", (2,)), carried=1, body=counting())
    assert seen.shape == (5,)
    n = b.squeeze(b.shape(b.input("y", "f32", ("n",))))
    _, seen = b.loop(n, np.array(True), b.input("z", "f32", (2,)), carried=1, body=counting())
    assert seen.shape == ("n",)


def test_an_endless_loop_is_a_limit_error_that_names_the_node() -> None:
    graph = loop_graph(counting(), trip=False)
    with pytest.raises(LimitError, match=r'node "loop", op loop: .*100 iterations.*Limits'):
        interpret(graph, {"x": np.zeros(2, F32)}, limits=Limits(iterations=100))


def test_loops_inside_a_loop_count_with_it() -> None:
    b = Builder()
    b.input("i", "i64")
    cond, v = b.input("cond", "bool"), b.input("v", "f32", (None,))
    inner = b.loop(np.array(10), None, v, carried=1, body=counting())
    graph = loop_graph(b.outputs(cond=cond, v=inner[0], seen=inner[1]))
    feeds = {"trip": np.array(10), "x": np.zeros(2, F32)}
    assert interpret(graph, feeds, limits=Limits(iterations=110))["y"].tolist() == [100, 100]
    with pytest.raises(LimitError, match="109 iterations"):
        interpret(graph, feeds, limits=Limits(iterations=109))


def test_scan_outputs_are_bounded_in_bytes() -> None:
    graph = loop_graph(counting())
    feeds = {"trip": np.array(1000), "x": np.zeros(2, F32)}
    with pytest.raises(LimitError, match=r"scan output 0 .*Limits\.tensor_bytes"):
        interpret(graph, feeds, limits=Limits(tensor_bytes=1000))


def branch(factor: float, *, rows: int | None = None) -> Graph:
    b = Builder()
    x = b.input("x", "f32", ("n", 2))
    y = b.mul(x, F32(factor))
    return b.outputs(y=y if rows is None else b.slice(y, np.array([0]), np.array([rows])))


def if_graph(then: Graph, other: Graph) -> Graph:
    b = Builder()
    cond, x = b.input("cond", "bool"), b.input("x", "f32", (3, 2))
    made = getattr(b, "if")(cond, x, then_branch=then, else_branch=other, name="pick")
    return b.outputs(y=made)


def test_branches_join_their_types() -> None:
    assert str(if_graph(branch(1), branch(2))["pick"].type) == "f32[3,2]"
    graph = if_graph(branch(1), branch(2, rows=1))
    assert str(graph["pick"].type) == "f32[?,2]"
    x = np.ones((3, 2), F32)
    assert interpret(graph, {"cond": np.array(True), "x": x})["y"].shape == (3, 2)
    assert interpret(graph, {"cond": np.array(False), "x": x})["y"].tolist() == [[2, 2]]


def test_branches_of_other_element_types_are_refused() -> None:
    b = Builder()
    other = b.outputs(y=b.shape(b.input("x", "f32", ("n", 2))))
    with pytest.raises(VerifyError, match=r'node "pick", op if: result 0'):
        if_graph(branch(1), other)


def test_a_branch_that_cannot_take_the_operand_fails_only_if_it_runs() -> None:
    b = Builder()
    other = b.outputs(y=b.squeeze(b.input("x", "f32", (None, None)), np.array([0])))
    graph = if_graph(branch(3), other)
    verify(graph)
    x = np.ones((3, 2), F32)
    assert interpret(graph, {"cond": np.array(True), "x": x})["y"].sum() == 18
    with pytest.raises(VerifyError, match="in its body"):
        interpret(graph, {"cond": np.array(False), "x": x})


def running_sum() -> Graph:
    b = Builder()
    h, x = b.input("h", "f32", (2,)), b.input("x", "f32", (2,))
    return b.outputs(h=b.add(h, x), y=b.add(h, x))


def test_scan_directions_and_axes() -> None:
    b = Builder()
    h, x = b.input("h", "f32", (2,)), b.input("x", "f32", (2, "n"))
    made = b.scan(h, x, states=1, num_scan_inputs=1, body=running_sum(), scan_input_axes=(1,),
                  scan_input_directions=(1,), scan_output_axes=(-1,))  # fmt: skip
    graph = b.outputs(h=made[0], y=made[1])
    assert str(made[1].type) == "f32[2,n]"
    x = np.array([[1, 2, 3], [4, 5, 6]], F32)
    got = interpret(graph, {"h": np.zeros(2, F32), "x": x})
    assert got["y"].tolist() == [[3, 5, 6], [6, 11, 15]] and got["h"].tolist() == [6, 15]
    empty = interpret(graph, {"h": np.zeros(2, F32), "x": np.zeros((2, 0), F32)})
    assert empty["y"].shape == (2, 0)


def test_scanned_operands_of_other_lengths_are_refused() -> None:
    b = Builder()
    body = Builder()
    p, q = body.input("p", "f32"), body.input("q", "f32")
    x, y = b.input("x", "f32", (None,)), b.input("y", "f32", (None,))
    made = b.scan(x, y, states=0, num_scan_inputs=2, body=body.outputs(s=body.add(p, q)))
    graph = b.outputs(y=made)
    with pytest.raises(FeedError, match=r"lengths \[2, 3\]"):
        interpret(graph, {"x": np.zeros(2, F32), "y": np.zeros(3, F32)})
    with pytest.raises(VerifyError, match="dimensions 2 and 3"):
        graph.set_input_type(graph["x"], TensorType(graph["x"].type.dtype, (2,)))
        graph.set_input_type(graph["y"], TensorType(graph["y"].type.dtype, (3,)))


def test_a_carried_value_keeps_its_element_type() -> None:
    b = Builder()
    b.input("i", "i64")
    cond, v = b.input("cond", "bool"), b.input("v", "f32", (None,))
    body = b.outputs(cond=cond, v=b.shape(v), seen=cond)
    with pytest.raises(VerifyError, match="carried value 0 is"):
        loop_graph(body)


def nested(depth: int) -> Graph:
    graph = branch(2)
    for _ in range(depth):
        b = Builder()
        x = b.input("x", "f32", ("n", 2))
        cond = b.constant(np.array(True))
        graph = b.outputs(y=getattr(b, "if")(cond, x, then_branch=graph, else_branch=branch(3)))
    return graph


def test_bodies_are_verified_and_their_depth_is_limited() -> None:
    verify(nested(30))
    for how in (verify, print_graph, digest):
        with pytest.raises(LimitError, match="nested"):
            how(nested(3000))
    graph = if_graph(branch(1), branch(2))
    inner = graph["pick"].op.then_branch["mul"]  # type: ignore[attr-defined]
    inner.results = inner.results[:0]
    with pytest.raises(VerifyError, match="in the body 'pick/then_branch'"):
        verify(graph)


def test_nested_loops_whose_sizes_change_infer_in_time() -> None:
    """Each round of an outer loop's types asks for the inner one's: not 2 ** 20 times."""
    body = counting(grows=True)
    for _ in range(20):
        b = Builder()
        b.input("i", "i64")
        cond, v = b.input("cond", "bool"), b.input("v", "f32", (None,))
        made = b.loop(np.array(1), None, v, carried=1, body=body)
        body = b.outputs(cond=cond, v=made[0], seen=b.reduce_sum(made[1]))
    graph = loop_graph(body)
    assert str(graph["loop"].types[0]) == "f32[?]"


def test_equal_bodies_make_equal_keys() -> None:
    a, b, c = (if_graph(branch(1), branch(f)) for f in (2, 2, 3))
    assert a["pick"].op.key() == b["pick"].op.key() != c["pick"].op.key()
    assert difference(a, b) is None
    assert "body else_branch" in (difference(a, c) or "")


def test_text_and_container_keep_constants_of_bodies(tmp_path) -> None:
    big = np.arange(100, dtype=F32).reshape(50, 2)
    b = Builder()
    x = b.input("x", "f32", ("n", 2))
    graph = if_graph(b.outputs(y=b.reduce_sum(b.add(x, b.reduce_sum(big)), np.array([0]))),
                     b.outputs(y=b.reduce_max(x, np.array([0]))))  # fmt: skip
    text = print_graph(graph)
    assert print_graph(parse(text)) == text
    save_container(graph, tmp_path / "m.taut")
    again = load_container(tmp_path / "m.taut")
    assert difference(graph, again, names=True) is None
    feeds = {"cond": np.array(True), "x": np.ones((3, 2), F32)}
    assert interpret(again, feeds)["y"].tolist() == interpret(graph, feeds)["y"].tolist()


def test_cost_counts_iterations_and_parameters_inside() -> None:
    b = Builder()
    b.input("i", "i64")
    cond, v = b.input("cond", "bool"), b.input("v", "f32", (4, 4))
    body = b.outputs(cond=cond, v=b.mat_mul(v, np.ones((4, 4), F32)))
    b = Builder()
    b.loop(np.array(5), None, b.input("x", "f32", (4, 4)), carried=1, body=body, name="loop")
    row = next(r for r in graph_cost(b.outputs(y=b.graph["loop"])) if r.node == "loop")
    assert row.macs == 5 * 64 and row.parameters == 16 + 1


def test_an_interrupt_leaves_no_count_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all later loops would count together, until one of them is refused."""

    class Left:
        value: list[int] | None = None

        def get(self) -> list[int] | None:
            return self.value

        def set(self, value: list[int] | None) -> None:
            self.value = value
            if value is not None:
                raise KeyboardInterrupt

    left = Left()
    monkeypatch.setattr(control, "_left", left)
    with pytest.raises(KeyboardInterrupt), control.counted(Limits()):
        raise AssertionError("it was cut off before")
    assert left.value is None

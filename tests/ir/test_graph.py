"""The store: edits keep it acyclic, typed, uniquely named and in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import (
    Builder,
    DType,
    Graph,
    Node,
    TensorType,
    VerifyError,
    equal,
    interpret,
    op_class,
    parse,
    print_graph,
    verify,
)

F32 = TensorType(DType.f32, (2,))
Relu, Add, Neg = op_class("relu"), op_class("add"), op_class("neg")


def chain(length: int = 3) -> tuple[Graph, list[Node]]:
    graph = Graph()
    nodes = [graph.add_input("x", F32)]
    for i in range(length):
        nodes.append(graph.add(Relu(), nodes[-1], name=f"n{i}"))
    graph.set_outputs({"y": nodes[-1]})
    return graph, nodes


def names(graph: Graph) -> list[str]:
    return [n.name for n in graph.nodes()]


def test_an_operand_may_be_read_twice() -> None:
    graph, nodes = chain(1)
    both = graph.add(Add(), nodes[0], nodes[0])
    assert graph.use_count(nodes[0]) == 3
    assert [v.node for v in graph.operands(both) if v] == [nodes[0], nodes[0]]
    assert [u.position for u in graph.uses(nodes[0])] == [0, 0, 1]


def test_operands_have_names() -> None:
    b = Builder()
    x, w = b.input("x", "f32", (1, 2, 4, 4)), np.ones((3, 2, 1, 1), np.float32)
    graph = b.outputs(y=b.concat(b.conv(x, w, name="conv"), x, axis=1, name="joined"))
    conv = graph.operands_of(graph["conv"])
    assert conv.x == x and conv.weight.array is not None and conv.get("bias") is None
    assert conv.array("weight") is conv.weight.array and conv.array("bias") is None
    assert graph.operands_of(graph["joined"]).each("xs") == graph.operands(graph["joined"])
    assert conv.each("x") == [x] and conv.each("bias") == []
    with pytest.raises(AttributeError, match="operand bias of conv is left out"):
        print(conv.bias)
    with pytest.raises(AttributeError, match="conv has no operand scale, it has x, weight, bias"):
        conv.get("scale")


def test_names_are_made_unique_and_stay() -> None:
    graph, nodes = chain(1)
    again = graph.add(Relu(), nodes[0], name="n0")
    assert again.name == "n0_0" and graph.find("n0") is nodes[1]
    graph.rename(again, "other")
    assert graph["other"] is again and graph.find("n0_0") is None
    with pytest.raises(VerifyError, match="is taken"):
        graph.rename(again, "x")
    with pytest.raises(VerifyError, match="is taken"):
        graph.add_input("x", F32)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_insertion_before_any_node_keeps_the_order(places: list[int]) -> None:
    """Order keys: a node inserted before another stands there, and the graph stays sorted."""
    graph, nodes = chain(3)
    for place in places:
        current = [n for n in graph.nodes() if n is not graph.result]
        before = current[1:][place % (len(current) - 1)]
        source = graph.operand(before, 0)
        assert source is not None
        made = graph.add(Neg(), source, before=before)
        assert source.node.order < made.order < before.order
        graph.set_operand(before, 0, made)
        verify(graph)
    orders = [n.order for n in graph.nodes()]
    assert orders == sorted(orders) and len(set(orders)) == len(orders)
    assert len(graph) == 5 + len(places)
    assert nodes[3] in graph


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99), st.integers(0, 99)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_random_edits_leave_a_sound_graph(edits: list[tuple[int, int, int]]) -> None:
    graph, _ = chain(4)
    for kind, a, b in edits:
        inner = [n for n in graph.nodes() if n is not graph.result]
        p, q = inner[a % len(inner)], inner[b % len(inner)]
        try:
            if kind == 0:
                graph.add(Add(), p, q)
            elif kind == 1:
                graph.add(Relu(), p, before=q)
            elif kind == 2:
                graph.replace_all_uses(p, q)
            elif kind == 3:
                graph.erase(p)
            elif p is not graph.inputs[0]:
                graph.set_operand(p, 0, q)
        except VerifyError:
            pass  # a refused edit leaves the graph as it was
        verify(graph)
    text = print_graph(graph)
    assert print_graph(parse(text)) == text


def test_a_cycle_is_refused_and_nothing_changes() -> None:
    graph, nodes = chain(3)
    before = print_graph(graph)
    with pytest.raises(VerifyError, match="cycle"):
        graph.set_operand(nodes[1], 0, nodes[3])
    verify(graph)
    assert print_graph(graph) == before
    with pytest.raises(VerifyError, match="cycle"):
        graph.set_operand(nodes[1], 0, nodes[1])
    verify(graph)


def test_an_edge_against_the_order_is_sorted_in() -> None:
    graph, nodes = chain(2)
    late = graph.add(Neg(), nodes[0], name="late")
    graph.set_operand(nodes[1], 0, late)
    verify(graph)
    assert names(graph).index("late") < names(graph).index("n0")


def test_replacing_moves_every_use_and_the_return() -> None:
    graph, nodes = chain(2)
    new = graph.add(Neg(), nodes[0])
    assert graph.replace_all_uses(nodes[2], new) == 1
    assert graph.outputs[0].node is new and graph.is_output(new)
    graph.erase(nodes[2])
    verify(graph)
    with pytest.raises(VerifyError, match="still read"):
        graph.erase(new)


def test_replacing_refuses_another_type_and_retypes_on_request() -> None:
    graph, nodes = chain(2)
    other = graph.add_input("z", TensorType(DType.f32, (5,)))
    with pytest.raises(VerifyError, match="cannot replace"):
        graph.replace_all_uses(nodes[0], other)
    graph.replace_all_uses(nodes[0], other, retype=True)
    assert graph.outputs[0].shape == (5,)
    verify(graph)


def test_a_replacement_that_reads_the_old_value_is_no_cycle() -> None:
    graph, nodes = chain(2)
    new = graph.add(Neg(), nodes[1])
    graph.replace_all_uses(nodes[1], new)
    verify(graph)
    assert [v.node for v in graph.operands(new) if v] == [nodes[1]]


def test_changing_an_input_type_reaches_all_that_follows() -> None:
    graph, nodes = chain(3)
    graph.set_input_type(nodes[0], TensorType(DType.f32, ("n", 7)))
    assert graph.outputs[0].shape == ("n", 7)
    verify(graph)


def test_set_op_checks_types() -> None:
    graph, nodes = chain(1)
    graph.set_op(nodes[1], op_class("is_nan")())
    assert graph.outputs[0].type.dtype is DType.bool
    with pytest.raises(VerifyError):
        graph.set_op(nodes[1], op_class("and")())


def test_an_edit_that_a_user_cannot_take_changes_nothing() -> None:
    graph, nodes = chain(3)
    before = print_graph(graph)
    other = graph.add(op_class("is_nan")(), nodes[0], name="other")
    with pytest.raises(VerifyError, match=r"not a (number|float) type"):
        graph.set_op(nodes[1], op_class("is_nan")())
    with pytest.raises(VerifyError, match=r"not a (number|float) type"):
        graph.set_operand(nodes[1], 0, other, retype=True)
    with pytest.raises(VerifyError, match=r"not a (number|float) type"):
        graph.replace_all_uses(nodes[1], other, retype=True)
    with pytest.raises(VerifyError, match=r"not a (number|float) type"):
        graph.set_input_type(nodes[0], TensorType(DType.bool, (2,)))
    graph.erase(other)
    verify(graph)
    assert print_graph(graph) == before


def test_splice_copies_with_feeds_in_place_of_inputs() -> None:
    inner, _ = chain(2)
    b = Builder()
    z = b.input("z", "f32", (2,))
    made = b.graph.splice(inner, {"x": b.neg(z)})
    b.graph.set_outputs(made)
    verify(b.graph)
    out = interpret(b.graph, {"z": np.array([1, -2], np.float32)})
    assert out["y"].tolist() == [0, 2]
    with pytest.raises(VerifyError, match="no value is given for input"):
        b.graph.splice(inner, {})


def test_a_copy_is_of_its_own() -> None:
    graph, nodes = chain(2)
    twin = graph.copy()
    assert equal(graph, twin, names=True) and print_graph(graph) == print_graph(twin)
    graph.set_op(nodes[1], Neg())
    assert not equal(graph, twin)
    verify(twin)
    twin.add(Neg(), twin["n1"], before=None)
    verify(twin)


def test_values_of_another_graph_are_refused() -> None:
    graph, _ = chain(1)
    other, nodes = chain(1)
    with pytest.raises(VerifyError, match="not in this graph"):
        graph.add(Relu(), nodes[0])
    with pytest.raises(VerifyError, match="not in this graph"):
        graph.set_outputs({"y": nodes[0]})
    assert len(other) == 3


def test_constants_cannot_be_written() -> None:
    graph = Graph()
    data = np.ones(3, np.float32)
    value = graph.constant(data)
    assert value.array is not None and not value.array.flags.writeable


def test_a_long_chain_stays_fast_to_edit() -> None:
    graph, nodes = chain(3000)
    for n in nodes[1:-1:2]:
        user = graph.users(n)[0]
        graph.set_operand(user, 0, graph.add(Neg(), n, before=user))
    verify(graph)
    assert len(graph) == 3002 + 1500

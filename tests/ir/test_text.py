"""Printing and parsing: byte-identical round trips, and errors that say where."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.ir import (
    Builder,
    DType,
    Graph,
    LimitError,
    Limits,
    ParseError,
    TautError,
    TensorType,
    VerifyError,
    equal,
    op_class,
    parse,
    print_graph,
)
from taut.ir.ops.fused_convolution import FusedConv

HOSTILE = st.one_of(
    st.text(max_size=8),
    st.sampled_from([
        "", " ", '"', "\\", '\\"', "a\nb", "}\n", "%x", "@", "none", "return", "graph", "#0", "//c",
        "resources {", "\x1b[31m", "\x00", "é", "\ud800", "名前", "a" * 300, "__import__('os')",
    ]),
)  # fmt: skip


@given(st.lists(HOSTILE, min_size=3, max_size=6), HOSTILE, HOSTILE)
@settings(max_examples=150, deadline=None)
def test_names_of_any_kind_round_trip(names: list[str], output: str, title: str) -> None:
    graph = Graph(title)
    x = graph.add_input(names[0], TensorType(DType.f32, ("n", 3)))
    node = x
    for name in names[1:]:
        node = graph.add(op_class("relu")(), node, name=name)
    big = graph.constant(np.arange(20, dtype=np.float32), names[0])
    graph.set_outputs({output: node, output + "'": big})
    text = print_graph(graph)
    assert text.isascii() and "\x1b" not in text
    again = parse(text)
    assert print_graph(again) == text
    assert equal(graph, again, names=True)
    assert again.name == title


@pytest.mark.parametrize("dtype", list(DType))
def test_constants_of_every_type_keep_their_bits(dtype: DType) -> None:
    random = np.random.default_rng(3)
    for size in (0, 1, 7, 40):
        raw = random.integers(0, 256, size * dtype.numpy.itemsize).astype(np.uint8)
        if dtype.is_minifloat:
            array = (raw & ((1 << dtype.bits) - 1)).view(dtype.numpy)
        elif dtype.bits < 8 or dtype is DType.bool:
            low, high = (0, 1) if dtype is DType.bool else dtype.bounds
            array = random.integers(low, high + 1, size).astype(dtype.numpy)
        else:
            array = raw.view(dtype.numpy)
        b = Builder()
        text = print_graph(b.outputs(y=b.constant(array, "c")))
        again = parse(text)
        assert print_graph(again) == text
        made = again.outputs[0].array
        assert made is not None and made.dtype == array.dtype
        assert made.tobytes() == array.tobytes()


@given(st.lists(st.floats(width=64), min_size=1, max_size=6))
def test_float_attributes_keep_their_bits(values: list[float]) -> None:
    b = Builder()
    x = b.input("x", "f32", (1, 1, 3, 3))
    graph = b.graph
    w = b.constant(np.zeros((1, 1, 1, 1), np.float32))
    node = graph.add(FusedConv(activation="clip", params=(*values, 0.0)[:2]), x, w)
    graph.set_outputs([node])
    again = parse(print_graph(graph))
    assert print_graph(again) == print_graph(graph)
    made = again.outputs[0].node.op
    assert made.key() == node.op.key()


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32),
        np.array([1 / 3, 1e300], np.float64),
        np.array([65504, 6e-8], np.float16),
        np.array([1 / 3, 3e38], ml_dtypes.bfloat16),
        np.array([-(2**63), 2**63 - 1]),
        np.array([[True], [False]]),
    ],
)
def test_inline_elements_are_exact(array: np.ndarray) -> None:
    b = Builder()
    text = print_graph(b.outputs(y=b.constant(array, "c")))
    assert "resources" not in text
    made = parse(text).outputs[0].array
    assert made is not None and made.tobytes() == array.tobytes() and made.shape == array.shape


def test_symbols_unknowns_and_many_results() -> None:
    text = """\
graph @g(%x: f32[batch,?,4], %z: f32[*]) -> (%v: f32[batch,?,2], %i: i64[batch,?,2], %r: f32[*]) {
  %k = constant [2] : i64[1]
  %t:2 = top_k(%x, %k) : f32[batch,?,2], i64[batch,?,2]
  %r = relu(%z) : f32[*]
  return %t#0, %t#1, %r
}
"""
    assert print_graph(parse(text)) == text


def test_comments_and_spaces_are_free() -> None:
    text = "graph @g(%x:f32[2])->(%y:f32[2]){// hello\n%a=relu(%x):f32[2] // there\nreturn %a}"
    assert len(parse(text)) == 3


BAD = [
    ("", "line 1, column 1"),
    ("graph @g() -> () { return", "expected a name with %"),
    ("graph @g() -> () {\n  %a = nonsense() : f32[]\n return\n}", "line 2.*unknown op 'nonsense'"),
    ("graph @g(%x: f32[2]) -> () {\n  %a = relu(%b) : f32[2]\n return\n}", "not defined before"),
    ("graph @g(%x: f32[2]) -> () {\n  %a = relu(%x) : f32[3]\n return\n}", "but infers"),
    ("graph @g(%x: f32[2]) -> () {\n  %x = relu(%x) : f32[2]\n return\n}", "defined twice"),
    ("graph @g(%x: f32[2], %x: f32[2]) -> () { return }", "taken"),
    ("graph @g(%x: f99[2]) -> () { return }", "unknown element type"),
    ("graph @g(%x: f32[-2]) -> () { return }", "negative"),
    ("graph @g(%x: f32[99999999999999999999999]) -> () { return }", "integer"),
    ("graph @g(%x: f32[2]) -> (%y: f32[3]) { return %x }", "is declared f32"),
    ("graph @g(%x: f32[2]) -> (%y: f32[2]) { return %x, %x }", "1 outputs are declared"),
    ("graph @g() -> () { %c = constant [1, 2] : f32[3]\n return }", "do not make"),
    ("graph @g() -> () { %c = constant [300] : i8[1]\n return }", "is no i8"),
    ("graph @g() -> () { %c = constant @w : f32[30]\n return }", "is nowhere"),
    ("graph @g(%x: f32[2]) -> () { %a = elu(%x) {beta=1.0} : f32[2]\n return }", "not one of"),
    ("graph @g(%x: f32[2]) -> () { %a = elu(%x) {alpha=true} : f32[2]\n return }", "number"),
    ("graph @g(%x: f32[2]) -> () { %a = elu(%x) {alpha=1 alpha=1} : f32[2]\n return }", "twice"),
    ("graph @g(%x: f32[2]) -> () { %a = cast(%x) : f32[2]\n return }", "needs attributes"),
    ("graph @g(%x: f32[2]) -> () { %a = relu(%x)#1 : f32[2]\n return }", "expected"),
    ("graph @g(%x: f32[2]) -> () { return %x#1 }", "has no result 1"),
    ("\x00", "unexpected"),
    ('graph @"\\q"() -> () { return }', "bad string"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_errors_say_what_and_where(text: str, words: str) -> None:
    with pytest.raises((ParseError, VerifyError), match=f"(?s)line.*{words}|{words}") as caught:
        parse(text)
    assert "line " in str(caught.value)


SOUND = """\
graph @g(%x: f32[n,3]) -> (%"out put": f32[n,2]) {
  %w = constant @w : i8[3,6]
  %c = constant [0.5, -1e-05] : f32[2]
  %wf = cast(%w) {to=f32} : f32[3,6]
  %a = mat_mul(%x, %wf) : f32[n,6]
  %k = constant [2] : i64[1]
  %t:2 = top_k(%a, %k) {axis=1} : f32[n,2], i64[n,2]
  %"b\\n" = add(%t#0, %c) : f32[n,2]
  return %"b\\n"
}
resources {
  @w = "AAAAAAAAAAAAAAAAAAAAAAAA"
}
"""


def test_the_sound_text_is_sound() -> None:
    assert print_graph(parse(SOUND)) == SOUND


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_text_never_gives_more_than_our_errors(data: st.DataObject) -> None:
    text = SOUND
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        how = data.draw(st.sampled_from(["cut", "drop", "insert", "swap"]))
        if how == "cut":
            text = text[: at + 1]
        elif how == "drop":
            text = text[:at] + text[at + data.draw(st.integers(1, 9)) :] or " "
        elif how == "insert":
            sign = data.draw(st.sampled_from(list('%@"{}[]()#=:,.-9af\n\\')))
            text = text[:at] + sign + text[at:]
        else:
            other = data.draw(st.integers(0, len(text) - 1))
            a, b = min(at, other), max(at, other)
            text = text[:a] + text[b : b + 5] + text[a:b] + text[b + 5 :]
    try:
        graph = parse(text)
    except TautError as error:
        assert "\n" not in str(error)
    else:
        assert print_graph(parse(print_graph(graph))) == print_graph(graph)


def test_limits_hold_before_anything_is_allocated() -> None:
    huge = "graph @g() -> () { %c = constant @w : f32[1048576,1048576]\n return }"
    with pytest.raises(LimitError, match="over the limit"):
        parse(huge)
    lines = "".join(f"%n{i} = relu(%x) : f32[2]\n" for i in range(20))
    with pytest.raises(LimitError, match="more than 10 nodes"):
        parse(f"graph @g(%x: f32[2]) -> () {{ {lines} return }}", limits=Limits(nodes=10))

"""Pipelines: text and Python are each other's inverse; what is wrong is said with its place."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taut.ir import Graph, ParseError
from taut.passes import PRESETS, Changes, Context, Outcome, Pass, Pipeline, register_pass
from taut.passes import base as registry
from taut.passes.base import all_passes, pass_class
from taut.passes.pipeline import register_preset


@dataclass(frozen=True)
class Options(Pass):
    """Has an option of every kind; does nothing."""

    name = "test-options"
    bound = Changes()
    count: int = 3
    ratio: float = 0.5
    on: bool = False
    word: str = "linear"
    maybe: int | None = None
    kind: Literal["a", "b-c"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("x", 1.0)
    either: float | str = "auto"

    def run(self, graph: Graph, context: Context) -> Outcome:
        return Outcome()


@pytest.fixture(autouse=True, scope="module")
def own_pass() -> Iterator[None]:
    registry._REGISTRY[Options.name] = Options
    yield
    del registry._REGISTRY[Options.name]


numbers = st.floats(allow_nan=True)
options = st.builds(
    Options,
    count=st.integers(),
    ratio=numbers,
    on=st.booleans(),
    word=st.text(max_size=8),
    maybe=st.none() | st.integers(),
    kind=st.sampled_from(["a", "b-c"]),
    sizes=st.lists(st.integers(), max_size=4).map(tuple),
    pair=st.tuples(st.text(max_size=4), numbers),
    either=numbers | st.text(max_size=6),
)


@given(st.lists(options, max_size=3).map(Pipeline))
def test_text_and_python_are_inverse(pipeline: Pipeline) -> None:
    text = str(pipeline)
    again = Pipeline.parse(text)
    assert str(again) == text
    for a, b in zip(pipeline, again, strict=True):
        for name in Options.__dataclass_fields__:
            x, y = getattr(a, name), getattr(b, name)
            assert type(x) is type(y) and repr(x) == repr(y)


def test_defaults_are_not_printed() -> None:
    assert str(Options()) == "test-options"
    assert str(Options(ratio=math.inf, word="a b", maybe=2)) == \
        'test-options{ratio=inf word="a b" maybe=2}'  # fmt: skip
    assert str(Options(word="true")) == 'test-options{word="true"}'


def test_an_integer_does_for_a_float_and_one_value_for_a_list() -> None:
    made = Pipeline.parse("test-options{ratio=2 sizes=7}")[0]
    assert made == Options(ratio=2.0, sizes=(7,))


@pytest.mark.parametrize("text, column, words", [
    ("fold,simplfy", 6, "did you mean simplify"),
    ("test-options{cuont=1}", 14, "did you mean count"),
    ("test-options{count=1.5}", 20, "wants an integer, not 1.5"),
    ("test-options{kind=b}", 19, "one of a, b-c"),
    ("test-options{pair=[a]}", 19, "a list of 2"),
    ("test-options{count=1 count=2}", 22, "given twice"),
    ("test-options{count=}", 20, "expected a value"),
    ("fold,,dce", 6, "the name of a pass"),
    ("fold dce", 6, "expected ','"),
    ("fold{", 6, "expected an option"),
    ("fold{bytes=[[[[[[[[[[1]]]]]]]]]]}", 21, "deeper"),
    ("fold;dce", 5, "unexpected"),
    ("O2{x=1}", 3, "takes no options"),
    ("dce{x=1}", 5, "it takes none"),
])  # fmt: skip
def test_errors_name_place_and_mend(text: str, column: int, words: str) -> None:
    with pytest.raises(ParseError, match=f"column {column}:") as caught:
        Pipeline.parse(text)
    assert words in str(caught.value)


@given(st.text(alphabet='fold{}[]=,"\\ 01.e-O2', max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(ParseError):
        Pipeline.parse(text)


def test_length_is_bounded() -> None:
    with pytest.raises(ParseError, match="longer"):
        Pipeline.parse("dce," * 20_000)
    with pytest.raises(ParseError, match="more than"):
        Pipeline.parse("dce," * 1100 + "dce")


def test_presets_mix_and_print() -> None:
    mixed = Pipeline.parse("O1,fuse-conv{shared=true}")
    assert str(mixed) == PRESETS["O1"] + ",fuse-conv{shared=true}"
    assert str(Pipeline.of(["O1", pass_class("dce")()])) == PRESETS["O1"] + ",dce"
    for name, text in PRESETS.items():
        assert Pipeline.parse(name) == Pipeline.parse(text)


def test_presets_cannot_nest_forever() -> None:
    register_preset("Loop", "dce,Loop")
    try:
        with pytest.raises(ParseError, match="deeper"):
            Pipeline.parse("Loop")
    finally:
        del PRESETS["Loop"]


def test_every_pass_prints_and_documents_itself() -> None:
    for cls in all_passes():
        made = cls()
        assert Pipeline.parse(str(made))[0] == made
        assert cls.__doc__ and len(cls.__doc__) > 20


@pytest.mark.parametrize("declare, words", [
    ({"name": "Bad_Name"}, "kebab-case"),
    ({"name": "dce"}, "declared twice"),
])  # fmt: skip
def test_bad_declarations_are_refused(declare: dict[str, str], words: str) -> None:
    cls = type("Other", (Pass,), {**declare, "__doc__": "Something."})
    with pytest.raises(ValueError, match=words):
        register_pass(cls)

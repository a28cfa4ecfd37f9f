"""Pipelines as text and as Python, each the inverse of the other.

    pipeline := item ("," item)*
    item     := preset | pass | pass "{" (option "=" value)* "}"
    value    := int | float | true | false | none | word | "string" | "[" (value ("," value)*)? "]"

A preset's name stands for its passes. Options that have their default are not printed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..ir import ParseError, TautError
from .base import Pass, near, pass_class
from .text import print_option, print_pass

MAX_TEXT = 1 << 16
MAX_PASSES = 1000
MAX_DEPTH = 8

PRESETS: dict[str, str] = {}
"""Text of each named pipeline."""


def register_preset(name: str, text: str) -> None:
    """Name a pipeline. Its text is read when it is first used. Raises ValueError if taken."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or PRESETS.get(name, text) != text:
        raise ValueError(f"{name!r} cannot name a preset")
    PRESETS[name] = text


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. `str()` gives the text that `Pipeline.parse` reads back."""

    passes: tuple[Pass, ...] = ()

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        object.__setattr__(self, "passes", tuple(passes))

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Raises ParseError with the position and, for an unknown word, the nearest ones."""
        return cls(_Parser(text, 0).pipeline())

    @classmethod
    def of(cls, what: Pipeline | Pass | str | Iterable[Pass | str | Pipeline]) -> Pipeline:
        """A pipeline of text, a pass, or a mixture of both in a list."""
        match what:
            case Pipeline():
                return what
            case Pass():
                return cls([what])
            case str():
                return cls.parse(what)
        return cls(p for part in what for p in cls.of(part))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __getitem__(self, index: int) -> Pass:
        return self.passes[index]

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(self.passes + other.passes)

    def __str__(self) -> str:
        return ",".join(print_pass(p) for p in self.passes)


def parse_pipeline(text: str) -> Pipeline:
    return Pipeline.parse(text)


# ---- parsing -----------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>[-+]?(?:inf\b|nan\b|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![A-Za-z0-9_])))
      | (?P<word>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<sign>[,{}\[\]=])""",
    re.VERBOSE,
)


class _Parser:
    def __init__(self, text: str, depth: int) -> None:
        if len(text) > MAX_TEXT:
            raise ParseError(f"the pipeline text is longer than {MAX_TEXT} characters")
        if depth > MAX_DEPTH:
            raise ParseError(f"presets are nested deeper than {MAX_DEPTH}")
        self.text, self.depth = text, depth
        self.start = self.end = 0
        self.kind = self.token = ""
        self.advance()

    def error(self, message: str, start: int | None = None) -> ParseError:
        return ParseError(f"pipeline, column {(self.start if start is None else start) + 1}: "
                          f"{message}")  # fmt: skip

    def advance(self) -> None:
        while True:
            self.start = self.end
            if self.start >= len(self.text):
                self.kind, self.token = "end", ""
                return
            match = _TOKEN.match(self.text, self.start)
            if match is None:
                raise self.error(f"unexpected {self.text[self.start : self.start + 20]!a}")
            self.end = match.end()
            if match.lastgroup != "space":
                self.kind, self.token = match.lastgroup or "", match.group()
                return

    def found(self) -> str:
        return "the end" if self.kind == "end" else ascii(self.token[:40])

    def accept(self, sign: str) -> bool:
        if self.kind == "sign" and self.token == sign:
            self.advance()
            return True
        return False

    def take(self, sign: str) -> None:
        if not self.accept(sign):
            raise self.error(f"expected {sign!r}, found {self.found()}")

    def word(self, what: str) -> str:
        if self.kind != "word":
            raise self.error(f"expected {what}, found {self.found()}")
        token = self.token
        self.advance()
        return token

    def pipeline(self) -> list[Pass]:
        out: list[Pass] = []
        while self.kind != "end":
            out += self.item()
            if len(out) > MAX_PASSES:
                raise self.error(f"more than {MAX_PASSES} passes")
            if self.kind != "end":
                self.take(",")
        return out

    def item(self) -> list[Pass]:
        start = self.start
        name = self.word("the name of a pass")
        if name in PRESETS:
            if self.token == "{":
                raise self.error(f"the preset {name} takes no options")
            return _Parser(PRESETS[name], self.depth + 1).pipeline()
        try:
            cls = pass_class(name)
        except ParseError as error:
            close = near(name, list(PRESETS)) if "mean" not in error.message else ""
            raise self.error(error.message + close, start) from None
        given = self.options(cls) if self.accept("{") else {}
        try:
            return [cls(**given)]
        except TautError as error:
            error.message = f"pipeline, column {start + 1}: {name}: {error.message}"
            raise
        except (ValueError, TypeError) as error:
            raise self.error(f"{name}: {error}", start) from error

    def options(self, cls: type[Pass]) -> dict[str, Any]:
        hints = option_types(cls)
        given: dict[str, Any] = {}
        free: dict[str, Any] = {}
        while not self.accept("}"):
            start = self.start
            key = self.word("an option or '}'")
            if key in given or key in free:
                raise self.error(f"option {key} of {cls.name} is given twice", start)
            known = key in hints and key != cls.open_options
            if not known and not cls.open_options:
                has = f"it takes {', '.join(hints)}" if hints else "it takes none"
                raise self.error(
                    f"{cls.name} has no option {key[:40]}{near(key, list(hints)) or '; ' + has}",
                    start,
                )
            self.take("=")
            value_start = self.start
            value = self.value(0)
            if not known:
                free[key] = value
                continue
            try:
                given[key] = convert(value, hints[key])
            except ValueError as error:
                raise self.error(f"option {key} of {cls.name} wants {error}", value_start) from None
        if cls.open_options:
            given[cls.open_options] = tuple(free.items())
        return given

    def value(self, depth: int) -> Any:
        if self.accept("["):
            if depth >= MAX_DEPTH:
                raise self.error(f"lists are nested deeper than {MAX_DEPTH}")
            out: list[Any] = []
            while not self.accept("]"):
                out.append(self.value(depth + 1))
                if not (self.kind == "sign" and self.token == "]"):
                    self.take(",")
            return tuple(out)
        kind, token = self.kind, self.token
        if kind == "string":
            try:
                value: Any = json.loads(token)
            except ValueError:
                raise self.error(f"bad string {token[:40]!a}") from None
        elif kind == "number":
            whole = re.fullmatch(r"[-+]?\d{1,40}", token)
            value = int(token) if whole else float(token)
        elif kind == "word":
            value = {"true": True, "false": False, "none": None, "inf": math.inf,
                     "nan": math.nan}.get(token, token)  # fmt: skip
        else:
            raise self.error(f"expected a value, found {self.found()}")
        self.advance()
        return value


@cache
def option_types(cls: type[Pass]) -> dict[str, Any]:
    """The declared type of each option."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def convert(value: Any, hint: Any) -> Any:
    """`value` as the declared type. Raises ValueError that says what is wanted."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError(f"one of {', '.join(map(str, args))}, not {print_option(value)}"
                         f"{near(str(value), [str(a) for a in args])}")  # fmt: skip
    if origin in (typing.Union, types.UnionType):
        wanted: list[str] = []
        for part in args:
            try:
                return convert(value, part)
            except ValueError as error:
                wanted.append(str(error).partition(", not ")[0])
        raise ValueError(f"{' or '.join(wanted)}, not {print_option(value)}")
    if origin is tuple:
        if not isinstance(value, tuple):
            value = (value,)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(convert(v, args[0]) for v in value)
        if len(args) != len(value):
            raise ValueError(f"a list of {len(args)}, not {print_option(value)}")
        return tuple(convert(v, a) for v, a in zip(value, args))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a word",
             type(None): "none"}  # fmt: skip
    raise ValueError(f"{names.get(hint, str(hint))}, not {print_option(value)}")

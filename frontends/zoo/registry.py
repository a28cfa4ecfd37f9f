"""The networks by name, and `zoo:NAME{argument=value ...}`, which stands for a file's name.

source := "zoo:" name ["{" (argument "=" value)* "}"]     # spaces or commas between arguments
value  := int | float | true | false | word
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...ir import Graph, ParseError, TautError, UnsupportedError
from ...ir.errors import near, show_name
from .. import ZOO_PREFIX

LARGEST = 1 << 20  # of an integer argument: far above any real model's

Build = Callable[..., Graph]


@dataclass(frozen=True)
class Entry:
    """One network: `build` makes it. `arguments` are its parameters with their defaults, where
    `preset` goes before the function's own.
    """

    name: str
    build: Build
    preset: Mapping[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        found = inspect.signature(self.build).parameters.values()
        return {p.name: self.preset.get(p.name, p.default) for p in found}

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.build) or ""


ZOO: dict[str, Entry] = {}
"""Every network by name; `entry` adds to it."""


def entry(name: str, **preset: Any) -> Callable[[Build], Build]:
    """Decorator: make a function known under a name, with these arguments by default."""

    def add(build: Build) -> Build:
        if name in ZOO:
            raise ValueError(f"the zoo has a {name} already")
        ZOO[name] = Entry(name, build, preset)
        return build

    return add


def zoo(name: str, **arguments: Any) -> Graph:
    """The network of this name, its weights drawn from `seed` (0 by default).

    Raises UnsupportedError for an unknown name or argument, ParseError for a value of the wrong
    kind, VerifyError or LimitError for sizes that make no network.
    """
    found = find(name)
    known = found.arguments
    for key, value in arguments.items():
        if key not in known:
            raise UnsupportedError(f"{name} takes no argument {show_name(key)}",
                                   hint=f"it takes {', '.join(known)}")  # fmt: skip
        arguments[key] = _fitting(key, value, known[key])
    graph = found.build(**{**found.preset, **arguments})
    graph.name = name.replace("-", "_")
    return graph


def find(name: str) -> Entry:
    """The entry of this name. Raises UnsupportedError with the nearest names."""
    if name not in ZOO:
        raise UnsupportedError(f"the zoo has no {show_name(name)}{near(name, list(ZOO))}",
                               hint="`taut zoo` lists the networks")  # fmt: skip
    return ZOO[name]


def load_zoo(source: str) -> Graph:
    """The network that `zoo:NAME{argument=value ...}` stands for. Raises as `zoo` does, with the
    source in place of a file's name.
    """
    try:
        name, arguments = _parse(source.removeprefix(ZOO_PREFIX))
        return zoo(name, **arguments)
    except TautError as error:
        raise error.with_context(file=source)


_SOURCE = re.compile(r"([A-Za-z0-9._-]{1,80})(?:\{([^{}]{0,1000})\})?\Z")
_ITEM = re.compile(r"([a-z_]{1,40})=([A-Za-z0-9_.+-]{1,40})\Z")


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    found = _SOURCE.match(text)
    if found is None:
        raise ParseError("is no network of the zoo", hint="write zoo:NAME or zoo:NAME{width=0.5}")
    arguments: dict[str, Any] = {}
    for item in (found[2] or "").replace(",", " ").split():
        parts = _ITEM.match(item)
        if parts is None or parts[1] in arguments:
            raise ParseError(f"{item!a} is no new argument", hint="write NAME=VALUE, each once")
        arguments[parts[1]] = _value(parts[2])
    return found[1], arguments


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _fitting(name: str, value: Any, default: Any) -> Any:
    """The value as the kind of the default. Raises ParseError."""
    kind = type(default)
    if kind is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if type(value) is not kind:
        raise ParseError(f"{name} wants {kind.__name__}, not {value!a:.60}")
    least = 0 if name == "seed" else 1
    if kind is int and not least <= value <= (1 << 63 if name == "seed" else LARGEST):
        raise ParseError(f"{name} is {value}, which should be {least} or more and not huge")
    if kind is float and not (math.isfinite(value) and 0 <= value <= 1000):
        raise ParseError(f"{name} is {value}, which should be 0 or more and not huge")
    return value


def divisible(channels: float, by: int = 8) -> int:
    """`channels` rounded to a multiple of `by`, at least `by` and not below 90% of it (Sandler et
    al., 2018).
    """
    made = max(by, int(channels + by / 2) // by * by)
    return made + by if made < 0.9 * channels else made

"""Passes and their options as text: what `pipeline` parses."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any


def print_pass(p: Any) -> str:
    """A pass (a dataclass) with the options that differ from their defaults."""
    given: list[str] = []
    for f in dataclasses.fields(p):
        value = getattr(p, f.name)
        if f.name == p.open_options:
            given += [f"{k}={print_option(v)}" for k, v in value]
        elif not _same(value, _default(f)):
            given.append(f"{f.name}={print_option(value)}")
    return f"{p.name}{{{' '.join(given)}}}" if given else p.name


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_RESERVED = ("true", "false", "none", "inf", "nan")


def print_option(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            plain = _WORD.match(value) and value not in _RESERVED
            return value if plain else json.dumps(value)
        case tuple():
            return "[" + ",".join(print_option(v) for v in value) + "]"
    raise TypeError(f"an option of type {type(value).__name__} has no text")


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, float) and isinstance(b, float):  # -0.0 is not 0.0, NaN is NaN
        return a.hex() == b.hex()
    return type(a) is type(b) and a == b

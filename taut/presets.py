"""The int8 preset with a user's options put in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from taut.ir import ParseError
from taut.passes import Pipeline
from taut.passes.pipeline import convert, option_types
from taut.passes.quantize.schemes import grid_class


def int8_pipeline(options: Mapping[str, Any]) -> Pipeline:
    """The `int8` preset with these options set in every pass of it that has one of that name; of
    `int8-qdq` where the scheme has no integer form.

    Raises ParseError for an option that none has, or a value of the wrong kind; PassError for a
    scheme that is not known.
    """
    unused = set(options)
    made = []
    lowers = grid_class(str(options.get("scheme", "asymmetric"))).lowers
    for p in Pipeline.parse("int8" if lowers else "int8-qdq"):
        hints = option_types(type(p))
        mine = {}
        for key in sorted(options.keys() & hints.keys()):
            try:
                mine[key] = convert(options[key], hints[key])
            except ValueError as error:
                raise ParseError(f"option {key} of {p.name} wants {error}") from error
        unused -= set(mine)
        made.append(dataclasses.replace(p, **mine))
    if unused:
        known = sorted({k for p in made for k in option_types(type(p))})
        raise ParseError(f"quantize has no option {sorted(unused)}", hint=f"it takes {known}")
    return Pipeline(made)


def option_value(text: str) -> Any:
    """`7`, `0.5`, `true`, `none`, `[1,2]` or a word, as it stands in pipeline text."""
    if text.startswith("[") and text.endswith("]"):
        return tuple(option_value(t.strip()) for t in text[1:-1].split(",") if t.strip())
    words = {"true": True, "false": False, "none": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text

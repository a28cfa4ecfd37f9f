"""Graphs of any family."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import strategies as st

from taut.ir import Graph

from .control import controls
from .dags import dags
from .families import cnns, integers, mlps, quantized
from .fusible import fusibles
from .recurrents import recurrents
from .transformers import transformers

FAMILIES: dict[str, Callable[[Iterable[str]], st.SearchStrategy[Graph]]] = {
    "mlp": lambda awkward: mlps(awkward=awkward),
    "cnn": lambda awkward: cnns(awkward=awkward),
    "dag": lambda awkward: dags(awkward=awkward),
    "fusible": lambda awkward: fusibles(awkward=awkward),
    "quantized": lambda awkward: quantized(),
    "integer": lambda awkward: integers(),
    "control": lambda awkward: controls(awkward=awkward),
    "recurrent": lambda awkward: recurrents(awkward=awkward),
    "transformer": lambda awkward: transformers(awkward=awkward),
}
"""A strategy for each family, given the awkward kinds its constants may hold."""


def graphs(*families: str, awkward: Iterable[str] = ()) -> st.SearchStrategy[Graph]:
    """Graphs of these families (all by default); shrink towards the first."""
    awkward = tuple(awkward)
    return st.one_of(*(FAMILIES[f](awkward) for f in families or FAMILIES))

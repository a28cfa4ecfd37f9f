"""The schemes that there are: every grid in `grids/`, and those that a user's code registered."""

from __future__ import annotations

from ...ir import PassError
from ...ir.errors import near
from . import grids as grids
from .grid import SCHEMES, Grid


def schemes() -> dict[str, type[Grid]]:
    """Every known scheme and its grid."""
    return dict(SCHEMES)


def grid_class(scheme: str) -> type[Grid]:
    """The grid of a scheme. Raises PassError with near misses."""
    found = SCHEMES.get(scheme)
    if found is None:
        raise PassError(f"no scheme is named {scheme[:80]!a}{near(scheme, list(SCHEMES))}",
                        hint=f"there are {', '.join(SCHEMES)}")  # fmt: skip
    return found

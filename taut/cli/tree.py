"""The command tree with every command in it."""

from __future__ import annotations

from typing import Any

import typer

from . import demo, distill, fuzz, graphs, lists, programs, training, transform  # noqa: F401
from .app import app


def command() -> Any:
    """The parsed tree, ready for `.main(args=...)`."""
    return typer.main.get_command(app)

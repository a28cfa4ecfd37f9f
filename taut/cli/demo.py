"""`demo`: the main job on a real model."""

from __future__ import annotations

from typing import Annotated

import typer

from . import common
from .app import app
from .common import AsJson, Threads


@app.command()
def demo(
    lines: Annotated[int, typer.Option(min=100, help="Labelled lines to test on.")] = 512,
    threads: Threads = None,
    json: AsJson = False,
) -> None:
    """Quantize a real text-orientation classifier and measure: accuracy, size, latency.

    The model comes out of a published package, hash-checked; its labelled text lines are drawn.
    """
    from taut.demo import run

    with common.progress("demo") as advance:
        result = run(lines=lines, threads=threads, progress=advance)
    if json:
        common.show_json(result.facts())
    else:
        common.show(*result.tables())

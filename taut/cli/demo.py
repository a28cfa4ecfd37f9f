"""`demo`: the main job on a real model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson, Threads

if TYPE_CHECKING:
    from taut.demo import Result


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
        common.show(*tables(result))


def tables(result: Result) -> list[Any]:
    """What the command prints."""
    a, b = result.float32, result.int8
    rows = [
        (f"accuracy over {result.lines} lines", f"{a.accuracy:.2%}", f"{b.accuracy:.2%}",
         f"{100 * (b.accuracy - a.accuracy):+.2f} points"),
        ("size on disk", f"{a.bytes / 1e3:.0f} kB", f"{b.bytes / 1e3:.0f} kB",
         f"{a.bytes / b.bytes:.2f}x smaller"),
        ("latency, median of " + str(a.latency.calls), f"{a.latency.median * 1e3:.3f} ms",
         f"{b.latency.median * 1e3:.3f} ms",
         f"{a.latency.median / b.latency.median:.2f}x faster"),
        ("latency, best", f"{a.latency.best * 1e3:.3f} ms", f"{b.latency.best * 1e3:.3f} ms",
         f"{a.latency.best / b.latency.best:.2f}x faster"),
        ("kernels", a.kernels, b.kernels, ""),
    ]  # fmt: skip
    columns = ("", f"float32 ({result.float_pipeline})>", "int8>", "int8 is>")
    parts: list[Any] = [
        common.table(f"{result.model} on {result.target}", *columns, rows=rows),
        common.safe(f"Both answer alike on {result.agreement:.2%} of the lines; the int8 outputs' "
             f"SQNR is {result.sqnr_db:.1f} dB."),
        common.safe(f"{result.quantized} layers with weights were quantized."),
    ]  # fmt: skip
    if result.kept_float:
        parts.append(common.table("still in floating point, and why:", "node", "op", "reason",
                           rows=result.kept_float))  # fmt: skip
    return parts

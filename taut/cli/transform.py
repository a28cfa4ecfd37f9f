"""`opt` and `quantize`: passes from the shell. The graph goes to -o, reports to stderr."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson, Batch, DataFile, Dims, Model, Pipeline, RandomCount, Seed

if TYPE_CHECKING:
    from taut.ir import Graph
    from taut.passes import Report

Names = Annotated[
    list[str] | None, typer.Option(metavar="PASS", help="A pass's name, or all; may be repeated.")
]
Written = Annotated[
    str | None,
    typer.Option("-o", "--output", help="Where to write; - (text IR on stdout) by default."),
]


@app.command()
def opt(
    model: Annotated[
        str | None,
        typer.Argument(help="A .onnx, .taut or .ir file, or zoo:NAME; - is standard input."),
    ] = None,
    pipeline: Pipeline = "O2",
    output: Written = None,
    verify_each: Annotated[
        bool, typer.Option("--verify-each/--no-verify-each", help="Verify after each pass.")
    ] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Hold each pass to its numeric bound on the data.")
    ] = False,
    time: Annotated[bool, typer.Option("--time", help="Time and memory of each pass.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="What each pass counted.")] = False,
    remarks: Annotated[
        bool, typer.Option("--remarks", help="What was done and not done, where and why.")
    ] = False,
    print_before: Names = None,
    print_after: Names = None,
    print_changed: Annotated[
        bool, typer.Option("--print-changed", help="Print the graph after each change.")
    ] = False,
    bisect_limit: Annotated[
        int | None, typer.Option(min=0, help="Stop after this many passes and rewrites.")
    ] = None,
    reproduce: Annotated[
        str | None,
        typer.Option(help="Without a model: replay this file. With one: write it on a failure."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A model's file, which the passes distill-* join.")
    ] = None,
    data: DataFile = None,
    random: RandomCount = None,
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Run passes: read a graph, write a graph, so that commands can be piped together."""
    from taut.passes import PassManager
    from taut.passes.replay import replay

    options: dict[str, Any] = {
        "verify_each": verify_each, "print_before": _which(print_before),
        "print_after": _which(print_after), "print_changed": print_changed,
        "bisect_limit": bisect_limit,
    }  # fmt: skip
    if model is None:
        if reproduce is None:
            raise typer.BadParameter("give a model, or --reproduce FILE to replay one")
        report = replay(reproduce, **options, **({"check": True} if check else {}))
    else:
        # Parsed first: a typing error should not wait for a large model.
        manager = PassManager(pipeline, check=check, reproduce=reproduce, **options)
        graph = common.load(model)
        items = common.feeds(graph, data, random, seed, dims, batch)
        report = run(manager, graph, items, seed, common.load(teacher) if teacher else None)
    _finish(report, output, json, show=time or stats, remarks=remarks)
    if bisect_limit is not None and not json:
        last = common.safe(report.last_step or "none")
        common.show(f"{report.steps} steps were taken, the last: {last}", error=True)


def run(manager: Any, graph: Graph, items: Any, seed: int, teacher: Graph | None = None) -> Report:
    """A manager over a graph, with a progress bar for the passes that tell how far they are."""
    from taut.passes import Context
    from taut.runner import CompiledRunner

    with common.progress("passes") as advance:

        def progress(done: int, total: int | None, text: str) -> None:
            advance(done, total)

        context = Context(data=items, seed=seed, progress=progress, runner=CompiledRunner(),
                          teacher=teacher)  # fmt: skip
        return manager.run(graph, context)


def _which(names: list[str] | None) -> bool | list[str]:
    return "all" in names or names if names else False


def _finish(report: Report, output: str | None, json: bool, *, show: bool, remarks: bool) -> None:
    """Tables on stderr and the graph to its place; as JSON the report has stdout to itself."""
    if output is not None or not json:
        common.write(report.graph, output or "-")
    if json:
        common.show_json(report.to_json())
        return
    tables = report.tables(remarks=remarks)
    common.show(*(tables if show else tables[1:]), error=True)


@app.command()
def quantize(
    model: Model,
    data: DataFile = None,
    random: RandomCount = None,
    output: Written = None,
    calibrate: Annotated[
        str, typer.Option(help="How ranges are found; `taut passes quantize` lists the ways.")
    ] = "percentile",
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="Of the passes.")
    ] = None,
    dims: Dims = None,
    batch: Batch = 8,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Make an int8 model with ranges measured on data; say which layers stayed float and why."""
    from taut.passes import PassManager
    from taut.presets import int8_pipeline, option_value

    given: dict[str, Any] = {"calibrate": calibrate}
    for text in option or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--option wants NAME=VALUE, not {text!a}")
        given[name] = option_value(value)
    manager = PassManager(int8_pipeline(given))
    graph = common.load(model)
    items = common.need_data(common.feeds(graph, data, random, seed, dims, batch))
    report = run(manager, graph, items, seed)
    _finish(report, output, json, show=False, remarks=False)
    if json:
        return
    missed = [(r.node, name, r.reason) for name, r in report.remarks("missed")]
    if missed:
        title = "not done, and why:"
        common.show(common.table(title, "node", "pass", "reason", rows=missed), error=True)
    if output in (None, "-"):
        return
    after = os.path.getsize(str(output))
    sizes = common.engineering(after, "B")
    if os.path.isfile(model):
        before = os.path.getsize(model)
        sizes += f", was {common.engineering(before, 'B')} ({before / after:.2f}x)"
    common.show(common.safe(f"{output}: {sizes}"), error=True)
